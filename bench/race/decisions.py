"""What a race has decided, in a file beside its grid: the same command goes on from there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.core.files import write_atomic
from bench.race.schedule import Rung

_RULES = 4
"""Raise it when a race that is gone on with would run other things than it had begun."""


@dataclass(frozen=True)
class Stage:
    """An experiment for each of some arms.

    Attributes:
        name: `floor`, `rung-1` …, `final` or `winner`, `compared`, `scratch`.
        arms: names of the arms.
        epochs: the time of each, in epochs of a recipe that trains all layers; 0 where nothing is
            trained by steps.
        size: side of the images.
        seeds: how many.
        on_all: trains on validation images too, without choosing anything.
        tested: reads the test images: only what has been chosen, and what it is compared with.
    """

    name: str
    arms: tuple[str, ...]
    epochs: int
    size: int
    seeds: int
    on_all: bool = False
    tested: bool = False


@dataclass(frozen=True)
class Plan:
    """The side of the images in the race, and its rungs."""

    size: int
    rungs: tuple[Rung, ...]


@dataclass
class Decisions:
    """What is decided, and what the time was over for.

    Attributes:
        path: the file.
        of: what the race is about; another one must have another name.
        plan: None before the floor has ended.
        stages: by name, in their order.
        stopped: experiments that were given up because the time was over, each with the epochs
            that were trained and those of the recipe. Such a run has no record: nothing is taken
            from a schedule that was cut. Its checkpoint stays, and `bench grid FILE` finishes it.
        spent_s: seconds of the budget up to the last writing.
        done: whether the race has come to its end.
        budget_s: for which its end was planned; None before it, and of earlier versions.
        answer: the lines that were then shown.
    """

    path: Path
    of: Mapping[str, Any]
    plan: Plan | None = None
    stages: dict[str, Stage] = field(default_factory=dict)
    stopped: dict[str, tuple[int, int]] = field(default_factory=dict)
    spent_s: float = 0.0
    done: bool = False
    budget_s: float | None = None
    answer: tuple[str, ...] = ()

    def recall(self, arms: Collection[str]) -> None:
        """Reads what an earlier command has written, if one has.

        Args:
            arms: names of the recipes that there are.

        Raises:
            BenchError: it was about other images, weights or recipes, or cannot be read.
        """
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            stages = [Stage(**{**one, "arms": tuple(one["arms"])}) for one in state["stages"]]
            plan = state["plan"]
            if plan is not None:
                plan = Plan(plan["size"], tuple(Rung(**rung) for rung in plan["rungs"]))
            stopped = {k: (int(n), int(of)) for k, (n, of) in state.get("stopped", {}).items()}
            spent_s = float(state.get("spent_s", 0.0))
            budget_s = None if state.get("budget_s") is None else float(state["budget_s"])
            answer = tuple(str(line) for line in state.get("answer", ()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise BenchError(
                f"{self.path} cannot be read", hint="delete it to begin the race anew"
            ) from None
        grid = self.path.with_suffix(".yaml")
        if state.get("rules") != _RULES:
            raise BenchError(
                f"a race of an earlier version of the name {self.path.stem!r} lies in {grid}",
                hint="give this one another --name, or another --results",
            )
        if state.get("of") != self.of:
            raise BenchError(
                f"a race of the name {self.path.stem!r} on other images or weights lies in {grid}",
                hint="give this one another --name, or another --results",
            )
        gone = sorted({name for stage in stages for name in stage.arms} - set(arms))
        if gone:
            raise BenchError(
                f"{self.path} names the recipe {gone[0]!r}, which there is no more",
                hint="give this race another --name, or delete the file to begin it anew",
            )
        self.plan, self.stages = plan, {stage.name: stage for stage in stages}
        self.stopped, self.spent_s, self.done = stopped, spent_s, bool(state.get("done"))
        self.answer, self.budget_s = answer, budget_s

    @staticmethod
    def answer_beside(grid: Path) -> tuple[str, ...]:
        """The lines of a race's answer, by its grid; empty where there is none."""
        try:
            state = json.loads(grid.with_suffix(".json").read_text(encoding="utf-8"))
            ended = state["rules"] == _RULES and state["done"]
            return tuple(str(line) for line in state["answer"]) if ended else ()
        except (OSError, ValueError, TypeError, KeyError):
            return ()

    def keep(self) -> None:
        """Writes it."""
        state = {
            "rules": _RULES,
            "of": self.of,
            "plan": None if self.plan is None else asdict(self.plan),
            "stages": [asdict(stage) for stage in self.stages.values()],
            "stopped": self.stopped,
            "spent_s": round(self.spent_s, 1),
            "done": self.done,
            "budget_s": self.budget_s,
            "answer": self.answer,
        }
        write_atomic(self.path, json.dumps(state, indent=1))
