"""The command as a user types it, on real scanned digits with a small network."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.planning.workspace import open_session
from bench.results.failures import failure_of
from bench.results.records import DETERMINISTIC_COLUMNS
from bench.results.store import Progress

GRID = """\
defaults:
  target:
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 4}
    images_per_class: 10
    val_per_class: 5
    test_per_class: 20
  source: {classes: {side: source, n: 5}, images_per_class: 20}
  model: narrow8_32
  train: {lr: 0.02, epochs: 4, batch_size: 16}
  pretrain: {lr: 0.02, epochs: 4, batch_size: 16}
experiments:
  patterns:
    about: tune, freeze or nothing to start from
    axes: {pattern: [tune, freeze], seed: [0, 1]}
    include: [{source: none, pattern: scratch}]
"""


def bench(*arguments: str, cwd: Path, code: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    return output


def here(*arguments: str, cwd: Path, code: int = 0) -> str:
    """As `bench`, in this process, which need not be started."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.output


def again(folder: Path, *more: str, code: int = 0) -> str:
    """Runs what is left of the grid, with one worker, as each start of one takes seconds."""
    return here("grid", "grid.yaml", "--workers", "1", *more, cwd=folder, code=code)


def start(folder: Path, *more: str, workers: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "grid", "grid.yaml", "--workers", str(workers), *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "grid.csv").open() as file:
        return list(csv.DictReader(file))


def deterministic(folder: Path) -> list[list[str]]:
    return [[row[name] for name in DETERMINISTIC_COLUMNS] for row in rows(folder)]


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def published(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and change time of every record: another file, or the same written again, differs."""
    paths = (folder / "results" / "runs").glob("*/record.json")
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def wait_for_records(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    end = time.monotonic() + 180
    while len(published(folder)) < count:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that ran through undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "grid.yaml").write_text(GRID)
    output = bench("grid", "grid.yaml", "--workers", "2", cwd=folder)
    assert "all 7 runs are done" in output
    return folder


def test_the_leaderboard_has_a_row_per_run(finished: Path) -> None:
    table = rows(finished)
    assert len(table) == 7
    assert {row["status"] for row in table} == {"done"}
    assert {row["source"] for row in table} == {"none", "categories 5"}
    assert all(0.25 < float(row["top1_accuracy"]) <= 1 for row in table)
    frozen = next(row for row in table if row["pattern"] == "F(1-7)R(8)")
    assert int(frozen["trainable_parameters"]) == 128 * 4 + 4


def test_metrics_can_be_computed_again_from_the_predictions(finished: Path) -> None:
    import numpy as np
    from sklearn.metrics import balanced_accuracy_score, log_loss

    table = {row["run_id"]: row for row in rows(finished)}
    for folder in (finished / "results" / "runs").iterdir():
        row = table[folder.name.rpartition("-")[2]]
        (predictions,) = folder.glob("predictions-*.npz")
        with np.load(predictions, allow_pickle=False) as stored:
            logits, labels = stored["logits"].astype(float), stored["labels"]
        chance = np.exp(logits - logits.max(1, keepdims=True))
        chance /= chance.sum(1, keepdims=True)
        expected = balanced_accuracy_score(labels, logits.argmax(1))
        assert float(row["mean_class_accuracy"]) == pytest.approx(expected, abs=1e-6)
        assert float(row["test_loss"]) == pytest.approx(log_loss(labels, chance), abs=1e-4)


def test_again_does_nothing_and_says_so(finished: Path) -> None:
    before, table = published(finished), deterministic(finished)
    output = bench("grid", "grid.yaml", cwd=finished)
    assert "7 done, 0 to do" in output
    assert published(finished) == before
    assert deterministic(finished) == table


def test_views(finished: Path) -> None:
    run = rows(finished)[0]["run_id"]
    assert "top1_accuracy" in here("show", run[:8], cwd=finished)
    assert "top-1 %" in here("leaderboard", "grid.yaml", cwd=finished)
    assert "patterns" in here("status", "grid.yaml", cwd=finished)
    dry = here("grid", "grid.yaml", "--dry-run", "--set", "seed=5", cwd=finished)
    assert "to do" in dry
    assert "measured here" in dry
    drawn = here("classes", "{recipe: random, n: 4}", "--dataset", "digits", cwd=finished)
    assert len(set(drawn.split())) == 4
    assert here("classes", "--under", "dog.n.01", "--count", cwd=finished).strip() == "118"


@pytest.mark.parametrize(
    ("victim", "records"),
    [("command", 0), ("command", 4), ("worker", 1)],
)
def test_kill_at_any_moment_changes_nothing(
    victim: str, records: int, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    process = start(tmp_path)
    wait_for_records(process, tmp_path, records)
    if records == 0:
        time.sleep(5)  # in the middle of the first trainings, or of the start
    workers = workers_of(process)
    if victim == "command":
        process.kill()
        process.wait()
        for worker in workers:  # they end with their command
            for _ in range(200):
                if not Path(f"/proc/{worker}").exists():
                    break
                time.sleep(0.05)
            else:
                raise AssertionError(f"worker {worker} outlived the command")
    elif workers:
        os.kill(workers[0], signal.SIGKILL)
    survived = published(tmp_path) if victim == "command" else {}
    output, _ = process.communicate(timeout=300)
    if victim == "worker":
        assert process.returncode == 0, output
    else:
        again(tmp_path)
    after = published(tmp_path)
    assert {name: after[name] for name in survived} == survived
    assert deterministic(tmp_path) == deterministic(finished)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    process = start(tmp_path)
    wait_for_records(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "to go on: bench grid grid.yaml" in output
    again(tmp_path)
    assert deterministic(tmp_path) == deterministic(finished)


def test_two_commands_at_once_share_the_work(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    first, second = (start(tmp_path, workers=1) for _ in range(2))
    for process in (first, second):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert deterministic(tmp_path) == deterministic(finished)
    assert not list((tmp_path / "results" / "runs").glob("*/failed-*.json"))


def test_a_failing_source_blocks_its_children_alone(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    here("grid", "grid.yaml", "--dry-run", cwd=tmp_path)
    text = GRID.replace("pretrain: {lr: 0.02, epochs: 4", "pretrain: {lr: 1000000.0, epochs: 4")
    (tmp_path / "grid.yaml").write_text(text)
    output = again(tmp_path, code=1)
    assert "1 run diverged" in output
    states = {(row["source"], row["role"]): row["status"] for row in rows(tmp_path)}
    assert states[("categories 5", "finetune")] == "blocked"
    assert states[("none", "finetune")] == "done"
    assert "by " in next(row["reason"] for row in rows(tmp_path) if row["status"] == "blocked")


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
def test_damaged_source_weights_are_told_and_can_be_had_again(
    how: str, finished: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    table, before = rows(tmp_path), published(tmp_path)
    parent = next(row["parent_id"] for row in table if row["parent_id"])
    (weights,) = tmp_path.glob(f"results/runs/*{parent}/model-*.safetensors")
    content = weights.read_bytes()
    if how == "gone":
        weights.unlink()
    else:
        weights.write_bytes(content[:-8] if how == "cut" else content[:-1] + b"?")
    if how != "changed":  # nobody needs them: it is said, and the result stands
        said = " ".join(here("status", "grid.yaml", cwd=tmp_path).split())
        assert "its result stands; it is trained again when a new run starts from it" in said
        assert "all 7 runs are done" in here("grid", "grid.yaml", cwd=tmp_path)
    shorter = ("--set", "train.epochs=2")
    if how == "changed":  # its size is right, so only who reads it notices
        output = again(tmp_path, *shorter, code=1)
        assert "of the source" in " ".join(output.split())
        assert "damaged" in " ".join(output.split())
        assert str(weights.name) in "".join(output.split())
        assert "which is the source's" in here("status", "grid.yaml", *shorter, cwd=tmp_path)
        weights.unlink()
        again(tmp_path, *shorter, "--retry-failed")
    else:
        assert "trained again" in " ".join(again(tmp_path, *shorter).split())
    assert weights.read_bytes() == content
    assert published(tmp_path).items() >= before.items()  # its record stands as it was


def test_wrong_commands_end_with_status_2(tmp_path: Path) -> None:
    assert "cannot read the grid" in bench("grid", "no.yaml", cwd=tmp_path, code=2)
    (tmp_path / "grid.yaml").write_text(GRID.replace("digits", "digitz"))
    output = bench("grid", "grid.yaml", cwd=tmp_path, code=2)
    assert "digitz" in output
    assert "digits" in output
    assert "no run matches" in bench("show", "nothing", cwd=tmp_path, code=2)
    bench("nonsense", cwd=tmp_path, code=2)


def test_a_record_says_how_it_came_about(finished: Path) -> None:
    for path in (finished / "results" / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        assert len(record["classes"]) in (4, 5)
        assert record["row"]["versions"].startswith("torch ")
        assert set(record["files"]) == {
            f"{stem}-{record['files'][name][:16]}.{suffix}"
            for name in record["files"]
            for stem, suffix in [("model", "safetensors"), ("predictions", "npz")]
            if name.startswith(stem)
        }
        assert len(record["files"]) == 2
        assert record["row"]["source_test_overlap"] == 0
        assert set(record["average_precision"]) == set(record["classes"])
        mean = statistics.mean(record["average_precision"].values())
        assert record["row"]["mean_average_precision"] == pytest.approx(mean)


def test_status_shows_the_epoch_of_a_run_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    run = session.wanted[0]
    folder = session.store.folder(run.id, run.spec)
    with folder.claim() as mine:
        assert mine
        folder.show_progress(Progress(2, 8, 0.75, 90.0), [])
        status = " ".join(here("status", "grid.yaml", cwd=tmp_path).split())
    assert "1 running" in status
    assert "epoch 2 of 8, 1 min 30 s left, best so far 75.0 % of validation images" in status
    assert "1 running" not in here("status", "grid.yaml", cwd=tmp_path)


def test_logs_of_a_run_that_failed_on_this_machine_have_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    run = session.wanted[0]
    folder = session.store.folder(run.id, run.spec)
    folder.path.mkdir(parents=True)
    arguments = ("logs", run.id[:12], "--results", "results")
    output = bench(*arguments, cwd=tmp_path, code=2)
    assert "this run has left no log: no job of a cluster ran it" in " ".join(output.split())
    try:
        raise ZeroDivisionError("of a test")
    except ZeroDivisionError as error:
        folder.add_failure(failure_of(error).to_keep())
    lines = here(*arguments, cwd=tmp_path).splitlines()
    assert lines[0].endswith("failed-0001.json:")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: of a test"


def test_the_history_of_a_run_grows_while_it_trains(tmp_path: Path) -> None:
    text = GRID.replace("epochs: 4, batch_size: 16}\nexp", "epochs: 2000, batch_size: 16}\nexp")
    (tmp_path / "grid.yaml").write_text(text)
    process = start(tmp_path, "--only", "patterns", workers=1)
    try:
        seen: list[int] = []
        deadline = time.monotonic() + 120
        while len(seen) < 2 and time.monotonic() < deadline:
            for path in tmp_path.glob("results/runs/*/history.csv"):
                count = len(path.read_text().splitlines())
                if not (path.parent / "record.json").exists() and count not in seen:
                    seen.append(count)
            time.sleep(0.3)
        assert len(seen) >= 2
        status = " ".join(here("status", "grid.yaml", cwd=tmp_path).split())
        assert "1 running" in status
        assert "of 2000" in status
    finally:
        process.kill()
        process.communicate()
