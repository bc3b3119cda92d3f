"""The commands that have to do with a cluster, as functions that typer reads.

`register` adds `status`, `logs`, `cancel` and `resume` to the application; the options of
`bench grid` that begin with `--slurm` are declared here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from bench.commands._options import GridChoice, Results, RetryFailed, console, grouped, say
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from bench.planning.workspace import Session


@dataclass(frozen=True)
class SubmitOptions:
    """The options of a submission, laid over the grid's `slurm:` section."""

    slurm_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="laid over the slurm: section; may be repeated"),
    ] = None
    slurm_partition: Annotated[str | None, typer.Option(help="partition of all jobs")] = None
    slurm_account: Annotated[str | None, typer.Option(help="account of all jobs")] = None
    slurm_qos: Annotated[str | None, typer.Option(help="quality of service of all jobs")] = None
    slurm_timeout_min: Annotated[
        str | None, typer.Option(help="minutes that each job may take, or sbatch's 2:00:00")
    ] = None
    slurm_runs_per_job: Annotated[
        int | None, typer.Option(min=1, help="runs in one job; default: ten minutes of work")
    ] = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return any(getattr(self, field.name) not in (None, []) for field in fields(self))

    def overrides(self, **more: Any) -> list[tuple[str, Any]]:
        """As (key, value) of the section, with `more` of its keys."""
        from bench.commands._slurm import slurm_overrides

        named = {f.name.removeprefix("slurm_"): getattr(self, f.name) for f in fields(self)}
        return slurm_overrides(named.pop("set"), **more, **named)


def submit(
    session: Session,
    options: SubmitOptions,
    retry_failed: bool,
    budget: str | None,
    set_: Sequence[str] = (),
    **settings: Any,
) -> NoReturn:
    """Does what `bench grid --slurm` does; ends the command with its exit status.

    Args:
        session: with a results folder that is absolute.
        budget: of a race of the grid, which is then one job; None submits its runs.
        set_: as given to the command.
        settings: keys of the `slurm:` section; None leaves one as it is.
    """
    from bench.commands._slurm import race_grid, submit_grid

    session.try_networks()
    overrides = options.overrides(**settings)
    if budget is not None:
        raise typer.Exit(race_grid(session, budget, console(), overrides))
    raise typer.Exit(
        submit_grid(session, console(), overrides, set_=set_, retry_failed=retry_failed)
    )


@grouped
def resume(
    chosen: GridChoice, *, retry_failed: RetryFailed = False, options: SubmitOptions
) -> None:
    """Go on with a grid on the cluster: submit what is neither done nor in the queue.

    A grid whose newest job was a race is raced on.
    """
    from bench.commands._slurm import budget_to_resume

    session = _open(chosen, "writable")
    budget = budget_to_resume(session)
    if retry_failed and budget is not None:
        raise BenchError(
            "--retry-failed is for a whole grid: a race goes on without recipes that failed",
            hint=f"leave it out; {session.command('grid', '--slurm', '--budget', 'none')} "
            "--retry-failed runs the whole grid",
        )
    submit(session, options, retry_failed, budget, chosen.set_ or ())


@grouped
def status(
    chosen: GridChoice,
    watch: Annotated[bool, typer.Option("--watch", help="again until the queue is empty")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    every: Annotated[float, typer.Option(min=1.0, help="seconds between updates")] = 10.0,
) -> None:
    """Show how a grid stands: done, running, pending, failed, blocked, missing; and why.

    Where the grid's images are not there, the states are those of its leaderboard.
    """
    from bench.commands._slurm import show_status, show_written_status
    from bench.commands._summary import open_or_written

    session, written = open_or_written(replace(chosen, results=chosen.results.resolve()))
    if written:
        show_written_status(session, console(), written, as_json=as_json)
    else:
        show_status(session, console(), watch=watch, as_json=as_json, every_s=every)


@grouped
def cancel(chosen: GridChoice) -> None:
    """Cancel a grid's jobs; finished runs stay, and `bench resume` goes on."""
    from bench.commands._slurm import cancel_grid

    # The whole grid is opened, so that sources which other experiments need are known.
    session = _open(replace(chosen, only=None))
    raise typer.Exit(cancel_grid(session, console(), chosen.only or ()))


def logs(
    run: Annotated[str, typer.Argument(help="beginning of a run id, or part of a folder name")],
    results: Results = Path("results"),
    lines: Annotated[int, typer.Option(min=1, help="lines from the end")] = 200,
) -> None:
    """Show the log of a run from its newest job on the cluster, and why it failed last."""
    from bench.commands._slurm import logs_text

    say(logs_text(run, results, lines))


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    for command in (status, resume, cancel, logs):
        app.command()(command)


def _open(chosen: GridChoice, folder: Literal["existing", "writable"] = "existing") -> Session:
    return replace(chosen, results=chosen.results.resolve()).open(folder)
