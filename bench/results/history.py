"""What a run leaves of its training: a line for each epoch, or for each C of a classifier."""

from __future__ import annotations

import csv
import math
from typing import NamedTuple

from bench.core.errors import StoreError
from bench.results.store import RunFolder

Row = dict[str, float | int | None]
"""A line of a history by column; None for an empty cell."""


class Validated(NamedTuple):
    """What validation images say of a run, at the epoch or C that it keeps.

    Attributes:
        accuracy: top-1, a fraction.
        loss: cross-entropy in nats.
        images: how many validation images.
    """

    accuracy: float
    loss: float
    images: int


def read_history(folder: RunFolder) -> list[Row]:
    """The history of a run, its epochs numbered from 0.

    Raises:
        StoreError: it is not there, or is no history.
    """
    path = folder.path / "history.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: float(text) if text else None for name, text in row.items()}
                | {"epoch": int(row["epoch"])}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise StoreError(
            "the run's history cannot be read",
            place=str(path),
            hint="delete the folder to have the run repeated",
        ) from None


def validated(folder: RunFolder) -> Validated | None:
    """What validation images say of a run; None where it has no result.

    A run that diverged has 0, an infinite loss and no images.

    Raises:
        StoreError: its record or its history is damaged.
    """
    record = folder.record()
    if record is None:
        return None
    row = record["row"]
    if row["status"] != "done":
        return Validated(0.0, math.inf, 0)
    kept, accuracy = row["best_epoch"], row["val_top1_accuracy"]
    for line in read_history(folder):  # of several C that do equally well the first is kept
        is_kept = (
            line["val_top1_accuracy"] == accuracy if kept is None else line["epoch"] == kept - 1
        )
        if is_kept and line["val_loss"] is not None:
            return Validated(float(accuracy), float(line["val_loss"]), int(row["val_images"]))
    raise StoreError(
        "the run's history lacks the epoch that it keeps",
        place=str(folder.path / "history.csv"),
        hint="delete the folder to have the run repeated",
    )
