"""Claims of "Multifaceted Analysis of Fine-Tuning in Deep Model for Visual Recognition" (2019) on
accuracies: LI-C1 to LI-C9. Those on layers and filters are in `li2019_layers.py`.

Figs. 4 and 12 to 14 are only drawn, so claims that rest on them cannot be tested on published
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import LrRule, comparisons, own_rates
from analysis.comparisons.units import combined, repetitions, summarise
from analysis.findings.parts import (
    FAILS,
    HOLDS,
    Part,
    claim,
    difference,
    drawn,
    equivalent,
    for_each,
    judge,
    missing,
    near_and_far,
    numbered,
    ordered,
    slope,
    trend,
)
from analysis.leaderboard import arms
from analysis.leaderboard.read import (
    COPIED,
    LOSS,
    PATTERN,
    SEEDS,
    SIZES,
    SOURCE,
    finished,
    key_of,
    repetition,
    varies,
    varying,
)
from analysis.papers import published
from analysis.statistics.decisions import hypothesis_name

_PAPER = "li-2019"
_claim = partial(claim, _PAPER)
_SIZES = ("80", "100", "200", "500", "800")
_SEEDED = "seed: [0, 1, 2]"
_CATEGORIES = (
    "sources of {recipe: categories, n: …} for three or more n (1000 would contain the target)"
)


def _table_2(row: str, column: str = "Accuracy mean") -> float:
    return published.value(_PAPER, "Table 2", row, column)


def _table_3(row: str, column: str) -> float:
    return published.value(_PAPER, "Table 3", row, column)


def _against_scratch(evidence: Evidence, left: pd.Series[bool]) -> tuple[str, ...]:
    """What varies between an arm and training from scratch; each may have a rate of its own."""
    scratch = arms.scratch(evidence.board)
    rule = evidence.lr_rule(left | scratch)
    return (*SOURCE, *PATTERN, *COPIED, *own_rates(evidence.board, left, scratch, rule))


def _done(evidence: Evidence, rows: pd.Series[bool]) -> pd.DataFrame:
    """Runs with an outcome among the rows, in points."""
    b = evidence.board
    done = b[rows & finished(b)]
    away = (done["status"] == "diverged").astype(int)
    return done.assign(points=100 * done["top1_accuracy"].astype(float), diverged=away)


def _same(board: pd.DataFrame, *varied: str) -> list[str]:
    """The settings that are held fixed when some vary, without what names the task or the size.

    A slope is within a task; of each setting but the size there is a part of its own.
    """
    task = ("dataset", "target", "target.root", "target.classes.*", "target.options.*")
    of_task = ("source.classes.root", "source.classes.target_n", "source.dataset", "source.root")
    return [
        name
        for name in varying(board)
        if not (varies(name, (*varied, *task, *of_task)) or repetition(name))
    ]


# --- LI-C1 to C3: how many source classes ---


def _c1_published() -> list[Part]:
    accuracies = [_table_2(size) for size in _SIZES]
    part = trend("accuracy rises with source classes", [float(s) for s in _SIZES], accuracies)
    left_out = "1000 is left out: that source contains the target classes"
    return [replace(part, detail=f"{part.detail}; {left_out}")]


def _of_categories(evidence: Evidence) -> pd.Series[bool]:
    b = evidence.board
    random = b["source_side"] == "source"
    if "source.classes.recipe" in b.columns:
        random |= b["source.classes.recipe"] == "categories"
    return arms.fine_tuned(b) & random & (b["source_links"] == 1)


@_claim("LI-C1", "more source classes, better fine-tuning", _c1_published)
def c1(evidence: Evidence) -> list[Part]:
    frame = _done(evidence, _of_categories(evidence))
    # The seeds of the sources differ with the source; a repetition is one of the target's seeds.
    return slope(
        "accuracy rises with source classes",
        frame.assign(seed=_own_seeds(frame)),
        "source_classes",
        "points",
        f"{_CATEGORIES}, {_SEEDED}",
        evidence.rules,
        within=_same(evidence.board, *SOURCE),
    )


def _own_seeds(frame: pd.DataFrame) -> pd.Series[str]:
    return key_of(frame, SEEDS) if len(frame) else pd.Series(dtype=object)


def _c2_published() -> list[Part]:
    rows = {"scratch - 80 classes": (_table_2("Scratch"), _table_2("80"))}
    return [ordered("too few source classes are worse than scratch", rows)]


@_claim("LI-C2", "a source of too few classes is worse than none", _c2_published)
def c2(evidence: Evidence) -> list[Part]:
    name = "too few source classes are worse than scratch"
    needed = f"{_CATEGORIES}, the smallest not above the target's, and source: none; {_SEEDED}"
    b, few = evidence.board, _of_categories(evidence)
    sizes = b.loc[few, "source_classes"].dropna()
    if sizes.empty:
        return [missing(name, "no source of random categories", needed)]
    smallest = few & (b["source_classes"] == sizes.min())
    vary = _against_scratch(evidence, smallest)
    parts = difference(evidence, name, arms.scratch(b), smallest, vary, needed)
    said = f"{int(sizes.min())} source classes"
    return [replace(part, detail=f"{said}; {part.detail}") for part in parts]


def _c3_published() -> list[Part]:
    gap = _table_2("SF-FT") - _table_2("Scratch")
    spread = _table_2("Scratch", "Accuracy spread")
    detail = f"difference {gap:.2f}, printed spread of scratch {spread:g}"
    verdict = HOLDS if abs(gap) < spread else FAILS
    return [Part("self ≈ scratch", verdict, effect=gap, n=5, counted="run", detail=detail)]


@_claim("LI-C3", "fine-tuning from the target itself is about scratch", _c3_published)
def c3(evidence: Evidence) -> list[Part]:
    b = evidence.board
    again = arms.fine_tuned_again(b)
    needed = "source: self and source: none with three or more seeds or class draws"
    vary = _against_scratch(evidence, again)
    return equivalent(evidence, "self ≈ scratch", again, arms.scratch(b), vary, needed)


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
    frame = evidence.pairs(near, far, SOURCE, metric).frame
    return frame.assign(points=100 * frame["difference"])


def _change(
    evidence: Evidence,
    name: str,
    before: pd.DataFrame,
    after: pd.DataFrame,
    vary: Sequence[str],
    needed: str,
) -> list[Part]:
    """Mean of `points` before less after, where all settings but those in `vary` are equal.

    Args:
        before, after: pairs with `points`; both of a repetition must be there.
    """
    if before.empty or after.empty:
        return [missing(name, "one side has no pairs", needed)]
    best = "best" in {*before["lr_rule"], *after["lr_rule"]}
    free = (*vary, "lr") if best else tuple(vary)
    held = [n for n in varying(evidence.board) if not varies(n, free) and not repetition(n)]
    both = _both_sides(before, after, held)
    if both.empty:
        return [missing(name, "no task and seed with both", needed)]
    groups = list(comparisons(both, "kind"))

    def make(named: str, group: pd.DataFrame) -> Part:
        e = summarise(group, "effect", name, "given")
        pairs = hypothesis_name(group, f"change {name} {group['kind'].iloc[0]}")
        text = f"{len(group)} pairs of differences"
        return judge(named, e, needed, evidence.rules, pairs, text)

    return for_each(name, groups, numbered(groups), make)


def _both_sides(before: pd.DataFrame, after: pd.DataFrame, held: Sequence[str]) -> pd.DataFrame:
    """`effect`, points before less after, for each repetition that both have: kind, task, seed.

    The pairs of one kind are of one comparison before and of one after.
    """
    sides: list[dict[Any, dict[str, list[dict[Any, Any]]]]] = [{}, {}]
    for side, frame in zip(sides, (before, after), strict=True):
        # The seeds of sources belong to the sides; a repetition is one of the target's own seeds.
        keys = zip(frame["task"], key_of(frame, SEEDS), key_of(frame, held), strict=True)
        for key, row in zip(keys, repetitions(frame, "comparison", "points"), strict=True):
            of = side.setdefault(key, {}).setdefault(str(row["comparison"]), [])
            of.append(row)
    found = []
    for key in sorted(sides[0].keys() & sides[1].keys()):
        for first, second in product(*(sorted(side[key]) for side in sides)):
            groups = sides[0][key][first], sides[1][key][second]
            rows = [*groups[0], *groups[1]]
            weights = [sign / len(g) for sign, g in zip((1, -1), groups, strict=True) for _ in g]
            effect = sum(w * float(row["points"]) for w, row in zip(weights, rows, strict=True))
            found.append(
                dict(zip(("task", "seed", "size"), key, strict=True))
                | {"kind": f"{first} / {second}", "effect": effect}
                | {"diverged": sum(int(row["diverged"]) for row in rows)}
                | combined(rows, weights, "difference", 100.0)
            )
    return pd.DataFrame(found)


@_claim(
    "LI-C4",
    "near source > far source > scratch; the gap is larger before fine-tuning",
    _c4_published,
)
def c4(evidence: Evidence) -> list[Part]:
    b = evidence.board
    tuned = arms.fine_tuned(b)
    near, far = tuned & arms.source_is(b, "near"), tuned & arms.source_is(b, "far")
    runs = f"source: [near, far, none], pattern: tune (scratch for none), {_SEEDED}"
    frozen = f"source: [near, far], pattern: [tune, freeze], {_SEEDED}"
    runs, frozen = (near_and_far(evidence, needed) for needed in (runs, frozen))
    svm, frozen_runs = (_near_far(evidence, rows) for rows in arms.frozen_features(b))
    before = frozen_runs if svm.empty else svm
    # An SVM has no rate, schedule or augmentation of its own: with it, they are not held.
    trained = ("train.*", "lr", "weight_decay", "epochs", "batch_size", *COPIED)
    vary = PATTERN if svm.empty else (*PATTERN, *LOSS, *trained)
    return [
        *difference(evidence, "near > far", near, far, SOURCE, runs),
        *difference(
            evidence, "far > scratch", far, arms.scratch(b), _against_scratch(evidence, far), runs
        ),
        *_change(
            evidence,
            "the gap near - far is larger before fine-tuning",
            before,
            _near_far(evidence, tuned),
            vary,
            frozen,
        ),
    ]


# --- LI-C5: the learning rate ---

_BEST_LR = 0.001


@_claim(
    "LI-C5",
    "learning rate 0.001 is best; larger rates end at smaller training loss",
    drawn("Fig. 4", "0.001 is best", "larger learning rate, smaller training loss"),
)
def c5(evidence: Evidence) -> list[Part]:
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
                parts += difference(equal_rates, name, tuned & at_best, other, ("lr",), needed)
    if "train_loss" not in b.columns:
        return [*parts, missing(loss, "the leaderboard has no train_loss", needed)]
    frame, fixed = _done(evidence, tuned), _same(b, "lr")
    frame = frame[frame["status"] == "done"]  # the loss of a run that diverged is no number
    rules = evidence.rules
    return [*parts, *slope(loss, frame, "lr", "train_loss", needed, rules, False, fixed)]


# --- LI-C6, C7: images per class and classes of the target ---


@_claim(
    "LI-C6",
    "the gain of pre-training, and near over far, falls with images per class",
    drawn("Fig. 12", "near - scratch falls with n", "near - far falls with n"),
)
def c6(evidence: Evidence) -> list[Part]:
    b, tuned = evidence.board, arms.fine_tuned(evidence.board)
    needed = f"images_per_class: [three or more], source: [near, far, none], {_SEEDED}"
    needed = near_and_far(evidence, needed)
    parts = []
    for name in ("near", "far"):
        arm = tuned & arms.source_is(b, name)
        rule = evidence.lr_rule(arm | arms.scratch(b))
        vary = _against_scratch(evidence, arm)
        frame = evidence.pairs(arm, arms.scratch(b), vary, lr=rule).frame
        frame = frame.assign(points=100 * frame["difference"])
        parts += _falls(evidence, f"{name} - scratch falls with n", frame, rule, needed)
    both = _near_far(evidence, tuned)
    rule = evidence.lr_rule(tuned)
    return [*parts, *_falls(evidence, "near - far falls with n", both, rule, needed)]


def _falls(
    evidence: Evidence, title: str, frame: pd.DataFrame, rule: LrRule, needed: str
) -> list[Part]:
    """The slope of a gap on the number of images; of each comparison a part of its own.

    The schedule goes with the number of images, and so does a rate that validation chose; the
    number of classes does not.
    """
    schedule = [n for n in SIZES if n not in ("target_classes", "target.classes.take")]
    within = _same(evidence.board, *schedule, *(("lr",) if rule == "best" else ()))
    return slope(
        title, frame, "n_per_class", "points", needed, evidence.rules, rising=False, within=within
    )


@_claim(
    "LI-C7",
    "fewer target classes, higher accuracy",
    drawn("Fig. 12", "fewer target classes, higher accuracy"),
)
def c7(evidence: Evidence) -> list[Part]:
    frame = _done(evidence, arms.fine_tuned(evidence.board))
    if "target_classes" not in frame.columns:
        frame = frame.assign(target_classes=math.nan)
    return slope(
        "fewer target classes, higher accuracy",
        frame,
        "target_classes",
        "points",
        f"targets with take: [three or more numbers of classes], {_SEEDED}",
        evidence.rules,
        rising=False,
        within=_same(evidence.board, "target_classes"),
    )


# --- LI-C8: how many layers to freeze ---


@_claim(
    "LI-C8",
    "tuning all layers is best; a near source loses less by freezing",
    drawn("Fig. 13", "tuning all layers is best", "near loses less than far by freezing"),
)
def c8(evidence: Evidence) -> list[Part]:
    b = evidence.board
    needed = f'pattern: [tune, "F(1-3)T(4-7)R(8)", freeze] for source: [near, far], {_SEEDED}'
    needed = near_and_far(evidence, needed)
    frozen, tuned = arms.layers_frozen(b), arms.fine_tuned(b)
    parts = []
    for depth in sorted({int(n) for n in b.loc[frozen, "frozen"]}):
        some = frozen & (b["frozen"] == depth)
        name = f"tuning all layers > freezing {depth}"
        parts += difference(evidence, name, tuned, some, PATTERN, needed)
    if not parts:
        parts.append(missing("tuning all layers is best", "no run with frozen layers", needed))
    name = "near loses less than far by freezing"
    # near loses less than far: the gap near - far is larger with layers frozen. Each depth is a
    # setting of its own.
    for depth in sorted({int(n) for n in b.loc[frozen, "frozen"]}, reverse=True):
        gap = _near_far(evidence, frozen & (b["frozen"] == depth))
        title = f"{name} {depth}"
        parts += _change(evidence, title, gap, _near_far(evidence, tuned), PATTERN, needed)
    return parts


# --- LI-C9: augmentation ---


@_claim(
    "LI-C9",
    "augmentation helps scratch much, fine-tuning little",
    drawn("Fig. 14", "augmentation helps scratch", "it helps scratch more than fine-tuning"),
)
def c9(evidence: Evidence) -> list[Part]:
    b = evidence.board
    needed = f"train.expand_to: [null, N] for source: [near, none], {_SEEDED}"
    needed = near_and_far(evidence, needed)
    with_, without = b["expand_to"].notna(), b["expand_to"].isna()
    vary = ("expand_to", "train.equal_steps")
    scratch, more = arms.scratch(b), "it helps scratch more than fine-tuning"
    parts = difference(
        evidence, "augmentation helps scratch", scratch & with_, scratch & without, vary, needed
    )
    gains = []
    for arm in (scratch, arms.fine_tuned(b)):
        frame = evidence.pairs(arm & with_, arm & without, vary, lr=evidence.lr_rule(arm)).frame
        gains.append(frame.assign(points=100 * frame["difference"]))
    for side in ("near", "far"):
        # One source at a time: a scratch run's gain against that of each source is another pair.
        tuned = gains[1][gains[1]["source_side"] == side] if len(gains[1]) else gains[1]
        if len(tuned):
            named = f"{more} from {side}"
            free = _against_scratch(evidence, arms.fine_tuned(b) & arms.source_is(b, side))
            parts += _change(evidence, named, gains[0], tuned, free, needed)
    if len(parts) == 1:
        parts.append(missing(more, "no fine-tuned run with and without expansion", needed))
    return parts


CLAIMS = (c1, c2, c3, c4, c5, c6, c7, c8, c9)
