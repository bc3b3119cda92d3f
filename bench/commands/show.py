"""The commands that look at results, `leaderboard` and `show`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import GridChoice, Results, console, grouped


@grouped
def leaderboard(
    chosen: GridChoice,
    choose: Annotated[
        list[str] | None,
        typer.Option(help="a column, such as lr, whose best value on validation data is shown"),
    ] = None,
) -> None:
    """Print a grid's results, and write its CSV files anew from the records."""
    from bench.commands._summary import damage_lines
    from bench.commands._tables import ABOUT_INTERVALS, leaderboard_tables
    from bench.results.leaderboard import rows, save

    out = console()
    session = chosen.open()
    table = rows(session.plan, session.store, session.records)
    for view in leaderboard_tables(session, table, choose or ()):
        view.show(out)
    out.print(ABOUT_INTERVALS, highlight=False)
    for line in damage_lines(session):
        out.print(line, highlight=False)
    save(table, session.plan, session.store, session.board)
    out.print(f"rows: {session.leaderboard()}", highlight=False)


def show(
    run: Annotated[
        str, typer.Argument(help="beginning of a run id, part of a folder name, or its path")
    ],
    results: Results = Path("results"),
) -> None:
    """Show one run: its record, or why there is none."""
    from bench.commands._tables import failure_text, run_table
    from bench.results.lookup import find_run

    out = console()
    folder = find_run(run, results)
    record = folder.record()
    out.print(f"{folder.path}", highlight=False)
    if record is not None:
        out.print(run_table(record))
        for wrong in folder.damage(record):
            out.print(wrong, style="red", highlight=False)
        return
    for failure in folder.failures():
        out.print(failure_text(failure), highlight=False)
    if not folder.failures():
        out.print("not done yet; run its grid again to go on")


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    for command in (leaderboard, show):
        app.command()(command)
