"""Several leaderboards as one: those of a results folder, or of several grids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.leaderboard.checks import NEEDED
from analysis.leaderboard.read import ADDED, prepare, read, with_not_converged
from bench.core.errors import DataError


def read_folder(folder: Path) -> pd.DataFrame:
    """All leaderboards of a results folder in one; `grid` says which file a row comes from.

    Aggregated tables are left out, and so are files that are no leaderboards.

    Raises:
        DataError: when there is none, or one cannot be read.
    """
    paths = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    boards = {path.stem: read(path) for path in paths if _looks_right(path)}
    if not boards:
        raise DataError(
            "there is no leaderboard in this folder", place=str(folder), hint="run: bench grid GRID"
        )
    return join(boards)


def join(boards: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Leaderboards under each other; `grid` is the name that each was given.

    Args:
        boards: from `analysis.leaderboard.read.read` or `prepare`.
    """
    named = [board.assign(grid=name) for name, board in boards.items()]
    columns = list(dict.fromkeys(name for board in named for name in board.columns))
    known = [board.dropna(axis="columns", how="all") for board in named]
    joined = pd.concat(known, ignore_index=True).reindex(columns=columns)
    joined = with_not_converged(joined)  # `prepare` marks them again
    found = prepare(joined[[name for name in joined.columns if name not in ADDED]])
    notes = {name: board.attrs.get("notes", []) for name, board in boards.items()}
    found.attrs["notes"] = [f"{name}: {note}" for name in notes for note in notes[name]]
    return found


def _looks_right(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.readline(100_000).decode("utf-8", "replace").strip().split(",")
    return set(NEEDED) <= set(header)
