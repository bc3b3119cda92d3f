"""Options that several commands share, and the console they print to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DataRoot", "GridFile", "Only", "Results", "RetryFailed", "Set", "console"]

GridFile = Annotated[Path, typer.Argument(metavar="GRID", help="a YAML file, see grids/")]
Results = Annotated[Path, typer.Option(help="where runs and leaderboards lie")]
DataRoot = Annotated[
    Path | None, typer.Option(help="where data sets lie; else root: in the grid, else BENCH_DATA")
]
Only = Annotated[list[str] | None, typer.Option(help="an experiment's name; may be repeated")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE laid over every run; may be repeated")
]
RetryFailed = Annotated[bool, typer.Option(help="run failed runs again")]


def console() -> Console:
    """The terminal, or lines of 170 characters where there is none."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=170, soft_wrap=True)
