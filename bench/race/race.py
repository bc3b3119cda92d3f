"""The race itself: each stage is an experiment of one grid file, run as `bench grid` would run it.

The file lies in the results folder and grows by a stage at a time; what is finished is not run
again, so the same command goes on after an interruption, and `bench grid FILE` repeats everything.
Every choice is made on validation images. The winner is trained anew on training and validation
images together, over several seeds; the model is the first seed's, whatever the test says.
"""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from bench.core.errors import BenchError
from bench.core.files import write_atomic
from bench.core.text import counted, duration
from bench.launch.devices import Machine, context_of, placement
from bench.launch.local.run import run_here
from bench.planning.workspace import Session, open_session
from bench.race.arms import SCRATCH, Arm, Trunk, floor_arms, tuned_arms
from bench.race.labels import Labels, look_at_labels
from bench.race.photographs import VALIDATION_SHARE, Photographs
from bench.race.schedule import FLOOR_SHARE, RACE_SHARE, Rung, alone, cost, rungs
from bench.race.speed import training_rates
from bench.results.store import RunFolder
from bench.runs.build import Context

SMALLER = (1.0, 160 / 224, 128 / 224, 96 / 224)
"""Image sizes that are tried, as shares of the weights' own; the largest that leaves a race."""

_WISHED_EPOCHS = 24.0
"""Epochs of single arms that a race should have time for, before images are made smaller."""

_WISHED_ALONE = 2.0
"""The same where there is time for one recipe alone."""

_FORWARD = 4.0
"""Images that a network classifies in the time in which it trains on one, at least."""

_MOST_SEEDS = 5
_RECIPE = {
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
    "augment": "crop_flip",
}


@dataclass(frozen=True)
class Stage:
    """An experiment for each of some arms.

    Attributes:
        name: `floor`, `rung-1` …, `final`, `scratch`.
        arms: names of the arms.
        epochs: the time of each, in epochs of a recipe that trains all layers; 0 where nothing is
            trained by steps.
        size: side of the images.
        seeds: how many.
        on_all: trains on validation images too, without choosing anything.
    """

    name: str
    arms: tuple[str, ...]
    epochs: int
    size: int
    seeds: int
    on_all: bool = False


@dataclass(frozen=True)
class Plan:
    """The side of the images in the race, and its rungs."""

    size: int
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class Standing:
    """An arm with what its validation images say, mean over its draws.

    Attributes:
        arm: the recipe.
        stage: of which stage.
        accuracy: top-1, a fraction.
        loss: cross-entropy in nats, which decides between equals.
    """

    arm: Arm
    stage: Stage
    accuracy: float
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """What sorts the best first."""
        return -self.accuracy, self.loss


@dataclass(frozen=True, eq=False)
class Result:
    """What a race found.

    Attributes:
        session: the grid in the end.
        standings: of all arms in their last rungs, best first; the first is the winner.
        final: folders of the winner's runs on all labels, by seed; the first is the model's.
        floor: the run of the better frozen arm on all labels, and its words.
        scratch: the run from random weights; None where there was no time.
        labels: what features say of the labels; None where a class has too few images.
        seconds: that the command took.
    """

    session: Session
    standings: Sequence[Standing]
    final: Sequence[RunFolder]
    floor: tuple[RunFolder, str]
    scratch: RunFolder | None
    labels: Labels | None
    seconds: float


@dataclass
class Race:
    """A race over one folder of photographs.

    Attributes:
        name: of the grid and of the model.
        photographs: the images.
        trunk: the weights to start from.
        results: where the grid file, the runs and the model lie.
        budget_s: seconds, from `begun`.
        machine, workers: on what it computes.
        console: where progress is shown.
        data_root: see `open_session`.
        clock: seconds that count; `begun` is its time at the start.
        start_s: seconds that starting the workers of a stage, and a run, takes beside its training.
    """

    name: str
    photographs: Photographs
    trunk: Trunk
    results: Path
    budget_s: float
    machine: Machine
    workers: int | None
    console: Console
    data_root: Path | None = None
    clock: Callable[[], float] = time.monotonic
    start_s: float = 12.0
    begun: float = field(init=False)
    stages: list[Stage] = field(default_factory=list)
    _past: dict[str, Stage] = field(default_factory=dict)
    _plan: Plan | None = None
    _is_done: bool = False

    def __post_init__(self) -> None:
        self.begun = self.clock()

    # --- time ---

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - (self.clock() - self.begun)

    # --- the grid file ---

    @property
    def path(self) -> Path:
        """The grid file."""
        return self.results / "finetune" / f"{self.name}.yaml"

    def _arms(self) -> dict[str, Arm]:
        arms = [*floor_arms(self.trunk), *tuned_arms(self.trunk), SCRATCH]
        return {arm.name: arm for arm in arms}

    def _grid(self) -> dict[str, Any]:
        arms = self._arms()
        experiments = {
            f"{stage.name}-{name}": self._experiment(stage, arms[name])
            for stage in self.stages
            for name in stage.arms
        }
        return {
            "name": self.name,
            "about": f"a race of recipes on {self.photographs.target['root']}",
            "defaults": {
                "target": dict(self.photographs.target),
                "model": self.trunk.model,
                "weights": self.trunk.weights,
                "train": {**_RECIPE, "batch_size": self._batch},
            },
            "experiments": experiments,
        }

    @property
    def _batch(self) -> int:
        return 16 if self.photographs.train < 1000 else 32

    def _experiment(self, stage: Stage, arm: Arm) -> dict[str, Any]:
        size = stage.size
        cell = dict(arm.cell) | {
            "target.image_size": size,
            "target.resize": round(size / self.trunk.crop),
        }
        if stage.epochs:
            epochs = arm.epochs(stage.epochs)
            cell |= {"train.epochs": epochs, "train.select": "last"}
            cell["train.evaluate_every"] = epochs
        if stage.on_all:
            cell |= {"target.val_from": "extra", "target.val_per_class": 0}
        return {"about": arm.words, "set": cell, "axes": {"seed": list(range(stage.seeds))}}

    # --- what an interrupted command had decided ---

    @property
    def _state(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def _of(self) -> dict[str, Any]:
        """What the race is about; another one must have another name."""
        return {"target": dict(self.photographs.target), "trunk": asdict(self.trunk)}

    def recall(self) -> int:
        """Takes up what an earlier command of this name has decided; how many stages.

        Raises:
            BenchError: it was about other images or weights.
        """
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            stages = [Stage(**{**one, "arms": tuple(one["arms"])}) for one in state["stages"]]
            plan = state["plan"]
            if plan is not None:
                plan = Plan(plan["size"], tuple(Rung(**rung) for rung in plan["rungs"]))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise BenchError(
                f"{self._state} cannot be read", hint="delete it to begin the race anew"
            ) from None
        if state.get("of") != self._of:
            raise BenchError(
                f"a race of the name {self.name!r} on other images or weights lies in {self.path}",
                hint="give this one another --name, or another --results",
            )
        gone = sorted({name for stage in stages for name in stage.arms} - self._arms().keys())
        if gone:
            raise BenchError(
                f"{self._state} names the recipe {gone[0]!r}, which there is no more",
                hint="give this race another --name, or delete the file to begin it anew",
            )
        self._past = {stage.name: stage for stage in stages}
        self._plan, self._is_done = plan, bool(state.get("done"))
        return len(self._past)

    def _keep(self, *, done: bool = False) -> None:
        """Writes down what has been decided."""
        decided = self._past | {stage.name: stage for stage in self.stages}
        state = {
            "of": self._of,
            "plan": None if self._plan is None else asdict(self._plan),
            "stages": [asdict(stage) for stage in decided.values()],
            "done": done or self._is_done,
        }
        write_atomic(self._state, json.dumps(state, indent=1))

    def _decided(self, stage: Stage) -> Stage:
        """The stage as it was decided before, if it was."""
        return self._past.get(stage.name, stage)

    # --- stages ---

    def _run(self, stage: Stage) -> Session:
        """Runs what is missing of a stage.

        Raises:
            BenchError: a run failed.
        """
        self.stages.append(stage)
        grid = yaml.safe_dump(self._grid(), sort_keys=False, allow_unicode=True)
        write_atomic(self.path, grid)
        self._keep()
        session = self._open(stage)
        where = placement(self.workers, self.machine)
        tally = run_here(session, self.console, self.machine, where, retry_failed=True)
        if tally.interrupted:
            raise KeyboardInterrupt
        if tally.failures:
            raise BenchError(
                f"{counted(len(tally.failures), 'run')} of {stage.name} failed: "
                f"{tally.failures[0][1]}",
                hint=f"bench logs {tally.failures[0][0][:12]} --results {self.results} has more",
            )
        return session

    def _open(self, stage: Stage | None) -> Session:
        only = [f"{stage.name}-{arm}" for arm in stage.arms] if stage else []
        return open_session(
            self.path,
            results=self.results,
            data_root=self.data_root,
            only=only,
            folder="writable",
        )

    def _folders(self, session: Session, stage: Stage, arm: str) -> list[RunFolder]:
        """The runs of an arm, by seed."""
        wanted = [
            run
            for run in session.plan.runs.values()
            if f"{stage.name}-{arm}" in run.experiments and run.role != "source"
        ]
        wanted.sort(key=lambda run: run.spec.seeds.order)
        return [session.store.folder(run.id, run.spec) for run in wanted]

    def _standings(self, session: Session, stage: Stage) -> list[Standing]:
        """The arms of a stage, the best first; a run that diverged counts as chance.

        All stages are judged on the same draws of validation images.
        """
        arms, found = self._arms(), []
        for name in stage.arms:
            folders = self._folders(session, stage, name)[: self._seeds]
            pairs = [_validated(folder) for folder in folders]
            accuracy, loss = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
            found.append(Standing(arms[name], stage, accuracy, loss))
        return sorted(found, key=lambda standing: standing.order)

    # --- the whole ---

    def run(self) -> Result:
        """Runs the race to its end.

        Raises:
            BenchError: nothing can be trained, or a run failed.
            KeyboardInterrupt: it was interrupted; the same command goes on.
        """
        rates = self._rates()
        size = self._size(rates) if self._plan is None else self._plan.size
        epoch_s = self._epoch_s(rates[size])
        frozen = tuple(arm.name for arm in floor_arms(self.trunk))
        side = self._floor_size(rates)
        floor = self._decided(Stage("floor", frozen, 0, side, self.photographs.draws))
        self._say(f"floor: classifiers on features at {floor.size} pixels")
        best = self._standings(self._run(floor), floor)
        self._say_standings(best)
        seeds = self._seeds
        if self._plan is None:
            self._plan = Plan(size, self._rungs(epoch_s))
        for number, rung in enumerate(self._plan.rungs, 1):
            kept = [s.arm.name for s in best if s.arm.name not in floor.arms]
            names = (kept or [arm.name for arm in tuned_arms(self.trunk)])[: rung.arms]
            stage = Stage(f"rung-{number}", tuple(names), rung.epochs, size, seeds)
            least = max((s.stage.epochs for s in best), default=0) + 1
            stage = self._decided(self._in_time(stage, epoch_s, least))
            if not stage.epochs or (self._is_done and stage.name not in self._past):
                self._say(f"{stage.name} is left out: there is no time for it")
                break
            self._say(
                f"{stage.name}: {counted(len(names), 'recipe')}, "
                f"the time of {counted(stage.epochs, 'epoch')} each at {stage.size} pixels, "
                f"about {duration(self._stage_s(stage, epoch_s))}"
            )
            before = self.clock()
            standings = self._standings(self._run(stage), stage)
            epoch_s *= self._correction(stage, epoch_s, self.clock() - before)
            others = [s for s in best if s.arm.name in floor.arms]
            best = sorted([*standings, *others], key=lambda standing: standing.order)
            self._say_standings(best)
        return self._finish(best, floor, epoch_s)

    def _finish(self, best: Sequence[Standing], floor: Stage, epoch_s: float) -> Result:
        winner = best[0]
        stage = winner.stage
        if winner.arm.name in floor.arms:
            final = floor
        elif self._keeps(stage, epoch_s):
            final = stage
            self._say(f"final: {winner.arm.words}, as it is: there is no time to train it on all")
        else:
            seeds = next(
                (
                    n
                    for n in range(_MOST_SEEDS, 1, -1)
                    if self._final_s(stage, epoch_s, n) < self.left_s
                ),
                1,
            )
            names = (winner.arm.name,)
            final = Stage("final", names, stage.epochs, stage.size, seeds, on_all=True)
            final = self._decided(final)
            seeds = final.seeds
            self._say(
                f"final: {winner.arm.words}, on all labels, {counted(seeds, 'seed')}, "
                f"about {duration(self._final_s(stage, epoch_s, seeds))}"
            )
            self._run(final)
        scratch = None
        one = Stage("scratch", (SCRATCH.name,), max(stage.epochs, 8), stage.size, 1, on_all=True)
        in_time = stage.epochs and not self._is_done
        if one.name in self._past or (in_time and self._final_s(one, epoch_s, 1) < self.left_s):
            scratch = self._decided(one)
            self._say(f"scratch: for comparison, about {duration(self._stage_s(one, epoch_s))}")
            self._run(scratch)
        self._keep(done=True)
        session = self._open(None)
        frozen = min((s for s in best if s.arm.name in floor.arms), key=lambda s: s.order)
        floor_run = self._folders(session, floor, frozen.arm.name)[0]
        self._say("labels: each image by classifiers that were not fitted to it")
        context = Context(**context_of(session, self.machine))
        labels = look_at_labels(floor_run, context)
        return Result(
            session,
            best,
            self._folders(session, final, winner.arm.name),
            (floor_run, frozen.arm.words),
            self._folders(session, scratch, SCRATCH.name)[0] if scratch else None,
            labels,
            self.clock() - self.begun,
        )

    # --- what things cost ---

    def _rates(self) -> dict[int, float]:
        sizes = [round(self.trunk.size * share / 32) * 32 for share in SMALLER]
        of_cpu = self.clock is not time.monotonic
        rates = training_rates(self.trunk.model, sizes, self.machine.device, of_cpu=of_cpu)
        return {size: rate for size, rate in rates.items() if rate > 0}

    def _epoch_s(self, rate: float) -> float:
        """Wall-clock seconds of an epoch of one arm, all workers busy."""
        workers = placement(self.workers, self.machine).workers
        crowded = 1.2 if workers > 1 else 1.0  # processes share caches and memory
        return self.photographs.train * crowded / rate / workers

    @property
    def _seeds(self) -> int:
        """Draws of validation images on which recipes are judged."""
        return min(2, self.photographs.draws)

    def _floor_size(self, rates: Mapping[int, float]) -> int:
        """The largest side whose features are computed in `FLOOR_SHARE` of the time."""
        images = self.photographs.train + self.photographs.test
        room = self.budget_s * FLOOR_SHARE * placement(self.workers, self.machine).workers
        fitting = [size for size, rate in rates.items() if images / (_FORWARD * rate) <= room]
        return max(fitting, default=min(rates))

    def _size(self, rates: Mapping[int, float]) -> int:
        room = self.budget_s * RACE_SHARE - 4 * self.start_s
        fitting = [
            size
            for size, rate in rates.items()
            if room / self._epoch_s(rate) / self._seeds >= _WISHED_EPOCHS
        ] or [
            size
            for size, rate in rates.items()
            if room / self._epoch_s(rate) / self._seeds >= _WISHED_ALONE
        ]
        return max(fitting, default=min(rates))

    def _rungs(self, epoch_s: float) -> tuple[Rung, ...]:
        room = self.budget_s * RACE_SHARE - (self.clock() - self.begun) - 3 * self.start_s
        found = rungs(len(tuned_arms(self.trunk)), max(0.0, room) / epoch_s / self._seeds)
        if not found:
            found = alone(
                (self.left_s - self.start_s) / epoch_s / (1 - VALIDATION_SHARE) / self._seeds
            )
        if not found:
            self._say("there is no time to train the network: a longer --budget has some")
        else:
            self._say(
                f"the race: {counted(cost(found) * self._seeds, 'epoch')} of "
                f"{duration(epoch_s)} in {counted(len(found), 'rung')}"
            )
        return found

    def _keeps(self, stage: Stage, epoch_s: float) -> bool:
        """Whether a run of a stage is the model as it is."""
        if self._is_done or "final" in self._past:
            return "final" not in self._past
        return self._is_alone(stage) and self._final_s(stage, epoch_s, 1) > self.left_s

    def _is_alone(self, stage: Stage) -> bool:
        """Whether a stage is all that there is time for, so that nothing is trained after it."""
        return len(stage.arms) == stage.seeds == 1

    def _in_time(self, stage: Stage, epoch_s: float, least: int) -> Stage:
        """The stage with as many of its epochs as leave time for the winner's training on all.

        Without the least number of epochs it is not worth it: the epochs are then 0.
        """
        for epochs in range(stage.epochs, least - 1, -1):
            fitting = replace(stage, epochs=epochs)
            needed = self._stage_s(fitting, epoch_s)
            if not self._is_alone(stage):
                needed += self._final_s(fitting, epoch_s, 1)
            if needed <= self.left_s:
                return fitting
        return replace(stage, epochs=0)

    def _stage_s(self, stage: Stage, epoch_s: float) -> float:
        workers = placement(self.workers, self.machine).workers
        runs = len(stage.arms) * stage.seeds
        full = -(-runs // workers) * workers  # the last runs leave workers without work
        share = 1.0 if stage.on_all else 1.0 - VALIDATION_SHARE
        return self.start_s + full * stage.epochs * share * epoch_s

    def _final_s(self, stage: Stage, epoch_s: float, seeds: int) -> float:
        one = Stage("final", stage.arms[:1], stage.epochs, stage.size, seeds, on_all=True)
        return self._stage_s(one, epoch_s)

    def _correction(self, stage: Stage, epoch_s: float, took_s: float) -> float:
        expected = self._stage_s(stage, epoch_s) - self.start_s
        return min(3.0, max(0.5, (took_s - self.start_s / 2) / expected)) if took_s > 5 else 1.0

    # --- words ---

    def _say(self, text: str) -> None:
        spent = duration(self.clock() - self.begun)
        self.console.print(f"{spent:>12}  {text}", highlight=False)

    def _say_standings(self, best: Sequence[Standing]) -> None:
        shown = ", ".join(f"{s.arm.words} {100 * s.accuracy:.1f} %" for s in best[:4])
        self._say(f"  on validation images: {shown}")


def _validated(folder: RunFolder) -> tuple[float, float]:
    """Accuracy and loss of a run on its validation images, at the epoch or C that it keeps."""
    record = folder.record()
    if record is None or record["row"]["status"] != "done":
        return 0.0, float("inf")
    with (folder.path / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_top1_accuracy"]]
    last = rows[-1]
    if "c" in last:  # a classifier on features: a row for each C, the best is kept
        last = max(rows, key=lambda row: float(row["val_top1_accuracy"]))
    return float(last["val_top1_accuracy"]), float(last["val_loss"])


def parse_budget(text: str) -> float:
    """Seconds of a text such as `30m`, `1h`, `1h30m`, `90s`.

    Raises:
        BenchError: it is none.

    >>> parse_budget("1h30m"), parse_budget("20m")
    (5400.0, 1200.0)
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = float(hours * 3600 + minutes * 60 + seconds)
    if not total:
        raise BenchError(f"--budget is {text!r}", hint="write a time such as 30m, 1h or 1h30m")
    return total
