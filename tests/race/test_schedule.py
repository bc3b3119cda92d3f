"""The race's plan: rungs that fit the time, halving arms and doubling epochs; and its words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import BenchError
from bench.race.budget import Budget, parse_budget
from bench.race.schedule import LEAST_EPOCHS, MOST_EPOCHS, cost, rungs
from bench.results.mistakes import paired_interval


@given(st.integers(2, 64), st.floats(0, 10_000))
def test_rungs_fit_the_time_and_halve(arms: int, epochs: float) -> None:
    found = rungs(arms, epochs)
    assert cost(found) <= epochs
    if not found:
        assert epochs < 2 * LEAST_EPOCHS
        return
    assert found[0].arms <= arms
    assert found[-1].arms == 2
    assert found[0].epochs >= LEAST_EPOCHS
    assert found[-1].epochs <= MOST_EPOCHS
    for before, after in pairwise(found):
        assert after.arms == -(-before.arms // 2)
        assert after.epochs == 2 * before.epochs


@given(st.integers(2, 64), st.floats(0, 5_000), st.floats(0, 5_000))
def test_more_time_is_never_for_less(arms: int, epochs: float, more: float) -> None:
    before, after = rungs(arms, epochs), rungs(arms, epochs + more)
    assert len(after) >= len(before)
    if before and len(before) == len(after):
        assert after[0].epochs >= before[0].epochs


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("90s", 90), ("2M", 120)]
)
def test_budgets_are_times(text: str, seconds: int) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "-5m", "1.5h", "30 minutes", "5m1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="write a time such as"):
        parse_budget(text)


def test_a_budget_goes_on_with_what_earlier_commands_have_spent() -> None:
    now = 100.0
    budget = Budget(60.0, lambda: now)
    now = 110.0
    assert (budget.spent_s, budget.left_s) == (10.0, 50.0)
    budget.earlier_s, budget.end_s = 20.0, 5.0
    assert (budget.spent_s, budget.left_s) == (30.0, 25.0)


@pytest.mark.parametrize(("images", "only_one", "only_other"), [(60, 0.08, 0.03), (200, 0.1, 0.1)])
def test_the_paired_interval_covers(images: int, only_one: float, only_other: float) -> None:
    """4,000 tests with a known difference; 95 % within the error of the simulation, or above."""
    rng = np.random.default_rng(5)
    both = 0.7
    draws = rng.choice(
        4, (4000, images), p=[both, only_one, only_other, 1 - both - only_one - only_other]
    )
    truth = only_one - only_other
    hits = 0
    for row in draws:
        _, low, high = paired_interval((row == 0) | (row == 1), (row == 0) | (row == 2))
        hits += low <= truth <= high
    assert 0.943 <= hits / len(draws) <= 0.985
