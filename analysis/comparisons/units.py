"""From rows of a table to an estimate: which rows repeat each other, and what each one carries.

A general statement repeats over tasks; seeds are averaged within a task first, and so are the
sizes that one comparison was tried at (`bench.results.intervals`). What a value owes to the test
images follows from the predictions where they are known, and is bounded from counts where they are
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench.core.errors import DataError
from bench.results.intervals import Estimate, Observation, estimate

Kind = Literal["difference", "ratio", "accuracy", "given", "other"]
"""What a column holds: a difference or the logarithm of a ratio of `left` and `right`, an accuracy
of one arm, a number whose columns `per_image` and `image_variance` say what it owes to the test
images (`combined`), or a number of which that is not known."""


def summarise(
    frame: pd.DataFrame, column: str, name: str, kind: Kind = "other", scale: float = 1.0
) -> Estimate:
    """Mean of a column with the interval that the repetitions allow; see `bench.results.intervals`.

    Args:
        frame: rows with `task`, `seed`, optionally `size` (averaged over within a task) and
            `diverged`; for pairs the columns of `analysis.comparisons.pairing.Pairs`.
        column: the values.
        name: of what is estimated, for the error.
        kind: how the values come from accuracies, so that the test images' error is known.
        scale: what the values were multiplied with, such as 100 for points.

    Raises:
        DataError: without a row, or with a value that is not finite.

    >>> rows = pd.DataFrame({"task": ["a", "a", "b"], "seed": [0, 1, 0], "v": [1.0, 3.0, 4.0]})
    >>> found = summarise(rows, "v", "an example")
    >>> found.value, found.n, found.unit
    (3.0, 2, 'task')
    """
    if frame.empty:
        raise DataError(f"no values for {name}", hint="run the experiments it needs first")
    values = frame[column].astype(float)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"{bad} of {len(values)} values of {name} are not finite")
    return estimate(
        [
            observation(row, float(value), kind, scale)
            for row, value in zip(repetitions(frame), values, strict=True)
        ]
    )


_READ = (
    *("task", "seed", "size", "diverged", "train_images", "available_images", "test_images"),
    *("left", "right", "left_correct", "right_correct", "top1_accuracy", "correct"),
    *("per_image", "image_variance"),
)


def repetitions(frame: pd.DataFrame, *more: str) -> list[dict[Any, Any]]:
    """The rows as `observation` and `combined` read them, and the columns in `more`."""
    return frame[[n for n in dict.fromkeys((*_READ, *more)) if n in frame]].to_dict("records")


def observation(row: Mapping[Any, Any], value: float, kind: Kind, scale: float) -> Observation:
    """One row's value with what it owes to seeds, test images and its training draw."""
    return Observation(
        str(row["task"]),
        str(row["seed"]),
        value,
        str(row.get("size", "")),
        _per_image(row, kind, scale),
        _bound(row, kind, scale),
        _overlap(row),
        int(row.get("diverged") or 0),
    )


def combined(
    rows: Sequence[Mapping[Any, Any]], weights: Sequence[float], kind: Kind, scale: float = 1.0
) -> dict[str, Any]:
    """What a weighted sum of rows' values on the same test images owes to images and draws.

    Returns:
        `per_image` and `image_variance`; `train_images` and `available_images` of the row whose
        training draws share most.

    Args:
        rows: of one task, such as one repetition at several sizes; `kind` and `scale` as for
            `summarise`.

    The bound takes the rows' errors as fully correlated, which is the most that they can be.
    """
    parts = [_per_image(row, kind, scale) for row in rows]
    bounds = [_bound(row, kind, scale) for row in rows]
    images = None
    if parts and all(p is not None and p.size == parts[0].size for p in parts):
        images = np.sum([w * p for w, p in zip(weights, parts, strict=True)], axis=0)
    known = [b for b in bounds if b is not None]
    variance = None
    if len(known) == len(bounds):
        variance = sum(abs(w) * b**0.5 for w, b in zip(weights, known, strict=True)) ** 2
    return {"per_image": images, "image_variance": variance} | _widest(rows)


def _widest(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    known = [row for row in rows if _overlap(row) is not None]
    if not known:
        return {}
    most = max(known, key=lambda row: _overlap(row) or 0.0)
    return {name: most[name] for name in ("train_images", "available_images")}


def _per_image(row: Mapping[Any, Any], kind: Kind, scale: float) -> Any:
    if kind == "given":
        return row["per_image"] if isinstance(row.get("per_image"), np.ndarray) else None
    if kind == "accuracy":
        truth = row.get("correct")
        return scale * truth.astype(float) if isinstance(truth, np.ndarray) else None
    sides = [row.get("left_correct"), row.get("right_correct")]
    if kind == "other" or not all(isinstance(side, np.ndarray) for side in sides):
        return None
    left, right = (np.asarray(side, dtype=float) for side in sides)
    if left.size != right.size:
        return None
    if kind == "ratio":
        return scale * (left / row["left"] - right / row["right"])
    return scale * (left - right)


def _bound(row: Mapping[Any, Any], kind: Kind, scale: float) -> float | None:
    """The variance of a value from drawing test images if the arms erred independently.

    Arms of one task err on the same images, so that the variance of their difference is smaller.
    """
    if kind == "given":
        given = row.get("image_variance")
        return None if given is None or given != given else float(given)
    images = row.get("test_images")
    if kind == "other" or not images or images != images:
        return None
    if kind == "accuracy":
        p = float(row["top1_accuracy"])
        return float(scale**2 * p * (1 - p) / images)
    sides = [float(row["left"]), float(row["right"])]
    if kind == "ratio":
        return float(scale**2 * sum((1 - p) / p for p in sides) / images)
    return float(scale**2 * sum(p * (1 - p) for p in sides) / images)


def _overlap(row: Mapping[Any, Any]) -> float | None:
    used, available = row.get("train_images"), row.get("available_images")
    if not used or not available or used != used or available != available:
        return None
    return float(used) / float(available)
