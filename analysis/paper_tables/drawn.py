"""Figures whose values a paper only draws: a line per cell of what was measured for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pandas as pd

from analysis.paper_tables.basis import Basis, basis_of
from analysis.paper_tables.cells import NONE, Arm, Drawn, phrase, rows_of, words_of
from analysis.paper_tables.scores import Score, score_of, several


@dataclass(frozen=True)
class DrawnCell:
    """A cell of a figure's matrix; `mixed` says why several conditions have no score."""

    row: str
    column: str
    score: Score | None
    mixed: str
    basis: Basis


def drawn_cells(figure: Drawn, board: pd.DataFrame) -> Iterator[DrawnCell]:
    """The cells of a figure's matrix that the grid has, by size."""
    rows = rows_of(board, Arm(figure.experiment, ()))
    if rows.empty:
        return
    sides = [*figure.rows, *figure.columns]
    words = pd.DataFrame({side: words_of(rows, side) for side in sides})
    seen = set(words.itertuples(index=False, name=None))
    order = sorted(seen, key=lambda cell: [_place(word, figure) for word in cell])
    for cell in order:
        said = [_say(side, word, figure) for side, word in zip(sides, cell, strict=True)]
        group = rows[(words == pd.Series(cell, index=sides)).all(axis=1)]
        done = group[group["status"].isin(["done", "diverged"])]
        mixed = several(done)
        score = score_of([done], figure.metric) if len(done) and not mixed else None
        basis = basis_of(done if len(done) else group, figure.standard)
        at = len(figure.rows)
        yield DrawnCell(", ".join(said[:at]), ", ".join(said[at:]), score, mixed, basis)


def _place(word: str, figure: Drawn) -> tuple[int, float, str]:
    """Nothing first, then what has a name in the order of the names, numbers by size, words."""
    if word == NONE:
        return (0, 0.0, "")
    for place, pattern in enumerate(figure.names):
        if fnmatchcase(word, pattern):
            return (1, float(place), "")
    try:
        return (2, float(word), "")
    except ValueError:
        return (3, 0.0, word)


def _say(column: str, word: str, figure: Drawn) -> str:
    for pattern, name in figure.names.items():
        if fnmatchcase(word, pattern):
            return name
    return phrase(column, word)
