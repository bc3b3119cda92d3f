"""Decoded images: one read-only memory map per selection and size, shared by all processes.

`cache/<fingerprint>-<size>/` holds `images.npy` (N, size, size, 3) uint8 in the order train, val,
test; `content.npy` (N, 32) the images' content hashes; `crc.npy` (N,) a checksum of each row; and
`manifest.json`. An entry never changes. It is built in a folder of its own, in parts that several
processes share (`bench.data.decoding`), and renamed. Pixels that another entry of the same size
already has (nested training sets, the common test set) are copied and not decoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError, StoreError
from bench.core.locks import exclusive
from bench.data.dataset import Image, UInt8
from bench.data.decoding import CRC, Parts, Rows, sweep

FORMAT = "bench decoded images 1"
_ATTEMPTS = 4
_CHECKED_ROWS = 256
_TEMPORARY = ".building-"
_LOCK = ".lock"

Read = Callable[[Sequence[Image], int], Iterator[UInt8]]


@dataclass(frozen=True, eq=False)
class _Entry:
    images: UInt8
    content: UInt8
    crc: npt.NDArray[np.uint32]

    def sound(self, row: int) -> bool:
        return zlib.crc32(self.images[row].tobytes()) == int(self.crc[row])


def cached_images(
    images: Sequence[Image],
    size: int,
    read: Read,
    *,
    cache_dir: Path,
    fingerprint: str,
    version: str,
) -> UInt8:
    """The pixels of `images` in their order, as a read-only memory map (N, size, size, 3).

    Args:
        images: of one selection, whose `fingerprint` covers keys, content and decoder.
        size: pixels along a side.
        read: decodes those that no entry of the cache has.
        version: of the decoder; only entries of the same one are copied from.

    Raises:
        DataError: from `read`, or when the cache cannot be written.
    """
    folder = cache_dir / f"{fingerprint}-{size}"
    content = _content(images)
    for attempt in range(_ATTEMPTS):
        entry = _open(folder, size, version)
        if entry is not None and _is_entry_of(entry, content):
            return entry.images
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _sweep(cache_dir)
            _build(folder, images, content, size, read, version)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt + 1 < _ATTEMPTS:
                continue  # somebody has deleted the cache meanwhile: it is built again
            raise DataError(
                f"decoded images cannot be cached ({error.strerror or error})",
                place=str(folder),
                hint="free some space, or choose another --results folder",
            ) from error
    raise DataError(
        "the cache entry just made does not verify, or is deleted again and again",
        place=str(folder),
        hint="see what else writes into the cache, or choose another --results folder",
    )


def _content(images: Sequence[Image]) -> UInt8:
    raw = bytes.fromhex("".join(image.sha256 for image in images))
    return np.frombuffer(raw, dtype=np.uint8).reshape(len(images), 32)


def _open(folder: Path, size: int, version: str) -> _Entry | None:
    """The entry, when its parts are there and fit each other."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, version):
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        content = np.load(folder / "content.npy", allow_pickle=False)
        crc = np.load(folder / "crc.npy", allow_pickle=False)
        count = manifest["images"]
        shapes = (images.shape, content.shape, crc.shape)
        types = (images.dtype, content.dtype, crc.dtype)
        if shapes == ((count, size, size, 3), (count, 32), (count,)) and types == (
            np.dtype(np.uint8),
            np.dtype(np.uint8),
            np.dtype(np.uint32),
        ):
            return _Entry(images, content, crc)
    return None


def _is_entry_of(entry: _Entry, content: UInt8) -> bool:
    """Whether it holds these images, by their hashes and by the checksums of some rows."""
    if not np.array_equal(entry.content, content):
        return False
    rows = np.unique(np.linspace(0, len(content) - 1, _CHECKED_ROWS).astype(int))
    return all(entry.sound(row) for row in rows)


def _build(
    folder: Path,
    images: Sequence[Image],
    content: UInt8,
    size: int,
    read: Read,
    version: str,
) -> None:
    """Makes the entry, together with other processes that want it, and renames it to `folder`."""
    digest = hashlib.sha256(f"{FORMAT} {version} ".encode() + content.tobytes()).hexdigest()
    parts = Parts(folder.parent, f"{folder.name}-{digest[:16]}", len(images), size)
    wanted = len(images) * size * size * 3
    known = _Known(content, folder.parent, size, version)

    def pixels(rows: Rows) -> UInt8:
        found: UInt8 = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        missing = [place for place, row in enumerate(rows) if not known.copy(row, found[place])]
        decoded = read([images[rows[place]] for place in missing], size)
        for place, one in zip(missing, decoded, strict=True):
            found[place] = one
        return found

    def is_ended() -> bool:
        entry = _open(folder, size, version)
        return entry is not None and _is_entry_of(entry, content)

    try:
        crc = parts.fill(pixels, lambda: _check_room(folder.parent, wanted), is_ended)
        while crc is not None and not is_ended():
            with parts.ending() as mine:
                if mine:
                    _end(parts.entry, folder, content, crc, size, version)
            if not mine:
                parts.wait()
    except Exception:
        parts.remove()
        raise
    parts.remove()


def _end(own: Path, folder: Path, content: UInt8, crc: CRC, size: int, version: str) -> None:
    """Writes what stands beside the pixels, and publishes the entry."""
    np.save(own / "content.npy", content, allow_pickle=False)
    np.save(own / "crc.npy", crc, allow_pickle=False)
    manifest = {"format": FORMAT, "version": version, "images": len(content), "size": size}
    (own / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for file in own.iterdir():
        _sync(file)
    _sync(own)
    _publish(own, folder, content, size, version)


def _check_room(cache_dir: Path, wanted: int) -> None:
    """A disk that is too small is not filled first."""
    free = shutil.disk_usage(cache_dir).free
    if wanted > free:
        needed, room = (f"{count / 2**20:,.1f} MiB" for count in (wanted, free))
        raise DataError(
            f"the decoded images take {needed}, and {room} are free",
            place=str(cache_dir),
            hint="free some space, choose another --results folder, set a smaller image_size or "
            "fewer images_per_class, or set the environment variable BENCH_DECODE=always, with "
            "which images are decoded from their files each time they are shown",
        )


class _Known:
    """Rows of the wanted content that other entries have; these are looked through once."""

    def __init__(self, content: UInt8, cache_dir: Path, size: int, version: str) -> None:
        wanted: dict[bytes, list[int]] = {}
        for row, key in enumerate(content):
            wanted.setdefault(key.tobytes(), []).append(row)
        self._rows: dict[int, tuple[_Entry, int]] = {}
        for folder in sorted(cache_dir.glob(f"[!.]*-{size}")):
            entry = _open(folder, size, version) if wanted else None
            for place, key in enumerate(() if entry is None else entry.content):
                if entry is not None and key.tobytes() in wanted and entry.sound(place):
                    for row in wanted.pop(key.tobytes()):
                        self._rows[row] = (entry, place)

    def copy(self, row: int, to: UInt8) -> bool:
        """Copies a row to where it belongs; false where no entry has it."""
        if row not in self._rows:
            return False
        entry, place = self._rows[row]
        to[:] = entry.images[place]
        return True


def _publish(own: Path, folder: Path, content: UInt8, size: int, version: str) -> None:
    """Renames `own` to `folder`, unless a sound entry has come there before."""
    for _ in range(3):
        try:
            own.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        else:
            _sync(folder.parent)
            return
        there = _open(folder, size, version)
        if there is not None and _is_entry_of(there, content):
            return
        broken = folder.with_name(f"{_TEMPORARY}{folder.name}-{secrets.token_hex(6)}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(broken)
            shutil.rmtree(broken, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(cache_dir: Path) -> None:
    """Removes what builds that were killed have left, once nobody is going to resume them."""
    sweep(cache_dir)
    for folder in cache_dir.glob(f"{_TEMPORARY}*"):
        if folder.name.endswith((_LOCK, ".held")):
            folder, lock = folder.with_name(folder.name.partition(_LOCK)[0]), folder
        else:
            lock = folder.with_name(f"{folder.name}{_LOCK}")
        with contextlib.suppress(OSError, StoreError), exclusive(lock) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
