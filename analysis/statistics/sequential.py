"""Tests that are looked at several times: boundaries that keep the level, and adjusted p-values.

The level is spent over the looks as Lan and DeMets (1983, Biometrika 70) proposed, by the square of
the information's share (the power family of Kim and DeMets, 1987, Biometrika 74): little at the
first looks, and more than by O'Brien and Fleming's type, which needs more runs for the same power
here (`benchmarks/SEQUENTIAL.md`). What each look may spend is found by recursive integration
(Armitage, McPherson, Rowe, 1969). Tests other than z-tests compare
their p-value with a look's nominal level (Jennison and Turnbull, 2000, ch. 3.3 and 11), of a level
that is divided by what t-tests exceed it (`Looks.excess`). The
adjusted p-value is the smallest level of the whole at which its look's boundary is crossed; Holm's
procedure on these is the group-sequential one of Ye et al. (2013, Statistics in Medicine 32).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import interpolate, optimize, special

from bench.core.text import listed
from bench.results.intervals import Estimate

Array = npt.NDArray[np.float64]
SHARES = tuple(k / 20 for k in range(4, 21))
"""Of a grid's tasks, at which it is looked at: early and often, which saves more runs than it costs
power (`benchmarks/SEQUENTIAL.md`)."""
LEAST_TASKS = 3
"""Of the first look."""
POWER = 2
"""Of the share of the information, by which the level is spent."""
_NODES = 64
_LEAST, _MOST = 1e-13, 0.999
"""Levels between which adjusted p-values are computed; above they are 1."""


def spent(share: float, level: float) -> float:
    """The part of a two-sided level that is spent by a share of the information.

    >>> round(spent(0.5, 0.05), 5), round(spent(1.0, 0.05), 5)
    (0.0125, 0.05)
    """
    return level * share**POWER


@functools.lru_cache(maxsize=4096)
def boundaries(
    times: tuple[float, ...], level: float, spending: Callable[[float, float], float] = spent
) -> tuple[float, ...]:
    """The absolute z-values that end a test at each of its looks.

    Args:
        times: shares of the information at the looks, rising, at most 1.
        level: two-sided, of all looks together.
        spending: gives the part of the level that is spent by a share.

    >>> [round(z, 3) for z in boundaries((0.2, 0.4, 0.6, 0.8, 1.0), 0.05)]
    [3.09, 2.714, 2.473, 2.28, 2.114]
    """
    found: list[float] = []
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # Where the sum of what was seen is while no look has ended the test, and with which mass.
    sums, masses, before, paid = np.zeros(1), np.ones(1), 0.0, 0.0
    for time in times:
        step, paying = math.sqrt(time - before), spending(time, level)
        root = math.sqrt(time)
        side = (paying - paid) / 2
        z = _root(sums, masses, root, step, side)
        found.append(z)
        ahead = z * root * nodes
        density = np.exp(-0.5 * ((ahead[:, None] - sums) / step) ** 2) @ masses
        masses = z * root * weights * density / (step * math.sqrt(2 * math.pi))
        sums, before, paid = ahead, time, paying
    return tuple(found)


def _root(sums: Array, masses: Array, root: float, step: float, side: float) -> float:
    """The z beyond which, on one side, lies a probability of `side`."""

    def excess(z: float) -> float:
        return float(masses @ special.ndtr((sums - z * root) / step)) - side

    if excess(0.0) <= 0:
        return 1e-6
    return float(optimize.brentq(excess, 0.0, 38.0, xtol=1e-12)) if excess(38.0) < 0 else 38.0


def nominal_level(times: tuple[float, ...], level: float) -> float:
    """The two-sided level of the last of the looks alone.

    >>> round(nominal_level((0.5, 1.0), 0.05), 4)
    0.0436
    """
    return level if times == (1.0,) else float(2 * special.ndtr(-boundaries(times, level)[-1]))


def adjusted_p(p: float, times: tuple[float, ...]) -> float:
    """The smallest level of all looks together at which the last of them ends the test.

    >>> round(adjusted_p(0.05, (1.0,)), 4), round(adjusted_p(0.0125, (0.5,)), 4)
    (0.05, 0.05)
    """
    if times == (1.0,):
        return p
    if len(times) == 1:
        return min(1.0, p / times[0] ** POWER)
    levels, ends = _table(times)
    z = -float(special.ndtri(max(p, 1e-300) / 2))
    if z >= ends[0]:
        return _LEAST
    if z <= ends[-1]:
        return 1.0
    curve = interpolate.PchipInterpolator(ends[::-1], levels[::-1])
    return float(4 * special.ndtr(curve(z)))


@functools.lru_cache(maxsize=512)
def _table(times: tuple[float, ...]) -> tuple[Array, Array]:
    """Levels, as a quantile of a quarter of them, and the last look's boundary at each."""
    quantiles = np.linspace(special.ndtri(_LEAST / 4), special.ndtri(_MOST / 4), 160)
    ends = [boundaries(times, float(4 * special.ndtr(q)))[-1] for q in quantiles]
    return quantiles, np.asarray(ends, dtype=np.float64)


@dataclass(frozen=True)
class Looks:
    """When a leaderboard is looked at, fixed before its first run.

    Attributes:
        sizes: tasks at each look, rising; the last are all tasks of the grid.
    """

    sizes: tuple[int, ...]

    def sentence(self) -> str:
        """What the looks do to the numbers, as it stands under a table.

        >>> Looks((4, 6)).sentence()[:59]
        'Tasks were added in looks fixed beforehand (after 4, 6 of 6'
        """
        return (
            f"Tasks were added in looks fixed beforehand (after {listed(self.sizes, 20)} of "
            f"{self.sizes[-1]} tasks): p and the intervals over tasks are adjusted for them, and "
            "mean the same at whichever look a comparison ended."
        )

    def place(self, tasks: int) -> int:
        """The number of the look at which so many tasks are seen, from 1.

        >>> Looks((4, 6, 8, 10)).place(6), Looks((4, 6, 8, 10)).place(7)
        (2, 3)
        """
        return 1 + sum(size < min(tasks, self.sizes[-1]) for size in self.sizes)

    def times(self, tasks: int) -> tuple[float, ...]:
        """The shares of the looks up to the one at which so many tasks are seen.

        Tasks between two looks, as where runs failed, are a look of their own.
        """
        whole = self.sizes[-1]
        seen = min(tasks, whole)
        return (*(size / whole for size in self.sizes if size < seen), seen / whole)

    @property
    def excess(self) -> float:
        """By how much t-tests over tasks would exceed a level that is spent as by z-tests.

        t-values of successive looks are less alike than z-values. In simulation t-tests whose
        p-values are compared with a look's nominal level reject 1.23 times as often as they may
        with ten tasks, 1.16 times with twenty and 1.10 times with thirty, at levels of 0.1 to
        0.003; this bounds it from above, and the level is divided by it.

        >>> round(Looks((4, 6, 8, 10)).excess, 2), Looks((10,)).excess
        (1.24, 1.0)
        """
        return 1.0 if len(self.sizes) == 1 else 1 + 0.75 / math.sqrt(self.sizes[-1])

    def adjusted(self, p: float | None, tasks: int) -> float | None:
        """The adjusted p-value of a test that has seen so many tasks."""
        return None if p is None else min(1.0, self.excess * adjusted_p(p, self.times(tasks)))

    def interval(self, e: Estimate, value: float) -> tuple[float | None, float | None]:
        """The repeated confidence interval around a value: those of all looks hold the mean.

        None where the estimate has no interval, or is of one task.
        """
        if e.unit == "seed" or e.error is None or e.df is None:
            return None, None
        level = nominal_level(self.times(e.n), (1 - e.level) / self.excess)
        half = float(-special.stdtrit(e.df, level / 2) * e.error)
        return value - half, value + half


def looks_at(tasks: int, shares: Sequence[float] = SHARES) -> Looks:
    """The looks of a grid with so many tasks.

    >>> looks_at(10).sizes, looks_at(5).sizes, looks_at(3).sizes
    ((3, 4, 5, 6, 7, 8, 9, 10), (3, 4, 5), (3,))
    """
    sizes = {min(tasks, max(LEAST_TASKS, math.ceil(round(s * tasks, 9)))) for s in shares}
    return Looks(tuple(sorted(sizes)))


def predictive_power(p: float, looks: Looks, tasks: int, level: float) -> float:
    """The chance that the last look ends a test, the effect being as uncertain as it is now.

    With a flat prior the z-value at the last look is normal around z / √share with a variance of
    (1 − share) / share (Spiegelhalter, Freedman, Blackburn, 1986, Controlled Clinical Trials 7).

    Args:
        p: two-sided, not adjusted, after so many tasks.
        level: of the test over all looks.

    >>> looks = Looks((4, 6, 8, 10))
    >>> round(predictive_power(0.5, looks, 6, 0.05), 2), predictive_power(0.5, looks, 10, 0.05)
    (0.05, 0.0)
    """
    share = tasks / looks.sizes[-1]
    if share >= 1:
        return 0.0
    z = -float(special.ndtri(max(p, 1e-300) / 2))
    end = boundaries(looks.times(looks.sizes[-1]), level / looks.excess)[-1]
    return float(special.ndtr((z - end * math.sqrt(share)) / math.sqrt(1 - share)))


def chance_to_reach(e: Estimate, least: float, looks: Looks) -> float:
    """The chance that the estimate at the last look is at least so large, on either side.

    The effect is as uncertain as it is now: with a flat prior the last estimate is normal around
    this one, with 1 − share of its variance.
    """
    share = e.n / looks.sizes[-1]
    if not least:
        return 1.0
    if share >= 1 or not e.error:
        return float(abs(e.value) >= least)
    spread = e.error * math.sqrt(1 - share)
    return float(
        special.ndtr((abs(e.value) - least) / spread)
        + special.ndtr((-abs(e.value) - least) / spread)
    )
