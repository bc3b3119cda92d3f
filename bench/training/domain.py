"""What a training consumes: the images of a domain, and steps that name images by index.

Nothing here needs torch, so methods can be described and their options checked without it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.data.colours import IMAGENET_MEAN, IMAGENET_STD
from bench.data.rows import Rows


@dataclass(frozen=True, eq=False)
class Domain:
    """Labelled images of one label space, decoded, with the normalisation of its network.

    Args:
        name: for messages and columns.
        images: uint8 (N, S, S, 3); a memory map, and rows of one, are read batch by batch, never as
            a whole. With V views of each sample they stand one above the other: (N, V S, S, 3).
        labels: int64 (N,), each in 0..num_classes-1.
        num_classes: size of the label space, classes without an image included.
        mean, std: per colour channel, as fractions of 255.
        views: V, images of a sample.
        crop: side of the part of an image that the network is shown; None is all of it.

    Raises:
        DataError: when shapes, types or labels do not fit together.

    >>> Domain("toy", np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), 2).size
    2
    """

    name: str
    images: NDArray[np.uint8] | Rows
    labels: NDArray[np.int64]
    num_classes: int
    mean: tuple[float, float, float] = field(default=IMAGENET_MEAN)
    std: tuple[float, float, float] = field(default=IMAGENET_STD)
    views: int = 1
    crop: int | None = None

    def __post_init__(self) -> None:
        images = self.images if isinstance(self.images, Rows) else np.asanyarray(self.images)
        labels = np.asarray(self.labels)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise DataError(
                f"domain {self.name!r}: images have shape {images.shape} and type {images.dtype}",
                hint="give uint8 images of shape (N, height, width, 3)",
            )
        if self.views < 1 or images.shape[1] % self.views:
            raise DataError(
                f"domain {self.name!r}: images of {images.shape[1]} rows are not {self.views} views"
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"domain {self.name!r}: {len(images)} images, but labels have shape "
                f"{labels.shape} and type {labels.dtype}",
                hint="give one integer label per image",
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise DataError(
                f"domain {self.name!r}: labels run from {labels.min()} to {labels.max()}",
                hint=f"{self.num_classes} classes have labels 0 to {self.num_classes - 1}",
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))

    @functools.cached_property
    def images_sha256(self) -> str:
        """Of all pixels, in the order of the images; read once, and not at all where the hashes of
        what they were made from are known."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        content = self.images.content if isinstance(self.images, Rows) else None
        if content is not None:
            digest.update(np.ascontiguousarray(content).data)
            return digest.hexdigest()
        for start in range(0, len(self.images), 4096):
            digest.update(np.ascontiguousarray(self.images[start : start + 4096]).data)
        return digest.hexdigest()

    @property
    def form(self) -> dict[str, object]:
        """What decides a network's inputs beside the pixels: normalisation, crop, views."""
        without = ("name", "images", "labels", "num_classes")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in without}

    @functools.cached_property
    def image_names(self) -> list[bytes]:
        """A name for each image, equal only where pixels are: the hash of what it was made from
        where that is known, so that no pixel is read, else the digest of its pixels."""
        content = self.images.content if isinstance(self.images, Rows) else None
        return self.pixel_digests if content is None else [row.tobytes() for row in content]

    @functools.cached_property
    def pixel_digests(self) -> list[bytes]:
        """Of each image; read once."""
        names = []
        for start in range(0, len(self.images), 256):
            for image in self.images[start : start + 256]:
                pixels = np.ascontiguousarray(image).data
                names.append(hashlib.blake2b(pixels, digest_size=16).digest())
        return names

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Head:
    """How the classifier of a domain beside the target begins.

    Attributes:
        kept: with the weights of the parent's classifier; else at random.
        classes: int64 (C,), the class of the borrowed selection that each output stands for.
    """

    kept: bool
    classes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DomainBatch:
    """Images of one domain within a step: `indices` int64 (n,) into the domain, loss weight."""

    domain: int
    indices: NDArray[np.int64]
    weight: float = 1.0


Step = tuple[DomainBatch, ...]
"""All images of one optimiser step. The loss is the sum over its parts of
weight x mean cross-entropy of the part; the loop itself cuts a step for accumulation."""


def mean_weight(steps: Sequence[Step], domain: int) -> float:
    """The weight that a domain has in the loss, mean over `steps`."""
    return sum(part.weight for step in steps for part in step if part.domain == domain) / len(steps)


def images_in(steps: Sequence[Step]) -> int:
    """The number of images that `steps` show to the network."""
    return sum(len(part.indices) for step in steps for part in step)
