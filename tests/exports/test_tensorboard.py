"""Event files: TensorBoard's own reader finds a run's history in them, and no id has them."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError
from bench.exports.tensorboard import LiveScalars, events_folder, write_scalars
from bench.planning.workspace import Session, open_session
from bench.results.history import read_history
from bench.results.store import RunFolder

GRID = """
name: watched
defaults:
  target: {dataset: digits, classes: {recipe: listed, names: ['0', '1', '2']}, images_per_class: 12,
           val_per_class: 10, test_per_class: 20, image_size: 16}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 3, batch_size: 12}
experiments:
  rates: {axes: {train.lr: [0.02, 1000.0]}}
"""


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by name, with TensorBoard's own reader."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed: pip install -e '.[tensorboard]'",
    )
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    with (folder / "history.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name != "epoch" and text:
                    found.setdefault(name, []).append((int(row["epoch"]), float(text)))
    return found


def run(folder: Path, *options: str) -> None:
    (folder / "watched.yaml").write_text(GRID)
    command = ["grid", str(folder / "watched.yaml"), "--results", str(folder / "results")]
    done = CliRunner().invoke(app, [*command, "--workers", "1", "--device", "cpu", *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output


def test_events_are_the_history_and_those_of_finished_runs_are_written_later(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    results = tmp_path / "results"
    before = list(open_of(tmp_path).plan.runs)
    run(tmp_path, "--tensorboard")
    session = open_of(tmp_path)
    assert list(session.plan.runs) == before
    folders = [session.store.folder(one.id, one.spec) for one in session.wanted]
    names = sorted(path.name for path in (results / "tensorboard").iterdir())
    assert names == sorted(folder.path.name for folder in folders)
    for again in ("", "removed", "of half a training"):
        if again == "removed":
            shutil.rmtree(results / "tensorboard")
        elif again:
            for folder in folders:
                write_scalars(folder, read_history(folder)[:1])
                for path in events_folder(folder).iterdir():
                    os.utime(path, (1, 1))
        if again:  # the runs are finished, and nothing is trained
            run(tmp_path, "--tensorboard")
        for folder in folders:
            expected, found = history(folder.path), read(events_folder(folder))
            assert {"lr", "train_loss"} <= set(expected)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                assert found[name] == [
                    (n, pytest.approx(v, rel=1e-6, nan_ok=True)) for n, v in values
                ], name


def open_of(folder: Path) -> Session:
    (folder / "watched.yaml").write_text(GRID)
    return open_session(folder / "watched.yaml", results=folder / "results")


def test_without_the_option_there_are_none(tmp_path: Path) -> None:
    run(tmp_path)
    assert not (tmp_path / "results" / "tensorboard").exists()


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    folder = RunFolder(tmp_path / "runs" / "some-run", "run")
    stale = events_folder(folder)
    stale.mkdir(parents=True)
    (stale / "events.out.tfevents.of.an.earlier.execution").write_bytes(b"torn")
    live, rows = LiveScalars(folder), []
    for epoch in range(3):
        rows.append({"epoch": epoch, "train_loss": 1.0 / (epoch + 1), "val_loss": None})
        live.add(rows)
        assert [step for step, _ in read(stale)["train_loss"]] == list(range(epoch + 1))
    assert read(stale).keys() == {"train_loss"}


@pytest.mark.parametrize("command", ["grid", "finetune"])
def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    (tmp_path / "watched.yaml").write_text(GRID)
    done = CliRunner().invoke(app, [command, str(tmp_path / "watched.yaml"), "--tensorboard"])
    assert isinstance(done.exception, BenchError)
    assert "package tensorboard, which is not installed" in str(done.exception)
    assert done.exception.hint == 'pip install -e ".[tensorboard]", or pip install tensorboard'
