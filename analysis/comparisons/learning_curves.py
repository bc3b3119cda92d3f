"""Accuracy against images per class: a power law, how many more labels, and where curves cross.

The error of a classifier falls about as scale · n^-exponent with n images per class.
"Multifaceted Analysis of Fine-Tuning …" (Fig. 12) and "Best Practices for Fine-tuning …" (Fig. 2)
draw accuracy or ratios against n; the point where tuning overtakes freezing, or scratch overtakes
a pretrained network, is what a user who can label more images wants to know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.comparisons.units import Kind, combined, observation, repetitions
from analysis.statistics.corrections import finite
from bench.core.errors import DataError
from bench.core.text import counted
from bench.results.intervals import Estimate, estimate

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """error(n) = scale · n^-exponent; `smallest` and `largest` images per class were measured."""

    scale: float
    exponent: float
    smallest: float
    largest: float

    def error(self, images_per_class: float) -> float:
        """The fitted error, a fraction."""
        return float(self.scale * images_per_class**-self.exponent)

    def images_for(self, accuracy: float) -> float | None:
        """Images per class at which the law reaches an accuracy: "how many more labels?".

        None where the error does not fall, or so slowly that no float holds the number.
        """
        if not 0 < accuracy < 1 or self.exponent <= 0:
            return None
        ratio = self.scale / (1 - accuracy)
        flat = math.log(ratio) > 700 * self.exponent
        return None if flat else float(ratio ** (1 / self.exponent))


def fit_power_law(images_per_class: npt.ArrayLike, error: npt.ArrayLike) -> PowerLaw:
    """Fit a straight line through the logarithms of n and of the error (1 - accuracy).

    Args:
        images_per_class, error: a point per run; runs of several seeds repeat the same n.

    Intervals come from laws fitted to each repetition, see `repeated_laws`.

    Raises:
        DataError: with fewer than three different n, or an error that is not positive.

    >>> n = [5, 10, 20, 40]
    >>> round(fit_power_law(n, [2 * x**-0.5 for x in n]).exponent, 6)
    0.5
    """
    x, y = finite(images_per_class, "images per class"), finite(error, "the errors")
    sizes = np.unique(x).size
    if x.size != y.size:
        raise DataError(f"{x.size} sizes and {y.size} errors")
    if sizes < 3:
        raise DataError(
            f"{sizes} different numbers of images per class ({x.size} points)",
            hint="a power law needs 3 or more: add values to images_per_class",
        )
    if (x <= 0).any() or (y <= 0).any():
        raise DataError("images per class and errors must be positive")
    design = np.column_stack([np.ones(x.size), -np.log(x)])
    log_scale, exponent = map(float, np.linalg.lstsq(design, np.log(y), rcond=None)[0])
    return PowerLaw(math.exp(log_scale), exponent, float(x.min()), float(x.max()))


def repeated_laws(runs: pd.DataFrame) -> pd.DataFrame:
    """A power law for each repetition that has three sizes or more: task, seed, exponent, law.

    Fitted one by one since the runs of a repetition share their draws; repetitions whose errors
    allow no fit are left out. `per_image` and `image_variance` say what the exponent owes to the
    test images, to first order.

    Args:
        runs: with task, seed, n_per_class and top1_accuracy.
    """
    found: list[dict[str, Any]] = []
    for (task, seed), group in runs.groupby(["task", "seed"], sort=True):
        sizes = [float(n) for n in group["n_per_class"]]
        try:
            law = fit_power_law(sizes, [1 - float(a) for a in group["top1_accuracy"]])
        except DataError:
            continue
        rows = repetitions(group, "n_per_class")
        row = {"task": task, "seed": seed, "exponent": law.exponent, "law": law, "runs": rows}
        found.append(row | _through_errors(rows, -_slope_weights(rows)))
    columns = ["task", "seed", "exponent", "law", "runs", "train_images", "available_images"]
    return pd.DataFrame(found, columns=[*columns, "per_image", "image_variance"])


def _slope_weights(rows: Sequence[Mapping[Any, Any]]) -> Array:
    """Weights of log errors in the least-squares slope against log n."""
    logs = np.log([float(row["n_per_class"]) for row in rows])
    centred = logs - logs.mean()
    weights: Array = centred / float(centred @ centred)
    return weights


def _through_errors(rows: Sequence[Mapping[Any, Any]], weights: Array) -> dict[str, Any]:
    """What a weighted sum of the logarithms of errors owes to test images and draws."""
    errors = np.array([1 - float(row["top1_accuracy"]) for row in rows])
    return combined(rows, list(-weights / errors), "accuracy")


def images_wanted(laws: pd.DataFrame, accuracy: float) -> pd.DataFrame:
    """The repetitions whose curve gets to an accuracy, with `log_images`, the logarithm of n there.

    `per_image` and `image_variance` say what that owes to the test images, to first order.

    Args:
        laws: of `repeated_laws`.
    """
    found = []
    for law in laws.to_dict("records"):
        row: dict[str, Any] = {str(name): value for name, value in law.items()}
        images = row["law"].images_for(accuracy)
        if images is None:
            continue
        log = math.log(images)
        # log n = (intercept - log wanted) / exponent: both are sums of the logarithms of errors.
        slopes = _slope_weights(row["runs"])
        middle = float(np.log([float(run["n_per_class"]) for run in row["runs"]]).mean())
        intercepts = 1 / len(row["runs"]) - slopes * middle
        weights = (intercepts + log * slopes) / row["law"].exponent
        found.append(row | {"log_images": log} | _through_errors(row["runs"], weights))
    return pd.DataFrame(found, columns=[*laws.columns, "log_images"])


@dataclass(frozen=True)
class Crossing:
    """Where the better of two arms changes, in images per class.

    Attributes:
        images_per_class: None where the mean curves do not cross within what was measured.
        low, high: ends of the 95 % confidence set: the sizes at which a difference of zero is not
            rejected (E. C. Fieller, 1954); None without repetitions, or where it reaches an end of
            what was measured and so has no bound.
        above: which arm is better beyond the crossing (or throughout): left, right or neither.
        n, unit: what the intervals count, tasks or the seeds of one.
    """

    images_per_class: float | None
    low: float | None
    high: float | None
    above: str
    n: int
    unit: str
    note: str = ""


_LEAST_UNITS = 3
"""Tasks, or seeds of one task, that the interval of a crossing needs."""


def crossing(pairs: pd.DataFrame, name: str, points: int = 120) -> Crossing:
    """The last crossing of two learning curves, from pairs of runs with all else fixed.

    The difference is interpolated linearly in log n between the sizes measured, in each repetition;
    its interval at a size is that of its mean over tasks (`analysis.comparisons.units.summarise`).

    Args:
        pairs: the frame of `analysis.comparisons.pairing.Pairs`: n_per_class, difference, task and
            seed.
        name: of the comparison, for the error.
        points: sizes looked at between the smallest and the largest.

    Raises:
        DataError: with fewer than two sizes that one repetition has.
    """
    known = pairs[pairs["n_per_class"].notna()]
    table = known.pivot_table(
        index=["task", "seed"], columns="n_per_class", values="difference", aggfunc="mean"
    ).sort_index()
    if table.shape[1] < 2 or table.empty:
        raise DataError(
            f"{table.shape[1]} different numbers of images per class for {name}",
            hint="a crossing needs two or more: add values to images_per_class",
        )
    repetitions = len(table)
    table = table.dropna()
    if table.empty:
        raise DataError(f"no repetition of {name} has every number of images per class")
    sizes = np.array([float(n) for n in table.columns])
    logs = np.log(sizes)
    runs = _by_size(known, table, sizes)
    mean = np.array([_at(runs, logs, x).value for x in logs])
    at = _last_crossing(sizes, mean)
    above = "left" if mean[-1] > 0 else "right" if mean[-1] < 0 else "neither"
    first = _at(runs, logs, float(logs[0]))
    said = [] if at is not None else [f"no crossing between {sizes[0]:g} and {sizes[-1]:g}"]
    if len(table) < repetitions:
        said.append(f"{repetitions - len(table)} repetitions lack a size and were left out")
    low = high = None
    if at is not None and first.low is not None and first.n >= _LEAST_UNITS:
        ends = _ends(lambda x: _holds_zero(_at(runs, logs, x)), logs, math.log(at), points)
        if ends is None:
            said.append("a crossing elsewhere, or none, is not excluded")
        else:
            low, high = (math.exp(x) for x in ends)
    if at is not None and first.n < _LEAST_UNITS:
        said.append(f"{counted(first.n, first.unit)}: an interval needs {_LEAST_UNITS}")
    said += [first.note] if first.note else []
    return Crossing(at, low, high, above, first.n, first.unit, "; ".join(said))


Repetition = list[dict[Any, Any]]


def _by_size(known: pd.DataFrame, table: pd.DataFrame, sizes: Array) -> list[Repetition]:
    """Each repetition's rows, one for each size; further rows of a size are averaged in value."""
    groups: dict[tuple[Any, Any, float], Repetition] = {}
    for row in repetitions(known, "n_per_class", "difference"):
        groups.setdefault((row["task"], row["seed"], float(row["n_per_class"])), []).append(row)
    return [
        [
            group[0] | {"value": float(np.mean([row["difference"] for row in group]))}
            for group in (groups[task, seed, float(n)] for n in sizes)
        ]
        for task, seed in table.index
    ]


def _at(runs: Sequence[Repetition], logs: Array, x: float) -> Estimate:
    """The mean difference at one size, interpolated in the logarithm within each repetition."""
    j = int(np.clip(np.searchsorted(logs, x), 1, len(logs) - 1))
    share = float(np.clip((x - logs[j - 1]) / (logs[j] - logs[j - 1]), 0.0, 1.0))
    weights = (1 - share, share)
    found = []
    for rows in runs:
        pair_ = rows[j - 1], rows[j]
        value = sum(w * row["value"] for w, row in zip(weights, pair_, strict=True))
        whole = {"task": pair_[0]["task"], "seed": pair_[0]["seed"]}
        kind: Kind = "difference" if "left" in pair_[0] else "other"
        given = combined(pair_, weights, kind)
        found.append(observation(whole | given, float(value), "given", 1.0))
    return estimate(found)


def _holds_zero(e: Estimate) -> bool:
    return e.low is None or e.high is None or e.low <= 0 <= e.high


def _ends(
    inside: Callable[[float], bool], logs: Array, at: float, points: int
) -> tuple[float, float] | None:
    """Ends of the set around a crossing; None where it reaches an end of what was measured."""
    grid = sorted({*np.linspace(logs[0], logs[-1], points).tolist(), at})
    zero = [x for x in grid if x == at or inside(x)]
    if zero[0] == grid[0] or zero[-1] == grid[-1]:
        return None
    before = grid[grid.index(zero[0]) - 1]
    after = grid[grid.index(zero[-1]) + 1]
    return _border(inside, zero[0], before), _border(inside, zero[-1], after)


def _border(inside: Callable[[float], bool], within: float, outside: float) -> float:
    """Where the set ends between a point in it and one outside; the end outside is given."""
    for _ in range(30):
        middle = (within + outside) / 2
        if inside(middle):
            within = middle
        else:
            outside = middle
    return outside


def _last_crossing(sizes: Array, difference: Array) -> float | None:
    """Where the difference changes sign for the last time; touching 0 without that is none."""
    signs = np.sign(difference)
    nonzero = np.flatnonzero(signs)
    changes = [(i, j) for i, j in pairwise(nonzero) if signs[i] != signs[j]]
    if not changes:
        return None
    i, j = changes[-1]
    if j > i + 1:
        return float(sizes[i + 1])
    share = difference[i] / (difference[i] - difference[j])
    return float(sizes[i] ** (1 - share) * sizes[j] ** share)
