"""`bench grid`: run what is missing of a grid, here or on a cluster."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import (
    DataRoot,
    GridFile,
    Only,
    Results,
    RetryFailed,
    Set,
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

if TYPE_CHECKING:
    from bench.launch.devices import Placement
    from bench.planning.workspace import Session


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


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(grid)
