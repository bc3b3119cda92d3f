"""What the four papers leave open, and how it is read here: the question, the option, the default.

Method options and `train:` options stand in each record and, where a row's method has any, in the
leaderboard's `method_options`. Options of measurements are arguments of the functions named.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ambiguity:
    """One point that a paper leaves open.

    Attributes:
        id: as in the register: paper, then number; CROSS for what concerns several.
        question: what is open.
        option: where to choose.
        default: what is chosen unless said otherwise.
    """

    id: str
    question: str
    option: str
    default: str


AMBIGUITIES: tuple[Ambiguity, ...] = tuple(
    Ambiguity(*row)
    for row in (
        (
            "CROSS-1",
            "test images may be among the source's images (Stanford Dogs is cut from ImageNet)",
            "column source_test_overlap; borrow: {exclude_overlap: true}",
            "counted by content in every row, and kept",
        ),
        (
            "CROSS-2",
            "batch-norm statistics in joint training and in frozen layers",
            "method: {batch_norm: joint | separate | frozen}",
            "joint; frozen layers never update theirs",
        ),
        (
            "CROSS-3",
            "± is a variance or a standard deviation",
            "columns METRIC_std, METRIC_low, METRIC_high",
            "sample standard deviation (ddof 1); intervals beside it",
        ),
        (
            "CROSS-4",
            "optimiser, schedule and batch size are not stated",
            "train: and pretrain:",
            "what the grid says; every value stands in the record",
        ),
        ("SFT-A1", "whether epochs count from 0 or 1", "method: {epoch_base: 0 | 1}", "0"),
        (
            "SFT-A2",
            "training identities P021–P060 (40) against a 60-way classifier",
            "classes: of the grid",
            "P021–P080",
        ),
        (
            "SFT-A3",
            "a batch of 32 pairs, or of 32 images",
            "train.batch_size counts target images",
            "pairs: as many source images again",
        ),
        (
            "SFT-A4",
            "stop soon after α is 1, or 40 epochs later",
            "method: {ramp_epochs: …}, train.epochs; best_epoch is reported",
            "the numbers of the paper's table",
        ),
        ("SFT-A5", "14M, 98M, 164M", "none", "file sizes in MB, no parameter counts"),
        (
            "SFT-A6",
            "the source classifier when a tenth of the categories is kept",
            "method: {reindex: true | false}",
            "soft keeps all outputs (false)",
        ),
        (
            "SFT-A7",
            "the source classifier: the parent's (SFT) or random (GE)",
            "method: {source_head: kept | random}",
            "soft: kept; joint and selective: random",
        ),
        (
            "GE-A1",
            "KL divergence of histograms with empty bins",
            "method: {epsilon: …}",
            "2.2204e-16 added to every share",
        ),
        ("GE-A2", "the number of bins", "method: {bins: …}", "100"),
        (
            "GE-A3",
            "responses before or after the activation",
            "method: {stage: pre | post}",
            "before (pre)",
        ),
        (
            "GE-A4",
            "five iterations are five rounds or five updates; how large K may grow",
            "method: {rounds: …, stored: …}",
            "five rounds, four updates; at most the neighbours stored",
        ),
        (
            "GE-A5",
            "weights of the two losses",
            "method: {source_weight: …, target_weight: …}",
            "1 : 1",
        ),
        (
            "GE-A6",
            "5.1 in the text, 5.2 in the table; 92.3 in the paper, 90.2 on its code page",
            "analysis/papers/published.csv, column note",
            "the paper's table",
        ),
        (
            "GE-A7",
            "how many images the random source has",
            "borrow: {total_images: …}",
            "the size of the last union",
        ),
        (
            "LI-A1",
            "which classes make 451, 549, 347 and 202",
            "classes: {rule: first_pointer | closure | longest_path}",
            "natural and man-made; first hypernym pointer",
        ),
        (
            "LI-A2",
            "Table 1's parameters omit input channels; 26.61 is a misprint",
            "analysis/papers/published.csv, column note",
            "as printed; 28.61",
        ),
        (
            "LI-A3",
            "the source of 1000 classes contains the target",
            "none",
            "shown, and left out of trends",
        ),
        (
            "LI-A4",
            "ties in average precision and in sensitivity",
            "analysis.measurements.filters: interpolation, ties_percentage",
            "equal scores enter together; strictly better, ties counted apart",
        ),
        (
            "LI-A5",
            "intermediate numbers of images, drawn only",
            "axes: target.images_per_class",
            "30 · 2^k, 960 and 1200 in grids/papers",
        ),
        (
            "LI-A6",
            "1200 or 1300 images per class",
            "target.images_per_class, on_short",
            "what the class has, 1200 at most",
        ),
        (
            "CHU-A1",
            "the printed cosine lacks square roots",
            "analysis.measurements.set_distances.cosine(formula=…)",
            "divided by both norms",
        ),
        (
            "CHU-A2",
            "40 or 30 experiments on 500 ImageNet classes",
            "axes: pattern",
            "30: three depths, tuned and frozen",
        ),
        (
            "CHU-A3",
            "CUB has fewer than 35 + 2 images per class",
            "on_short: error | cap | drop_class",
            "error, and what to write instead",
        ),
        (
            "CHU-A4",
            "all four distances give one ordering",
            "finding CHU-C5",
            "tested: false for the linear SVM as published",
        ),
        (
            "CHU-A5",
            "cells of the advice table without or with one experiment",
            "analysis.papers.chu2016_bands.printed_evidence",
            "counts are printed beside the advice",
        ),
        (
            "CHU-A6",
            "0.2 and 0.4 are in two bands each",
            "analysis.papers.chu2016_bands.DISTANCE_EDGES",
            "half-open: 0.2 is medium, 0.4 is large",
        ),
    )
)
"""The register, in the papers' order."""
