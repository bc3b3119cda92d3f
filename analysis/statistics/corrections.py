"""Corrections for many comparisons, tests of equality, and named random numbers.

Intervals are those of `bench.results.intervals`, which leaderboards have too.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError
from bench.results.intervals import Estimate

Array = npt.NDArray[np.float64]


def generator(*words: object) -> np.random.Generator:
    """A random generator named by words: the same on every machine and in every process.

    >>> int(generator("images", 0).integers(100)) == int(generator("images", 0).integers(100))
    True
    """
    digest = hashlib.sha256("|".join(map(str, words)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


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
            hint="leave missing runs out and say how many they were",
        )
    return array


# --- equality ------------------------------------------------------------------------------------


def p_equal(e: Estimate, low: float, high: float) -> float | None:
    """Two one-sided tests (D. J. Schuirmann, 1987): p of "the mean is not between low and high".

    The interval at twice the level lies within the margins exactly where p is below it. None
    without an interval.

    >>> from bench.results.intervals import from_errors
    >>> round(p_equal(from_errors(0.0, 0.1, 9, 10, "task"), -1.0, 1.0), 6)
    2e-06
    """
    above, below = e.p_above(low), e.p_below(high)
    return None if above is None or below is None else max(above, below)


def p_outside(e: Estimate, low: float, high: float) -> float | None:
    """Two-sided p of "the mean is between low and high"; None without an interval."""
    above, below = e.p_above(high), e.p_below(low)
    return None if above is None or below is None else min(1.0, 2 * min(above, below))
