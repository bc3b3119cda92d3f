"""CaffeNet, the network of LI, CHU and GE, and LI's Gaussian initialisation.

Source: LI Table 1 (layers and sizes) and LI section 3 (initialisation). Pooling comes before local
response normalisation ("R1 P1 N1"): that is CaffeNet, and differs from AlexNet.

Deviations and readings:
* conv2, conv4 and conv5 have two groups, as in the network that LI calls almost the same;
  LI's table is silent about groups. `caffenet_ungrouped` is the other reading.
* LI initialises all full connections with bias 1, the classifier too; so do we.
* LI's Table 1 counts k*k*C_out + C_out parameters for a convolution; the real number has the
  channels that come in as a factor too.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import nn

from bench.core.errors import ModelError
from bench.models.eight import EightLayerNet, described, description, network_options

IMAGE_SIZE = 227

default_cfgs = generate_default_cfgs(
    {name: description(IMAGE_SIZE, fixed=True) for name in ("caffenet", "caffenet_ungrouped")}
)
"""timm looks for this name when a network is registered."""


class CaffeNet(EightLayerNet):
    """Eight layers for images of 227 pixels; 60,965,224 parameters with 1000 classes.

    Args:
        num_classes: outputs of fc8.
        in_chans: channels of the images.
        drop_rate: dropout after fc6 and fc7.
        groups: groups of conv2, conv4 and conv5.
        img_size: side of the images in pixels; fc6 is as wide as the map that conv5 gives for it.

    Raises:
        ModelError: when images of `img_size` vanish before fc6.

    >>> with torch.device("meta"):
    ...     net = CaffeNet()
    >>> sum(parameter.numel() for parameter in net.parameters())
    60965224
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        groups: int = 2,
        img_size: int = IMAGE_SIZE,
    ) -> None:
        side = _map_side(img_size)

        def norm() -> nn.Module:
            return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

        conv = nn.Conv2d
        super().__init__(
            [
                _conv(conv(in_chans, 96, 11, stride=4), pool=True, norm=norm()),
                _conv(conv(96, 256, 5, padding=2, groups=groups), pool=True, norm=norm()),
                _conv(conv(256, 384, 3, padding=1)),
                _conv(conv(384, 384, 3, padding=1, groups=groups)),
                _conv(conv(384, 256, 3, padding=1, groups=groups), pool=True),
                _full(256 * side * side, 4096, drop_rate),
                _full(4096, 4096, drop_rate),
            ],
            num_features=256,
            hidden=4096,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
        )
        self.img_size = img_size

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """(N, in_chans, img_size, img_size) to the pooled map of conv5, (N, 256, 6, 6) at 227.

        Raises:
            ModelError: when the images have another size than the network was built for.
        """
        if tuple(images.shape[-2:]) != (self.img_size, self.img_size):
            raise ModelError(
                f"CaffeNet was built for images of {self.img_size} pixels and got "
                f"{images.shape[-2]}x{images.shape[-1]}",
                hint=f"set image_size: {self.img_size}; for small images use narrow8_32",
            )
        return super().forward_features(images)


def _conv(conv: nn.Conv2d, pool: bool = False, norm: nn.Module | None = None) -> nn.Module:
    parts: list[tuple[str, nn.Module]] = [("conv", conv), ("relu", nn.ReLU())]
    if pool:
        parts.append(("pool", nn.MaxPool2d(3, 2, ceil_mode=True)))  # Caffe rounds up
    if norm is not None:
        parts.append(("norm", norm))
    return nn.Sequential(OrderedDict(parts))


def _full(inputs: int, outputs: int, drop_rate: float) -> nn.Module:
    parts: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(inputs, outputs)),
        ("relu", nn.ReLU()),
        ("drop", nn.Dropout(drop_rate)),
    ]
    return nn.Sequential(OrderedDict(parts))


def _map_side(img_size: int) -> int:
    """Side of conv5's pooled map: one convolution of 11/4 and three poolings of 3/2, rounded up."""
    side = (img_size - 11) // 4 + 1
    for _ in range(3):
        side = -(-(side - 3) // 2) + 1 if side >= 2 else 0
    if img_size < 11 or side < 1:
        raise ModelError(
            f"images of {img_size} pixels vanish before CaffeNet's fc6",
            hint="use narrow8_32 or narrow8_64, or give larger images",
        )
    return side


def caffenet(pretrained: bool = False, **options: Any) -> EightLayerNet:
    """CaffeNet with two groups, by its timm name."""
    return _build("caffenet", pretrained, groups=2, **options)


def caffenet_ungrouped(pretrained: bool = False, **options: Any) -> EightLayerNet:
    """CaffeNet without groups, 62,378,344 parameters with 1000 classes."""
    return _build("caffenet_ungrouped", pretrained, groups=1, **options)


def _build(name: str, pretrained: bool, groups: int, **options: Any) -> EightLayerNet:
    net = CaffeNet(groups=groups, **network_options(name, pretrained, options))
    return described(net, name, net.img_size, fixed=True)


@dataclass(frozen=True)
class Fill:
    """How a layer is filled: weights from N(0, std^2), biases with a constant."""

    std: float
    bias: float


def li2019_fills(model: nn.Module) -> dict[str, Fill]:
    """LI's initialisation for every convolution and full connection of `model`, by module name.

    LI section 3, written for eight layers and read for any network like this: convolutions get
    N(0, 0.01^2), full connections N(0, 0.005^2) but the last one, the classifier, 0.01; biases are
    1 in the second, fourth and fifth convolution and in all full connections, else 0. Modules of
    other kinds keep their own initialisation.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))
    >>> [(fill.std, fill.bias) for fill in li2019_fills(net).values()]
    [(0.01, 0.0), (0.005, 1.0), (0.01, 1.0)]
    """
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    full = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    fills = {
        name: Fill(0.01, 1.0 if number in (2, 4, 5) else 0.0)
        for number, name in enumerate(convolutions, start=1)
    }
    return fills | {name: Fill(0.01 if name == full[-1] else 0.005, 1.0) for name in full}


def fill_li2019(model: nn.Module) -> None:
    """Fills `model` in place by `li2019_fills`, from torch's default random stream."""
    with torch.no_grad():
        for name, fill in li2019_fills(model).items():
            module = model.get_submodule(name)
            assert isinstance(module, nn.Conv2d | nn.Linear)
            module.weight.normal_(0.0, fill.std)
            if module.bias is not None:
                module.bias.fill_(fill.bias)
