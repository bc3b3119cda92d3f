"""What validation images say of a run, from what it leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import StoreError
from bench.results.history import Validated, read_history, validated
from bench.results.store import RunFolder
from tests.results.test_store import ID, SPEC

EPOCHS = [
    {"epoch": 0, "train_loss": 1.5, "val_loss": 0.4, "val_top1_accuracy": 0.8},
    {"epoch": 1, "train_loss": 1.2, "val_loss": None, "val_top1_accuracy": None},
    {"epoch": 2, "train_loss": 1.1, "val_loss": 0.9, "val_top1_accuracy": 0.6},
    {"epoch": 3, "train_loss": 1.0, "val_loss": 0.5, "val_top1_accuracy": 0.8},
]
CHOICES = [
    {"epoch": n, "c": c, "val_loss": loss, "val_top1_accuracy": accuracy}
    for n, (c, loss, accuracy) in enumerate([(0.1, 0.7, 0.5), (1.0, 0.6, 2 / 3), (9.0, 0.2, 2 / 3)])
]


def published(place: Path, row: dict[str, Any], history: list[dict[str, Any]]) -> RunFolder:
    folder = RunFolder(place / f"run-{ID}", ID)
    row = {"status": "done", "val_images": 20, "best_epoch": None} | row
    assert folder.publish({"run_id": ID, "row": row}, history, SPEC)
    return folder


@pytest.mark.parametrize(("best", "loss"), [(1, 0.4), (4, 0.5)], ids=["best_val", "last"])
def test_of_epochs_that_do_equally_well_the_loss_is_that_of_the_one_kept(
    tmp_path: Path, best: int, loss: float
) -> None:
    folder = published(tmp_path, {"best_epoch": best, "val_top1_accuracy": 0.8}, EPOCHS)
    assert validated(folder) == Validated(0.8, loss, 20)


def test_of_a_classifier_the_first_best_c_is_kept(tmp_path: Path) -> None:
    folder = published(tmp_path, {"val_top1_accuracy": 2 / 3}, CHOICES)
    assert validated(folder) == Validated(2 / 3, 0.6, 20)


def test_without_a_result_there_is_nothing_and_a_diverged_run_is_the_worst(tmp_path: Path) -> None:
    assert validated(RunFolder(tmp_path / f"none-{ID}", ID)) is None
    row = {"status": "diverged", "val_top1_accuracy": 0.9}
    assert validated(published(tmp_path, row, EPOCHS)) == Validated(0.0, math.inf, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the run's history cannot be read"),
        ("epoch,val_loss\nx,y\n", "the run's history cannot be read"),
        ("epoch\n\xff\n", "the run's history cannot be read"),
        ("epoch,val_loss,val_top1_accuracy\n0,1.0,0.1\n", "lacks the epoch that it keeps"),
    ],
)
def test_a_damaged_history_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    folder = published(tmp_path, {"best_epoch": 4, "val_top1_accuracy": 0.8}, EPOCHS)
    path = folder.path / "history.csv"
    path.unlink() if content is None else path.write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match=message) as error:
        validated(folder)
    assert str(path) in str(error.value)


def test_a_history_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = published(tmp_path, {"best_epoch": 4, "val_top1_accuracy": 0.8}, EPOCHS)
    assert read_history(folder) == EPOCHS
