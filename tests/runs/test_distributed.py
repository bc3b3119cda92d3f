"""Runs trained by several processes: started, watched, stopped, begun again, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError, GridError
from bench.launch.slurm.settings import read_settings
from bench.results.failures import FailureError, failure_of
from bench.results.store import RunFolder, Store
from bench.runs import distributed as ranks
from bench.runs.build import Context
from bench.runs.distributed import check_gpus, execute_ranks, why_one_process
from bench.runs.execute import execute_batch
from bench.specs.data import Borrowed, DataSpec
from bench.specs.planned import DataFacts
from bench.specs.run import FromRun, MethodSpec, ModelSpec, RunSpec, TrainSpec
from bench.specs.run import run_id as id_of

DATA = DataSpec(dataset="digits", images_per_class=8, val_per_class=4, test_per_class=5)
SPEC = RunSpec(
    data=DATA,
    model=ModelSpec(name="test_convnext"),  # no BatchNorm: rounding stays small in float32
    pattern="R(1-11)",
    train=TrainSpec(epochs=6, batch_size=20, lr=0.01),
)
Events = list[dict[str, Any]]


def _children() -> list[int]:
    """Processes that this one has started, oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append((int(fields[19]), int(path.parent.name)))
    return [number for _, number in sorted(found)]


def _execute(folder: Path, gpus: int, hear: Any = None) -> tuple[RunFolder, Events]:
    torch.set_num_threads(1)
    context = Context(results=str(folder), device="cpu", gpus=gpus, checkpoint_s=0.0)
    key, events = id_of(SPEC, context.fingerprint), []

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        if hear is not None:
            hear(event)

    execute_batch([(key, SPEC)], context, report=report, should_stop=lambda: False)
    return Store(folder).folder(key, SPEC), events


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_killed_and_begun_again_the_result_is_that_of_one_process(tmp_path: Path) -> None:
    before = set(_children())
    killed: list[str] = []  # once: the epoch is told again when it is done again

    def kill_one(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1 and not killed:
            killed.append("now")
            os.kill([child for child in _children() if child not in before][1], signal.SIGKILL)

    folder, events = _execute(tmp_path / "several", 2, kill_one)
    assert events[-1]["status"] == "done", events[-1]
    (note,) = [event["message"] for event in events if event["event"] == "note"]
    assert "process 2 of 2 was killed by SIGKILL" in note
    assert "goes on from its checkpoint" in note
    assert set(_children()) <= before
    assert not folder.checkpoint_path.exists()
    one, _ = _execute(tmp_path / "one", 1)
    record, expected = folder.record(), one.record()
    assert record is not None
    assert expected is not None
    notes = record["notes"]["training"]
    assert any(note.startswith("resumed in epoch") for note in notes)
    assert "trained by 2 CPU processes together" in notes
    assert record["row"]["device"] == f"2 x {expected['row']['device']}"
    for column in ("top1_accuracy", "test_loss", "val_top1_accuracy", "train_loss", "steps"):
        assert record["row"][column] == pytest.approx(expected["row"][column], abs=1e-5)
    theirs = load_file(one.weights_path)
    for name, value in load_file(folder.weights_path).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-5)


# --- watching, with processes that only talk ---

FAKE = """
import json, os, signal, sys, time
task = json.loads(sys.stdin.readline())
rank = task["rank"]
say = lambda **event: print(json.dumps(event), flush=True)
{body}
"""


def _watch(
    monkeypatch: pytest.MonkeyPatch, folder: Path, body: str, stop: bool = False
) -> tuple[str, Events]:
    """What `execute_ranks` makes of two processes that run `body`."""
    (folder / "fake_rank.py").write_text(FAKE.format(body=body))
    monkeypatch.setattr(ranks, "_PROCESS", "fake_rank")
    monkeypatch.setattr(ranks, "_GRACE_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    events: Events = []
    context = Context(results=str(folder), gpus=2)
    status = execute_ranks("run", SPEC, context, events.append, lambda: stop)
    return status, events


def test_events_of_the_first_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = 'say(event="epoch", epoch=rank); say(event="ended", status="diverged")'
    status, events = _watch(monkeypatch, tmp_path, body)
    assert (status, events) == ("diverged", [{"event": "epoch", "epoch": 0}])


def test_a_stop_reaches_the_first_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = (
        "if rank == 0:\n"
        "    told = sys.stdin.readline()\n"
        "    say(event='ended', status='stopped' if 'stop' in told else 'not told')"
    )
    assert _watch(monkeypatch, tmp_path, body, stop=True)[0] == "stopped"


@pytest.mark.parametrize("guilty", [0, 1])
def test_a_death_ends_the_others_and_is_tried_three_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, guilty: int
) -> None:
    """The others see a broken connection first, which is not the cause."""
    body = (
        f"if rank == {guilty}:\n"
        "    print('out of luck', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.2)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "say(event='failed', torn=True, reason='Error', message='', summary='closed by peer')\n"
        "time.sleep(60)"
    )
    with pytest.raises(FailureError) as caught:
        _watch(monkeypatch, tmp_path, body)
    failure = failure_of(caught.value)
    assert failure.reason == "worker died"
    assert failure.summary == f"process {guilty + 1} of 2 was killed by SIGKILL"
    assert "3 times\nmost often memory ran out" in failure.message
    assert failure.message.endswith("\nout of luck")


def test_an_error_of_one_is_the_runs_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = (
        "open(f'{os.environ[\"PYTHONPATH\"]}/began-{os.getpid()}', 'w').close()\n"
        "text = {'reason': 'out of memory', 'message': '', 'summary': str(rank)}\n"
        "say(event='failed', torn=rank == 0, **text)\n"
        "sys.exit(1)"
    )
    with pytest.raises(FailureError) as caught:
        _watch(monkeypatch, tmp_path, body)
    assert (caught.value.failure.reason, caught.value.failure.summary) == ("out of memory", "1")
    assert len(list(tmp_path.glob("began-*"))) == 2


def test_a_process_ends_with_who_started_it() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "bench.runs.distributed_worker"],
        input=json.dumps({"id": "x"}) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1


# --- refused before training ---


def _other(name: str, **changes: Any) -> RunSpec:
    return RunSpec(
        data=DATA,
        model=SPEC.model,
        pattern="T(1-10)R(11)",
        init=FromRun(run=SPEC),
        method=MethodSpec(name=name),
        **changes,
    )


def test_methods_that_cannot_are_named_before_anything_runs(tmp_path: Path) -> None:
    assert why_one_process(_other("plain")) is None
    joint = _other("joint", borrow=(Borrowed(data=DATA),))
    assert "borrowed images" in str(why_one_process(joint))
    assert "no training steps" in str(why_one_process(_other("svm")))
    check_gpus([(joint, None)], 1)
    with pytest.raises(BenchError, match="cannot be trained on 4 GPUs: method 'joint'"):
        check_gpus([(SPEC, None), (joint, None)], 4)
    with pytest.raises(BenchError, match="cannot be trained on 2 GPUs"):
        execute_ranks("x", joint, Context(str(tmp_path), gpus=2), print, lambda: False)


def test_a_batch_in_parts_is_trained_on_one_gpu_or_on_as_many() -> None:
    train = SPEC.train.model_copy(update={"batch_norm_parts": 2})
    parts = SPEC.model_copy(update={"train": train})
    assert "batch_norm_parts" not in SPEC.train.identity()
    assert parts.train.identity()["batch_norm_parts"] == 2
    check_gpus([(parts, None)], 1)
    check_gpus([(parts, None)], 2)
    with pytest.raises(BenchError) as caught:
        check_gpus([(parts, None)], 4)
    assert "cannot be trained on 4 GPUs: train.batch_norm_parts is 2 (" in caught.value.message
    assert caught.value.hint == (
        "it trains on one GPU or on 2; leave gpus out, or leave the run out with --only"
    )
    joint = _other("joint", borrow=(Borrowed(data=DATA),))
    with pytest.raises(ValidationError, match="batch_norm_parts is 2, but the run borrows"):
        RunSpec.model_validate(joint.model_dump() | {"train": train.model_dump()})


def test_a_batch_has_an_image_for_each_gpu() -> None:
    """Found before anything runs, by the smallest batch of an epoch."""
    recipe = SPEC.train.model_copy(update={"batch_size": 4})
    spec = SPEC.model_copy(update={"train": recipe})
    images = DataFacts("images", ("a", "b"), "digits", 9, 4)  # 3, 3 and 3
    check_gpus([(spec, images)], 3)
    check_gpus([(spec, replace(images, missing=True))], 4)
    with pytest.raises(BenchError) as caught:
        check_gpus([(spec, images)], 4)
    assert "cannot be trained on 4 GPUs: its smallest batch has 3 images (" in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("raise train.batch_size; leave gpus out")


def test_gpus_are_no_part_of_a_runs_identity(tmp_path: Path) -> None:
    several = Context(str(tmp_path), gpus=4)
    assert id_of(SPEC, several.fingerprint) == id_of(SPEC, Context(str(tmp_path)).fingerprint)


def test_a_job_asks_for_the_gpus_processors_and_memory_of_its_processes() -> None:
    settings = read_settings({"threads": 2, "source": {"gpus": 4}})
    source, finetune = settings.resources("source"), settings.resources("finetune")
    assert (source.gpus_per_node, source.cpus_per_task, source.memory_gib) == (4, 8, 16.0)
    assert (finetune.gpus_per_node, finetune.cpus_per_task, finetune.gpus) == (1, 2, 1)
    own = read_settings({"gpus": 2, "gres": "gpu:a100:2", "memory_gib": 50, "cpus_per_task": 16})
    found = own.resources("finetune")
    assert (found.gpus_per_node, found.gres, found.memory_gib) == (None, "gpu:a100:2", 50)
    assert found.cpus_per_task == 16
    last = own.resources("leaderboard")
    assert (last.gpus, last.gpus_per_node, last.gres) == (None, 0, None)
    rehearsal = read_settings({"gpus": 2, "device": "cpu"}).resources("source")
    assert (rehearsal.gpus_per_node, rehearsal.cpus_per_task) == (None, 2)
    with pytest.raises(GridError, match="gpus: 4, but the job asks for 1 a node"):
        read_settings({"gpus_per_node": 1, "source": {"gpus": 4}}).resources("source")


def test_on_a_cluster_gpus_are_a_setting_of_jobs(tmp_path: Path) -> None:
    given = ["grid", "grids/quickstart.yaml", "--slurm", "--gpus", "2", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, BenchError)
    assert "source.gpus=2" in str(result.exception)
