"""ResNet-50 with half the channels in every convolution, the network of GE Table 1.

Ge, Yu (2017), §3.2: "with half the number of kernels in each convolutional layer". timm's ResNet
takes the channels of its stages as an option, but not those of its stem; the stem is put in place
afterwards.
"""

from __future__ import annotations

from typing import Any

from timm.models._registry import generate_default_cfgs
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from bench.models.eight import network_options

_DESCRIPTION: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "fixed_input_size": False,
    "pool_size": (7, 7),
    "first_conv": "conv1",
    "classifier": "fc",
}

default_cfgs = generate_default_cfgs({"resnet50_half": _DESCRIPTION})
"""timm looks for this name when a network is registered."""

STEM = 32
STAGES = (32, 64, 128, 256)


def resnet50_half(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-50 with 32 channels after its stem and 1024 features, by its timm name.

    Raises:
        ModelError: when published weights are asked for.

    >>> sum(p.numel() for p in resnet50_half(num_classes=1000).parameters())
    6917640
    """
    given = network_options("resnet50_half", pretrained, options)
    net = ResNet(Bottleneck, (3, 4, 6, 3), channels=STAGES, **given)
    first: Any = net.layer1[0]
    net.conv1 = nn.Conv2d(net.in_chans, STEM, kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(STEM)
    first.conv1 = nn.Conv2d(STEM, STAGES[0], kernel_size=1, bias=False)
    first.downsample[0] = nn.Conv2d(STEM, STAGES[0] * 4, kernel_size=1, bias=False)
    net.feature_info[0]["num_chs"] = STEM
    net.init_weights()
    net.pretrained_cfg = _DESCRIPTION | {
        "architecture": "resnet50_half",
        "num_classes": net.num_classes,
    }
    net.default_cfg = net.pretrained_cfg
    return net
