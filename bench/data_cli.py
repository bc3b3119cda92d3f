"""The `bench data` commands: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.options import DataRoot, Results

__all__ = ["register"]


def data_check(
    name: Annotated[str, typer.Argument(help="a data set's name, such as folder")],
    path: Annotated[str | None, typer.Argument(help="where it lies")] = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Check a data set: layout, counts, unreadable and duplicate images."""
    from bench.data.check import check

    report = check(name, path, data_root=data_root, cache_dir=results / "cache")
    for line in report.lines():
        typer.echo(line)
    if report.problems:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    data = typer.Typer(no_args_is_help=True, help="Look at data sets.", rich_markup_mode=None)
    data.command("check")(data_check)
    app.add_typer(data, name="data")
