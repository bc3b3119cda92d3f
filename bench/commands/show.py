"""The commands that look at results, `leaderboard` and `show`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import GridChoice, Results, console, doing, grouped


@grouped
def leaderboard(
    chosen: GridChoice,
    choose: Annotated[
        list[str] | None,
        typer.Option(help="a column, such as lr, whose best value on validation data is shown"),
    ] = None,
) -> None:
    """Print a grid's results, and write its CSV files anew from the records.

    Where the grid's images are not there, the leaderboard that lies there is shown as it is.
    """
    from bench.commands._summary import damage_lines, open_or_written
    from bench.commands._tables import ABOUT_INTERVALS, leaderboard_tables, written_tables
    from bench.results.leaderboard import rows, save

    out = console()
    session, written = open_or_written(chosen)
    with doing(f"reading the records of {chosen.grid}"):
        table = [] if written else rows(session.plan, session.store, session.records)
    views = (
        written_tables(session, choose or ())
        if written
        else leaderboard_tables(session, table, choose or ())
    )
    for view in views:
        view.show(out)
    out.print(ABOUT_INTERVALS, highlight=False)
    if written:
        out.print(written, highlight=False)
        return
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
