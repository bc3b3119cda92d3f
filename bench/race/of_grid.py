"""Any grid as a race within a time: successive halving over its recipes (Jamieson, Talwalkar 2016).

Each recipe of one target trains for a share of its epochs, without its test images; the half that
does better on validation images goes on with twice as many. So does what it starts from, where that
is trained on the target too. The one that is left is run as the grid has it, with all its seeds and
its test images. The rungs are grids like any other, so what is finished is not run again, and
`bench grid --budget none` runs the rest.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.core.errors import BenchError
from bench.core.files import write_atomic, write_csv
from bench.core.text import counted, duration, some
from bench.grid.expand import Experiment
from bench.launch.devices import Machine, Placement
from bench.launch.local.run import Tally, gpus_of, run_here
from bench.methods import METHODS
from bench.planning.decoding import measure_decoding
from bench.planning.forecast import Forecast, measure
from bench.planning.plan import make_plan
from bench.planning.workspace import FactFinder, Session
from bench.race.budget import Budget
from bench.results.conditions import Settings, is_repetition, task_id
from bench.results.history import validated
from bench.results.store import RunFolder
from bench.specs.planned import PlannedRun
from bench.specs.run import FromRun, RunSpec

_SMALLEST_SHARE = 1 / 64


@dataclass(frozen=True)
class Recipe:
    """A condition of the grid.

    Attributes:
        words: the settings that it does not share with all others.
        runs: of the grid: its repetitions, the first of which races.
    """

    words: str
    runs: tuple[PlannedRun, ...]

    def raced(self, share: float) -> RunSpec:
        """Its first run for a share of the epochs, untested."""
        spec = self.runs[0].spec
        return shortened(spec, share, task_id(spec))


def shortened(spec: RunSpec, share: float, task: str) -> RunSpec:
    """A run of which all stages on one task have a share of their epochs, untested.

    Args:
        spec: the run, with those that it starts from.
        share: of the epochs.
        task: its target's, see `task_id`.
    """
    changed: dict[str, Any] = {}
    parent = None if spec.parent is None else shortened(spec.parent, share, task)
    if parent is not spec.parent:
        changed["init"] = FromRun.model_construct(kind="run", run=parent)
    if task_id(spec) == task:
        changed["data"] = spec.data.model_copy(update={"tested": False})
        if METHODS[spec.method.name].kind == "steps":
            train = spec.train
            epochs = max(1, math.ceil(train.warmup_epochs), math.ceil(share * train.epochs))
            fewer = {"epochs": epochs, "evaluate_every": min(train.evaluate_every, epochs)}
            changed["train"] = train.model_copy(update=fewer)
    return spec.model_copy(update=changed) if changed else spec


@dataclass(frozen=True)
class Place:
    """How far a recipe came: a line of the table.

    Attributes:
        recipe: its words.
        rung: the last that it was judged in; None where it was in none.
        epochs: of that rung.
        val_top1_accuracy, val_loss: there, a fraction and nats; None where it was in none.
        end: chosen, dropped after a rung, failed, or given up as the time was over.
    """

    recipe: str
    rung: int | None = None
    epochs: int | None = None
    val_top1_accuracy: float | None = None
    val_loss: float | None = None
    end: str = ""


@dataclass
class GridRace:
    """A race over the recipes of a grid.

    Attributes:
        session: the grid, with the experiments that were asked for.
        budget: the time for everything; what earlier commands spent on the same recipes is added.
        machine, where: on what it computes.
        console: where progress is shown.
        shares: of the epochs in each rung; None before they are planned.
    """

    session: Session
    budget: Budget
    machine: Machine
    where: Placement
    console: Console
    recipes: list[Recipe] = field(init=False)
    shares: list[float] | None = None
    places: dict[str, Place] = field(default_factory=dict)
    _chosen: str = ""

    def __post_init__(self) -> None:
        self.recipes = _recipes(self.session)
        self.places = {recipe.words: Place(recipe.words) for recipe in self.recipes}
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            if state["recipes"] == self._ids:  # else the grid has changed since
                self.budget.earlier_s = float(state["spent_s"])
                self.shares = [float(share) for share in state["shares"]]
                self._chosen = str(state.get("chosen", ""))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError):
            raise BenchError(
                f"{self.state} cannot be read", hint="delete it to begin the race anew"
            ) from None

    @property
    def state(self) -> Path:
        """What is spent and planned; beside the leaderboard."""
        return race_state(self.session)

    @property
    def _ids(self) -> list[str]:
        """What the race is about: the run of each recipe that races."""
        return [recipe.runs[0].id for recipe in self.recipes]

    @property
    def table(self) -> Path:
        """The course of the race as CSV."""
        return self.session.leaderboard("-race")

    def _keep(self) -> None:
        spent_s = round(self.budget.spent_s, 1)
        state = {
            "spent_s": spent_s,
            "shares": self.shares,
            "recipes": self._ids,
            "chosen": self._chosen,
        }
        write_atomic(self.state, json.dumps(state, indent=1))

    # --- the whole ---

    def plan(self) -> list[str]:
        """The rungs that fit the time, in words.

        Raises:
            BenchError: none do.
        """
        sizes, forecast = _halvings(len(self.recipes)), self._forecast()
        last_s = self._runs_s(forecast, self.recipes, None) / len(self.recipes)
        if self.shares is None:
            self.shares = self._fitting(sizes, forecast, last_s)
        lines = []
        for number, (size, share) in enumerate(zip(sizes, self.shares, strict=True), 1):
            seconds = self._runs_s(forecast, self.recipes, share) * size / len(self.recipes)
            text = f"rung {number}: {counted(size, 'recipe')}, {100 * share:.3g} % of the epochs"
            lines.append(f"{text}, about {duration(seconds)}")
        lines.append(f"then the one that is left, as the grid has it, about {duration(last_s)}")
        return lines

    def run(self) -> Recipe | None:
        """Runs the race; the recipe that won, None where the time was over before its runs.

        Raises:
            BenchError: all recipes failed, or there is no time for any.
            KeyboardInterrupt: it was interrupted; the same command goes on.
        """
        for line in self.plan():
            self._say(line)
        self._keep()
        last_s = self._runs_s(self._forecast(), self.recipes, None) / len(self.recipes)
        left = self.recipes
        for number, share in enumerate(self.shares or (), 1):
            found = self._rung(number, share, left, last_s)
            if not found:
                self._say(f"rung {number} has no result: the order before it stands")
                break
            left = found[: math.ceil(len(found) / 2)]
            for recipe in found[len(left) :]:
                self._end(recipe, f"dropped after rung {number}")
        winner = left[0]
        for recipe in left[1:]:
            self._end(recipe, "behind the winner")
        self._say(f"as the grid has it: {winner.words}")
        ids = frozenset(run.id for run in winner.runs)
        tally = self._launch(replace(self.session, chosen=ids), 0.0)
        self._end(winner, "chosen")
        self._chosen = winner.words
        self._keep()
        write_csv(self.table, [vars(place) for place in self.places.values()])
        if tally.stopped:
            self._say(
                "  the time was over before its end; a longer budget, or --budget none, goes on"
            )
            return None
        self._say(f"  {self.tested(winner)}")
        return winner

    def finished(self) -> Recipe | None:
        """The recipe that an earlier command chose, where all of its runs are there."""
        states = self.session.states()
        for recipe in self.recipes:
            if recipe.words == self._chosen:
                done = all(states[run.id] in ("done", "diverged") for run in recipe.runs)
                return recipe if done else None
        return None

    def tested(self, recipe: Recipe) -> str:
        """The accuracies of a recipe's runs on test images, in words."""
        rows = [_row(self.session.store.folder(run.id, run.spec)) for run in recipe.runs]
        shares = [f"{100 * row['top1_accuracy']:.1f}" for row in rows if row.get("top1_accuracy")]
        images = rows[0].get("test_images") or 0
        return f"{', '.join(shares) or 'none'} % of {counted(images, 'test image')}"

    def _rung(
        self, number: int, share: float, recipes: Sequence[Recipe], reserve_s: float
    ) -> list[Recipe]:
        """Runs a rung; the recipes that have a result, the best on validation images first."""
        self._say(f"rung {number}: {counted(len(recipes), 'recipe')}")
        specs = {recipe.words: recipe.raced(share) for recipe in recipes}
        session = self._session(number, list(specs.values()))
        self._launch(session, reserve_s)
        states = session.states()
        by_spec = {run.spec: run for run in session.plan.runs.values()}
        found = []
        for recipe in recipes:
            run = by_spec[specs[recipe.words]]
            value = validated(session.store.folder(run.id, run.spec))
            if value is None:
                failed = states[run.id] in ("failed", "blocked")
                end = "failed" if failed else "given up, as the time was over"
                self._end(recipe, end)
                self._say(f"  {recipe.words}: {end}")
                continue
            epochs = run.spec.train.epochs
            self.places[recipe.words] = Place(
                recipe.words, number, epochs, value.accuracy, value.loss
            )
            found.append((-value.accuracy, value.loss, recipe.words, recipe))
        ids = [by_spec[spec].id for spec in specs.values()]
        if all(states[run_id] in ("failed", "blocked") for run_id in ids):
            raise BenchError(
                f"all recipes of rung {number} failed",
                place=str(self.session.grid.path),
                hint=f"bench show {ids[0][:12]} prints why the first did",
            )
        best = [recipe for *_, recipe in sorted(found, key=lambda one: one[:3])]
        shown = [
            f"{r.words} {100 * (self.places[r.words].val_top1_accuracy or 0):.1f} %" for r in best
        ]
        self._say(f"  on validation images: {some(shown, 3)}")
        return best

    def _end(self, recipe: Recipe, end: str) -> None:
        self.places[recipe.words] = replace(self.places[recipe.words], end=end)

    def _session(self, number: int, specs: Sequence[RunSpec]) -> Session:
        """A rung as a grid of its own, in the same results folder."""
        session, name = self.session, f"rung-{number}"
        one = Experiment(name, "", tuple(specs), str(session.grid.path))
        grid = replace(session.grid, experiments=(one,), measures=())
        plan = make_plan(grid, FactFinder(session.data_root, session.store.cache))
        board = f"{session.board or session.plan.name}-{name}"
        rung = Session(grid, plan, session.store, session.data_root, board=board)
        return replace(rung, tensorboard=session.tensorboard)

    def _launch(self, session: Session, reserve_s: float) -> Tally:
        kept_at = self.budget.clock()

        def is_over() -> bool:
            nonlocal kept_at
            if self.budget.clock() - kept_at > 5:
                kept_at = self.budget.clock()
                self._keep()
            return self.budget.left_s < reserve_s

        tally = run_here(
            session,
            self.console,
            self.machine,
            self.where,
            retry_failed=False,
            forecast=self._forecast(session),
            is_over=is_over,
        )
        self._keep()
        if tally.interrupted:
            raise KeyboardInterrupt
        return tally

    # --- what it takes ---

    def _forecast(self, session: Session | None = None) -> Forecast:
        runs = (session or self.session).wanted
        found = measure(runs, threads=self.machine.threads, device=self.machine.device)
        return replace(found, gpus=gpus_of(self.where))

    def _decoding_s(self) -> float:
        session = self.session
        places = {"data_root": session.data_root, "cache_dir": session.store.cache}
        found = measure_decoding(session.wanted, **places)  # type: ignore[arg-type]
        return found.seconds(session.wanted, self.where.workers)

    def _runs_s(self, forecast: Forecast, recipes: Sequence[Recipe], share: float | None) -> float:
        """Wall-clock seconds of a rung of these recipes; with None of all their runs."""
        runs = {
            stage.id: stage
            for recipe in recipes
            for run in (recipe.runs if share is None else recipe.runs[:1])
            for stage in self._stages(run)
        }
        if share is not None:
            raced = {key: shortened(run.spec, share, self._task) for key, run in runs.items()}
            runs = {key: replace(run, spec=raced[key]) for key, run in runs.items()}
        return forecast.of_all(list(runs.values()), self.where.workers)

    @functools.cached_property
    def _task(self) -> str:
        return task_id(self.recipes[0].runs[0].spec)

    def _stages(self, run: PlannedRun) -> list[PlannedRun]:
        """What it starts from, as far as that is trained on the target, and the run itself."""
        chain = [run]
        while chain[-1].parent_id is not None:
            chain.append(self.session.plan.runs[chain[-1].parent_id])
        return [stage for stage in reversed(chain) if task_id(stage.spec) == self._task]

    def _fitting(self, sizes: Sequence[int], forecast: Forecast, last_s: float) -> list[float]:
        """The share of the epochs in each rung: the largest that fit the time."""
        states, many = self.session.states(), len(self.recipes)
        sources = [
            run
            for run in self.session.wanted
            if run.role == "source" and states[run.id] != "done" and task_id(run.spec) != self._task
        ]
        sources_s = forecast.of_all(sources, self.where.workers) if sources else 0.0
        sources_s += self._decoding_s()
        scale, left_s = 0.5, self.budget.left_s
        while True:
            shares = [scale / 2**i for i in reversed(range(len(sizes)))]
            needed_s = (
                sources_s
                + last_s
                + sum(
                    self._runs_s(forecast, self.recipes, share) * size / many
                    for size, share in zip(sizes, shares, strict=True)
                )
            )
            if needed_s <= left_s:
                return shares
            scale /= 2
            if scale < _SMALLEST_SHARE:
                raise BenchError(
                    f"a race of {counted(many, 'recipe')} takes at least "
                    f"{duration(needed_s)} here, and the budget leaves {duration(max(0, left_s))}",
                    place=_place(self.session),
                    hint="a longer budget, or fewer recipes by --only or --set",
                )

    def _say(self, text: str) -> None:
        self.console.print(f"{duration(self.budget.spent_s):>12}  {text}", highlight=False)


def race_state(session: Session) -> Path:
    """The file in which a race of a grid keeps what it has decided."""
    return session.leaderboard("-race").with_suffix(".json")


def _row(folder: RunFolder) -> Mapping[str, Any]:
    """A run's line of the leaderboard; empty without a result."""
    record = folder.record()
    return {} if record is None else record["row"]


def _recipes(session: Session) -> list[Recipe]:
    """The conditions of a grid, in its order.

    Raises:
        BenchError: they have several targets, no validation images, or runs that have all their
            epochs in any rung.
    """
    settings, place = Settings(), _place(session)
    groups: dict[str, list[PlannedRun]] = {}
    for run in session.wanted:
        if run.role == "finetune":
            groups.setdefault(settings.condition(run.spec), []).append(run)
    tasks = {settings.task(run.spec) for runs in groups.values() for run in runs}
    if len(tasks) != 1:
        raise BenchError(
            f"a race compares the recipes of one target, and there are {len(tasks)}",
            place=place,
            hint="choose one by --only EXPERIMENT or --set target.…; bench grid --decide CLAIM "
            "--budget TIME asks a question over several; --budget none runs the whole grid",
        )
    if len(groups) > 1:
        _check_epochs([runs[0] for runs in groups.values()], place)
    found = {key: settings.of(runs[0].spec) for key, runs in groups.items()}
    names = dict.fromkeys(name for values in found.values() for name in values)
    unlike = [n for n in names if len({str(values.get(n)) for values in found.values()}) > 1]
    recipes = []
    for key, runs in groups.items():
        data = runs[0].spec.data
        if data.val_from == "extra" and not data.val_per_class:
            raise BenchError(
                "a race chooses on validation images, and a recipe has none",
                place=place,
                hint="set target.val_per_class, or target.val_from: budget",
            )
        recipes.append(
            Recipe(_words(found[key], unlike), tuple(runs[: _seeds(session, len(runs))]))
        )
    return recipes


def _check_epochs(runs: Sequence[PlannedRun], place: str) -> None:
    """Refuses means of weights: the runs that they read would keep all their epochs in each rung.

    Raises:
        BenchError: a recipe is one.
    """
    task = task_id(runs[0].spec)
    for run in runs:
        for spec in (run.spec, *run.spec.ancestors()):
            name = spec.method.name
            if METHODS[name].kind != "weights" or task_id(spec) != task:
                continue
            has = "has" if spec is run.spec else "starts from a run that has"
            raise BenchError(
                f"experiment {run.experiments[0]} {has} method: {name}, which averages finished "
                "runs: in a race these would train for all their epochs, and other recipes for a "
                "share of theirs",
                place=place,
                hint="--budget none runs the whole grid; or race other experiments by --only",
            )


def _place(session: Session) -> str:
    """Where the grid says that it races, or its file."""
    return session.grid.race_place if session.grid.race else str(session.grid.path)


def _seeds(session: Session, runs: int) -> int:
    """How many of a recipe's runs the one that is left is run with.

    Raises:
        BenchError: the grid asks for more than it has.
    """
    asked = session.grid.race.seeds if session.grid.race else None
    if asked is not None and asked > runs:
        raise BenchError(
            f"race.seeds is {asked}, and a recipe has {counted(runs, 'run')}",
            place=_place(session),
            hint=f"write {runs} or less, or add values to the axis seed:",
        )
    return runs if asked is None else asked


def _words(values: Mapping[str, object], unlike: Sequence[str]) -> str:
    shown = [name for name in unlike if name in values and not is_repetition(name)]
    return ", ".join(f"{name} {values[name]}" for name in shown) or "the only recipe"


def _halvings(recipes: int) -> list[int]:
    """Recipes in each rung: until one is left.

    >>> _halvings(6), _halvings(1)
    ([6, 3, 2], [])
    """
    sizes = []
    while recipes > 1:
        sizes.append(recipes)
        recipes = math.ceil(recipes / 2)
    return sizes
