"""The `bench` command: parse, call, print; nothing else. torch is imported by workers alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import __version__
from bench.commands import class_images as pictures_cli
from bench.commands import data as data_cli
from bench.commands import distance as distance_cli
from bench.commands import findings as findings_cli
from bench.commands import recommend as recommend_cli
from bench.commands import report as report_cli
from bench.commands import show as look_cli
from bench.commands import slurm as slurm_cli
from bench.commands._options import (
    DataRoot,
    GridFile,
    Only,
    Results,
    RetryFailed,
    Set,
    any_terminal,
    as_path,
    console,
)
from bench.commands.slurm import (
    Account,
    Partition,
    Qos,
    RunsPerJob,
    Slurm,
    SlurmSet,
    TimeoutMin,
    grid_on_slurm,
)
from bench.core.errors import BenchError
from bench.specs.recipes import EPILOG as RECIPE_HELP

if TYPE_CHECKING:
    from bench.launch.devices import Placement
    from bench.planning.workspace import Session


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trains the whole grid of fine-tuning choices and says what works, with what certainty.",
    epilog="Exit status: 0 all done, 1 some runs failed, 2 the command or the grid is wrong, "
    "130 interrupted.",
)


@app.command()
def grid(
    grid: GridFile,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    only: Only = None,
    set_: Set = None,
    dry_run: Annotated[bool, typer.Option(help="say what would run, and stop")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes; one per GPU, or core")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    gpus: Annotated[
        int, typer.Option(min=1, help="GPUs that train each source together; one run at a time")
    ] = 1,
    retry_failed: RetryFailed = False,
    slurm: Slurm = False,
    slurm_set: SlurmSet = None,
    slurm_partition: Partition = None,
    slurm_account: Account = None,
    slurm_qos: Qos = None,
    slurm_timeout_min: TimeoutMin = None,
    slurm_runs_per_job: RunsPerJob = None,
) -> None:
    """Run what is missing of a grid and write its leaderboards."""
    from bench.commands._summary import missing_lines
    from bench.commands._tables import plan_table
    from bench.core.text import counted
    from bench.launch.devices import placement
    from bench.planning.workspace import open_session

    if device not in ("auto", "cpu", "cuda"):
        raise BenchError(f"--device {device!r} is not known", hint="one of auto, cpu, cuda")
    given = {
        "slurm_partition": slurm_partition,
        "slurm_account": slurm_account,
        "slurm_qos": slurm_qos,
        "slurm_timeout_min": slurm_timeout_min,
        "slurm_runs_per_job": slurm_runs_per_job,
    }
    if slurm and workers is not None:
        raise BenchError(
            "--workers is for this machine", hint="with --slurm use --slurm-set max_jobs=N"
        )
    if slurm and gpus > 1:
        raise BenchError(
            "--gpus is for this machine", hint=f"with --slurm use --slurm-set source.gpus={gpus}"
        )
    if slurm and not dry_run:
        grid_on_slurm(
            grid,
            results=results,
            data_root=data_root,
            only=only,
            set_=set_,
            retry_failed=retry_failed,
            slurm_set=slurm_set,
            slurm_threads=threads if threads != 1 else None,
            slurm_device=device if device != "auto" else None,
            **given,
        )
    if not slurm and (slurm_set or any(value is not None for value in given.values())):
        raise BenchError("--slurm-… options are for --slurm", hint="add --slurm, or leave them out")
    out = console()
    session = open_session(
        grid,
        results=results,
        data_root=data_root,
        only=only or (),
        overrides=set_ or (),
        allow_missing=dry_run,
        folder="any" if dry_run else "writable",
    )
    if not session.missing_data:
        session.try_networks()
    where = placement(workers, device, gpus)
    states = session.states()
    table, totals = plan_table(session, states, where.workers, retry_failed=retry_failed)
    out.print(table)
    out.print(totals, highlight=False)
    if where.cards:
        out.print(f"GPUs, one for each worker in turn: {', '.join(where.cards)}", highlight=False)
    for line in missing_lines(session.missing_data):
        out.print(f"[yellow]data not found[/], so ids and 'done' are not known: {line}")
    failed = sum(states[run.id] == "failed" for run in session.wanted)
    if failed and not retry_failed:
        out.print(
            f"{counted(failed, 'run has', 'runs have')} failed: add --retry-failed to try again"
        )
    if not dry_run:
        _run(session, where, threads, device, retry_failed, gpus)


def _run(
    session: Session, where: Placement, threads: int, device: str, retry_failed: bool, gpus: int
) -> None:
    from bench.commands._summary import ending_lines, leaderboard_lines
    from bench.launch.local.run import run_here

    out = console()
    tally = run_here(
        session,
        out,
        where=where,
        threads=threads,
        device=device,
        retry_failed=retry_failed,
        gpus=gpus,
    )
    table = tally.table
    if not tally.interrupted:
        _print_short_tables(session, table)
    for line in leaderboard_lines(session):
        out.print(line, highlight=False)
    if tally.interrupted:
        out.print("stopped; finished runs are kept and unfinished ones have checkpoints")
        out.print(f"to go on: bench {shlex.join(sys.argv[1:])}", highlight=False)
        raise typer.Exit(130)
    lines, bad = ending_lines(session, table)
    for line in lines:
        out.print(line, highlight=False)
    if bad:
        raise typer.Exit(1)


_MOST_CONDITIONS = 60
"""Longer tables are for `bench leaderboard` and the CSV files."""


def _print_short_tables(session: Session, table: list[dict[str, Any]]) -> None:
    from bench.commands._tables import ABOUT_INTERVALS, leaderboard_tables

    out = console()
    views = leaderboard_tables(session, table)
    if sum(view.table.row_count for view in views) > _MOST_CONDITIONS:
        out.print(f"to see the tables: {session.command('leaderboard')}", highlight=False)
        return
    for view in views:
        view.show(out)
    out.print(ABOUT_INTERVALS, highlight=False)


look_cli.register(app)


@app.command(epilog=RECIPE_HELP)
def classes(
    recipe: Annotated[
        str | None, typer.Argument(help="a class recipe as YAML, {recipe: random, n: 10}")
    ] = None,
    under: Annotated[str | None, typer.Option(help="a synset: dog.n.01 or n02084071")] = None,
    rule: Annotated[
        str, typer.Option(help="first_pointer, closure or longest_path")
    ] = "first_pointer",
    dataset: Annotated[str, typer.Option(help="whose classes")] = "wordnet-shapes",
    root: Annotated[str | None, typer.Option(help="where the data set lies")] = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
    count: Annotated[bool, typer.Option("--count", help="print the number alone")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="print the WordNet tree")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="draw the tree into a file, .svg or .png", callback=as_path)
    ] = None,
) -> None:
    """List, count and draw classes: below a synset, or by any recipe of a grid."""
    from bench.commands.classes import class_lines

    lines = class_lines(
        recipe=recipe,
        under=under,
        rule=rule,
        dataset=dataset,
        root=root,
        data_root=data_root,
        cache=results / "cache",
        count=count and figure is None,
        tree=tree and figure is None,
    )
    if figure is not None:
        names = [line.split("  ")[0] for line in lines]
        lines = [pictures_cli.draw_tree({"selected": names}, figure), str(figure)]
    for line in lines:
        typer.echo(line)


@app.command()
def retrieve(
    target: Annotated[str, typer.Option(help="a selection as YAML, {dataset: …}, or a folder")],
    source: Annotated[str, typer.Option(help="the selection or folder to search")],
    out: Annotated[
        Path,
        typer.Option(help="folder for neighbours.csv and neighbours.png", callback=as_path),
    ],
    run: Annotated[
        str | None, typer.Option(help="run whose kernels describe images; else Gabor filters")
    ] = None,
    layers: Annotated[str, typer.Option(help="layers of that run's network")] = "1,2",
    k: Annotated[int, typer.Option(min=1, help="neighbours of each target image")] = 40,
    bins: Annotated[int, typer.Option(min=2, help="bins of each filter's histogram")] = 100,
    memory_mib: Annotated[int, typer.Option(min=64, help="bound on the search's memory")] = 1024,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Find the source images nearest to each target image (selective joint fine-tuning)."""
    from bench.commands.retrieve import Retrieval
    from bench.commands.retrieve import retrieve as find

    asked = Retrieval(run=run, layers=layers, k=k, bins=bins, memory_mib=memory_mib)
    for line in find(target, source, out, results=results, data_root=data_root, asked=asked):
        typer.echo(line)


data_cli.register(app)
findings_cli.register(app)
recommend_cli.register(app)
report_cli.register(app)
distance_cli.register(app)
pictures_cli.register(app)
slurm_cli.register(app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        typer.echo(f"bench {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command; an error of the user's is a message and status 2, not a traceback."""
    any_terminal()
    try:
        app()
    except BenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a file without permission: not ours to explain further
        typer.echo(f"error: {error.filename or 'files'}: {error.strerror or error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130 and isinstance(
            getattr(end.__context__, "__cause__", None), KeyboardInterrupt
        ):
            typer.echo("ended at once; the same command goes on from what is finished", err=True)
        raise
