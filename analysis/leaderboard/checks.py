"""Whether a table is a leaderboard at all, checked before anything is computed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import DataError
from bench.core.tables import at_line, csv_rows
from bench.core.text import counted

NEEDED = ("status", "dataset", "target", "class_draw", "source", "model", "pattern", "method")
"""Columns that every analysis needs."""
WHICH_FILE = "give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one"
_STATES = ("done", "diverged", "failed", "damaged", "blocked", "missing")
_AGAIN = "bench leaderboard GRID writes the file again"
_FRACTIONS = (
    "top1_accuracy",
    "val_top1_accuracy",
    "mean_class_accuracy",
    "mean_average_precision",
    *(f"tar_at_far_1e-{digit}" for digit in (2, 3, 4, 5)),
)
_WHOLE = (
    *("images_per_class", "target_classes", "source_classes", "image_size", "epochs", "batch_size"),
    *("source_links", "source_epochs", "borrowed_sets", "train_images", "val_images"),
    *("test_images", "best_epoch", "epochs_run", "steps", "trainable_parameters"),
)
_NUMBERS = ("lr", "weight_decay", "test_loss", "train_loss", "seconds", "peak_memory_mib")
_LARGEST = 2.0**63


def read_cells(text: str, place: str | None) -> pd.DataFrame:
    """A CSV as a table of texts, each cell below a column of its own name.

    Raises:
        DataError: naming the line, where a row has too few or too many cells or is torn, or the
            columns that are there twice.

    >>> read_cells("a,b\\n1\\n", "x.csv")
    Traceback (most recent call last):
        ...
    bench.core.errors.DataError: x.csv:2: this row has 1 cell, but there are 2 columns
      bench leaderboard GRID writes the file again
    """
    rows: list[list[str]] = []
    for line, row in csv_rows(text, place, DataError, wanted=WHICH_FILE):
        if rows and len(row) != len(rows[0]):
            count = f"{counted(len(row), 'cell')}, but there are {len(rows[0])} columns"
            raise DataError(f"this row has {count}", place=at_line(place, line), hint=_AGAIN)
        rows.append(row)
    if not rows:
        raise DataError("the file is empty", place=place, hint=WHICH_FILE)
    twice = [name for name, count in Counter(rows[0]).items() if count > 1]
    if twice:
        names = ", ".join(map(repr, twice[:2]))
        raise DataError(f"column {names} is there twice", place=place, hint="keep one of the two")
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=object).replace("", None)


def check(board: pd.DataFrame, place: str | None = None) -> None:
    """Make sure that a table is a leaderboard with rows.

    Raises:
        DataError: naming the columns that are absent or hold what they cannot, with the line.

    >>> check(pd.DataFrame({"status": ["done"], "epoch": [1]}))
    Traceback (most recent call last):
        ...
    bench.core.errors.DataError: this is not a leaderboard: it has no column dataset, target, …
      give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one
    """
    absent = [] if board.columns.empty else [name for name in NEEDED if name not in board.columns]
    reason, hint = "", WHICH_FILE
    if len(absent) > len(NEEDED) // 2:
        reason = f"this is not a leaderboard: it has no column {_some(absent)}"
    elif absent:
        reason = f"the leaderboard has no column {', '.join(absent)}"
    elif board.empty:
        reason, hint = "the leaderboard is empty: no row", "run: bench grid GRID"
    elif unknown := sorted({str(s) for s in board["status"]} - set(_STATES)):
        reason, hint = f"status {_some(unknown)} is not known", f"one of {', '.join(_STATES)}"
    if reason:
        raise DataError(reason, place=place, hint=hint)
    for name in (*_NUMBERS, *_WHOLE, *_FRACTIONS):
        if name in board.columns:
            _check_numbers(board[name], name, place)


def once(board: pd.DataFrame, place: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """A leaderboard's rows, those that are there twice only once; and what is odd about the rest.

    Returns:
        The rows, and notes: rows dropped, and finished runs without a seed_draw.

    Raises:
        DataError: two rows of one run_id that differ, naming the line of the second.

    >>> once(pd.DataFrame({"run_id": ["a", "a"], "lr": [1, 1]}))[1]
    ['1 row is there twice and counted once']
    """
    notes = []
    if "run_id" in board.columns:
        named = board["run_id"].notna()
        twice = board.duplicated() & named
        kept = board[~twice]
        unequal = kept.loc[kept["run_id"].notna() & kept.duplicated("run_id"), "run_id"]
        if len(unequal):
            raise DataError(
                f"run {unequal.iloc[0]} is there twice, with different values",
                place=line_of(unequal, place, isinstance(board.index, pd.RangeIndex)),
                hint="keep one row of each run",
            )
        if twice.any():
            n = int(twice.sum())
            notes.append(f"{n} {'row is' if n == 1 else 'rows are'} there twice and counted once")
        board = kept.reset_index(drop=True) if twice.any() else board
    if {"seed_draw", "status"} <= set(board.columns):
        empty = board["seed_draw"].isna() & (board["status"] == "done")
        if empty.any():
            n = int(empty.sum())
            notes.append(
                f"{n} finished {'run has' if n == 1 else 'runs have'} no seed_draw: they count as "
                "one seed of their own and pair only with each other"
            )
    return board, notes


def line_of(values: pd.Series[Any], place: str | None, numbered: bool = True) -> str | None:
    """The line of a CSV that the first of some rows stands in, behind the file's name."""
    if not numbered or not str(values.index[0]).isdigit():
        return place
    return at_line(place, int(str(values.index[0])) + 2)


def _check_numbers(values: pd.Series[Any], name: str, place: str | None) -> None:
    """Refuses what is no finite number, or outside of what the column can hold."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    kind, hint = "a number", _AGAIN
    bad = numbers.isna() | (numbers.abs() == np.inf)
    if name in _WHOLE and not bad[values.notna()].any():
        kind, bad = "a whole number", (numbers < 0) | (numbers % 1 != 0) | (numbers > _LARGEST)
    elif name in _FRACTIONS and not bad[values.notna()].any():
        kind, hint = "a fraction between 0 and 1", "divide percentages by 100"
        bad = (numbers < 0) | (numbers > 1)
    wrong = values[bad & values.notna()]
    if len(wrong):
        where = line_of(wrong, place, isinstance(values.index, pd.RangeIndex))
        value = wrong.iloc[0]
        text = repr(value) if kind == "a number" else f"{float(value):g}"
        raise DataError(f"{name} is {text}, not {kind}", place=where, hint=hint)


def _some(names: Sequence[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
