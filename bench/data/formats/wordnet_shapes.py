"""`wordnet-shapes` as a data set: images that are drawn when they are read, nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bench.data.dataset import Image, Notes, Split, UInt8, digest
from bench.data.synthetic.dataset import GENERATOR_VERSION, content_key, render
from bench.data.wordnet.hierarchy import taxonomy

POOL_PER_CLASS = 600
TEST_PER_CLASS = 50
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class WordnetShapes:
    """The 1000 ILSVRC2012 classes, 600 images each and 50 more for test.

    See `bench.data.dataset.Dataset` for the contract.

    >>> shapes = WordnetShapes()
    >>> len(shapes.classes), shapes.images_of("n01440764")[0].key
    (1000, 'n01440764/0000')
    """

    name: str = "wordnet-shapes"
    wnid_keyed: bool = True
    has_test: bool = True
    version: str = f"wordnet-shapes {GENERATOR_VERSION}"
    _known: dict[str, tuple[Image, ...]] = field(default_factory=dict, init=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The 1000 wnids, sorted."""
        return tuple(sorted(taxonomy().classes))

    @property
    def fingerprint(self) -> str:
        """Of the whole set."""
        return digest([self.name, self.version])

    @property
    def notes(self) -> Notes:
        """There are none."""
        return {}

    def images_of(self, label: str) -> tuple[Image, ...]:
        """Index 0 to 599 for training, 600 to 649 for test."""
        if label not in self._known:
            self._known[label] = tuple(
                Image(
                    f"{label}/{index:04d}",
                    label,
                    _split(index),
                    content_key(label, index),
                )
                for index in range(POOL_PER_CLASS + TEST_PER_CLASS)
            )
        return self._known[label]

    def read(self, images: Sequence[Image], size: int) -> Iterator[UInt8]:
        """Draws `images` in their order."""
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            indices = np.array([int(image.key.partition("/")[2]) for image in block])
            yield from render([image.label for image in block], indices, size)

    def unreadable(self, label: str) -> dict[str, str]:
        """There are none."""
        return {}


def _split(index: int) -> Split:
    return "train" if index < POOL_PER_CLASS else "test"
