"""Recipes compared image by image: the rule, its literal twin, and correlated answers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.race.paired import as_if_independent, gains, is_better

Bools = NDArray[np.bool_]


def _literal(first: list[bool], other: list[bool]) -> bool:
    """Agresti and Min: half an image more in each cell; the difference above its standard error."""
    cells = {pair: Fraction(1, 2) for pair in product((True, False), repeat=2)}
    for pair in zip(first, other, strict=True):
        cells[pair] += 1
    images = sum(cells.values())
    only, only_other = cells[True, False], cells[False, True]
    difference = (only - only_other) / images
    error = math.sqrt((only + only_other) / images**2)  # where the two are equally good
    return difference > error


@pytest.mark.parametrize("images", [1, 4, 6])
def test_the_rule_is_that_of_paired_proportions(images: int) -> None:
    answers = list(product((True, False), repeat=images))
    for first in answers:
        for other in answers[:: max(1, len(answers) // 16)]:
            draws = [dict(enumerate(one)) for one in (first, other)]
            named = [{str(key): right for key, right in draw.items()} for draw in draws]
            found = gains(named[:1], named[1:])
            assert found is not None
            assert is_better(found) == _literal(list(first), list(other)), (first, other)


def test_an_image_of_two_draws_is_one_image() -> None:
    once = gains([{"a": True, "b": True}], [{"a": False, "b": False}])
    twice = gains([{"a": True}, {"a": True}], [{"a": False}, {"a": False}])
    assert once is not None
    assert twice is not None
    assert is_better(once)  # two images
    assert not is_better(twice)  # one, looked at twice: 2 of sqrt(4 + 1)
    assert gains([{"a": True}], [{"a": True}, {"b": True}]) is None


def _answers(rng: np.random.Generator, shares: list[float], images: int, alike: float) -> Bools:
    """(recipes, images) right answers; `alike` is how much of an image's difficulty is shared."""
    shared = rng.standard_normal(images)
    own = rng.standard_normal((len(shares), images))
    limits = np.array([NormalDist().inv_cdf(share) for share in shares])[:, None]
    found: Bools = math.sqrt(alike) * shared + math.sqrt(1 - alike) * own < limits
    return found


def _unpaired(one: float, other: float, images: int) -> bool:
    """The rule before: each share as if it had images of its own (Agresti and Coull)."""
    shares = [(share * images + 2) / (images + 4) for share in (one, other)]
    variance = sum(share * (1 - share) for share in shares) / (images + 4)
    return shares[0] - shares[1] > math.sqrt(variance)


def _picked(difference: float, images: int, arms: int, alike: float) -> NDArray[np.float64]:
    """How often the best of some recipes is taken in place of the simple one: unpaired, paired."""
    rng, repeats, taken = np.random.default_rng(0), 1500, np.zeros(2)
    for _ in range(repeats):
        right = _answers(rng, [0.88, *[0.88 + difference] * arms], images, alike)
        shares = right.mean(1)
        best = 1 + int(shares[1:].argmax())
        counts = right[best].astype(int) - right[0]
        taken += (
            _unpaired(shares[best], shares[0], images),
            is_better(counts.tolist(), best_of=arms),
        )
    found: NDArray[np.float64] = taken / repeats
    return found


@pytest.mark.parametrize(("images", "arms", "alike"), [(48, 2, 0.9), (400, 1, 0.8), (400, 2, 0.9)])
def test_correlated_answers_show_more_gains_and_no_more_losses(
    images: int, arms: int, alike: float
) -> None:
    worse, worse_paired = _picked(-0.04, images, arms, alike)
    assert worse_paired <= worse + 0.02
    _, as_good = _picked(0.0, images, arms, alike)
    assert as_good < 0.2  # one standard error, whatever the number of recipes
    gain, gain_paired = _picked(0.04, images, arms, alike)
    assert gain_paired > gain
    # What both choices are worth where gains and losses are as likely.
    assert gain_paired - worse_paired > gain - worse


def test_answers_that_were_not_kept_are_judged_as_the_shares_were() -> None:
    for one, other, images in ((1.0, 0.9, 20), (0.95, 0.9, 200), (0.91, 0.9, 400)):
        found = as_if_independent(one, other, images)
        assert sum(found) == pytest.approx(images * (one - other), abs=1)
        independent = images * (one * (1 - other) + other * (1 - one))
        assert len(found) == pytest.approx(independent, abs=1)
