"""How many workers there are, and that each sees one GPU; no GPU is needed to see that."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.errors import BenchError
from bench.launch import devices
from bench.launch.devices import (
    VISIBLE,
    Machine,
    Placement,
    confirmed,
    context_of,
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
SHAPES = (
    "{dataset: wordnet-shapes, classes: {recipe: random, n: 3}, images_per_class: 6, "
    "val_per_class: 2, test_per_class: 2}"
)


def tool(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `nvidia-smi` is this shell script."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_gpus_are_those_of_the_machine_or_those_that_are_named(tmp_path: Path) -> None:
    listed = [f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{n}a-b)" for n in range(3)]
    machine = tool(tmp_path, "printf '%s\\n' " + " ".join(f"'{line}'" for line in listed))
    assert visible_gpus(machine) == ("0", "1", "2")
    assert visible_gpus(machine | {VISIBLE: "GPU-ab12,1"}) == ("GPU-ab12", "1")
    assert visible_gpus(machine | {VISIBLE: "-1"}) == ()


def test_slices_of_a_gpu_are_gpus(tmp_path: Path) -> None:
    script = """cat << EOF
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1g.5gb      Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9f3c1f2a)
EOF"""
    assert visible_gpus(tool(tmp_path, script)) == (
        "MIG-c7384736-a75d-5afc-978f-d2f1294409fd",
        "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d",
        "1",
    )


def test_without_the_tool_torch_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it every core's worker would train on the first GPU."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "count_gpus", lambda: 3)
    assert placement(None, Machine("cuda")) == Placement(3, ("0", "1", "2"))
    monkeypatch.setattr(devices, "_DRIVERS", (tmp_path,))
    monkeypatch.setattr(devices, "made_for_gpus", lambda: True)
    assert placement(None, Machine("auto")) == Placement(3, ("0", "1", "2"))
    monkeypatch.setattr(devices, "_DRIVERS", (tmp_path / "none",))
    assert placement(None, Machine("auto")).cards == ()


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
    assert placement(None, Machine("cuda", gpus=2)) == Placement(2, ("3", "5"), team=2)
    assert placement(None, Machine("cuda", gpus=3)) == Placement(1)  # refused before the first run
    assert placement(None, Machine("cpu", gpus=2)) == Placement(1)
    cores = len(os.sched_getaffinity(0))
    assert placement(None, Machine("cpu", gpus=1)) == Placement(cores)


def test_auto_with_a_torch_that_finds_no_gpu_is_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "no-such-gpu")
    monkeypatch.setattr(devices, "made_for_gpus", lambda: True)
    auto, lines = Machine("auto", gpus=1), list[str]()
    listed, three = placement(None, auto), placement(3, auto)
    assert listed.cards == ("no-such-gpu",)
    cores = len(os.sched_getaffinity(0))
    assert confirmed(listed, auto, lines.append) == Placement(cores)
    monkeypatch.setattr(devices, "finds_gpu", lambda: False)
    assert confirmed(three, auto, lines.append) == Placement(3)
    assert lines == ["torch finds none of the GPUs no-such-gpu: runs train on the CPU"] * 2
    with pytest.raises(BenchError, match="--workers-per-gpu is given, and torch finds none"):
        confirmed(placement(None, auto, 2), auto, lines.append)
    monkeypatch.setattr(devices, "made_for_gpus", lambda: False)
    assert placement(None, auto) == Placement(cores)


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", True),
        ("__all__ = ['cuda']\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("written otherwise\n", True),
    ],
)
def test_whether_torch_is_built_for_gpus_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, built: bool
) -> None:
    (tmp_path / "version.py").write_text(text)
    torch = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: torch)
    assert devices.made_for_gpus() is built


def gpus_seen(folder: Path, grid: str, machine: Machine, where: Placement) -> list[str]:
    """What the workers of a grid had as CUDA_VISIBLE_DEVICES, in the order of their starts."""
    path = folder / "grid.yaml"
    path.write_text(grid)
    session = open_session(path, results=folder / "results")
    runs = list(session.plan.runs.values())
    seen: dict[int, str] = {}

    def look(event: Any) -> None:
        for worker in pool.workers:
            content = Path(f"/proc/{worker.child.process.pid}/environ").read_bytes().split(b"\0")
            given = dict(line.decode().split("=", 1) for line in content if b"=" in line)
            seen.setdefault(worker.child.process.pid, given[VISIBLE])

    pool = Pool(session.plan, session.store, context_of(session, machine), where, look)
    pool.run(batches(runs, cost_s=lambda run: 1.0, limit_s=0.0), usable=[], unusable=[])
    assert session.store.published() == {run.id for run in runs}
    return list(seen.values())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_each_worker_sees_one_gpu(tmp_path: Path) -> None:
    seen = gpus_seen(tmp_path, GRID, Machine("cpu"), Placement(2, ("3", "5")))
    assert sorted(seen) == ["3", "5"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_teams_train_sources_and_all_gpus_the_rest(tmp_path: Path) -> None:
    """Two GPUs for a source that two train together; then one for each fine-tuning."""
    grid = (
        GRID.replace("pattern: scratch", "source: shapes\n  pattern: tune\n  pretrain: {epochs: 1}")
        .replace("experiments:", f"sources:\n  shapes: {SHAPES}\nexperiments:")
        .replace("[0, 1, 2, 3]", "[0, 1]")
    )
    machine = Machine("cpu", gpus=2)
    seen = gpus_seen(tmp_path, grid, machine, Placement(2, ("3", "5"), team=2))
    assert seen[0] == "3,5"
    assert sorted(seen[1:]) == ["3", "5"]
