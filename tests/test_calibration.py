"""A small version of `benchmarks.calibration`: intervals cover, nothing is claimed of nothing."""

from __future__ import annotations

import pytest

from benchmarks.calibration import (
    BOARDS,
    CURVES,
    SETTINGS,
    coverage,
    derived,
    power,
    verdicts,
)

CALIBRATED = [s for s in SETTINGS if s.calibrated]


@pytest.mark.parametrize("setting", CALIBRATED[:4], ids=lambda s: s.name)
def test_intervals_cover_what_they_say(setting) -> None:  # type: ignore[no-untyped-def]
    """Of 100 boards a true coverage of 0.95 gives fewer than 89, or all, once in 100 times."""
    for kind, tally in coverage(setting, 100, seed=7).items():
        if tally.n > 80:
            assert 0.89 <= tally.share <= 0.993, (kind, tally.text())


def test_counts_alone_bound_the_error_of_one_task() -> None:
    (setting,) = [s for s in SETTINGS if "no predictions" in s.name]
    found = coverage(setting, 60, seed=7)
    assert found["difference"].share >= 0.95


def test_boards_without_a_difference_seldom_show_one() -> None:
    """Of 16 boards at most 2 (0.05 gives more once in 23 times); single parts far less often."""
    for setting in BOARDS[:1] + BOARDS[2:3]:
        found = verdicts(setting, 16, seed=7)
        assert found.boards.hits <= 2, setting.name
        assert found.general.hits <= 2, setting.name
        assert found.parts.share < 0.02
        assert 0.01 < found.raw.share < 0.12  # what an interval read alone would say


def test_large_effects_are_found() -> None:
    general, here = power(10, 2, 5.0, 12, seed=7)
    assert general.share > 0.8
    assert here.share >= general.share


@pytest.mark.parametrize("setting", [CURVES[2]], ids=lambda s: s.name)
def test_what_is_derived_from_several_sizes_covers_too(setting) -> None:  # type: ignore[no-untyped-def]
    """Of 16 boards a true coverage of 0.95 gives fewer than 14 once in 23 times."""
    for kind, tally in derived(setting, 16, seed=7).items():
        assert tally.n > 11 or kind == "crossing", (kind, tally.text())
        assert tally.share >= 14 / 16 or not tally.n, (kind, tally.text())
