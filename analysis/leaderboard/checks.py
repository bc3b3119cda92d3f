"""Whether a table is a leaderboard at all, checked before anything is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.core.errors import DataError

NEEDED = ("status", "dataset", "target", "class_draw", "source", "model", "pattern", "method")
"""Columns that every analysis needs."""
WHICH_FILE = "give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one"
_STATES = ("done", "diverged", "failed", "damaged", "blocked", "missing")
_FRACTIONS = ("top1_accuracy", "val_top1_accuracy")
_NUMBERS = ("images_per_class", "lr", "target_classes", "top1_accuracy", "val_top1_accuracy")


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
    for name in _NUMBERS:
        if name in board.columns:
            _check_numbers(board[name], name, place)
    for name in _FRACTIONS:
        if name in board.columns:
            values = pd.to_numeric(board[name]).astype(float)
            outside = board[name][(values < 0) | (values > 1)]
            if len(outside):
                raise DataError(
                    f"{name} is {float(outside.iloc[0]):g}, not a fraction between 0 and 1",
                    place=_line(outside, place),
                    hint="divide percentages by 100",
                )


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
                place=_line(unequal, place, isinstance(board.index, pd.RangeIndex)),
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


def _line(values: pd.Series[Any], place: str | None, numbered: bool = True) -> str | None:
    """The line of a CSV that the first of some rows stands in, behind the file's name."""
    if not numbered or not str(values.index[0]).isdigit():
        return place
    line = int(str(values.index[0])) + 2
    return f"{place}:{line}" if place else f"line {line}"


def _check_numbers(values: pd.Series[Any], name: str, place: str | None) -> None:
    bad = values[pd.to_numeric(values, errors="coerce").isna() & values.notna()]
    if len(bad):
        where = _line(bad, place, isinstance(values.index, pd.RangeIndex))
        raise DataError(f"{name} is {bad.iloc[0]!r}, not a number", place=where, hint=WHICH_FILE)


def _some(names: Sequence[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
