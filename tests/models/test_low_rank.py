"""Low-rank adaptation: counts, the base as it was, and merged weights with the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import ModelError
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models.layers import apply_pattern, create, parameter_groups, trainable_parameters
from bench.models.numbering import depth, numbered_layers
from bench.models.tuning import LowRank, add_low_rank, merge, merged_state, tune_only
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training.domain import Domain
from bench.training.job import Outcome, TrainingJob
from bench.training.loop import train

RNG = np.random.default_rng(0)
IMAGES = Domain("d", RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % 2, 2)
NETWORKS = ["narrow8_32", "test_vit", "resnet10t", "convnext_atto", "mobilenetv3_small_050"]
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _size(name: str) -> int | None:
    return 32 if "vit" in name else None


def _adapted(name: str, recipe: TrainSpec) -> tuple[nn.Module, LayerPattern, list[dict]]:
    """A parent's network with a new classifier, adapted in all layers but the first and last."""
    spec = ModelSpec(name=name)
    model = create(spec, 2, seed=1, image_size=_size(name))
    last = depth(model)
    pattern = LayerPattern.parse(f"F(1)T(2-{last - 1})R({last})")
    apply_pattern(model, pattern, create(spec, 3, seed=0, image_size=_size(name)).state_dict())
    tune_only(model, pattern, recipe.tuned)
    groups = parameter_groups(model, pattern, recipe)
    return model, pattern, groups + add_low_rank(model, pattern, recipe, seed=5)


def _recipe(**changes: object) -> TrainSpec:
    usual = {"tuned": "lora", "epochs": 2, "batch_size": 6, "select": "last", "lr": 0.05}
    return TrainSpec.model_validate(usual | changes)


def _train(model: nn.Module, groups: list[dict], recipe: TrainSpec, **more: object) -> Outcome:
    method = Plain(Ingredients(IMAGES, recipe))
    return train(TrainingJob(model, method, groups, recipe, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_before_the_first_step_the_network_is_the_parents(name: str) -> None:
    model, pattern, _ = _adapted(name, _recipe())
    plain = create(ModelSpec(name=name), 2, seed=1, image_size=_size(name))
    parent = create(ModelSpec(name=name), 3, seed=0, image_size=_size(name))
    apply_pattern(plain, pattern, parent.state_dict())
    assert torch.equal(model.eval()(X), plain.eval()(X))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_base_stays_to_the_bit_and_merged_weights_give_the_same_logits(name: str) -> None:
    recipe = _recipe(lora_rank=3, lora_alpha=6.0)
    model, _, groups = _adapted(name, recipe)
    names = set(create(ModelSpec(name=name), 2, seed=0, image_size=_size(name)).state_dict())
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    state = _train(model, groups, recipe).state
    after = dict(model.named_parameters())
    head = numbered_layers(create(ModelSpec(name=name), 2, seed=0, image_size=_size(name)))[-1]
    products = {k for k in before if k.endswith((".up", ".down"))}
    assert products
    moved = {k for k in after if not torch.equal(before[k], after[k])}
    assert set(head.parameters) < moved <= {*products, *head.parameters}
    logits = model.eval()(X)
    merged = merged_state(model, state)
    merge(model)
    assert set(model.state_dict()) == set(merged) == names
    assert all(torch.equal(model.state_dict()[k], v) for k, v in merged.items())
    assert torch.equal(model(X), logits)
    fresh = create(ModelSpec(name=name), 2, seed=7, image_size=_size(name)).eval()
    fresh.load_state_dict(merged)
    torch.testing.assert_close(fresh(X), logits)
    assert not any(isinstance(module, LowRank) for module in model.modules())


def test_the_sum_is_the_papers() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    product = LowRank(weight, 2, 0.5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        product.up.normal_(generator=torch.Generator().manual_seed(2))
    expected = weight.double().reshape(6, 36)
    for o in range(6):
        for i in range(36):
            for r in range(2):
                expected[o, i] += 0.5 * product.up[o, r].item() * product.down[r, i].item()
    torch.testing.assert_close(product(weight).reshape(6, 36).double(), expected)
    last = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(product(last), product(weight))
    assert product(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_counted(name: str) -> None:
    rank = 2
    model, _, groups = _adapted(name, _recipe(lora_rank=rank))
    plain = create(ModelSpec(name=name), 2, seed=0, image_size=_size(name))
    layers = numbered_layers(plain)
    weights = [
        module.weight.flatten(1).shape
        for layer in layers[1:-1]
        for module in map(plain.get_submodule, layer.modules)
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    head = sum(plain.get_parameter(n).numel() for n in layers[-1].parameters)
    expected = sum(min(rank, *shape) * sum(shape) for shape in weights) + head
    assert trainable_parameters(model) == expected
    assert sum(p.numel() for group in groups for p in group["params"]) == expected


def test_rates_of_layers_are_those_of_copied_ones() -> None:
    recipe = _recipe(lr=0.1, copied_lr_factor=0.5, layer_lr_decay=0.7)
    _, _, groups = _adapted("narrow8_32", recipe)
    rates = [group["lr"] for group in groups[1:]]
    assert rates == pytest.approx([0.1 * 0.5 * 0.7 ** (8 - n) for n in range(2, 8)])


def test_alpha_scales_the_product_and_a_seed_its_start() -> None:
    assert _recipe().lora_scale == 1.0
    assert _recipe(lora_rank=2, lora_alpha=8.0).lora_scale == 4.0
    downs = []
    for seed in (5, 5, 6):
        model = create(ModelSpec(name="narrow8_32"), 2, seed=1)
        add_low_rank(model, LayerPattern.parse("T(1-7)R(8)"), _recipe(), seed=seed)
        downs.append(model.get_parameter("fc6.fc.parametrizations.weight.0.down"))
    assert torch.equal(downs[0], downs[1])
    assert not torch.equal(downs[0], downs[2])


def test_bfloat16_trains_the_same_sum_as_is_merged() -> None:
    recipe = _recipe(precision="bfloat16")
    model, _, groups = _adapted("narrow8_32", recipe)
    _train(model, groups, recipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model.get_submodule("fc6.fc").weight
    assert torch.equal(inside, model.get_submodule("fc6.fc").weight)


def test_layers_without_a_matrix_are_an_error() -> None:
    model = create(ModelSpec(name="narrow8_32"), 2, seed=0)
    with pytest.raises(ModelError, match=r"tuned: lora, but no T layer of F\(1-7\)R\(8\)"):
        tune_only(model, LayerPattern.parse("F(1-7)R(8)"), "lora")
