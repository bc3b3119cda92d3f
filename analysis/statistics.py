"""Intervals, paired differences and corrections: what a difference between runs is worth.

All four papers report one to five runs. Here a difference is claimed only where the interval of
the *paired* difference excludes zero. Repetitions are nested: a draw of classes (a task) holds
several seeds. With few draws Student's t over the draws' means is used, since a bootstrap over a
handful of groups is too narrow; from `BOOTSTRAP_FROM` draws on, the bootstrap over draws and,
inside each, over seeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.errors import DataError

__all__ = [
    "BOOTSTRAP_FROM",
    "NO_SPREAD",
    "Comparison",
    "Estimate",
    "bootstrap_interval",
    "compare",
    "generator",
    "hierarchical_bootstrap",
    "holm",
    "interval",
    "logit_accuracy",
    "rank",
    "sign_test",
    "student_interval",
    "wilcoxon_test",
]

Array = npt.NDArray[np.float64]
NO_SPREAD = "all repetitions gave the same value: there is no spread to judge it by"
BOOTSTRAP_FROM = 10
"""From so many class draws on, an interval is a hierarchical bootstrap."""


def generator(*words: object) -> np.random.Generator:
    """A random generator named by words: the same on every machine and in every process.

    >>> int(generator("images", 0).integers(100)) == int(generator("images", 0).integers(100))
    True
    """
    digest = hashlib.sha256("|".join(map(str, words)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `low` and `high` are None where no interval exists.

    `n` counts the units that `unit` names: the interval speaks of other units of that kind.
    `p` is the two-sided p-value of "the mean is zero", by the same method as the interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str = "value"
    method: str = "Student t"
    level: float = 0.95
    p: float | None = None
    note: str = ""

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """1 above zero, -1 below, by the whole interval; 0 where that cannot be said."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def finite(values: npt.ArrayLike, what: str) -> Array:
    """The values as a flat float array.

    Raises:
        DataError: when there are none, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise DataError(f"no values for {what}", hint="run the experiments it needs first")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(
            f"{bad} of {array.size} values of {what} are not finite",
            hint="leave diverged and missing runs out and say how many they were",
        )
    return array


def student_interval(
    values: npt.ArrayLike, level: float = 0.95, unit: str = "value", note: str = ""
) -> Estimate:
    """Student's interval of a mean, n - 1 degrees of freedom.

    There is none for a single value, nor for values that are all equal: accuracies are counts of
    test images, so that a few of them agree by luck, and a spread of 0 is no certainty.

    >>> estimate = student_interval([1.0, 2.0, 3.0])
    >>> round(estimate.low, 3), round(estimate.high, 3)
    (-0.484, 4.484)
    """
    array = finite(values, "an interval")
    mean, n = float(array.mean()), array.size
    if n == 1:
        alone = f"one {unit}: no interval"
        return Estimate(mean, None, None, 1, unit, level=level, note=_join(note, alone))
    if _all_equal(array):
        return Estimate(mean, None, None, n, unit, level=level, note=_join(note, NO_SPREAD))
    error = float(array.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Estimate(mean, mean - half, mean + half, n, unit, "Student t", level, p, note)


def _all_equal(array: Array) -> bool:
    """Equal but for the last digits of floating-point numbers."""
    return float(np.ptp(array)) <= 1e-9 * max(float(np.abs(array).max()), 1e-3)


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def bootstrap_interval(
    statistic: Callable[[Array], float],
    sample: npt.ArrayLike,
    name: str,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of a statistic of one sample, rows resampled; `name` seeds the draws.

    >>> bootstrap_interval(lambda x: float(x.mean()), [1.0, 2.0, 3.0, 4.0], "doc").value
    2.5
    """
    array = np.asarray(sample, dtype=np.float64)
    finite(array, f"the bootstrap of {name}")
    n = len(array)
    if n < 2:
        raise DataError(f"{n} value for the bootstrap of {name}", hint="two or more are needed")
    rng = generator("bootstrap", name)
    draws = np.array([statistic(array[rng.integers(n, size=n)]) for _ in range(resamples)])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    value = float(statistic(array))
    return Estimate(value, float(low), float(high), n, "value", "bootstrap", level)


def hierarchical_bootstrap(
    groups: Mapping[str, Sequence[float]],
    name: str,
    resamples: int = 4000,
    level: float = 0.95,
) -> Estimate:
    """Mean of the groups' means; draws are resampled, and inside each draw its seeds.

    Args:
        groups: values of each class draw, by the draw's name; every draw weighs the same.
        name: seeds the resampling.

    Raises:
        DataError: with fewer than two groups: between-draw spread cannot be seen.
    """
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} class draw for a bootstrap over draws",
            hint="add values to class_draw, or use an interval over seeds",
        )
    names = sorted(groups)
    values = [finite(groups[key], f"draw {key}") for key in names]
    sizes = np.array([v.size for v in values])
    padded = np.zeros((len(names), sizes.max()))
    for row, v in zip(padded, values, strict=True):
        row[: v.size] = v
    rng = generator("hierarchical", name)
    chosen = rng.integers(len(names), size=(resamples, len(names)))
    count = sizes[chosen][..., None]
    members = (rng.random((*chosen.shape, sizes.max())) * count).astype(np.int64)
    picked = padded[chosen[..., None], members]
    inside = np.arange(sizes.max()) < count
    means = ((picked * inside).sum(-1) / count[..., 0]).mean(-1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    value = float(np.mean([v.mean() for v in values]))
    if _all_equal(means):
        return Estimate(
            value,
            None,
            None,
            len(names),
            "class draw",
            "hierarchical bootstrap",
            level,
            None,
            NO_SPREAD,
        )
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    p = min(1.0, 2 * max(tail, 1 / resamples))
    return Estimate(
        value, float(low), float(high), len(names), "class draw", "hierarchical bootstrap", level, p
    )


def interval(groups: Mapping[str, Sequence[float]], name: str, level: float = 0.95) -> Estimate:
    """The interval that the repetitions allow: over class draws where there are several.

    One draw: Student's t over its seeds, and the note says that other classes were not tried.
    Fewer than `BOOTSTRAP_FROM` draws: t over their means. More: hierarchical bootstrap.

    >>> interval({"a": [1.0, 2.0]}, "doc").unit
    'seed'
    """
    if not groups:
        raise DataError(f"no values for {name}", hint="run the experiments it needs first")
    if len(groups) == 1:
        (values,) = groups.values()
        return student_interval(values, level, "seed", "one target: other classes were not tried")
    if len(groups) < BOOTSTRAP_FROM:
        means = [float(finite(groups[key], name).mean()) for key in sorted(groups)]
        return student_interval(means, level, "class draw")
    return hierarchical_bootstrap(groups, name, level=level)


def sign_test(differences: npt.ArrayLike) -> float:
    """Two-sided p-value that positive and negative differences are equally likely; zeros left out.

    >>> round(sign_test([1, 2, 3, 4, 5, 6]), 5)
    0.03125
    """
    array = finite(differences, "the sign test")
    positive, negative = int((array > 0).sum()), int((array < 0).sum())
    if positive + negative == 0:
        return 1.0
    return float(stats.binomtest(positive, positive + negative).pvalue)


def wilcoxon_test(differences: npt.ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; zero differences are left out.

    >>> round(wilcoxon_test([1, 2, 3, 4, 5, 6]), 5)
    0.03125
    """
    array = finite(differences, "Wilcoxon's test")
    array = array[array != 0]
    if array.size == 0:
        return 1.0
    tied = np.unique(np.abs(array)).size < array.size
    method = "approx" if tied or array.size > 50 else "exact"
    if tied and array.size <= 12:
        return _signed_rank_exact(array)
    return float(stats.wilcoxon(array, method=method).pvalue)


def _signed_rank_exact(array: Array) -> float:
    """With ties, every assignment of signs is counted; scipy's exact table has no ties."""
    ranks = stats.rankdata(np.abs(array))
    signs = (np.arange(2**array.size)[:, None] >> np.arange(array.size)) & 1
    sums = signs @ ranks
    observed, total = float(ranks[array > 0].sum()), float(ranks.sum())
    far = abs(observed - total / 2) - 1e-9
    return float((np.abs(sums - total / 2) >= far).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values of a family (S. Holm, 1979): smallest times m, next times m-1, …

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise DataError(f"p-value {p} of {name!r} is not between 0 and 1")
    ordered = sorted(p_values, key=lambda name: (p_values[name], name))
    adjusted: dict[str, float] = {}
    running = 0.0
    for place, name in enumerate(ordered):
        running = max(running, min(1.0, p_values[name] * (len(ordered) - place)))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def logit_accuracy(correct: npt.ArrayLike, total: npt.ArrayLike) -> Array:
    """ln((k + ½) / (n - k + ½)): accuracy on a scale that can be averaged over data sets.

    The logit of Kornblith et al. (2019); the halves keep 0 and 1 finite.

    >>> logit_accuracy([5], [10])
    array([0.])
    """
    k, n = np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64)
    if k.size == 0 or (n <= 0).any() or (k < 0).any() or (k > n).any():
        raise DataError("logit_accuracy needs 0 <= correct <= total and total > 0")
    ratio: Array = np.log((k + 0.5) / (n - k + 0.5))
    return ratio


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two arms; `claim` is made only where the interval excludes zero."""

    left: str
    right: str
    effect: Estimate
    p_sign: float
    p_wilcoxon: float
    p_holm: float | None
    claim: Literal["higher", "lower", "undecided"]


def compare(left: npt.ArrayLike, right: npt.ArrayLike, level: float = 0.95) -> Comparison:
    """Paired comparison of `left` with `right`: the i-th values share everything else.

    >>> compare([0.5, 0.6, 0.7], [0.4, 0.5, 0.61]).claim
    'higher'
    """
    a, b = finite(left, "the left arm"), finite(right, "the right arm")
    if a.size != b.size:
        raise DataError(
            f"{a.size} values on the left and {b.size} on the right are not pairs",
            hint="keep the repetitions that both arms finished",
        )
    difference = a - b
    effect = student_interval(difference, level, "pair")
    claims: dict[int, Literal["higher", "lower", "undecided"]] = {1: "higher", -1: "lower"}
    claim = claims.get(effect.sign, "undecided")
    return Comparison(
        "left", "right", effect, sign_test(difference), wilcoxon_test(difference), effect.p, claim
    )


def rank(arms: Mapping[str, Sequence[float]], level: float = 0.95) -> list[Comparison]:
    """Every pair of arms, the better mean first, with Holm-adjusted p-values over the family.

    Args:
        arms: values by arm; the i-th values of all arms belong to the same repetition.
    """
    names = sorted(arms, key=lambda name: (-float(finite(arms[name], name).mean()), name))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    results = {f"{a} > {b}": compare(arms[a], arms[b], level) for a, b in pairs}
    family = {key: c.effect.p for key, c in results.items() if c.effect.p is not None}
    adjusted = holm(family)
    return [
        Comparison(
            a,
            b,
            results[key].effect,
            results[key].p_sign,
            results[key].p_wilcoxon,
            adjusted.get(key),
            results[key].claim,
        )
        for (a, b), key in zip(pairs, results, strict=True)
    ]
