"""Intervals of means over repetitions that are nested: seeds within tasks, both over test images.

One rule for leaderboards, reports, findings and advice. With two tasks or more the unit is the
task: seeds are averaged within it first, and the interval is Student's t over the tasks' means; it
speaks of further tasks of that kind. `Estimate.here` beside it speaks of these tasks alone. With
one task the unit is the seed, and the statement is about this task only. A statement about given
tasks carries the sampling error of their fixed test images, which all seeds share, where
predictions are known; from counts alone it is bounded for one task, and left out for several, whose
statement is then about these test images. Training draws that overlap are corrected for.

Sources: Student's t for the mean; Welch (1947) and Satterthwaite (1946) for the degrees of freedom
of a sum of variances; crossed random effects (seeds x images) as in Searle, Casella, McCulloch,
*Variance Components* (1992), ch. 4; C. Nadeau, Y. Bengio, *Inference for the Generalization Error*
(2003) for draws that share training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench.results.quantiles import two_sided

Array = npt.NDArray[np.float64]
NO_SPREAD = "all repetitions gave the same value: there is no spread to judge it by"
_MANY = 1e6
"""Degrees of freedom of a variance that is known, not estimated."""
BOUNDED = "the test images' error is bounded from counts: predictions are not at hand"
WITHOUT_IMAGES = "on these test images: their sampling error is not in the interval"


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `low` and `high` are None where no interval exists.

    Attributes:
        n: how many units the interval counts; `unit` names them (task or seed).
        error: standard error behind the interval; None without one.
        degrees: degrees of freedom of `error`; None without one, and where `terms` have theirs.
        here: the same mean as a statement about these tasks alone, where `n` counts tasks.
        diverged: runs behind it that diverged and count at chance.
        fixed: the part of `error` that further repetitions would leave as it is: that of the test
            images, and what overlapping training draws have in common.
        terms: where the errors of one task have unlike degrees of freedom, see `Term`.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str = "value"
    method: str = "Student t"
    level: float = 0.95
    note: str = ""
    error: float | None = None
    degrees: float | None = None
    here: Estimate | None = None
    diverged: int = 0
    fixed: float = 0.0
    terms: tuple[tuple[tuple[float, float], ...], ...] = ()

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """1 above zero, -1 below, by the whole interval; 0 where it holds both."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @cached_property
    def df(self) -> float | None:
        """Degrees of freedom behind the interval; None without one.

        Of `terms` those at which Student's interval has the same width.
        """
        if self.error is None or not self.terms:
            return self.degrees
        known = [df for term in self.terms for _, df in term]
        alpha = 1 - self.level
        return _degrees_of(_half_width(self.terms, alpha) / self.error, known, alpha)

    @cached_property
    def p(self) -> float | None:
        """Two-sided p-value of "the mean is zero", by the same method as the interval."""
        if self.error is None:
            return None
        if self.terms:
            return _p_of_terms(abs(self.value), self.terms)
        from scipy.special import stdtr

        return float(2 * stdtr(self.degrees, -abs(self.value) / self.error))

    def p_above(self, margin: float) -> float | None:
        """One-sided p-value of "the mean is at most `margin`"; None without an interval."""
        return self._tail(margin, 1)

    def p_below(self, margin: float) -> float | None:
        """One-sided p-value of "the mean is at least `margin`"; None without an interval."""
        return self._tail(margin, -1)

    def _tail(self, margin: float, sign: int) -> float | None:
        if self.error is None:
            return None
        if self.terms:
            half = _p_of_terms(abs(self.value - margin), self.terms) / 2
            return half if sign * (self.value - margin) > 0 else 1 - half
        from scipy.special import stdtr

        return float(stdtr(self.degrees, -sign * (self.value - margin) / self.error))


@dataclass(frozen=True, eq=False)
class Observation:
    """One value of one repetition.

    Attributes:
        task: id of the task, the unit of a general statement.
        repetition: what distinguishes the repetitions of a task: its seeds.
        setting: what is averaged over within a repetition, such as images per class.
        value: the measured value, such as a difference of accuracies.
        per_image: its part from each test image, in the order of the images, so that their mean is
            `value` to first order; None where predictions are not at hand.
        image_variance: an upper bound of the variance of `value` from drawing the test images,
            from counts alone; None where the value has no such error or it is not known.
        overlap: share of the images to draw from that a training set takes; None: not known, or
            all of them (the statement is then about these training images).
        diverged: runs behind it that diverged.
    """

    task: str
    repetition: str
    value: float
    setting: str = ""
    per_image: Array | None = None
    image_variance: float | None = None
    overlap: float | None = None
    diverged: int = 0


def from_errors(
    value: float, error: float, df: float, n: int, unit: str, note: str = "", level: float = 0.95
) -> Estimate:
    """Student's interval from a standard error and its degrees of freedom.

    >>> round(from_errors(1.0, 0.5, 4, 5, "seed").high, 3)
    2.388
    """
    half = two_sided(df, 1 - level) * error
    return Estimate(value, value - half, value + half, n, unit, "Student t", level, note, error, df)


def student(
    values: npt.ArrayLike, level: float = 0.95, unit: str = "value", note: str = ""
) -> Estimate:
    """Student's interval of a mean, n - 1 degrees of freedom.

    There is none for a single value, nor for values that are all equal: accuracies are counts of
    test images, so that a few of them agree by luck, and a spread of 0 is no certainty.

    >>> found = student([1.0, 2.0, 3.0])
    >>> round(found.low, 3), round(found.high, 3)
    (-0.484, 4.484)
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    mean, n = float(array.mean()), array.size
    if n == 1:
        alone = f"one {unit}: no interval"
        return Estimate(mean, None, None, 1, unit, level=level, note=joined(note, alone))
    if all_equal(array):
        return Estimate(mean, None, None, n, unit, level=level, note=joined(note, NO_SPREAD))
    error = float(array.std(ddof=1)) / math.sqrt(n)
    return from_errors(mean, error, n - 1, n, unit, note, level)


def estimate(found: Sequence[Observation], level: float = 0.95) -> Estimate:
    """The mean over tasks, each the mean over its settings, each the mean over its seeds.

    Raises:
        ValueError: without an observation, or for a value that is not finite.

    >>> rows = [Observation(t, str(s), v) for t, s, v in (("a", 0, 1.0), ("a", 1, 3.0))]
    >>> estimate(rows).unit, estimate([*rows, Observation("b", "0", 4.0)]).value
    ('seed', 3.0)
    """
    if not found or not all(math.isfinite(o.value) for o in found):
        raise ValueError("an estimate needs values, all of them finite")
    tasks: dict[str, list[Observation]] = {}
    for o in found:
        tasks.setdefault(o.task, []).append(o)
    parts = [_task(tasks[name], level) for name in sorted(tasks)]
    diverged = sum(o.diverged for o in found)
    here = _these_tasks(parts, level)
    if len(parts) == 1:
        return replace(here, diverged=diverged)
    over = student([part.mean for part in parts], level, "task")
    return replace(over, here=replace(here, diverged=diverged), diverged=diverged)


def clipped(e: Estimate, least: float, most: float) -> Estimate:
    """The estimate with its interval cut where the quantity ends: accuracies at 0 and 1.

    The truth lies inside the range, so that no coverage is lost.
    """
    if e.low is None or e.high is None:
        return e
    return replace(e, low=max(e.low, least), high=min(e.high, most))


# --- within one task ---------------------------------------------------------------------------

Term = tuple[tuple[float, float], ...]
"""Standard errors with their degrees of freedom that add up, as errors do that are correlated
fully; the terms of an estimate are independent, so that their squares add up."""


@dataclass(frozen=True)
class _Part:
    """A task's mean and what its error is made of.

    Attributes:
        seeds: how many; `freedom` degrees that their spread was estimated with.
        spread: variance of a repetition; None where nothing was repeated.
        factor, ratio: the mean's variance from seeds is spread * factor, from what overlapping
            draws share spread * ratio, where the spread is taken from other tasks.
        errors: from seeds and shared draws together; empty where nothing was repeated.
        common: variance of what overlapping draws share, which further seeds leave as it is.
        images, image_df: variance from drawing the test images, and its degrees.
    """

    mean: float
    seeds: int
    freedom: float
    spread: float | None
    factor: float
    ratio: float
    errors: Term
    common: float
    images: float
    image_df: float
    note: str


def _task(found: Sequence[Observation], level: float) -> _Part:
    cells: dict[str, dict[str, list[float]]] = {}
    for o in found:
        cells.setdefault(o.setting, {}).setdefault(o.repetition, []).append(o.value)
    table = {s: {r: math.fsum(v) / len(v) for r, v in of.items()} for s, of in cells.items()}
    mean = math.fsum(math.fsum(of.values()) / len(of) for of in table.values()) / len(table)
    seeds = sorted({o.repetition for o in found})
    n, shares = len(seeds), _shared(found)
    even = all(len(of) == n for of in table.values())
    images = _images(found, even)
    ratio = math.fsum(shares.values()) / len(table)
    if n < 2 or all(len(of) < 2 for of in table.values()):
        weight = (math.fsum(len(of) ** -0.5 for of in table.values()) / len(table)) ** 2
        return _Part(mean, n, 0, None, weight, ratio, (), 0.0, *images)
    own = _spreads(table)
    common = (math.fsum(own[s][0] * shares.get(s, 0.0) ** 0.5 for s in table) / len(table)) ** 2
    if even:
        rows = [math.fsum(of[r] for of in table.values()) / len(table) for r in seeds]
        spread = float(np.var(rows, ddof=1))
        error = math.sqrt(spread / n + common)
        return _Part(mean, n, n - 1, spread, 1 / n, ratio, ((error, n - 1),), common, *images)
    # Sizes that were repeated unlike often: the most that their errors can add up to.
    errors = tuple(
        (own[s][0] * math.sqrt(1 / len(of) + shares.get(s, 0.0)) / len(table), own[s][1])
        for s, of in table.items()
    )
    weights = {s: len(of) ** -0.5 for s, of in table.items()}
    whole = math.fsum(weights.values())
    spread = (math.fsum(weights[s] * own[s][0] for s in table) / whole) ** 2
    factor, freedom = (whole / len(table)) ** 2, _term_degrees(errors, level)
    return _Part(mean, n, freedom, spread, factor, ratio, errors, common, *images)


def _spreads(table: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Of each size the standard deviation over its seeds, and the degrees behind it.

    A size of one seed, and one whose seeds agree by luck, has the widest of the others.
    """
    known = {
        s: (float(np.std(list(of.values()), ddof=1)), len(of) - 1.0)
        for s, of in table.items()
        if len(of) > 1
    }
    spread = {s: pair for s, pair in known.items() if pair[0] > 0} or known
    widest = max(spread.values(), key=lambda pair: pair[0] * two_sided(pair[1], 0.05))
    return {s: spread.get(s, widest) for s in table}


def _shared(found: Sequence[Observation]) -> dict[str, float]:
    """Of each size ρ / (1 − ρ), ρ being the share of training images that two draws have in common.

    Nadeau and Bengio's correction, whose ρ is the share of test images among all, as their draws
    test what they do not train on.
    Two draws of a share f of the images have that share in common. What a draw owes to them is
    correlated by f, and does not average out over seeds: variance / seeds * (1 - f) + variance * f
    in terms of the spread that seeds show, which lacks the common part.
    """
    shares: dict[str, list[float]] = {}
    for o in found:
        if o.overlap is not None and o.overlap < 1:
            shares.setdefault(o.setting, []).append(o.overlap / (1 - o.overlap))
    return {s: math.fsum(known) / len(known) for s, known in shares.items()}


def _images(found: Sequence[Observation], even: bool) -> tuple[float, float, str]:
    """Variance of a task's mean from drawing its test images, and its degrees of freedom."""
    parts = [o.per_image for o in found]
    sizes = {part.size for part in parts if part is not None}
    if all(part is not None for part in parts) and len(sizes) == 1:
        return *(_crossed(found) if even else _of_images(found)), ""
    known: dict[str, list[float]] = {}
    for o in found:
        if o.image_variance is None:
            return 0.0, _MANY, WITHOUT_IMAGES
        known.setdefault(o.setting, []).append(o.image_variance)
    errors = [math.sqrt(math.fsum(bounds) / len(bounds)) for bounds in known.values()]
    return (math.fsum(errors) / len(errors)) ** 2, _MANY, BOUNDED


def _of_images(found: Sequence[Observation]) -> tuple[float, float]:
    """As `_crossed` where sizes have unlike numbers of seeds: at most this variance.

    Each size counts alike, as in the mean; what seeds add to single images is not taken off.
    """
    sizes: dict[str, dict[str, list[Any]]] = {}
    for o in found:
        sizes.setdefault(o.setting, {}).setdefault(o.repetition, []).append(o.per_image)
    of_size = [np.mean([np.mean(v, axis=0) for v in of.values()], axis=0) for of in sizes.values()]
    images = np.mean(of_size, axis=0)
    return float(images.var(ddof=1)) / images.size, images.size - 1


def _crossed(found: Sequence[Observation]) -> tuple[float, float]:
    """Seeds x images: the images' part of the variance of the mean over both.

    With mean squares of a two-way table, one value per cell, that of images is
    (MS_images - MS_rest) / seeds / images; the rest is already in the spread of the seeds.
    """
    by_seed: dict[str, dict[str, list[Any]]] = {}
    for o in found:
        by_seed.setdefault(o.repetition, {}).setdefault(o.setting, []).append(o.per_image)
    means = [[np.mean(v, axis=0) for v in cells.values()] for cells in by_seed.values()]
    rows = np.array([np.mean(of_seed, axis=0) for of_seed in means])
    seeds, images = rows.shape
    columns = rows.mean(axis=0)
    ms_images = seeds * float(columns.var(ddof=1))
    if seeds == 1:
        return ms_images / images, images - 1
    rest = rows - rows.mean(axis=1, keepdims=True) - columns + rows.mean()
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    return max(ms_images - ms_rest, 0.0) / (seeds * images), images - 1


def _these_tasks(parts: Sequence[_Part], level: float) -> Estimate:
    """The mean of these tasks: variances add up, degrees of freedom after Satterthwaite."""
    t = len(parts)
    if t > 1 and any(part.note for part in parts):
        parts = [replace(part, images=0.0, note=WITHOUT_IMAGES) for part in parts]
    mean = math.fsum(part.mean for part in parts) / t
    n = sum(part.seeds for part in parts)
    note = "; ".join(dict.fromkeys(part.note for part in parts if part.note))
    repeated = [part for part in parts if part.spread is not None]
    if not repeated:
        alone = "one seed: no interval" if t == 1 else "one seed for each task: no interval"
        return Estimate(mean, None, None, n, "seed", level=level, note=alone)
    terms: list[Term] = [((math.sqrt(p.images) / t, p.image_df),) for p in parts]
    if len(repeated) == t:
        terms += [tuple((error / t, df) for error, df in p.errors) for p in parts]
        common = [p.common for p in parts]
    else:  # tasks with one seed have the spread of the others, which is estimated once
        freedom = sum(part.freedom for part in repeated)
        pooled = math.fsum(p.freedom * (p.spread or 0.0) for p in repeated) / freedom
        variance = pooled * math.fsum(p.factor + p.ratio for p in parts)
        terms.append(((math.sqrt(variance) / t, freedom),))
        common = [pooled * p.ratio for p in parts]
    terms = [term for term in terms if sum(error for error, _ in term) > 0]
    variance = math.fsum(_error(term) ** 2 for term in terms)
    scale = max(abs(mean), 1e-3)
    if variance <= (1e-9 * scale) ** 2:
        return Estimate(mean, None, None, n, "seed", level=level, note=joined(note, NO_SPREAD))
    fixed = math.sqrt(math.fsum([*common, *(p.images for p in parts)])) / t
    error = math.sqrt(variance)
    if t == 1:
        return replace(_of_terms(mean, terms, n, note, level), fixed=fixed)
    degrees = [(_error(term) ** 2, _term_degrees(term, level)) for term in terms]
    df = variance**2 / math.fsum(v**2 / d for v, d in degrees)
    return replace(from_errors(mean, error, df, n, "seed", note, level), fixed=fixed)


# --- sums of errors, each with its own degrees of freedom ---------------------------------------


def _of_terms(mean: float, terms: Sequence[Term], n: int, note: str, level: float) -> Estimate:
    """An interval of one task, whose few seeds are one of two terms.

    Satterthwaite's sum is far from a chi-square there; each term gets the quantile of its own
    degrees (Cochran and Cox, 1957, do so with the weights outside the root). It covers at least as
    often as stated; p is that of the same rule at every level.
    """
    half = _half_width(terms, 1 - level)
    error = math.sqrt(math.fsum(_error(term) ** 2 for term in terms))
    ends = mean - half, mean + half
    found = Estimate(mean, *ends, n, "seed", "Student t", level, note, error)
    return replace(found, terms=tuple(terms))


def _error(term: Term) -> float:
    return math.fsum(error for error, _ in term)


def _half_width(
    terms: Sequence[Term], alpha: float, quantile: Callable[[float, float], float] = two_sided
) -> float:
    widths = [math.fsum(error * quantile(df, alpha) for error, df in term) for term in terms]
    return math.hypot(*widths)


def _p_of_terms(distance: float, terms: Sequence[Term]) -> float:
    """The p at which the interval just reaches so far."""
    from scipy.optimize import brentq
    from scipy.special import stdtrit

    def quantile(df: float, alpha: float) -> float:  # for dozens of levels scipy's is faster
        return -float(stdtrit(df, alpha / 2))

    def half(log_alpha: float) -> float:
        return _half_width(terms, math.exp(log_alpha), quantile)

    least, most = math.log(1e-300), math.log1p(-1e-12)
    if distance <= half(most):
        return 1.0
    if distance >= half(least):
        return 1e-300
    return math.exp(brentq(lambda a: half(a) - distance, least, most, xtol=1e-10))


def _term_degrees(term: Term, level: float) -> float:
    """The degrees at which Student's interval is as wide as a term's."""
    if _error(term) == 0:
        return min(df for _, df in term)
    wide = math.fsum(error * two_sided(df, 1 - level) for error, df in term)
    return _degrees_of(wide / _error(term), [df for _, df in term], 1 - level)


def _degrees_of(wide: float, degrees: Sequence[float], alpha: float) -> float:
    """The degrees, among those given, at which Student's quantile is so wide."""
    least, most = min(degrees), max(degrees)
    if wide >= two_sided(least, alpha):
        return least
    if wide <= two_sided(most, alpha):
        return most
    from scipy.special import stdtridf

    return float(stdtridf(1 - alpha / 2, wide))


def all_equal(array: Array) -> bool:
    """Equal but for the last digits of floating-point numbers."""
    return float(np.ptp(array)) <= 1e-9 * max(float(np.abs(array).max()), 1e-3)


def joined(*notes: str) -> str:
    """Notes that are not empty, in one sentence."""
    return "; ".join(note for note in notes if note)
