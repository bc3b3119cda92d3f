"""Images as columns: of a million images a selection holds a million numbers, and no objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from bench.data.dataset import Image, Int64, Split, UInt8

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Places = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_BLOCK = 4096
"""Images of which objects are made at once."""


class Texts:
    """A text for each row, one after the other in UTF-8.

    Args:
        ends: int64 (N,) where each ends, in bytes.
        content: uint8, all of them.
    """

    def __init__(self, ends: Int64, content: UInt8) -> None:
        self.ends, self.content = ends, content

    @classmethod
    def written(cls, texts: Iterable[str]) -> Self:
        """Those given, in their order."""
        raw = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(one) for one in raw], dtype=np.int64)
        return cls(ends, np.frombuffer(b"".join(raw), dtype=np.uint8))

    def raw(self, row: int) -> bytes:
        """The bytes of one."""
        first = int(self.ends[row - 1]) if row else 0
        return self.content[first : int(self.ends[row])].tobytes()

    def raws(self, rows: Places) -> list[bytes | memoryview]:
        """The bytes of some: cut from a copy where they lie close together, which is faster."""
        if not len(rows):
            return []
        first, ends = np.where(rows > 0, self.ends[rows - 1], 0), self.ends[rows]
        low, high = first.min(), ends.max()
        is_close = high - low <= 2 * (ends - first).sum()
        content = self.content[low:high].tobytes() if is_close else self.content[low:high].data
        each = zip((first - low).tolist(), (ends - low).tolist(), strict=True)
        return [content[start:end] for start, end in each]

    def __getitem__(self, row: int) -> str:
        return str(self.raw(row), "utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class Columns:
    """What is known of N images; for the meaning of each column see `Image`.

    Attributes:
        keys: N texts.
        label: (N,) places in `labels`, which are sorted.
        split: uint8 (N,) places in `SPLITS`.
        sha256: uint8 (N, 32).
        group: (N,) places in `groups`, which are sorted, -1 for none; None where no image has one.
    """

    keys: Texts
    label: Places
    labels: tuple[str, ...]
    split: UInt8
    sha256: UInt8
    group: Places | None = None
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: Iterable[Image]) -> Self:
        """Of images in their order."""
        images = list(images)
        labels, label = _coded([image.label for image in images])
        groups, group = _coded([image.group for image in images])
        return cls(
            keys=Texts.written(image.key for image in images),
            label=label,
            labels=labels,
            split=np.array([SPLITS.index(image.split) for image in images], dtype=np.uint8),
            sha256=hashes(image.sha256 for image in images),
            group=group if groups else None,
            groups=groups,
        )


def _coded(texts: Sequence[str | None]) -> tuple[tuple[str, ...], Places]:
    """The different texts, sorted, and the place of each row's among them; -1 for none."""
    different = tuple(sorted({text for text in texts if text is not None}))
    places: dict[str | None, int] = {text: place for place, text in enumerate(different)}
    return different, np.array([places.get(text, -1) for text in texts], dtype=np.int32)


def hashes(texts: Iterable[str]) -> UInt8:
    """SHA-256 in hexadecimal digits as bytes, (N, 32)."""
    return np.frombuffer(bytes.fromhex("".join(texts)), dtype=np.uint8).reshape(-1, 32)


class Images(Sequence[Image]):
    """Some images, each made when it is asked for; equal to a tuple of the same ones.

    Slices, masks and arrays of numbers give `Images` as well, a sum joins two selections.

    Args:
        columns: of all images.
        rows: (n,) which of them, in order.

    >>> both = Images.of([Image("a.png", "cat", "train", "00" * 32)], [])
    >>> both[0].key, (both + both).labels, both[1:] == ()
    ('a.png', ['cat', 'cat'], True)
    """

    def __init__(self, columns: Columns, rows: Places) -> None:
        self.columns, self.rows = columns, rows

    @classmethod
    def of(cls, *parts: Sequence[Image]) -> Images:
        """One after the other; what has the same columns is joined without making an image."""
        found = [part for part in parts if len(part)]
        views = [part for part in found if isinstance(part, Images)]
        if views and len(views) == len(found) and len({id(view.columns) for view in views}) == 1:
            rows = [view.rows for view in views]
            return cls(views[0].columns, rows[0] if len(rows) == 1 else np.concatenate(rows))
        columns = Columns.of(image for part in found for image in part)
        return cls(columns, np.arange(len(columns.label), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, which: int) -> Image: ...
    @overload
    def __getitem__(self, which: slice | npt.NDArray[Any]) -> Images: ...
    def __getitem__(self, which: int | slice | npt.NDArray[Any]) -> Image | Images:
        if isinstance(which, slice | np.ndarray):
            return Images(self.columns, self.rows[which])
        return next(iter(Images(self.columns, self.rows[[which]])))

    def __iter__(self) -> Iterator[Image]:
        for one in self.blocks():
            splits = (SPLITS[code] for code in one.split.tolist())
            yield from map(Image, one.keys, one.labels, splits, one.hashes, one.groups)

    def __add__(self, other: Sequence[Image]) -> Images:
        return Images.of(self, other)

    def __radd__(self, other: Sequence[Image]) -> Images:
        return Images.of(other, self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Images | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def blocks(self) -> Iterator[Images]:
        """A few thousand at a time, for lists of all that is known of them."""
        return (self[at : at + _BLOCK] for at in range(0, len(self), _BLOCK))

    @property
    def raw_keys(self) -> list[bytes | memoryview]:
        """Keys in UTF-8."""
        return self.columns.keys.raws(self.rows)

    @property
    def keys(self) -> list[str]:
        """See `Image`, as what follows."""
        return [str(raw, "utf-8", "surrogatepass") for raw in self.raw_keys]

    @property
    def labels(self) -> list[str]:
        """Names of classes."""
        return [self.columns.labels[code] for code in self.columns.label[self.rows].tolist()]

    @property
    def groups(self) -> Sequence[str | None]:
        """None for images without one."""
        if self.columns.group is None:
            return [None] * len(self)
        names = (*self.columns.groups, None)  # the last is that of -1
        return [names[code] for code in self.columns.group[self.rows].tolist()]

    @property
    def hashes(self) -> list[str]:
        """SHA-256 in 64 hexadecimal digits."""
        digits = self.sha256.tobytes().hex()
        return [digits[at : at + 64] for at in range(0, len(digits), 64)]

    @property
    def sha256(self) -> UInt8:
        """(n, 32)"""
        return self.columns.sha256[self.rows]

    @property
    def split(self) -> UInt8:
        """(n,) places in `SPLITS`."""
        return self.columns.split[self.rows]

    @property
    def starts(self) -> npt.NDArray[np.uint64]:
        """See `starts_of`."""
        return starts_of(self.columns.sha256[self.rows, :8])

    def labels_in(self, classes: Sequence[str]) -> Int64:
        """(n,) places of the images' classes in `classes`; -1 for others."""
        place = {name: number for number, name in enumerate(classes)}
        known = np.array([place.get(name, -1) for name in self.columns.labels], dtype=np.int64)
        return known[self.columns.label[self.rows]]

    def shared_with(self, *others: Images) -> Mask:
        """(n,) which of these images have the bytes of one of the others."""
        found = np.zeros(len(self), dtype=np.bool_)
        for other in others:
            near = among(self.starts, other.starts)
            if near.any():
                theirs = other[among(other.starts, self.starts[near])]
                contents = {row.tobytes() for row in theirs.sha256}
                near[near] = [row.tobytes() in contents for row in self[near].sha256]
                found |= near
        return found


def starts_of(sha256: UInt8) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each hash as a number, (N,): unlike images differ in them."""
    return np.ascontiguousarray(sha256[:, :8]).view(np.uint64)[:, 0]


def among(values: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> Mask:
    """`np.isin`, several times faster where one of them has a million numbers.

    >>> among(np.array([3, 1, 7], np.uint64), np.array([4, 3, 3], np.uint64)).tolist()
    [True, False, False]
    """
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    ordered = np.sort(known)
    places = np.searchsorted(ordered, values)
    found: Mask = ordered[np.minimum(places, len(ordered) - 1)] == values
    return found
