"""A run that learned nothing is marked, and so are the runs that start from it (LI Fig. 12c)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.leaderboard.read import NOT_CONVERGED, finished, read, with_not_converged
from bench.commands.app import app
from bench.training.evaluation import chance_loss, stayed_at_chance

GRID = """\
defaults:
  target:
    {dataset: digits, image_size: 32, images_per_class: 20, val_per_class: 5, test_per_class: 5}
  model: narrow8_32
  train: {epochs: 10, batch_size: 8, lr: 0.05, augment: none}
  pretrain: {epochs: 1, batch_size: 16, lr: 1.0e-9}
sources: {stuck: {classes: {recipe: listed, names: ["0", "1", "2", "3"]}, images_per_class: 20}}
experiments:
  a:
    set: {target.classes: {recipe: listed, names: ["4", "5", "6"]}}
    axes: {source: [stuck], pattern: [tune], seed: [0]}
    include: [{source: none, pattern: scratch}]
"""


def test_the_rule() -> None:
    """Oracle: the entropy of the labels; a loss of 98 % of it in every epoch."""
    even, uneven = np.arange(80).repeat(3), np.array([0] * 9 + [1])
    assert chance_loss(even) == pytest.approx(math.log(80))
    assert chance_loss(uneven) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert stayed_at_chance([4.60, 4.40, 4.382], even)
    assert not stayed_at_chance([4.60, 4.20, 4.382], even)
    assert not stayed_at_chance([None, None], even)
    skewed = np.array([0] * 98 + [1, 2])  # a balanced recipe starts at log 3, not at 0.1
    assert chance_loss(skewed) < 0.15 < 1.0 < 0.98 * math.log(3)
    assert stayed_at_chance([1.1, 1.0], skewed)
    assert not stayed_at_chance([1.1, 1.0], skewed, alike=True)
    assert stayed_at_chance([1.1, 1.09], skewed, alike=True)


def test_a_source_at_chance_marks_its_children_and_they_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(GRID)
    run = CliRunner().invoke(app, ["grid", "grid.yaml", "--workers", "1"])
    assert run.exit_code == 0, run.output
    assert "never left chance, or start from one that did not" in run.output
    board = read(tmp_path / "results" / "grid.csv")
    by_role = board.set_index(["role", "source"])["not_converged"].fillna("").to_dict()
    assert by_role == {
        ("source", "none"): "run",
        ("finetune", "listed"): "source",
        ("finetune", "none"): "",
    }
    assert (board.loc[board["not_converged"].notna(), "status"] == NOT_CONVERGED).all()
    assert finished(board).sum() == 1
    assert finished(with_not_converged(board)).sum() == 3
    shown = CliRunner().invoke(app, ["findings", str(tmp_path / "results" / "grid.csv")]).output
    assert "2 runs never left chance in training, or start from one that did not" in shown
    counted = CliRunner().invoke(
        app, ["findings", str(tmp_path / "results" / "grid.csv"), "--with-not-converged"]
    )
    assert "never left chance" not in counted.output
