"""Measured tables as files beside a leaderboard, to be read where the features are not.

`GRID-distances.csv` and `GRID-sensitivities.csv` are written by `bench findings GRID`, which
computes them from extracted features, and read by the same command and by `bench report` for
`GRID.csv`. So a leaderboard that is handed on answers the claims on distances and filters too.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.comparisons.ratios import DISTANCE_WORDS
from analysis.measurements.tables import Measurements
from bench.core.errors import DataError
from bench.core.files import write_atomic

_NEEDED = {
    "distances": (*DISTANCE_WORDS, "distance", "value", "low", "high"),
    "sensitivities": ("layer", "a", "b", "percentage", "reverse_percentage", "n_classes"),
}
"""Each table, and the columns that claims read."""


def save(measured: Measurements, leaderboard: Path) -> list[str]:
    """Write the tables that there are; a sentence for each that cannot be written."""
    said = []
    for name in _NEEDED:
        table, path = getattr(measured, name), _path(leaderboard, name)
        if table is None or table.empty:
            continue
        try:
            write_atomic(path, table.to_csv(index=False))
        except OSError as error:
            said.append(f"{path} cannot be written: {error.strerror}")
    return said


def load(leaderboard: Path) -> Measurements | None:
    """The tables beside a leaderboard; None without one.

    Raises:
        DataError: a file lacks columns, or is no table.
    """
    found = {}
    for name, needed in _NEEDED.items():
        path = _path(leaderboard, name)
        if not path.is_file():
            continue
        try:
            table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError):
            table = pd.DataFrame()
        absent = [column for column in needed if column not in table.columns]
        if absent:
            raise DataError(
                f"the table of {name} has no column {', '.join(absent)}",
                place=str(path),
                hint="write it again with bench findings GRID, or delete it",
            )
        found[name] = table
    if not found:
        return None
    return Measurements(distances=found.get("distances"), sensitivities=found.get("sensitivities"))


def _path(leaderboard: Path, name: str) -> Path:
    return leaderboard.with_name(f"{leaderboard.stem}-{name}.csv")
