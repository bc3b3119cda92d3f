"""Corrections, tests of equality and named draws against textbook values, scipy and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.corrections import finite, generator, p_equal, p_outside
from bench.core.errors import DataError
from bench.results.intervals import Estimate, from_errors, student

# --- equality ---


def _two_one_sided_tests(values: np.ndarray, low: float, high: float) -> float:
    """As `statsmodels.stats.weightstats.DescrStatsW.ttost_mean` has it, written out.

    Two tests, of "the mean is at most low" and "the mean is at least high"; the larger p counts.
    """
    error = values.std(ddof=1) / math.sqrt(values.size)
    above = stats.t.sf((values.mean() - low) / error, values.size - 1)
    below = stats.t.cdf((values.mean() - high) / error, values.size - 1)
    return float(max(above, below))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.2, 0.6), (0.0, 2.0)])
def test_equality_is_two_one_sided_tests(seed: int, low: float, high: float) -> None:
    values = np.random.default_rng(seed).normal(0.1 * seed, 0.5, 3 + seed)
    found = p_equal(student(values), low, high)
    assert found == pytest.approx(_two_one_sided_tests(values, low, high), rel=1e-9)
    one_sided = [
        stats.ttest_1samp(values, end, alternative=side).pvalue
        for end, side in ((low, "greater"), (high, "less"))
    ]
    assert found == pytest.approx(max(one_sided), rel=1e-9)
    # Equal at level α is the interval at level 1 - 2 α inside the margins.
    inside = stats.ttest_1samp(values, 0).confidence_interval(0.90)
    assert (found <= 0.05) == (low <= inside.low and inside.high <= high)
    outside = p_outside(student(values), low, high)
    beyond = [
        stats.ttest_1samp(values, end, alternative=side).pvalue
        for end, side in ((high, "greater"), (low, "less"))
    ]
    assert outside == pytest.approx(min(1.0, 2 * min(beyond)), rel=1e-9)


def test_outside_is_zero_outside_the_interval_where_there_is_no_margin() -> None:
    values = [0.4, 0.9, 0.7, 1.3]
    assert p_outside(student(values), 0, 0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_degrees_of_freedom_need_not_be_whole() -> None:
    e = from_errors(0.3, 0.2, 3.7, 4, "seed")
    assert p_equal(e, -1, 1) == pytest.approx(stats.t.cdf((0.3 - 1) / 0.2, 3.7))
    assert p_outside(e, -0.1, 0.1) == pytest.approx(2 * stats.t.sf((0.3 - 0.1) / 0.2, 3.7))


def test_equality_and_difference_are_claimed_wrongly_one_time_in_twenty() -> None:
    """At the edge of the margin both claims are false; each is made in at most 5 of 100."""
    rng = np.random.default_rng(4)
    samples = rng.normal(1.0, 0.4, size=(2000, 5))
    equal = [p_equal(student(sample), -1, 1) <= 0.05 for sample in samples]  # type: ignore[operator]
    differ = [p_outside(student(sample), -1, 1) <= 0.05 for sample in samples]  # type: ignore[operator]
    assert 0.035 < np.mean(equal) < 0.065
    assert np.mean(differ) < 0.065


def test_without_an_interval_nothing_is_tested() -> None:
    for e in (student([0.3]), student([0.3, 0.3]), Estimate(1.0, None, None, 1)):
        assert p_equal(e, -1, 1) is None
        assert p_outside(e, -1, 1) is None


# --- values and draws ---


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"no values for them|1 of \d values of them are not"):
        finite(values, "them")


def test_values_come_back_flat() -> None:
    found = finite([[1, 2], [3, 4]], "them")
    assert (found.dtype, found.tolist()) == (np.dtype(np.float64), [1, 2, 3, 4])


def test_draws_are_the_same_in_every_process() -> None:
    # Written down from another process: Python's own hash() would change from run to run.
    assert int(generator("a", 1).integers(1 << 40)) == 488598088487
    assert int(generator("a", 2).integers(1 << 40)) != 488598088487
