"""`bench grid --decide`: tasks are added look by look, for questions that are open."""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import Examined, examine
from analysis.findings.looks import LookRow, looks_file, read_looks, write_looks
from analysis.findings.questions import (
    FUTILE,
    MEASURED,
    Standing,
    find_questions,
    needed_measures,
    recipes_of,
    standings,
)
from analysis.leaderboard.of_grid import grid_board
from analysis.measurements import beside
from analysis.measurements.tables import evidence, measurements
from analysis.statistics.decisions import Rules
from analysis.statistics.sample_size import MOST_REPETITIONS
from analysis.statistics.sequential import LEAST_TASKS, Looks, looks_at
from bench.core.errors import BenchError
from bench.core.text import counted, duration, listed, p_value, some
from bench.launch.devices import Machine, Placement
from bench.launch.local.run import forecast_here, run_here
from bench.planning.decoding import measure_decoding
from bench.planning.workspace import Session
from bench.results.conditions import task_id
from bench.results.leaderboard import describe
from bench.results.states import to_do
from bench.specs.measures import Measure
from bench.specs.planned import PlannedRun


class Launcher(Protocol):
    """Where the runs of a look are run.

    Attributes:
        retry_failed: whether failed runs are run again.
        stopped: what is shown where it was interrupted.
    """

    @property
    def retry_failed(self) -> bool: ...

    @property
    def stopped(self) -> str: ...

    def seconds(self, session: Session, todo: Sequence[PlannedRun]) -> float:
        """Wall-clock seconds of these runs, by the forecast."""

    def run(self, session: Session) -> Sequence[tuple[str, str]]:
        """Runs what is wanted of a session; the ids of those that failed, each with the reason.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """


@dataclass(frozen=True)
class Here:
    """This machine."""

    console: Console
    machine: Machine
    where: Placement
    retry_failed: bool
    stopped: ClassVar[str] = "stopped before the look; finished runs are kept"

    def seconds(self, session: Session, todo: Sequence[PlannedRun]) -> float:
        """Of these runs with all workers busy."""
        forecast = forecast_here(session, self.machine, self.where, retry_failed=self.retry_failed)
        workers, cache = self.where.workers, session.store.cache
        decoding = measure_decoding(todo, data_root=session.data_root, cache_dir=cache)
        return forecast.of_all(todo, workers) + decoding.seconds(todo, workers)

    def run(self, session: Session) -> list[tuple[str, str]]:
        """Runs what is wanted with local workers."""
        tally = run_here(
            session, self.console, self.machine, self.where, retry_failed=self.retry_failed
        )
        if tally.interrupted:
            raise KeyboardInterrupt
        return tally.failures


@dataclass(frozen=True)
class Next:
    """What the next look has for a question.

    Attributes:
        standing: how it stands.
        recipes: that are run further; None: all, as before the first look.
        runs: ids of those without a result.
        seconds: that they take, by the forecast.
    """

    standing: Standing
    recipes: frozenset[str] | None
    runs: frozenset[str]
    seconds: float

    @property
    def worth(self) -> float:
        """Chance of a verdict per second."""
        return (self.standing.chance or 1.0) / max(self.seconds, 1e-9)


@dataclass
class Decider:
    """A grid that is run look by look.

    Attributes:
        session: the grid, with the experiments that were asked for.
        asked: the questions, as written.
        budget_s: seconds from `begun`; None: no end.
        launcher: where it is run.
        console: where it is shown.
    """

    session: Session
    asked: Sequence[str]
    budget_s: float | None
    launcher: Launcher
    console: Console
    begun: float = field(default_factory=time.monotonic)
    _tried: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        wanted = {run.id for run in self.session.wanted}
        described = describe(self.session.plan)
        plan = self.session.plan
        self._task_ids = {
            task_id(plan.runs[key].spec): r["task_id"] for key, r in described.items()
        }
        self.runs: Mapping[str, Mapping[str, Any]] = {
            key: row for key, row in described.items() if key in wanted and row["role"] != "source"
        }
        # Ids of tasks are digests, so that their order has nothing to do with what they hold.
        self.tasks = sorted({str(row["task_id"]) for row in self.runs.values()})
        self.path = looks_file(self.session.leaderboard())
        recorded, self.rows = read_looks(self.path)
        many = len(self.tasks)
        same = recorded is not None and recorded.sizes[-1] == many
        self.looks = recorded if recorded is not None and same else looks_at(many)
        self._check(recorded)
        self.look = max((row.look for row in self.rows), default=0)
        self.questions = find_questions(self.asked, self._board())
        asked = {measure.name for measure, _ in self.session.plan.measures}
        place = str(self.session.grid.path)
        self.measured = needed_measures(self.questions, asked, place)

    def _check(self, recorded: Looks | None) -> None:
        """Refuses a grid that cannot be looked at several times."""
        place, many = str(self.session.grid.path), len(self.tasks)
        if len(self.looks.sizes) < 2:
            raise BenchError(
                f"--decide adds tasks look by look, and this grid has {counted(many, 'task')}",
                place=place,
                hint="four tasks are the fewest and ten say more: add class draws "
                "(class_draw: [0, 1, …]) or targets; or leave --decide out",
            )
        if recorded is not None and recorded != self.looks:
            raise BenchError(
                f"{self.path} has looks after {listed(recorded.sizes, 10)} tasks, and the grid has "
                f"{many} tasks now, to be looked at after {listed(self.looks.sizes, 10)}",
                place=place,
                hint="looks are fixed before the first run: take the grid's tasks as they were "
                "(--only included), or take another --results for the longer grid",
            )
        if recorded is None:
            later = set(self.tasks[self.looks.sizes[0] :])
            states = self.session.states()
            seen = [
                key
                for key, row in self.runs.items()
                if row["task_id"] in later and states[key] in ("done", "diverged")
            ]
            if seen:
                raise BenchError(
                    f"{self.session.leaderboard()} has {counted(len(seen), 'run')} of tasks after "
                    f"the first look ({self.looks.sizes[0]} of {many} tasks) already, made without "
                    "looks: what they show has been seen, so that no look is the first",
                    place=place,
                    hint=f"{self.session.command('grid')} runs the rest, and bench findings judges "
                    "all of it at once; or take another --results",
                )

    # --- one look ---

    def _board(self) -> pd.DataFrame:
        return grid_board(self.session.plan, self.session.store, str(self.session.grid.path))

    def _evidence(self, *, save: bool) -> Evidence:
        """What the look has seen: its tasks alone.

        Runs of later tasks may be finished, where the next look was interrupted.

        Args:
            save: what is measured is written beside the leaderboard, where it is of all tasks that
                have features; else it would replace a table of more.
        """
        board, seen = self._board(), self.tasks[: self.looks.sizes[self.look - 1]]
        board = board[(board["role"] == "source") | board["task_id"].isin(seen)]
        measures = tuple(self._measures(seen))
        plan = replace(self.session.plan, measures=measures)
        measured = measurements(plan, self.session.store)
        if save and measures and self._are_all(measures):
            for line in beside.save(measured, self.session.leaderboard()):
                self._say(line)
        return replace(evidence(board, measured), rules=Rules(looks=self.looks))

    def _are_all(self, measures: Sequence[tuple[Measure, tuple[str, ...]]]) -> bool:
        """Whether these have every finished extraction of the grid, as `bench findings` has."""
        every = {key for _, ids in self.session.plan.measures for key in ids}
        taken = {key for _, ids in measures for key in ids}
        return not (every - taken) & self.session.records.read().keys()

    def _measures(self, tasks: Collection[str]) -> Iterator[tuple[Measure, tuple[str, ...]]]:
        """The grid's measurements, of some tasks alone, each with its extractions' ids."""
        for measure, ids in self.session.plan.measures:
            both = [
                (part, key)
                for part, key in zip(measure.parts, ids, strict=True)
                if self._task_ids[part.task.task_id] in tasks
            ]
            if both:
                parts, keys = zip(*both, strict=True)
                yield replace(measure, parts=parts), keys

    def run(self) -> None:
        """Looks until every question is closed or the budget is spent."""
        while True:
            if self.look == 0:
                waiting = [self._first()]
                self._record(waiting, [Standing(name, "open", "") for name in self.questions])
            else:
                found, examined, seen = self._judge(save=True)
                waiting = self._ordered(found, examined, seen)
                self._record(waiting, found)
                self._show(found)
                if not waiting:
                    return
            chosen = self._within_budget(waiting)
            if not chosen and any(one.runs for one in waiting):
                return
            ids = frozenset().union(*(one.runs for one in chosen))
            if not ids and self.look == len(self.looks.sizes):
                return
            if ids:
                self._launch(ids)
            self.look = min(self.look + 1, len(self.looks.sizes))

    def _judge(self, *, save: bool) -> tuple[list[Standing], Examined, Evidence]:
        """How each question stands; what an earlier look decided stays decided."""
        seen = self._evidence(save=save)
        examined = examine(seen)
        decided = {
            (row.question, row.tested): row
            for row in self.rows
            if row.state == "decided" and row.look < self.look
        }
        found = []
        for one in standings(self.questions, examined, seen.rules):
            row = decided.get((one.question, one.tested))
            if row is not None and one.state != "decided":
                one = replace(one, state="decided", verdict=row.verdict)
            found.append(one)
        return found, examined, seen

    @property
    def _size(self) -> int:
        """Tasks at the next look."""
        return self.looks.sizes[min(self.look, len(self.looks.sizes) - 1)]

    def _first(self) -> Next:
        return self._next(Standing("all", "open", ""), None)

    def _next(self, standing: Standing, recipes: frozenset[str] | None) -> Next:
        tasks, todo = set(self.tasks[: self._size]), self._todo
        ids = frozenset(
            key
            for key, row in self.runs.items()
            if key in todo
            and row["task_id"] in tasks
            and (recipes is None or row["recipe_id"] in recipes)
        )
        if recipes is None or MEASURED.get(standing.question) in self.measured:
            ids |= self._extractions(tasks) & todo
        if not ids:
            return Next(standing, recipes, ids, 0.0)
        session = replace(self.session, chosen=ids)
        left = [run for run in session.wanted if run.id in todo]
        return Next(standing, recipes, ids, self.launcher.seconds(session, left))

    def _extractions(self, tasks: Collection[str]) -> set[str]:
        """Extractions of features of some tasks, on which a question rests."""
        wanted = {run.id for run in self.session.wanted}
        return wanted & {
            key
            for measure, ids in self._measures(tasks)
            if measure.name in self.measured
            for key in ids
        }

    @property
    def _todo(self) -> set[str]:
        """Runs without a result; what this command has tried is not tried once more, nor what
        starts from a run that has failed in it."""
        states = self.session.states()
        failed = (key for key in self._tried if states[key] == "failed")
        left = to_do(states, self.launcher.retry_failed) - self._tried
        return left - self.session.plan.descendants(failed).keys()

    def _ordered(self, found: Sequence[Standing], examined: Examined, seen: Evidence) -> list[Next]:
        """Open questions with their runs, the most likely verdict per second first."""
        nexts = [
            self._next(one, recipes_of(one, examined, seen)) for one in found if one.state == "open"
        ]
        return sorted(nexts, key=lambda one: (-one.worth, one.standing.name))

    def _within_budget(self, waiting: Sequence[Next]) -> list[Next]:
        """Those that the rest of the budget has room for; the others are shown with their time."""
        if self.budget_s is None:
            return list(waiting)
        left = self.budget_s - (time.monotonic() - self.begun)
        chosen: list[Next] = []
        for one in waiting:
            if one.seconds <= left:
                chosen.append(one)
                left -= one.seconds
            elif one.recipes is None:
                self._say(
                    f"the first look takes {duration(one.seconds)} by the forecast, and the budget "
                    f"has {duration(max(left, 0))} left: give a longer --budget, or fewer "
                    "experiments (--only)"
                )
            else:
                self._say(
                    f"no time for {one.standing.name}: its next look takes "
                    f"{duration(one.seconds)}, and the budget has {duration(max(left, 0))} left; "
                    f"the same command goes on"
                )
        return chosen

    def _launch(self, ids: Collection[str]) -> None:
        number, of = min(self.look + 1, len(self.looks.sizes)), len(self.looks.sizes)
        self._say(
            f"look {number} of {of}: {counted(len(ids), 'run')} on the first {self._size} of "
            f"{len(self.tasks)} tasks"
        )
        chosen = replace(self.session, chosen=frozenset(ids))
        try:
            failures = self.launcher.run(chosen)
        except KeyboardInterrupt:
            self._say(self.launcher.stopped)
            self._say(f"to go on: bench {shlex.join(sys.argv[1:])}")
            raise typer.Exit(130) from None
        self._tried |= {run.id for run in chosen.wanted}
        self.session = replace(self.session)  # records are read anew
        if failures:
            texts = [f"{key[:12]}: {' '.join(text.split())[:120]}" for key, text in failures]
            self._say(
                f"{counted(len(texts), 'run')} failed, and the look goes without: {some(texts, 3)}"
            )

    # --- what is written down and shown ---

    def _record(self, waiting: Sequence[Next], found: Sequence[Standing]) -> None:
        """Writes the look's rows; those of the same look and question are replaced."""
        order = {one.standing.name: (n, one) for n, one in enumerate(waiting, 1)}
        new = []
        for one in found:
            place, own = order.get(one.name, (None, None))
            new.append(
                LookRow(
                    looks=";".join(map(str, self.looks.sizes)),
                    look=self.look,
                    question=one.question,
                    tested=one.tested,
                    state=one.state,
                    verdict=one.verdict,
                    tasks=one.tasks,
                    effect=one.effect,
                    low=one.low,
                    high=one.high,
                    unit=one.unit,
                    p=one.p,
                    chance=one.chance,
                    tasks_wanted=one.wanted,
                    order=place,
                    recipes=";".join(sorted((own.recipes if own else None) or ())),
                    runs=len(own.runs) if own else 0,
                )
            )
        keys = {(row.look, row.question, row.tested) for row in new}
        old = [row for row in self.rows if (row.look, row.question, row.tested) not in keys]
        self.rows = sorted([*old, *new], key=lambda row: row.look)
        write_looks(self.path, self.rows)

    def _show(self, found: Sequence[Standing]) -> None:
        size = self.looks.sizes[self.look - 1]
        view = Table(
            *("question", "verdict", "effect, interval", "tasks", "p", "what follows"),
            title=f"look {self.look} of {len(self.looks.sizes)}: {size} of {len(self.tasks)} tasks",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for one in found:
            cells = [one.name, one.verdict, _effect(one), str(one.tasks or "–"), p_value(one.p)]
            view.add_row(*cells, _follows(one))
        self.console.print(view)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def show_plan(self) -> None:
        """What a dry run prints: the looks, and the runs of the next one."""
        if self.look:
            found, examined, seen = self._judge(save=False)
            self._show(found)
            waiting = self._ordered(found, examined, seen)
        else:
            waiting = [self._first()]
        sizes = listed(self.looks.sizes, 10)
        self._say(f"looks after {sizes} of {len(self.tasks)} tasks, fixed before the first run")
        for one in waiting:
            name = "" if one.recipes is None else f" for {one.standing.name}"
            self._say(
                f"the next look has {counted(len(one.runs), 'run')}{name}, "
                f"{duration(one.seconds)} by the forecast"
            )


def _effect(one: Standing) -> str:
    if one.effect is None:
        return "–"
    ends = "" if one.low is None or one.high is None else f" ({one.low:+.3g} to {one.high:+.3g})"
    return f"{one.effect:+.3g}{ends} {one.unit}"


def _follows(one: Standing) -> str:
    """What becomes of the question at the next look."""
    if one.state == "decided":
        return "decided"
    if one.state == "untested":
        return f"has parts that cannot be tested on these runs: {one.needed}"
    if one.state == "open" and one.tasks < LEAST_TASKS:
        return f"open: fewer than {LEAST_TASKS} tasks so far"
    if one.state == "open":
        return f"open: {100 * (one.chance or 0):.0f} % chance of a verdict"
    if one.wanted is None:
        return f"stopped: below {100 * FUTILE:.0f} % chance of a verdict"
    if one.wanted > MOST_REPETITIONS:
        return f"stopped: over {MOST_REPETITIONS} tasks would decide it"
    return f"stopped: about {one.wanted} tasks would decide it"


def decide_grid(decider: Decider, dry_run: bool) -> None:
    """Runs a grid look by look, or shows what the next look has."""
    if dry_run:
        decider.show_plan()
        return
    decider.run()
    say = functools.partial(decider.console.print, highlight=False)
    say(f"looks: {decider.path}")
    say(f"all claims and comparisons: {decider.session.command('findings')}")
