"""Claims of "Multifaceted Analysis of Fine-Tuning in Deep Model for Visual Recognition" (2019) on
accuracies, as predicates: LI-C1 to LI-C9. Those on layers and filters are in `findings_layers.py`.

Figs. 4 and 12 to 14 are only drawn, so claims that rest on them cannot be tested on published
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from analysis import arms, published
from analysis.board import FACTORS, PATTERN_FACTORS, SEEDS, SOURCE_FACTORS, key_of, pair, summarise
from analysis.evidence import (
    FAILS,
    HOLDS,
    Claim,
    Evidence,
    Part,
    difference,
    equivalent,
    judge,
    missing,
    ordered,
    slope,
    trend,
)

__all__ = ["CLAIMS"]

_PAPER = "li-2019"
_SIZES = ("80", "100", "200", "500", "800")
_FROM_SCRATCH = (*SOURCE_FACTORS, *PATTERN_FACTORS)
_SEEDED = "seed: [0, 1, 2]"
_CATEGORIES = (
    "sources of {recipe: categories, n: …} for three or more n (1000 would contain the target)"
)


def _table_2(row: str, column: str = "Accuracy mean") -> float:
    return published.value(_PAPER, "Table 2", row, column)


def _table_3(row: str, column: str) -> float:
    return published.value(_PAPER, "Table 3", row, column)


def _drawn(figure: str, *names: str) -> list[Part]:
    return [missing(name, f"{figure} is only drawn, its values are not printed") for name in names]


def _done(evidence: Evidence, rows: pd.Series[bool]) -> pd.DataFrame:
    """Finished runs among the rows, with their seed in one word."""
    b = evidence.board
    done = b[rows & (b["status"] == "done") & b["top1_accuracy"].notna()].copy()
    done["seed"] = key_of(done, SEEDS) if len(done) else []
    done["points"] = 100 * done["top1_accuracy"].astype(float)
    return done


def _same(*varied: str) -> list[str]:
    """The factors that are held fixed when some vary."""
    return [name for name in FACTORS if name not in varied]


# --- LI-C1 to C3: how many source classes ---


def _c1_published() -> list[Part]:
    accuracies = [_table_2(size) for size in _SIZES]
    part = trend("accuracy rises with source classes", [float(s) for s in _SIZES], accuracies)
    left_out = "1000 is left out: that source contains the target classes"
    return [replace(part, detail=f"{part.detail}; {left_out}")]


def _of_categories(evidence: Evidence) -> pd.Series[bool]:
    b = evidence.board
    named = b["source"].map(lambda s: isinstance(s, str) and "categories" in s)
    return arms.fine_tuned(b) & named.astype(bool)


def _c1_runs(evidence: Evidence) -> list[Part]:
    frame = _done(evidence, _of_categories(evidence))
    return [
        slope(
            "accuracy rises with source classes",
            frame,
            "source_classes",
            "points",
            f"{_CATEGORIES}, {_SEEDED}",
            within=_same(*SOURCE_FACTORS),
        )
    ]


def _c2_published() -> list[Part]:
    rows = {"scratch - 80 classes": (_table_2("Scratch"), _table_2("80"))}
    return [ordered("too few source classes are worse than scratch", rows)]


def _c2_runs(evidence: Evidence) -> list[Part]:
    name = "too few source classes are worse than scratch"
    needed = f"{_CATEGORIES}, the smallest not above the target's, and source: none; {_SEEDED}"
    b, few = evidence.board, _of_categories(evidence)
    sizes = b.loc[few, "source_classes"].dropna()
    if sizes.empty:
        return [missing(name, "no source of random categories", needed)]
    smallest = few & (b["source_classes"] == sizes.min())
    part = difference(evidence, name, arms.scratch(b), smallest, _FROM_SCRATCH, needed)
    return [replace(part, detail=f"{int(sizes.min())} source classes; {part.detail}")]


def _c3_published() -> list[Part]:
    gap = _table_2("SF-FT") - _table_2("Scratch")
    spread = _table_2("Scratch", "Accuracy spread")
    detail = f"difference {gap:.2f}, printed spread of scratch {spread:g}"
    verdict = HOLDS if abs(gap) < spread else FAILS
    return [Part("self ≈ scratch", verdict, gap, n=5, counted="run", detail=detail)]


def _c3_runs(evidence: Evidence) -> list[Part]:
    b = evidence.board
    again = arms.fine_tuned_again(b)
    needed = "source: self and source: none with three or more seeds or class draws"
    return [equivalent(evidence, "self ≈ scratch", again, arms.scratch(b), _FROM_SCRATCH, needed)]


# --- LI-C4: distance of source and target ---


def _c4_published() -> list[Part]:
    rows = [(t, k) for t in ("DOG", "INSTRU") for k in ("CNN", "SVM")]
    near = {f"{t} {k}": _table_3(f"{t} / {k}", f"near_{t}") for t, k in rows}
    far = {f"{t} {k}": _table_3(f"{t} / {k}", f"far_{t}") for t, k in rows}
    none = {f"{t} {k}": _table_3(f"{t} / {k}", "scratch") for t, k in rows}
    gaps = {}
    for t in ("DOG", "INSTRU"):
        before = [_table_3(f"{t} / SVM", f"{s}_{t} (before fine-tuning)") for s in ("near", "far")]
        gaps[f"{t} SVM"] = before[0] - before[1], near[f"{t} SVM"] - far[f"{t} SVM"]
    return [
        ordered("near > far", {key: (near[key], far[key]) for key in near}),
        ordered("far > scratch", {key: (far[key], none[key]) for key in far}),
        ordered("the gap near - far is larger before fine-tuning", gaps),
    ]


def _near_far(
    evidence: Evidence, rows: pd.Series[bool], metric: str = "top1_accuracy"
) -> pd.DataFrame:
    """Pairs near - far among the rows, `points` their difference."""
    b = evidence.board
    near, far = rows & arms.source_is(b, "near"), rows & arms.source_is(b, "far")
    frame = pair(b, near, far, SOURCE_FACTORS, metric, evidence.lr_rule(near | far)).frame
    return frame.assign(points=100 * frame["difference"])


def _change(name: str, before: pd.DataFrame, after: pd.DataFrame, needed: str) -> Part:
    """Mean of `points` before less after, over what both have: task, seed, images per class."""
    keys = ["task", "seed", "model", "n_per_class"]
    sides = [f.groupby(keys, dropna=False)["points"].mean() for f in (before, after) if len(f)]
    if len(sides) < 2:
        return missing(name, "one side has no pairs", needed)
    both = (sides[0] - sides[1]).dropna().reset_index(name="effect")
    if both.empty:
        return missing(name, "no task and seed with both", needed)
    return judge(name, summarise(both, "effect", name), needed, f"{len(both)} conditions")


def _c4_runs(evidence: Evidence) -> list[Part]:
    b = evidence.board
    tuned = arms.fine_tuned(b)
    near, far = tuned & arms.source_is(b, "near"), tuned & arms.source_is(b, "far")
    runs = f"source: [near, far, none], pattern: tune (scratch for none), {_SEEDED}"
    frozen = f"source: [near, far], pattern: [tune, freeze], {_SEEDED}"
    svm, frozen_runs = (_near_far(evidence, rows) for rows in arms.frozen_features(b))
    before = frozen_runs if svm.empty else svm
    return [
        difference(evidence, "near > far", near, far, SOURCE_FACTORS, runs),
        difference(evidence, "far > scratch", far, arms.scratch(b), _FROM_SCRATCH, runs),
        _change(
            "the gap near - far is larger before fine-tuning",
            before,
            _near_far(evidence, tuned),
            frozen,
        ),
    ]


# --- LI-C5: the learning rate ---

_BEST_LR = 0.001


def _c5_published() -> list[Part]:
    return _drawn("Fig. 4", "0.001 is best", "larger learning rate, smaller training loss")


def _c5_runs(evidence: Evidence) -> list[Part]:
    b, tuned = evidence.board, arms.fine_tuned(evidence.board)
    needed = f"train.lr: [0.0001, 0.001, 0.01] or more around 0.001, {_SEEDED}"
    loss = "larger learning rate, smaller training loss"
    rates = sorted(set(b.loc[tuned, "lr"].dropna()))
    parts = []
    at_best = (b["lr"] - _BEST_LR).abs() < 1e-12
    if not any(r < _BEST_LR * 0.99 for r in rates) or not any(r > _BEST_LR * 1.01 for r in rates):
        tried = ", ".join(f"{r:g}" for r in rates) or "none"
        parts.append(missing("0.001 is best", f"learning rates tried: {tried}", needed))
    else:
        equal_rates = replace(evidence, lr="same")
        for rate in rates:
            if abs(rate - _BEST_LR) > 1e-12:
                other = tuned & (b["lr"] == rate)
                name = f"0.001 > {rate:g}"
                parts.append(difference(equal_rates, name, tuned & at_best, other, ("lr",), needed))
    if "train_loss" not in b.columns:
        return [*parts, missing(loss, "the leaderboard has no train_loss", needed)]
    frame, fixed = _done(evidence, tuned), _same("lr")
    unit = "nats per doubling"
    return [*parts, slope(loss, frame, "lr", "train_loss", needed, False, True, unit, fixed)]


# --- LI-C6, C7: images per class and classes of the target ---


def _c6_published() -> list[Part]:
    return _drawn("Fig. 12", "near - scratch falls with n", "near - far falls with n")


def _c6_runs(evidence: Evidence) -> list[Part]:
    b, tuned = evidence.board, arms.fine_tuned(evidence.board)
    needed = f"images_per_class: [three or more], source: [near, far, none], {_SEEDED}"
    parts = []
    for name in ("near", "far"):
        arm = tuned & arms.source_is(b, name)
        rule = evidence.lr_rule(arm | arms.scratch(b))
        frame = pair(b, arm, arms.scratch(b), _FROM_SCRATCH, lr=rule).frame
        frame = frame.assign(points=100 * frame["difference"])
        title = f"{name} - scratch falls with n"
        parts.append(slope(title, frame, "n_per_class", "points", needed, rising=False))
    both = _near_far(evidence, tuned)
    title = "near - far falls with n"
    return [*parts, slope(title, both, "n_per_class", "points", needed, rising=False)]


def _c7_published() -> list[Part]:
    return _drawn("Fig. 12", "fewer target classes, higher accuracy")


def _c7_runs(evidence: Evidence) -> list[Part]:
    frame = _done(evidence, arms.fine_tuned(evidence.board))
    if "target_classes" not in frame.columns:
        frame = frame.assign(target_classes=math.nan)
    # The label of a smaller target differs ("… take 40"): what is one task is wider here.
    frame["task"] = frame["dataset"].astype(str) + " " + key_of(frame, ["class_draw"])
    return [
        slope(
            "fewer target classes, higher accuracy",
            frame,
            "target_classes",
            "points",
            f"targets with take: [three or more numbers of classes], {_SEEDED}",
            rising=False,
            within=_same("target", "target_classes"),
        )
    ]


# --- LI-C8: how many layers to freeze ---


def _c8_published() -> list[Part]:
    return _drawn("Fig. 13", "tuning all layers is best", "near loses less than far by freezing")


def _c8_runs(evidence: Evidence) -> list[Part]:
    b = evidence.board
    needed = f'pattern: [tune, "F(1-3)T(4-7)R(8)", freeze] for source: [near, far], {_SEEDED}'
    frozen, tuned = arms.layers_frozen(b), arms.fine_tuned(b)
    parts = []
    for depth in sorted({int(n) for n in b.loc[frozen, "frozen"]}):
        some = frozen & (b["frozen"] == depth)
        name = f"tuning all layers > freezing {depth}"
        parts.append(difference(evidence, name, tuned, some, PATTERN_FACTORS, needed))
    if not parts:
        parts.append(missing("tuning all layers is best", "no run with frozen layers", needed))
    name = "near loses less than far by freezing"
    gap_frozen, gap_tuned = _near_far(evidence, frozen), _near_far(evidence, tuned)
    # near loses less than far: the gap near - far is larger with layers frozen.
    return [*parts, _change(name, gap_frozen, gap_tuned, needed)]


# --- LI-C9: augmentation ---


def _c9_published() -> list[Part]:
    return _drawn("Fig. 14", "augmentation helps scratch", "it helps scratch more than fine-tuning")


def _c9_runs(evidence: Evidence) -> list[Part]:
    b = evidence.board
    needed = f"train.expand_to: [null, N] for source: [near, none], {_SEEDED}"
    with_, without = b["expand_to"].notna(), b["expand_to"].isna()
    gains = []
    for arm in (arms.scratch(b), arms.fine_tuned(b)):
        frame = pair(b, arm & with_, arm & without, ("expand_to",), lr=evidence.lr_rule(arm)).frame
        gains.append(frame.assign(points=100 * frame["difference"]))
    scratch, more = "augmentation helps scratch", "it helps scratch more than fine-tuning"
    if gains[0].empty:
        helps = missing(scratch, "no scratch run with and without expansion", needed)
    else:
        helps = judge(scratch, summarise(gains[0], "points", scratch), needed)
    return [helps, _change(more, gains[0], gains[1], needed)]


CLAIMS: Sequence[Claim] = (
    Claim("LI-C1", _PAPER, "more source classes, better fine-tuning", _c1_published, _c1_runs),
    Claim(
        "LI-C2", _PAPER, "a source of too few classes is worse than none", _c2_published, _c2_runs
    ),
    Claim(
        "LI-C3",
        _PAPER,
        "fine-tuning from the target itself is about scratch",
        _c3_published,
        _c3_runs,
    ),
    Claim(
        "LI-C4",
        _PAPER,
        "near source > far source > scratch; the gap is larger before fine-tuning",
        _c4_published,
        _c4_runs,
    ),
    Claim(
        "LI-C5",
        _PAPER,
        "learning rate 0.001 is best; larger rates end at smaller training loss",
        _c5_published,
        _c5_runs,
    ),
    Claim(
        "LI-C6",
        _PAPER,
        "the gain of pre-training, and near over far, falls with images per class",
        _c6_published,
        _c6_runs,
    ),
    Claim("LI-C7", _PAPER, "fewer target classes, higher accuracy", _c7_published, _c7_runs),
    Claim(
        "LI-C8",
        _PAPER,
        "tuning all layers is best; a near source loses less by freezing",
        _c8_published,
        _c8_runs,
    ),
    Claim(
        "LI-C9",
        _PAPER,
        "augmentation helps scratch much, fine-tuning little",
        _c9_published,
        _c9_runs,
    ),
)
