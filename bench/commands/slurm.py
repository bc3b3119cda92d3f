"""The commands that have to do with a cluster, as functions that typer reads.

`register` adds `status`, `logs`, `cancel` and `resume` to the application; the options of
`bench grid` that begin with `--slurm` are declared here too, for `bench.commands.app` to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.commands._options import DataRoot, GridFile, Only, Results, RetryFailed, Set, console

Slurm = Annotated[bool, typer.Option("--slurm", help="submit to the SLURM cluster, and return")]
SlurmSet = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="laid over the slurm: section; may be repeated"),
]
Partition = Annotated[str | None, typer.Option(help="partition of all jobs")]
Account = Annotated[str | None, typer.Option(help="account of all jobs")]
Qos = Annotated[str | None, typer.Option(help="quality of service of all jobs")]
TimeoutMin = Annotated[int | None, typer.Option(min=1, help="minutes that each job may take")]
RunsPerJob = Annotated[
    int | None, typer.Option(min=1, help="runs in one job; default: ten minutes of work")
]


def grid_on_slurm(
    grid: Path,
    *,
    results: Path,
    data_root: Path | None,
    only: Sequence[str] | None,
    set_: Sequence[str] | None,
    retry_failed: bool,
    slurm_set: Sequence[str] | None,
    **common: Any,
) -> None:
    """What `bench grid --slurm` does; ends the command with its exit status.

    Args:
        common: `slurm_partition=`, `slurm_account=` and so on: keys of the section, prefixed.
    """
    from bench.commands._slurm import slurm_overrides, submit_grid

    session = _open(grid, results, data_root, only, set_, folder="writable")
    session.try_networks()
    named = {key.removeprefix("slurm_"): value for key, value in common.items()}
    overrides = slurm_overrides(slurm_set, **named)
    code = submit_grid(
        session,
        console(),
        overrides,
        only=only or (),
        set_=set_ or (),
        retry_failed=retry_failed,
    )
    raise typer.Exit(code)


def resume(
    grid: GridFile,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    only: Only = None,
    set_: Set = None,
    retry_failed: RetryFailed = False,
    slurm_set: SlurmSet = None,
    slurm_partition: Partition = None,
    slurm_account: Account = None,
    slurm_qos: Qos = None,
    slurm_timeout_min: TimeoutMin = None,
    slurm_runs_per_job: RunsPerJob = None,
) -> None:
    """Go on with a grid on the cluster: submit what is neither done nor in the queue."""
    grid_on_slurm(
        grid,
        results=results,
        data_root=data_root,
        only=only,
        set_=set_,
        retry_failed=retry_failed,
        slurm_set=slurm_set,
        slurm_partition=slurm_partition,
        slurm_account=slurm_account,
        slurm_qos=slurm_qos,
        slurm_timeout_min=slurm_timeout_min,
        slurm_runs_per_job=slurm_runs_per_job,
    )


def status(
    grid: GridFile,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    only: Only = None,
    set_: Set = None,
    watch: Annotated[bool, typer.Option("--watch", help="again until the queue is empty")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    every: Annotated[float, typer.Option(min=1.0, help="seconds between looks of --watch")] = 10.0,
) -> None:
    """Say how a grid stands: done, running, pending, failed, blocked, missing; and why."""
    from bench.commands._slurm import show_status

    session = _open(grid, results, data_root, only, set_)
    show_status(session, console(), watch=watch, as_json=as_json, every_s=every)


def cancel(
    grid: GridFile,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    only: Only = None,
    set_: Set = None,
) -> None:
    """Take a grid's jobs off the cluster; what is finished stays, and resume goes on."""
    from bench.commands._slurm import cancel_grid

    # The whole grid is opened, so that sources which other experiments need are known.
    session = _open(grid, results, data_root, None, set_)
    raise typer.Exit(cancel_grid(session, console(), only or ()))


def logs(
    run: Annotated[str, typer.Argument(help="beginning of a run id, or part of a folder name")],
    results: Results = Path("results"),
    lines: Annotated[int, typer.Option(min=1, help="lines from the end")] = 200,
) -> None:
    """Show what a run said in its newest job on the cluster."""
    from bench.commands._slurm import logs_text

    typer.echo(logs_text(run, results, lines))


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    for command in (status, resume, cancel, logs):
        app.command()(command)


def _open(
    grid: Path,
    results: Path,
    data_root: Path | None,
    only: Sequence[str] | None,
    set_: Sequence[str] | None,
    folder: Literal["existing", "writable"] = "existing",
) -> Any:
    from bench.planning.workspace import open_session

    return open_session(
        grid,
        results=results.resolve(),
        data_root=data_root,
        only=only or (),
        overrides=set_ or (),
        folder=folder,
    )
