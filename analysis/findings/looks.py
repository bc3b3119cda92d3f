"""The file of looks beside a leaderboard: when it is looked at, and what each look decided.

`bench grid GRID --decide` writes `GRID-looks.csv` before its first run and after each look. While
it lies beside a leaderboard, whoever judges that leaderboard adjusts for the looks.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from analysis.comparisons.evidence import Evidence
from analysis.statistics.sequential import Looks
from bench.core.errors import DataError
from bench.core.files import csv_text, write_atomic

_SUFFIX = "-looks.csv"


@dataclass(frozen=True)
class LookRow:
    """What one look made of one question; a row of the file.

    Attributes:
        looks: tasks at each look, separated by ";"; the same in all rows.
        look: its number, 0 before the first run.
        question: a claim or a comparison; `tested` what of it the numbers are of.
        state: open, decided, stopped (it cannot be decided with the grid's tasks) or untested.
        tasks: that the numbers rest on.
        p, low, high: adjusted for the looks, p by Holm too.
        chance: of a verdict at the last look, should the effect stay as it looks.
        tasks_wanted: tasks that would decide it, where it is stopped.
        order: in which questions got their runs at the next look, the first 1; empty for none.
        recipes: that are run for it at the next look, separated by ";".
        runs: new ones that the next look has for it.
    """

    looks: str
    look: int
    question: str
    tested: str
    state: str
    verdict: str
    tasks: int
    effect: float | None
    low: float | None
    high: float | None
    unit: str
    p: float | None
    chance: float | None
    tasks_wanted: int | None
    order: int | None = None
    recipes: str = ""
    runs: int = 0


def looks_file(leaderboard: Path) -> Path:
    """Where the looks of a leaderboard are written down."""
    return leaderboard.with_name(leaderboard.name.removesuffix(".csv") + _SUFFIX)


def write_looks(path: Path, rows: Sequence[LookRow]) -> None:
    """Writes the file as a whole."""
    write_atomic(path, csv_text([asdict(row) for row in rows]))


def read_looks(path: Path) -> tuple[Looks | None, list[LookRow]]:
    """The looks and what they decided; None and nothing where there is no file.

    Raises:
        DataError: the file cannot be read as one of looks.
    """
    if not path.is_file():
        return None, []
    types = get_type_hints(LookRow)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                LookRow(**{n: _value(row[n], str(kind)) for n, kind in types.items()})
                for row in csv.DictReader(file)
            ]
        (sizes,) = {row.looks for row in rows}
        numbers = tuple(int(size) for size in sizes.split(";"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise DataError(
            "this file of looks cannot be read",
            place=str(path),
            hint="take back the one that bench grid --decide wrote: without it the error rates of "
            "this leaderboard's verdicts are not known",
        ) from None
    if list(numbers) != sorted(set(numbers)) or numbers[0] < 1:
        raise DataError(f"looks {sizes!r} do not rise", place=str(path))
    return Looks(numbers), rows


def _value(text: str, kind: str) -> Any:
    if "str" in kind:
        return text
    if not text:
        return None
    return int(text) if "int" in kind else float(text)


def with_looks(evidence: Evidence, path: Path) -> Evidence:
    """The evidence, to be judged with the looks that lie beside its leaderboard.

    Args:
        path: a leaderboard, or a folder of them.

    Raises:
        DataError: leaderboards of the folder have looks of their own each.
    """
    files = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [looks_file(path)]
    found = {file: looks for file in files if (looks := read_looks(file)[0]) is not None}
    if not found:
        return evidence
    if len(set(found.values())) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(
            f"leaderboards with looks of their own cannot be judged as one: {names}",
            place=str(path),
            hint=f"give one of them, such as {next(iter(found)).name.replace(_SUFFIX, '.csv')}",
        )
    rules = replace(evidence.rules, looks=next(iter(found.values())))
    return replace(evidence, rules=rules)
