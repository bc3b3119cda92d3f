"""Soft fine-tuning: alpha, Eqs. 1 and 3, what the record says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import GridError
from bench.methods import Ingredients, build, check
from bench.methods.finetuning.soft import Soft, SoftOptions, alpha
from bench.models.heads import MultiHead
from bench.specs.run import TrainSpec
from bench.training.domain import Domain, Step
from bench.training.job import TrainingJob
from bench.training.loop import train


def _domain(name: str, count: int, classes: int, seed: int) -> Domain:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Domain(name, images, rng.integers(0, classes, count), classes)


TARGET, SOURCE, SECOND = (
    _domain("target", 18, 3, 0),
    _domain("source", 40, 5, 1),
    _domain("second", 11, 4, 2),
)
EMPTY = Domain("second", np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), 4)
RECIPE = TrainSpec(epochs=4, batch_size=6, augment="none", select="last")


def _predict(domain: int) -> Any:
    raise AssertionError("not needed")


def _net(heads: int = 2, batch_norm: Any = "joint") -> MultiHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
        )
        classifiers = [nn.Linear(24, classes) for classes in (3, 5, 4)[:heads]]
    return MultiHead(trunk, classifiers, batch_norm=batch_norm)


def _train(net: MultiHead, method: Any, **changes: Any) -> Any:
    recipe = TrainSpec.model_validate(RECIPE.model_dump() | changes)
    groups = [{"params": list(net.parameters())}]
    return train(TrainingJob(net, method, groups, recipe, forward=net))


def _soft(sources: tuple[Domain, ...] = (SOURCE,), **options: Any) -> Soft:
    return Soft(Ingredients(TARGET, RECIPE, sources=sources), SoftOptions(**options))


# --- Eq. 2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ramp", "base", "expected"),
    [
        (60.0, 0, {0: 0.0, 30: 0.5, 60: 1.0, 99: 1.0}),  # action recognition
        (20.0, 0, {0: 0.0, 10: 0.5, 20: 1.0, 24: 1.0}),  # fine-grained
        (5.0, 0, {0: 0.0, 1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8}),  # faces
        (5.0, 1, {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0}),
    ],
)
def test_alpha_is_the_papers(ramp: float, base: Any, expected: dict[int, float]) -> None:
    options = SoftOptions(epoch_base=base)
    found = {epoch: alpha(options, ramp, epoch, 3, 7) for epoch in expected}
    assert found == pytest.approx(expected)


def test_by_iteration_alpha_rises_within_epochs() -> None:
    options = SoftOptions(schedule="iteration")
    found = [alpha(options, 2.0, epoch, step, 4) for epoch in range(3) for step in range(4)]
    assert found == pytest.approx([n / 8 for n in range(8)] + [1.0] * 4)
    by_epoch = [alpha(SoftOptions(), 2.0, epoch, 0, 4) for epoch in range(3)]
    assert found[::4] == pytest.approx(by_epoch)
    from_one = SoftOptions(schedule="iteration", epoch_base=1)
    assert alpha(from_one, 2.0, 1, 3, 4) == 1.0


def test_the_default_ramp_is_four_fifths_of_the_epochs() -> None:
    fine_grained = TrainSpec(epochs=25)
    method = Soft(Ingredients(TARGET, fine_grained, sources=(SOURCE,)), SoftOptions())
    assert method.ramp_epochs == 20.0


def test_a_ramp_of_no_length_is_an_error() -> None:
    """Bad input: E = 0."""
    with pytest.raises(
        GridError, match=r"method 'soft': ramp_epochs is 0[\s\S]*must be more than 0"
    ):
        check("soft", {"ramp_epochs": 0})
    with pytest.raises(GridError, match="epoch_base is 2"):
        check("soft", {"epoch_base": 2})


# --- Eqs. 1 and 3 -----------------------------------------------------------------------------


def _weights(steps: Sequence[Step]) -> list[list[tuple[int, float]]]:
    return [[(part.domain, part.weight) for part in step] for step in steps]


def test_the_source_fades_and_is_dropped_at_the_end() -> None:
    method = _soft(ramp_epochs=2.0)
    found = [_weights(method.steps(epoch, _predict))[0] for epoch in range(4)]
    assert found == [[(0, 1.0), (1, 1.0)], [(0, 1.0), (1, 0.5)], [(0, 1.0)], [(0, 1.0)]]
    kept = _soft(ramp_epochs=2.0, drop_at_end=False)
    assert _weights(kept.steps(3, _predict))[0] == [(0, 1.0), (1, 0.0)]


def test_a_sample_is_a_pair() -> None:
    for target, source in _soft().steps(0, _predict):
        assert len(target.indices) == len(source.indices) == 6


def test_gradient_at_a_quarter_is_three_quarters_of_the_sources_plus_the_targets() -> None:
    """Eq. 1 at alpha = 0.25, through one step of the loop with lr 1."""
    step = {"epochs": 1, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 18}
    recipe = TrainSpec.model_validate(RECIPE.model_dump() | step)
    ingredients = Ingredients(TARGET, recipe, sources=(SOURCE,))
    method = Soft(ingredients, SoftOptions(ramp_epochs=4.0, epoch_base=1))
    (both,) = method.steps(0, _predict)
    assert [part.weight for part in both] == [1.0, 0.75]

    def moved(parts: Step, weight: float) -> Tensor:
        class Once(Soft):
            def steps(self, epoch: int, predict: Any) -> Sequence[Step]:
                return [tuple(type(p)(p.domain, p.indices, p.weight * weight) for p in parts)]

        net = _net(batch_norm="frozen").double()
        before = net.trunk[0].weight.detach().clone()

        def forward(x: Tensor, counts: Any) -> list[Tensor]:
            return net(x.double(), counts)

        once = Once(ingredients, SoftOptions())
        groups = [{"params": list(net.parameters())}]
        train(TrainingJob(net, once, groups, recipe, forward=forward))
        return before - net.trunk[0].weight.detach()

    target, source = moved(both[:1], 1.0), moved(both[1:], 1 / 0.75)
    assert source.abs().max() > 1e-4
    torch.testing.assert_close(moved(both, 1.0), target + 0.75 * source, rtol=1e-5, atol=1e-7)


def test_alpha_zero_throughout_is_the_intermediate_stage() -> None:
    """Bit for bit: the stage's own schedule, and a ramp too long to begin."""

    class AlwaysInFull(Soft):
        def _alpha(self, epoch: int, step: int, steps: int) -> float:
            return 0.0

    ingredients = Ingredients(TARGET, RECIPE, sources=(SOURCE,))
    stage = _train(_net(), _soft(schedule="zero"))
    literal = _train(_net(), AlwaysInFull(ingredients, SoftOptions(ramp_epochs=2.0)))
    assert all(torch.equal(v, literal.state[k]) for k, v in stage.state.items())
    ramped = _train(_net(), _soft(ramp_epochs=2.0))
    assert not torch.equal(ramped.state["trunk.0.weight"], stage.state["trunk.0.weight"])


def test_once_alpha_is_one_training_is_plain() -> None:
    net, plain = _net(), _net()
    first = _train(net, _soft(ramp_epochs=1.0, epoch_base=1))
    one_domain = build("plain", {}, Ingredients(TARGET, RECIPE))
    second = _train(plain, one_domain)
    for key, value in second.state.items():
        assert torch.equal(value, first.state[key]), key


@pytest.mark.parametrize(("second", "options"), [(EMPTY, {}), (SECOND, {"second_weight": 0.0})])
def test_eq_3_without_a_second_target_is_eq_1(second: Domain, options: dict[str, Any]) -> None:
    """SFT-1: with an empty set; SFT-4: with the weight of its loss 0."""
    three = _train(_net(3), _soft((SOURCE, second), **options))
    two = _train(_net(2), _soft((SOURCE,)))
    for key, value in two.state.items():
        assert torch.equal(value, three.state[key]), key


def test_the_second_target_keeps_its_weight() -> None:
    method = _soft((SOURCE, SECOND), ramp_epochs=1.0)
    assert _weights(method.steps(0, _predict))[0] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert _weights(method.steps(3, _predict))[0] == [(0, 1.0), (2, 1.0)]
    assert [d.num_classes for d in method.domains] == [3, 5, 4]


def test_three_borrowed_selections_are_too_many() -> None:
    with pytest.raises(GridError, match="one source and one second target"):
        _soft((SOURCE, SECOND, SECOND))


def test_the_source_head_is_the_parents_and_whole() -> None:
    """SFT-4 (c): a tenth of the categories keeps the full classifier unless asked otherwise."""
    few = Domain("source", SOURCE.images, np.full(SOURCE.size, 3), 5)
    head = _soft((few,)).heads[1]
    assert head.kept
    assert head.classes.tolist() == [0, 1, 2, 3, 4]
    assert _soft((few,), reindex=True).heads[1].classes.tolist() == [3]
    assert not _soft((few,), source_head="random").heads[1].kept
    assert not _soft((SOURCE, SECOND)).heads[2].kept


# --- what is left behind ----------------------------------------------------------------------


def test_the_history_has_the_sources_weight_and_the_notes_both_scores() -> None:
    method = _soft(ramp_epochs=2.0)
    groups = [{"params": list((net := _net()).parameters())}]
    job = TrainingJob(net, method, groups, RECIPE, forward=net, validation=TARGET)
    history = train(job).history
    assert [row["borrowed_1_weight"] for row in history] == [1.0, 0.5, 0.0, 0.0]
    notes = method.notes(history)
    accuracies = [row["val_top1_accuracy"] for row in history]
    assert notes["alpha_is_1_from_epoch"] == 3
    assert notes["val_top1_accuracy_once_alpha_is_1"] == accuracies[2]
    assert notes["val_top1_accuracy_at_the_end"] == accuracies[3]
    assert notes["best_val_top1_accuracy"] == max(a for a in accuracies if a is not None)
    assert accuracies[notes["best_val_epoch"] - 1] == notes["best_val_top1_accuracy"]


def test_notes_of_a_run_that_never_gets_there() -> None:
    method = _soft(ramp_epochs=50.0)
    notes = method.notes([{"epoch": 0, "val_top1_accuracy": None}])
    assert notes["alpha_is_1_from_epoch"] is None
    assert notes["best_val_epoch"] is None


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Any) -> None:
    from bench.training.job import Interrupted

    whole = _train(_net(), _soft(ramp_epochs=3.0, schedule="iteration"))
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    def attempt() -> Any:
        net = _net()
        groups = [{"params": list(net.parameters())}]
        method = _soft(ramp_epochs=3.0, schedule="iteration")
        file = tmp_path / "checkpoint.safetensors"
        return train(
            TrainingJob(net, method, groups, RECIPE, forward=net, checkpoint=file, should_stop=stop)
        )

    with pytest.raises(Interrupted):
        attempt()
    resumed = attempt()
    assert copy.deepcopy(resumed.history) == whole.history
    assert all(torch.equal(v, whole.state[k]) for k, v in resumed.state.items())
