"""Freeze or tune: CHU's Table 3 as printed, derived from the user's own runs, and what it costs to
follow it.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", Table 3 and its rule: the mean
logarithm of tune / freeze above zero says tune, below zero freeze, else try both. One cell of the
printed table has no experiment behind it, two have one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.advice import AdviceVerdict, Situation, Support, direction, supports
from analysis.bands import (
    BANDS,
    Advice,
    Band,
    SureBand,
    data_band,
    distance_band,
    printed_advice,
    printed_evidence,
)
from analysis.board import summarise
from analysis.evidence import Evidence
from analysis.ratios import between_bands, distance_bands, tune_freeze_ratios
from bench.errors import DataError

__all__ = ["Cell", "Decision", "Regret", "cell", "cells", "decide", "regret", "tune_freeze_pairs"]

DistanceBand = SureBand
PAPER = "CHU Table 3"


@dataclass(frozen=True)
class Cell:
    """What the user's runs say of one cell of the table.

    Attributes:
        distance, data: its bands; distance `unknown` where no distance was measured, `between`
            where its interval reaches over a band's edge.
        advice: None without a pair.
        ratio, low, high: accuracy of tuning over that of freezing, geometric mean and interval.
        n, unit: what the interval counts; pairs are the runs behind it.
        experiments: which they are from.
    """

    distance: DistanceBand
    data: Band
    advice: Advice | None
    ratio: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    pairs: int
    experiments: tuple[Support, ...]
    note: str

    @property
    def decided(self) -> bool:
        """Whether the interval excludes one."""
        return self.advice in ("tune", "freeze")

    def numbers(self) -> str:
        """Ratio, interval and counts in words."""
        if self.ratio is None:
            return "no pair of runs"
        ends = "no interval" if self.low is None else f"{self.low:.2f} to {self.high:.2f}"
        plural = self.unit if self.n == 1 else f"{self.unit}s"
        return f"tune / freeze {self.ratio:.2f} ({ends}; {self.n} {plural}, {self.pairs} pairs)"


def tune_freeze_pairs(evidence: Evidence) -> pd.DataFrame:
    """Pairs of runs that tune or freeze all layers but the last, all else equal.

    Returns:
        The frame of `analysis.ratios.Ratios` with `data_band` and `distance_band` (unknown where no
        distance was measured, between where its interval reaches over a band's edge); pairs whose
        number of images is unknown are left out.
    """
    b = evidence.board
    rule = evidence.lr_rule((b["reinit"] == 1) & b["treatment"].isin(["tune", "freeze"]))
    frame = tune_freeze_ratios(b, evidence.distances, rule).frame
    frame = frame[frame["n_per_class"].notna()]
    return frame.assign(
        data_band=[data_band(float(n)) for n in frame["n_per_class"]],
        distance_band=distance_bands(frame),
    )


def cell(pairs: pd.DataFrame, distance: DistanceBand | None, data: Band) -> Cell:
    """One cell of the derived table; distance None takes all distances together."""
    rows = pairs[pairs["data_band"] == data]
    if distance is not None:
        rows = rows[rows["distance_band"] == distance]
    label: DistanceBand = distance or "unknown"
    if rows.empty:
        return Cell(label, data, None, None, None, None, 0, "", 0, (), "no evidence")
    e = summarise(rows, "log_ratio", f"{label} distance, {data} data")
    advice: Advice = {1: "tune", -1: "freeze"}.get(direction(e), "try both")  # type: ignore[assignment]
    near_chance = int(sum(flag is True for flag in rows["near_chance"]))
    notes = [e.note, f"{near_chance} pairs near guessing" if near_chance else ""]
    if distance == "between":
        notes.append(between_bands(rows).replace(", left out", ""))
    if e.sign and not direction(e):
        notes.append(f"{e.n} repetitions are too few to decide")
    return Cell(
        label,
        data,
        advice,
        math.exp(e.value),
        None if e.low is None else math.exp(e.low),
        None if e.high is None else math.exp(e.high),
        e.n,
        e.unit,
        len(rows),
        supports(rows),
        "; ".join(note for note in notes if note),
    )


def cells(pairs: pd.DataFrame) -> list[Cell]:
    """All nine cells, and the data bands with runs whose distance is unknown or in no band."""
    found = [cell(pairs, distance, data) for distance in BANDS for data in BANDS]
    others: tuple[SureBand, ...] = ("between", "unknown")
    rest = [cell(pairs, distance, data) for distance in others for data in BANDS]
    return found + [one for one in rest if one.pairs]


# --- a decision ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """Freeze, tune or try both, and why."""

    advice: Advice
    because: str
    supporting: tuple[Support, ...]
    verdict: AdviceVerdict


def decide(pairs: pd.DataFrame, cosine: float | None, images_per_class: float) -> Decision:
    """The user's own runs in the same bands, else the printed table, else try both.

    Runs in the same cell decide alone. Without any, the printed cell and the user's runs at the
    same number of images whatever the distance are heard; where they contradict each other, both
    should be tried. A printed cell without an experiment behind it does not count.
    """
    data = data_band(images_per_class)
    distance = None if cosine is None else distance_band(cosine)
    own, wide = cell(pairs, distance, data), cell(pairs, None, data)
    if own.advice is not None and own.n > 1:
        verdict: AdviceVerdict = "measured" if own.decided else "undecided"
        said = f"your runs: {own.numbers()}{_left_out(pairs, data)}"
        return Decision(own.advice, said, own.experiments, verdict)
    advice, words, splits = _printed(distance, data)
    in_print = (Support(PAPER, splits),) if splits else ()
    said = "no run of yours"
    said += _left_out(pairs, data)
    if wide.pairs:
        said += f" at this distance; at others or unknown ones {wide.numbers()}"
    if wide.decided and distance is not None:
        agree = advice in (None, "try both", wide.advice) or not splits
        chosen = wide.advice if agree and wide.advice else "try both"
        kind: AdviceVerdict = "measured" if agree else "undecided"
        return Decision(chosen, f"{said}; {words}", (*wide.experiments, *in_print), kind)
    alone = f"one repetition of yours: {own.numbers()}" if own.pairs else said
    if advice is None or not splits:
        return Decision("try both", f"{alone}; {words}", own.experiments, "no evidence")
    return Decision(advice, f"{words}; {alone}", in_print, "as printed")


def _left_out(pairs: pd.DataFrame, data: Band) -> str:
    rows = pairs[pairs["data_band"] == data]
    text = between_bands(rows) if len(rows) else ""
    return f"; {text}" if text else ""


def _printed(distance: Band | None, data: Band) -> tuple[Advice | None, str, int]:
    """The printed advice, what is said of it, and the paper's splits behind it."""
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


def decide_for(situation: Situation, evidence: Evidence | None) -> Decision:
    """`decide` for a situation; evidence None hears the paper alone."""
    pairs = _no_pairs() if evidence is None else tune_freeze_pairs(evidence)
    return decide(pairs, situation.cosine, situation.images_per_class)


def _no_pairs() -> pd.DataFrame:
    return pd.DataFrame({"data_band": [], "distance_band": []})


# --- what following it costs --------------------------------------------------------------------


@dataclass(frozen=True)
class Regret:
    """How much accuracy each way of deciding loses against the better of tuning and freezing.

    Attributes:
        table: strategy, regret_points (mean), low, high, n, unit, better_arm (share of pairs where
            the better arm was taken), trainings (of each decision), note.
        held_out: what was left out at a time: target, or class draw where there is one target.
        groups: how many there are.
        without_validation: pairs left out since trying both cannot be settled.
    """

    table: pd.DataFrame
    held_out: Literal["target", "class draw"]
    groups: int
    without_validation: int


def regret(evidence: Evidence) -> Regret:
    """Leave-one-target-out: each target is decided by the runs on the others.

    Trying both takes the arm with the better validation accuracy and trains twice. Smaller numbers
    of classes of one target ("… take 10") are left out with it.

    Raises:
        DataError: with fewer than two targets (or class draws) that have both arms.
    """
    every = tune_freeze_pairs(evidence)
    pairs = every[every["left_val"].notna() & every["right_val"].notna()]
    families = pairs["dataset"].astype(str) + " " + pairs["target"].map(_family)
    held_out: Literal["target", "class draw"] = "target"
    if families.nunique() < 2:
        families, held_out = pairs["task"].map(_family), "class draw"
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
    rows = [_strategy_row(name, outcomes) for name in _STRATEGIES]
    table = pd.DataFrame([row for row in rows if row is not None])
    return Regret(table, held_out, len(groups), len(every) - len(pairs))


_STRATEGIES = ("this advice", f"{PAPER} as printed", "always tune", "always freeze", "try both")


def _family(label: object) -> str:
    """A target's label without how many of its classes are taken."""
    return re.sub(r" take \d+", "", str(label))


def _outcomes(inside: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Points lost by each strategy for each pair of the target left out."""
    known: dict[tuple[str, str], Advice] = {}
    rows = []
    for row in inside.to_dict("records"):
        bands = str(row["distance_band"]), str(row["data_band"])
        cosine = None if bands[0] == "unknown" else float(row["distance"])
        if cosine is not None:
            bands = distance_band(cosine), bands[1]
        if bands not in known:
            known[bands] = decide(others, cosine, float(row["n_per_class"])).advice
        advised: dict[str, Advice | None] = {
            "this advice": known[bands],
            f"{PAPER} as printed": _as_printed(cosine, float(row["n_per_class"])),
            "always tune": "tune",
            "always freeze": "freeze",
            "try both": "try both",
        }
        for name, advice in advised.items():
            if advice is not None:
                lost, trainings = _lost(row, advice)
                rows.append((row["task"], row["seed"], name, lost, trainings))
    columns = ["task", "seed", "strategy", "lost", "trainings"]
    return pd.DataFrame(rows, columns=columns)


def _as_printed(cosine: float | None, images_per_class: float) -> Advice | None:
    if cosine is None:
        return None
    return printed_advice(distance_band(cosine), data_band(images_per_class))


def _lost(row: dict[object, object] | dict[str, object], advice: Advice) -> tuple[float, int]:
    """Points below the better arm, and how many trainings the advice takes."""
    tuned, frozen = float(str(row["left"])), float(str(row["right"]))
    tune = advice == "tune"
    if advice == "try both":
        tune = float(str(row["left_val"])) >= float(str(row["right_val"]))
    chosen = tuned if tune else frozen
    return 100 * (max(tuned, frozen) - chosen), 2 if advice == "try both" else 1


def _strategy_row(name: str, outcomes: pd.DataFrame) -> dict[str, object] | None:
    rows = outcomes[outcomes["strategy"] == name]
    if rows.empty:
        return None
    e = summarise(rows, "lost", f"regret of {name}")
    return {
        "strategy": name,
        "regret_points": e.value,
        "low": e.low,
        "high": e.high,
        "n": e.n,
        "unit": e.unit,
        "better_arm": float((rows["lost"] <= 1e-9).mean()),
        "trainings": float(rows["trainings"].mean()),
        "note": e.note,
    }
