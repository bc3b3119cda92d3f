"""Schedules that begin anew, and weights kept between rounds (GE-5, GE-7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.specs.run import TrainSpec
from bench.training.domain import Domain
from bench.training.job import Interrupted, Outcome, TrainingJob
from bench.training.loop import train
from bench.training.optimizers import lr_factor

RNG = np.random.default_rng(0)
DATA = Domain("toy", RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), np.arange(20) % 2, 2)


def _train(checkpoint: Path | None = None, stop_after: int = 10**9, **given: object) -> Outcome:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    recipe = TrainSpec(
        batch_size=8, epochs=6, lr=0.02, augment="none", select="last", restart_every=2
    )
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps > stop_after

    return train(
        TrainingJob(
            model=model,
            method=Plain(Ingredients(DATA, recipe)),
            groups=[{"params": list(model.parameters())}],
            train=recipe,
            checkpoint=checkpoint,
            identity="x",
            should_stop=stop,
            **given,  # type: ignore[arg-type]
        )
    )


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_each_round_has_the_schedule_of_a_training_of_its_length(schedule: str) -> None:
    whole = TrainSpec(schedule=schedule, epochs=12, step_epochs=2, restart_every=5)  # type: ignore[arg-type]
    for start, end in ((0, 5), (5, 10), (10, 12)):
        alone = whole.model_copy(update={"epochs": end - start})
        for epoch in range(start, end):
            for step in range(3):
                found = lr_factor(whole, epoch, step, 3)
                assert found == lr_factor(alone, epoch - start, step, 3)


def test_warm_up_is_for_the_first_round_only() -> None:
    recipe = TrainSpec(epochs=8, warmup_epochs=1.0, restart_every=4)
    assert lr_factor(recipe, 0, 0, 4) == 0.25
    assert lr_factor(recipe, 4, 0, 4) == 1.0


def test_steps_may_be_given_in_iterations() -> None:
    """GE §4.1: a tenth after every so many iterations, wherever an epoch ends."""
    recipe = TrainSpec(schedule="step", step_iterations=5, epochs=9)
    factors = [lr_factor(recipe, epoch, step, 3) for epoch in range(9) for step in range(3)]
    assert factors == [pytest.approx(0.1 ** (done // 5)) for done in range(27)]
    with pytest.raises(ValueError, match=r"step_iterations is 5, but schedule is cosine"):
        TrainSpec(step_iterations=5)


def test_the_loop_restarts_and_keeps_the_weights_between_rounds() -> None:
    outcome = _train(keep_before=(2, 4))
    rates = [row["lr"] for row in outcome.history]
    assert rates[0] == rates[2] == rates[4] == 0.02
    assert rates[1] == rates[3] == rates[5] == pytest.approx(0.01)
    assert len(outcome.kept) == 2
    two = _train()
    assert all(torch.equal(two.state[k], outcome.state[k]) for k in two.state)
    assert not any(torch.equal(outcome.kept[0][k], outcome.kept[1][k]) for k in two.state)
    assert not any(torch.equal(outcome.kept[1][k], outcome.state[k]) for k in two.state)


@pytest.mark.parametrize("stop_after", [3, 7, 8, 14])
def test_a_stopped_training_keeps_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    rounds = {"keep_before": (2, 4)}
    whole = _train(**rounds)
    with pytest.raises(Interrupted):
        _train(tmp_path / "checkpoint", stop_after, **rounds)
    resumed = _train(tmp_path / "checkpoint", **rounds)
    assert resumed.notes
    for a, b in zip((*whole.kept, whole.state), (*resumed.kept, resumed.state), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_warm_up_longer_than_the_first_round_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"warmup_epochs is 3.0, but restart_every is 2"):
        TrainSpec(epochs=6, warmup_epochs=3.0, restart_every=2)
