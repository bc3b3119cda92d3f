"""How many more labels? Learning curves of the user's own runs, and where the better arm changes.

The error falls about as scale · n^-exponent with n images per class; from the fit follow what twice
the labels bring and how many an accuracy wants. Crossings say from how many images per class on
tuning is better than freezing, or a copied network no better than one from scratch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import arms
from analysis.advice import AdviceLine, AdviceVerdict, Situation, direction, supports
from analysis.board import (
    FACTORS,
    PATTERN_FACTORS,
    SEEDS,
    SOURCE_FACTORS,
    best_lr,
    key_of,
    pair,
    summarise,
)
from analysis.evidence import Evidence
from analysis.learning_curves import Crossing, PowerLaw, crossing, fit_power_law, images_for
from bench.errors import DataError

__all__ = ["Curve", "crossings", "curves", "more_labels"]

_VARIES = ("target", "class_draw", *SEEDS, "lr", "images_per_class", "epochs", "batch_size")
"""What may differ between the runs of one curve: longer training where there are fewer images."""
_GROUP = ("family", *(name for name in FACTORS if name not in (*_VARIES, "source_epochs")))
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


def _with_family(board: pd.DataFrame) -> pd.DataFrame:
    """A target is the same family whatever the draw of its classes."""
    return board.assign(family=board["target"].astype(str))


def curves(evidence: Evidence) -> list[Curve]:
    """Tuned, frozen and scratch runs with three sizes or more, those with most runs first."""
    b = _with_family(evidence.board)
    found = []
    for word, rows in (
        ("tuned", arms.fine_tuned(b)),
        ("frozen", arms.frozen_features(b)[1]),
        ("from scratch", arms.scratch(b)),
    ):
        runs = b[rows & (b["status"] == "done") & b["n_per_class"].notna()]
        if runs.empty:
            continue
        if evidence.lr_rule(rows) == "best":
            runs = best_lr(runs)
        for _, group in runs.groupby(key_of(runs, _GROUP), sort=True):
            sizes = tuple(sorted({float(n) for n in group["n_per_class"]}))
            if len(sizes) >= 3:
                found.append(Curve(f"{_where(group)}, {word}", group, sizes))
    return sorted(found, key=lambda c: (-len(c.runs), c.label))


def _where(group: pd.DataFrame) -> str:
    first = group.iloc[0]
    source = "" if first["source"] == "none" else f" from {first['source']}"
    return f"{first['dataset']} {first['family']}{source}"


def more_labels(situation: Situation, evidence: Evidence | None) -> list[AdviceLine]:
    """What more labels would bring, for the arms with the most runs; and the crossings."""
    topic = "more labels"
    found = [] if evidence is None else curves(evidence)
    if evidence is None or not found:
        said = "no arm of your runs has three numbers of images per class: add values to "
        line = AdviceLine(topic, "no evidence", f"{said}images_per_class", (), "no evidence")
        return [line, *([] if evidence is None else crossings(situation, evidence))]
    lines = [_curve_line(situation, curve) for curve in found[:_MOST]]
    return [*lines, *crossings(situation, evidence)]


def _curve_line(situation: Situation, curve: Curve) -> AdviceLine:
    topic, behind = "more labels", supports(curve.runs)
    sizes = ", ".join(f"{n:g}" for n in curve.sizes)
    measured = f"{curve.label}: {len(curve.runs)} runs at {sizes} images per class"
    laws = repeated_laws(curve.runs)
    if laws.empty:
        said = f"{measured}; no repetition has three sizes with errors that a curve fits"
        return AdviceLine(topic, "no evidence", said, behind, "no evidence")
    e = summarise(laws, "exponent", curve.label)
    said = f"{measured}; error falls as n^{-e.value:.2f} ({e.n} {e.unit}{'' if e.n == 1 else 's'})"
    gain = f"{100 * (1 - 2**-e.value):.1f} %"
    if e.low is not None and e.high is not None:
        gain += f" ({100 * (1 - 2**-e.low):.1f} to {100 * (1 - 2**-e.high):.1f})"
    double = f"twice the labels cut the error by {gain}"
    if direction(e) <= 0:
        answer = "more labels are not shown to help"
        return AdviceLine(topic, answer, f"{said}; {double}", behind, "undecided")
    decided: AdviceVerdict = "measured"
    if situation.accuracy is None:
        return AdviceLine(topic, double, said, behind, decided)
    answer, sure = _wanted(situation, situation.accuracy, laws, max(curve.sizes))
    return AdviceLine(topic, answer, f"{said}; {double}", behind, decided if sure else "undecided")


def repeated_laws(runs: pd.DataFrame) -> pd.DataFrame:
    """A power law for each repetition that has three sizes or more: task, seed, exponent, law.

    Fitted one by one since the runs of a repetition share their draws; repetitions whose errors
    allow no fit are left out.
    """
    found = []
    for _, group in runs.groupby(key_of(runs, ["task", *SEEDS]), sort=True):
        sizes = [float(n) for n in group["n_per_class"]]
        try:
            law = fit_power_law(sizes, [1 - float(a) for a in group["top1_accuracy"]])
        except DataError:
            continue
        seed = key_of(group, SEEDS).iloc[0]
        found.append((group["task"].iloc[0], seed, law.exponent, law))
    return pd.DataFrame(found, columns=["task", "seed", "exponent", "law"])


def _wanted(
    situation: Situation, accuracy: float, laws: pd.DataFrame, largest: float
) -> tuple[str, bool]:
    """How many images per class an accuracy wants, and whether that was within what was run."""
    wanted = f"{100 * accuracy:g} % accuracy"
    needs = laws.assign(log_images=np.array([_log_images(law, accuracy) for law in laws["law"]]))
    within = needs[needs["log_images"].notna()]
    if within.empty:
        return f"{wanted} is out of reach: the error does not fall", False
    e = summarise(within, "log_images", "images wanted")
    if len(within) < len(needs) or e.value > math.log(_OUT_OF_SIGHT * largest):
        never = len(needs) - len(within)
        said = (
            f"{wanted} is out of sight: over {_OUT_OF_SIGHT} times the {largest:g} images per class"
        )
        said += " that were run" + (
            f", never in {never} of {len(needs)} repetitions" if never else ""
        )
        return f"{said}; another source or method rather", False
    bounds = "" if e.low is None else f" ({_images(e.low)} to {_images(e.high or 0)})"
    answer = f"{wanted} at about {_images(e.value)} images per class{bounds}"
    more = math.exp(min(e.value, _MOST_LOG)) - situation.images_per_class
    answer += f", {_images(math.log(more))} more each" if more >= 1 else ", you have enough"
    if e.value > math.log(largest):
        return f"{answer}; extrapolated, no run had over {largest:g}", False
    return answer, True


_MOST_LOG = math.log(1e6)
_OUT_OF_SIGHT = 100


def _log_images(law: PowerLaw, accuracy: float) -> float:
    """NaN where the curve never gets there."""
    try:
        return math.log(images_for(law, accuracy, draws=2).images_per_class)
    except (DataError, OverflowError):
        return math.nan


def _images(log_images: float) -> str:
    if log_images > _MOST_LOG - 0.01:
        return "a million or more"
    images = math.exp(log_images)
    return f"{images:.0f}" if images < 1000 else f"{images / 1000:.0f} thousand"


def crossings(situation: Situation, evidence: Evidence) -> list[AdviceLine]:
    """From how many images per class on tuning beats freezing, and scratch a copied network."""
    b = _with_family(evidence.board)
    tuned, frozen = arms.fine_tuned(b), arms.frozen_features(b)[1]
    pairs = (
        ("tuning", "freezing", tuned, frozen, PATTERN_FACTORS),
        ("scratch", "fine-tuning", arms.scratch(b), tuned, (*SOURCE_FACTORS, *PATTERN_FACTORS)),
    )
    lines = []
    for name, other, left, right, vary in pairs:
        rule = evidence.lr_rule(left | right)
        if name == "scratch":  # the fine-tuned run says which source it is
            frame = pair(b, right, left, vary, lr=rule).frame
            frame = frame.assign(difference=-frame["difference"])
        else:
            frame = pair(b, left, right, vary, lr=rule).frame
        lines += _crossing_lines(situation, frame, name, other)
    return lines


def _crossing_lines(
    situation: Situation, frame: pd.DataFrame, name: str, other: str
) -> list[AdviceLine]:
    if frame.empty:
        return []
    groups = []
    for _, group in frame.groupby(key_of(frame, _GROUP), sort=True):
        known = _common_sizes(group[group["n_per_class"].notna()])
        if known["n_per_class"].nunique() >= 2:
            groups.append(known)
    groups.sort(key=lambda rows: (-len(rows), _where(rows)))
    lines = []
    for rows in groups[:_MOST]:
        where = f"{name} over {other}, {_where(rows)}"
        try:
            found = crossing(rows, where)
        except DataError:
            continue
        lines.append(_crossing_line(situation, found, rows, name, other))
    # Curves that may as well cross elsewhere, or not at all, say nothing that could be followed.
    return [line for line in lines if line.verdict == "measured"]


def _common_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows at sizes that at least half as many repetitions have as the commonest size."""
    if rows.empty:
        return rows
    repetitions = rows.assign(repetition=key_of(rows, ["task", "seed"]))
    counts = repetitions.groupby("n_per_class")["repetition"].nunique()
    kept = counts[counts >= counts.max() / 2].index
    return rows[rows["n_per_class"].isin(kept)]


def _crossing_line(
    situation: Situation, found: Crossing, rows: pd.DataFrame, name: str, other: str
) -> AdviceLine:
    sizes = sorted({float(n) for n in rows["n_per_class"]})
    spread = f"{sizes[0]:g} to {sizes[-1]:g} images per class, {found.n} repetitions"
    said = f"{_where(rows)}: {spread}"
    said += f"; {found.note}" if found.note else ""
    behind, topic = supports(rows), "crossing"
    at, share = found.images_per_class, found.share
    if at is None:
        better = {"left": name, "right": other}.get(found.above, "neither")
        answer = f"{better} is better throughout" if better != "neither" else "no difference"
        said += "" if share is None else f"; {100 * share:.0f} % of the resamples cross"
        sure = share is not None and share < 0.05 and better != "neither"
        return AdviceLine(topic, answer, said, behind, "measured" if sure else "undecided")
    beyond = {"left": name, "right": other}.get(found.above, "neither")
    ends = "no interval" if found.low is None else f"{found.low:.0f} to {found.high:.0f}"
    answer = f"{beyond} is better from about {at:.0f} images per class on ({ends})"
    answer += f"; you have {situation.images_per_class:g}"
    said += "" if share is None else f"; {100 * share:.0f} % of the resamples cross"
    sure = share is not None and share >= 0.95
    return AdviceLine(topic, answer, said, behind, "measured" if sure else "undecided")
