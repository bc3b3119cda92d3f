"""Samples of several views (SFT-3, SFT-5)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.core.errors import ModelError
from bench.models import layers
from bench.models.multiview import MultiView, viewing, widen_classifier
from bench.specs.run import ModelSpec

SPEC = ModelSpec(name="narrow8_32")


def _net(views: int = 1) -> nn.Module:
    net = layers.create(SPEC, 5, seed=0).eval()
    widen_classifier(net, SPEC, views, seed=0)
    return net


def _views(views: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, views, 3, 32, 32, generator=generator)


def test_one_view_is_the_network_itself() -> None:
    net, untouched = _net(1), layers.create(SPEC, 5, seed=0)
    assert viewing(net, 1) is net
    state = net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in untouched.state_dict().items())
    single, images = MultiView(nn.Flatten(), nn.Linear(12, 5), 1), torch.randn(2, 3, 2, 2)
    assert torch.equal(single(images), single.head(images.flatten(1)))


@pytest.mark.parametrize("views", [2, 9])
def test_permuted_views_permute_the_blocks_of_features(views: int) -> None:
    net, images = viewing(_net(views), views), _views(views)
    assert isinstance(net, MultiView)
    order = torch.randperm(views, generator=torch.Generator().manual_seed(1))
    blocks = net.features(images.flatten(0, 1)).view(3, views, -1)
    moved = net.features(images[:, order].flatten(0, 1)).view(3, views, -1)
    assert torch.allclose(moved, blocks[:, order], rtol=1e-4, atol=1e-4)
    assert net(images.flatten(0, 1)).shape == (3, 5)


def test_the_trunk_is_shared_and_each_view_is_seen_alone() -> None:
    net, images = viewing(_net(2), 2), _views(2)
    assert isinstance(net, MultiView)
    blocks = net.features(images.flatten(0, 1)).view(3, 2, -1)
    for view in range(2):
        alone = net.trunk(images[:, view]).flatten(1)
        assert torch.allclose(blocks[:, view], alone, rtol=1e-4, atol=1e-4)


def test_the_first_block_is_the_networks_own_and_others_differ() -> None:
    wide, own = _net(3).get_parameter("fc8.fc.weight"), _net(1).get_parameter("fc8.fc.weight")
    blocks = wide.detach().chunk(3, 1)
    assert torch.equal(blocks[0], own)
    assert not torch.equal(blocks[1], own)
    assert not torch.equal(blocks[1], blocks[2])
    assert torch.equal(wide, _net(3).get_parameter("fc8.fc.weight"))


def test_logits_are_those_of_a_literal_sum_over_views() -> None:
    net, images = _net(2), _views(2)
    whole = viewing(net, 2)
    assert isinstance(whole, MultiView)
    weight, bias = net.get_parameter("fc8.fc.weight"), net.get_parameter("fc8.fc.bias")
    literal = bias + sum(
        whole.trunk(images[:, view]).flatten(1) @ block.T
        for view, block in enumerate(weight.chunk(2, 1))
    )
    assert torch.allclose(whole(images.flatten(0, 1)), literal, rtol=1e-3, atol=1e-4)


def test_wrong_numbers_of_views_and_odd_classifiers_are_errors() -> None:
    with pytest.raises(ModelError, match="no whole number of samples with 2 views"):
        viewing(_net(2), 2)(_views(3).flatten(0, 1))
    with pytest.raises(ModelError, match="0 views"):
        MultiView(nn.Flatten(), nn.Linear(1, 1), 0)
    spec = ModelSpec(name="test_vit")
    model = layers.create(spec, 5, seed=0)
    model.get_classifier = lambda: model.get_submodule("blocks")  # type: ignore[assignment]
    with pytest.raises(ModelError, match="not one linear layer"):
        widen_classifier(model, spec, 2, seed=0)
