"""The race itself: each stage is an experiment of one grid file, run as `bench grid` would run it.

The file lies in the results folder and grows by a stage at a time; what is finished is not run
again, so the same command goes on after an interruption, and `bench grid FILE` repeats everything.
Every choice is made on validation images, and until it is made no run reads a test image. The
winner is trained anew on training and validation images together, over several seeds; the model is
the first seed's, whatever the test says.

Nothing is begun whose forecast does not fit the budget. What takes longer than its forecast is
stopped, and the recipe is given up: the model is then the best of what is finished. Where nothing
of it was tested in time, the best classifier on features is, after the time.
"""

from __future__ import annotations

import math
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
from bench.methods.features.kept import LEAST_S
from bench.planning.forecast import Forecast
from bench.planning.workspace import Session, open_session
from bench.race.arms import PARTS, PARTS_UNTIL, SCRATCH, Arm, Trunk, floor_arms, tuned_arms
from bench.race.budget import Budget
from bench.race.decisions import Decisions, Plan, Stage
from bench.race.labels import Labels, look_at_labels
from bench.race.paired import Right, as_if_independent, gains, is_better
from bench.race.photographs import VALIDATION_SHARE, Photographs
from bench.race.schedule import (
    FLOOR_SHARE,
    PARTS_ALONE_SHARE,
    PARTS_SHARE,
    RACE_SHARE,
    Rung,
    alone,
    cost,
    rungs,
)
from bench.race.speed import measure_speed
from bench.results.history import validated
from bench.results.predictions import right_on_validation
from bench.results.store import RunFolder
from bench.runs.build import Context

SMALLER = (1.0, 160 / 224, 128 / 224, 96 / 224)
"""Image sizes that are tried, as shares of the weights' own; the largest that leaves a race."""

_WISHED_EPOCHS = 24.0
"""Epochs of single arms that a race should have time for, before images are made smaller."""

_WISHED_ALONE = 2.0
"""The same where there is time for one recipe alone."""

_FORWARD = 3.4
"""Images that a network classifies in the time in which it trains on one, at least."""

_FITS_OF_LABELS = 3.5
"""The look at the labels fits to four fifths five times, and five times to half of these: so often
what a run on features of whole images does, which fits to four fifths and to all."""

_PLANNING_S = 2.0
"""Seconds in which a stage is planned, before its workers start."""

_KEEP_EVERY_S = 5.0
"""Seconds after which it is written down again how much of the budget is spent."""

_STOPPING_S = 10.0
"""Seconds that stopping the workers may take."""

_LATE = 0.05
"""Of the time: what a model that is chosen may take more, so that it is tested."""

LABELS_SHARE = 0.15
"""Of the time: looking at the labels, at most, where it is left free."""

_MOST_SEEDS = 5
_MOST_ROWS = 20_000
"""Images and parts of them, at most: features of more may not fit in memory."""
_RECIPE = {
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
    "augment": "crop_flip",
}


@dataclass(frozen=True)
class Standing:
    """An arm with what its validation images say, mean over its draws.

    Attributes:
        arm: the recipe.
        stage: of which stage.
        accuracy: top-1, a fraction; None where no run of it is finished.
        loss: cross-entropy in nats, which decides between equals.
        end: why it went no further; empty while it may.
        images: validation images of all draws.
        right: its answers to them, draw by draw; empty where they were not kept.
    """

    arm: Arm
    stage: Stage
    accuracy: float | None
    loss: float
    end: str = ""
    images: int = 0
    right: Sequence[Right] = ()

    @property
    def order(self) -> tuple[float, float]:
        """What sorts the best first."""
        return -(self.accuracy or 0.0), self.loss


@dataclass(frozen=True, eq=False)
class Result:
    """What a race found.

    Attributes:
        session: the grid in the end.
        standings: of the arms that were left in the end, best first; the first is the winner.
        course: all arms that began, each with the last stage that it was judged in, in their order.
        stopped: what the time was over for: experiments, with the epochs trained and wanted.
        final: folders of the winner's runs by seed, on all labels where there was time; the first
            is the model's.
        floor: the run of the best frozen arm on all labels, and its words; None where there was no
            time.
        scratch: the run from random weights; None where there was no time.
        labels: what features say of the labels, or why they were not looked at.
        seconds: of the budget that are spent, without the writing of the model.
    """

    session: Session
    standings: Sequence[Standing]
    course: Sequence[Standing]
    stopped: Mapping[str, tuple[int, int]]
    final: Sequence[RunFolder]
    floor: tuple[RunFolder, str] | None
    scratch: RunFolder | None
    labels: Labels | str
    seconds: float


@dataclass
class Race:
    """A race over one folder of photographs.

    Attributes:
        name: of the grid and of the model.
        photographs: the images.
        trunk: the weights to start from.
        results: where the grid file, the runs and the model lie.
        budget: the time for everything.
        machine, workers: on what it computes.
        console: where progress is shown.
        data_root: see `open_session`.
        start_s: seconds that starting the workers of a stage takes; None measures them.
        tensorboard: whether runs write event files, see `bench.exports.tensorboard`.
    """

    name: str
    photographs: Photographs
    trunk: Trunk
    results: Path
    budget: Budget
    machine: Machine
    workers: int | None
    console: Console
    data_root: Path | None = None
    start_s: float | None = None
    tensorboard: bool = False
    stages: list[Stage] = field(default_factory=list)
    decisions: Decisions = field(init=False)
    _fit_s: float = 0.0
    _tested_s: float = 0.0
    _labels_s: float = 0.0
    _course: dict[str, Standing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        of = {"target": dict(self.photographs.target), "trunk": asdict(self.trunk)}
        self.decisions = Decisions(self.path.with_suffix(".json"), of)

    def recall(self) -> int:
        """Takes up what an earlier command of this name has decided and spent; how many stages.

        Raises:
            BenchError: it was about other images, weights or recipes.
        """
        self.decisions.recall(self._arms().keys())
        self.budget.earlier_s = self.decisions.spent_s
        return len(self.decisions.stages)

    def answered(self) -> tuple[str, ...]:
        """The answer of an earlier command; empty where the race is not at its end.

        So it is too where its images have changed since: their runs are others.
        """
        if not (self.decisions.done and self.decisions.answer):
            return ()
        session = self._open(*self.decisions.stages.values())
        states = session.states()
        done = all(states[run.id] in ("done", "diverged") for run in session.wanted)
        return self.decisions.answer if done else ()

    # --- the grid file ---

    @property
    def path(self) -> Path:
        """The grid file."""
        return self.results / "finetune" / f"{self.name}.yaml"

    def _arms(self) -> dict[str, Arm]:
        floors = (arm for parts in PARTS for arm in floor_arms(self.trunk, parts))
        arms = [*floors, *tuned_arms(self.trunk), SCRATCH]
        return {arm.name: arm for arm in arms}

    def _write(self) -> None:
        """The grid file as far as the race is, and what is decided."""
        arms = self._arms()
        experiments = {
            f"{stage.name}-{name}": self._experiment(stage, arms[name])
            for stage in self.stages
            for name in stage.arms
        }
        grid = {
            "name": self.name,
            "about": f"a race of recipes on {self.photographs.target['root']}",
            "defaults": {
                "target": dict(self.photographs.target),
                "model": self.trunk.model,
                "weights": self.trunk.weights,
                "train": self._train,
            },
            "experiments": experiments,
        }
        write_atomic(self.path, yaml.safe_dump(grid, sort_keys=False, allow_unicode=True))
        self._keep()

    def _keep(self) -> None:
        if not self.decisions.done:
            self.decisions.spent_s = self.budget.spent_s
        self.decisions.keep()

    @property
    def _train(self) -> dict[str, Any]:
        """What all recipes have in common."""
        return {**_RECIPE, **self._passes}

    @property
    def _passes(self) -> dict[str, int]:
        """A step of 16 images, or of 32: in two passes on a processor, which take less memory.

        BatchNorm that does not stay as it was copied sees the images of a pass.
        """
        if self.photographs.train < 1000:
            return {"batch_size": 16}
        on_gpus = bool(placement(self.workers, self.machine).cards)
        return {"batch_size": 32} if on_gpus else {"batch_size": 16, "accumulate": 2}

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
        if not stage.tested:
            cell["target.tested"] = False
        stopped = self.decisions.stopped.get(f"{stage.name}-{arm.name}")
        about = arm.words if stopped is None else f"{arm.words}; {given_up(stopped)}"
        return {"about": about, "set": cell, "axes": {"seed": list(range(stage.seeds))}}

    # --- stages ---

    def _run(self, *stages: Stage, reserve_s: float = 0.0) -> Session:
        """Runs what is missing of stages; what the time is over for is given up.

        Args:
            stages: what to run, together.
            reserve_s: seconds that are left for what comes after it.

        Raises:
            BenchError: a run failed.
        """
        self.stages += stages
        self.decisions.stages |= {stage.name: stage for stage in stages}
        self._write()
        session = self._open(*stages)
        if not session.only:
            return session
        tally = run_here(
            session,
            self.console,
            self.machine,
            placement(self.workers, self.machine),
            retry_failed=True,
            forecast=Forecast({}),
            is_over=self._over(reserve_s),
        )
        if tally.interrupted:
            self._keep()
            raise KeyboardInterrupt
        if tally.failures:
            raise BenchError(
                f"{counted(len(tally.failures), 'run')} of {stages[0].name} failed: "
                f"{tally.failures[0][1]}",
                hint=f"bench logs {tally.failures[0][0][:12]} --results {self.results} has more",
            )
        if tally.stopped:
            self._give_up(session, tally.stopped)
        return session

    def _over(self, reserve_s: float) -> Callable[[], bool]:
        """Whether the time but `reserve_s` is over; keeps account of what is spent."""
        kept_at = self.budget.clock()

        def is_over() -> bool:
            nonlocal kept_at
            if self.budget.clock() - kept_at > _KEEP_EVERY_S:
                kept_at = self.budget.clock()
                self._keep()
            return not self.decisions.done and self.budget.left_s < reserve_s

        return is_over

    def _give_up(self, session: Session, stopped: Mapping[str, tuple[int, int]]) -> None:
        """Notes and shows which experiments are not gone on with."""
        given = self.decisions.stopped
        for key, epochs in stopped.items():
            for name in session.plan.runs[key].experiments:
                given[name] = min(epochs, given.get(name, epochs))
        arms = self._arms()
        words = {f"{stage.name}-{n}": arms[n].words for stage in self.stages for n in stage.arms}
        for name in sorted(given.keys() & set(session.only)):
            self._say(f"  {words[name]}: {given_up(given[name])}")
        self._write()

    def _open(self, *stages: Stage) -> Session:
        """The grid; of stages the experiments that are not given up."""
        only = [f"{stage.name}-{arm}" for stage in stages for arm in stage.arms]
        session = open_session(
            self.path,
            results=self.results,
            data_root=self.data_root,
            only=[name for name in only if name not in self.decisions.stopped],
            folder="writable",
        )
        return replace(session, tensorboard=self.tensorboard)

    def _folders(self, session: Session, stage: Stage, arm: str) -> list[RunFolder]:
        """The finished runs of an arm, by seed."""
        wanted = [
            run
            for run in session.plan.runs.values()
            if f"{stage.name}-{arm}" in run.experiments and run.role != "source"
        ]
        wanted.sort(key=lambda run: run.spec.seeds.order)
        folders = [session.store.folder(run.id, run.spec) for run in wanted]
        return [folder for folder in folders if folder.record_path.is_file()]

    def _judge(self, session: Session, stage: Stage) -> list[Standing]:
        """The arms of a stage that are finished, the best first; one that diverged is at chance.

        All stages are judged on the same draws of validation images.
        """
        arms, found = self._arms(), []
        for name in stage.arms:
            folders = self._folders(session, stage, name)[: self._seeds]
            judged = [one for one in map(validated, folders) if one is not None]
            if len(judged) == self._seeds:
                sums = [sum(values) for values in zip(*judged, strict=True)]
                accuracy, loss = (total / len(judged) for total in sums[:2])
                right = [one for one in map(right_on_validation, folders) if one is not None]
                kept = tuple(right) if len(right) == self._seeds else ()
                found.append(
                    Standing(arms[name], stage, accuracy, loss, images=int(sums[2]), right=kept)
                )
        self._course |= {standing.arm.name: standing for standing in found}
        for name in stage.arms:
            epochs = self.decisions.stopped.get(f"{stage.name}-{name}")
            before = self._course.get(name, Standing(arms[name], stage, None, float("inf")))
            if epochs is not None and before not in found:
                self._course[name] = replace(before, end=given_up(epochs))
        return sorted(found, key=lambda standing: standing.order)

    # --- the whole ---

    def run(self) -> Result:
        """Runs the race to its end.

        Raises:
            BenchError: nothing can be trained, or a run failed.
            KeyboardInterrupt: it was interrupted; the same command goes on.
        """
        rates = self._rates()
        self._plan_again()
        size = self._size(rates) if self.decisions.plan is None else self.decisions.plan.size
        epoch_s = self._epoch_s(rates[size])
        floor, best = self._floor(rates, epoch_s)
        if self.decisions.plan is None:
            self.decisions.plan = Plan(size, self._rungs(epoch_s))
        for number, rung in enumerate(self.decisions.plan.rungs, 1):
            kept = [s.arm.name for s in best if s.arm.name not in floor.arms]
            names = (kept or [arm.name for arm in tuned_arms(self.trunk)])[: rung.arms]
            stage = Stage(f"rung-{number}", tuple(names), rung.epochs, size, self._seeds)
            least = max((s.stage.epochs for s in best), default=0) + 1
            stage = self._decided(self._in_time(stage, epoch_s, least))
            is_new = stage.name not in self.decisions.stages
            if not stage.epochs or (self.decisions.done and is_new):
                self._say(f"{stage.name} is left out: there is no time for it")
                break
            self._drop(best, stage)
            self._say(
                f"{stage.name}: {counted(len(stage.arms), 'recipe')}, "
                f"the time of {counted(stage.epochs, 'epoch')} each at {stage.size} pixels, "
                f"about {duration(self._stage_s(stage, epoch_s))}"
            )
            before = self.budget.clock()
            # What was judged before can win: time to train it on all labels is left to it.
            trained = [s.stage for s in best if s.stage.epochs]
            reserve_s = self._final_s(trained[0], epoch_s, 1) if trained else 0.0
            reserve_s = max(reserve_s, self._test_s)
            standings = self._judge(self._run(stage, reserve_s=reserve_s), stage)
            if len(standings) == len(stage.arms):
                epoch_s *= self._correction(stage, epoch_s, self.budget.clock() - before)
            finished = {s.arm.name for s in standings}
            others = [s for s in best if s.arm.name in {*floor.arms, *stage.arms} - finished]
            best = sorted([*standings, *others], key=lambda standing: standing.order)
            self._say_standings([best[0], *(s for s in standings if s is not best[0])])
            if len(standings) < len(stage.arms):
                break
        return self._finish(self._simplest(best, floor), floor, epoch_s)

    def _plan_again(self) -> None:
        """Forgets that there was no time for a race, and what followed: there may be time now."""
        decided = self.decisions
        if decided.plan is None or decided.plan.rungs or decided.done:
            return
        decided.plan = None
        for name in ("compared", "final"):
            if (stage := decided.stages.pop(name, None)) is not None:
                for arm in stage.arms:
                    decided.stopped.pop(f"{name}-{arm}", None)

    def _simplest(self, best: Sequence[Standing], floor: Stage) -> Sequence[Standing]:
        """The best first, but the best classifier on features where nothing is shown to beat it."""
        top = best[0]
        frozen = next(s for s in best if s.arm.name in floor.arms)
        shown = gains(top.right, frozen.right) if top.right and frozen.right else None
        if shown is None:  # runs of an earlier version kept no answers
            shown = as_if_independent(top.accuracy or 0.0, frozen.accuracy or 0.0, top.images)
        if top is frozen or is_better(shown, best_of=len(top.stage.arms)):
            return best
        end = (
            f"not shown to be better than the classifier: {top.images} validation images cannot "
            "tell them apart"
        )
        self._course[top.arm.name] = replace(top, end=end)
        return [frozen, *(s for s in best if s is not frozen)]

    def _drop(self, best: Sequence[Standing], stage: Stage) -> None:
        """Notes which arms a rung goes on without."""
        for standing in best:
            name = standing.arm.name
            if standing.stage.epochs and name not in stage.arms:
                end = f"dropped after {standing.stage.name}"
                self._course[name] = replace(standing, end=end)

    def _floor(self, rates: Mapping[int, float], epoch_s: float) -> tuple[Stage, list[Standing]]:
        """The classifiers on features, which every other arm has to beat.

        Raises:
            BenchError: there is no time for them.
        """
        side = self._floor_size(rates)
        parts = self._parts(rates[side], bool(self._of_rungs(epoch_s)))
        frozen = tuple(arm.name for arm in floor_arms(self.trunk, parts))
        floor = self._decided(Stage("floor", frozen, 0, side, self.photographs.draws))
        needed = self._features_s(rates[floor.size]) + self._started_s
        if floor.name not in self.decisions.stages and needed > self.budget.left_s:
            total = self.budget.spent_s + needed + self.budget.end_s
            raise BenchError(
                f"classifiers on features of {counted(self.photographs.train, 'image')} take about "
                f"{duration(needed)} here, and --budget leaves "
                f"{duration(max(0.0, self.budget.left_s))} for them",
                hint=f"--budget {-(-int(1.5 * total) // 60)}m is enough for an answer, or name a "
                "smaller network with --model",
            )
        copies = 1 + self._arms()[floor.arms[0]].parts
        parts_of = f"images and {counted(copies - 1, 'random part')} of each"
        of = f"of {parts_of} " if copies > 1 else ""
        self._say(f"floor: classifiers on features {of}at {floor.size} pixels")
        session = self._run(floor)
        best = self._judge(session, floor)
        if not best:
            self._forget(floor)
            raise BenchError(
                f"the budget of {duration(self.budget.total_s)} is spent before a classifier on "
                "features was fitted",
                hint="the same command with a longer --budget goes on",
            )
        folders = [f for arm in floor.arms for f in self._folders(session, floor, arm)]
        took = sorted(_seconds(folder) for folder in folders)
        self._fit_s = took[(len(took) - 1) // 2]  # of two fits, features being there
        share = self.photographs.test / self.photographs.train
        first_s = (took[-1] - self._fit_s) * share / copies
        self._tested_s = max(first_s, share * self._features_s(rates[floor.size]))
        self._labels_s = _FITS_OF_LABELS * self._fit_s / copies + LEAST_S
        if self._labels_s < LABELS_SHARE * self.budget.total_s:
            self.budget.end_s = self._writing_s + self._labels_s
        self._say_standings(best)
        return floor, best

    def _finish(self, best: Sequence[Standing], floor: Stage, epoch_s: float) -> Result:
        winner = best[0]
        stage = winner.stage
        frozen = min((s for s in best if s.arm.name in floor.arms), key=lambda s: s.order)
        compared = replace(floor, name="compared", arms=(frozen.arm.name,), seeds=1, tested=True)
        final = self._final(winner, compared, epoch_s)
        if final is None:
            winner, final = frozen, self._over_time(frozen, compared)
            best = [frozen, *(s for s in best if s is not frozen)]
        arms, epochs = (SCRATCH.name,), max(stage.epochs, 8)
        one = Stage("scratch", arms, epochs, stage.size, seeds=1, on_all=True, tested=True)
        in_time = stage.epochs and not self.decisions.done
        in_time = in_time and self._stage_s(one, epoch_s) < self.budget.left_s
        scratch = []
        if one.name in self.decisions.stages or in_time:
            one = self._decided(one)
            self._say(f"scratch: for comparison, about {duration(self._stage_s(one, epoch_s))}")
            scratch = self._folders(self._run(one), one, SCRATCH.name)
        session = self._open()
        labels = self._labels(self._folders(session, floor, frozen.arm.name)[0], session)
        self._keep()
        if not self.decisions.done:
            self.decisions.done, self.decisions.budget_s = True, self.budget.total_s
        self._keep()
        beside = self._folders(session, compared, frozen.arm.name)
        return Result(
            session,
            best,
            self._ended(best),
            self.decisions.stopped,
            self._folders(session, final, winner.arm.name),
            (beside[0], frozen.arm.words) if beside else None,
            scratch[0] if scratch else None,
            labels,
            self.decisions.spent_s,
        )

    def _over_time(self, frozen: Standing, compared: Stage) -> Stage:
        """Fits and tests the best classifier on features, though the time is over.

        Its features are there, so it takes seconds, and without it there would be no model.
        """
        self._say(f"the time is over: {frozen.arm.words} is tested all the same, 1 seed")
        last = replace(compared, name="last")
        self._run(last, reserve_s=-math.inf)
        return last

    def _final(self, winner: Standing, compared: Stage, epoch_s: float) -> Stage | None:
        """Tests the winner, trained on all labels where there is time; the stage of the model.

        None where there was no time for any of it.
        """
        if "last" in self.decisions.stages:
            return None
        stage, names = winner.stage, (winner.arm.name,)
        as_it_is = replace(stage, name="winner", arms=names, tested=True)
        if names == compared.arms:
            seeds = self.photographs.draws
            final = self._decided(replace(compared, name="final", seeds=seeds))
            self._say(f"final: {winner.arm.words}, on all labels, {counted(seeds, 'seed')}")
            session = self._run(final, reserve_s=self._last_s)
        elif self._keeps(stage, epoch_s):
            self._say(f"final: {winner.arm.words}, as it is: there is no time to train it on all")
            final, session = as_it_is, self._run(as_it_is, compared, reserve_s=self._last_s)
        else:
            fitting = (
                n
                for n in range(_MOST_SEEDS, 1, -1)
                if self._final_s(stage, epoch_s, n) < self.budget.left_s
            )
            seeds = next(fitting, 1)
            final = replace(as_it_is, name="final", seeds=seeds, on_all=True)
            final = self._decided(final)
            self._say(
                f"final: {winner.arm.words}, on all labels, {counted(final.seeds, 'seed')}, "
                f"about {duration(self._final_s(stage, epoch_s, final.seeds))}"
            )
            session = self._run(compared, final, reserve_s=self._test_s)
            if not self._folders(session, final, winner.arm.name):
                self._say("  the model is the one that won, trained without validation images")
                final, session = as_it_is, self._run(as_it_is, reserve_s=self._last_s)
        if not self._folders(session, final, winner.arm.name):
            self._forget(final)
            return None
        return final

    def _forget(self, stage: Stage) -> None:
        """Lets a later command with more time run what was given up of a stage."""
        for name in stage.arms:
            self.decisions.stopped.pop(f"{stage.name}-{name}", None)
        self._write()

    def _ended(self, best: Sequence[Standing]) -> list[Standing]:
        """The course of all arms, with why each of them ended."""
        winner = best[0].arm.name
        return [
            replace(s, end="chosen" if name == winner else s.end or "behind the winner")
            for name, s in self._course.items()
        ]

    def _labels(self, floor: RunFolder, session: Session) -> Labels | str:
        """What features say of the labels, or why they are not looked at."""
        left_s = self.budget.left_s + self.budget.end_s - self._writing_s
        if not self.decisions.done and self._labels_s > left_s:
            return "there was no time"
        self._say("labels: each image by classifiers that were not fitted to it")
        labels = look_at_labels(floor, Context(**context_of(session, self.machine)))
        return labels or "a class has too few images"

    # --- what things cost ---

    def _rates(self) -> dict[int, float]:
        sizes = [round(self.trunk.size * share / 32) * 32 for share in SMALLER]
        of_cpu = self.start_s is not None
        device, train = self.machine.device, self._train
        speed = measure_speed(self.trunk.model, sizes, device, of_cpu=of_cpu, train=train)
        if self.start_s is None:
            self.start_s = speed.start_s + _PLANNING_S
        self.budget.end_s = self._writing_s
        return {size: rate for size, rate in speed.images_per_s.items() if rate > 0}

    @property
    def _started_s(self) -> float:
        """Seconds until the workers of a stage train."""
        return self.start_s or 0.0

    @property
    def _writing_s(self) -> float:
        """Seconds that the model, its card and the sheet of mistakes take; libraries, mostly."""
        return self._started_s

    @property
    def _images(self) -> int:
        return self.photographs.train + self.photographs.test

    @property
    def _workers(self) -> int:
        return placement(self.workers, self.machine).workers

    def _features_s(self, rate: float) -> float:
        """Seconds of one worker for the features of the labelled images, at a rate of training.

        Test images are read later, by what is chosen alone.
        """
        return self.photographs.train / (_FORWARD * rate)

    def _read_test_s(self, rate: float) -> float:
        """Seconds of one worker for the test images, at a rate of training."""
        return self._started_s + self.photographs.test / (_FORWARD * rate)

    @property
    def _test_s(self) -> float:
        """Seconds that testing takes: a trained network, and the frozen arm that is fitted anew."""
        return _STOPPING_S + self._started_s + self._compared_s

    @property
    def _last_s(self) -> float:
        """What is to be left where without a run there is no answer: labels have to wait."""
        return self._writing_s - self.budget.end_s - _LATE * self.budget.total_s

    @property
    def _compared_s(self) -> float:
        """Seconds of the best frozen arm's run that is tested: features of labelled images are
        there by then, those of test images are not."""
        return self._fit_s + LEAST_S + self._tested_s

    def _epoch_s(self, rate: float) -> float:
        """Wall-clock seconds of an epoch of one arm, all workers busy."""
        crowded = 1.2 if self._workers > 1 else 1.0  # processes share caches and memory
        return self.photographs.train * crowded / rate / self._workers

    def _decided(self, stage: Stage) -> Stage:
        """The stage as it was decided before, if it was."""
        return self.decisions.stages.get(stage.name, stage)

    @property
    def _seeds(self) -> int:
        """Draws of validation images on which recipes are judged."""
        return min(2, self.photographs.draws)

    def _floor_size(self, rates: Mapping[int, float]) -> int:
        """The largest side whose features one worker computes in `FLOOR_SHARE` of the time, or in
        what is left of it."""
        left_s = self.budget.left_s - self._started_s
        room = min(self.budget.total_s * FLOOR_SHARE, left_s)
        fitting = [size for size, rate in rates.items() if self._features_s(rate) <= room]
        return max(fitting, default=min(rates))

    def _parts(self, rate: float, races: bool) -> int:
        """Random parts of each image that the floor is fitted to too: where there are few images,
        as many as there is room and time for.

        Args:
            rate: images that are trained on in a second.
            races: whether there is time for a race after the floor.
        """
        images = self.photographs.train
        few = images < PARTS_UNTIL * self.photographs.classes
        left_s = self.budget.left_s - self._started_s - self._read_test_s(rate)
        share = PARTS_SHARE if races else PARTS_ALONE_SHARE
        room = min(self.budget.total_s * share, left_s) if few else 0.0
        fitting = [n for n in PARTS if (1 + n) * self._features_s(rate) <= room]
        return max((n for n in fitting if (1 + n) * images <= _MOST_ROWS), default=0)

    def _size(self, rates: Mapping[int, float]) -> int:
        room = self.budget.total_s * RACE_SHARE - self.budget.spent_s - 4 * self._started_s
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

    def _of_rungs(self, epoch_s: float) -> tuple[Rung, ...]:
        """The rungs that there is time for now."""
        room = self.budget.total_s * RACE_SHARE - self.budget.spent_s - 3 * self._started_s
        return rungs(len(tuned_arms(self.trunk)), max(0.0, room) / epoch_s / self._seeds)

    def _rungs(self, epoch_s: float) -> tuple[Rung, ...]:
        found = self._of_rungs(epoch_s)
        if not found:
            found = alone(
                (self.budget.left_s - self._started_s)
                / epoch_s
                / (1 - VALIDATION_SHARE)
                / self._seeds
            )
        if not found:
            self._say(
                "there is no time to train the network: a longer --budget has some, under another "
                "--name"
            )
        else:
            self._say(
                f"the race: {counted(len(found), 'rung')}, in all "
                f"{counted(cost(found) * self._seeds, 'epoch')} of {duration(epoch_s)}"
            )
        return found

    def _keeps(self, stage: Stage, epoch_s: float) -> bool:
        """Whether a run of a stage is the model as it is."""
        if self.decisions.done or "final" in self.decisions.stages:
            return "final" not in self.decisions.stages
        return self._final_s(stage, epoch_s, 1) > self.budget.left_s

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
            alone = self._is_alone(stage)
            needed += self._test_s if alone else self._final_s(fitting, epoch_s, 1)
            if needed <= self.budget.left_s:
                return fitting
        return replace(stage, epochs=0)

    def _stage_s(self, stage: Stage, epoch_s: float) -> float:
        runs = len(stage.arms) * stage.seeds
        full = -(-runs // self._workers) * self._workers  # the last runs leave workers without work
        share = 1.0 if stage.on_all else 1.0 - VALIDATION_SHARE
        return self._started_s + full * stage.epochs * share * epoch_s

    def _final_s(self, stage: Stage, epoch_s: float, seeds: int) -> float:
        one = Stage("final", stage.arms[:1], stage.epochs, stage.size, seeds, on_all=True)
        return self._stage_s(one, epoch_s) + self._compared_s / self._workers

    def _correction(self, stage: Stage, epoch_s: float, took_s: float) -> float:
        expected = self._stage_s(stage, epoch_s) - self._started_s
        return min(3.0, max(0.5, (took_s - self._started_s / 2) / expected)) if took_s > 5 else 1.0

    # --- words ---

    def _say(self, text: str) -> None:
        spent = duration(self.budget.spent_s)
        self.console.print(f"{spent:>12}  {text}", highlight=False)

    def _say_standings(self, best: Sequence[Standing]) -> None:
        shown = ", ".join(f"{s.arm.words} {100 * (s.accuracy or 0.0):.1f} %" for s in best[:4])
        self._say(f"  on validation images: {shown}")


def given_up(epochs: tuple[int, int]) -> str:
    """Why an arm has no result, where the time was over.

    >>> given_up((3, 10)), given_up((0, 0))
    ('given up after 3 of 10 epochs, as the time was over', 'given up, as the time was over')
    """
    trained, of = epochs
    after = f" after {trained} of {counted(of, 'epoch')}" if of else ""
    return f"given up{after}, as the time was over"


def _seconds(folder: RunFolder) -> float:
    """What a finished run took."""
    record = folder.record()
    return 0.0 if record is None else float(record["row"]["seconds"])
