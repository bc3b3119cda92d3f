"""Intervals and corrections against scipy, textbook values, literal twins and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    bootstrap_interval,
    compare,
    generator,
    hierarchical_bootstrap,
    holm,
    interval,
    logit_accuracy,
    rank,
    sign_test,
    student_interval,
    wilcoxon_test,
)
from bench.errors import DataError


def test_student_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=7)
    found = student_interval(values)
    expected = stats.ttest_1samp(values, 0)
    interval_ = expected.confidence_interval(0.95)
    assert found.low == pytest.approx(interval_.low, rel=1e-12)
    assert found.high == pytest.approx(interval_.high, rel=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)


def test_student_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for sample in rng.normal(2.0, 1.0, size=(1000, 4)):
        e = student_interval(sample)
        assert e.low is not None
        assert e.high is not None
        covered += e.low <= 2.0 <= e.high
    assert 0.93 < covered / 1000 < 0.97


def test_a_a_comparison_is_claimed_in_one_of_twenty() -> None:
    rng = np.random.default_rng(2)
    claims = [
        compare(rng.normal(size=6), rng.normal(size=6)).claim != "undecided" for _ in range(250)
    ]
    assert 0.015 < np.mean(claims) < 0.1


def test_one_value_has_no_interval_and_says_so() -> None:
    found = student_interval([0.3])
    assert (found.low, found.high, found.sign) == (None, None, 0)
    assert "no interval" in found.note


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError):
        student_interval(values)


@pytest.mark.parametrize("values", [[0.1, 0.1], [0.3 - 0.2, 0.1, 0.1], [0.0, 0.0]])
def test_equal_differences_are_no_certainty(values: list[float]) -> None:
    found = student_interval(values)
    assert (found.low, found.high, found.p, found.sign) == (None, None, None, 0)
    assert "no spread" in found.note


def test_equal_draws_have_no_bootstrap_interval() -> None:
    found = hierarchical_bootstrap({f"d{k:02}": [0.1, 0.1] for k in range(12)}, "equal")
    assert (found.low, found.p) == (None, None)


def test_bootstrap_interval_is_near_scipys() -> None:
    sample = np.random.default_rng(3).exponential(size=60)
    found = bootstrap_interval(lambda x: float(x.mean()), sample, "test")
    theirs = stats.bootstrap(
        (sample,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.03)
    assert found.high == pytest.approx(theirs.high, abs=0.03)


def _slow_hierarchical(groups: dict[str, list[float]], resamples: int) -> tuple[float, float]:
    rng = np.random.default_rng(5)
    names = list(groups)
    means = []
    for _ in range(resamples):
        drawn = [groups[names[rng.integers(len(names))]] for _ in names]
        means.append(np.mean([np.mean([v[rng.integers(len(v))] for _ in v]) for v in drawn]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_hierarchical_bootstrap_agrees_with_the_literal_loops() -> None:
    rng = np.random.default_rng(4)
    groups = {
        f"draw{i}": list(rng.normal(rng.normal(0.5, 0.3), 0.1, size=2 + i % 3)) for i in range(12)
    }
    found = hierarchical_bootstrap(groups, "test")
    low, high = _slow_hierarchical(groups, 1500)
    assert found.value == pytest.approx(np.mean([np.mean(v) for v in groups.values()]))
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_the_unit_of_an_interval_is_the_widest_that_varies() -> None:
    one = interval({"a": [0.1, 0.2, 0.3]}, "x")
    few = interval({"a": [0.1, 0.2], "b": [0.3, 0.4]}, "x")
    many = interval({str(i): [0.1 * i, 0.1 * i + 0.01] for i in range(12)}, "x")
    assert (one.unit, one.n) == ("seed", 3)
    assert "other classes were not tried" in one.note
    assert (few.unit, few.n, few.method) == ("class draw", 2, "Student t")
    assert (many.n, many.method) == (12, "hierarchical bootstrap")
    with pytest.raises(DataError, match="no values"):
        interval({}, "x")


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_its_definition(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    ordered = sorted(p_values.values())
    m = len(ordered)
    for name, p in p_values.items():
        # largest over the smaller p-values of (m - place) p, at most 1
        literal = max(
            min(1.0, (m - place) * smaller)
            for place, smaller in enumerate(ordered)
            if smaller <= p and (smaller < p or place == ordered.index(p))
        )
        assert adjusted[name] >= p
        assert adjusted[name] <= 1
        if ordered.count(p) == 1:
            assert adjusted[name] == pytest.approx(literal)


def test_holm_of_a_textbook_family() -> None:
    found = holm({"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.04, "e": 0.05})
    assert list(found.values()) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    with pytest.raises(DataError, match="not between"):
        holm({"a": 1.2})


def test_sign_and_wilcoxon_tests() -> None:
    d = np.random.default_rng(6).normal(0.3, 1, size=15)
    assert wilcoxon_test(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    assert sign_test([1, 1, 1, -1, 0]) == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert sign_test([0, 0]) == wilcoxon_test([0.0, 0.0]) == 1.0
    # With ties scipy's own permutation of signs is the oracle.
    tied = np.array([1.0, 1.0, 2.0, -1.0, 3.0])
    oracle = stats.wilcoxon(tied, method=stats.PermutationMethod(n_resamples=np.inf))
    assert wilcoxon_test(tied) == pytest.approx(oracle.pvalue)


def test_logit_accuracy_keeps_the_ends_finite() -> None:
    assert logit_accuracy([0, 5, 10], [10, 10, 10]) == pytest.approx(
        [-math.log(21), 0, math.log(21)]
    )
    with pytest.raises(DataError):
        logit_accuracy([3], [2])


def test_a_ranking_is_claimed_only_where_the_paired_interval_excludes_zero() -> None:
    base = np.array([0.1, 0.5, 0.9, 0.3])
    found = rank(
        {
            "b": base,
            "a": base + np.array([0.1, 0.11, 0.09, 0.1]),
            "c": base + np.array([0.3, -0.3, 0.2, -0.1]),
        }
    )
    claims = {(c.left, c.right): c.claim for c in found}
    assert claims["a", "b"] == "higher"
    assert claims["c", "b"] == "undecided"
    adjusted = {(c.left, c.right): c.p_holm for c in found}
    assert adjusted["a", "b"] == pytest.approx(
        3 * next(c for c in found if c.claim == "higher").effect.p
    )


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(DataError, match="not pairs"):
        compare([1.0, 2.0], [1.0])


def test_draws_are_the_same_in_every_process() -> None:
    # Written down from another process: Python's own hash() would change from run to run.
    assert int(generator("a", 1).integers(1 << 40)) == 488598088487
    assert int(generator("a", 2).integers(1 << 40)) != 488598088487
