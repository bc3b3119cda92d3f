"""The number of repetitions that is named does decide, about as often as it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.corrections import p_equal
from analysis.statistics.sample_size import (
    MOST_REPETITIONS,
    repetitions_for_equality,
    repetitions_wanted,
)
from bench.results.intervals import Estimate, from_errors, student


@pytest.mark.parametrize("effect", [0.8, 1.2, 2.0])
def test_so_many_repetitions_decide_four_times_in_five(effect: float) -> None:
    rng = np.random.default_rng(0)
    pilot = np.array([effect - 1, effect + 1, effect - 1, effect + 1]) * 1.0
    pilot = effect + (pilot - pilot.mean()) / pilot.std(ddof=1)
    wanted = repetitions_wanted(student(pilot))
    assert wanted is not None
    assert 5 <= wanted <= MOST_REPETITIONS
    decided = [student(rng.normal(effect, 1, wanted)).sign == 1 for _ in range(2000)]
    assert 0.75 <= float(np.mean(decided)) <= 0.99
    if wanted > 5:
        fewer = [student(rng.normal(effect, 1, wanted - 2)).sign == 1 for _ in range(2000)]
        assert float(np.mean(fewer)) < 0.82


def test_so_many_repetitions_show_that_an_effect_is_too_small() -> None:
    rng = np.random.default_rng(0)
    pilot = student([-0.8, 1.2, -0.8, 1.2])
    wanted = repetitions_for_equality(pilot, 1.0)
    assert wanted is not None
    spread = float(np.std([-0.8, 1.2, -0.8, 1.2], ddof=1))
    shown = [p_equal(student(rng.normal(0.2, spread, wanted)), -1, 1) for _ in range(2000)]
    assert 0.78 <= float(np.mean([p is not None and p <= 0.05 for p in shown])) <= 0.97


def test_no_effect_needs_more_than_is_worth_naming() -> None:
    assert repetitions_wanted(student([-1.0, 1.0, 0.01])) == MOST_REPETITIONS + 1


def test_without_an_interval_nothing_is_promised() -> None:
    assert repetitions_wanted(Estimate(1.0, None, None, 1)) is None


@pytest.mark.parametrize("df", [2.3, 7.0])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_spread_is_that_behind_the_interval_whatever_its_degrees(
    df: float, level: float
) -> None:
    mean, error, n = 1.0, 0.4, 4
    spread = error * math.sqrt(n)
    literal = next(
        k
        for k in range(2, 100)
        if (stats.t.ppf(1 - level / 2, k - 1) + stats.t.ppf(0.8, k - 1)) * spread / math.sqrt(k)
        <= mean
    )
    found = repetitions_wanted(from_errors(mean, error, df, n, "seed"), level=level)
    assert found == max(n + 1, literal)
    # A stricter level, as Holm's correction gives, wants more.
    assert (literal > 8) == (level == 0.01)
