"""The store: whole or absent, first wins, verified when read."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import StoreError
from bench.core.files import publish_new, write_atomic
from bench.results.records import sign
from bench.results.store import Progress, RunFolder, Store
from bench.specs.data import DataSpec
from bench.specs.run import ModelSpec, RunSpec

SPEC = RunSpec(
    data=DataSpec(dataset="digits"), model=ModelSpec(name="narrow8_32"), pattern="R(1-8)"
)
ID = "0123456789abcdef" * 2


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return Store(tmp_path).folder(ID, SPEC)


def record(accuracy: float = 0.5) -> dict[str, object]:
    return {"run_id": ID, "row": {"status": "done", "top1_accuracy": accuracy}}


def test_a_record_comes_back_as_it_was_written(folder: RunFolder) -> None:
    assert folder.record() is None
    assert folder.publish(record(), [{"epoch": 0, "train_loss": 1.5}], SPEC)
    found = folder.record()
    assert found is not None
    assert found["row"] == {"status": "done", "top1_accuracy": 0.5}
    assert (folder.path / "history.csv").read_text() == "epoch,train_loss\n0,1.5\n"
    assert RunSpec.model_validate_json((folder.path / "spec.json").read_text()) == SPEC


def test_the_first_record_wins(folder: RunFolder) -> None:
    assert folder.publish(record(0.1), [], SPEC)
    assert not folder.publish(record(0.2), [], SPEC)
    found = folder.record()
    assert found is not None
    assert found["row"]["top1_accuracy"] == 0.1


def test_files_are_named_by_their_content_and_found_through_the_record(folder: RunFolder) -> None:
    kept = folder.keep("model.safetensors", b"one")
    assert kept.name == f"model-{hashlib.sha256(b'one').hexdigest()[:16]}.safetensors"
    other = folder.path / ".of-my-own.tmp"
    other.write_bytes(b"two")
    loser = folder.keep("model.safetensors", other)
    assert not other.exists()
    found = record() | {"files": {kept.name: kept.sha256}, "sizes": {kept.name: kept.size_bytes}}
    assert folder.publish(found, [], SPEC)
    assert folder.weights_path.read_bytes() == b"one"
    folder.sweep()
    assert (folder.path / kept.name).exists()
    assert not (folder.path / loser.name).exists()
    with pytest.raises(StoreError, match="names no predictions file"):
        _ = folder.predictions_path


@pytest.mark.parametrize("order", sorted(set(itertools.permutations("AAABBB"))), ids="".join)
@pytest.mark.parametrize("other", [b"two", b"one"], ids=["unlike", "alike"])
def test_two_executions_that_end_together_leave_one_whole_result(
    folder: RunFolder, order: tuple[str, ...], other: bytes
) -> None:
    """Each writes its files, publishes and sweeps; in whatever order these steps fall."""

    def execution(content: bytes) -> Iterator[None]:
        kept = folder.keep("model.safetensors", content)
        yield
        named = {"files": {kept.name: kept.sha256}, "sizes": {kept.name: kept.size_bytes}}
        folder.publish(record() | named, [], SPEC)
        yield
        folder.sweep()
        yield

    steps = {"A": execution(b"one"), "B": execution(other)}
    for name in order:
        next(steps[name])
    found = folder.record()
    assert found is not None
    assert folder.damage(found) == []
    (weights,) = folder.path.glob("*.safetensors")
    assert found["files"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}


def test_a_record_that_names_files_the_old_way_is_read(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "model.safetensors").write_bytes(b"old")
    old = record() | {"files": {"model.safetensors": "0" * 64, "predictions.npz": "0" * 64}}
    folder.publish(old, [], SPEC)
    folder.sweep()
    assert folder.weights_path.read_bytes() == b"old"
    assert folder.damage(old) == ["predictions.npz is missing"]


def test_damage_is_seen_by_names_and_sizes(folder: RunFolder) -> None:
    kept = folder.keep("predictions.npz", b"12345678")
    found = {"files": {kept.name: kept.sha256}, "sizes": {kept.name: kept.size_bytes}}
    assert folder.damage(found) == []
    (folder.path / kept.name).write_bytes(b"1234")
    assert folder.damage(found) == [f"{kept.name} has 4 of 8 bytes"]
    (folder.path / kept.name).unlink()
    assert folder.damage(found) == [f"{kept.name} is missing"]
    assert folder.damage({"files": {}}) == []


def _race(path: str, number: int, start: float) -> None:
    time.sleep(max(0.0, start - time.time()))
    if publish_new(Path(path), str(number)):
        (Path(path).parent / f"won-{number}").touch()


def test_of_many_publishers_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = time.time() + 2
    target = tmp_path / "record.json"
    processes = [context.Process(target=_race, args=(str(target), n, start)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    winners = [path.name for path in tmp_path.glob("won-*")]
    assert winners == [f"won-{target.read_text()}"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("change", ["accuracy", "schema", "run_id", "torn"])
def test_a_record_that_was_changed_is_refused_with_a_way_out(
    folder: RunFolder, change: str
) -> None:
    folder.publish(record(), [], SPEC)
    text = folder.record_path.read_text()
    content = json.loads(text)
    if change == "accuracy":
        content["row"]["top1_accuracy"] = 0.99
    elif change != "torn":
        content[change] = "other"
    folder.record_path.write_text(text[:40] if change == "torn" else json.dumps(content))
    with pytest.raises(StoreError, match=r"record.json.*\n.*delete the folder"):
        folder.record()


def test_failures_are_kept_in_order(folder: RunFolder) -> None:
    for number in range(3):
        folder.add_failure({"reason": "test", "message": str(number)})
    assert [failure["message"] for failure in folder.failures()] == ["0", "1", "2"]


def test_a_writer_that_is_killed_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomic(path, "0" * 100_000)
    script = (
        "import sys, itertools; from pathlib import Path\n"
        "from bench.core.files import write_atomic\n"
        "for n in itertools.count(): write_atomic(Path(sys.argv[1]), str(n % 10) * 100_000)\n"
    )
    for delay in (0.3, 0.35, 0.4):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)])
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = path.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1


def test_a_claim_goes_with_its_process(folder: RunFolder) -> None:
    script = (
        "import sys, time; from pathlib import Path; from bench.results.store import RunFolder\n"
        "with RunFolder(Path(sys.argv[1]), 'x').claim() as mine:\n"
        "    print(mine, flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with folder.claim() as mine:
        assert not mine
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with folder.claim() as mine:
        assert mine


def test_find_by_beginning_of_the_id_or_part_of_the_name(folder: RunFolder) -> None:
    folder.publish(record(), [], SPEC)
    store = Store(folder.path.parents[1])
    assert store.find(ID[:6]) == [folder]
    assert store.find("digits") == [folder]
    assert store.find("nothing") == []
    assert store.published() == {ID}


# --- damaged files ---


def _of_text(whole: dict[str, Any]) -> bytes:
    return json.dumps(sign(whole | {"row": whole["row"] | {"top1_accuracy": "high"}})).encode()


def _unparted(whole: dict[str, object]) -> bytes:
    return json.dumps(sign({"schema": whole["schema"], "run_id": ID})).encode()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda whole: b"\xff\xfe{", "it is not UTF-8"),
        (lambda whole: b"[" * 100_000, "nested too deeply"),
        (lambda whole: b"{", "it is no JSON"),
        (lambda whole: b"[]", "the record is no JSON object"),
        (lambda whole: json.dumps(whole | {"schema": 9}).encode(), "schema 9"),
        (lambda whole: json.dumps(whole | {"classes": []}).encode(), "was changed after"),
        (_unparted, "lacks its row"),
        (_of_text, "top1_accuracy of the record is 'high', not a number"),
    ],
)
def test_a_damaged_record_is_an_error_with_its_place(folder: RunFolder, damage, words) -> None:
    folder.publish(record(), [], SPEC)
    folder.record_path.write_bytes(damage(json.loads(folder.record_path.read_bytes())))
    with pytest.raises(StoreError, match=words) as caught:
        folder.record()
    assert caught.value.place == str(folder.record_path)
    assert "delete the folder" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"{}", b""])
def test_a_damaged_spec_and_failures_are_no_traceback(folder: RunFolder, content: bytes) -> None:
    folder.publish(record(), [], SPEC)
    assert folder.spec() == SPEC
    (folder.path / "spec.json").write_bytes(content)
    with pytest.raises(StoreError, match="it is no spec of a run"):
        folder.spec()
    (folder.path / "failed-0001.json").write_bytes(content)
    (failure,) = folder.failures()
    assert isinstance(failure, dict)


def test_a_reason_that_cannot_be_kept_is_given_back(folder: RunFolder) -> None:
    assert folder.add_failure({"reason": "first"}) == ""
    assert [failure["reason"] for failure in folder.failures()] == ["first"]
    shutil.rmtree(folder.path)
    folder.path.write_text("")
    unkept = folder.add_failure({"reason": "second"})
    assert unkept == f"this reason is not kept in {folder.path}: File exists"


LEAVE = """
import os, signal, sys
from pathlib import Path
from bench.core.files import temporary_beside
for name in sys.argv[1:]:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary_beside(path).write_bytes(b"x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_swept_everywhere(folder: RunFolder) -> None:
    store = Store(folder.path.parents[1])
    places = ("board.csv", "cache/networks.json", "cache/index/a.json", "slurm/ledger/000001.json")
    own = [folder.path / name for name in ("model.safetensors", "checkpoint", "features.npz")]
    names = [*(str(path) for path in own), *(str(store.root / place) for place in places)]
    subprocess.run([sys.executable, "-c", LEAVE, *names], check=False)
    assert len(list(store.root.rglob(".*.tmp"))) == 7
    with folder.claim() as mine:  # who tries the run again
        assert mine
    assert len(list(store.root.rglob(".*.tmp"))) == 4
    store.sweep()
    assert not list(store.root.rglob(".*.tmp"))


def test_progress_is_shown_while_a_process_holds_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run-1", "1" * 32)
    folder.path.mkdir()
    assert folder.progress() is None
    with folder.claim() as mine:
        assert mine
        assert folder.progress() == Progress(0, 0)
        folder.show_progress(Progress(1, 4, 0.5, 30.0), [{"epoch": 0, "train_loss": 1.5}])
        assert folder.progress() == Progress(1, 4, 0.5, 30.0)
        assert (folder.path / "history.csv").read_text() == "epoch,train_loss\n0,1.5\n"
        folder.show_progress(Progress(2, 4, 0.6, 20.0), [])  # too soon after the last one
        assert folder.progress() == Progress(1, 4, 0.5, 30.0)
    assert folder.progress() is None  # nobody runs it any more
    folder.sweep()
    assert not (folder.path / "progress.json").exists()


def test_progress_of_an_earlier_execution_is_not_shown(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run-1", "1" * 32)
    folder.path.mkdir()
    folder.show_progress(Progress(3, 4, 0.5, 30.0), [])
    os.utime(folder.path / "progress.json", (1, 1))
    with folder.claim():
        assert folder.progress() == Progress(0, 0)
