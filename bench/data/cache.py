"""Decoded images: one read-only memory map per selection and size, shared by all processes.

`cache/<fingerprint>-<size>/` holds `images.npy` (N, size, size, 3) uint8 in the order train, val,
test; `content.npy` (N, 32) the images' content hashes; `crc.npy` (N,) a checksum of each row; and
`manifest.json`. An entry never changes. It is built in a folder of its own and renamed, so of two
processes that build it at once the second throws its own away. Pixels that another entry of the
same size already has (nested training sets, the common test set) are copied and not decoded again.
"""

from __future__ import annotations

import contextlib
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
from bench.core.files import reserve
from bench.core.locks import exclusive
from bench.data.dataset import Image, UInt8

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
    _check_room(folder.parent, len(images) * size * size * 3)
    own = folder.with_name(f"{_TEMPORARY}{folder.name}-{secrets.token_hex(6)}")
    with _held(own):
        own.mkdir()
        _fill(own, images, content, size, read, version, folder)


def _fill(
    own: Path,
    images: Sequence[Image],
    content: UInt8,
    size: int,
    read: Read,
    version: str,
    folder: Path,
) -> None:
    """Makes the entry in a folder of its own, and renames it to `folder`."""
    try:
        pixels: UInt8 = np.lib.format.open_memmap(
            own / "images.npy", mode="w+", dtype=np.uint8, shape=(len(images), size, size, 3)
        )
        reserve(own / "images.npy")
        done = _copy_known(pixels, content, folder.parent, size, version)
        missing = [row for row in range(len(images)) if not done[row]]
        for row, one in zip(missing, read([images[row] for row in missing], size), strict=True):
            pixels[row] = one
        crc = np.array([zlib.crc32(row.tobytes()) for row in pixels], dtype=np.uint32)
        np.save(own / "content.npy", content, allow_pickle=False)
        np.save(own / "crc.npy", crc, allow_pickle=False)
        pixels.flush()  # type: ignore[attr-defined]
        manifest = {"format": FORMAT, "version": version, "images": len(images), "size": size}
        (own / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        for file in own.iterdir():
            _sync(file)
        _sync(own)
        _publish(own, folder, content, size, version)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _check_room(cache_dir: Path, wanted: int) -> None:
    """A disk that is too small is not filled first."""
    free = shutil.disk_usage(cache_dir).free
    if wanted > free:
        needed, room = (f"{count / 2**20:,.1f} MiB" for count in (wanted, free))
        raise DataError(
            f"the decoded images take {needed}, and {room} are free",
            place=str(cache_dir),
            hint="free some space, choose another --results folder, or set a smaller image_size or "
            "fewer images_per_class",
        )


def _copy_known(
    pixels: UInt8, content: UInt8, cache_dir: Path, size: int, version: str
) -> npt.NDArray[np.bool_]:
    """Fills the rows that other entries have; says which."""
    done = np.zeros(len(content), dtype=np.bool_)
    wanted: dict[bytes, list[int]] = {}
    for row, key in enumerate(content):
        wanted.setdefault(key.tobytes(), []).append(row)
    for folder in sorted(cache_dir.glob(f"[!.]*-{size}")):
        if not wanted:
            break
        entry = _open(folder, size, version)
        if entry is None:
            continue
        for row, key in enumerate(entry.content):
            rows = wanted.get(key.tobytes())
            if rows is not None and entry.sound(row):
                pixels[rows] = entry.images[row]
                done[wanted.pop(key.tobytes())] = True
    return done


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


@contextlib.contextmanager
def _held(own: Path) -> Iterator[None]:
    """While a build goes on, others see by a lock that its builder lives; no clock is asked."""
    lock = own.with_name(f"{own.name}{_LOCK}")
    try:
        with exclusive(lock):
            yield
    finally:
        lock.unlink(missing_ok=True)


def _sweep(cache_dir: Path) -> None:
    """Removes what builds that were killed have left."""
    for folder in cache_dir.glob(f"{_TEMPORARY}*"):
        if folder.name.endswith((_LOCK, ".held")):
            folder, lock = folder.with_name(folder.name.partition(_LOCK)[0]), folder
        else:
            lock = folder.with_name(f"{folder.name}{_LOCK}")
        with contextlib.suppress(OSError, StoreError), exclusive(lock) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
