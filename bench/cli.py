"""The `bench` command: parse, call, print; nothing else. torch is imported by workers alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import __version__, data_cli, findings_cli, slurm_cli
from bench.errors import BenchError
from bench.options import DataRoot, GridFile, Only, Results, RetryFailed, Set, console
from bench.slurm_cli import (
    Account,
    Partition,
    Qos,
    RunsPerJob,
    Slurm,
    SlurmSet,
    TimeoutMin,
    grid_on_slurm,
)

if TYPE_CHECKING:
    from bench.session import Session

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trains the whole grid of fine-tuning choices and says what works, with what certainty.",
    epilog="Exit status: 0 all done, 1 some runs failed, 2 the command or the grid is wrong.",
)


@app.command()
def grid(
    grid: GridFile,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    only: Only = None,
    set_: Set = None,
    dry_run: Annotated[bool, typer.Option(help="say what would run, and stop")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one per core")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
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
    from bench.launch.command import default_workers
    from bench.session import open_session
    from bench.views import plan_table

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
    )
    count = workers or default_workers()
    states = session.states()
    table, totals = plan_table(session, states, count)
    out.print(table)
    out.print(totals, highlight=False)
    for missing in session.missing_data:
        out.print(f"[yellow]data not found[/], so ids and 'done' are not known: {missing}")
    if not dry_run:
        _run(grid, session, count, threads, device, retry_failed)


def _run(
    path: Path, session: Session, workers: int, threads: int, device: str, retry_failed: bool
) -> None:
    from bench.launch.command import run_here

    out = console()
    tally = run_here(
        session,
        out,
        workers=workers,
        threads=threads,
        device=device,
        retry_failed=retry_failed,
    )
    if not tally.interrupted:
        _print_short_tables(session)
    store, name = session.store, session.plan.name
    out.print(f"leaderboard: {store.leaderboard(name)}", highlight=False)
    out.print(f"             {store.leaderboard(name, '-aggregated')}", highlight=False)
    if tally.interrupted:
        out.print("stopped; finished runs are kept and unfinished ones have checkpoints")
        out.print(f"to go on: bench {shlex.join(sys.argv[1:])}", highlight=False)
        raise typer.Exit(130)
    states = session.states()
    found = [states[run.id] for run in session.wanted]
    bad = sum(state in ("failed", "blocked", "missing") for state in found)
    diverged = found.count("diverged")
    if diverged:
        out.print(f"{diverged} runs diverged; that is a result and has its rows")
    if bad:
        out.print(f"{bad} runs have no result; see: bench status {path}", highlight=False)
        out.print("to try failed runs again: add --retry-failed")
        raise typer.Exit(1)
    out.print(f"all {len(found)} runs are done", highlight=False)


_MOST_CONDITIONS = 60
"""Longer tables are for `bench leaderboard` and the CSV files."""


def _print_short_tables(session: Session) -> None:
    from bench.leaderboard import rows
    from bench.views import leaderboard_tables

    out = console()
    views = leaderboard_tables(session, rows(session.plan, session.store))
    if sum(view.row_count for view in views) > _MOST_CONDITIONS:
        out.print(f"to see the tables: bench leaderboard {session.grid.path}", highlight=False)
        return
    for view in views:
        out.print(view)
        out.print()


@app.command()
def leaderboard(
    grid: GridFile,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    only: Only = None,
    set_: Set = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(help="a column, such as lr, whose best value on validation data is shown"),
    ] = None,
) -> None:
    """Print a grid's results, and write its CSV files anew from the records."""
    from bench.leaderboard import write
    from bench.session import open_session
    from bench.views import leaderboard_tables

    out = console()
    session = open_session(
        grid, results=results, data_root=data_root, only=only or (), overrides=set_ or ()
    )
    table = write(session.plan, session.store)
    for view in leaderboard_tables(session, table, choose or ()):
        out.print(view)
        out.print()
    out.print(f"rows: {session.store.leaderboard(session.plan.name)}", highlight=False)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="beginning of a run id, or part of a folder name")],
    results: Results = Path("results"),
) -> None:
    """Show one run: its record, or why there is none."""
    from bench.store import Store
    from bench.views import failure_text, run_table

    out = console()
    folders = Store(results).find(run)
    if not folders:
        raise BenchError(
            f"no run matches {run!r}", place=str(results), hint="see the run_id column"
        )
    if len(folders) > 1:
        names = "\n  ".join(folder.path.name for folder in folders[:20])
        raise BenchError(f"{len(folders)} runs match {run!r}", hint=names)
    folder = folders[0]
    record = folder.record()
    out.print(f"{folder.path}", highlight=False)
    if record is not None:
        out.print(run_table(record))
        return
    for failure in folder.failures():
        out.print(failure_text(failure), highlight=False)
    if not folder.failures():
        out.print("not done yet; run its grid again to go on")


@app.command()
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
) -> None:
    """List, count and draw classes: below a synset, or by any recipe of a grid."""
    from bench.classes import class_lines

    for line in class_lines(
        recipe=recipe,
        under=under,
        rule=rule,
        dataset=dataset,
        root=root,
        data_root=data_root,
        cache=results / "cache",
        count=count,
        tree=tree,
    ):
        typer.echo(line)


@app.command()
def retrieve(
    target: Annotated[str, typer.Option(help="a selection as YAML, {dataset: digits, …}")],
    source: Annotated[str, typer.Option(help="the selection to search")],
    out: Annotated[Path, typer.Option(help="folder for neighbours.csv and neighbours.png")],
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
    from bench.retrieve_command import Retrieval
    from bench.retrieve_command import retrieve as find

    asked = Retrieval(run=run, layers=layers, k=k, bins=bins, memory_mib=memory_mib)
    for line in find(target, source, out, results=results, data_root=data_root, asked=asked):
        typer.echo(line)


data_cli.register(app)
findings_cli.register(app)
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
    try:
        app()
    except BenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("ended at once; the same command goes on from what is finished", err=True)
        sys.exit(130)
