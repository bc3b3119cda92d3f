"""Some images of a larger array, read when they are asked for.

`images[index]` of a memory map copies every image into the memory of the process. Two workers of a
grid, or the eight ranks of one run, would each hold the whole of ImageNet. A view by rows leaves
them in the file, whose pages all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Joined:
    """Arrays one after the other, as `np.concatenate` would give them, without the copy.

    Args:
        parts: arrays (n, ...) or views by rows, of one type and one shape of rows.

    Raises:
        ValueError: there is no part, or their rows are unlike.

    >>> both = Joined([np.arange(3), Rows(np.arange(10), np.array([9, 8]))])
    >>> both.shape, both[np.array([0, 4, 3])].tolist()
    ((5,), [0, 8, 9])
    """

    def __init__(self, parts: Sequence[NDArray[Any] | Rows]) -> None:
        if not parts or len({(part.shape[1:], part.dtype) for part in parts}) > 1:
            raise ValueError(f"rows of {[part.shape[1:] for part in parts]} cannot be joined")
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.dtype, self.ndim = parts[0].dtype, len(parts[0].shape)

    @property
    def content(self) -> NDArray[np.uint8] | None:
        """As of `Rows`, of all parts; None where one has none."""
        found = [part.content for part in self._parts if isinstance(part, Rows)]
        known = [one for one in found if one is not None]
        alike = len(known) == len(self._parts) and len({one.shape[1] for one in known}) == 1
        return np.concatenate(known) if alike else None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)"""
        return (len(self), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, which: int | slice | NDArray[Any]) -> NDArray[Any]:
        """Rows by number, slice, numbers or mask, as of an array."""
        wanted = np.arange(len(self))[which]
        rows = np.atleast_1d(wanted)
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        of = np.searchsorted(self._ends, rows, side="right")
        for number, part in enumerate(self._parts):
            here = of == number
            found[here] = part[rows[here] - (self._ends[number] - len(part))]
        return found if np.ndim(wanted) else found[0]


class OnDemand:
    """Images that are read anew each time they are asked for, as rows of an array.

    Args:
        read: gives the pixels of some rows, in their order.
        shape: (N, height, width, 3) of all.

    >>> read = lambda rows: (np.full((1, 1, 3), n * n, np.uint8) for n in rows)
    >>> squares = OnDemand(read, (9, 1, 1, 3))
    >>> squares[np.array([3, 1])].ravel().tolist()
    [9, 9, 9, 1, 1, 1]
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], Iterable[NDArray[np.uint8]]],
        shape: tuple[int, int, int, int],
    ) -> None:
        self._read, self.shape = read, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: int | slice | NDArray[Any]) -> NDArray[np.uint8]:
        """Rows by number, slice, numbers or mask, as of an array."""
        wanted = np.arange(len(self))[which]
        rows = np.atleast_1d(wanted)
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, pixels in enumerate(self._read(rows)):
            found[place] = pixels
        return found if np.ndim(wanted) else found[0]


class Rows:
    """What `images[index]` would be, without the copy: the same shape, the same elements.

    Indexing gives arrays (copies of the rows that were asked for); `np.asarray` gives all of it.

    Args:
        images: (N, ...); a memory map stays on the disk.
        index: int64 (n,) rows of `images`, in any order, repeats allowed.
        content: uint8 (N, B), a digest of what the pixels of each of `images` were made from; left
            out, it is that of `images`.

    Raises:
        IndexError: a row is not there.

    >>> view = Rows(np.arange(10) ** 2, np.array([3, 1, 1]))
    >>> view.shape, view[:2].tolist(), view[np.array([2, 0])].tolist()
    ((3,), [9, 1], [1, 9])
    """

    def __init__(
        self,
        images: NDArray[Any] | Rows | Joined | OnDemand,
        index: NDArray[np.int64],
        content: NDArray[np.uint8] | None = None,
    ) -> None:
        index = np.asarray(index, dtype=np.int64)
        if len(index) and not -len(images) <= int(index.min()) <= int(index.max()) < len(images):
            raise IndexError(f"rows {index.min()} to {index.max()} of {len(images)} images")
        self._images: NDArray[Any] | Joined | OnDemand
        self._index: NDArray[np.int64]
        if content is None and isinstance(images, Rows | Joined):
            content = images.content
        self.content: NDArray[np.uint8] | None = None if content is None else content[index]
        """Of these rows, (n, B): where digests are equal, so are pixels; None if not known."""
        if isinstance(images, Rows):
            self._images, self._index = images._images, images._index[index]
        else:
            ready = isinstance(images, Joined | OnDemand)
            self._images = images if ready else np.asarray(images)
            self._index = index

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)"""
        return (len(self._index), *self._images.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._images.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self._images.dtype

    @property
    def nbytes(self) -> int:
        """What a copy would take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, which: int | slice | NDArray[Any]) -> NDArray[Any]:
        """Rows by number, slice, numbers or mask, as of an array."""
        found: NDArray[Any] = self._images[self._index[which]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows, copied."""
        if copy is False:
            raise ValueError("the rows lie apart, so an array of them is a copy")
        return self[:].astype(dtype or self.dtype, copy=False)
