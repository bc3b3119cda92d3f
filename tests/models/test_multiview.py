"""Samples of several views (SFT-3, SFT-5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import DataError, ModelError
from bench.models import layers
from bench.models.multiview import MultiView, crop_views, multi_view, stack_views
from bench.spec import ModelSpec


def _net() -> nn.Module:
    return layers.create(ModelSpec(name="narrow8_32"), 5, seed=0).eval()


def _views(views: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, views, 3, 32, 32, generator=generator)


def test_one_view_is_the_network_itself() -> None:
    net, images = _net(), _views(1)
    single = multi_view(net, 1, 5, seed=0)
    assert torch.equal(single(images), net(images[:, 0]))
    assert torch.equal(single(images[:, 0]), net(images[:, 0]))
    loss = single(images).square().sum()
    loss.backward()
    mine = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    net(images[:, 0]).square().sum().backward()
    assert all(torch.equal(mine[name], p.grad) for name, p in net.named_parameters())


@pytest.mark.parametrize("views", [2, 9])
def test_permuted_views_permute_the_blocks_of_features(views: int) -> None:
    net, images = multi_view(_net(), views, 5, seed=0), _views(views)
    order = torch.randperm(views, generator=torch.Generator().manual_seed(1))
    blocks = net.features(images).view(3, views, -1)
    moved = net.features(images[:, order]).view(3, views, -1)
    assert torch.allclose(moved, blocks[:, order], rtol=1e-4, atol=1e-4)
    assert net(images).shape == (3, 5)


def test_the_trunk_is_shared_and_each_view_is_seen_alone() -> None:
    net, images = multi_view(_net(), 2, 5, seed=0), _views(2)
    blocks = net.features(images).view(3, 2, -1)
    for view in range(2):
        alone = net.trunk(images[:, view]).flatten(1)
        assert torch.allclose(blocks[:, view], alone, rtol=1e-4, atol=1e-4)


def test_stacked_views_are_the_same_views() -> None:
    net = multi_view(_net(), 2, 5, seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32, 3), dtype=np.uint8)
    stacked = stack_views(pixels)
    assert stacked.shape == (3, 64, 32, 3)
    apart = torch.from_numpy(pixels).float().permute(0, 1, 4, 2, 3)
    above = torch.from_numpy(stacked).float().permute(0, 3, 1, 2)
    assert torch.allclose(net(apart), net(above), rtol=1e-4)


def test_boxes_cut_out_what_they_say() -> None:
    image = np.zeros((8, 12, 3), np.uint8)
    image[2:6, 4:8] = 200
    views = crop_views(image, np.array([[4, 2, 8, 6], [0, 0, 4, 2], [0, 0, 12, 8]]), 4)
    assert (views[0] == 200).all()
    assert (views[1] == 0).all()
    assert 0 < views[2].mean() < 200
    whole = crop_views(image, np.array([[0, 0, 12, 8]]), 8)
    assert whole.shape == (1, 8, 8, 3)
    for box in ([4, 2, 4, 6], [-1, 0, 4, 4], [0, 0, 13, 8]):
        with pytest.raises(DataError, match="box 0 is"):
            crop_views(image, np.array([box]), 4)


def test_wrong_numbers_of_views_are_errors() -> None:
    net = multi_view(_net(), 2, 5, seed=0)
    with pytest.raises(ModelError, match="takes 2 views"):
        net(_views(3))
    with pytest.raises(ModelError, match="0 views"):
        MultiView(nn.Flatten(), nn.Linear(1, 1), 0)
