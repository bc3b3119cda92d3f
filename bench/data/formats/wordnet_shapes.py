"""`wordnet-shapes` as a data set: images that are drawn when they are read, nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bench.data.dataset import Image, Notes, UInt8, digest
from bench.data.selection.images import SPLITS, Columns, Images, Texts, hashes
from bench.data.synthetic.dataset import GENERATOR_VERSION, content_key, render
from bench.data.wordnet.hierarchy import taxonomy

POOL_PER_CLASS = 600
TEST_PER_CLASS = 50
_PER_CLASS = POOL_PER_CLASS + TEST_PER_CLASS
_KEY_BYTES = len("n00000000/0000")
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
    _known: dict[str, Images] = field(default_factory=dict, init=False)

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

    @cached_property
    def _columns(self) -> Columns:
        """Of all classes; keys and hashes of a class are filled in once it is asked for."""
        classes, indices = len(self.classes), np.arange(_PER_CLASS)
        count = classes * _PER_CLASS
        test = (indices >= POOL_PER_CLASS) * np.uint8(SPLITS.index("test"))
        return Columns(
            keys=Texts(
                _KEY_BYTES * np.arange(1, count + 1), np.zeros(_KEY_BYTES * count, np.uint8)
            ),
            label=np.repeat(np.arange(classes, dtype=np.int32), _PER_CLASS),
            labels=self.classes,
            split=np.tile(test, classes),
            sha256=np.zeros((count, 32), dtype=np.uint8),
        )

    def images_of(self, label: str) -> Images:
        """Index 0 to 599 for training, 600 to 649 for test."""
        if label not in self._known:
            columns, first = self._columns, self.classes.index(label) * _PER_CLASS
            rows = np.arange(first, first + _PER_CLASS, dtype=np.int32)
            keys = Texts.written(f"{label}/{index:04d}" for index in range(_PER_CLASS))
            start, end = first * _KEY_BYTES, (first + _PER_CLASS) * _KEY_BYTES
            columns.keys.content[start:end] = keys.content
            columns.sha256[rows] = hashes(content_key(label, n) for n in range(_PER_CLASS))
            self._known[label] = Images(columns, rows)
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
