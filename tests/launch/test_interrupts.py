"""Signals to a command on this machine: none is lost, and one that comes twice does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from bench.launch.devices import Machine, Placement
from bench.launch.local.run import run_here
from bench.planning.forecast import Forecast
from bench.planning.workspace import open_session
from bench.specs.planned import PlannedRun

GRID = """\
defaults:
  target:
    dataset: digits
    classes: {recipe: random, n: 2}
    images_per_class: 4
    val_per_class: 2
    test_per_class: 4
  source: none
  pattern: scratch
  model: narrow8_32
  train: {lr: 0.0001, epochs: EPOCHS, batch_size: 8, evaluate_every: 1}
experiments:
  one: {about: to be stopped}
"""


class Finalised:
    """Sends the signal as it is thrown away: the exception cannot leave `__del__`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(100):  # the handler runs in here
            time.sleep(0)


class Interrupted(Forecast):
    """A forecast during which the signal comes."""

    number = signal.SIGINT

    def seconds(self, run: PlannedRun) -> float | None:
        Finalised(self.number)
        return None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_before_there_are_workers_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID.replace("EPOCHS", "1"))
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    before = signal.getsignal(signal.SIGINT)
    tally = run_here(
        session,
        Console(quiet=True),
        Machine("cpu"),
        Placement(1),
        retry_failed=False,
        forecast=Interrupted({}),
    )
    assert tally.interrupted
    assert set(session.states().values()) == {"missing"}
    assert signal.getsignal(signal.SIGINT) is before


def stopped(folder: Path, *signals: int, workers_first: Sequence[int] = ()) -> str:
    """What a command prints that gets the signals, one after the other, while it trains.

    `workers_first` are sent to each process that it has started, a moment before.
    """
    (folder / "grid.yaml").write_text(GRID.replace("EPOCHS", "100000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "grid", "grid.yaml", "--workers", "1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(process, lambda: bool(list(folder.glob("results/runs/*/history*.csv"))))
    below = descendants(process.pid) if workers_first else []
    for number in workers_first:
        assert below
        for pid in below:
            os.kill(pid, number)
        time.sleep(0.3)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    return output


def wait_for(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    end = time.monotonic() + 180
    while not true():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_second_sigterm_does_no_harm(tmp_path: Path) -> None:
    output = stopped(tmp_path, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert "stopping after the present step\n" in output
    assert "stopped; finished runs are kept and unfinished ones have checkpoints" in output
    assert "to go on: bench grid grid.yaml" in output
    assert "ended at once" not in output
    (run,) = tmp_path.glob("results/runs/*")
    assert list(run.glob("checkpoint*")), list(run.iterdir())


def descendants(pid: int) -> list[int]:
    """Every process that it has started, and those that these have, whatever their sessions."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc names the children of a process")
def test_workers_leave_the_signals_of_a_job_to_the_command(tmp_path: Path) -> None:
    """SLURM signals every process of a job step; a worker that died would lose its last epochs."""
    all_ = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    output = stopped(tmp_path, signal.SIGTERM, workers_first=all_)
    assert "stopping after the present step\n" in output
    assert "a worker was killed" not in output
    (run,) = tmp_path.glob("results/runs/*")
    assert list(run.glob("checkpoint*")), list(run.iterdir())
