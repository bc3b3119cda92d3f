"""Decoded images in parts: several processes make an entry together, and a killed one is resumed.

`.parts-NAME/` holds `entry/images.npy`, with room for all rows, and for each part a lock and, once
its rows are on the disk, `part-00000.npy` with their checksums. A process takes the parts that
nobody holds, so no image is decoded twice; one that dies leaves its part to the others, or to the
next command. What has been left for a week is removed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.core.errors import StoreError
from bench.core.files import age_s, reserve, write_atomic
from bench.core.locks import exclusive
from bench.data.dataset import UInt8

PART_BYTES = 32 * 2**20
"""A part has as many rows as fit, and at least one."""

PREFIX = ".parts-"
_ABANDONED_S = 7 * 86_400.0
_LOOK_S = 0.1

Rows = npt.NDArray[np.int64]
CRC = npt.NDArray[np.uint32]


class Parts:
    """The parts of an entry that is made in `cache_dir`.

    Args:
        cache_dir: where entries lie.
        name: of the entry and of all that decides its bytes.
        count, size: rows, and pixels along a side.
    """

    def __init__(self, cache_dir: Path, name: str, count: int, size: int) -> None:
        self.folder = cache_dir / f"{PREFIX}{name}"
        self.entry = self.folder / "entry"
        self._images = self.entry / "images.npy"
        self._shape = (count, size, size, 3)
        rows = max(1, PART_BYTES // max(1, size * size * 3))
        self._parts = [np.arange(at, min(at + rows, count)) for at in range(0, count, rows)]

    def fill(
        self,
        pixels: Callable[[Rows], UInt8],
        check_room: Callable[[], None],
        is_ended: Callable[[], bool],
    ) -> CRC | None:
        """Makes all parts, together with whoever else makes them; their checksums by row.

        Args:
            pixels: gives those of some rows.
            check_room: called before the room is taken.
            is_ended: whether another process has ended the entry.

        Returns:
            None when another process has ended the entry.

        Raises:
            OSError: the folder cannot be written.
        """
        self.entry.mkdir(parents=True, exist_ok=True)
        self._take_room(check_room)
        while not is_ended():
            left = [n for n in range(len(self._parts)) if not self._marker(n).exists()]
            if not left:
                crc = self._verified()
                if crc is not None:
                    return crc
            elif not any(self._make(number, pixels) for number in left):
                time.sleep(_LOOK_S)  # others hold all that is left
        return None

    @contextlib.contextmanager
    def ending(self) -> Iterator[bool]:
        """For the one process that ends the entry; false for others, and when it is ended."""
        with self._locked("end") as mine:
            yield mine and self._images.exists()

    def wait(self) -> None:
        """Waits a moment for the process that ends the entry."""
        time.sleep(_LOOK_S)

    def remove(self) -> None:
        """Removes what there is; whoever else makes the entry begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_room(self, check_room: Callable[[], None]) -> None:
        while not self._images.exists():
            with self._locked("room") as mine:
                if not mine:
                    time.sleep(_LOOK_S)
                elif not self._images.exists():
                    check_room()
                    made = self._images.with_name("images.new")
                    np.lib.format.open_memmap(made, mode="w+", dtype=np.uint8, shape=self._shape)
                    reserve(made)
                    made.rename(self._images)

    def _make(self, number: int, pixels: Callable[[Rows], UInt8]) -> bool:
        """Makes a part unless another process does; false if it does."""
        rows = self._parts[number]
        with self._locked(f"part-{number:05}") as mine:
            if mine and not self._marker(number).exists():
                found = np.ascontiguousarray(pixels(rows))
                self._write(int(rows[0]), found)
                crc = np.array([zlib.crc32(row.tobytes()) for row in found], dtype=np.uint32)
                content = io.BytesIO()
                np.save(content, crc, allow_pickle=False)
                write_atomic(self._marker(number), content.getvalue())
            return mine

    def _write(self, first: int, found: UInt8) -> None:
        """By plain writes: through maps, two hosts could overwrite each other's pages."""
        offset = int(np.load(self._images, mmap_mode="r").offset)
        with self._images.open("rb+", buffering=0) as file:
            file.seek(offset + first * found[0].nbytes)
            left = found.data.cast("B")
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(file.fileno())

    def _verified(self) -> CRC | None:
        """Checksums of all rows; None where some part is not as it was written, and made anew."""
        images = np.load(self._images, mmap_mode="r", allow_pickle=False)
        found = np.zeros(len(images), dtype=np.uint32)
        sound = True
        for number, rows in enumerate(self._parts):
            crc = np.array([zlib.crc32(images[row].tobytes()) for row in rows], dtype=np.uint32)
            written = None
            with contextlib.suppress(ValueError, EOFError):
                written = np.load(self._marker(number), allow_pickle=False)
            if written is None or not np.array_equal(crc, written):
                self._marker(number).unlink(missing_ok=True)
                sound = False
            found[rows] = crc
        return found if sound else None

    def _marker(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.npy"

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[bool]:
        try:
            with exclusive(self.folder / f"{name}.lock") as mine:
                yield mine
        except StoreError:
            if self.folder.is_dir():
                raise
            raise FileNotFoundError(str(self.folder)) from None


def sweep(cache_dir: Path) -> None:
    """Removes the parts of entries that nobody has gone on with for a week."""
    for folder in cache_dir.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if age_s(folder) > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
