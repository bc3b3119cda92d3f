"""The half-width ResNet-50 against timm's own ResNet-50."""

from __future__ import annotations

import timm
import torch
from torch import nn

from bench.models.depths import depth_of
from bench.models.layers import create
from bench.models.numbering import depth
from bench.specs.run import ModelSpec


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def test_every_convolution_has_half_the_channels() -> None:
    with torch.device("meta"):
        whole = convolutions(timm.create_model("resnet50"))
    half = convolutions(create(ModelSpec(name="resnet50_half"), 10, seed=0))
    assert list(half) == list(whole)
    for name, conv in half.items():
        assert 2 * conv.out_channels == whole[name].out_channels
        if name != "conv1":
            assert 2 * conv.in_channels == whole[name].in_channels
        assert (conv.kernel_size, conv.stride, conv.padding) == (
            whole[name].kernel_size,
            whole[name].stride,
            whole[name].padding,
        )


def test_it_runs_counts_and_repeats() -> None:
    first, again = (create(ModelSpec(name="resnet50_half"), 7, seed=3) for _ in range(2))
    assert depth(first) == depth_of("resnet50_half") == depth_of("resnet50")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        scores = first.eval()(images)
        assert scores.shape == (2, 7)
        assert torch.equal(scores, again.eval()(images))
        assert first.forward_features(images).shape == (2, 1024, 2, 2)  # type: ignore[operator]
