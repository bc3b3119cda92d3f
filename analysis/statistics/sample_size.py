"""How many repetitions would decide a comparison that these runs leave open."""

from __future__ import annotations

import math

from scipy import stats

from bench.results.intervals import Estimate

MOST_REPETITIONS = 30
"""Beyond this the number is not worth naming."""


def repetitions_wanted(e: Estimate, power: float = 0.8, level: float = 0.05) -> int | None:
    """How many repetitions in all would decide, should effect and spread stay as they look.

    The smallest n at which a two-sided test at `level` rejects with probability `power`, roughly:
    (t(1 - level / 2) + t(power)) · √(s² / n + fixed²) ≤ |mean|, both with n - 1 degrees of freedom;
    fixed is the part of the error that repetitions leave as it is. None without an interval; one
    more than `MOST_REPETITIONS` for anything larger.

    >>> repetitions_wanted(Estimate(1.0, -0.5, 2.5, 4, "seed"))
    10
    """
    return _fewest(e, abs(e.value), power, level / 2)


def repetitions_for_equality(
    e: Estimate, least: float, power: float = 0.8, level: float = 0.05
) -> int | None:
    """How many repetitions would show that the effect is below `least`, should it stay as it is.

    As `repetitions_wanted`, for two one-sided tests: what has to be bridged is the way from the
    estimate to the nearer end of ± least. Both tests must pass, so each gets half of what may be
    missed.

    >>> repetitions_for_equality(Estimate(0.2, -0.5, 0.9, 4, "seed"), 1.0)
    5
    >>> repetitions_for_equality(Estimate(1.2, 0.5, 1.9, 4, "seed"), 1.0) is None
    True
    """
    left = least - abs(e.value)
    return _fewest(e, left, (1 + power) / 2, level) if left > 0 else None


def _fewest(e: Estimate, distance: float, power: float, tail: float) -> int | None:
    if e.low is None or e.high is None:
        return None
    quantile = float(stats.t.ppf(0.5 + e.level / 2, e.df or e.n - 1))
    error = (e.high - e.low) / 2 / quantile
    # What further repetitions leave as it is, such as the test images' error, stays.
    spread2, fixed2 = max(error**2 - e.fixed**2, 0.0) * e.n, e.fixed**2
    for n in range(2, MOST_REPETITIONS + 1):
        both = float(stats.t.ppf(1 - tail, n - 1) + stats.t.ppf(power, n - 1))
        if both * math.sqrt(spread2 / n + fixed2) <= distance:
            return max(n, e.n + 1)
    return MOST_REPETITIONS + 1
