"""Classifiers for further domains beside any network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import ModelError
from bench.models.domains import ParentHead, classifier_name, head_groups, new_head, with_heads
from bench.models.layers import create
from bench.specs.run import ModelSpec, TrainSpec

NETWORKS = ["narrow8_32", "test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


def _images(model: nn.Module, count: int) -> torch.Tensor:
    size = model.pretrained_cfg["input_size"]
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_domain_gets_its_own_logits_from_one_trunk(name: str) -> None:
    spec = ModelSpec(name=name)
    model = create(spec, 3, seed=0)
    images = _images(model, 4)
    alone = model.eval()(images)
    network = with_heads(model, [new_head(spec, 5, seed=1)], batch_norm="joint").eval()
    target, source = network(images, ((0, 3), (1, 1)))
    torch.testing.assert_close(target, alone[:3])
    assert source.shape == (1, 5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_head_gets_no_gradient_from_the_other_domain(name: str) -> None:
    """X-7 (a)."""
    spec = ModelSpec(name=name)
    model = create(spec, 3, seed=0)
    network = with_heads(model, [new_head(spec, 5, seed=1)], batch_norm="joint").train()
    network(_images(model, 4), ((1, 4),))[0].sum().backward()
    own = [p.grad for p in network.heads[0].parameters()]
    assert all(grad is None or not grad.any() for grad in own)
    assert all(p.grad is not None for p in network.heads[1].parameters())


def test_networks_built_for_another_size_are_looked_at_in_that_size() -> None:
    spec = ModelSpec(name="test_vit")
    model = create(spec, 3, seed=0, image_size=64)
    head = new_head(spec, 2, seed=0, image_size=64)
    network = with_heads(model, [head], batch_norm="joint", image_size=64)
    assert network(torch.zeros(2, 3, 64, 64), ((1, 2),))[0].shape == (2, 2)


def test_a_random_head_is_filled_as_the_networks_own() -> None:
    """LI's filler for the classifier: N(0, 0.01²) with bias 1."""
    spec = ModelSpec(name="caffenet", filler="li2019")
    head = new_head(spec, 200, seed=3, image_size=67)
    weight, bias = (dict(head.named_parameters())[f"fc.{n}"] for n in ("weight", "bias"))
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert (bias == 1).all()
    again, other = (new_head(spec, 200, seed=seed, image_size=67) for seed in (3, 4))
    assert torch.equal(weight, again.get_parameter("fc.weight"))
    assert not torch.equal(weight, other.get_parameter("fc.weight"))


def test_a_kept_head_has_the_parents_outputs_for_its_classes() -> None:
    spec = ModelSpec(name="narrow8_32")
    parent = create(spec, 6, seed=7)
    rows = np.array([4, 0, 5])
    head = new_head(spec, 3, seed=0, parent=ParentHead(parent.state_dict(), rows, 6)).eval()
    child = create(spec, 2, seed=1)
    child.load_state_dict(
        {k: v for k, v in parent.state_dict().items() if not k.startswith("fc8")}, strict=False
    )
    network = with_heads(child, [head], batch_norm="joint").eval()
    images = _images(parent, 4)
    expected = parent.eval()(images)[:, [4, 0, 5]]
    torch.testing.assert_close(network(images, ((1, 4),))[0], expected)


def test_a_parent_without_a_classifier_is_an_error() -> None:
    spec = ModelSpec(name="narrow8_32")
    bare = {k: v for k, v in create(spec, 4, seed=0).state_dict().items() if "fc8" not in k}
    with pytest.raises(ModelError, match=r"no classifier to keep[\s\S]*source_head: random"):
        new_head(spec, 2, seed=0, parent=ParentHead(bare, np.array([0, 1]), 4))


@pytest.mark.parametrize("outputs", [3, 10])
def test_a_classifier_of_other_classes_is_not_taken_for_the_parents(outputs: int) -> None:
    """Weights for 21 thousand classes are not those for ILSVRC2012."""
    spec = ModelSpec(name="narrow8_32")
    state = create(spec, 4, seed=0).state_dict()
    with pytest.raises(ModelError, match=f"has 4 outputs, and it should know {outputs} classes"):
        new_head(spec, 2, seed=0, parent=ParentHead(state, np.array([0, 2]), outputs))


def test_a_network_without_a_classifier_is_an_error() -> None:
    with pytest.raises(ModelError, match="no single classifier"):
        classifier_name(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ModelError, match="no single classifier"):
        classifier_name(create(ModelSpec(name="narrow8_32"), 0, seed=0))


def test_separate_passes_leave_the_targets_dropout_alone() -> None:
    """X-7 (d) for networks with dropout: the source draws its own random numbers."""
    spec = ModelSpec(name="narrow8_32", drop_rate=0.5)
    outputs = []
    for parts in (((0, 4),), ((0, 4), (1, 3))):
        network = with_heads(
            create(spec, 3, seed=0), [new_head(spec, 5, seed=1)], batch_norm="separate"
        ).train()
        images = _images(network.trunk.model, 7)[: sum(n for _, n in parts)]
        with torch.random.fork_rng():
            torch.manual_seed(5)
            outputs.append([network(images, parts)[0] for _ in range(2)])
    for alone, beside in zip(*outputs, strict=True):
        assert torch.equal(alone, beside)
    assert not torch.equal(*outputs[0])


def test_groups_follow_the_recipe() -> None:
    recipe = TrainSpec(
        lr=0.1, copied_lr_factor=0.5, bias_lr_mult=2.0, bias_weight_decay=False, l2_sp=0.3
    )
    spec = ModelSpec(name="narrow8_32")
    heads = [(new_head(spec, 2, seed=0), True), (new_head(spec, 2, seed=1), False)]
    kept_weight, kept_bias, weight, bias = head_groups(heads, recipe)
    assert [g["lr"] for g in (kept_weight, kept_bias, weight, bias)] == [0.05, 0.1, 0.1, 0.2]
    assert [g["weight_decay"] for g in (kept_weight, kept_bias, weight, bias)] == [0, 0, 5e-4, 0]
    assert [g["l2_sp"] for g in (kept_weight, kept_bias, weight, bias)] == [0.3, 0.3, 0, 0]
