"""Offline expansion of a training set by transformed copies (LI §4.6).

LI fills every class up to 1200 images "as in Paulin et al." and does not list the transformations.
Here a copy is mirrored, scaled, cropped (shifted), rotated and seen in slight perspective in one
resampling, then changed in brightness, contrast and saturation, then compressed as JPEG. Deviation:
the ranges are ours; each is a field of `Ranges`.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from bench.core.errors import DataError
from bench.core.seeding import rng_from
from bench.data.rows import Rows

Pixels = NDArray[np.uint8]

_BLOCK = 1024
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """How far a copy may differ; each amount is drawn uniformly and symmetrically.

    Attributes:
        flip: probability of mirroring.
        log2_scale: magnification from 2**-x to 2**x.
        shift: of the centre, as a fraction of the width.
        degrees: rotation.
        perspective: shift of the vanishing line; a side shrinks by up to about this fraction.
        color: brightness, contrast and saturation factors from 1 - x to 1 + x.
        jpeg_quality: lowest and highest; None leaves compression out.
    """

    flip: float = 0.5
    log2_scale: float = 0.25
    shift: float = 0.1
    degrees: float = 15.0
    perspective: float = 0.1
    color: float = 0.2
    jpeg_quality: tuple[int, int] | None = (50, 95)


def plan(labels: NDArray[np.int64], to: int) -> NDArray[np.int64]:
    """Which image each copy is made of: every class gets max(0, to - n) copies.

    The images of a class take turns, so none has more than one copy more than another.

    Returns:
        int64 (copies,), positions in `labels`, class by class.

    >>> plan(np.array([0, 0, 1]), to=3).tolist()
    [0, 2, 2]
    """
    sources = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        sources.append(np.resize(members, max(0, to - len(members))))
    return np.concatenate(sources).astype(np.int64)


def expand(
    images: Pixels | Rows,
    labels: NDArray[np.int64],
    *,
    to: int,
    seed: int,
    ranges: Ranges | None = None,
) -> tuple[Pixels, NDArray[np.int64]]:
    """The images, all kept and in place, followed by copies up to `to` images per class.

    A class that has `to` images or more is left as it is, so a set that is large enough comes back
    unchanged. The copies are a function of (the image and its place, seed, number of the copy),
    whatever `to` is.

    Args:
        images: uint8 (N, S, S, 3).
        labels: int64 (N,).
        to: images per class at least.
        seed: names the random amounts.
        ranges: how far copies differ; None is the default `Ranges`.

    Returns:
        uint8 (M, S, S, 3) and int64 (M,); each class has max(n, to) images.

    Raises:
        DataError: images and labels differ in number, or `to` is less than 1.

    >>> grown, y = expand(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), to=3, seed=0)
    >>> grown.shape, y.tolist()
    ((6, 8, 8, 3), [0, 1, 0, 0, 1, 1])
    """
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images, but {len(labels)} labels")
    if to < 1:
        raise DataError(f"expand to {to} images per class", hint="give 1 or more, or leave it out")
    sources = plan(labels, to)
    grown = np.empty((len(images) + len(sources), *images.shape[1:]), np.uint8)
    for start in range(0, len(images), _BLOCK):
        grown[start : min(start + _BLOCK, len(images))] = images[start : start + _BLOCK]
    turns = np.zeros(len(images), np.int64)
    for position, source in enumerate(sources, start=len(images)):
        rng = rng_from(f"expand|{seed}|{source}|{turns[source]}")
        grown[position] = transformed(images[source], rng, ranges or Ranges())
        turns[source] += 1
    return grown, np.concatenate([labels, labels[sources]])


def transformed(image: Pixels, rng: np.random.Generator, ranges: Ranges) -> Pixels:
    """One transformed copy of `image`, uint8 (S, S, 3). All amounts are drawn, used or not."""
    mirror = rng.random() < ranges.flip
    amounts = rng.uniform(-1, 1, size=9)
    quality = rng.random()
    picture = _warp(image, _matrix(image.shape[1], image.shape[0], mirror, amounts[:6], ranges))
    for amount, enhance in zip(
        amounts[6:],
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color),
        strict=True,
    ):
        if ranges.color:
            picture = enhance(picture).enhance(1 + ranges.color * float(amount))
    if ranges.jpeg_quality is not None:
        low, high = ranges.jpeg_quality
        picture = _recompressed(picture, low + int(quality * (high - low + 1)))
    return np.asarray(picture, dtype=np.uint8)


def _matrix(
    width: int, height: int, mirror: bool, amounts: NDArray[np.float64], ranges: Ranges
) -> Matrix:
    """The homography from a place in the copy to the place in the image that it shows."""
    zoom, dx, dy, turn, tilt_x, tilt_y = amounts
    angle = math.radians(ranges.degrees * turn)
    scale = 2.0 ** (ranges.log2_scale * zoom)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    similarity = np.array(
        [[-cos if mirror else cos, -sin, 0], [-sin if mirror else sin, cos, 0], [0, 0, 1.0]]
    )
    perspective = np.eye(3)
    perspective[2, 0] = ranges.perspective * tilt_x / width
    perspective[2, 1] = ranges.perspective * tilt_y / height
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    from_centre = np.array(
        [
            [1, 0, width * (0.5 + ranges.shift * dx)],
            [0, 1, height * (0.5 + ranges.shift * dy)],
            [0, 0, 1.0],
        ]
    )
    matrix: Matrix = from_centre @ similarity @ perspective @ to_centre
    return matrix


def _warp(image: Pixels, matrix: Matrix) -> Image.Image:
    """Resamples bilinearly; beyond its edges an image goes on as its mirror image."""
    height, width = image.shape[:2]
    padded = image[_mirrored(height)][:, _mirrored(width)]
    shifted = np.array([[1, 0, width], [0, 1, height], [0, 0, 1.0]]) @ matrix
    coefficients = (shifted / shifted[2, 2]).ravel()[:8].tolist()
    return Image.fromarray(padded).transform(
        (width, height),
        Image.Transform.PERSPECTIVE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
    )


def _mirrored(length: int) -> NDArray[np.int64]:
    """Positions of a row that goes on as its mirror image to both sides, 3 x length."""
    there = np.arange(length)
    return np.concatenate([there[::-1], there, there[::-1]])


def _recompressed(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")
