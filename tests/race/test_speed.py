"""How fast a race's network trains: on a GPU by steps of its own recipe, handed over in a row."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from bench.planning import step_times
from bench.race import speed
from bench.specs.run import TrainSpec
from bench.training.steps import Stepper
from tests.fake_cuda.devices import Gpus, fake_gpus

RECIPE = {"batch_size": 32, "accumulate": 2, "precision": "bfloat16", "augment": "crop_flip"}


def _asked(device: str) -> dict[str, Any]:
    asked = {"model": "narrow8_32", "sizes": [24, 32], "device": device}
    return asked | {"of_cpu": True, "train": RECIPE}


class _Watched:
    """The steps that are taken: how many images, which recipe, and how often was waited before."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[int, TrainSpec, int]] = []
        self.gpus: Gpus | None = None
        take = Stepper.take

        def watched(stepper: Stepper, step: Any, *more: Any) -> Any:
            counts = self.gpus.counts.waits if self.gpus else {}
            waits = sum(count for (what, _), count in counts.items() if what == "synchronize")
            self.steps.append((len(step[0].indices), stepper.train, waits))
            return take(stepper, step, *more)

        patch.setattr(Stepper, "take", watched)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> _Watched:
    times = itertools.count()
    monkeypatch.setattr(step_times, "_clock", lambda device: lambda: 0.03 * next(times))
    return _Watched(monkeypatch)


def test_on_a_gpu_steps_are_those_of_the_recipe_and_are_not_waited_for(watched: _Watched) -> None:
    with fake_gpus() as watched.gpus:
        found = speed._answer(_asked("cuda"))
    assert set(found["rates"]) == {"24", "32"}
    own = [(train, waits) for count, train, waits in watched.steps if count == 16]  # of a pass
    assert {train.precision for train, _ in own} == {"bfloat16"}
    in_a_row = Counter(waits for _, waits in own)
    assert sorted(set(in_a_row.values())) == [1, 3]  # 3 steps of 0.03 s are as many as 0.1 s has
    # A step takes a third of the time between two waits: 16 images in 0.01 s.
    assert found["rates"] == {size: pytest.approx(16 / 0.01) for size in ("24", "32")}


def test_on_a_cpu_no_step_of_the_recipe_is_needed(watched: _Watched) -> None:
    found = speed._answer(_asked("cpu"))
    assert set(found["rates"]) == {"24", "32"}
    assert watched.steps == []


def test_a_network_that_a_gpu_cannot_train_is_an_error() -> None:
    asked = _asked("cuda") | {"sizes": [3]}
    with fake_gpus(), pytest.raises(RuntimeError, match="no size of the images"):
        speed._answer(asked)
