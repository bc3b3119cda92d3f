"""A worker whose GPU has failed is replaced, and no other run is blamed for its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.child_process import Children
from bench.core.errors import BenchError
from bench.launch.devices import VISIBLE, Machine, Placement, context_of
from bench.launch.local.pool import Pool
from bench.launch.slurm import job
from bench.planning.plan import Batch, batches
from bench.planning.workspace import open_session
from bench.results.failures import GpuFaultError
from bench.runs import execute
from bench.specs.data import DataSpec
from bench.specs.run import ModelSpec, RunSpec

ROOT = Path(__file__).parents[2]
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
LRS = "0.02, 0.01, 0.005"
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
FAKE_GPU = """\
import os, sys

if sys.orig_argv[-1] == "bench.launch.local.worker" and os.environ["CUDA_VISIBLE_DEVICES"] == "5":
    from tests.fake_cuda.devices import fake_gpus

    entered = fake_gpus()
    entered.__enter__()
"""


def failures(folder: Path) -> list[str]:
    """The reasons of the attempts that failed."""
    found = sorted((folder / "results/runs").glob("*/failed-*.json"))
    return [json.loads(path.read_text())["reason"] for path in found]


def test_a_run_is_tried_again_and_the_others_go_on_in_another_process(tmp_path: Path) -> None:
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
    printed = " ".join(done.stdout.split())
    assert "tried once more after an error of the GPU: RuntimeError: CUDA error" in printed
    assert done.returncode == 0, done.stdout + done.stderr
    assert failures(tmp_path) == ["GPU error"]
    assert len(list((tmp_path / "results/runs").glob("*/record.json"))) == 3


def pool_of(
    folder: Path, where: Placement, device: str = "cpu", lrs: str = LRS, **environment: str
) -> tuple[Pool, list[dict[str, Any]]]:
    """A pool for the runs of the grid, and the events that it will give."""
    (folder / "grid.yaml").write_text(GRID.replace(LRS, lrs))
    session = open_session(folder / "grid.yaml", results=folder / "results")
    events: list[dict[str, Any]] = []
    context = context_of(session, Machine(device))
    plan, store = session.plan, session.store
    return Pool(
        plan, store, context, where, lambda event: events.append(dict(event)), environment
    ), events


def run_all(pool: Pool) -> None:
    """Runs everything, each run as a batch of its own."""
    runs = list(pool.plan.runs.values())
    pool.run(batches(runs, cost_s=lambda run: 1.0, limit_s=0.0), usable=[], unusable=[])


def messages(events: list[dict[str, Any]], kind: str) -> list[str]:
    """Of the events of a kind."""
    return [event["message"] for event in events if event["event"] == kind]


def test_a_gpu_that_its_worker_does_not_see_trains_nothing_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAKE_GPU)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    pool, events = pool_of(tmp_path, Placement(1, ("3", "5")), "auto", PYTHONPATH=path)
    run_all(pool)
    assert messages(events, "gpu_lost") == [
        "GPU 3 cannot be used: cuda was asked for, but torch finds no GPU, and "
        "CUDA_VISIBLE_DEVICES is '3'; nothing more is given to it"
    ]
    paths = (tmp_path / "results/runs").glob("*/record.json")
    records = [json.loads(path.read_text()) for path in paths]
    assert [record["row"]["device"] for record in records] == ["Fake GPU"] * 3
    assert failures(tmp_path) == []


@dataclass
class Worker:
    """A process that is none: it answers at once, and fails as with a broken GPU.

    Attributes:
        card: what it sees.
        fails: whether a run fails on a GPU; None is a GPU that is not seen.
        tried: (GPU, run) of every attempt.

    Runs of one batch are trained together: an error of the GPU ends all of them at once.
    """

    card: str
    fails: Callable[[str, str], bool | None]
    tried: list[tuple[str, str]]
    said: list[dict[str, Any]] = field(default_factory=lambda: [{"event": "idle"}])
    is_dead: bool = False
    how: str = "ended with status 1"
    hint: str = ""

    def read(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said

    def send(self, message: Mapping[str, Any]) -> None:
        if "stop" in message:
            self.is_dead = True
        if "batch" not in message:
            return
        together = [run["id"] for run in message["batch"]]
        if len(together) > 1 and any(self.fails(self.card, run) for run in together):
            self.tried += [(self.card, run) for run in together]
            self.said += [{"event": "started", "id": run} for run in together]
            self.said.append({"event": "replace"})
            self.is_dead = True
            return
        for run in message["batch"]:
            end = {"event": "ended", "id": run["id"], "message": "CUDA error"}
            failed = self.fails(self.card, run["id"])
            if failed is None:
                self.said.append({"event": "no_gpu", "message": "torch finds no GPU"})
                self.is_dead = True
                return
            self.tried.append((self.card, run["id"]))
            self.said.append({"event": "started", "id": run["id"]})
            if failed:
                self.said.append(end | {"status": "failed", "gpu_fault": True})
                self.said.append({"event": "replace"})
                self.is_dead = True
                return
            self.said.append(end | {"status": "done", "gpu_fault": False})
        self.said.append({"event": "idle"})


class Workers:
    """In place of the pool's processes."""

    def __init__(
        self, fails: Callable[[str, str], bool | None], looks: Callable[[str], int] | None = None
    ) -> None:
        self.fails, self.looks, self.all = fails, looks, list[Worker]()
        self.tried: list[tuple[str, str]] = []
        self.most: Counter[str] = Counter()

    def start(self, environment: Mapping[str, str]) -> Worker:
        given = environment[VISIBLE], self.fails, self.tried
        slow = None if self.looks is None else SlowWorker(*given, looks=self.looks)
        self.all.append(slow or Worker(*given))
        self.most |= Counter(worker.card for worker in self.all)
        return self.all[-1]

    def listen(self, timeout_s: float) -> Iterator[tuple[Worker, dict[str, Any]]]:
        for worker in [one for one in self.all if not one.is_dead]:
            for event in worker.read():
                yield worker, event

    def end(self, worker: Worker) -> None:
        self.all.remove(worker)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def faked(
    pool: Pool,
    fails: Callable[[str, str], bool | None],
    looks: Callable[[str], int] | None = None,
) -> Workers:
    """The pool's workers, which fail so, and take so long."""
    workers = Workers(fails, looks)
    pool.children = workers  # type: ignore[assignment]
    return workers


@dataclass
class SlowWorker(Worker):
    """One whose runs end one after the other, each so many looks after the one before."""

    looks: Callable[[str], int] = lambda run: 1
    todo: list[str] = field(default_factory=list)
    left: int = 0

    def send(self, message: Mapping[str, Any]) -> None:
        if "leave" in message:
            del self.todo[1:]
        elif "batch" in message:
            self.todo = [run["id"] for run in message["batch"]]
            self.left = self.looks(self.todo[0])
        else:
            super().send(message)

    def read(self) -> list[dict[str, Any]]:
        self.left -= 1
        if self.todo and self.left <= 0 and not self.is_dead:
            super().send({"batch": [{"id": self.todo.pop(0)}]})
            if self.todo and not self.is_dead:
                self.left = self.looks(self.todo[0])
                assert self.said.pop() == {"event": "idle"}
        return super().read()


LOST = "GPU 3 failed 2 runs one after the other; nothing more is given to it"


@pytest.mark.parametrize("count", [1, 2])
def test_a_broken_gpu_fails_no_run_where_there_is_another(tmp_path: Path, count: int) -> None:
    pool, events = pool_of(tmp_path, Placement(count, ("3", "5")))
    workers = faked(pool, lambda card, run: card == "3")
    run_all(pool)
    assert pool.usable == set(pool.plan.runs)
    assert workers.most == Counter({"3": 1, "5": 1})
    broken = [run for card, run in workers.tried if card == "3"]
    assert 1 <= len(broken) == len(set(broken)) <= 2
    assert messages(events, "gpu_lost") == [LOST] * (len(broken) == 2)


def test_runs_that_are_trained_together_go_to_another_gpu_one_by_one(tmp_path: Path) -> None:
    pool, events = pool_of(tmp_path, Placement(1, ("3", "5")))
    workers = faked(pool, lambda card, run: card == "3")
    runs = list(pool.plan.runs.values())
    pool.run([Batch("together", tuple(runs))], usable=[], unusable=[])
    assert pool.usable == set(pool.plan.runs)
    assert Counter(card for card, _ in workers.tried) == Counter({"3": 3, "5": 3})
    assert messages(events, "note") == ["an error of GPU 3 ended it; tried once more by itself"]
    assert messages(events, "worker_died") == []
    assert failures(tmp_path) == []


def test_an_error_that_ends_all_processes_of_a_gpu_counts_once(tmp_path: Path) -> None:
    pool, events = pool_of(tmp_path, Placement(3, ("3",)))
    tries: Counter[str] = Counter()

    def fails(card: str, run: str) -> bool:
        tries[run] += 1
        return tries[run] == 1

    workers = faked(pool, fails)
    run_all(pool)
    assert pool.usable == set(pool.plan.runs)
    assert Counter(run for _, run in workers.tried) == Counter(dict.fromkeys(pool.plan.runs, 2))
    assert messages(events, "gpu_lost") == []


def test_a_second_worker_leaves_its_batch_when_its_gpu_is_lost(tmp_path: Path) -> None:
    """After the run that it is in; the others of its batch are trained on another GPU."""
    lrs = ", ".join(str(round(0.02 - i / 1000, 3)) for i in range(9))
    pool, events = pool_of(tmp_path, Placement(4, ("3", "5")), lrs=lrs)
    runs = list(pool.plan.runs.values())
    parts = [runs[:3], runs[3:4], runs[4:8], runs[8:]]
    first, _, second, _ = parts  # on 3, 5, 3 and 5
    broken = {run.id for run in first}
    long = second[0].id
    looks = {long: 20, runs[3].id: 10, runs[8].id: 10}
    workers = faked(
        pool, lambda card, run: card == "3" and run in broken, lambda run: looks.get(run, 1)
    )
    pool.run([Batch("a", tuple(part)) for part in parts], [], [])
    assert messages(events, "gpu_lost") == [LOST]
    assert pool.usable == set(pool.plan.runs)
    on_5 = {run for card, run in workers.tried if card == "5"}
    assert ("3", long) in workers.tried
    assert on_5 == set(pool.plan.runs) - {long}
    assert not {("3", run.id) for run in second[1:]} & set(workers.tried)


def test_a_worker_that_is_told_to_leave_ends_its_batch_after_the_run_it_is_in(
    tmp_path: Path,
) -> None:
    pool, _ = pool_of(tmp_path, Placement(1))
    runs = [
        {"id": run.id, "spec": run.spec.model_dump(mode="json")} for run in pool.plan.runs.values()
    ]
    ended: list[str] = []
    with Children("bench.launch.local.worker") as children:
        worker = children.start(os.environ | {"PYTHONPATH": str(ROOT)})
        for batch in (runs, runs[1:]):
            worker.send({"batch": batch, "context": dict(pool.context)})
            for event in events_until_idle(children):
                if event["event"] == "started" and batch is runs:
                    worker.send({"leave": True})
                if event["event"] == "ended":
                    ended.append(event["id"])
    assert ended == [run["id"] for run in runs]


def events_until_idle(children: Children) -> Iterator[dict[str, Any]]:
    """Of a batch, once the worker has begun; the first `idle` says that it has."""
    begun = False
    for _ in range(600):
        for _, event in children.listen(0.2):
            if event["event"] == "idle" and begun:
                return
            begun = begun or event["event"] == "started"
            yield event
    pytest.fail("the worker never became idle")


def test_a_run_that_its_gpu_failed_once_is_tried_again_by_the_next_command(tmp_path: Path) -> None:
    pool, _ = pool_of(tmp_path, Placement(1, ("3",)))
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    (run, *_) = pool.plan.runs.values()
    folder = pool.store.folder(run.id, run.spec)
    states = []
    for reason in ("GPU error", "GPU error"):
        folder.add_failure({"run_id": run.id, "reason": reason, "message": "CUDA error"})
        states.append(session.states()[run.id])
    assert states == ["missing", "failed"]


def test_a_run_that_fails_on_two_gpus_has_failed_and_the_gpus_stay(tmp_path: Path) -> None:
    """The other runs show that the GPUs work."""
    pool, events = pool_of(tmp_path, Placement(1, ("3", "5")))
    bad = next(iter(pool.plan.runs))
    workers = faked(pool, lambda card, run: run == bad)
    run_all(pool)
    assert (pool.usable, pool.unusable) == (set(pool.plan.runs) - {bad}, {bad})
    assert [card for card, run in workers.tried if run == bad] == ["3", "5"]
    assert messages(events, "gpu_lost") == []
    of_bad = [(event["event"], event.get("status")) for event in events if event.get("id") == bad]
    once = [("started", None), ("note", None)]
    assert of_bad == [*once, ("started", None), ("ended", "failed")]


def test_without_a_gpu_that_works_the_command_ends_with_what_is_left(tmp_path: Path) -> None:
    pool, events = pool_of(tmp_path, Placement(1, ("3",)))
    workers = faked(pool, lambda card, run: True)
    with pytest.raises(BenchError) as caught:
        run_all(pool)
    assert messages(events, "gpu_lost") == [LOST]
    assert caught.value.message == (
        "GPU 3 failed 2 runs one after the other; no GPU is left for 2 runs to do"
    )
    assert "the same command goes on" in str(caught.value.hint)
    first, again, second = (run for _, run in workers.tried)
    assert first == again != second


def test_where_no_worker_sees_its_gpu_the_command_ends(tmp_path: Path) -> None:
    pool, _ = pool_of(tmp_path, Placement(2, ("3", "5")))
    faked(pool, lambda card, run: None)
    with pytest.raises(BenchError, match=r"GPU . cannot be used: .* for 3 runs to do") as caught:
        run_all(pool)
    assert "--device cpu" in str(caught.value.hint)


def test_workers_take_turns(tmp_path: Path) -> None:
    pool, _ = pool_of(tmp_path, Placement(5, ("3", "5")))
    workers = faked(pool, lambda card, run: False)
    run_all(pool)
    assert workers.most == Counter({"3": 3, "5": 2})


def test_one_worker_is_a_team_and_then_none(tmp_path: Path) -> None:
    """With `--workers 1 --gpus 2` a worker of the other kind ends, so that there is room."""
    pool, _ = pool_of(tmp_path, Placement(1, ("3", "5"), team=2))
    first = next(iter(pool.plan.runs))
    source = replace(pool.plan.runs[first], experiments=())
    pool.plan = replace(pool.plan, runs={**pool.plan.runs, first: source})
    workers = faked(pool, lambda card, run: False)
    run_all(pool)
    assert {run: card for card, run in workers.tried}[first] == "3,5"
    assert pool.usable == set(pool.plan.runs)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_team_without_a_source_makes_way_while_another_team_trains(
    tmp_path: Path, count: int
) -> None:
    """Fine-tunings of the first source do not wait for the second one, however few workers."""
    pool, _ = pool_of(tmp_path, Placement(count, ("0", "1", "2", "3"), team=2))
    short, long, child = pool.plan.runs.values()
    sources = [replace(run, experiments=()) for run in (short, long)]
    runs = [*sources, replace(child, parent_id=short.id)]
    pool.plan = replace(pool.plan, runs={run.id: run for run in runs})
    workers = faked(pool, lambda card, run: False, lambda run: 50 * (run == long.id))
    run_all(pool)
    assert [run for _, run in workers.tried] == [short.id, child.id, long.id]
    assert [len(card.split(",")) for card, _ in workers.tried] == [2, 1, 2]


def test_single_workers_make_way_for_a_team(tmp_path: Path) -> None:
    pool, _ = pool_of(tmp_path, Placement(3, ("0", "1", "2"), team=2), lrs="0.04, 0.03, 0.02, 0.01")
    short, single, long, source = pool.plan.runs.values()
    late = replace(source, experiments=(), parent_id=short.id)
    runs = [short, single, long, late]
    pool.plan = replace(pool.plan, runs={run.id: run for run in runs})
    workers = faked(pool, lambda card, run: False, lambda run: 50 * (run == long.id))
    run_all(pool)
    assert [run for _, run in workers.tried][-2:] == [late.id, long.id]


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

    def failing(todo: Any, *_: Any, report: Any, **__: Any) -> None:
        report({"event": "ended", "id": todo[0][0], "status": "failed", "message": ""})
        raise GpuFaultError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(execute, "execute_batch", failing)
    assert work.run() == 5
    assert [event["id"] for event in told] == ["a" * 32]
    assert work.next_run == "b" * 32
    assert capsys.readouterr().err == (
        "bench: the GPU failed, so this job ends: CUDA error: an illegal memory access was "
        "encountered\n"
    )
