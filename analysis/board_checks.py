"""Whether a table is a leaderboard at all: said before anything is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.errors import DataError

__all__ = ["NEEDED", "WHICH_FILE", "check"]

NEEDED = ("status", "dataset", "target", "class_draw", "source", "model", "pattern", "method")
"""Columns that every analysis needs."""
WHICH_FILE = "give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one"
_STATES = ("done", "diverged", "failed", "blocked", "missing")
_NUMBERS = ("images_per_class", "lr", "target_classes", "top1_accuracy", "val_top1_accuracy")


def check(board: pd.DataFrame, place: str | None = None) -> None:
    """Makes sure that a table is a leaderboard with rows.

    Raises:
        DataError: naming the columns that are absent or hold what they cannot, with the line.

    >>> check(pd.DataFrame({"status": ["done"], "epoch": [1]}))
    Traceback (most recent call last):
        ...
    bench.errors.DataError: this is not a leaderboard: it has no column dataset, target, …
      give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one
    """
    absent = [] if board.columns.empty else [name for name in NEEDED if name not in board.columns]
    if len(absent) > len(NEEDED) // 2:
        raise DataError(
            f"this is not a leaderboard: it has no column {_some(absent)}",
            place=place,
            hint=WHICH_FILE,
        )
    if absent:
        raise DataError(
            f"the leaderboard has no column {', '.join(absent)}", place=place, hint=WHICH_FILE
        )
    if board.empty:
        raise DataError(
            "the leaderboard is empty: no row",
            place=place,
            hint="run: bench grid GRID",
        )
    unknown = sorted({str(s) for s in board["status"]} - set(_STATES))
    if unknown:
        raise DataError(
            f"status {_some(unknown)} is not known",
            place=place,
            hint=f"one of {', '.join(_STATES)}",
        )
    for name in _NUMBERS:
        if name in board.columns:
            _check_numbers(board[name], name, place)


def _check_numbers(values: pd.Series[Any], name: str, place: str | None) -> None:
    bad = values[pd.to_numeric(values, errors="coerce").isna() & values.notna()]
    if len(bad):
        row = int(str(bad.index[0])) + 2 if isinstance(values.index, pd.RangeIndex) else None
        where = f"{place}:{row}" if place and row else place
        raise DataError(f"{name} is {bad.iloc[0]!r}, not a number", place=where, hint=WHICH_FILE)


def _some(names: Sequence[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
