"""A small version of `benchmarks.sequential`: fewer runs, the same power, few false verdicts."""

from __future__ import annotations

import numpy as np

from analysis.statistics.sequential import Looks
from benchmarks.sequential import MIXES, TASKS, false_share, families, family, power


def test_looks_take_fewer_runs_for_the_power_of_the_fixed_design() -> None:
    effects = MIXES["large, small, none"]
    found = families(effects, 120, seed=7)
    looked, fixed = power(found, effects)
    assert np.mean([one.share for one in found]) < 0.65
    assert looked > fixed - 0.04


def test_families_without_a_difference_seldom_show_one_at_any_look() -> None:
    """Of 200 families 0.05 would give 10; 18 or more come once in 100 times."""
    effects = MIXES["none"]
    assert false_share(families(effects, 200, seed=7), effects).hits < 18


def test_a_family_with_one_look_is_judged_as_by_the_fixed_design() -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        found = family(MIXES["large, medium, small, none"], Looks((TASKS,)), rng)
        assert found.looked == found.fixed
        assert found.share == 1.0
