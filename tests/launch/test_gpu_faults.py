"""A worker whose GPU has failed is replaced, and no other run is blamed for its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.launch.slurm import job
from bench.results.failures import GpuFaultError
from bench.runs import execute
from bench.specs.data import DataSpec
from bench.specs.run import ModelSpec, RunSpec

GRID = """\
defaults:
  target: {dataset: digits, classes: {recipe: random, n: 2}, images_per_class: 4, val_per_class: 2, test_per_class: 4}
  source: none
  pattern: scratch
  model: narrow8_32
  train: {epochs: 1, batch_size: 8}
experiments:
  one:
    axes: {train.lr: [0.02, 0.01, 0.005]}
"""  # noqa: E501
POISON = """\
import pathlib, sys

if sys.orig_argv[-1] == "bench.launch.local.worker":
    from bench.runs import execute

    usual, poisoned = execute._execute_once, []

    def _execute_once(run):
        first = pathlib.Path("first")
        if poisoned or not first.exists():
            first.touch()
            poisoned.append(True)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return usual(run)

    execute._execute_once = _execute_once
"""


def test_one_run_fails_and_the_others_go_on_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(POISON)
    (tmp_path / "grid.yaml").write_text(GRID)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "bench", "grid", "grid.yaml", "--workers", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert "a worker" not in done.stdout, done.stdout
    kept = [json.loads(p.read_text()) for p in (tmp_path / "results/runs").glob("*/failed-*.json")]
    assert [failure["reason"] for failure in kept] == ["GPU error"]
    records = list((tmp_path / "results/runs").glob("*/record.json"))
    assert len(records) == 2, done.stdout + done.stderr


def test_a_job_of_the_cluster_ends_with_a_status_and_its_other_runs_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = RunSpec(
        data=DataSpec(dataset="digits"), model=ModelSpec(name="narrow8_32"), pattern="R(1-8)"
    )
    runs = [{"id": name * 32, "spec": spec.model_dump(mode="json"), "needs": []} for name in "ab"]
    context = {"results": str(tmp_path), "threads": 1}
    stop = SimpleNamespace(asked=False, requeue=False)
    payload = {"runs": runs, "context": context, "lag_s": 0.0}
    told: list[dict[str, Any]] = []
    work = job._Work(tmp_path, payload, told.append, stop)  # type: ignore[arg-type]

    def broken(todo: Any, *_: Any, report: Any, **__: Any) -> None:
        report({"event": "ended", "id": todo[0][0], "status": "failed", "message": ""})
        raise GpuFaultError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(execute, "execute_batch", broken)
    assert work.run() == 5
    assert [event["id"] for event in told] == ["a" * 32]
    assert work.next_run == "b" * 32
    assert capsys.readouterr().err == (
        "bench: the GPU failed, so this job ends: CUDA error: an illegal memory access was "
        "encountered\n"
    )
