"""Which borrowed images stand beside the target images of each step.

A method that borrows asks its stream for the source images of an epoch's steps, so that the loss
(joint, soft) and the choice of the images (at random, or the neighbours of each target image) can
be combined freely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.core.seeding import rng_from
from bench.data.rows import Rows
from bench.training.domain import Domain

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods import Ingredients
    from bench.training.job import Predict


Indices = NDArray[np.int64]


class SourceStream(Protocol):
    """Chooses the images of one borrowed domain; like a method it is a function of epoch and state.

    Asked twice for the same epoch with the same state, it gives the same images.
    """

    def draw(self, epoch: int, chunks: Sequence[Indices], predict: Predict) -> list[Indices]:
        """For the target images of each step of `epoch`, as many source images, in their order.

        Args:
            epoch: from 0.
            chunks: (n,) target images of each step.
            predict: see `bench.training.job.Method.steps`.
        """

    def state(self) -> Mapping[str, Tensor]:
        """What the stream has learned so far."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""


def endless(name: str, size: int, start: int, length: int) -> Indices:
    """`length` indices from place `start` on of an endless row of shuffled passes over `size`.

    Within a pass no index comes twice. `name` seeds the shuffles.

    >>> row = endless("toy", 3, 0, 6)
    >>> sorted(row[:3].tolist()), sorted(row[3:].tolist())
    ([0, 1, 2], [0, 1, 2])
    """
    first, last = start // size, (start + length - 1) // size
    passes = [rng_from(f"{name}|{n}").permutation(size) for n in range(first, last + 1)]
    return np.concatenate(passes)[start - first * size :][:length].astype(np.int64, copy=False)


def balanced(name: str, labels: Indices, start: int, length: int) -> Indices:
    """`length` indices from place `start` on of an endless row in which classes take turns.

    Each class that has images comes once in every so many places, in an order drawn anew each
    time; its images come as in `endless`. `name` seeds both.

    >>> labels = np.array([0, 0, 0, 1])
    >>> labels[balanced("toy", labels, 0, 6)].reshape(3, 2).sum(1).tolist()
    [1, 1, 1]
    """
    present, counts = np.unique(labels, return_counts=True)
    classes, places = len(present), np.arange(start, start + length)
    turn = endless(f"{name}|classes", classes, start, length)
    first, last = start // classes, (start + length - 1) // classes
    row = np.empty(length, np.int64)
    for number, (label, count) in enumerate(zip(present.tolist(), counts.tolist(), strict=True)):
        own = np.flatnonzero(labels == label)
        shown = endless(f"{name}|class {label}", count, first, last - first + 1)
        mine = turn == number
        row[mine] = own[shown[places[mine] // classes - first]]
    return row


class Stateless:
    """The part of a method or stream that is a function of the epoch's number alone."""

    def state(self) -> Mapping[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes nothing back."""


class Shuffled(Stateless):
    """Random source images without regard to the target's: a reshuffled stream.

    Epochs take up where the last one ended, so all source images are shown equally often.

    `name` seeds the order of the `size` images.
    """

    def __init__(self, size: int, name: str) -> None:
        self.size, self.name = size, name

    def draw(self, epoch: int, chunks: Sequence[Indices], predict: Predict) -> list[Indices]:
        """As many source images as there are target images, step by step."""
        counts = [len(chunk) for chunk in chunks]
        total = sum(counts)
        row = endless(self.name, self.size, epoch * total, total)
        return np.split(row, np.cumsum(counts)[:-1])


def sources_of(ingredients: Ingredients, method: str) -> tuple[Domain, ...]:
    """The domains to borrow from; a DataError if there is none or the first has no image."""
    sources = ingredients.sources
    if not sources or not sources[0].size:
        raise DataError(
            f"method {method!r} has no source image to train on",
            hint="add borrow: parent, or another selection with training images",
        )
    return sources


def classes_with(labels: Indices, least: int) -> Indices:
    """The classes that have an image, and at least so many, ascending."""
    return np.flatnonzero(np.bincount(labels) >= max(1, least)).astype(np.int64)


def reindexed(domain: Domain, least: int = 0) -> tuple[Domain, Indices]:
    """The domain with only the classes that have images, numbered anew from 0 without a gap.

    Classes with fewer than `least` images are left out with them (GE's released code,
    `least_sample_per_class`). The second result is each new class's old number, ascending.

    Raises:
        DataError: no class has so many images.

    >>> old = Domain("toy", np.zeros((3, 2, 2, 3), np.uint8), np.array([4, 1, 4]), 9)
    >>> new, classes = reindexed(old)
    >>> new.labels.tolist(), new.num_classes, classes.tolist()
    ([1, 0, 1], 2, [1, 4])
    """
    classes = classes_with(domain.labels, least)
    if not len(classes):
        raise DataError(
            f"no class of the {domain.size} borrowed images has {least} or more",
            hint="lower least_images_per_class, or borrow more",
        )
    kept = np.isin(domain.labels, classes)
    images = domain.images if kept.all() else Rows(domain.images, np.flatnonzero(kept))
    labels = np.searchsorted(classes, domain.labels[kept])
    new = replace(domain, images=images, labels=labels, num_classes=len(classes))
    return new, classes
