"""Decoded images in parts: several processes make an entry together, and a killed one is resumed.

`.parts-NAME/` holds `entry/` with a file that has room for all rows, and for each part a lock and,
once its rows are on the disk, `part-00000.npy` with their checksums and places. A process takes the
parts that nobody holds, so no image is decoded twice; one that dies, or meets an image that cannot
be read, leaves what is finished to the others, or to the next command. What has been left for a
week is removed.

Rows of pixels lie in order (`images.npy`). JPEGs are of unlike lengths (`images.bin`): parts follow
each other as they are ready, the room is estimated, and what is too much is cut off in the end.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.core.errors import StoreError
from bench.core.files import age_s, reserve, write_atomic
from bench.core.locks import exclusive

PART_BYTES = 32 * 2**20
"""A part has as many rows as fit, and at least one."""

PREFIX = ".parts-"
_ABANDONED_S = 7 * 86_400.0
_LOOK_S = 0.1

Rows = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]
"""Of each row its checksum, where in the file it begins, and its length in bytes: (N, 3)."""


class Parts:
    """The parts of an entry that is made in `cache_dir`.

    Args:
        cache_dir: where entries lie.
        name: of the entry and of all that decides its bytes.
        count, size: rows, and pixels along a side.
        jpeg: whether rows are JPEGs, of any length, and not pixels.
    """

    def __init__(self, cache_dir: Path, name: str, count: int, size: int, *, jpeg: bool) -> None:
        self.folder = cache_dir / f"{PREFIX}{name}"
        self.entry = self.folder / "entry"
        self.jpeg = jpeg
        self._images = self.entry / ("images.bin" if jpeg else "images.npy")
        self._shape = (count, size, size, 3)
        rows = max(1, PART_BYTES // max(1, size * size * 3))
        self._parts = [np.arange(at, min(at + rows, count)) for at in range(0, count, rows)]

    def fill(
        self,
        stored: Callable[[Rows], Sequence[bytes]],
        check_room: Callable[[], int],
        is_ended: Callable[[], bool],
    ) -> bool:
        """Makes all parts, together with whoever else makes them.

        Args:
            stored: gives the bytes of some rows.
            check_room: called before the room is taken; the bytes that all rows take.
            is_ended: whether another process has ended the entry.

        Returns:
            False when another process has ended the entry.

        Raises:
            OSError: the folder cannot be written.
        """
        self.entry.mkdir(parents=True, exist_ok=True)
        self._take_room(check_room, is_ended)
        while not is_ended():
            left = [n for n in range(len(self._parts)) if not self._marker(n).exists()]
            if not left:
                return True
            if not any(self._make(number, stored) for number in left):
                time.sleep(_LOOK_S)  # others hold all that is left
        return False

    @contextlib.contextmanager
    def ending(self) -> Iterator[Places | None]:
        """For the one process that ends the entry, which alone reads all rows again: their places.

        None for others, when it is ended, and where a part was torn, which is to be made anew.
        """
        with self._locked("end") as mine:
            yield self._verified() if mine and self._images.exists() else None

    def wait(self) -> None:
        """Waits a moment for the process that ends the entry."""
        time.sleep(_LOOK_S)

    def remove(self) -> None:
        """Removes what there is; whoever else makes the entry begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """After an error: parts that are finished, or made by others now, stay for who goes on."""
        has_parts = self._images.exists() and any(self.folder.glob("part-*.npy"))
        if not has_parts and not self._is_held():
            self.remove()

    def _is_held(self) -> bool:
        with contextlib.suppress(OSError, StoreError), contextlib.ExitStack() as locks:
            return not all(
                locks.enter_context(exclusive(path)) for path in self.folder.glob("*.lock")
            )
        return False

    def _take_room(self, check_room: Callable[[], int], is_ended: Callable[[], bool]) -> None:
        while not (self._images.exists() or is_ended()):
            with self._locked("room") as mine:
                if not mine:
                    time.sleep(_LOOK_S)
                elif not (self._images.exists() or is_ended()):
                    wanted = check_room()
                    made = self._images.with_name("images.new")
                    if self.jpeg:
                        made.touch()
                        reserve(made, wanted)
                    else:
                        np.lib.format.open_memmap(
                            made, mode="w+", dtype=np.uint8, shape=self._shape
                        )
                        reserve(made)
                    made.rename(self._images)

    def _make(self, number: int, stored: Callable[[Rows], Sequence[bytes]]) -> bool:
        """Makes a part unless another process does; false if it does."""
        rows = self._parts[number]
        with self._locked(f"part-{number:05}") as mine:
            if mine and not self._marker(number).exists():
                found = stored(rows)
                start = self._append(found) if self.jpeg else self._put(int(rows[0]), found)
                lengths = np.array([len(row) for row in found])
                starts = start + np.cumsum(lengths) - lengths
                places = np.stack([[zlib.crc32(row) for row in found], starts, lengths], axis=1)
                content = io.BytesIO()
                np.save(content, places.astype(np.int64), allow_pickle=False)
                write_atomic(self._marker(number), content.getvalue())
            return mine

    def _put(self, first: int, found: Sequence[bytes]) -> int:
        """Writes rows where they belong, and gives where that is."""
        start = int(np.load(self._images, mmap_mode="r").offset) + first * len(found[0])
        self._write(start, found)
        return start

    def _append(self, found: Sequence[bytes]) -> int:
        """Writes rows behind those that are there, and gives where they begin."""
        end = self.folder / "end"
        while True:
            with self._locked("append") as mine:
                if mine:
                    start = int(end.read_text()) if end.exists() else 0
                    self._write(start, found)
                    write_atomic(end, str(start + sum(map(len, found))))
                    return start
            time.sleep(_LOOK_S)

    def _write(self, start: int, found: Sequence[bytes]) -> None:
        """By plain writes: through maps, two hosts could overwrite each other's pages."""
        with self._images.open("rb+", buffering=0) as file:
            file.seek(start)
            left = memoryview(b"".join(found))
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(file.fileno())

    def _verified(self) -> Places | None:
        """Places of all rows; None where some part is not as it was written, and made anew."""
        stored = np.memmap(self._images, mode="r")
        places = np.zeros((self._shape[0], 3), dtype=np.int64)
        sound = True
        for number, rows in enumerate(self._parts):
            written = None
            with contextlib.suppress(ValueError, EOFError):
                written = np.load(self._marker(number), allow_pickle=False)
            if written is not None and written.shape == (len(rows), 3):
                places[rows] = written
                crc = [zlib.crc32(stored[at : at + n].data) for _, at, n in written.tolist()]
                if np.array_equal(crc, written[:, 0]):
                    continue
            self._marker(number).unlink(missing_ok=True)
            sound = False
        return places if sound else None

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


def unfinished(cache_dir: Path) -> list[Path]:
    """Folders of parts that take room."""
    return sorted(at.parents[1] for at in cache_dir.glob(f"{PREFIX}*/entry/images.*"))


def sweep(cache_dir: Path) -> None:
    """Removes the parts of entries that nobody has gone on with for a week."""
    for folder in cache_dir.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if age_s(folder) > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
