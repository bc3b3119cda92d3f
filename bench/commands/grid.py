"""`bench grid`: run what is missing of a grid, here or on a cluster."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import GridChoice, RetryFailed, Tensorboard, console, grouped, marked
from bench.commands.slurm import SubmitOptions, submit
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from bench.commands._decide import Launcher
    from bench.launch.devices import Machine, Placement
    from bench.planning.forecast import Forecast
    from bench.planning.workspace import Session
    from bench.race.budget import Budget


NO_BUDGET = "none"
"""What `--budget` takes for no end."""


@dataclass(frozen=True)
class MachineOptions:
    """On what a command computes."""

    workers: Annotated[int | None, typer.Option(min=1, help="processes; one per GPU, or core")] = (
        None
    )
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process")] = 1
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto"
    gpus: Annotated[
        int, typer.Option(min=1, help="GPUs that train each source together; one run at a time")
    ] = 1
    workers_per_gpu: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="processes that share a GPU; auto: as many as memory has room for, once a run of "
            "each kind was measured",
        ),
    ] = "1"


@dataclass(frozen=True)
class LookOptions:
    """Which questions a grid is run for, look by look."""

    decide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLAIM|COMPARISON",
            help="add tasks look by look while this is open: a claim such as LI-C4, or a "
            "comparison such as 'near - far, tuned'; may be repeated",
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            help="time for everything, such as 30m or 2h: recipes of one target race, halved rung "
            "by rung on validation images; none runs the whole grid in spite of its race: section; "
            "with --decide looks are added while there is time"
        ),
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """What is run, and what is shown of it."""

    dry_run: Annotated[bool, typer.Option(help="show what would run, and stop")] = False
    retry_failed: RetryFailed = False
    accept_problems: Annotated[
        bool, typer.Option(help="run although bench data check finds problems in your images")
    ] = False
    tensorboard: Tensorboard = False


@grouped
def grid(
    chosen: GridChoice,
    *,
    how: RunOptions,
    machine: MachineOptions,
    slurm: Annotated[
        bool,
        typer.Option(
            "--slurm", help="submit to the SLURM cluster, and return; with --decide wait for looks"
        ),
    ] = False,
    submission: SubmitOptions,
    questions: LookOptions,
) -> None:
    """Run what is missing of a grid and write its leaderboards."""
    begun = time.monotonic()
    _check(how, machine, slurm, submission)
    _check_looks(questions)
    dry_run = how.dry_run
    if slurm:  # jobs find it from wherever they begin
        chosen = replace(chosen, results=chosen.results.resolve())
    session = chosen.open("any" if dry_run else "writable", allow_missing=dry_run)
    if not how.accept_problems:
        (_foresee if dry_run else _check_images)(session)
    if how.tensorboard and not dry_run:
        session = _with_event_files(session)
    budget = _budget(questions, session, how.retry_failed)
    settings = {
        "threads": machine.threads if machine.threads != 1 else None,
        "device": machine.device if machine.device != "auto" else None,
        "tensorboard": how.tensorboard or None,
    }
    overrides = submission.overrides(**settings) if slurm else []
    if slurm and dry_run:
        from bench.commands._slurm import show_remarks

        race = budget is not None and not questions.decide
        show_remarks(session, console(), overrides, race=race)
    if slurm and questions.decide:
        from bench.commands._slurm import Waves

        waves = Waves(overrides, chosen.set_ or (), how.retry_failed, console())
        _decide(session, questions.decide, _time(budget, begun), waves, dry_run)
        return
    if slurm and not dry_run:
        submit(session, submission, how.retry_failed, budget, chosen.set_ or (), **settings)
    _run_here(session, how, machine, questions, _time(budget, begun), slurm=slurm)


def _time(budget: str | None, begun: float) -> Budget | None:
    from bench.race.budget import Budget, parse_budget

    return None if budget is None else Budget(parse_budget(budget), begun=begun)


def _run_here(
    session: Session,
    how: RunOptions,
    machine: MachineOptions,
    questions: LookOptions,
    time_: Budget | None,
    *,
    slurm: bool,
) -> None:
    """Runs the grid on this machine: look by look, as a race, or all of it.

    With `slurm` it is a dry run, and what this machine computes in does not matter.
    """
    from bench.launch.devices import Machine, placement
    from bench.launch.local.run import emulated_here, forecast_here
    from bench.launch.sharing import parse_workers_per_gpu

    here = Machine(machine.device, machine.threads, machine.gpus)
    where = placement(machine.workers, here, parse_workers_per_gpu(machine.workers_per_gpu))
    if not session.missing_data:
        session.try_networks()
    emulated = [] if slurm else emulated_here(session, here, where, retry_failed=how.retry_failed)
    for text in emulated:
        console().print(marked("precision", "yellow", f": {text}"))
    if questions.decide:
        from bench.commands._decide import Here

        launcher = Here(console(), here, where, how.retry_failed)
        _decide(session, questions.decide, time_, launcher, how.dry_run)
        return
    if time_ is not None:
        _race(session, time_, here, where, how.dry_run)
        return
    forecast = forecast_here(session, here, where, retry_failed=how.retry_failed)
    _print_plan(session, where, forecast, how.retry_failed)
    if slurm:
        console().print("No job was submitted. A time is this machine's, not that of the jobs.")
    if not how.dry_run:
        _run(session, here, where, how.retry_failed, forecast)


def _decide(
    session: Session, asked: list[str], time_: Budget | None, launcher: Launcher, dry_run: bool
) -> None:
    from bench.commands._decide import Decider, decide_grid

    if not session.missing_data:
        session.try_networks()
    budget_s = None if time_ is None else time_.total_s
    decide_grid(Decider(session, asked, budget_s, launcher, console()), dry_run)


def _with_event_files(session: Session) -> Session:
    """The grid whose runs write event files; those that have ended get theirs."""
    from bench.exports.tensorboard import write_missing

    write_missing(session.store.folder(run.id, run.spec) for run in session.wanted)
    return replace(session, tensorboard=True)


def _check_images(session: Session) -> None:
    from bench.planning.images import check_images

    for note in check_images(session):
        console().print(marked("note", "yellow", f" {note}"))


def _foresee(session: Session) -> None:
    """Shows what of the images a run would refuse."""
    from bench.planning.images import foreseen

    refused, notes = foreseen(session)
    for line in refused:
        console().print(marked("problem", "red", f" {line}"))
    for note in notes:
        console().print(marked("note", "yellow", f" {note}"))


def _check(
    how: RunOptions, machine: MachineOptions, slurm: bool, submission: SubmitOptions
) -> None:
    if how.tensorboard:
        from bench.exports.tensorboard import check_tensorboard

        check_tensorboard()
    if machine.device not in ("auto", "cpu", "cuda"):
        raise BenchError(f"--device {machine.device!r} is not known", hint="one of auto, cpu, cuda")
    if slurm and machine.workers is not None:
        raise BenchError(
            "--workers is for this machine",
            hint="with --slurm use --slurm-set max_jobs=N; for a race --slurm-set cpus_per_task=N",
        )
    others = {
        "--slurm": slurm,
        "--workers": machine.workers is not None,
        "--gpus": machine.gpus > 1,
    }
    for other in (name for name, given in others.items() if given):
        if machine.workers_per_gpu != "1":
            raise BenchError(
                f"--workers-per-gpu and {other} exclude each other",
                hint="--workers-per-gpu is for this machine's GPUs, each of which trains runs of "
                "its own; leave one of the two out",
            )
    if slurm and machine.gpus > 1:
        raise BenchError(
            "--gpus is for this machine",
            hint=f"with --slurm use --slurm-set source.gpus={machine.gpus}",
        )
    if submission.given and not slurm:
        raise BenchError("--slurm-… options are for --slurm", hint="add --slurm, or leave them out")


def _check_looks(questions: LookOptions) -> None:
    from bench.race.budget import parse_budget

    if questions.budget not in (None, NO_BUDGET):
        parse_budget(questions.budget)


def _budget(questions: LookOptions, session: Session, retry_failed: bool) -> str | None:
    """The time of the command: that of `--budget`, else of the grid's `race:`; None: no end.

    Raises:
        BenchError: a race is to run failed runs again.
    """
    text, race = questions.budget, session.grid.race
    if text is None and race is not None and not questions.decide:
        text = race.budget
        out = f"{session.grid.race_place}: its recipes race, within {text}; "
        console().print(f"{out}--budget {NO_BUDGET} runs the whole grid", highlight=False)
    if retry_failed and text not in (None, NO_BUDGET) and not questions.decide:
        raise BenchError(
            "--retry-failed is for a whole grid: a race goes on without recipes that failed",
            hint=f"--budget {NO_BUDGET} --retry-failed runs the whole grid; or leave it out",
        )
    return None if text == NO_BUDGET else text


def _race(
    session: Session, budget: Budget, machine: Machine, where: Placement, dry_run: bool
) -> None:
    from bench.commands._summary import leaderboard_lines
    from bench.core.text import duration
    from bench.race.of_grid import GridRace

    out = console()
    race = GridRace(session, budget, machine, where, out)
    if dry_run:
        out.print("\n".join(race.plan()), highlight=False)
        return
    try:
        race.run()
    except KeyboardInterrupt:
        out.print("stopped; finished runs are kept")
        out.print(f"to go on: bench {shlex.join(sys.argv[1:])}", highlight=False)
        raise typer.Exit(130) from None
    out.print("\n".join([f"the race: {race.table}", *leaderboard_lines(session)]), highlight=False)
    out.print(f"{duration(budget.spent_s)} of {duration(budget.total_s)}", highlight=False)


def _print_plan(session: Session, where: Placement, forecast: Forecast, retry_failed: bool) -> None:
    from bench.commands._summary import missing_lines
    from bench.commands._tables import plan_table
    from bench.core.text import counted

    out = console()
    states = session.states()
    table, totals = plan_table(session, states, where.workers, forecast, retry_failed=retry_failed)
    out.print(table)
    out.print(totals, highlight=False)
    if where.cards:
        out.print(f"GPUs, one for each worker in turn: {', '.join(where.cards)}", highlight=False)
    if where.most is not None:
        text = f"up to {where.most} workers, once runs are seen to leave memory for them"
        out.print(text, highlight=False)
    for line in missing_lines(session.missing_data):
        text = f", so ids and 'done' are not known: {line}"
        out.print(marked("data not found", "yellow", text))
    failed = sum(states[run.id] == "failed" for run in session.wanted)
    if failed and not retry_failed:
        out.print(
            f"{counted(failed, 'run has', 'runs have')} failed: add --retry-failed to try again"
        )


def _run(
    session: Session, machine: Machine, where: Placement, retry_failed: bool, forecast: Forecast
) -> None:
    from bench.commands._summary import ending_lines, leaderboard_lines
    from bench.launch.local.run import run_here

    out = console()
    tally = run_here(session, out, machine, where, retry_failed=retry_failed, forecast=forecast)
    table = tally.table
    if not tally.interrupted:
        _print_short_tables(session, table)
    out.print("\n".join(leaderboard_lines(session)), highlight=False)
    if tally.interrupted:
        out.print("stopped; finished runs are kept and unfinished ones have checkpoints")
        out.print(f"to go on: bench {shlex.join(sys.argv[1:])}", highlight=False)
        raise typer.Exit(130)
    lines, bad = ending_lines(session)
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
