"""The `bench data` commands: parse, call, print."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import DataRoot, Results, console, grouped, say
from bench.core.errors import BenchError, refuse_repeated

if TYPE_CHECKING:
    from bench.data.inspection.compare import Side


Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="KEY=VALUE of the data set, such as partial=true; may repeat"),
]


def data_list(
    name: Annotated[str | None, typer.Argument(help="of one data set, to see all of it")] = None,
) -> None:
    """List the data sets that a grid can name: what they are, what for, where to get them."""
    from bench.data.listing import details, listed

    if name is not None:
        for line in details(name):
            say(line)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("name", "classes", "images", "used for", "get it", "licence")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for one in listed():
        row = (one.name, one.classes, one.images, one.used_for, one.where, one.licence)
        table.add_row(*row)
    out = console()
    out.print(table, highlight=False)
    out.print("images: training / validation / test. Layout and options: bench data list NAME")


@dataclass(frozen=True)
class Comparison:
    """Another data set that is looked through for the same images."""

    against: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="OTHER PATH",
            help="a data set to look for the same images in; - for PATH looks where grids do",
        ),
    ] = None
    against_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the other data set; may repeat")
    ] = None
    bytes_only: Annotated[
        bool, typer.Option("--bytes-only", help="compare files, not what they show")
    ] = False
    pairs: Annotated[Path | None, typer.Option(help="CSV file for the shared images")] = None


@grouped
def data_check(
    name: Annotated[str, typer.Argument(help="a data set's name, such as folder")],
    path: Annotated[str | None, typer.Argument(help="where it lies")] = None,
    option: Options = None,
    *,
    comparison: Comparison,
    every: Annotated[bool, typer.Option("--all", help="name every image of a problem")] = False,
    table: Annotated[
        Path | None, typer.Option("--csv", help="CSV file for every image of a problem")
    ] = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Check a data set: counts, broken and equal images, leaks between splits, another data set.

    Ends with status 1 when there is a problem.
    """
    from bench.data.datasets import DATASETS
    from bench.data.inspection.check import check
    from bench.data.inspection.compare import Side
    from bench.data.places import MissingDataError

    against = comparison.against
    if against is None and (comparison.against_option or comparison.pairs is not None):
        raise BenchError(
            "--against-option and --pairs are about another data set",
            hint="add --against OTHER PATH, or leave them out",
        )
    if path is None and name not in DATASETS and Path(name).exists():
        kind = "manifest" if Path(name).suffix == ".csv" else "folder"
        raise BenchError(
            f"{name!r} is where images lie, not the name of a data set",
            hint=f"bench data check {kind} {shlex.quote(name)}; names: bench data list",
        )
    side = Side(name, path, _options(option))
    try:
        report = check(
            name,
            path,
            data_root=data_root,
            cache_dir=results / "cache",
            options=side.options,
            most_pairs=0 if comparison.bytes_only else math.inf,
        )
    except MissingDataError as error:
        raise error if path is None else _not_at(path, name, error) from None
    for line in report.lines(every=every):
        say(line)
    if table is not None:
        report.write_csv(table)
        say(f"images of problems: {table}")
    bad = bool(report.problems)
    if against is not None:
        where = None if against[1] == "-" else against[1]
        other = Side(against[0], where, _options(comparison.against_option, "--against-option"))
        bad = _compare(side, other, comparison, data_root, results) or bad
    if bad:
        raise typer.Exit(1)


def _not_at(path: str, name: str, error: BenchError) -> BenchError:
    """That a data set is not where a user has just said that it is."""
    return BenchError(
        error.message,
        hint=f"check the path {path!r}: one that does not begin with / is looked for in the "
        "present folder, then below --data-root FOLDER or the environment variable BENCH_DATA; "
        f"bench data list {name} shows how the files lie",
    )


def _compare(
    side: Side,
    other: Side,
    comparison: Comparison,
    data_root: Path | None,
    results: Path,
) -> bool:
    """Prints what two data sets share; True if test images of the first are among it."""
    from bench.data.inspection.compare import compare, write_pairs

    found = compare(
        side,
        other,
        data_root=data_root,
        cache_dir=results / "cache",
        pictures=not comparison.bytes_only,
        say=lambda line: typer.echo(f"{line} …", err=True),
    )
    for line in found.lines():
        say(line)
    if comparison.pairs is not None:
        write_pairs(found, comparison.pairs)
        say(f"shared images: {comparison.pairs}")
    return found.leaks > 0


def _options(texts: list[str] | None, flag: str = "--option") -> tuple[tuple[str, Any], ...]:
    """KEY=VALUE pairs, values read as in a grid."""
    from bench.grid.yaml import scalar
    from bench.specs.data import DataSpec

    refuse_repeated(texts or (), flag)
    given = {}
    for text in texts or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise BenchError(f"{flag} {text!r} is not KEY=VALUE", hint="such as partial=true")
        given[key] = scalar(value)
    return DataSpec(dataset="any", options=given).options  # type: ignore[arg-type]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    data = typer.Typer(no_args_is_help=True, help="List or check data sets.", rich_markup_mode=None)
    data.command("list")(data_list)
    data.command("check")(data_check)
    app.add_typer(data, name="data")
