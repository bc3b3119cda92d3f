"""Student's quantile against scipy's, over degrees of freedom and levels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.results.quantiles import two_sided

DEGREES = (*range(1, 31), 1.5, 2.3, 7.7, 45, 99, 100.5, 499, 9_999, 49_999, 1e6, 1e7)
ALPHAS = (1e-12, 1e-9, 1e-6, 1e-4, 0.001, 0.0025, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 0.99)


@pytest.mark.parametrize("df", DEGREES)
def test_a_quantile_is_scipys(df: float) -> None:
    theirs = [-float(stats.t.ppf(alpha / 2, df)) for alpha in ALPHAS]
    assert [two_sided(df, alpha) for alpha in ALPHAS] == pytest.approx(theirs, rel=1e-12)


@settings(deadline=None, max_examples=300)
@given(st.floats(0, math.log(1e7)), st.floats(math.log(1e-12), math.log(0.9)))
def test_a_quantile_of_any_degrees_and_level_is_exceeded_as_often(df: float, alpha: float) -> None:
    df, alpha = math.exp(df), math.exp(alpha)
    assert 2 * stats.t.sf(two_sided(df, alpha), df) == pytest.approx(alpha, rel=1e-11)


def test_the_extremes() -> None:
    assert two_sided(3, 0) == math.inf
    assert two_sided(3, 1) == pytest.approx(0, abs=1e-15)
    for df in (1, 2.5, 1e6):
        theirs = -float(stats.t.ppf(1e-100 / 2, df))
        assert two_sided(df, 1e-100) == pytest.approx(theirs, rel=1e-12)
