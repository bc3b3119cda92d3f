"""`bench grid --decide --slurm` on a real cluster: waves of jobs, and the looks of a local run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, "-c", "from bench.commands.app import main; main()"]
Make = Callable[..., Any]
TEXT = """\
name: growing
defaults:
  target:
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 4}
    images_per_class: 10
    val_per_class: 5
    test_per_class: 40
  source: {classes: {side: source, n: 5}, images_per_class: 60}
  model: narrow8_32
  train: {lr: 0.02, epochs: 6, batch_size: 16}
  pretrain: {lr: 0.02, epochs: 6, batch_size: 16}
experiments:
  patterns:
    axes:
      class_draw: [0, 1, 2, 3, 4]
      pattern: [tune, freeze]
slurm: {memory_gib: 1.5, grace_s: 5, lag_s: 1, signal_delay_s: 15, timeout_min: 20}
"""
QUESTION = ("--decide", "categories 5, tuned - frozen")


def test_looks_are_waves_of_jobs_and_those_of_a_local_run(grid: Make, tmp_path: Path) -> None:
    g = grid(0, name="growing")
    g.path.write_text(TEXT)
    here = tmp_path / "here"
    command = [*BENCH, "grid", str(g.path), *QUESTION, "--results", str(here), "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    gate = g.hold("started")
    command = [*BENCH, "grid", str(g.path), *QUESTION, "--results", str(g.results), "--slurm"]
    first = subprocess.Popen(
        command,
        env=g.environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and so would this command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    gate.reached()
    first.send_signal(signal.SIGINT)
    shown, _ = first.communicate(timeout=300)
    assert first.returncode == 130, shown
    assert "look 1 of 3: 6 runs on the first 3 of 5 tasks" in shown
    assert "9 runs submitted in " in shown
    assert "stopped before the look; its jobs stay in the queue" in shown
    assert f"--results {g.results} --slurm" in shown
    assert g.cluster.jobs()
    gate.open()
    text = g.submit(*QUESTION)
    assert "look 1 of 3: 3 of 5 tasks" in text
    looks = "growing-looks.csv"
    assert (g.results / looks).read_bytes() == (here / looks).read_bytes()
    assert set(g.executions().values()) == {1}
    assert len(g.records()) == len(list((here / "runs").glob("*/record.json")))
    g.wait()  # for jobs whose runs are published to end
    jobs = sorted(path.name for path in (g.results / "slurm" / "jobs").iterdir())
    assert not [name for name in jobs if "-999-" in name]  # no last job: it would go on
