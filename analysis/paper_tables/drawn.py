"""Figures whose values a paper only draws: a line per cell of what was measured for them."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from analysis.paper_tables.basis import basis_of
from analysis.paper_tables.cells import NONE, Arm, Drawn, rows_of, words_of
from analysis.paper_tables.scores import score_of, several


def drawn_lines(figure: Drawn, board: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The cells of a figure's matrix that the grid has, by size, as the fields of a `Line`."""
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
        yield {
            "paper": figure.paper,
            "table": figure.name,
            "row": ", ".join(said[:at]),
            "column": ", ".join(said[at:]),
            "published": None,
            "unit": "%",
            "status": "several conditions"
            if mixed
            else "not run"
            if score is None
            else "no published number",
            "measured": None if score is None else score.value,
            "low": None if score is None else score.low,
            "high": None if score is None else score.high,
            "spread": None if score is None else score.spread,
            "n": 0 if score is None else score.n,
            "counted": "" if score is None else score.counted,
            "basis": basis.text,
            "details": basis.details,
            "note": mixed if score is None else score.note,
        }


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


_SAID = {
    "lr": "lr {}",
    "images_per_class": "{} images per class",
    "target_classes": "{} classes",
    "frozen": "first {} layers frozen",
    "expand_to": "expanded to {}",
    "option_layer": "layer {}",
}
_EMPTY = {"expand_to": "not expanded", "images_per_class": "all images"}


def _say(column: str, word: str, figure: Drawn) -> str:
    for pattern, name in figure.names.items():
        if fnmatchcase(word, pattern):
            return name
    if word == NONE:
        return _EMPTY.get(column, f"no {column.replace('_', ' ')}")
    return _SAID.get(column, "{}").format(word)
