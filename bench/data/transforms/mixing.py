"""MixUp and CutMix: each image of a step with another one, and so their labels.

Zhang, Cisse, Dauphin, Lopez-Paz (2018), "mixup"; Yun et al. (2019), "CutMix". As timm mixes by
batch: one share for all images of a step, the last image with the first, and of CutMix the share of
the pixels that are shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bench.core.seeding import rng_from
from bench.specs.run import TrainSpec

_SWITCH = 0.5
"""Chance of CutMix in a step where the recipe has both."""


@dataclass(frozen=True)
class Mix:
    """How the images of a step are mixed.

    Attributes:
        share: of an image's own label.
        box: rows and columns (top, bottom, left, right) that show the other image; None mixes all
            pixels by `share`.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def of(self, images: Tensor, others: Tensor) -> Tensor:
        """The images (n, C, H, W) mixed with as many others, in the layout of `images`."""
        if self.box is None:
            return (images * self.share).add_(others * (1 - self.share))
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return mixed


def draw_mix(train: TrainSpec, side: int, seed: int, epoch: int, step: int) -> Mix | None:
    """The mix of a step, a function of seed, epoch and step; None where the recipe has none.

    Args:
        train: has the two alphas.
        side: of the images in pixels.
        seed: of order and noise.
        epoch, step: from 0.

    >>> draw_mix(TrainSpec(), 32, 0, 0, 0) is None
    True
    >>> 0 <= draw_mix(TrainSpec(mixup=0.2), 32, 0, 0, 0).share <= 1
    True
    """
    if not (train.mixup or train.cutmix):
        return None
    rng = rng_from(f"mix|{seed}|{epoch}|{step}")
    cuts = rng.random() < _SWITCH if train.mixup and train.cutmix else bool(train.cutmix)
    alpha = train.cutmix if cuts else train.mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mix(share)
    half = int(side * np.sqrt(1 - share))
    (top, bottom), (left, right) = (
        (max(0, centre - half // 2), min(side, centre + (half + 1) // 2))
        for centre in rng.integers(0, side, 2).tolist()
    )
    return Mix(1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))
