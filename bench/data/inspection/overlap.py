"""Images that two selections share, the same file or the same picture.

Stanford Dogs lies inside ImageNet, and two of the papers trained on its test images. The same bytes
have the same content hash. The same picture after another JPEG compression, a change of size or a
mirroring has nearly the same perceptual hash: the signs of the 64 lowest coefficients of the cosine
transform of its 32 x 32 luma against their median (pHash, as in C. Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010). Since 64 bits of small pictures agree by
chance now and then, a candidate counts only where the brightness at 16 x 16 correlates as well.
Of pictures so smooth that compression decides the signs (a plain gradient), the hash says nothing:
they are compared by the brightness alone, correlation and grey levels.

Of ImageNet, which published weights have seen and few have on their disk, the file names say which
images are its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError
from bench.data.dataset import UInt8
from bench.data.rows import Rows
from bench.data.wordnet.hierarchy import taxonomy

Kind = Literal["exact", "similar", "mirrored"]
Float = npt.NDArray[np.float32]
_SIDE, _LOW, _THUMBNAIL = 32, 8, 16
MOST_BITS = 12
"""Bits of 64 that may differ. Another compression of a picture changes 10 or fewer."""
LEAST_CORRELATION = 0.95
"""Of the brightness at 16 x 16 pixels, means taken off. Compression leaves 0.95 and more."""
_SMOOTH_CORRELATION, _SMOOTH_LEVELS = 0.998, 2.0
"""Of smooth pictures: the least correlation, and grey levels that they differ by on average."""
_NOISE = 1.0
"""Coefficients nearer to their median than this take their sign from compression."""
_FLAT = 2.0
"""Grey levels of standard deviation below which a picture has no shape to compare."""
_BLOCK = 1024
_MOST_PRODUCTS = 2**27  # half a GiB at once
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is compared of one side.

    Attributes:
        keys: (N,) names of the images.
        sha256: (N,) of their bytes.
        pixels: (N, H, W, 3) uint8, a memory map will do; None compares the bytes alone.
    """

    keys: Sequence[str]
    sha256: Sequence[str]
    pixels: UInt8 | Rows | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.keys), len(self.sha256)}
        lengths |= set() if self.pixels is None else {len(self.pixels)}
        if len(lengths) > 1:
            raise DataError(
                f"{len(self.keys)} names, {len(self.sha256)} hashes and "
                f"{'no' if self.pixels is None else len(self.pixels)} pictures are not one side"
            )


@dataclass(frozen=True)
class Match:
    """A target image that the source has too.

    Attributes:
        target, source: places of the two images.
        kind: exact (the same bytes), similar or mirrored (the same picture).
        bits: of the 64 that differ.
        correlation: of the brightness; 1 for exact matches.
    """

    target: int
    source: int
    kind: Kind
    bits: int
    correlation: float


@dataclass(frozen=True)
class Overlap:
    """What two sides share: the best match of every target image that has one, in its order.

    `flat` counts target images without any shape, which only the bytes can tell apart; `pictures`
    says whether pictures were compared at all.
    """

    matches: tuple[Match, ...]
    flat: int
    pictures: bool

    def count(self, kind: Kind) -> int:
        """Target images whose best match is of this kind."""
        return sum(match.kind == kind for match in self.matches)


def is_named_as_in_imagenet(key: str, full: bool = False) -> bool:
    """Whether an image has the file name of one of ImageNet's training images.

    ImageNet numbers the images of a synset, and data sets that were cut from it (Stanford Dogs)
    keep these names. Images that were renamed or come from the same web page are not recognised.

    Args:
        key: see `bench.data.dataset.Image`.
        full: of all synsets of ImageNet, not only of the 1,000 of ILSVRC2012.

    >>> is_named_as_in_imagenet("Images/n02085620-Chihuahua/n02085620_10074.jpg")
    True
    >>> is_named_as_in_imagenet("val/n02085620/ILSVRC2012_val_00000293.JPEG")
    False
    """
    name = re.fullmatch(r"(n\d{8})_\d+", PurePosixPath(key).stem)
    return name is not None and (full or name[1] in taxonomy().classes)


def luma(pixels: UInt8, side: int) -> Float:
    """The brightness (N, side, side) of pictures, reduced by averaging equal areas.

    >>> luma(np.full((1, 4, 6, 3), 8, np.uint8), 2).round(4).tolist()
    [[[8.0, 8.0], [8.0, 8.0]]]
    """
    bright = pixels @ _LUMA
    rows, columns = (_area_weights(extent, side) for extent in pixels.shape[1:3])
    result: Float = rows @ bright @ columns.T
    return result


def _area_weights(given: int, wanted: int) -> Float:
    """(wanted, given): what share of each new pixel lies on each old one."""
    edges = np.linspace(0, given, wanted + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    old = np.arange(given)[None, :]
    shared = np.clip(np.minimum(ends, old + 1) - np.maximum(starts, old), 0, None)
    weights: Float = (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _above_median(bright: Float) -> Float:
    """The lowest coefficients (N, 64) of brightness (N, 32, 32), less their median.

    Their signs are the perceptual hash, see the module.
    """
    from scipy import fft  # a tenth of a second, which only this needs

    low = fft.dctn(bright, axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW].reshape(len(bright), -1)
    above: Float = low - np.median(low, axis=1, keepdims=True)
    return above


def find_overlap(
    target: Pictures,
    source: Pictures,
    most_bits: int = MOST_BITS,
    least_correlation: float = LEAST_CORRELATION,
) -> Overlap:
    """The target images that the source has too; each with its best match.

    Args:
        target, source: both with pixels, or the bytes alone are compared. Sizes may differ.
        most_bits: of the perceptual hash that may differ.
        least_correlation: that the brightness must have besides.

    An exact match is better than a similar one, that better than a mirrored one.
    """
    exact: dict[str, int] = {}
    for place, digest in enumerate(source.sha256):
        exact.setdefault(digest, place)
    best = {
        place: Match(place, exact[digest], "exact", 0, 1.0)
        for place, digest in enumerate(target.sha256)
        if digest in exact
    }
    if target.pixels is None or source.pixels is None:
        return Overlap(tuple(best[place] for place in sorted(best)), 0, pictures=False)
    theirs = _described(source.pixels, mirror=False)
    ours = _described(target.pixels, mirror=False)
    flipped = _described(target.pixels, mirror=True)
    for kind, side in (("similar", ours), ("mirrored", flipped)):
        for match in _matches(side, theirs, kind, most_bits, least_correlation):  # type: ignore[arg-type]
            best.setdefault(match.target, match)
        for match in _smooth_matches(side, theirs, kind):  # type: ignore[arg-type]
            best.setdefault(match.target, match)
    flat = int(sum(place not in best for place in np.flatnonzero(ours.flat)))
    return Overlap(tuple(best[place] for place in sorted(best)), flat, pictures=True)


@dataclass(frozen=True, eq=False)
class _Described:
    """What N pictures are compared by.

    Attributes:
        signs: (N, 64) hashes as ±1.
        shapes: (N, 256) brightness without mean and of length 1.
        means, lengths: (N, 1) what was taken off, and divided by.
        flat: (N,) without any shape.
        smooth: (N,) places of those whose hash says nothing.
    """

    signs: Float
    shapes: Float
    means: Float
    lengths: Float
    flat: npt.NDArray[np.bool_]
    smooth: npt.NDArray[np.intp]


def _described(pixels: UInt8 | Rows, mirror: bool) -> _Described:
    blocks = []
    for start in range(0, len(pixels), _BLOCK):
        bright = luma(np.asarray(pixels[start : start + _BLOCK]), _SIDE)
        bright = bright[:, :, ::-1] if mirror else bright
        above = _above_median(bright)
        halves = bright.reshape(len(bright), _THUMBNAIL, 2, _THUMBNAIL, 2).mean(axis=(2, 4))
        small = halves.reshape(len(bright), -1)
        means = small.mean(axis=1, keepdims=True)
        small -= means
        lengths = np.linalg.norm(small, axis=1, keepdims=True)
        flat = lengths[:, 0] < _FLAT * _THUMBNAIL
        smooth = ((np.abs(above) < _NOISE).sum(axis=1) > MOST_BITS) & ~flat
        signs = np.where(above > 0, 1, -1).astype(np.float32)
        blocks.append((signs, small / np.maximum(lengths, 1e-6), means, lengths, flat, smooth))
    if not blocks:
        nothing, none = np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.bool_)
        blocks.append((nothing, nothing, nothing, nothing, none, none))
    signs, shapes, means, lengths, flat, smooth = (
        np.concatenate(part) for part in zip(*blocks, strict=True)
    )
    return _Described(signs, shapes, means, lengths, flat, np.flatnonzero(smooth))


def _smooth_matches(ours: _Described, theirs: _Described, kind: Kind) -> Iterator[Match]:
    """The most like of every smooth target image, by brightness alone."""
    if not len(ours.smooth) or not len(theirs.smooth):
        return
    for row in ours.smooth:
        likeness = theirs.shapes[theirs.smooth] @ ours.shapes[row]
        column = theirs.smooth[likeness.argmax()]
        levels = [
            one.shapes[at] * one.lengths[at] + one.means[at]
            for one, at in ((ours, row), (theirs, column))
        ]
        apart = np.abs(levels[0] - levels[1]).mean()
        if likeness.max() >= _SMOOTH_CORRELATION and apart <= _SMOOTH_LEVELS:
            bits = int((ours.signs[row] != theirs.signs[column]).sum())
            yield Match(int(row), int(column), kind, bits, float(likeness.max()))


def _matches(
    ours: _Described, theirs: _Described, kind: Kind, most_bits: int, least: float
) -> Iterator[Match]:
    """The best match of every target image by correlation, among those whose hashes are near."""
    if not len(ours.signs) or not len(theirs.signs):
        return
    length = ours.signs.shape[1]
    block = max(1, min(_BLOCK, _MOST_PRODUCTS // len(theirs.signs)))
    for start in range(0, len(ours.signs), block):
        # Of two hashes written as ±1 the product is 64 less twice the bits that differ.
        products = ours.signs[start : start + block] @ theirs.signs.T
        products[ours.flat[start : start + block]] = -length
        rows, columns = np.nonzero(products >= length - 2 * most_bits)
        keep = ~theirs.flat[columns]
        rows, columns = rows[keep], columns[keep]
        likeness = np.einsum("id,id->i", ours.shapes[start + rows], theirs.shapes[columns])
        near = likeness >= least
        for i in _best_of_each(rows[near], likeness[near]):
            row, column = int(rows[near][i]), int(columns[near][i])
            bits = round((length - float(products[row, column])) / 2)
            yield Match(start + row, column, kind, bits, float(likeness[near][i]))


def _best_of_each(rows: npt.NDArray[np.intp], likeness: Float) -> list[int]:
    """The place of the largest likeness of every row; of equals the first."""
    order = np.lexsort((np.arange(len(rows)), -likeness, rows))
    firsts = np.ones(len(order), dtype=np.bool_)
    firsts[1:] = rows[order][1:] != rows[order][:-1]
    return [int(i) for i in order[firsts]]
