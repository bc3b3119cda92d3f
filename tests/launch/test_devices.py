"""How many workers there are, and that each sees one GPU; no GPU is needed to see that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.launch.devices import (
    VISIBLE,
    Machine,
    Placement,
    context_of,
    least_used,
    placement,
    visible_gpus,
)
from bench.launch.local.pool import Pool
from bench.planning.plan import batches
from bench.planning.workspace import open_session

GRID = """\
defaults:
  target: {dataset: digits, images_per_class: 5, val_per_class: 2, test_per_class: 5}
  model: narrow8_32
  pattern: scratch
  train: {lr: 0.02, epochs: 1, batch_size: 16}
experiments:
  all:
    axes: {seed: [0, 1, 2, 3]}
"""


def tool(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `nvidia-smi` is this shell script."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_gpus_are_those_of_the_machine_or_those_that_are_named(tmp_path: Path) -> None:
    machine = tool(tmp_path, "printf '0\\n1\\n2\\n'")
    assert visible_gpus(machine) == ("0", "1", "2")
    assert visible_gpus(machine | {VISIBLE: "GPU-ab12,1"}) == ("GPU-ab12", "1")
    assert visible_gpus(machine | {VISIBLE: "-1"}) == ()


@pytest.mark.parametrize(
    "script", ["echo 'No devices were found'", "echo 'driver mismatch' >&2; exit 9"]
)
def test_a_tool_that_finds_nothing_is_no_gpu(tmp_path: Path, script: str) -> None:
    assert visible_gpus(tool(tmp_path, script)) == ()


def test_no_tool_is_no_gpu(tmp_path: Path) -> None:
    assert visible_gpus({"PATH": str(tmp_path)}) == ()


def test_a_worker_per_gpu_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3,5")
    assert placement(None, Machine("cuda", gpus=1)) == Placement(2, ("3", "5"))
    assert placement(6, Machine("cuda", gpus=1)) == Placement(6, ("3", "5"))
    assert placement(None, Machine("cuda", gpus=2)) == Placement(1)
    cores = len(os.sched_getaffinity(0))
    assert placement(None, Machine("cpu", gpus=1)) == Placement(cores)


def test_auto_with_a_torch_that_finds_no_gpu_is_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "no-such-gpu")
    assert placement(None, Machine("auto", gpus=1)) == Placement(len(os.sched_getaffinity(0)))


def test_workers_take_turns() -> None:
    taken: list[str | None] = []
    for _ in range(5):
        taken.append(least_used(("3", "5"), taken))
    assert taken == ["3", "5", "3", "5", "3"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_each_worker_sees_one_gpu(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    session = open_session(path, results=tmp_path / "results")
    runs = list(session.plan.runs.values())
    seen: dict[int, str] = {}

    def look(event: Any) -> None:
        for worker in pool.workers:
            content = Path(f"/proc/{worker.child.process.pid}/environ").read_bytes().split(b"\0")
            given = dict(line.decode().split("=", 1) for line in content if b"=" in line)
            seen[worker.child.process.pid] = given[VISIBLE]

    pool = Pool(
        session.plan,
        session.store,
        context_of(session, Machine("cpu")),
        Placement(2, ("3", "5")),
        look,
    )
    pool.run(batches(runs, cost_s=lambda run: 1.0, limit_s=0.0), usable=[], unusable=[])
    assert sorted(seen.values()) == ["3", "5"]
    assert session.store.published() == {run.id for run in runs}
