"""Runs are packed into jobs by measured steps, not by their number or by assumed speeds."""

from __future__ import annotations

from pathlib import Path

from bench.launch.slurm.ledger import Ledger
from bench.launch.slurm.packing import pack, seconds_of_jobs
from bench.launch.slurm.settings import SlurmSettings
from bench.launch.slurm.states import RunView
from bench.planning.forecast import Forecast, measure
from bench.planning.workspace import Session, open_session
from bench.results.states import Reading
from bench.specs.planned import PlannedRun

GRID = """\
defaults:
  target: {dataset: digits, images_per_class: 20, val_per_class: 5, test_per_class: 10}
  model: narrow8_32
  pattern: scratch
  train: {epochs: EPOCHS, batch_size: 16, precision: float32}
experiments:
  seeds: {axes: {seed: [0, 1, 2, 3]}}
"""
GPU = {"gpus_per_node": 1}


def _session(folder: Path, epochs: int) -> Session:
    (folder / "grid.yaml").write_text(GRID.replace("EPOCHS", str(epochs)))
    return open_session(folder / "grid.yaml", results=folder / "results")


def _jobs(
    session: Session, done: list[tuple[PlannedRun, Reading]], **settings: object
) -> list[int]:
    """The number of runs in each job."""
    views = [RunView(run, "missing") for run in session.plan.runs.values()]
    packs = pack(views, SlurmSettings(**settings), done, Ledger(), session.store)  # type: ignore[arg-type]
    assert [run.id for piece in packs for run in piece.runs] == list(session.plan.runs)
    return [len(piece.runs) for piece in packs]


def test_long_runs_get_jobs_of_their_own_and_short_ones_share_one(tmp_path: Path) -> None:
    short, long = _session(tmp_path, 2), _session(tmp_path, 2000)
    run_s, runs_s = (
        measure(found.plan.runs.values(), device="cpu").seconds(
            next(iter(found.plan.runs.values()))
        )
        for found in (short, long)
    )
    assert run_s is not None
    assert runs_s is not None
    limit_min = (run_s * runs_s) ** 0.5 / 60  # between them
    assert 4 * run_s < 60 * limit_min < runs_s
    assert _jobs(short, [], job_min=limit_min) == [4]
    assert _jobs(long, [], job_min=limit_min) == [1, 1, 1, 1]
    assert _jobs(long, [], job_min=limit_min, runs_per_job=2) == [2, 2]


def test_a_gpu_that_this_host_lacks_is_known_by_finished_runs(tmp_path: Path) -> None:
    session = _session(tmp_path, 2)
    first = next(iter(session.plan.runs.values()))
    fast, slow = (
        [(first, Reading({"row": {"device": "some GPU", "threads": 1, "seconds": seconds}}))]
        for seconds in (0.1, 500.0)
    )
    assert _jobs(session, [], **GPU) == [4]  # unknown: a few minutes each, as a guess
    assert _jobs(session, fast, **GPU) == [4]
    assert _jobs(session, slow, **GPU) == [1, 1, 1, 1]
    assert _jobs(session, slow, **GPU, runs_per_job=3) == [3, 1]


def test_the_time_of_jobs_is_that_of_those_that_may_run_at_once(tmp_path: Path) -> None:
    session = _session(tmp_path, 2000)
    runs = list(session.plan.runs.values())
    forecast = measure(runs, device="cpu")

    def seconds(**settings: object) -> float:
        return seconds_of_jobs(runs, SlurmSettings(**settings), [])  # type: ignore[arg-type]

    each, two, alone = (forecast.of_all(runs, jobs) for jobs in (4, 2, 1))
    assert each < two < alone
    assert seconds(runs_per_job=1) == each
    assert seconds(runs_per_job=2) == seconds(runs_per_job=1, max_jobs=2) == two
    assert seconds(runs_per_job=4) == seconds(job_min=1e9) == alone


def test_runs_of_which_nothing_is_known_take_a_time_that_a_budget_counts(tmp_path: Path) -> None:
    """On a GPU that this host lacks, before a run has finished there: two minutes each."""
    (tmp_path / "grid.yaml").write_text(
        GRID.replace("EPOCHS", "2").replace("pattern: scratch", "source: self\n  pattern: tune")
    )
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    runs = list(session.plan.runs.values())
    sources = [run for run in runs if run.role == "source"]
    assert 0 < len(sources) < len(runs)
    for jobs in (1, 2, len(runs)):
        settings = SlurmSettings(**GPU, runs_per_job=1, max_jobs=jobs)  # type: ignore[arg-type]
        found = seconds_of_jobs(runs, settings, [])
        chain = 2 * 120.0  # a source and a run that starts from it
        assert found - Forecast({}).of_all(runs, 1) == max(120.0 * len(runs) / jobs, chain)
