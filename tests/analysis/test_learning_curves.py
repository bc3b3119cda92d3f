"""Power laws against planted exponents and scipy; crossings against planted ones."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.board import prepare
from analysis.learning_curves import crossing, curve, fit_power_law, images_for
from bench.errors import DataError

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
    half = stats.t.ppf(0.975, n.size - 2) * theirs.stderr
    assert law.exponent == pytest.approx(-theirs.slope)
    assert law.exponent_high - law.exponent == pytest.approx(half)


def test_recovers_a_planted_floor() -> None:
    law = fit_power_law(SIZES, 0.8 * SIZES**-0.7 + 0.15, floor=None)
    assert (law.floor, law.exponent) == pytest.approx((0.15, 0.7), abs=1e-4)


def test_intervals_of_the_exponent_cover() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        error = 0.9 * SIZES**-0.4 * np.exp(rng.normal(0, 0.05, SIZES.size))
        law = fit_power_law(SIZES, error)
        covered += law.exponent_low <= 0.4 <= law.exponent_high
    assert 0.9 < covered / 200 < 0.99


def test_how_many_more_labels() -> None:
    rng = np.random.default_rng(2)
    error = 0.9 * SIZES**-0.4 * np.exp(rng.normal(0, 0.02, SIZES.size))
    found = images_for(fit_power_law(SIZES, error), 0.88)
    truth = (0.9 / 0.12) ** (1 / 0.4)
    assert found.low is not None
    assert found.high is not None
    assert found.low < truth < found.high
    assert not found.extrapolated
    assert images_for(fit_power_law(SIZES, error), 0.95).extrapolated
    with pytest.raises(DataError, match="out of reach"):
        images_for(fit_power_law(SIZES, 0.8 * SIZES**-0.7 + 0.2, floor=0.2), 0.9)
    with pytest.raises(DataError, match="hardly falls"):  # 1e-4: more images than a float can say
        images_for(fit_power_law(SIZES, 0.8 * SIZES**-1e-4), 0.9)
    with pytest.raises(DataError, match="does not fall"):
        images_for(fit_power_law(SIZES, 0.1 * SIZES**0.1), 0.95)


@pytest.mark.parametrize(
    ("n", "error", "floor", "said"),
    [
        ([5, 10], [0.5, 0.4], 0.0, "2 different numbers"),
        ([5, 10, 20], [0.5, 0.4, 0.3], None, "needs 4"),
        ([5, 10, 20], [0.5, 0.4, 0.1], 0.1, "above the floor"),
        ([5, 10, 20], [0.5, 0.4], 0.0, "3 sizes and 2 errors"),
        ([], [], 0.0, "no values"),
    ],
)
def test_too_few_points_are_named(
    n: list[float], error: list[float], floor: float | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        fit_power_law(n, error, floor)


def _pairs(differences: dict[float, list[float]]) -> pd.DataFrame:
    rows = [
        {"task": f"t{i % 2}", "seed": str(i // 2), "n_per_class": n, "difference": d}
        for n, values in differences.items()
        for i, d in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_planted_crossing_is_found_in_log_size() -> None:
    found = crossing(_pairs({10: [-0.1] * 4, 1000: [0.1] * 4}), "tune - freeze")
    assert found.images_per_class == pytest.approx(100)
    assert (found.low, found.high, found.share) == pytest.approx((100, 100, 1))
    assert (found.above, found.n) == ("left", 4)


def test_no_crossing_is_said() -> None:
    found = crossing(_pairs({10: [0.1, 0.2], 100: [0.3, 0.1]}), "x")
    assert found.images_per_class is None
    assert found.above == "left"
    assert "no crossing between 10 and 100" in found.note
    alone = crossing(_pairs({10: [-0.1], 100: [0.1]}), "x")
    assert alone.low is None
    assert "one repetition" in alone.note


def test_touching_zero_is_no_crossing() -> None:
    touched = crossing(_pairs({10: [0.1, 0.1], 30: [0.0, 0.0], 100: [0.1, 0.1]}), "x")
    assert touched.images_per_class is None
    through = crossing(_pairs({10: [-0.1, -0.1], 30: [0.0, 0.0], 100: [0.1, 0.1]}), "x")
    assert through.images_per_class == 30
    with pytest.raises(DataError, match="two or more"):
        crossing(_pairs({10: [0.1]}), "x")


def test_curve_has_an_interval_for_each_size() -> None:
    rows = [
        {
            "status": "done",
            "dataset": "d",
            "target": "t",
            "class_draw": 0,
            "source": "near",
            "model": "m",
            "pattern": "T(1-7)R(8)",
            "method": "plain",
            "images_per_class": n,
            "seed_draw": s,
            "seed_init": s,
            "seed_order": s,
            "top1_accuracy": 0.3 + 0.1 * math.log10(n) + 0.01 * s,
        }
        for n in (5, 50)
        for s in range(3)
    ]
    found = curve(prepare(pd.DataFrame(rows)))
    assert found["n_per_class"].tolist() == [5, 50]
    assert found["n"].tolist() == [3, 3]
    assert ((found["low"] < found["mean"]) & (found["mean"] < found["high"])).all()
