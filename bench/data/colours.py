"""Mean and standard deviation of ImageNet's colours, as fractions of 255 (red, green, blue)."""

from __future__ import annotations

Colours = tuple[float, float, float]

IMAGENET_MEAN: Colours = (0.485, 0.456, 0.406)
IMAGENET_STD: Colours = (0.229, 0.224, 0.225)
CAFFE_STD: Colours = (1 / 255, 1 / 255, 1 / 255)
"""No division on the scale of 0 to 255."""
