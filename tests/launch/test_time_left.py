"""The time left that is shown while runs are trained."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench.launch.local.run import Tally, _Display


def display(cost: dict[str, float], workers: int) -> _Display:
    runs: Any = [SimpleNamespace(id=key) for key in cost]
    session: Any = SimpleNamespace(
        plan=SimpleNamespace(runs=dict.fromkeys(cost, SimpleNamespace(spec=None))),
        store=SimpleNamespace(folder=lambda *_: SimpleNamespace(path=SimpleNamespace(name="x"))),
    )
    return _Display(Console(file=StringIO()), session, runs, cost, Tally(), workers)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows."""
    shown = [100.0]
    monkeypatch.setattr("bench.launch.local.run.time.monotonic", lambda: shown[0])
    return shown


@pytest.mark.parametrize(
    ("took_s", "left_s"),
    [
        (2.0, 12.0),  # as fast as forecast: 4 of 28 seconds, with two workers
        (6.0, 23.7),  # 36 by what the first run took, which had to load libraries
        (20.0, 64.7),
    ],
)
def test_the_forecast_counts_until_runs_have_ended(
    took_s: float, left_s: float, now: list[float]
) -> None:
    shows = display(dict.fromkeys("abcdefg", 4.0), 2)
    assert shows._time_left() == ""
    shows.on_event({"event": "started", "id": "a"})
    now[0] += took_s
    shows.on_event({"event": "ended", "id": "a", "status": "done"})
    assert shows._seconds_left() == pytest.approx(left_s, abs=0.05)
    assert shows._time_left().endswith(" left")


def test_what_runs_took_counts_more_and_more(now: list[float]) -> None:
    """A machine at a third of the speed that was forecast."""
    runs = [f"run{number}" for number in range(20)]
    shows, off = display(dict.fromkeys(runs, 10.0), 1), []
    for number, run in enumerate(runs[:-1], start=1):
        shows.on_event({"event": "started", "id": run})
        now[0] += 30.0
        shows.on_event({"event": "ended", "id": run, "status": "done"})
        truth = 30.0 * (len(runs) - number)
        off.append(1 - (shows._seconds_left() or 0.0) / truth)
    assert off == sorted(off, reverse=True)
    assert off[0] < 0.55
    assert off[-1] < 0.1
