"""Random erasing on batches: a rectangle of an image is replaced by its mean colour.

Zhong, Zheng, Kang, Li, Yang (2020), "Random Erasing Data Augmentation", with timm's ranges: 2 to
33 % of the area, aspect ratios of 0.3 to 1 / 0.3, ten attempts until a rectangle fits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ATTEMPTS = 10
_AREAS = (0.02, 1 / 3)
_LOG_ASPECTS = (math.log(0.3), math.log(1 / 0.3))
COLUMNS = 1 + 4 * _ATTEMPTS
"""Numbers for each image: whether it is erased; of each attempt area, aspect ratio, top, left."""


def erase(images: Tensor, noise: Tensor, probability: float) -> Tensor:
    """Sets a random rectangle of each chosen image to 0, the mean colour of normalised images.

    Args:
        images: (B, C, H, W), changed in place.
        noise: (B, COLUMNS) in [0, 1), on the same device.
        probability: of an image to be chosen.

    >>> shown = erase(torch.ones(1, 3, 8, 8), torch.full((1, COLUMNS), 0.5), 1.0)
    >>> int((shown == 0).sum())
    27
    """
    height, width = images.shape[2:]
    area, aspect, top, left = noise[:, 1:].double().view(-1, _ATTEMPTS, 4).unbind(2)
    area = (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * area) * (height * width)
    ratio = (_LOG_ASPECTS[0] + (_LOG_ASPECTS[1] - _LOG_ASPECTS[0]) * aspect).exp()
    high, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (high < height) & (wide < width)
    chosen = fits.int().argmax(1, keepdim=True)  # the first that fits
    high, wide, top, left = (v.gather(1, chosen) for v in (high, wide, top, left))
    top, left = (top * (height - high + 1)).floor(), (left * (width - wide + 1)).floor()
    erased = fits.any(1, keepdim=True) & (noise[:, :1] <= probability) & (probability > 0)
    down = torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    rows = (down >= top) & (down < top + high) & erased
    columns = (across >= left) & (across < left + wide)
    return images.masked_fill_((rows[:, :, None] & columns[:, None])[:, None], 0.0)
