"""A trained grid's report has the curves over epochs of LI Figs. 4 and 5 and of SFT Fig. 5."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.leaderboard.of_grid import grid_board
from analysis.report.epoch_figures import figures
from analysis.report.figures import Picture
from bench.planning.workspace import Session, open_session

GRID = """
name: curves
defaults:
  target: &target
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 2}
    image_size: 16
    images_per_class: 4
    val_per_class: 2
    test_per_class: 4
  model: narrow8_32
  pattern: tune
  source: {classes: {side: source, n: 8}}
  train: {lr: 0.01, epochs: 2, batch_size: 8}
experiments:
  rates:
    axes: {train.lr: [0.02, 0.01, 0.005]}
    include:
      - {method: soft, borrow: parent}
  sizes:
    axes:
      source:
        - {classes: {side: source, n: 3}}
        - {classes: {side: source, n: 5}}
        - {classes: {side: source, n: 8}}
    include:
      - {source: none, pattern: scratch}
"""


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory, run_here: Callable[[Path, Path], Session]
) -> Session:
    folder = tmp_path_factory.mktemp("curves")
    (folder / "curves.yaml").write_text(GRID)
    return run_here(folder / "curves.yaml", folder / "results")


def drawn(session: Session, board: pd.DataFrame) -> dict[str, Picture]:
    return {picture.name: picture for picture in figures(session.plan, session.store, board)}


def test_curves_are_drawn_from_the_histories_of_the_runs(session: Session) -> None:
    board = grid_board(session.plan, session.store)
    found = drawn(session, board)
    assert list(found) == ["epochs-rate", "epochs-source", "epochs-soft"]
    for picture in found.values():
        assert picture.figure is not None, picture.missing
        assert picture.caption.endswith(".")
    labels = [[ax.get_ylabel() for ax in p.figure.axes] for p in found.values() if p.figure]
    both = ["validation accuracy, %", "training loss, nats"]
    assert labels == [both, both, ["training accuracy, %"]]
    # What is drawn is what the run wrote.
    (run,) = board.loc[(board["lr"] == 0.005) & (board["method"] == "plain"), "run_id"]
    written = pd.read_csv(
        session.store.folder(run, session.plan.runs[run].spec).path / "history.csv"
    )
    assert found["epochs-rate"].figure is not None
    curves = {line.get_label(): line for line in found["epochs-rate"].figure.axes[1].get_lines()}
    assert curves["rate 0.005"].get_ydata() == pytest.approx(written["train_loss"])
    assert {"scratch", "3 source classes", "8 source classes"} <= {
        str(line.get_label()) for line in found["epochs-source"].figure.axes[0].get_lines()
    }


def test_the_caption_of_soft_fine_tuning_has_the_lead(session: Session) -> None:
    found = drawn(session, grid_board(session.plan, session.store))["epochs-soft"]
    pattern = (
        r"Soft fine-tuning is [+-][\d.]+ points on average over the epochs, "
        r"[+-][\d.]+ in the worst \(1 pair\); "
        r"(no level from 70 % on is reached by both|its smallest lead .* epochs)\."
    )
    assert re.search(pattern, found.caption)


def test_without_validation_images_the_loss_alone_is_drawn_and_the_caption_says_why(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path: whole(path).drop(columns="val_top1_accuracy"))
    picture = drawn(session, grid_board(session.plan, session.store))["epochs-rate"]
    assert picture.figure is not None
    assert [ax.get_ylabel() for ax in picture.figure.axes] == ["training loss, nats"]
    assert "target.val_per_class gives it" in picture.caption


def test_what_is_missing_is_said(session: Session, tmp_path: Path) -> None:
    board = grid_board(session.plan, session.store)
    found = drawn(session, board[board["lr"] != 0.02])
    assert found["epochs-rate"].missing == (
        "no runs for these curves (add train.lr: [0.03, 0.01, 0.003] to the grid's axes:)"
    )
    empty = open_session(session.grid.path, results=tmp_path)
    pictures = figures(empty.plan, empty.store, board)
    assert [p.missing for p in pictures] == [
        "the runs' histories are not there (run: bench grid GRID)"
    ] * 3
