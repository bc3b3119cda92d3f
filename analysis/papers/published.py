"""The four papers' published numbers: typed, looked up, and as tables.

`published.csv` holds every number of every table and those that occur only in running text, one
cell per row; the key (paper, table, row, column) is unique. `note` marks misprints and
contradictions inside the papers.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

from bench.core.errors import DataError, nearest

PAPERS: Mapping[str, str] = {
    "soft-ft-2019": "Effective Domain Knowledge Transfer with Soft Fine-tuning (2019)",
    "li-2019": "Multifaceted Analysis of Fine-Tuning in Deep Model for Visual Recognition (2019)",
    "ge-yu-2017": "Borrowing Treasures from the Wealthy: Selective Joint Fine-Tuning (2017)",
    "chu-2016": "Best Practices for Fine-tuning Visual Classifiers to New Domains (2016)",
}
"""Key and title of each paper."""


@dataclass(frozen=True)
class Published:
    """One published cell. `value` is a number where the paper prints one, else its text."""

    paper: str
    table: str
    row: str
    column: str
    value: float | str
    unit: str
    note: str

    @property
    def number(self) -> float:
        """The value, which must be a number.

        Raises:
            DataError: when the cell holds text.
        """
        if isinstance(self.value, str):
            raise DataError(
                f"{self.row} / {self.column} is the text {self.value!r}, not a number",
                place=f"{self.paper}, {self.table}",
            )
        return self.value


@cache
def cells() -> tuple[Published, ...]:
    """All published cells, in the papers' order.

    >>> len(cells())
    525
    """
    text = files("analysis.papers").joinpath("published.csv").read_text(encoding="utf-8")
    found = [_cell(line) for line in csv.DictReader(text.splitlines())]
    keys = {(c.paper, c.table, c.row, c.column) for c in found}
    if len(keys) != len(found):
        raise DataError(
            "published.csv has the same cell twice", place="analysis/papers/published.csv"
        )
    return tuple(found)


def _cell(line: Mapping[str, str]) -> Published:
    return Published(
        line["paper"],
        line["table_or_figure"],
        line["row"],
        line["column"],
        _typed(line["value"]),
        line["unit"],
        line["note"],
    )


def _typed(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


@cache
def _index() -> Mapping[tuple[str, str, str, str], Published]:
    return {(c.paper, c.table, c.row, c.column): c for c in cells()}


def look_up(paper: str, table_name: str, row: str, column: str) -> Published:
    """One cell.

    Raises:
        DataError: naming the part of the key that does not exist and the nearest that do.

    >>> look_up("li-2019", "Table 2", "80", "Accuracy mean").value
    61.35
    """
    found = _index().get((paper, table_name, row, column))
    if found is not None:
        return found
    _require("paper", paper, {c.paper for c in cells()}, "published.csv")
    of_paper = [c for c in cells() if c.paper == paper]
    _require("table", table_name, {c.table for c in of_paper}, paper)
    of_table = [c for c in of_paper if c.table == table_name]
    _require("row", row, {c.row for c in of_table}, f"{paper}, {table_name}")
    columns = {c.column for c in of_table if c.row == row}
    _require("column", column, columns, f"{paper}, {table_name}, {row}")
    raise AssertionError("every part of the key exists, so the cell does")


def _require(what: str, name: str, known: set[str], place: str) -> None:
    if name not in known:
        raise DataError(
            f"no {what} {name!r} among the published numbers",
            place=place,
            hint=f"there are: {nearest(name, known)}",
        )


def value(paper: str, table_name: str, row: str, column: str) -> float:
    """The number in one cell; see `look_up`.

    >>> value("chu-2016", "Table 2", "Coral", "Linear SVM")
    97.3
    """
    return look_up(paper, table_name, row, column).number


def table(paper: str, table_name: str) -> pd.DataFrame:
    """A published table as the paper prints it: its rows and columns, in its order.

    Cells that the paper leaves empty are None. Values are floats or text.

    >>> table("soft-ft-2019", "Table 3").iloc[0, 0]
    88.5
    """
    found = [c for c in cells() if (c.paper, c.table) == (paper, table_name)]
    if not found:
        _require("paper", paper, {c.paper for c in cells()}, "published.csv")
        _require("table", table_name, {c.table for c in cells() if c.paper == paper}, paper)
    rows = list(dict.fromkeys(c.row for c in found))
    columns = list(dict.fromkeys(c.column for c in found))
    at = {(c.row, c.column): c.value for c in found}
    body = [[at.get((row, column)) for column in columns] for row in rows]
    index = pd.Index(rows, name="row")
    return pd.DataFrame(body, index=index, columns=columns, dtype=object)
