"""Narrow eight-layer networks with BatchNorm, for images of 32 and 64 pixels.

CaffeNet's plan (five convolutions, two full connections, a classifier, the same layer numbers) in
0.42 million parameters, so that a whole grid of trainings fits two processor cores. Against
CaffeNet: BatchNorm instead of local response normalisation, small kernels, no dropout unless asked
for. A convolution's BatchNorm belongs to the convolution's layer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from bench.core.errors import ModelError
from bench.models.eight import EightLayerNet, described, description, network_options

default_cfgs = generate_default_cfgs(
    {
        "narrow8_32": description(32, fixed=False),
        "narrow8_64": description(64, fixed=False),
    }
)
"""timm looks for this name when a network is registered."""

MAP_SIDE = 4
SMALLEST = 16


class NarrowNet(EightLayerNet):
    """Convolutions of 32-48-64-64-64 channels, full connections of 256 and 128.

    The first convolution is 5x5 with stride 2, the others 3x3; poolings of 2x2 after conv2 and
    conv5, and after conv1 too with `pool1`. fc6 reads a map of 4x4, which 32 pixels (64 with
    `pool1`) give exactly; maps of other sizes are averaged to 4x4 first.

    >>> net = NarrowNet(num_classes=20)
    >>> sum(parameter.numel() for parameter in net.parameters())
    416020
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        pool1: bool = False,
    ) -> None:
        super().__init__(
            [
                _conv(in_chans, 32, kernel=5, stride=2, pool=pool1),
                _conv(32, 48, pool=True),
                _conv(48, 64),
                _conv(64, 64),
                _conv(64, 64, pool=True),
                _full(64 * MAP_SIDE**2, 256, drop_rate, first=True),
                _full(256, 128, drop_rate),
            ],
            num_features=64,
            hidden=128,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
        )
        self.smallest = SMALLEST * 2 if pool1 else SMALLEST
        self.apply(_fill)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, in_chans, H, W) to the pooled map of conv5, (N, 64, 4, 4) at the nominal size.

        Raises:
            ModelError: when the images are too small for the poolings.
        """
        if min(images.shape[-2:]) < self.smallest:
            raise ModelError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels are too small, "
                f"this network needs {self.smallest}",
                hint="set a larger image_size",
            )
        return super().forward_features(images)


class MapTo(nn.Module):
    """Averages a map to `side` x `side`; does nothing to a map that has that size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, side, side)."""
        if tuple(x.shape[-2:]) == (self.side, self.side):
            return x
        return nn.functional.adaptive_avg_pool2d(x, self.side)

    def extra_repr(self) -> str:
        """The side, for `print(model)`."""
        return f"side={self.side}"


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, pool: bool = False
) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    parts: list[tuple[str, nn.Module]] = [
        ("conv", conv),
        ("norm", nn.BatchNorm2d(outputs)),
        ("relu", nn.ReLU(inplace=True)),
    ]
    if pool:
        parts.append(("pool", nn.MaxPool2d(2)))
    return nn.Sequential(OrderedDict(parts))


def _full(inputs: int, outputs: int, drop_rate: float, first: bool = False) -> nn.Module:
    before: list[tuple[str, nn.Module]] = (
        [("map", MapTo(MAP_SIDE)), ("flatten", nn.Flatten())] if first else []
    )
    parts: list[tuple[str, nn.Module]] = [
        ("fc", nn.Linear(inputs, outputs)),
        ("relu", nn.ReLU(inplace=True)),
        ("drop", nn.Dropout(drop_rate)),
    ]
    return nn.Sequential(OrderedDict(before + parts))


def _fill(module: nn.Module) -> None:
    """He's initialisation, biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        with torch.no_grad():
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                module.bias.zero_()


def narrow8_32(pretrained: bool = False, **options: Any) -> EightLayerNet:
    """The narrow network for images of about 32 pixels, by its timm name."""
    return _build("narrow8_32", 32, pretrained, **options)


def narrow8_64(pretrained: bool = False, **options: Any) -> EightLayerNet:
    """The narrow network for images of about 64 pixels, by its timm name."""
    return _build("narrow8_64", 64, pretrained, **options)


def _build(name: str, image_size: int, pretrained: bool, **options: Any) -> EightLayerNet:
    net = NarrowNet(pool1=image_size == 64, **network_options(name, pretrained, options))
    return described(net, name, image_size, fixed=False)
