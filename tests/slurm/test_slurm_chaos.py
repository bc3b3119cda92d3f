"""Random faults until everything is done: nothing is lost, doubled or torn."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
RUNS = 24
MOST_FAULTS = 60
Make = Callable[..., Any]


@pytest.mark.parametrize("seed", [1, 2])
def test_random_faults_lose_nothing(grid: Make, wait_until: Make, seed: int) -> None:
    """Kills, requeues, signals, pre-emption, cut submissions and dead daemons."""
    policy = {"runs_per_job": 4, "max_attempts": 99, "partition": "low"}
    g = grid(*range(RUNS), epochs=150, slurm=policy)
    draw = random.Random(seed)
    faults: dict[str, Callable[[], object]] = {
        "kill": lambda: kill(draw.sample(g.pids(), min(2, len(g.pids())))),
        "requeue": lambda: one_job(g, draw, "scontrol", "requeue"),
        "signal": lambda: one_job(g, draw, "scancel", "--signal=USR2"),
        "preempt": g.cluster.take_away,
        "cut": lambda: cut_short(g, draw.uniform(0.3, 3.0)),
        "slurmd": lambda: g.cluster.kill_daemon(draw.choice(["slurmd-n0", "slurmd-n1"])),
        "slurmctld": lambda: g.cluster.kill_daemon("slurmctld"),
    }
    g.submit()
    seen: dict[str, tuple[int, int]] = {}
    injected: Counter[str] = Counter()
    while len(published(g)) < RUNS and injected.total() < MOST_FAULTS:
        name = draw.choice(sorted(faults))
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            faults[name]()
        injected[name] += 1
        time.sleep(draw.uniform(0.0, 4.0))
        g.cluster.up()
        assert g.bench("resume").returncode in (0, 1)
        now = published(g)
        assert seen.items() <= now.items()  # what is published stays as it was
        seen = now

    def finished() -> bool:  # and then in peace
        g.bench("resume", "--retry-failed")
        return not g.cluster.jobs()

    wait_until("an empty queue", finished, 300, 2)
    assert g.counts() == {"done": RUNS}
    assert seen.items() <= published(g).items()
    assert g.torn() == []
    assert g.unnamed() == []
    g.submit()
    assert (g.results / "tiny.csv").read_text().count(",done,") == RUNS
    executions = g.executions()
    again = sum(count > 1 for count in executions.values())
    print(f"{injected.total()} faults: {dict(injected)}")
    print(f"{executions.total()} executions of {RUNS} runs, {again} runs more than once")


def published(grid: Any) -> dict[str, tuple[int, int]]:
    """Inode and time of every record: both change when it is written again."""
    paths = grid.results.glob("runs/*/record.json")
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def one_job(grid: Any, draw: random.Random, *words: str) -> None:
    numbers = [number for number, _, _ in grid.cluster.jobs("R").values()]
    if numbers:
        grid.cluster.call(*words, draw.choice(sorted(numbers)), check=False)


def cut_short(grid: Any, seconds: float) -> None:
    """A submission that is killed after some time."""
    command = [
        sys.executable,
        "-c",
        "from bench.commands.app import main; main()",
        "grid",
        str(grid.path),
    ]
    command += ["--results", str(grid.results), "--slurm"]
    process = subprocess.Popen(command, env=grid.environment(), cwd=ROOT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()
