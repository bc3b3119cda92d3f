"""Tuning a part of the copied layers, layer-wise rates, and the pull of L2-SP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import ModelError
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models.layers import (
    apply_pattern,
    create,
    freeze_modes,
    parameter_groups,
    trainable_parameters,
)
from bench.models.numbering import depth, numbered_layers
from bench.models.tuning import tune_only, unfreezing
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training import optimizers as optim
from bench.training.domain import Domain
from bench.training.job import Interrupted, TrainingJob
from bench.training.loop import train

SPEC = ModelSpec(name="narrow8_32")
RNG = np.random.default_rng(0)
IMAGES = Domain("d", RNG.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), np.arange(8) % 2, 2)


def _tuned(tuned: Any, text: str = "F(1)T(2-7)R(8)", name: str = "narrow8_32") -> nn.Module:
    spec = ModelSpec(name=name)
    pattern = LayerPattern.parse(text)
    model = create(spec, 2, seed=1)
    apply_pattern(model, pattern, create(spec, 3, seed=0).state_dict())
    tune_only(model, pattern, tuned)
    return model


def _moved(model: nn.Module, text: str, **changes: Any) -> set[str]:
    """Names of the parameters that an epoch of training moves."""
    recipe = TrainSpec(epochs=1, batch_size=4, select="last", lr=0.1, **changes)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    groups = parameter_groups(model, LayerPattern.parse(text), recipe)
    train(TrainingJob(model, Plain(Ingredients(IMAGES, recipe)), groups, recipe))
    return {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}


def test_only_normalisations_of_tuned_layers_move() -> None:
    text = "F(1)T(2-7)R(8)"
    moved = _moved(_tuned("norm", text), text)
    norms = {f"conv{n}.norm.{p}" for n in range(2, 6) for p in ("weight", "bias")}
    assert moved == norms | {"fc8.fc.weight", "fc8.fc.bias"}


def test_only_biases_of_tuned_layers_move() -> None:
    text = "F(1)T(2-7)R(8)"
    moved = _moved(_tuned("bias", text), text)
    biases = {f"conv{n}.norm.bias" for n in range(2, 6)} | {"fc6.fc.bias", "fc7.fc.bias"}
    assert moved == biases | {"fc8.fc.weight", "fc8.fc.bias"}


def test_the_number_of_trained_parameters_is_that_of_the_chosen_ones() -> None:
    model = _tuned("norm", "T(1-7)R(8)")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = sum(2 * m.num_features for m in norms) + sum(
        p.numel() for p in model.get_submodule("fc8").parameters()
    )
    assert trainable_parameters(model) == expected
    assert trainable_parameters(_tuned("all", "T(1-7)R(8)")) == sum(
        p.numel() for p in model.parameters()
    )


def test_layer_normalisations_count_too() -> None:
    spec = ModelSpec(name="test_vit")
    model = create(spec, 2, seed=0)
    last = depth(model)
    pattern = LayerPattern.parse(f"T(1-{last - 1})R({last})")
    tune_only(model, pattern, "norm")
    left = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "blocks.0.norm1.weight" in left
    assert not any("qkv" in name for name in left)


def test_a_network_without_normalisation_says_so() -> None:
    model = create(ModelSpec(name="caffenet"), 2, seed=0, image_size=67)
    with pytest.raises(ModelError, match="tuned: norm, but no T layer"):
        tune_only(model, LayerPattern.parse("T(1-7)R(8)"), "norm")


def test_layer_wise_rates_by_hand() -> None:
    """Copied layer n of 8 has decay ** (8 - n), the random last layer 1."""
    text = "F(1)T(2-7)R(8)"
    recipe = TrainSpec(lr=0.1, copied_lr_factor=0.5, layer_lr_decay=0.7)
    groups = parameter_groups(_tuned("all", text), LayerPattern.parse(text), recipe)
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    for n in range(2, 8):
        name = f"conv{n}.conv.weight" if n < 6 else f"fc{n}.fc.weight"
        assert rate[name] == pytest.approx(0.1 * 0.5 * 0.7 ** (8 - n))
    assert rate["fc8.fc.weight"] == 0.1
    assert "conv1.conv.weight" not in rate


# --- L2-SP ------------------------------------------------------------------------------------


def test_the_pull_is_the_gradient_of_the_penalty() -> None:
    """alpha (w - w0), against autograd of alpha / 2 |w - w0|²."""
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(start.clone())
    optimizer = optim.build([{"params": [weight], "l2_sp": 0.3}], TrainSpec())
    anchors = optim.Anchors(optimizer)
    with torch.no_grad():
        weight += torch.arange(5.0)
    weight.grad = torch.ones(5)
    anchors.pull()
    free = weight.detach().clone().requires_grad_()
    (free.sum() + 0.15 * (free - start).pow(2).sum()).backward()
    torch.testing.assert_close(weight.grad, free.grad)


def test_copied_layers_have_the_pull_and_no_decay_random_ones_the_decay() -> None:
    text = "F(1)T(2-7)R(8)"
    recipe = TrainSpec(l2_sp=0.2, weight_decay=1e-3)
    groups = parameter_groups(_tuned("all", text), LayerPattern.parse(text), recipe)
    for group in groups:
        random = all(name.startswith("fc8") for name in group["names"])
        assert (group["l2_sp"], group["weight_decay"]) == ((0.0, 1e-3) if random else (0.2, 0.0))


def test_a_strong_pull_keeps_the_trunk_where_it_was() -> None:
    text = "T(1-7)R(8)"
    distance = []
    for strength in (0.0, 50.0):
        model = _tuned("all", text)
        before = {k: v.detach().clone() for k, v in model.named_parameters()}
        recipe = TrainSpec(
            epochs=15, batch_size=8, select="last", lr=0.01, momentum=0.0, l2_sp=strength
        )
        groups = parameter_groups(model, LayerPattern.parse(text), recipe)
        train(TrainingJob(model, Plain(Ingredients(IMAGES, recipe)), groups, recipe))
        distance.append(
            sum(
                float((v - before[k]).square().sum().detach())
                for k, v in model.named_parameters()
                if not k.startswith("fc8")
            )
        )
    assert distance[1] < 0.1 * distance[0]


def test_a_resumed_run_is_pulled_to_the_first_start(tmp_path: Any) -> None:
    """The weights of a checkpoint are not where the training began."""
    from bench.training.job import Interrupted

    text, recipe = "T(1-7)R(8)", TrainSpec(epochs=3, batch_size=4, select="last", l2_sp=1.0)

    def attempt(stop_after: int, **more: Any) -> Any:
        model, asked = _tuned("all", text), [0]

        def stop() -> bool:
            asked[0] += 1
            return asked[0] == stop_after

        groups = parameter_groups(model, LayerPattern.parse(text), recipe)
        method = Plain(Ingredients(IMAGES, recipe))
        return train(TrainingJob(model, method, groups, recipe, should_stop=stop, **more))

    whole = attempt(0)
    with pytest.raises(Interrupted):
        attempt(3, checkpoint=tmp_path / "c.safetensors")
    resumed = attempt(0, checkpoint=tmp_path / "c.safetensors")
    assert all(torch.equal(v, whole.state[k]) for k, v in resumed.state.items())


# --- one layer after the other ---


def _staged(every: int | None, text: str, epochs: int, **more: Any) -> list[set[str]]:
    """Names of the parameters and buffers that have moved after each epoch."""
    pattern = LayerPattern.parse(text)
    model = _tuned("all", text)
    recipe = TrainSpec(epochs=epochs, batch_size=4, select="last", lr=0.003, unfreeze_every=every)
    groups = parameter_groups(model, pattern, recipe)
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    moved: list[set[str]] = []

    def look(report: object) -> None:
        state = model.state_dict()
        moved.append({k for k, v in state.items() if not torch.equal(v, before[k])})

    train(
        TrainingJob(
            model,
            Plain(Ingredients(IMAGES, recipe)),
            groups,
            recipe,
            set_modes=freeze_modes(model, pattern, True),
            stage=unfreezing(model, pattern, every),
            on_epoch=look,
            **more,
        )
    )
    return moved


def _names(*layers: int) -> set[str]:
    found = numbered_layers(create(SPEC, 2, seed=0))
    return {
        name
        for layer in found
        if layer.number in layers
        for name in (*layer.parameters, *layer.buffers)
    }


def test_layers_join_from_the_last_on_and_stay_as_they_are_until_then() -> None:
    """Howard, Ruder 2018, §3.3: the classifier first, then one more layer after each epoch."""
    moved = _staged(1, "F(1)T(2-7)R(8)", 8)
    for epoch in range(6):
        assert moved[epoch] == _names(*range(8 - epoch, 9)), epoch
    assert moved[6] == moved[7] == _names(*range(2, 9))


def test_without_a_random_layer_the_last_tuned_one_begins() -> None:
    model = create(SPEC, 2, seed=1)
    pattern = LayerPattern.parse("F(1-4)T(5)F(6)T(7-8)")
    stage = unfreezing(model, pattern, 2)
    for epoch, joined in enumerate([[8], [8], [7, 8], [7, 8], [5, 7, 8], [5, 7, 8]]):
        stage(epoch)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        waiting = {5, 7, 8} - set(joined)
        assert not trained & _names(*waiting)
        assert trained >= {n for n in _names(*joined) if n in dict(model.named_parameters())}


def test_no_stages_train_all_from_the_start() -> None:
    assert _staged(None, "F(1)T(2-7)R(8)", 1) == [_names(*range(2, 9))]


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_a_stopped_training_resumes_in_its_stage(stop: int, tmp_path: Path) -> None:
    expected = _staged(1, "F(1-4)T(5-7)R(8)", 3)
    where = {"checkpoint": tmp_path / "c.safetensors", "identity": "run"}
    left = iter(range(stop - 1))
    with pytest.raises(Interrupted):
        _staged(1, "F(1-4)T(5-7)R(8)", 3, should_stop=lambda: next(left, None) is None, **where)
    resumed = _staged(1, "F(1-4)T(5-7)R(8)", 3, **where)
    assert resumed == expected[-len(resumed) :]


def test_a_single_block_is_a_pattern() -> None:
    """Lee et al. 2023, "surgical": one block is tuned, the others and their statistics stay."""
    text = "F(1-2)T(3)F(4-7)R(8)"
    assert _staged(None, text, 1) == [_names(3, 8)]
