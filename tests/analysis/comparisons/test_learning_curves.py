"""Power laws against planted exponents and scipy; crossings against planted ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparisons.learning_curves import (
    crossing,
    fit_power_law,
    images_wanted,
    repeated_laws,
)
from analysis.comparisons.units import summarise
from bench.core.errors import DataError

SIZES = np.array([5, 10, 20, 50, 100, 250])


@settings(deadline=None, max_examples=40)
@given(st.floats(0.3, 2), st.floats(0.1, 0.9))
def test_recovers_a_planted_exponent(scale: float, exponent: float) -> None:
    law = fit_power_law(SIZES, scale * SIZES**-exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.scale == pytest.approx(scale, rel=1e-9)
    assert law.error(40) == pytest.approx(scale * 40**-exponent, rel=1e-9)


def test_the_line_is_scipys_regression() -> None:
    rng = np.random.default_rng(0)
    n = np.repeat(SIZES, 3)
    error = 0.9 * n**-0.3 * np.exp(rng.normal(0, 0.05, n.size))
    law = fit_power_law(n, error)
    theirs = stats.linregress(np.log(n), np.log(error))
    assert law.exponent == pytest.approx(-theirs.slope)
    assert law.scale == pytest.approx(math.exp(theirs.intercept))


def test_how_many_more_labels() -> None:
    law = fit_power_law(SIZES, 0.9 * SIZES**-0.4)
    assert law.images_for(0.88) == pytest.approx((0.9 / 0.12) ** (1 / 0.4))
    assert fit_power_law(SIZES, 0.8 * SIZES**-1e-4).images_for(0.9) is None  # no float holds it
    assert fit_power_law(SIZES, 0.1 * SIZES**0.1).images_for(0.95) is None
    assert law.images_for(1.0) is None


@pytest.mark.parametrize(
    ("n", "error", "said"),
    [
        ([5, 10], [0.5, 0.4], "2 different numbers"),
        ([5, 10, 20], [0.5, 0.4, 0.0], "must be positive"),
        ([5, 10, 20], [0.5, 0.4], "3 sizes and 2 errors"),
        ([], [], "no values"),
    ],
)
def test_too_few_points_are_named(n: list[float], error: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit_power_law(n, error)


def _pairs(differences: dict[float, list[float]], tasks: int = 2) -> pd.DataFrame:
    rows = [
        {"task": f"t{i % tasks}", "seed": str(i // tasks), "n_per_class": n, "difference": d}
        for n, values in differences.items()
        for i, d in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_planted_crossing_is_found_in_log_size() -> None:
    found = crossing(_pairs({10: [-0.1] * 4, 1000: [0.1] * 4}), "tune - freeze")
    assert found.images_per_class == pytest.approx(100)
    assert (found.above, found.n, found.unit) == ("left", 2, "task")
    assert crossing(_pairs({10: [0.1] * 4, 1000: [-0.1] * 4}), "x").above == "right"
    at = crossing(_pairs({10: [-0.1] * 4, 1000: [0.3] * 4}, tasks=1), "x")
    assert at.images_per_class == pytest.approx(10 ** (1 + 2 * 0.1 / 0.4))
    assert (at.n, at.unit) == (4, "seed")
    # Equal repetitions are no certainty.
    assert (at.low, at.high) == (None, None)


@pytest.mark.parametrize("seed", range(6))
def test_ends_of_a_crossing_are_fiellers(seed: int) -> None:
    """E. C. Fieller (1954): shares w at which t² of (1 - w) a + w b is not significant."""
    rng = np.random.default_rng(seed)
    left, right = rng.normal(-0.2, 0.08, 6), rng.normal(0.15, 0.08, 6)
    found = crossing(_pairs({10: list(left), 1000: list(right)}, tasks=1), "x")
    (aa, ab), (_, bb) = np.cov(left, right) / 6
    a, b = left.mean(), right.mean()
    t2 = stats.t.ppf(0.975, 5) ** 2
    # (a + w (b - a))² - t² (aa + 2 w (ab - aa) + w² (aa - 2 ab + bb)) = 0
    shares = np.roots(
        [(b - a) ** 2 - t2 * (aa - 2 * ab + bb), 2 * (a * (b - a) - t2 * (ab - aa)), a**2 - t2 * aa]
    )
    assert found.images_per_class == pytest.approx(10 ** (1 + 2 * a / (a - b)))
    assert (found.low, found.high) != (None, None)
    ends = [(math.log10(float(v or 0)) - 1) / 2 for v in (found.low, found.high)]
    assert ends == pytest.approx(sorted(shares), abs=1 / 100)
    assert found.low < found.images_per_class < found.high  # type: ignore[operator]


def test_the_interval_covers_a_known_crossing() -> None:
    """Differences that rise with log n through zero at 80, with noise of each run.

    A set without bounds leaves nothing out, so that it covers; most have bounds here.
    """
    rng = np.random.default_rng(7)
    sizes, truth, times = (10, 100, 1000), 80, 150
    covered = bounded = 0
    for _ in range(times):
        noise = {n: rng.normal(0.15 * math.log10(n / truth), 0.05, 5) for n in sizes}
        found = crossing(_pairs({n: list(d) for n, d in noise.items()}, tasks=1), "x")
        bounded += found.low is not None
        covered += found.low is None or found.low <= truth <= (found.high or 0)
    assert bounded > 0.7 * times
    assert 0.91 <= covered / times <= 0.99


def test_a_crossing_over_tasks_counts_tasks() -> None:
    # Seeds within a task agree; what differs is the task.
    levels = [-0.05, 0.05, 0.0, 0.02]
    rows = [
        {"task": t, "seed": str(s), "n_per_class": n, "difference": d + level + 0.001 * s}
        for t, level in zip("abcd", levels, strict=True)
        for s in range(5)
        for n, d in ((10, -0.2), (1000, 0.2))
    ]
    found = crossing(pd.DataFrame(rows), "x")
    assert (found.n, found.unit) == (4, "task")
    alone = crossing(pd.DataFrame([row for row in rows if row["task"] == "c"]), "x")
    assert (alone.n, alone.unit) == (5, "seed")
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.images_per_class < found.high  # type: ignore[operator]
    half = stats.t.ppf(0.975, 3) * stats.sem(levels)
    middle = np.mean(levels) + 0.002
    # The difference is -0.2 + 0.4 w + level at the share w of the way from 10 to 1000.
    assert (math.log10(found.low) - 1) / 2 == pytest.approx((0.2 - middle - half) / 0.4, abs=0.01)
    assert (math.log10(found.high) - 1) / 2 == pytest.approx((0.2 - middle + half) / 0.4, abs=0.01)


def test_no_crossing_is_said() -> None:
    found = crossing(_pairs({10: [0.1, 0.2], 100: [0.3, 0.1]}), "x")
    assert (found.images_per_class, found.low, found.high) == (None, None, None)
    assert found.above == "left"
    assert "no crossing between 10 and 100" in found.note
    alone = crossing(_pairs({10: [-0.1], 100: [0.1]}), "x")
    assert alone.images_per_class is not None
    assert (alone.low, alone.high, alone.n) == (None, None, 1)


def test_a_crossing_that_reaches_an_end_has_no_bounds() -> None:
    unsure = crossing(_pairs({10: [-0.1, -0.12, 0.1], 1000: [0.2, 0.21, 0.2]}, tasks=1), "x")
    assert unsure.images_per_class is not None
    assert (unsure.low, unsure.high) == (None, None)
    assert "not excluded" in unsure.note


def test_repetitions_without_every_size_are_left_out_and_counted() -> None:
    rows = _pairs({10: [-0.1, -0.11, -0.12], 1000: [0.1, 0.12, 0.13]}, tasks=1)
    more = pd.DataFrame([{"task": "t0", "seed": "9", "n_per_class": 10, "difference": 5.0}])
    found = crossing(pd.concat([rows, more], ignore_index=True), "x")
    assert found.n == 3
    assert "1 repetitions lack a size" in found.note
    assert found.images_per_class == crossing(rows, "x").images_per_class
    split = [{"n_per_class": 10, "seed": "0"}, {"n_per_class": 100, "seed": "1"}]
    with pytest.raises(DataError, match="no repetition of x has every number"):
        crossing(pd.DataFrame([row | {"task": "t", "difference": 0.1} for row in split]), "x")


def test_touching_zero_is_no_crossing() -> None:
    touched = crossing(_pairs({10: [0.1, 0.1], 30: [0.0, 0.0], 100: [0.1, 0.1]}), "x")
    assert touched.images_per_class is None
    through = crossing(_pairs({10: [-0.1, -0.1], 30: [0.0, 0.0], 100: [0.1, 0.1]}), "x")
    assert through.images_per_class == 30
    with pytest.raises(DataError, match="two or more"):
        crossing(_pairs({10: [0.1]}), "x")


# --- a law for each repetition ---


def _runs(exponents: dict[tuple[str, str], float], sizes: tuple[int, ...] = (5, 20, 80)) -> Any:
    return pd.DataFrame(
        [
            {"task": t, "seed": s, "n_per_class": float(n), "top1_accuracy": 1 - 0.8 * n**-e}
            for (t, s), e in exponents.items()
            for n in sizes
        ]
    )


def test_each_repetition_has_a_law_of_its_own() -> None:
    planted = {("a", "0"): 0.3, ("a", "1"): 0.4, ("b", "0"): 0.5}
    laws = repeated_laws(_runs(planted))
    assert {(r.task, r.seed): r.exponent for r in laws.itertuples()} == pytest.approx(planted)
    few = pd.concat([_runs(planted), _runs({("c", "0"): 0.3}, sizes=(5, 20))])
    assert set(repeated_laws(few)["task"]) == {"a", "b"}
    assert repeated_laws(_runs({("c", "0"): 0.3}, sizes=(5, 20))).empty


def test_images_wanted_are_those_of_each_repetition_averaged_in_log() -> None:
    planted = {("a", "0"): 0.3, ("a", "1"): 0.4, ("b", "0"): 0.5, ("c", "0"): 0.35}
    reached = images_wanted(repeated_laws(_runs(planted)), 0.9)
    found = summarise(reached, "log_images", "images wanted", "given")
    logs = {key: math.log(0.8 / 0.1) / e for key, e in planted.items()}
    tasks = [(logs["a", "0"] + logs["a", "1"]) / 2, logs["b", "0"], logs["c", "0"]]
    low, high = stats.t.interval(0.95, 2, np.mean(tasks), stats.sem(tasks))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(tasks), low, high))
    assert (found.n, found.unit) == (3, "task")
    never = planted | {("d", "0"): -0.01}
    assert len(images_wanted(repeated_laws(_runs(never)), 0.9)) == len(planted)


@pytest.mark.parametrize("changed", [5, 20, 100])
def test_what_laws_owe_to_test_images_is_their_derivative(changed: int) -> None:
    """One test image more that is right at one size: exponent and images wanted move as said."""
    rng = np.random.default_rng(2)
    truths = {n: rng.random(2000) < p for n, p in ((5, 0.3), (20, 0.5), (100, 0.7))}

    def laws() -> pd.DataFrame:
        rows = [
            {"task": "t", "seed": "0", "n_per_class": n, "top1_accuracy": right.mean()}
            | {"correct": right.copy(), "test_images": 2000}
            for n, right in truths.items()
        ]
        return images_wanted(repeated_laws(pd.DataFrame(rows)), 0.8)

    before = laws().iloc[0]
    image = int(np.flatnonzero(~truths[changed])[0])
    others = [int(right[image]) for right in truths.values()]
    truths[changed][image] = True
    after = laws().iloc[0]
    assert sum(others) < 3
    step = (after["per_image"][image] - before["per_image"][image]) / 2000
    moved = after["log_images"] - before["log_images"]
    assert moved == pytest.approx(step, rel=0.02)
