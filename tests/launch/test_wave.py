"""A wave of jobs that meets a full queue, with the cluster's programs in their place."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.commands._slurm import reconciler
from bench.launch.slurm import wave
from bench.launch.slurm.submission import Outcome
from bench.planning.workspace import open_session

GRID = """\
name: two
defaults:
  target: {dataset: digits, images_per_class: 4, val_per_class: 2, test_per_class: 4}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 1, batch_size: 8}
experiments:
  rates: {axes: {train.lr: [0.01, 0.02]}}
"""
FULL = "sbatch: error: QOSMaxSubmitJobPerUserLimit"


def _program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_full_queue_is_asked_again_when_a_job_has_ended_or_minutes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is not known, and other jobs of the user fill the queue."""
    tmp_path.chmod(0o700)
    jobs, asked = tmp_path / "jobs", tmp_path / "asked"
    one, other = "5|RUNNING|n0|None|one\n", "6|RUNNING|n0|None|other\n"
    jobs.write_text(one + other)
    asked.touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    _program(programs, "squeue", f"cat {jobs}")
    _program(programs, "sbatch", f"echo x >> {asked}; echo '{FULL}' >&2; exit 1")
    for name in ("srun", "scontrol", "sacct", "sinfo"):
        _program(programs, name, "exit 1")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "two.yaml").write_text(GRID)
    session = open_session(tmp_path / "two.yaml", results=tmp_path / "results", folder="writable")
    step = reconciler(session, [("last_job", False), ("runs_per_job", 1)])
    clock = itertools.count(0.0, 0.001)
    late_s = 0.0
    submissions, entries = [], []

    def turns() -> Iterator[None]:
        nonlocal late_s
        for turn in range(12):
            submissions.append(len(asked.read_text().split()))
            entries.append(len(list((tmp_path / "results/slurm/ledger").iterdir())))
            if turn == 3:
                jobs.write_text(other)
            if turn == 7:
                late_s = 301.0
            yield
        raise KeyboardInterrupt

    turn = turns()
    fake = SimpleNamespace(sleep=lambda seconds: next(turn), monotonic=lambda: next(clock) + late_s)
    monkeypatch.setattr(wave, "time", fake)
    shown: list[Outcome] = []
    with pytest.raises(KeyboardInterrupt):
        wave.run_wave(step, shown.append)
    assert submissions == [1] * 4 + [2] * 4 + [3] * 4
    assert [len(set(entries[n : n + 4])) for n in (0, 4, 8)] == [1, 1, 1]
    assert [outcome.notes for outcome in shown] == [
        ["the queue is full, the rest follows: QOSMaxSubmitJobPerUserLimit"]
    ]
