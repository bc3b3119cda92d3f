"""`bench finetune` by the clock of the processor, and the whole grid of its recipes beside it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.launch.devices import Machine
from bench.race.arms import PARTS, floor_arms, tuned_arms, usual_trunk
from bench.race.budget import Budget
from bench.race.decisions import Stage
from bench.race.labels import Labels
from bench.race.photographs import divide
from bench.race.race import Race, Result
from bench.race.schedule import MOST_EPOCHS, Rung
from bench.results.mistakes import read_predictions
from bench.results.store import RunFolder
from benchmarks.finetune_cells import CpuClock, forward_rate, start_seconds

SIZES = (96, 128, 160, 224)


@dataclass
class Timed(Race):
    """A race that does not count what starting the workers takes, nor its runs' tests."""

    started: float = 0.0
    work: Path = field(default_factory=Path)

    def _run(self, *stages: Stage, reserve_s: float = 0.0) -> Any:
        clock = self.budget.clock
        assert isinstance(clock, CpuClock)
        before = clock()
        clock.uncounted += self.started
        done = super()._run(*stages, reserve_s=reserve_s)
        clock.uncounted -= max(0.0, before - clock())  # nothing was started: all was finished
        for stage in stages:
            passes = stage.seeds * len(stage.arms) if stage.epochs else 1
            tested = passes * stage.tested * self.photographs.test
            clock.uncounted += min(tested / forward_rate(stage.size, self.work), clock() - before)
        return done

    def _read_test_s(self, rate: float) -> float:
        return 0.0


@dataclass
class WholeGrid(Timed):
    """Every recipe of a race, each trained to its end, and chosen from as a race chooses.

    Attributes:
        side: of the images in the race.
        epochs_s: CPU seconds for the training of all recipes.
        parts: of images, that the floor of the race was fitted to.
        least_epochs: of each, whatever they take.
    """

    side: int = 96
    epochs_s: float = 0.0
    parts: int = 0
    least_epochs: int = 1

    def _parts(self, rate: float, races: bool) -> int:
        return self.parts

    def _size(self, rates: Mapping[int, float]) -> int:
        return self.side

    def _rungs(self, epoch_s: float) -> tuple[Rung, ...]:
        arms = len(tuned_arms(self.trunk))
        fitting = int(self.epochs_s / epoch_s / arms / self._seeds)
        return (Rung(arms, min(MOST_EPOCHS, max(self.least_epochs, fitting))),)

    def _stage_s(self, stage: Stage, epoch_s: float) -> float:
        """Nothing is compared with but the recipes, and the winner is trained once on all."""
        once = stage.name != "scratch" and (stage.name != "final" or stage.seeds == 1)
        return super()._stage_s(stage, epoch_s) if once else float("inf")

    def _labels(self, floor: RunFolder, session: Any) -> Labels | str:
        return "not asked for"

    def tested(self) -> dict[str, float]:
        """Test accuracy of every recipe, as it was chosen from: the first draw, on a part of the
        labels where the network was trained, on all of them where it was not."""
        found = {}
        for stage in list(self.stages):
            if stage.name in ("floor", "rung-1"):
                shown = replace(stage, name=f"shown-{stage.name}", seeds=1, tested=True)
                session = self._run(shown)
                for arm in shown.arms:
                    (folder,) = self._folders(session, shown, arm)
                    record = folder.record()
                    assert record is not None
                    found[arm] = float(record["row"]["top1_accuracy"] or 0.0)
        return found


def race(folder: Path, seconds: float, work: Path) -> dict[str, Any]:
    """Accuracy of the model that `bench finetune` leaves, and what it took."""
    with tempfile.TemporaryDirectory(dir=work) as results:
        raced, result = _raced(folder, seconds, Path(results), work)
        return _row(raced, result)


def regret(folder: Path, seconds: float, times: float, work: Path) -> dict[str, Any]:
    """A race and the whole grid of its recipes: accuracies, what they took, and the oracle's.

    Args:
        folder: with `train/` and `test/`.
        seconds: CPU seconds of the race.
        times: so many times what the race took are the grid's recipes trained for; at least for as
            many epochs as the last of the race.
        work: for results, which are removed.
    """
    with tempfile.TemporaryDirectory(dir=work) as results:
        raced, result = _raced(folder, seconds, Path(results) / "race", work)
        row, plan = _row(raced, result), raced.decisions.plan
        whole = _prepared(WholeGrid, folder, 1e9, Path(results) / "whole", work)
        assert isinstance(whole, WholeGrid)
        assert plan is not None
        whole.side = plan.size
        arms = raced.decisions.stages["floor"].arms
        whole.parts = next(n for n in PARTS if floor_arms(raced.trunk, n)[0].name in arms)
        whole.epochs_s = times * float(row["seconds"])
        whole.least_epochs = plan.rungs[-1].epochs if plan.rungs else 1
        found = whole.run()
        grid = _row(whole, found)
        oracle = max(whole.tested().items(), key=lambda pair: pair[1])
        predictions = [read_predictions(one.final[0]) for one in (found, result)]
    right = [one.named == one.labels for one in predictions]
    return {
        "race": row,
        "grid": grid,
        "oracle": {"recipe": oracle[0], "accuracy": oracle[1]},
        "test_images": len(right[0]),
        "grid_alone": int((right[0] & ~right[1]).sum()),
        "race_alone": int((right[1] & ~right[0]).sum()),
        "grid_epochs": whole.decisions.plan.rungs[0].epochs if whole.decisions.plan else 0,
    }


def _prepared(kind: type[Timed], folder: Path, seconds: float, place: Path, work: Path) -> Timed:
    """A race by the clock of the processor, which begins now."""
    started = start_seconds(work)
    for size in SIZES:  # measured before the clock begins
        forward_rate(size, work)
    photographs = divide(folder, {"data_root": None, "cache_dir": place / "cache"})
    budget = Budget(seconds, CpuClock(uncounted=started))  # the process that measures the speed
    console = Console(file=io.StringIO(), width=200)
    machine = Machine("cpu")
    return kind(
        *("race", photographs, usual_trunk(), place, budget, machine, 1, console),
        start_s=1.0,
        started=started,
        work=work,
    )


def _raced(folder: Path, seconds: float, place: Path, work: Path) -> tuple[Timed, Result]:
    raced = _prepared(Timed, folder, seconds, place, work)
    return raced, raced.run()


def _row(raced: Timed, result: Result) -> dict[str, Any]:
    """What a race gave and took, as the table has it."""
    took, record = raced.budget.clock(), result.final[0].record()
    file = raced.console.file
    assert isinstance(file, io.StringIO)
    if record is None:
        raise SystemExit(file.getvalue())
    best = result.standings[0]
    return {
        "accuracy": record["row"]["top1_accuracy"],
        "seconds": took,
        "epochs": best.stage.epochs,
        "recipe": f"{best.arm.name} at {best.stage.size}",
        "words": file.getvalue(),
    }
