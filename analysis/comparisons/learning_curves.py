"""Accuracy against images per class: a power law, how many more labels, and where curves cross.

The error of a classifier falls about as scale · n^-exponent + floor with n images per class.
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
from scipy import optimize, stats

from analysis.comparisons.units import Kind, combined, observation
from analysis.statistics.corrections import finite, generator
from bench.core.errors import DataError
from bench.core.text import counted
from bench.results.intervals import Estimate, estimate

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """error(n) = scale · n^-exponent + floor, with the exponent's 95 % interval.

    Attributes:
        covariance: of (log scale, exponent[, floor]), as fitted.
        smallest, largest: images per class that were measured; beyond is extrapolation.
        n: points fitted.
    """

    scale: float
    exponent: float
    floor: float
    exponent_low: float
    exponent_high: float
    covariance: Array
    smallest: float
    largest: float
    n: int

    def error(self, images_per_class: float) -> float:
        """The fitted error, a fraction."""
        return float(self.scale * images_per_class**-self.exponent + self.floor)


def fit_power_law(
    images_per_class: npt.ArrayLike, error: npt.ArrayLike, floor: float | None = 0.0
) -> PowerLaw:
    """Fits the law to measured errors (1 - accuracy).

    Args:
        images_per_class, error: a point per run; runs of several seeds repeat the same n.
        floor: the error that no number of images removes; None fits it too.

    With a given floor this is a straight line through log(error - floor) against log n and the
    interval is that of its slope; with a free floor, least squares on the error. Either interval is
    Student's t on the points left over.

    Raises:
        DataError: with fewer than three different n (four with a free floor), or an error at or
            below the floor.

    >>> n = [5, 10, 20, 40]
    >>> round(fit_power_law(n, [2 * x**-0.5 for x in n]).exponent, 6)
    0.5
    """
    x, y = finite(images_per_class, "images per class"), finite(error, "the errors")
    free = floor is None
    sizes, needed = np.unique(x).size, 4 if free else 3
    if x.size != y.size:
        raise DataError(f"{x.size} sizes and {y.size} errors")
    if sizes < needed or x.size < needed + (1 if free else 0):
        raise DataError(
            f"{sizes} different numbers of images per class ({x.size} points)",
            hint=f"a power law needs {needed} or more: add values to images_per_class",
        )
    if (x <= 0).any() or (y <= (floor or 0.0)).any():
        raise DataError("images per class and error above the floor must be positive")
    log_scale, exponent, base, covariance = _free(x, y) if floor is None else _line(x, y, floor)
    half = float(stats.t.ppf(0.975, x.size - len(covariance)) * math.sqrt(covariance[1, 1]))
    return PowerLaw(
        math.exp(log_scale),
        exponent,
        base,
        exponent - half,
        exponent + half,
        covariance,
        float(x.min()),
        float(x.max()),
        x.size,
    )


def _line(x: Array, y: Array, floor: float) -> tuple[float, float, float, Array]:
    design = np.column_stack([np.ones(x.size), -np.log(x)])
    target = np.log(y - floor)
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    residual = target - design @ solution
    variance = float(residual @ residual) / (x.size - 2)
    covariance: Array = variance * np.linalg.inv(design.T @ design)
    return float(solution[0]), float(solution[1]), floor, covariance


def _free(x: Array, y: Array) -> tuple[float, float, float, Array]:
    def law(n: Array, log_scale: float, exponent: float, floor: float) -> Array:
        errors: Array = np.exp(log_scale - exponent * np.log(n)) + floor
        return errors

    start = _line(x, y, 0.5 * float(y.min()))
    bounds = ([-50.0, 0.0, 0.0], [50.0, 10.0, float(y.min())])
    first = [start[0], min(max(start[1], 0.01), 9.0), 0.5 * float(y.min())]
    try:
        found, covariance = optimize.curve_fit(law, x, y, p0=first, bounds=bounds, maxfev=20_000)
    except RuntimeError as reason:
        raise DataError(f"the power law did not fit: {reason}", hint="give a floor") from None
    if not np.isfinite(covariance).all():
        raise DataError("the floor cannot be told from these points", hint="give a floor")
    return float(found[0]), float(found[1]), float(found[2]), np.asarray(covariance)


@dataclass(frozen=True)
class Needed:
    """Images per class for an accuracy; `low`, `high` bound it at 95 %, None: no bound."""

    images_per_class: float
    low: float | None
    high: float | None
    extrapolated: bool


def images_for(law: PowerLaw, accuracy: float, draws: int = 2000) -> Needed:
    """How many images per class the law wants for an accuracy: "how many more labels?".

    The interval comes from parameters drawn from the fit's normal approximation; draws that never
    reach the accuracy count as infinitely many images.

    Raises:
        DataError: when the law's floor keeps the accuracy out of reach, or error does not fall.
    """
    if not 0 < accuracy < 1:
        raise DataError(f"accuracy {accuracy} is not a fraction between 0 and 1")
    wanted = 1 - accuracy - law.floor
    flat = law.exponent <= 0
    # more than e^700 images are more than a float can say
    if wanted <= 0 or flat or math.log(law.scale / wanted) > 700 * law.exponent:
        why = f"an error that {'does not fall' if flat else 'hardly falls'}"
        why = "its floor" if wanted <= 0 else why
        raise DataError(
            f"accuracy {accuracy:g} is out of reach of the fitted curve: {why}",
            hint="more images of this kind will not do; change the source or the method",
        )
    mean = np.array([math.log(law.scale), law.exponent, law.floor][: len(law.covariance)])
    rng = generator("images for", accuracy)
    sample = rng.multivariate_normal(mean, law.covariance, size=draws, method="eigh")
    floors = sample[:, 2] if sample.shape[1] == 3 else np.full(draws, law.floor)
    left = 1 - accuracy - floors
    reachable = (left > 0) & (sample[:, 1] > 0)
    images = np.full(draws, np.inf)
    logs = (sample[reachable, 0] - np.log(left[reachable])) / sample[reachable, 1]
    images[reachable] = np.exp(np.minimum(logs, 700))
    low, high = np.quantile(images, [0.025, 0.975], method="nearest")
    value = (law.scale / wanted) ** (1 / law.exponent)
    outside = not law.smallest <= value <= law.largest
    return Needed(
        value,
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
        outside,
    )


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
        rows = group.to_dict("records")
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
        try:
            log = math.log(images_for(row["law"], accuracy, draws=2).images_per_class)
        except (DataError, OverflowError):
            continue
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


Repetition = list[dict[str, Any]]


def _by_size(known: pd.DataFrame, table: pd.DataFrame, sizes: Array) -> list[Repetition]:
    """Each repetition's rows, one for each size; further rows of a size are averaged in value."""
    groups = dict(iter(known.groupby(["task", "seed", "n_per_class"])))
    runs = []
    for task, seed in table.index:
        rows = []
        for n in sizes:
            group = groups[task, seed, n]
            row = {str(k): v for k, v in group.iloc[0].to_dict().items()}
            rows.append(row | {"value": float(group["difference"].mean())})
        runs.append(rows)
    return runs


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
