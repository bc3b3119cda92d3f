"""The shape that CaffeNet and its narrow versions share: five convolutions, three full connections.

Layers are numbered as in CHU and LI: conv1 ... conv5, fc6, fc7, fc8. Everything between two layers
(activation, pooling, normalisation, dropout) belongs to the layer before it, so that "the first n
layers" is a network that one can run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.models import register_model
from torch import Tensor, nn

from bench.core.errors import ModelError
from bench.data.colours import CAFFE_STD, IMAGENET_MEAN, IMAGENET_STD

LAYER_NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class EightLayerNet(nn.Module):
    """Runs eight layers one after the other, with the methods that timm's networks have.

    Args:
        layers: the first seven layers, in the order of `LAYER_NAMES`.
        num_features: channels that conv5 gives.
        hidden: outputs of fc7, inputs of the classifier.
        num_classes: outputs of fc8; 0 leaves the classifier out.
        in_chans: channels of the images.
        drop_rate: dropout after fc6 and fc7, kept to be read; the layers hold it.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        *,
        num_features: int,
        hidden: int,
        num_classes: int,
        in_chans: int,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.num_features, self.head_hidden_size = num_features, hidden
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg: dict[str, Any] = {}
        for name, layer in zip(LAYER_NAMES, layers, strict=False):
            self.add_module(name, layer)
        self.fc8 = _classifier(hidden, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, in_chans, H, W) to the pooled map of conv5, (N, num_features, h, w)."""
        x = images
        for name in LAYER_NAMES[:5]:
            x = self.get_submodule(name)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of conv5 to logits (N, num_classes), or to fc7's output (N, hidden)."""
        for name in LAYER_NAMES[5:7]:
            x = self.get_submodule(name)(x)
        return x if pre_logits else self.fc8(x)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """fc8."""
        return self.get_submodule("fc8")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a fresh fc8 in place; `global_pool` is timm's and must stay None."""
        if global_pool is not None:
            raise ModelError(
                f"global_pool={global_pool!r}: fc6 reads the whole map, nothing is pooled",
                hint="leave global_pool out",
            )
        reference = next(self.parameters())
        self.num_classes = num_classes
        self.fc8 = _classifier(self.head_hidden_size, num_classes).to(
            device=reference.device, dtype=reference.dtype
        )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's grouping, here simply one group per layer; `coarse` changes nothing."""
        return {name: rf"^{name}\." for name in LAYER_NAMES}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused: the networks are too shallow for it to pay."""
        if enable:
            raise ModelError(
                "eight-layer networks have no gradient checkpointing", hint="switch it off"
            )


def description(image_size: int, fixed: bool) -> dict[str, Any]:
    """timm's description of a network: size of its images, first layer, classifier; no weights.

    One with a fixed size is CaffeNet, whose images are not divided (LI §3, in Caffe).
    """
    return {
        "mean": IMAGENET_MEAN,
        "std": CAFFE_STD if fixed else IMAGENET_STD,
        "input_size": (3, image_size, image_size),
        "fixed_input_size": fixed,
        "first_conv": "conv1.conv",
        "classifier": "fc8.fc",
    }


def described(net: EightLayerNet, name: str, image_size: int, fixed: bool) -> EightLayerNet:
    """Hangs timm's description on a network, with the sizes that it was built for."""
    net.pretrained_cfg = description(image_size, fixed) | {
        "architecture": name,
        "input_size": (net.in_chans, image_size, image_size),
        "num_classes": net.num_classes,
    }
    net.default_cfg = net.pretrained_cfg
    return net


def network_options(name: str, pretrained: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of timm's factory that concern the network, not its published weights.

    Raises:
        ModelError: when weights are asked for; none are published for these networks.
    """
    if pretrained:
        raise ModelError(
            f"there are no published weights for {name}",
            hint="train a parent run, or give a local weights file",
        )
    about_weights = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {key: value for key, value in options.items() if key not in about_weights}


def register(*factories: Callable[..., nn.Module]) -> None:
    """Makes networks of ours available to `timm.create_model`; may be called again."""
    for factory in factories:
        if not timm.is_model(factory.__name__):
            register_model(factory)


def _classifier(hidden: int, num_classes: int) -> nn.Module:
    if num_classes == 0:
        return nn.Identity()
    return nn.Sequential(OrderedDict(fc=nn.Linear(hidden, num_classes)))
