"""A command reads each record once, and one state machine says what became of a run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.planning.workspace import Session, open_session
from bench.results.leaderboard import rows
from bench.results.store import RunFolder

GRID = """
defaults:
  target:
    dataset: digits
    classes: {recipe: half, side: a}
    image_size: 24
    images_per_class: 5
    val_per_class: 5
    test_per_class: 10
  model: narrow8_32
  train: {epochs: 1}
sources:
  near: {classes: {side: b}, images_per_class: 20}
experiments:
  two:
    axes: {source: [near], pattern: [tune], seed: [0, 1]}
    include:
      - {source: none, pattern: scratch}
"""


@pytest.fixture
def finished(tmp_path: Path, run_here: Callable[[Path, Path], Session]) -> list[str]:
    """The arguments of a command whose runs are all done."""
    (tmp_path / "grid.yaml").write_text(GRID)
    run_here(tmp_path / "grid.yaml", tmp_path / "results")
    return ["grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "results")]


def _session(arguments: list[str]) -> Session:
    return open_session(Path(arguments[1]), results=Path(arguments[3]))


def test_a_command_with_nothing_to_do_reads_each_record_once(
    finished: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    record = RunFolder.record

    def counting(folder: RunFolder) -> object:
        read[folder.run_id] += 1
        return record(folder)

    monkeypatch.setattr(RunFolder, "record", counting)
    done = CliRunner().invoke(app, finished)
    assert done.exit_code == 0, done.output
    assert set(read) == set(_session(finished).plan.runs)
    assert set(read.values()) == {1}


def test_states_follow_what_lies_in_the_folder(finished: list[str]) -> None:
    session = _session(finished)
    (source,) = [run for run in session.plan.runs.values() if run.role == "source"]
    child = next(run for run in session.plan.runs.values() if run.parent_id == source.id)
    assert set(session.states().values()) == {"done"}
    folder = session.store.folder(source.id, source.spec)
    model = folder.published_file("model")
    model.unlink()
    assert session.states()[source.id] == "done"  # nobody needs its weights
    session.store.folder(child.id, child.spec).withdraw()
    assert (session.states()[source.id], session.states()[child.id]) == ("missing", "missing")
    text = json.loads(folder.record_path.read_text())
    folder.withdraw()
    folder.record_path.write_text(json.dumps(text | {"digest": "0" * 64}))
    assert (session.states()[source.id], session.states()[child.id]) == ("damaged", "blocked")
    table = {row["run_id"]: row for row in rows(session.plan, session.store, session.records)}
    assert {key: row["status"] for key, row in table.items()} == session.states()
    assert table[child.id]["reason"] == f"by {source.id}, damaged"


def test_what_lies_in_the_place_of_a_folder_ends_no_command(finished: list[str]) -> None:
    session = _session(finished)
    run = next(run for run in session.plan.runs.values() if run.role != "source")
    folder = session.store.folder(run.id, run.spec)
    shutil.rmtree(folder.path)
    folder.path.touch()
    assert session.states()[run.id] == "missing"
    folder.path.unlink()
    folder.path.symlink_to(folder.path)
    assert session.states()[run.id] == "damaged"
    (row,) = [row for row in rows(session.plan, session.store) if row["run_id"] == run.id]
    assert "the record cannot be read: Too many levels" in row["reason"]


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[" * 100_000, b"{}"])
def test_commands_go_on_beside_a_damaged_record_and_name_it(
    finished: list[str], content: bytes
) -> None:
    session = _session(finished)
    run = next(run for run in session.plan.runs.values() if run.role != "source")
    path = session.store.folder(run.id, run.spec).record_path
    path.write_bytes(content)
    grid, *results = finished[1:]
    for command in ("status", "leaderboard", "findings", "report"):
        done = CliRunner().invoke(app, [command, grid, *results])
        assert done.exit_code == 0, done.output
        text = "".join(done.output.split())
        assert f"damaged{path}:" in text, (command, done.output)
        assert "deletethefoldertohavetherunrepeated" in text
