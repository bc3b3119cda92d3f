"""scikit-learn's scanned handwritten digits: 1797 images of 8 × 8, real and always at hand.

They come with scikit-learn, so nothing is fetched. There is no test split of their own. Pixels are
enlarged bicubically, the 17 grey levels spread over 0 to 255. `train_where: {slant: ["1", "2"]}`
keeps the third of each digit's scans that lean most to the right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from bench.data.dataset import Image, Int64, Notes, UInt8, digest
from bench.data.selection.images import Images

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits; see `bench.data.dataset.Dataset` for the contract.

    >>> digits = Digits()
    >>> digits.classes[:3], len(digits.images_of("0")), digits.has_test
    (('0', '1', '2'), 178, False)
    """

    name: str = "digits"
    classes: tuple[str, ...] = tuple("0123456789")
    wnid_keyed: bool = False
    has_test: bool = False
    version: str = "digits 1"

    @property
    def fingerprint(self) -> str:
        """Of the whole set."""
        return digest([self.name, self.version])

    @property
    def notes(self) -> Notes:
        """There are none."""
        return {}

    @cached_property
    def _scans(self) -> tuple[UInt8, Int64]:
        """(1797, 8, 8) grey values and (1797,) labels."""
        from sklearn.datasets import load_digits

        loaded = load_digits()
        grey = np.round(np.asarray(loaded.images) * (255 / 16)).astype(np.uint8)
        return grey, np.asarray(loaded.target, dtype=np.int64)

    @cached_property
    def _by_label(self) -> dict[str, Images]:
        grey, labels = self._scans
        found = []
        for index, (scan, label) in enumerate(zip(grey, labels, strict=True)):
            content = hashlib.sha256(scan.tobytes()).hexdigest()
            found.append(Image(f"{label}/{index:04d}", str(label), "train", content))
        images = Images.of(found)
        return {label: images[labels == int(label)] for label in self.classes}

    @cached_property
    def columns(self) -> Mapping[str, Mapping[str, str]]:
        """`group_slant` of each scan: its sixth of its digit's scans, 1 leans most to the right.

        The slant is the covariance of column and row over the variance of the row, weighted by
        grey values: how far a stroke goes to the right on its way down.
        """
        grey, labels = self._scans
        slants = _slants(grey)
        found: dict[str, dict[str, str]] = {}
        for label in range(len(self.classes)):
            (mine,) = np.nonzero(labels == label)
            for place, index in enumerate(mine[np.argsort(slants[mine], kind="stable")]):
                found[f"{label}/{index:04d}"] = {"group_slant": str(1 + 6 * place // len(mine))}
        return found

    def images_of(self, label: str) -> Images:
        """All scans of a digit."""
        return self._by_label[label]

    def read(self, images: Sequence[Image], size: int) -> Iterator[UInt8]:
        """The scans at `size`, grey as RGB."""
        grey, _ = self._scans
        for image in images:
            scan = Pillow.fromarray(grey[int(image.key.partition("/")[2])])
            large = scan.resize((size, size), Pillow.Resampling.BICUBIC)
            yield np.repeat(np.asarray(large)[:, :, None], 3, axis=2)

    def unreadable(self, label: str) -> dict[str, str]:
        """There are none."""
        return {}


def _slants(grey: UInt8) -> Float64:
    """Of each scan, (N,); sums of whole numbers and one division, the same on every machine."""
    weights, at = grey.astype(np.int64), np.arange(grey.shape[1])
    row, column = at[:, None], at[None, :]
    mass, to_row, to_column = ((weights * by).sum((1, 2)) for by in (1, row, column))
    shared = mass * (weights * row * column).sum((1, 2)) - to_row * to_column
    spread: Float64 = shared / (mass * (weights * row**2).sum((1, 2)) - to_row**2)
    return spread
