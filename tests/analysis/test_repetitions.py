"""The number of repetitions that is named does decide, about as often as it promises."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.repetitions import MOST_REPETITIONS, repetitions_wanted
from analysis.statistics import Estimate, student_interval


@pytest.mark.parametrize("effect", [0.8, 1.2, 2.0])
def test_so_many_repetitions_decide_four_times_in_five(effect: float) -> None:
    rng = np.random.default_rng(0)
    pilot = np.array([effect - 1, effect + 1, effect - 1, effect + 1]) * 1.0
    pilot = effect + (pilot - pilot.mean()) / pilot.std(ddof=1)
    wanted = repetitions_wanted(student_interval(pilot))
    assert wanted is not None
    assert 5 <= wanted <= MOST_REPETITIONS
    decided = [student_interval(rng.normal(effect, 1, wanted)).sign == 1 for _ in range(2000)]
    assert 0.75 <= float(np.mean(decided)) <= 0.99
    if wanted > 5:
        fewer = [student_interval(rng.normal(effect, 1, wanted - 2)).sign == 1 for _ in range(2000)]
        assert float(np.mean(fewer)) < 0.82


def test_no_effect_needs_more_than_is_worth_naming() -> None:
    assert repetitions_wanted(student_interval([-1.0, 1.0, 0.01])) == MOST_REPETITIONS + 1


def test_without_an_interval_nothing_is_promised() -> None:
    assert repetitions_wanted(Estimate(1.0, None, None, 1)) is None
