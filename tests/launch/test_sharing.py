"""Several workers on one GPU: how many fit, and that the pool starts them once it is measured."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError
from bench.launch.devices import VISIBLE, Machine, Placement, context_of, placement
from bench.launch.local.pool import Pool
from bench.launch.sharing import (
    _OF_TIME_ALONE,
    SeenMemory,
    fitting,
    kind_of,
    parse_workers_per_gpu,
)
from bench.planning.plan import batches
from bench.planning.workspace import Session, open_session
from bench.specs.planned import PlannedRun
from bench.specs.run import TrainSpec

ROOT = Path(__file__).parents[2]
GRID = """\
defaults:
  target: {{dataset: digits, images_per_class: 5, val_per_class: 2, test_per_class: 5}}
  model: narrow8_32
  pattern: scratch
  train: {{lr: 0.02, epochs: 1, batch_size: 16}}
experiments:
  all:
    axes: {{{axes}}}
"""


@pytest.mark.parametrize(
    ("taken_mib", "total_mib", "workers"),
    [  # 0.8 of the GPU, divided by the dearest run and 600 MiB for CUDA
        ([1400], 40_000, 16),  # 32,000 / 2,000
        ([1401], 40_000, 15),
        ([400, 1400, 100], 40_000, 16),
        ([15_400], 40_000, 2),  # 32,000 / 16,000
        ([15_401], 40_000, 1),
        ([60_000], 40_000, 1),
        ([100, None], 40_000, 1),
        ([], 40_000, 1),
        ([100], None, 1),
    ],
)
def test_how_many_workers_fit(
    taken_mib: list[float | None], total_mib: float | None, workers: int
) -> None:
    assert fitting(taken_mib, total_mib) == workers
    if workers > 1 and total_mib is not None:
        used = workers * (max(mib or 0 for mib in taken_mib) + 600)
        assert used <= 0.8 * total_mib


def session_of(folder: Path, axes: str) -> Session:
    (folder / "grid.yaml").write_text(GRID.format(axes=axes))
    return open_session(folder / "grid.yaml", results=folder / "results")


def run_of(tmp_path: Path) -> PlannedRun:
    (run,) = session_of(tmp_path, "seed: [0]").plan.runs.values()
    return run


def test_runs_that_take_the_same_are_of_one_kind(tmp_path: Path) -> None:
    assert set(_OF_TIME_ALONE) < set(TrainSpec.model_fields)
    run = run_of(tmp_path)

    def changed(**train: Any) -> str:
        spec = run.spec.model_copy(update={"train": run.spec.train.model_copy(update=train)})
        return kind_of(replace(run, id="other", spec=spec))

    assert changed(lr=0.5, epochs=9, schedule="constant") == kind_of(run)
    assert changed(batch_size=17) != kind_of(run)
    assert changed(precision="bfloat16") != kind_of(run)
    assert kind_of(replace(run, facts=replace(run.facts, train_images=51))) != kind_of(run)
    frozen = run.spec.model_copy(update={"pattern": "F(1-7)R(8)"})
    assert kind_of(replace(run, spec=frozen)) != kind_of(run)


def test_what_is_seen_counts_by_kind_and_for_the_smallest_gpu(tmp_path: Path) -> None:
    run, seen = run_of(tmp_path), SeenMemory()
    spec = run.spec.model_copy(update={"pattern": "F(1-7)R(8)"})
    other = replace(run, id="other", spec=spec)
    seen.add(run, {"status": "already"})
    assert seen.workers_per_gpu([run]) == 1
    seen.add(run, {"gpu_taken_mib": 1400.0, "gpu_total_mib": 80_000.0})
    assert (seen.workers_per_gpu([run]), seen.workers_per_gpu([run, other])) == (32, 1)
    seen.add(other, {"gpu_taken_mib": 400.0, "gpu_total_mib": 40_000.0})
    assert (seen.workers_per_gpu([run, other]), seen.workers_per_gpu([other])) == (16, 32)


def test_workers_of_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3,5")
    assert placement(None, Machine("cuda"), 3) == Placement(6, ("3", "5"))
    cores = len(os.sched_getaffinity(0))
    expected = Placement(2, ("3", "5"), most=max(2, cores))
    assert placement(None, Machine("cuda"), None) == expected
    assert placement(None, Machine("cuda", threads=99), None).most == 2
    for per_gpu, text in ((2, "2"), (None, "auto")):
        with pytest.raises(BenchError, match=f"--workers-per-gpu is {text}, and no GPU is seen"):
            placement(None, Machine("cpu"), per_gpu)
    for text in ("0", "-1", "many", "1.5", "²"):
        with pytest.raises(BenchError, match="--workers-per-gpu is"):
            parse_workers_per_gpu(text)


@pytest.mark.parametrize("other", [["--workers", "2"], ["--gpus", "2"], ["--slurm"]])
def test_options_that_say_it_otherwise_are_refused(tmp_path: Path, other: list[str]) -> None:
    (tmp_path / "grid.yaml").write_text(GRID.format(axes="seed: [0]"))
    arguments = ["grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*arguments, "--dry-run", "--workers-per-gpu", "2", *other])
    assert isinstance(done.exception, BenchError)
    assert done.exception.message == f"--workers-per-gpu and {other[0]} exclude each other"


FAKE_GPU = """\
import sys

if sys.orig_argv[-1] == "bench.launch.local.worker":
    from tests.fake_cuda.devices import fake_gpus

    entered = fake_gpus(memory={memory} << 20)
    entered.__enter__()
"""


@pytest.mark.parametrize(
    ("memory_mib", "most"), [(1100, 1), (1900, 2), (100_000, 3)], ids=["one", "two", "cores"]
)
def test_the_pool_starts_workers_once_a_run_has_shown_what_it_takes(
    tmp_path: Path, memory_mib: int, most: int
) -> None:
    """Workers compute as if on a GPU of so much memory; `most` is 3 where memory has room."""
    session = session_of(tmp_path, "train.lr: [0.02, 0.01], seed: [0, 1, 2, 3]")
    (tmp_path / "sitecustomize.py").write_text(FAKE_GPU.format(memory=memory_mib))
    counts: list[tuple[int, int]] = []
    ended: list[str] = []

    def look(event: Any) -> None:
        ended.extend([event["id"]] if event["event"] == "ended" else [])
        counts.append((len(ended), len(pool.workers)))

    pool = Pool(
        session.plan,
        session.store,
        context_of(session, Machine("cuda")),
        Placement(1, ("0",), most=3),
        look,
        {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    runs = list(session.plan.runs.values())
    pool.run(batches(runs, cost_s=lambda run: 1.0, limit_s=0.0), usable=[], unusable=[])
    assert session.store.published() == {run.id for run in runs}
    assert max(workers for done, workers in counts if not done) == 1
    assert max(workers for _, workers in counts) == most
    (taken,) = pool.memory.taken_mib.values()  # one kind: rates and seeds take the same
    assert 0 < taken < 160
    assert pool.memory.total_mib == memory_mib
