"""`bench findings GRID --tables`: a paper's tables, published beside measured, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands._options import console
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from analysis.comparisons.evidence import Evidence


def check_grid(source: Path | None) -> str:
    """The name of the paper's grid that a grid file or a leaderboard is of.

    Raises:
        BenchError: it is of none of them.
    """
    from analysis.paper_tables.compare import GRIDS, paper_grid

    name = "" if source is None else _name(source)
    if paper_grid(name) is None:
        raise BenchError(
            f"--tables is for the grid of a paper, not for {source or 'a results folder'}",
            hint=f"grids: {', '.join(GRIDS)}; or one of their leaderboards",
        )
    return name


def _name(source: Path) -> str:
    """What a grid calls itself; of a leaderboard the name of its file."""
    from bench.grid.yaml import read_yaml

    if source.suffix not in (".yaml", ".yml"):
        return source.stem
    given = read_yaml(source).value
    return str(given.get("name", source.stem)) if isinstance(given, dict) else source.stem


def print_tables(name: str, evidence: Evidence, heading: Sequence[str], csv: Path | None) -> None:
    """Prints the tables of the paper; all numbers go to `csv` where it is given."""
    from rich.table import Table

    from analysis.paper_tables.compare import table
    from analysis.paper_tables.text import paper_tables

    found, said = paper_tables(name, evidence)
    out = console()
    for line in [*heading, *said]:
        out.print(line, highlight=False)
    for one in found:
        view = Table(box=None, pad_edge=False)
        for place, head in enumerate(one.head):
            view.add_column(head, justify="right" if place in one.numbers else "left")
        for row in one.rows:
            view.add_row(*row)
        for part in ("", one.caption, view, one.note):
            out.print(part, highlight=False)
    if csv is not None:
        from bench.core.files import write_atomic

        write_atomic(csv, table(name, evidence).to_csv(index=False))
        out.print(f"all numbers: {csv}", highlight=False)
