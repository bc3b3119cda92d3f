"""Measured tables beside a leaderboard answer the same claims as the features that they are of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.comparisons.ratios import DISTANCE_KEYS
from analysis.findings.evaluate import find_claim
from analysis.leaderboard.read import read
from analysis.measurements import beside
from analysis.measurements.tables import Measurements, evidence, wide_distances
from bench.commands.app import app
from bench.core.errors import DataError

NAMES = ("cosine", "linear MMD", "linear SVM accuracy", "CNN accuracy")


def measured(board: pd.DataFrame) -> Measurements:
    """Made-up distances of each target from its source, and sensitivities of filters."""
    tuned = board[(board["role"] == "finetune") & (board["source"] != "none")]
    pairs = tuned[list(DISTANCE_KEYS)].drop_duplicates().to_dict("records")
    rows = [
        pair
        | {"network": "source", "layer": "7", "distance": name, "value": value}
        | {"low": value - 0.001, "high": value + 0.001, "p_value": None, "n": 300, "notes": None}
        for place, pair in enumerate(pairs)
        for value in [0.1 + 0.12 * place]
        for name in NAMES
    ]
    sides = (("near", "far"), ("FT-near", "FT-far"), ("FT-near", "near"), ("FT-far", "far"))
    numbers = {"layer": "5", "percentage": 70.0, "reverse_percentage": 25.0, "n_classes": 40}
    pairs = [{"a": a, "b": b, "ties_percentage": 5.0} | numbers for a, b in sides]
    return Measurements(distances=pd.DataFrame(rows), sensitivities=pd.DataFrame(pairs))


@pytest.fixture
def leaderboard(committed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(committed / "papers" / "best-practices.csv", tmp_path / "mine.csv"))


def test_what_is_read_is_what_was_written(leaderboard: Path) -> None:
    board = read(leaderboard)
    assert beside.load(leaderboard) is None
    table = measured(board)
    assert beside.save(table, leaderboard) == []
    names = sorted(path.name for path in leaderboard.parent.iterdir())
    assert names == ["mine-distances.csv", "mine-sensitivities.csv", "mine.csv"]
    again = beside.load(leaderboard)
    assert again is not None
    pd.testing.assert_frame_equal(
        wide_distances(again.distances), wide_distances(table.distances), check_dtype=False
    )
    for name in ("CHU-C3", "CHU-C4", "CHU-C5", "LI-C11"):
        sides = [find_claim(name).on_runs(evidence(board, one)) for one in (table, again)]
        numbers = [[(p.name, p.effect, p.n, p.detail) for p in parts] for parts in sides]
        assert numbers[0] == numbers[1]
        assert all(effect is not None for _, effect, *_ in numbers[0]), name


def test_findings_of_a_leaderboard_read_them(leaderboard: Path) -> None:
    def said() -> str:
        arguments = ["findings", str(leaderboard), "--claim", "LI-C11"]
        run = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert run.exit_code == 0, run.output
        return str(run.output)

    assert "no filter sensitivities" in said()
    beside.save(measured(read(leaderboard)), leaderboard)
    after = said()
    assert "no filter sensitivities" not in after
    assert "near ahead of far" in after


def test_a_table_that_is_none_is_refused(leaderboard: Path) -> None:
    path = leaderboard.with_name("mine-distances.csv")
    for text in ("", "dataset,target\na,b\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="the table of distances has no column") as error:
            beside.load(leaderboard)
        assert error.value.place == str(path)


def test_nothing_measured_writes_nothing_and_what_cannot_be_written_is_said(
    leaderboard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert beside.save(Measurements(), leaderboard) == []
    assert [path.name for path in leaderboard.parent.iterdir()] == ["mine.csv"]

    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(beside, "write_atomic", full)
    said = beside.save(measured(read(leaderboard)), leaderboard)
    assert said[0] == (
        f"{leaderboard.with_name('mine-distances.csv')} cannot be written: No space left on device"
    )
