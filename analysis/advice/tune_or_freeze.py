"""Freeze or tune: CHU's Table 3 as printed, derived from the user's own runs, and what it costs to
follow it.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", Table 3 and its rule: the mean
logarithm of tune / freeze above zero means tune, below zero freeze, else try both. Sources are not
averaged: each is a comparison of its own. One cell of the
printed table has no experiment behind it, two have one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.advice.types import AdviceVerdict, Significance, Situation, Support, supports
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import comparisons
from analysis.comparisons.ratios import between_bands, distance_bands, tune_freeze_ratios
from analysis.comparisons.units import summarise
from analysis.findings.parts import setting_names
from analysis.papers.chu2016_bands import (
    BANDS,
    Advice,
    Band,
    SureBand,
    data_band,
    distance_band,
    printed_advice,
    printed_evidence,
)
from analysis.statistics.decisions import Rules
from bench.core.errors import DataError
from bench.core.text import counted

DistanceBand = SureBand
PAPER = "CHU Table 3"


@dataclass(frozen=True)
class Cell:
    """What one comparison of the user's runs shows for one cell of the table.

    Attributes:
        distance, data: its bands; distance `unknown` where no distance was measured, `between`
            where its interval reaches over a band's edge.
        source: where the copied layers come from, and what else sets the comparison apart.
        advice: None without a pair.
        ratio, low, high: accuracy of tuning over that of freezing, geometric mean and interval.
        n, unit: what the interval counts; pairs are the runs behind it.
        experiments: which they are from.
        scope: the tasks that the advice holds for.
    """

    distance: DistanceBand
    data: Band
    source: str
    advice: Advice | None
    ratio: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    pairs: int
    experiments: tuple[Support, ...]
    scope: str
    note: str

    @property
    def decided(self) -> bool:
        """Whether tuning and freezing are shown to differ."""
        return self.advice in ("tune", "freeze")

    def numbers(self) -> str:
        """Ratio, interval and counts in words."""
        if self.ratio is None:
            return "no pair of runs"
        ends = "no interval" if self.low is None else f"{self.low:.2f} to {self.high:.2f}"
        units, pairs = counted(self.n, self.unit), counted(self.pairs, "pair")
        return f"{self.source}: tune / freeze {self.ratio:.2f} ({ends}; {units}, {pairs})"


def tune_freeze_pairs(evidence: Evidence) -> pd.DataFrame:
    """Pairs of runs that tune or freeze all layers but the last, all else equal.

    Returns:
        The frame of `analysis.comparisons.ratios.Ratios` with `data_band` and `distance_band`
        (unknown where no distance was measured, between where its interval reaches over a band's
        edge); pairs whose number of images is unknown are left out.
    """
    return evidence.once("tuned and frozen", lambda: _tune_freeze_pairs(evidence))


def _tune_freeze_pairs(evidence: Evidence) -> pd.DataFrame:
    b = evidence.board
    rule = evidence.lr_rule((b["reinit"] == 1) & b["treatment"].isin(["tune", "freeze"]))
    frame = tune_freeze_ratios(evidence, rule).frame
    frame = frame[frame["n_per_class"].notna()]
    groups = list(comparisons(frame)) if len(frame) else []
    names = setting_names(b, groups) if groups else []
    named = {
        group["comparison"].iloc[0]: name or f"from {group['source'].iloc[0]}"
        for group, name in zip(groups, names, strict=True)
    }
    return frame.assign(
        data_band=[data_band(float(n)) for n in frame["n_per_class"]],
        distance_band=distance_bands(frame),
        named=[named[comparison] for comparison in frame["comparison"]],
    )


def cells(
    pairs: pd.DataFrame,
    distance: DistanceBand | None,
    data: Band,
    significance: Significance,
) -> list[Cell]:
    """The comparisons of one cell, the most repeated first; distance None takes every distance."""
    rows = pairs[pairs["data_band"] == data] if len(pairs) else pairs
    if distance is not None and len(rows):
        rows = rows[rows["distance_band"] == distance]
    if rows.empty:
        return []
    label: DistanceBand = distance or "unknown"
    return [_cell(group, label, data, significance) for group in comparisons(rows)]


def _cell(
    rows: pd.DataFrame, distance: DistanceBand, data: Band, significance: Significance
) -> Cell:
    effect = rows.assign(effect=100 * rows["log_ratio"])
    e = summarise(effect, "effect", f"{distance} distance, {data} data", "ratio", 100.0)
    sign = significance.direction(e, rows, "ratio 1", "% (log ratio x 100)")
    words: dict[int, Advice] = {1: "tune", -1: "freeze", 0: "try both"}
    near_chance = int(sum(flag is True for flag in rows["near_chance"]))
    notes = [e.note, f"{near_chance} pairs near chance" if near_chance else ""]
    notes.append(f"{counted(e.diverged, 'diverged run')} at chance" if e.diverged else "")
    if distance == "between":
        notes.append(between_bands(rows).replace(", left out", ""))
    tasks = rows["task"].nunique()
    return Cell(
        distance,
        data,
        str(rows["named"].iloc[0]),
        words[sign],
        math.exp(e.value / 100),
        None if e.low is None else math.exp(e.low / 100),
        None if e.high is None else math.exp(e.high / 100),
        e.n,
        e.unit,
        len(rows),
        supports(rows),
        "on this task" if tasks == 1 else f"on these {tasks} tasks",
        "; ".join(note for note in notes if note),
    )


def all_cells(pairs: pd.DataFrame, significance: Significance) -> list[Cell]:
    """All nine cells, an empty one where there is no pair, then those of no band for sure."""
    found: list[Cell] = []
    for distance in BANDS:
        for data in BANDS:
            nothing = ("", None, None, None, None, 0, "", 0, (), "", "no evidence")
            empty = Cell(distance, data, *nothing)
            found += cells(pairs, distance, data, significance) or [empty]
    others: tuple[SureBand, ...] = ("between", "unknown")
    return found + [
        cell
        for distance in others
        for data in BANDS
        for cell in cells(pairs, distance, data, significance)
    ]


# --- a decision ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """Freeze, tune or try both, and why."""

    advice: Advice
    because: str
    supporting: tuple[Support, ...]
    verdict: AdviceVerdict


def _agreed(found: Sequence[Cell]) -> Advice | None:
    """The advice of all comparisons that were repeated most; try both where they do not agree."""
    if not found:
        return None
    most = [c for c in found if (c.n, c.pairs) == (found[0].n, found[0].pairs)]
    said = {cell.advice for cell in most}
    return said.pop() if len(said) == 1 else "try both"


def decide(
    pairs: pd.DataFrame,
    cosine: float | None,
    images_per_class: float,
    significance: Significance | None = None,
) -> Decision:
    """The user's own runs in the same bands, else the printed table, else try both.

    Runs in the same cell decide alone. Without any, the printed cell and the user's runs at the
    same number of images whatever the distance are looked at; where they contradict each other,
    both should be tried. A printed cell without an experiment behind it does not count.

    Args:
        significance: of the page that the decision stands on; None tests the decision alone.
    """
    if significance is None:
        alone = Significance(Rules())
        decide(pairs, cosine, images_per_class, alone)
        alone.settle()
        return decide(pairs, cosine, images_per_class, alone)
    data = data_band(images_per_class)
    distance = None if cosine is None else distance_band(cosine)
    own = cells(pairs, distance, data, significance)
    wide = cells(pairs, None, data, significance)
    advice = _agreed(own)
    if advice is not None and own[0].n > 1:
        sure = advice in ("tune", "freeze")
        verdict: AdviceVerdict = "measured" if sure else "undecided"
        said = "; ".join(cell.numbers() for cell in own[:_SHOWN])
        where = f", {own[0].scope}" if sure else ""
        because = f"your runs{where}: {said}{_left_out(pairs, data)}"
        return Decision(advice, because, _support(own), verdict)
    printed, words, splits = _printed(distance, data)
    in_print = (Support(PAPER, splits),) if splits else ()
    said = "no run of yours" + _left_out(pairs, data)
    elsewhere = _agreed(wide)
    if wide:
        said += f" at this distance; at others or unknown ones {wide[0].numbers()}"
    if elsewhere in ("tune", "freeze") and distance is not None:
        agree = printed in (None, "try both", elsewhere) or not splits
        kind: AdviceVerdict = "measured" if agree else "undecided"
        chosen: Advice = elsewhere if agree and elsewhere is not None else "try both"
        return Decision(chosen, f"{said}; {words}", (*_support(wide), *in_print), kind)
    alone_said = f"one repetition of yours: {own[0].numbers()}" if own else said
    if printed is None or not splits:
        return Decision("try both", f"{alone_said}; {words}", _support(own), "no evidence")
    return Decision(printed, f"{words}; {alone_said}", in_print, "as printed")


_SHOWN = 3


def _support(found: Sequence[Cell]) -> tuple[Support, ...]:
    counts: dict[str, int] = {}
    for cell in found:
        for name, n in cell.experiments:
            counts[name] = counts.get(name, 0) + n
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Support(name, n) for name, n in ranked)


def _left_out(pairs: pd.DataFrame, data: Band) -> str:
    rows = pairs[pairs["data_band"] == data] if len(pairs) else pairs
    text = between_bands(rows) if len(rows) else ""
    return f"; {text}" if text else ""


def _printed(distance: Band | None, data: Band) -> tuple[Advice | None, str, int]:
    """The printed advice, its support in words, and the paper's splits behind it."""
    counts = printed_evidence()
    if distance is not None:
        advice, splits = printed_advice(distance, data), counts[distance, data]
        behind = f"{splits} of the paper's splits" if splits else "no experiment of the paper"
        return advice, f"{PAPER}: {advice} ({behind} behind that cell)", splits
    all_of = {band: printed_advice(band, data) for band in BANDS}
    words = ", ".join(f"{advice} at {band} distance" for band, advice in all_of.items())
    same = set(all_of.values())
    splits = sum(counts[band, data] for band in BANDS)
    text = f"distance unknown; {PAPER}: {words}"
    return (same.pop() if len(same) == 1 else None), text, splits


def decide_for(
    situation: Situation, evidence: Evidence | None, significance: Significance
) -> Decision:
    """`decide` for a situation; evidence None leaves the paper alone."""
    pairs = pd.DataFrame() if evidence is None else tune_freeze_pairs(evidence)
    return decide(pairs, situation.cosine, situation.images_per_class, significance)


# --- what following it costs --------------------------------------------------------------------


@dataclass(frozen=True)
class Regret:
    """How much accuracy each way of deciding loses against the better of tuning and freezing.

    The better arm is chosen on half of the seeds and scored on the other half, both ways round, and
    so is the strategy: where the two arms do not differ, every strategy loses 0 on average, and
    single values fall on either side of it.

    Attributes:
        table: strategy, regret_points (mean), low, high, n, unit, better_arm (share of halves where
            the arm taken is the one that was better on the other seeds), trainings (of each
            decision), note.
        held_out: what was left out at a time: target, or class draw where there is one target.
        groups: how many there are.
        without_validation: pairs left out since trying both cannot be settled.
        without_halves: pairs left out since their condition has one seed.
    """

    table: pd.DataFrame
    held_out: Literal["target", "class draw"]
    groups: int
    without_validation: int
    without_halves: int = 0


def regret(evidence: Evidence) -> Regret:
    """Leave-one-target-out: each target is decided by the runs on the others.

    Trying both takes the arm with the better validation accuracy and trains twice. Smaller numbers
    of classes of one target are left out with it.

    Raises:
        DataError: with fewer than two targets (or class draws) that have both arms.
    """
    every = tune_freeze_pairs(evidence)
    pairs = every[every["left_val"].notna() & every["right_val"].notna()]
    families = _families(pairs)
    held_out: Literal["target", "class draw"] = "target"
    if families.nunique() < 2:
        families, held_out = pairs["task"], "class draw"
    groups = sorted(set(families))
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} target with both tuned and frozen runs",
            hint="the regret of advice needs two or more: add targets or class draws to the grid",
        )
    parts = []
    for group in groups:
        inside = families == group
        parts.append(_outcomes(pairs[inside], pairs[~inside]))
    outcomes = pd.concat(parts, ignore_index=True)
    if outcomes.empty:
        raise DataError(
            "no condition has two seeds, one to choose the better arm on and one to score it on",
            hint="add seed: [0, 1] to the grid",
        )
    rows = [_strategy_row(name, outcomes) for name in _STRATEGIES]
    table = pd.DataFrame([row for row in rows if row is not None])
    return Regret(table, held_out, len(groups), len(every) - len(pairs), _single(pairs))


def _families(pairs: pd.DataFrame) -> pd.Series[str]:
    """A name of each pair's target; nested subsets of one draw are one task and so one target."""
    labels = pairs["dataset"].astype(str) + " " + pairs["target"].astype(str)
    return labels.groupby(pairs["task"]).transform("min")


_STRATEGIES = ("this advice", f"{PAPER} as printed", "always tune", "always freeze", "try both")


def _conditions(pairs: pd.DataFrame) -> list[pd.DataFrame]:
    keys = ["task", "comparison", "size"]
    return [group for _, group in pairs.groupby(keys, sort=True)]


def _single(pairs: pd.DataFrame) -> int:
    return sum(len(group) for group in _conditions(pairs) if group["seed"].nunique() < 2)


def _outcomes(inside: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Points lost by each strategy in each half of each condition of the target left out."""
    known: dict[tuple[str, str], Advice] = {}
    rows = []
    for group in _conditions(inside):
        first = group.iloc[0]
        bands = str(first["distance_band"]), str(first["data_band"])
        cosine = None if bands[0] == "unknown" else float(first["distance"])
        if cosine is not None:
            bands = distance_band(cosine), bands[1]
        if bands not in known:
            known[bands] = decide(others, cosine, float(first["n_per_class"])).advice
        advised: dict[str, Advice | None] = {
            "this advice": known[bands],
            f"{PAPER} as printed": _as_printed(cosine, float(first["n_per_class"])),
            "always tune": "tune",
            "always freeze": "freeze",
            "try both": "try both",
        }
        seeds = sorted(set(group["seed"]))
        halves = [group[group["seed"].isin(seeds[i::2])] for i in (0, 1)]
        if len(seeds) < 2:
            continue
        for half, other in (halves, halves[::-1]):
            better = float(other["left"].mean()) >= float(other["right"].mean())
            for name, advice in advised.items():
                if advice is not None:
                    lost, right, trainings = _lost(half, better, advice)
                    place = (first["task"], str(half["seed"].iloc[0]), str(first["size"]))
                    rows.append((*place, str(first["comparison"]), name, lost, right, trainings))
    columns = ["task", "seed", "size", "comparison", "strategy", "lost", "right", "trainings"]
    return pd.DataFrame(rows, columns=columns)


def _as_printed(cosine: float | None, images_per_class: float) -> Advice | None:
    if cosine is None:
        return None
    return printed_advice(distance_band(cosine), data_band(images_per_class))


def _lost(half: pd.DataFrame, better: bool, advice: Advice) -> tuple[float, float, int]:
    """Points below the arm that was better on the other half, the share of runs that took it, and
    how many trainings the advice takes.
    """
    tuned, frozen = half["left"].astype(float), half["right"].astype(float)
    tune = pd.Series(advice == "tune", index=half.index)
    if advice == "try both":
        tune = half["left_val"].astype(float) >= half["right_val"].astype(float)
    chosen = tuned.where(tune, frozen)
    best = tuned if better else frozen
    lost = 100 * float((best - chosen).mean())
    return lost, float((tune == better).mean()), 2 if advice == "try both" else 1


def _strategy_row(name: str, outcomes: pd.DataFrame) -> dict[str, object] | None:
    rows = outcomes[outcomes["strategy"] == name]
    if rows.empty:
        return None
    # The two halves of a condition are one value: together they use each seed once.
    keys = ["task", "comparison", "size"]
    values = rows.groupby(keys, as_index=False)[["lost", "right", "trainings"]].mean()
    values = values.assign(seed="both halves", size=values["comparison"] + values["size"])
    e = summarise(values, "lost", f"regret of {name}")
    return {
        "strategy": name,
        "regret_points": e.value,
        "low": e.low,
        "high": e.high,
        "n": e.n,
        "unit": e.unit,
        "better_arm": float(values["right"].mean()),
        "trainings": float(values["trainings"].mean()),
        "note": e.note,
    }
