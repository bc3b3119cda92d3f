"""Looks: the boundaries of published tables, and levels that hold in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from analysis.statistics.decisions import Hypothesis, Rules, decide
from analysis.statistics.sequential import (
    Looks,
    adjusted_p,
    boundaries,
    chance_to_reach,
    looks_at,
    nominal_level,
    predictive_power,
    spent,
)
from bench.results.intervals import student

TWO = (0.5, 1.0)
THREE = (1 / 3, 2 / 3, 1.0)
FOUR = (0.25, 0.5, 0.75, 1.0)
FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("times", "published"),
    [
        (TWO, (2.963, 1.969)),
        (THREE, (3.710, 2.511, 1.993)),
        (FOUR, (4.333, 2.963, 2.359, 2.014)),
        (FIVE, (4.877, 3.357, 2.680, 2.290, 2.031)),
    ],
)
def test_boundaries_are_those_of_published_tables(
    times: tuple[float, ...], published: tuple[float, ...]
) -> None:
    """Two-sided 0.05, spending of O'Brien and Fleming's type, as Lan and DeMets' program gives."""

    def obrien_fleming(share: float, level: float) -> float:
        return float(4 * special.ndtr(special.ndtri(level / 4) / math.sqrt(share)))

    assert boundaries(times, 0.05, obrien_fleming) == pytest.approx(published, abs=6e-4)


def test_boundaries_are_those_of_normal_integrals() -> None:
    """The power family against scipy's multivariate normal distribution: three looks."""
    times, level = THREE, 0.05
    covariance = np.minimum.outer(times, times) / np.sqrt(np.outer(times, times))
    ends = boundaries(times, level)
    for look in (1, 2, 3):
        inside = stats.multivariate_normal(np.zeros(look), covariance[:look, :look]).cdf(
            np.array(ends[:look]), lower_limit=-np.array(ends[:look])
        )
        assert 1 - inside == pytest.approx(level * times[look - 1] ** 2, abs=2e-5)


def test_one_look_is_the_test_without_looks() -> None:
    assert boundaries((1.0,), 0.05)[0] == pytest.approx(float(stats.norm.ppf(0.975)), abs=1e-9)
    assert adjusted_p(0.0123, (1.0,)) == 0.0123
    assert nominal_level((1.0,), 0.0123) == 0.0123


@pytest.mark.parametrize("level", [0.05, 0.005])
def test_sums_of_normal_steps_cross_as_often_as_is_spent(level: float) -> None:
    """A literal twin: random walks, counted."""
    times = (0.4, 0.55, 0.8, 1.0)
    rng = np.random.default_rng(5)
    steps = rng.standard_normal((400_000, 4)) * np.sqrt(np.diff([0.0, *times]))
    z = steps.cumsum(axis=1) / np.sqrt(times)
    crossed = np.abs(z) >= boundaries(times, level)
    for look in range(4):
        share = crossed[:, : look + 1].any(axis=1).mean()
        owed = spent(times[look], level)
        assert abs(share - owed) < 4 * math.sqrt(owed / 400_000) + 1e-6


@pytest.mark.parametrize("tasks", [3, 4, 6, 7, 8, 10])
@pytest.mark.parametrize("p", [1e-6, 1e-3, 0.02, 0.2])
def test_the_adjusted_p_is_the_level_at_which_the_boundary_is_crossed(tasks: int, p: float) -> None:
    """The table between the levels against the search for each one."""
    times = Looks((4, 6, 8, 10)).times(tasks)
    found = adjusted_p(p, times)

    def excess(log_level: float) -> float:
        return nominal_level(times, math.exp(log_level)) - p

    if excess(math.log(0.998)) < 0:
        assert found == 1.0
        return
    exact = math.exp(optimize.brentq(excess, math.log(1e-13), math.log(0.998)))
    assert found == pytest.approx(exact, rel=1e-4)


def test_p_values_of_one_and_of_nothing_stay_in_their_range() -> None:
    looks = Looks((4, 6, 8, 10))
    for tasks in (1, 4, 5, 10, 40):
        for p in (0.0, 1e-250, 0.999999, 1.0):
            found = looks.adjusted(p, tasks)
            assert found is not None
            assert 0 <= found <= 1
            assert found >= p or p < 1e-12
    assert looks.adjusted(None, 4) is None


def test_boundaries_rise_as_the_level_falls() -> None:
    """Else a hypothesis could be lost when others are rejected and its level grows."""
    levels = np.geomspace(1e-6, 0.9, 40)
    for times in (TWO, FIVE, (0.4, 0.6, 0.8, 1.0)):
        ends = np.array([boundaries(times, float(level)) for level in levels])
        assert (np.diff(ends, axis=0) < 0).all()


def test_looks_are_fixed_by_the_number_of_tasks() -> None:
    assert looks_at(20).sizes == tuple(range(4, 21))
    assert looks_at(40).sizes == tuple(range(8, 41, 2))
    assert looks_at(4).sizes == (3, 4)
    assert looks_at(2).sizes == (2,)
    looks = Looks((8, 12, 16, 20))
    assert [looks.place(n) for n in (1, 8, 9, 12, 20, 25)] == [1, 1, 2, 2, 4, 4]
    assert looks.times(14) == (0.4, 0.6, 0.7)


def test_predictive_power_is_the_share_of_walks_that_end_beyond_the_last_boundary() -> None:
    """The drift is drawn from what is known of it after the look."""
    looks, p, rng = Looks((4, 6, 8, 10)), 0.05, np.random.default_rng(1)
    z = -float(special.ndtri(p / 2))
    now = z * math.sqrt(0.6)
    drift = now / 0.6 + rng.standard_normal(400_000) / math.sqrt(0.6)
    ends = now + drift * 0.4 + math.sqrt(0.4) * rng.standard_normal(400_000)
    share = (ends >= boundaries(looks.times(10), 0.01 / looks.excess)[-1]).mean()
    assert predictive_power(p, looks, 6, 0.01) == pytest.approx(share, abs=0.004)


def test_the_chance_to_reach_an_effect_is_the_share_of_last_estimates_that_do() -> None:
    rng = np.random.default_rng(5)
    seen = rng.normal(1.0, 2.0, 6)
    estimate, spread = student(seen, unit="task"), float(seen.std(ddof=1))
    truth = seen.mean() + rng.standard_normal(200_000) * spread / math.sqrt(6)
    added = truth + rng.standard_normal(200_000) * spread / math.sqrt(4)
    last = (6 * seen.mean() + 4 * added) / 10
    share = (np.abs(last) >= 1.5).mean()
    found = chance_to_reach(estimate, 1.5, Looks((4, 6, 8, 10)))
    assert found == pytest.approx(share, abs=0.005)


def _tests(rng: np.random.Generator, tasks: int) -> list[Hypothesis]:
    found = []
    for name in range(9):
        general, here = (float(p) for p in rng.uniform(size=2) ** 4)
        parts = [(general, here), (None, here), (general, None)][name % 3]
        found.append(Hypothesis(str(name), 1, *parts, tasks))
    return found


def test_with_one_look_decisions_are_those_of_the_fixed_design() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        tests = _tests(rng, 10)
        assert decide(tests, Rules(looks=Looks((10,)))) == decide(tests, Rules())


def test_decisions_at_a_look_are_never_more_than_without_looks() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        tests = _tests(rng, int(rng.integers(3, 11)))
        plain, looked = decide(tests, Rules()), decide(tests, Rules(looks=Looks((4, 6, 8, 10))))
        for name, decision in looked.items():
            assert decision.general <= plain[name].general
            assert decision.here <= plain[name].here
            assert (decision.p or 0) >= (plain[name].p or 0) * (1 - 1e-9)


@pytest.mark.parametrize("tasks", [5, 10, 24])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_a_t_test_at_all_looks_rejects_no_more_than_its_level(tasks: int, level: float) -> None:
    """Without the division by `excess` ten tasks reject in 6 of 100 at a level of 0.05."""
    looks, rng, many = looks_at(tasks), np.random.default_rng(6), 100_000
    values, hit = rng.standard_normal((many, tasks)), np.zeros(many, bool)
    for size in looks.sizes:
        seen = values[:, :size]
        t = np.abs(seen.mean(axis=1)) / seen.std(axis=1, ddof=1) * math.sqrt(size)
        end = optimize.brentq(  # the t-value whose adjusted p is the level
            lambda t, n=size: (looks.adjusted(2 * stats.t.sf(t, n - 1), n) or 0) - level, 0.5, 500
        )
        hit |= t >= end
    assert hit.mean() <= level + 2.6 * math.sqrt(level / many)
    assert hit.mean() >= 0.75 * level


def test_of_families_where_nothing_differs_one_in_twenty_has_a_verdict() -> None:
    """t-tests over tasks at four looks, five comparisons that share an arm, Holm at each look."""
    looks, rng, families, hits = looks_at(20), np.random.default_rng(4), 600, 0
    rules = Rules(looks=looks)
    for _ in range(families):
        base = rng.standard_normal((20, 1))
        values = rng.standard_normal((20, 5)) - base
        for size in looks.sizes:
            p = stats.ttest_1samp(values[:size], 0.0).pvalue
            tests = [Hypothesis(str(k), 1, float(p[k]), None, size) for k in range(5)]
            if any(found.general for found in decide(tests, rules).values()):
                hits += 1
                break
    assert hits / families < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / families)
