"""`bench grid` on this machine: find what is missing, run it, keep the user informed."""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bench.core import processor
from bench.core.errors import BenchError
from bench.core.text import duration, printable
from bench.launch.devices import Machine, Placement, confirmed, context_of
from bench.launch.local.pool import Pool
from bench.launch.preflight import check_before
from bench.planning.decoding import measure_decoding
from bench.planning.forecast import Forecast, Gpus, measure
from bench.planning.plan import Batch, batches
from bench.planning.workspace import Session
from bench.results import leaderboard
from bench.results.states import to_do
from bench.runs.distributed import check_gpus
from bench.specs.planned import PlannedRun

_FAILURES_SHOWN = 5

_FORECAST_COUNTS = 0.15
"""The share of all work like which the forecast counts, once runs have ended."""


@dataclass
class Tally:
    """What became of the runs of one command.

    Attributes:
        failures: run id and message of each.
        table: the leaderboard's rows.
        interrupted: by the user.
        stopped: runs that the time was over for: (epochs trained, epochs of the run) by id.
    """

    done: int = 0
    diverged: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    stopped: dict[str, tuple[int, int]] = field(default_factory=dict)


def run_here(
    session: Session,
    console: Console,
    machine: Machine,
    where: Placement,
    *,
    retry_failed: bool,
    forecast: Forecast | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Tally:
    """Runs what is missing of a grid with local workers; writes the leaderboards at the end.

    Args:
        forecast: what the runs cost; None measures it.
        is_over: once true, the runs that are not finished are stopped, see `Pool`.

    Ctrl-C asks the workers to write a checkpoint and ends; the same command continues. Runs that
    others start from are trained by `machine.gpus` processes each, see `bench.runs.distributed`.

    Raises:
        BenchError: what is to be done cannot start on this machine; nothing was run.
    """
    states = session.states()
    chosen = to_do(states, retry_failed)
    todo = [run for run in session.wanted if run.id in chosen]
    tally = Tally()
    if todo:
        sources = ((run.spec, run.facts) for run in todo if run.role == "source")
        check_gpus(sources, machine.gpus, str(session.grid.path))
        with _polite_interrupt() as interrupt:
            say = functools.partial(console.print, highlight=False)
            where = confirmed(where, machine, say)
            environment = check_before(todo, machine.device, say, machine.gpus)
            if forecast is None:
                forecast = forecast_here(session, machine, where, retry_failed=retry_failed)
            cost = {run.id: forecast.seconds(run) or 10.0 for run in session.plan.runs.values()}
            display = _Display(console, session, todo, cost, tally, where.workers)
            pool = Pool(
                session.plan,
                session.store,
                context_of(session, machine),
                where,
                display.on_event,
                environment,
                is_over,
            )
            bad = {"diverged", "damaged"} | (set() if retry_failed else {"failed", "blocked"})
            with display:
                interrupt.asks(pool, display)
                _run_all(pool, _pieces(todo, cost, machine, where), states, bad, session)
        over = pool.over_at is not None
        tally.interrupted = pool.stopping and not over
        tally.stopped = {key: display.at.get(key, (0, 0)) for key in display.left} if over else {}
    tally.table = leaderboard.write(session.plan, session.store, session.board, session.records)
    return tally


def _run_all(
    pool: Pool,
    pieces: list[Batch],
    states: Mapping[str, str],
    bad: set[str],
    session: Session,
) -> None:
    """Runs the pool; what is finished is in the leaderboards also where no GPU is left."""
    try:
        pool.run(
            pieces,
            usable=[key for key, state in states.items() if state == "done"],
            unusable=[key for key, state in states.items() if state in bad],
        )
    except BenchError:
        leaderboard.write(session.plan, session.store, session.board, session.records)
        raise


def forecast_here(
    session: Session, machine: Machine, where: Placement, *, retry_failed: bool = False
) -> Forecast:
    """The forecast for what a command is to run on this machine; measures what is not known."""
    todo = to_do(session.states(), retry_failed)
    left = [run for run in session.wanted if run.id in todo]
    if not left:
        return Forecast({})
    found = measure(left, threads=machine.threads, device=machine.device)
    decoding = measure_decoding(left, data_root=session.data_root, cache_dir=session.store.cache)
    readings = session.records.read()
    done = [(session.plan.runs[key], reading) for key, reading in readings.items()]
    found = replace(found, decoding=decoding, gpus=gpus_of(where))
    return found.corrected(done, machine.threads)


def emulated_here(
    session: Session, machine: Machine, where: Placement, *, retry_failed: bool = False
) -> list[str]:
    """What is said before runs whose precision, as it is asked for, this machine emulates."""
    asked = [run for run in session.wanted if run.spec.train.precision == "bfloat16"]
    todo = to_do(session.states(), retry_failed) if asked else ()
    asked = [run for run in asked if run.id in todo]
    if not asked:
        return []
    found = measure(asked, threads=machine.threads, device=machine.device)
    times_as_long = {model: f"{factor:.1f}" for model, factor in found.emulated().items()}
    if not where.cards and not processor.has_bfloat16():
        for run in asked:  # what could not be measured
            times_as_long.setdefault(run.spec.model.name, "several")
    return [
        f"this device has no bfloat16; a step of {model} takes {factor} times as long as in "
        f"float32{'' if factor == 'several' else ', as measured here'}; precision: auto avoids that"
        for model, factor in sorted(times_as_long.items())
    ]


def gpus_of(where: Placement) -> Gpus:
    """The GPUs of a command, as its forecast counts them."""
    cards, most = len(where.cards), where.most or 0
    sharing = math.ceil(max(most, where.workers) / cards) if cards else 1
    return Gpus(cards, where.team, most, 1 if where.team > 1 else max(1, sharing))


def _pieces(
    todo: list[PlannedRun], cost: Mapping[str, float], machine: Machine, where: Placement
) -> list[Batch]:
    """Batches, sources and what takes longest first; runs that several GPUs train by themselves."""
    workers = where.most or where.workers
    limit_s = max(5.0, sum(cost[run.id] for run in todo) / workers / 8)
    ordered = sorted(todo, key=lambda run: (run.role != "source", -cost[run.id]))
    groups = [ordered]
    if machine.gpus > 1:
        groups = [[r for r in ordered if (r.role == "source") == kind] for kind in (True, False)]
    return [
        piece
        for runs in groups
        for piece in batches(runs, cost_s=lambda run: cost[run.id], limit_s=limit_s)
    ]


class _polite_interrupt:  # noqa: N801 -- a context manager, used like a function
    """First Ctrl-C or SIGTERM asks the pool to stop; a second Ctrl-C ends at once.

    Before there is a pool the first ends at once. It is remembered, so that the pool does not begin
    where the exception came in a finaliser, which Python goes on after. SIGTERM may come twice of
    one request: a cluster's job hands it on to its command, which had it from the cluster too.
    """

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.display: _Display | None = None
        self.previous: dict[int, Any] = {}
        self.asked: set[int] = set()

    def __enter__(self) -> _polite_interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._handle)
        return self

    def asks(self, pool: Pool, display: _Display) -> None:
        """From now on a signal asks this pool, and at once where one has come already."""
        self.pool, self.display = pool, display
        if self.asked:
            pool.stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and number in self.asked:
            return
        self.asked.add(number)
        if self.pool is None or self.display is None or self.pool.stopping:
            raise KeyboardInterrupt
        self.pool.stop()
        again = "; once more to end at once" if number == signal.SIGINT else ""
        with contextlib.suppress(RuntimeError):  # the signal came while a line was written
            self.display.say(f"stopping after the present step{again}", "yellow")

    def __exit__(self, *_: object) -> None:
        if signal.SIGTERM in self.asked:  # the command ends now, and it may come once more
            self.previous[signal.SIGTERM] = signal.SIG_IGN
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class _Display:
    """Progress with time left on a terminal, plain lines in a log."""

    def __init__(
        self,
        console: Console,
        session: Session,
        todo: list[PlannedRun],
        cost: Mapping[str, float],
        tally: Tally,
        workers: int,
    ) -> None:
        self.console, self.session, self.tally = console, session, tally
        self.cost, self.workers = cost, workers
        self.left = {run.id for run in todo}
        self.waited: set[str] = set()
        self.total = sum(cost[run.id] for run in todo)
        self.begun = time.monotonic()
        self.first_start: float | None = None
        self.at: dict[str, tuple[int, int]] = {}
        self.said_at = 0.0
        self.count = len(todo)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[now]}", style="dim", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("runs", total=len(todo), left="", now="starting")

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str, style: str | None = None) -> None:
        self.progress.console.print(text, style=style)

    def on_event(self, event: Mapping[str, Any]) -> None:
        kind, run_id = event["event"], str(event.get("id"))
        if kind == "started":
            self.first_start = self.first_start or time.monotonic()
            self._now(f"{self._name(run_id)}")
        elif kind == "epoch":
            self.at[run_id] = (event["epoch"], event["epochs"])
            accuracy = event.get("val_top1_accuracy")
            shown = f" val {100 * accuracy:.1f} %" if accuracy is not None else ""
            self._now(f"{self._name(run_id)} epoch {event['epoch']}/{event['epochs']}{shown}")
        elif kind == "worker_died":
            self.say(f"a worker {event['message']}; trying its run again", "yellow")
        elif kind == "gpu_lost":
            self.say(str(event["message"]), "yellow")
        elif kind == "note":
            self.say(f"{self._name(run_id)}: {event['message']}")
        elif kind == "ended":
            self._ended(run_id, event)

    def _ended(self, run_id: str, event: Mapping[str, Any]) -> None:
        status = event["status"]
        if status == "elsewhere" and run_id not in self.waited:
            self.waited.add(run_id)
            who = event.get("message") or "another process"
            self.say(f"{self._name(run_id)} is being run by {who}; waiting for it")
        if status in ("elsewhere", "stopped") or run_id not in self.left:
            return
        self.left.discard(run_id)
        self.at.pop(run_id, None)
        self.tally.done += status in ("done", "already")
        self.tally.diverged += status == "diverged"
        if status == "failed":
            self.tally.failures.append((run_id, str(event.get("message", ""))))
            if len(self.tally.failures) <= _FAILURES_SHOWN:
                text = " ".join(str(event.get("message", "")).split())[:300]
                self.say(f"failed {self._name(run_id)}: {text}", "red")
        self.progress.update(
            self.task, completed=self.count - len(self.left), left=self._time_left()
        )
        if not self.console.is_terminal and time.monotonic() - self.said_at > 15:
            self.said_at = time.monotonic()
            done = self.count - len(self.left)
            left = self._time_left()
            self.console.print(f"{done} of {self.count} runs" + (f", {left}" if left else ""))

    def _time_left(self) -> str:
        seconds = self._seconds_left()
        return "" if seconds is None else f"{duration(seconds)} left"

    def _seconds_left(self) -> float | None:
        """From the share of the forecast work that is done; None before there is some.

        The forecast counts like `_FORECAST_COUNTS` of the work: the first run ends while others
        have shown nothing of theirs, and libraries are loaded before it.
        """
        if self.first_start is None:
            return None
        parts = {key: done / epochs for key, (done, epochs) in self.at.items()}
        left = sum(self.cost[key] * (1 - parts.get(key, 0.0)) for key in self.left)
        worked = time.monotonic() - self.first_start
        done = self.total - left
        if worked < 2 or done <= 0:
            return None
        expected = _FORECAST_COUNTS * self.total
        return left * (worked + expected / self.workers) / (done + expected)

    def _now(self, text: str) -> None:
        self.progress.update(self.task, now=printable(text), left=self._time_left())

    def _name(self, run_id: str) -> str:
        run = self.session.plan.runs[run_id]
        return self.session.store.folder(run_id, run.spec).path.name[:-24]
