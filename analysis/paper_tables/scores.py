"""Scores of a condition's repetitions as a paper prints them: mean, spread, interval, counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparisons.evidence import ClassPrecisions, Outputs
from analysis.comparisons.units import Kind, combined, summarise
from analysis.leaderboard.labels import number
from analysis.leaderboard.read import SEEDS, key_of, repetition, varying
from analysis.paper_tables.cells import Cell
from bench.results.intervals import BOUNDED, WITHOUT_IMAGES, Estimate, clipped


@dataclass(frozen=True)
class Score:
    """A number with its interval and sample standard deviation over `n` of what is `counted`."""

    value: float | str
    low: float | None
    high: float | None
    spread: float | None
    n: int
    counted: str
    note: str = ""


def _fact(rows: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column of numbers, missing where the leaderboard has no such column."""
    values = rows[name] if name in rows.columns else pd.Series(math.nan, index=rows.index)
    return pd.to_numeric(values).astype(float)


COUNTS: Mapping[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "target_classes": lambda rows: _fact(rows, "target_classes"),
    "borrowed_classes": lambda rows: _fact(rows, "borrowed_classes"),
    "borrowed_images": lambda rows: _fact(rows, "borrowed_images"),
    "test_images": lambda rows: _fact(rows, "test_images"),
    "images_per_class": lambda rows: _fact(rows, "images_per_class"),
    "training and validation images": lambda rows: (
        _fact(rows, "train_images") + _fact(rows, "val_images")
    ),
    "validation images per class": lambda rows: (
        _fact(rows, "val_images") / _fact(rows, "target_classes")
    ),
    "test images per class": lambda rows: (
        _fact(rows, "test_images") / _fact(rows, "target_classes")
    ),
}
"""Facts of a run's data, which have no interval."""


def fact_of(rows: pd.DataFrame, metric: str) -> Score | None:
    """A fact of the data; from the smallest to the largest where the runs differ in it.

    >>> fact_of(pd.DataFrame({"test_images": [400, 400]}), "test_images").value
    400.0
    """
    values = sorted({float(v) for v in COUNTS[metric](rows).dropna()})
    if not values:
        return None
    least, most = (number(round(value, 1)) for value in (values[0], values[-1]))
    ends = least if least == most else f"{least} to {most}"
    return Score(values[0] if len(values) == 1 else ends, None, None, None, len(rows), "run")


def of_class(rows: pd.DataFrame, cell: Cell, precisions: ClassPrecisions) -> pd.DataFrame:
    """The rows with the average precision of the cell's class as its metric.

    A run that diverged has that of guessing; one whose record has none, or whose target has no
    such class, has none.
    """
    values = [
        1 / row["target_classes"]
        if row["status"] == "diverged"
        else precisions(str(row["run_id"])).get(cell.class_name)
        for row in rows.to_dict("records")
    ]
    return rows.assign(**{cell.metric: pd.Series(values, index=rows.index, dtype=float)})


def score_of(arms: Sequence[pd.DataFrame], metric: str) -> Score | None:
    """The mean of one arm, or of one less the other, in percent; None without a value.

    Repetitions are tasks (class draws) and seeds; see `bench.results.intervals`. Two arms are
    paired by both. Each must be one condition (`several`).

    Args:
        arms: finished rows of a prepared leaderboard, one or two tables.
        metric: a column with shares of one.
    """
    tables = [_by_repetition(rows, metric) for rows in arms]
    shared = [key for key in tables[0] if all(key in other for other in tables)]
    if not shared:
        return None
    units = pd.DataFrame([_unit(key, [t[key] for t in tables], metric) for key in shared])
    found = summarise(units, "value", metric, "given")
    if len(arms) == 1:
        found = clipped(found, 0.0, 100.0)
    spread = float(np.std(units["value"], ddof=1)) if len(units) > 1 else None
    away = f"{found.diverged} diverged, at chance" if found.diverged else ""
    notes = [_few_pairs(arms, metric), away, _images(found)]
    note = "; ".join(text for text in notes if text)
    return Score(found.value, found.low, found.high, spread, found.n, found.unit, note)


def averaged(arms: Sequence[pd.DataFrame], outputs: Outputs) -> Score | None:
    """Mean class accuracy, in percent, of the mean of two arms' softmax outputs.

    None without a task and seed of which both have left their predictions on the same images.
    """
    from bench.training.evaluation import mean_class_accuracy, softmax

    sides = [_by_repetition(rows, "top1_accuracy") for rows in arms]
    units = []
    for task, seed in sides[0].keys() & sides[1].keys():
        found = [outputs(str(side[task, seed][0]["run_id"])) for side in sides]
        known = [one for one in found if one is not None]
        if len(known) == 2 and np.array_equal(known[0][1], known[1][1]):
            mean = 0.5 * (softmax(known[0][0]) + softmax(known[1][0]))
            value = 100.0 * mean_class_accuracy(mean, known[0][1])
            units.append({"task": task, "seed": seed, "value": value})
    if not units:
        return None
    table = pd.DataFrame(units).sort_values(["task", "seed"], ignore_index=True)
    e = clipped(summarise(table, "value", "mean of two outputs"), 0.0, 100.0)
    spread = float(np.std(table["value"], ddof=1)) if len(table) > 1 else None
    return Score(e.value, e.low, e.high, spread, e.n, e.unit, _images(e))


_IMAGES = {
    WITHOUT_IMAGES: "without the test images' error",
    BOUNDED: "the test images' error is bounded",
}


def _images(e: Estimate) -> str:
    """What the interval says of the test images; a missing one is seen by its absence."""
    return _IMAGES.get(e.note, e.note) if e.low is not None else ""


Rows = list[dict[Any, Any]]


def _by_repetition(rows: pd.DataFrame, metric: str) -> dict[tuple[str, str], Rows]:
    """(task, seeds) to the rows that have the metric."""
    if metric not in rows.columns:
        return {}
    known = rows[rows[metric].notna()]
    found: dict[tuple[str, str], Rows] = {}
    if known.empty:
        return found
    places = zip(known["task"], key_of(known, SEEDS), known.to_dict("records"), strict=True)
    for task, seeds, row in places:
        found.setdefault((str(task), str(seeds)), []).append(row)
    return dict(sorted(found.items()))


def _unit(key: tuple[str, str], sides: Sequence[Rows], metric: str) -> dict[str, Any]:
    """The mean of one arm, less that of the other, of one repetition, in percent."""
    rows = [row for side in sides for row in side]
    weights = [s / len(rs) for s, rs in zip((1.0, -1.0), sides, strict=False) for _ in rs]
    value = 100.0 * sum(w * float(r[metric]) for w, r in zip(weights, rows, strict=True))
    away = sum(row["status"] == "diverged" for row in rows)
    kind: Kind = "accuracy" if metric == "top1_accuracy" else "other"
    unit = {"task": key[0], "seed": key[1], "value": value, "diverged": away}
    return unit | combined(rows, weights, kind, 100.0)


def several(rows: pd.DataFrame) -> str:
    """What the conditions of an arm differ in, in words; empty for a single condition.

    A mean over several would be none of them, so it is not taken.
    """
    if len(rows) < 2:
        return ""
    held = [name for name in varying(rows) if not repetition(name)]
    apart = [name for name in held if key_of(rows, [name]).nunique() > 1]
    if not apart:
        return ""
    conditions = key_of(rows, held).nunique()
    return f"{conditions} conditions, which differ in {', '.join(apart)}: no mean is taken"


def _few_pairs(arms: Sequence[pd.DataFrame], metric: str) -> str:
    """A rate of verification that the run itself warns of."""
    far = metric.removeprefix("tar_at_far_")
    if far == metric:
        return ""
    for rows in arms:
        if "verification_warning" in rows.columns:
            for text in rows["verification_warning"].dropna():
                if f"FAR {float(far):g}:" in str(text):
                    return "too few impostor pairs for this rate"
    return ""
