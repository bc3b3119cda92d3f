"""Leaderboards with a known truth, for `benchmarks.calibration` and its test.

The rows are those that `bench.results.leaderboard.describe` makes of real specs; only what training
would have given is drawn. A run's answer to a test image is right with a probability that depends
on the task, the arm, the seed and the image: images are of unlike difficulty, to each arm a little
differently, and all runs of a task see the same ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, special

from analysis.leaderboard.of_grid import table_of
from analysis.leaderboard.read import prepare
from bench.methods import resolved
from bench.results.leaderboard import describe
from bench.specs.data import Borrowed, DataSpec, NearFarClasses
from bench.specs.planned import DataFacts, Plan, PlannedRun
from bench.specs.run import FromRun, MethodSpec, ModelSpec, RunSpec, Seeds, TrainSpec

Array = npt.NDArray[np.float64]
CLASSES = 20
TUNE, FREEZE, SCRATCH = "T(1-7)R(8)", "F(1-7)R(8)", "R(1-8)"
_BORROWING: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "soft": ("soft", {}, {}),
    "intermediate": ("soft", {"schedule": "zero"}, {}),
    "soft, categories": ("soft", {}, {"categories": 0.1}),
    "soft, images": ("soft", {}, {"images": 0.1}),
    "joint": ("joint", {}, {}),
    "joint, random": ("joint", {}, {"total_images": 500}),
    "selective": ("selective", {}, {}),
    "selective, fixed": ("selective", {"adaptive": False}, {}),
    "selective, gabor": ("selective", {"bank": "gabor"}, {}),
}
ARMS = (
    *("near", "far", "near, frozen", "far, frozen", "scratch", "near, 3 random", "near, 3 frozen"),
    *_BORROWING,
)
"""Every arm that a design may have: enough for thirteen of the papers' claims at once."""


@dataclass(frozen=True)
class Design:
    """Which runs there are.

    Attributes:
        tasks, seeds: how many draws of the classes, and seeds in each.
        arms: of `ARMS`.
        sizes: images per class.
        test_images: in each task.
        available: images per class to draw from; None: so many that draws have none in common.
    """

    tasks: int = 3
    seeds: int = 5
    arms: tuple[str, ...] = ("near", "far")
    sizes: tuple[int, ...] = (100,)
    test_images: int = 500
    available: int | None = None

    @functools.cached_property
    def board(self) -> pd.DataFrame:
        """The leaderboard with its arms (`arm`) and without results."""
        runs: dict[str, PlannedRun] = {}
        names: dict[str, str] = {}
        for task in range(self.tasks):
            for side in ("near", "far"):
                source = _source(task, side)
                key = f"source-{task}-{side}"
                runs[key] = PlannedRun(key, source, None, (), self._facts(source))
            for arm in self.arms:
                for size in self.sizes:
                    for seed in range(self.seeds):
                        spec = _run(task, arm, size, seed)
                        key = f"{task}-{arm}-{size}-{seed}"
                        side = "far" if arm.startswith("far") else "near"
                        parent = None if arm == "scratch" else f"source-{task}-{side}"
                        facts = self._facts(spec)
                        runs[key] = PlannedRun(key, spec, parent, ("simulated",), facts)
                        names[key] = arm
        table = table_of(list(describe(Plan("simulated", runs, len(names))).values()))
        table = table[table["role"] == "finetune"].reset_index(drop=True)
        table["status"], table["test_images"] = "done", float(self.test_images)
        table["top1_accuracy"] = table["val_top1_accuracy"] = 0.5
        table["arm"] = table["run_id"].map(names)
        return table

    def _facts(self, spec: RunSpec) -> DataFacts:
        n = (spec.data.images_per_class or 500) * CLASSES
        pool = self.available or 100_000 * (spec.data.images_per_class or 500)
        classes = tuple(f"c{i}" for i in range(CLASSES))
        return DataFacts("f", classes, "k", n, 0, available_images=pool * CLASSES)


def _data(task: int, side: str, size: int | None) -> DataSpec:
    classes = NearFarClasses(root="animal.n.01", side=side, class_draw=task)  # type: ignore[arg-type]
    return DataSpec(dataset="simulated", classes=classes, images_per_class=size)


@functools.cache
def _source(task: int, side: str) -> RunSpec:
    return RunSpec(
        data=_data(task, side, None), model=ModelSpec(name="narrow8_32"), pattern=SCRATCH
    )


def _run(task: int, arm: str, size: int, seed: int) -> RunSpec:
    source = _source(task, "far" if arm.startswith("far") else "near")
    pattern = {
        "scratch": SCRATCH,
        "near, frozen": FREEZE,
        "far, frozen": FREEZE,
        "near, 3 random": "T(1-5)R(6-8)",
        "near, 3 frozen": "F(1-3)T(4-7)R(8)",
    }.get(arm, TUNE)
    more: dict[str, Any] = {} if arm == "scratch" else {"init": FromRun(run=source)}
    if arm in _BORROWING:
        name, options, borrowed = _BORROWING[arm]
        given = tuple(sorted(resolved(name, options).items()))
        more["method"] = MethodSpec(name=name, options=given)
        more["borrow"] = (Borrowed(data=source.data, **borrowed),)
    return RunSpec(
        data=_data(task, "target", size),
        model=ModelSpec(name="narrow8_32"),
        pattern=pattern,
        train=TrainSpec(),
        seeds=Seeds(draw=seed, init=seed, order=seed),
        **more,
    )


@dataclass(frozen=True)
class Truth:
    """What is true of every task of the kind.

    Attributes:
        accuracy: mean over tasks, for arms without an effect.
        effects: of arms, a fraction (0.05 is five points); by (arm, size) or by arm.
        task_spread: standard deviation of tasks' accuracies.
        interaction: standard deviation, over tasks, of each arm's own deviation.
        seed_spread: standard deviation of seeds on the logit scale, for each arm its own.
        unequal: the spread of seeds differs between tasks by up to this factor.
        draw_spread: standard deviation, on the logit scale, of what single training images bring.
        diverged: share of runs of an arm that diverge.
    """

    accuracy: float = 0.45
    effects: Mapping[Any, float] = field(default_factory=dict)
    task_spread: float = 0.05
    interaction: float = 0.0
    seed_spread: float = 0.06
    unequal: float = 1.0
    draw_spread: float = 0.0
    diverged: Mapping[str, float] = field(default_factory=dict)

    def effect(self, arm: str, size: int) -> float:
        """The effect of an arm at a size."""
        return self.effects.get((arm, size), self.effects.get(arm, 0.0))

    def expected(self, accuracy: Any, arm: str) -> Any:
        """The mean over runs where an arm's runs diverge now and then."""
        share = self.diverged.get(arm, 0.0)
        return (1 - share) * accuracy + share / CLASSES


_DIFFICULTY, _OWN_DIFFICULTY = 1.6, 0.8


def simulate(
    design: Design, truth: Truth, rng: np.random.Generator, predictions: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A leaderboard, and the expected accuracy of each arm and size in each of its tasks.

    Args:
        predictions: whether the leaderboard says which test images each run got right.

    Returns:
        The prepared leaderboard; and `task` (its number), `arm`, `size`, `expected`.
    """
    board = design.board.copy()
    keys = list(dict.fromkeys(zip(board["arm"], board["images_per_class"], strict=True)))
    draws = list(board["class_draw"])
    expected: list[tuple[int, str, int, float]] = []
    correct = np.empty((len(board), design.test_images), dtype=bool)
    for task in range(design.tasks):
        base = truth.accuracy + truth.task_spread * rng.standard_normal()
        difficulty = _DIFFICULTY * rng.standard_normal(design.test_images)
        factor = truth.unequal ** rng.uniform(-1, 1)
        shared = truth.seed_spread * rng.standard_normal(design.seeds)
        for arm, size in keys:
            own = truth.interaction * rng.standard_normal()
            goal = float(np.clip(base + truth.effect(arm, int(size)) + own, 0.02, 0.98))
            expected.append((task, arm, int(size), float(truth.expected(goal, arm))))
            images = difficulty + _OWN_DIFFICULTY * rng.standard_normal(design.test_images)
            spread = truth.seed_spread * factor
            noise = shared + spread * rng.standard_normal(design.seeds)
            noise = noise + _draws(design, truth, int(size), rng)
            variance = _DIFFICULTY**2 + _OWN_DIFFICULTY**2 + truth.seed_spread**2 + spread**2
            centre = _logit_for(round(goal, 5), round(variance + _draw_variance(truth, size), 5))
            chances = special.expit(centre + noise[:, None] + images[None, :])
            rows = [
                place
                for place, (a, n, t) in enumerate(
                    zip(board["arm"], board["images_per_class"], draws, strict=True)
                )
                if (a, n, t) == (arm, size, task)
            ]
            correct[rows] = rng.random(chances.shape) < chances
    return _measured(board, correct, truth, rng, predictions), pd.DataFrame(
        expected, columns=["task", "arm", "size", "expected"]
    )


def _draws(design: Design, truth: Truth, size: int, rng: np.random.Generator) -> Array:
    """What each seed's draw of training images brings, from one pool of finite size."""
    if not truth.draw_spread:
        return np.zeros(design.seeds)
    if design.available is None:
        alone = rng.standard_normal(design.seeds)
        return np.asarray(truth.draw_spread / np.sqrt(size) * alone, dtype=np.float64)
    pool = truth.draw_spread * rng.standard_normal(design.available)
    return np.array(
        [rng.permutation(pool)[:size].mean() for _ in range(design.seeds)], dtype=np.float64
    )


def _draw_variance(truth: Truth, size: float) -> float:
    return truth.draw_spread**2 / size


def _measured(
    board: pd.DataFrame,
    correct: npt.NDArray[np.bool_],
    truth: Truth,
    rng: np.random.Generator,
    predictions: bool,
) -> pd.DataFrame:
    board["top1_accuracy"] = correct.mean(axis=1)
    noise = 0.02 * rng.standard_normal(len(board))
    board["val_top1_accuracy"] = np.clip(board["top1_accuracy"] + noise, 0, 1)
    shares = board["arm"].map(lambda arm: truth.diverged.get(arm, 0.0)).to_numpy()
    away = rng.random(len(board)) < shares
    board.loc[away, "status"] = "diverged"
    prepared = prepare(board)
    if predictions:
        truths = [None if lost else row for lost, row in zip(away, correct, strict=True)]
        prepared["correct"] = pd.Series(truths, index=prepared.index, dtype=object)
    return prepared


@functools.lru_cache(maxsize=20_000)
def _logit_for(accuracy: float, variance: float) -> float:
    """The mean logit at which a normal spread of this variance gives the accuracy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    shares = weights / weights.sum()

    def gap(centre: float) -> float:
        found = float(shares @ special.expit(centre + np.sqrt(variance) * nodes))
        return found - accuracy

    return float(optimize.brentq(gap, -15, 15))


def differences(expected: pd.DataFrame, left: str, right: str, sizes: Sequence[int]) -> Array:
    """The true difference of two arms in each task, the mean over sizes."""
    table = expected[expected["size"].isin(sizes)]
    means = table.groupby(["task", "arm"])["expected"].mean().unstack()
    return np.asarray(means[left] - means[right], dtype=np.float64)
