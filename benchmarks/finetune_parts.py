"""What random parts of the training images give a classifier on features.

Features of EfficientNet-Lite0 at 224 pixels are computed once, of whole images and of parts of
them. For each draw of so many images per class a logistic regression is fitted to the whole images,
and to them and 1, 2 or 4 parts of each; all other images of the folder test it. C is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.core.files import write_csv
from bench.results.intervals import Observation, estimate
from benchmarks.finetune_cells import ROOT, images_by_class

CSV = ROOT / "results" / "benchmarks" / "finetune-parts.csv"
SIZES, DRAWS = (20, 50, 100, 0), 12
PARTS = (0, 1, 2, 4)
ALL_SHARE = 0.8
"""Of each class that is drawn where all images are asked for."""
_C = 1.0


def run(options: argparse.Namespace) -> None:
    """Measures the folders anew and writes the table."""
    rows: list[Mapping[str, str]] = []
    for folder in options.folders:
        rows += measured(folder.resolve(), options.per_class, options.draws)
        write_csv(options.csv, rows)
        print(*(f"{line}" for line in section(rows).splitlines()[5:]), sep="\n", flush=True)


def measured(folder: Path, sizes: Sequence[int], draws: int) -> list[Mapping[str, str]]:
    """A row for each number of images per class, draw and number of parts."""
    from bench.methods.features.solvers import fit_in_memory

    x, labels = features(folder)
    classes = int(labels.max()) + 1
    rows: list[Mapping[str, str]] = []
    for size in sizes:
        for draw in range(draws):
            drawn = chosen(labels, size, np.random.default_rng([draw, size]))
            others = np.setdiff1d(np.arange(len(labels)), drawn)
            for parts in PARTS:
                given = np.concatenate([x[view, drawn] for view in range(1 + parts)])
                known = np.tile(labels[drawn], 1 + parts)
                c = _C / (1 + parts)
                linear = fit_in_memory(given, known, classes, loss="logistic", c=c, max_iter=1000)
                right = linear.scores(x[0, others]).argmax(1) == labels[others]
                row = {"folder": folder.name, "per_class": str(size or "all"), "draw": str(draw)}
                share = len(drawn) / len(labels)
                row |= {"share": f"{share:.4f}", "parts": str(parts)}
                rows.append(row | {"accuracy": f"{right.mean():.5f}"})
    return rows


def chosen(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """So many images of each class, at most `ALL_SHARE` of it; as many as that where it is 0."""
    found = []
    for label in range(int(labels.max()) + 1):
        own = rng.permutation(np.flatnonzero(labels == label))
        most = int(ALL_SHARE * len(own))
        found.append(own[: min(size or most, most)])
    return np.concatenate(found)


def features(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(1 + 4, N, D) of whole images and four parts of each, and (N,) labels."""
    import torch

    from bench.data.files.decode import decode
    from bench.methods.features.linear_probe import penultimate_features
    from bench.models import layers
    from bench.models.published import PACKAGES, check_package
    from bench.models.weights import file_sha256, load_state
    from bench.specs.run import FromFile, ModelSpec
    from bench.training.domain import Domain
    from bench.training.process import prepare

    prepare(1)
    name = "efficientnet-lite0"
    path = check_package(name, PACKAGES[name].model)
    init = FromFile(path=str(path), sha256=file_sha256(path), package=name)
    network = layers.create(ModelSpec(name=PACKAGES[name].model), 1000, seed=0)
    network.load_state_dict(load_state(init, PACKAGES[name].model), strict=False)
    paths = [(n, p) for n, of in enumerate(images_by_class(folder).values()) for p in of]
    pixels = np.stack([decode(path.read_bytes(), 256) for _, path in paths])
    labels = np.array([number for number, _ in paths])
    half = (0.5, 0.5, 0.5)
    domain = Domain(folder.name, pixels, labels, int(labels.max()) + 1, half, half, crop=224)
    x = penultimate_features(network.eval(), domain, torch.device("cpu"), None, max(PARTS))
    return x.reshape(1 + max(PARTS), len(labels), -1), labels


def section(rows: Sequence[Mapping[str, str]]) -> str:
    """The gains as a section of the page; empty without rows."""
    if not rows:
        return ""
    lines = [
        "",
        "## Random parts of images",
        "",
        "Made from `results/benchmarks/finetune-parts.csv`, which `python -m benchmarks.finetune "
        "parts FOLDER …` writes, see `benchmarks/finetune_parts.py`. Top-1 % of a logistic "
        "regression on whole images, and what it gains in points by 1, 2 and 4 random parts of "
        "each training image, paired by draw, with a 95 % interval (Student's t, corrected for "
        "training draws that overlap).",
        "",
        "| photographs | per class | draws | whole images | "
        + " | ".join(f"{n} part{'s' * (n > 1)}" for n in PARTS[1:])
        + " |",
        "| --- " * (4 + len(PARTS) - 1) + "|",
    ]
    groups: dict[tuple[str, str], dict[tuple[str, str], Mapping[str, str]]] = {}
    for row in rows:
        group = groups.setdefault((row["folder"], row["per_class"]), {})
        group[row["parts"], row["draw"]] = row
    for (folder, per_class), found in groups.items():
        draws = sorted({draw for _, draw in found}, key=int)
        whole = [100 * float(found["0", draw]["accuracy"]) for draw in draws]
        cells = [folder, per_class, str(len(draws)), f"{np.mean(whole):.1f}"]
        for parts in PARTS[1:]:
            gains = [
                Observation(
                    folder,
                    draw,
                    100 * float(found[str(parts), draw]["accuracy"]) - before,
                    overlap=float(found["0", draw]["share"]),
                )
                for draw, before in zip(draws, whole, strict=True)
            ]
            e = estimate(gains)
            bounds = "" if e.low is None else f" ({e.low:+.1f} to {e.high:+.1f})"
            cells.append(f"{e.value:+.1f}{bounds}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
