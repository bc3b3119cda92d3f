"""How many more labels? Learning curves of the user's own runs, and where the better arm changes.

The error falls about as scale · n^-exponent with n images per class; from the fit follow what twice
the labels bring and how many an accuracy wants. A crossing is the number of
images per class from which tuning is better than freezing, or a copied network no better than one
from scratch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.advice.types import AdviceLine, AdviceVerdict, Significance, Situation, supports
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.learning_curves import (
    Crossing,
    crossing,
    images_wanted,
    repeated_laws,
)
from analysis.comparisons.pairing import best_lr, comparisons
from analysis.comparisons.units import summarise
from analysis.findings.parts import setting_names
from analysis.leaderboard import arms
from analysis.leaderboard.labels import settings
from analysis.leaderboard.read import COPIED, PATTERN, SOURCE, finished, key_of, repetition, varying
from bench.core.errors import DataError
from bench.core.text import counted
from bench.results.intervals import Estimate

_SCHEDULE = ("images_per_class", "epochs", "batch_size", "train.step_epochs", "train.warmup_epochs")
"""What may differ between the runs of one curve: longer training where there are fewer images."""
_MOST = 3


@dataclass(frozen=True)
class Curve:
    """Runs of one arm on one kind of target at several sizes.

    Attributes:
        label: target, source and what is done to the copied layers.
        runs: finished runs, each condition at its best learning rate by validation.
        sizes: different images per class.
    """

    label: str
    runs: pd.DataFrame
    sizes: tuple[float, ...]

    @cached_property
    def laws(self) -> pd.DataFrame:
        """A power law for each repetition."""
        return repeated_laws(self.runs)


def curves(evidence: Evidence) -> list[Curve]:
    """Tuned, frozen and scratch runs with three sizes or more, those with most runs first."""
    return evidence.once("learning curves", lambda: _curves(evidence))


def _curves(evidence: Evidence) -> list[Curve]:
    b = evidence.board
    held = [n for n in varying(b) if n not in (*_SCHEDULE, "lr") and not repetition(n)]
    found: list[Curve] = []
    for word, rows in (
        ("tuned", arms.fine_tuned(b)),
        ("frozen", arms.frozen_features(b)[1]),
        ("from scratch", arms.scratch(b)),
    ):
        runs = b[rows & finished(b) & b["n_per_class"].notna()]
        if runs.empty:
            continue
        best = evidence.lr_rule(rows) == "best"
        runs = best_lr(runs) if best else runs
        kinds = key_of(runs, held if best else [*held, "lr"])
        for _, group in runs.groupby([kinds, _schedules(runs, kinds)], sort=True):
            sizes = tuple(sorted({float(n) for n in group["n_per_class"]}))
            if len(sizes) >= 3:
                found.append(Curve(f"{_where(group)}, {word}", group, sizes))
    firsts = [_first(curve.runs) for curve in found]
    beside = ["dataset", "target", "source", "treatment"]
    apart = settings(evidence.board.loc[firsts], _SCHEDULE, beside) if found else []
    named = [
        replace(curve, label=f"{curve.label}, {said}" if said else curve.label)
        for curve, said in zip(found, apart, strict=True)
    ]
    order = sorted(
        range(len(named)),
        key=lambda i: (-len(named[i].runs), named[i].label, _identity(b.loc[firsts[i]])),
    )
    taken: dict[str, int] = {}
    for i in order:
        number = taken[named[i].label] = taken.get(named[i].label, 0) + 1
        if number > 1:
            named[i] = replace(named[i], label=f"{named[i].label} ({number})")
    return [named[i] for i in order]


def _identity(row: pd.Series[Any]) -> str:
    """What names a run whatever its place in the table."""
    told = row.get("run_id")
    return str(told) if isinstance(told, str) else "|".join(map(str, row.tolist()))


def _first(runs: pd.DataFrame) -> Any:
    """The index of one run of a curve, the same however the rows are ordered."""
    least = runs[runs["n_per_class"] == runs["n_per_class"].min()]
    return min(least.index, key=lambda index: _identity(least.loc[index]))


def _schedules(runs: pd.DataFrame, kinds: pd.Series[str]) -> pd.Series[str]:
    """The schedule where runs of one kind differ in it at one size; else it goes with the size."""
    words = key_of(runs, [n for n in _SCHEDULE[1:] if n in runs.columns])
    per_size = words.groupby(key_of(runs, ["n_per_class"]) + "|" + kinds).nunique()
    crossed = {str(key).partition("|")[2] for key in per_size.index[per_size > 1]}
    return words.where(kinds.isin(crossed), "")


def _where(group: pd.DataFrame) -> str:
    first = group.iloc[0]
    source = "" if first["source"] == "none" else f" from {first['source']}"
    return f"{first['dataset']} {first['target']}{source}"


def more_labels(
    situation: Situation, evidence: Evidence | None, significance: Significance
) -> list[AdviceLine]:
    """What more labels would bring, for the arms with the most runs; and the crossings."""
    topic = "more labels"
    found = [] if evidence is None else curves(evidence)
    if evidence is None or not found:
        said = "no arm of your runs has three numbers of images per class: add values to "
        line = AdviceLine(topic, "no evidence", f"{said}images_per_class", (), "no evidence")
        return [line, *([] if evidence is None else crossings(situation, evidence, significance))]
    lines = [_curve_line(situation, curve, significance) for curve in found[:_MOST]]
    return [*lines, *crossings(situation, evidence, significance)]


def _curve_line(situation: Situation, curve: Curve, significance: Significance) -> AdviceLine:
    topic, behind = "more labels", supports(curve.runs)
    sizes = ", ".join(f"{n:g}" for n in curve.sizes)
    measured = f"{curve.label}: {len(curve.runs)} runs at {sizes} images per class"
    laws = curve.laws
    if laws.empty:
        said = f"{measured}; no repetition has three sizes with errors that a curve fits"
        return AdviceLine(topic, "no evidence", said, behind, "no evidence")
    e = summarise(laws, "exponent", curve.label, "given")
    said = f"{measured}; error falls as n^{-e.value:.2f} ({counted(e.n, e.unit)})"
    gain = f"{100 * (1 - 2**-e.value):.1f} %"
    if e.low is not None and e.high is not None:
        gain += f" ({100 * (1 - 2**-e.low):.1f} to {100 * (1 - 2**-e.high):.1f})"
    double = f"twice the labels cut the error by {gain}"
    if (
        significance.direction(
            e, laws, f"exponent {sorted(map(str, curve.runs.index))}", "exponent"
        )
        <= 0
    ):
        answer = "more labels are not shown to help"
        return AdviceLine(topic, answer, f"{said}; {double}", behind, "undecided")
    decided: AdviceVerdict = "measured"
    if situation.accuracy is None:
        return AdviceLine(topic, double, said, behind, decided)
    answer, sure = _wanted(situation, situation.accuracy, laws, max(curve.sizes))
    return AdviceLine(topic, answer, f"{said}; {double}", behind, decided if sure else "undecided")


def _wanted(
    situation: Situation, accuracy: float, laws: pd.DataFrame, largest: float
) -> tuple[str, bool]:
    """How many images per class an accuracy wants, and whether that was within what was run."""
    wanted = f"{100 * accuracy:g} % accuracy"
    within = images_wanted(laws, accuracy)
    if within.empty:
        return f"{wanted} is out of reach: the error does not fall", False
    e = summarise(within, "log_images", "images wanted", "given")
    never, problems = len(laws) - len(within), []
    if e.value > math.log(_TOO_FAR * largest):
        problems.append(
            f"takes over {_TOO_FAR} times the {largest:g} images per class that were run"
        )
    if never:
        problems.append(f"is never reached in {never} of {len(laws)} repetitions")
    if problems:
        return f"{wanted} {' and '.join(problems)}; try another source or method", False
    bounds = "" if e.low is None else f" ({_images(e.low)} to {_images(e.high or 0)})"
    answer = f"{wanted} at about {_images(e.value)} images per class{bounds}"
    more = math.exp(min(e.value, _MOST_LOG)) - situation.images_per_class
    answer += f", {_images(math.log(more))} more each" if more >= 1 else ", you have enough"
    if e.value > math.log(largest):
        return f"{answer}; extrapolated, no run had over {largest:g}", False
    return answer, True


_MOST_LOG = math.log(1e6)
_TOO_FAR = 100


def _images(log_images: float) -> str:
    if log_images > _MOST_LOG - 0.01:
        return "a million or more"
    images = math.exp(log_images)
    return f"{images:.0f}" if images < 1000 else f"{images / 1000:.0f} thousand"


@dataclass(frozen=True)
class _TwoArms:
    """Pairs of one comparison of two arms at two sizes or more.

    Attributes:
        name, other: the arms.
        rows: the pairs.
        setting: what sets the comparison apart.
        ends: pairs at the smallest and at the largest size, and the mean of their differences.
        crossing: None where no repetition has every size.
    """

    name: str
    other: str
    rows: pd.DataFrame
    setting: str
    ends: tuple[tuple[Estimate, pd.DataFrame], tuple[Estimate, pd.DataFrame]]
    crossing: Crossing | None


def crossings(
    situation: Situation, evidence: Evidence, significance: Significance
) -> list[AdviceLine]:
    """From how many images per class on tuning beats freezing, and a copied network scratch.

    Only crossings that are decided, or arms that are better throughout, are given.
    """
    found = evidence.once("arms by number of images", lambda: list(_arms_by_size(evidence)))
    lines = (_crossing_line(situation, arms_, significance) for arms_ in found)
    return [line for line in lines if line is not None]


def _arms_by_size(evidence: Evidence) -> Iterator[_TwoArms]:
    b = evidence.board
    tuned, frozen = arms.fine_tuned(b), arms.frozen_features(b)[1]
    nothing_copied = (*SOURCE, *PATTERN, *COPIED)
    for name, other, left, right, vary in (
        ("tuning", "freezing", tuned, frozen, PATTERN),
        ("fine-tuning", "scratch", tuned, arms.scratch(b), nothing_copied),
    ):
        frame = evidence.pairs(left, right, vary).frame
        every = list(comparisons(frame)) if len(frame) else []
        names = setting_names(b, every) if every else []
        groups = []
        for group, setting in zip(every, names, strict=True):
            known = _common_sizes(group[group["n_per_class"].notna()])
            if known["n_per_class"].nunique() >= 2:
                groups.append((known, setting))
        for rows, setting in groups[:_MOST]:
            where = f"{name} over {other}, {_where(rows)}"
            sizes = rows["n_per_class"].astype(float)
            ends = _end(rows, sizes.min(), where), _end(rows, sizes.max(), where)
            try:
                crossed = crossing(rows, where)
            except DataError:
                crossed = None
            yield _TwoArms(name, other, rows, setting, ends, crossed)


def _end(rows: pd.DataFrame, size: float, where: str) -> tuple[Estimate, pd.DataFrame]:
    group = rows[rows["n_per_class"] == size]
    points = group.assign(points=100 * group["difference"])
    return summarise(points, "points", where, "difference", 100.0), group


def _common_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows at sizes that at least half as many repetitions have as the commonest size."""
    if rows.empty:
        return rows
    repetitions = rows.assign(repetition=key_of(rows, ["task", "seed"]))
    counts = repetitions.groupby("n_per_class")["repetition"].nunique()
    kept = counts[counts >= counts.max() / 2].index
    return rows[rows["n_per_class"].isin(kept)]


def _crossing_line(
    situation: Situation, compared: _TwoArms, significance: Significance
) -> AdviceLine | None:
    """The line where the ends are decided; None where they are not."""
    name, other, rows, found = compared.name, compared.other, compared.rows, compared.crossing
    ends = [
        significance.direction(e, group, "top1_accuracy 0", "points") for e, group in compared.ends
    ]
    if found is None:
        return None
    sizes = rows["n_per_class"].astype(float)
    smallest, largest = f"{sizes.min():g}", f"{sizes.max():g}"
    spread = f"{smallest} to {largest} images per class, {counted(found.n, found.unit)}"
    first = rows.iloc[0]
    setting = compared.setting or f"from {first.source}"
    said = f"{first['dataset']} {first['target']} {setting}: {spread}"
    said += f"; {found.note}" if found.note else ""
    behind, topic = supports(rows), "crossing"
    if ends[0] and ends[0] == ends[1]:
        better, worse = (name, other) if ends[0] > 0 else (other, name)
        answer = f"{better} is better than {worse} at {smallest} and at {largest} images per class"
        return AdviceLine(topic, answer, said, behind, "measured")
    if not ends[0] or not ends[1] or found.images_per_class is None:
        return None
    beyond = {"left": name, "right": other}.get(found.above, "neither")
    bounds = "no interval" if found.low is None else f"{found.low:.0f} to {found.high:.0f}"
    answer = f"{beyond} is better from about {found.images_per_class:.0f} images per class on"
    answer += f" ({bounds}); you have {situation.images_per_class:g}"
    return AdviceLine(topic, answer, said, behind, "measured")
