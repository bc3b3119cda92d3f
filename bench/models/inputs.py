"""Mean and deviation of the images that a network takes: they belong to its weights.

Weights that were trained on images normalised in one way compute something else on images that are
normalised in another. Published weights of one network differ in it (of timm's, those of DINO, MAE,
CLIP and adversarial training), and Caffe's networks take x - mean on the scale of 0 to 255 (LI §3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

from bench.data.colours import CAFFE_STD, IMAGENET_MEAN, IMAGENET_STD, Colours
from bench.models.layers import register_networks
from bench.specs.run import FromFile, FromRun, FromTimm, RunSpec


@dataclass(frozen=True)
class InputStatistics:
    """What is subtracted from images and what they are divided by, as fractions of 255."""

    mean: Colours = IMAGENET_MEAN
    std: Colours = IMAGENET_STD


CAFFE = InputStatistics(IMAGENET_MEAN, CAFFE_STD)
"""x - mean without a division: about -124 to 151. N(0, 0.01²) and biases of 1 were made for it."""


def statistics_of(spec: RunSpec) -> InputStatistics:
    """The statistics of the weights that a run starts from.

    Those of a parent run are its own; of timm's weights those of the tag; of a file those written
    in the spec, else the network's; of random weights the network's, and Caffe's where they are
    filled as in Caffe (`filler: li2019`).

    >>> from bench.specs.run import DataSpec, ModelSpec
    >>> data, caffe = DataSpec(dataset="digits"), ModelSpec(name="narrow8_32", filler="li2019")
    >>> statistics_of(RunSpec(data=data, model=caffe, pattern="R(1-8)")) == CAFFE
    True
    """
    init = spec.init
    if isinstance(init, FromRun):
        return statistics_of(init.run)
    if isinstance(init, FromFile) and init.mean is not None and init.std is not None:
        return InputStatistics(init.mean, init.std)
    if init.kind == "scratch" and spec.model.filler == "li2019":
        return CAFFE
    return published_statistics(spec.model.name, init.tag if isinstance(init, FromTimm) else None)


def published_statistics(model: str, tag: str | None = None) -> InputStatistics:
    """The statistics of timm's weights `tag` of a network; of its default ones where it is None.

    >>> published_statistics("vit_base_patch16_clip_224", "openai").mean
    (0.48145466, 0.4578275, 0.40821073)
    """
    register_networks()
    name = model if tag is None else f"{model}.{tag}"
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return _configured({} if config is None else config.to_dict())


def published_size(model: str, tag: str | None = None) -> tuple[int, float]:
    """Side of the images that published weights were trained for, and the share that is shown."""
    register_networks()
    config = timm.get_pretrained_cfg(model if tag is None else f"{model}.{tag}")
    return int(config.input_size[-1]), float(config.crop_pct)


def attach(model: nn.Module, statistics: InputStatistics) -> None:
    """Write the statistics into timm's description of a network, where `attached` reads them."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    model.pretrained_cfg = {**config, "mean": statistics.mean, "std": statistics.std}  # type: ignore[assignment]


def attached(model: nn.Module | None) -> InputStatistics:
    """The statistics of a network; ImageNet's where it has none."""
    return _configured(getattr(model, "pretrained_cfg", None) or {})


def _configured(config: Any) -> InputStatistics:
    usual = InputStatistics()
    mean, std = (
        tuple(float(value) for value in config.get(key) or default)
        for key, default in (("mean", usual.mean), ("std", usual.std))
    )
    if len(mean) != 3 or len(std) != 3:  # networks for one colour: images here have three
        return usual
    return InputStatistics(mean, std)
