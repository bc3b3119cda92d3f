"""Decoded images: one read-only memory map per selection and size, shared by all processes.

`cache/<fingerprint>-<size>/` holds `images.npy` (N, size, size, 3) uint8 in the order train, val,
test; `content.npy` (N, 32) the images' content hashes; `crc.npy` (N,) a checksum of each row; and
`manifest.json`. `cache/<fingerprint>-<size>-jpeg95/` keeps each image as JPEG: `images.bin`, and in
`places.npy` (N, 2) where each begins and how long it is. An entry never changes. It is built in a
folder of its own, in parts that several processes share (`bench.data.decoding`), and renamed.
Images that another entry of the same size already has (nested training sets, the common test set)
are copied and not decoded again.
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
from bench.core.files import sync_folder
from bench.core.locks import exclusive
from bench.data.dataset import Image, UInt8
from bench.data.decoding import Parts, Places, Rows, sweep, unfinished
from bench.data.files.files import ahead
from bench.data.files.jpeg import QUALITY, decode_jpeg, encode_jpeg
from bench.data.selection.images import Images, Mask, among, starts_of

FORMAT = "bench decoded images 1"
_ATTEMPTS = 4
_CHECKED_ROWS = 256
_SAMPLED_ROWS = 16
_TEMPORARY = ".building-"
_LOCK = ".lock"

Read = Callable[[Sequence[Image], int], Iterator[UInt8]]


@dataclass(frozen=True)
class _Kind:
    """What entries have in common that images are copied between.

    Attributes:
        size: pixels along a side.
        version: of the decoder.
        jpeg: whether images are kept as JPEG, and not as pixels.
        name: of the data set, for messages.
    """

    size: int
    version: str
    jpeg: bool = False
    name: str = ""

    @property
    def suffix(self) -> str:
        """What the names of such entries end with."""
        return f"-{self.size}-jpeg{QUALITY}" if self.jpeg else f"-{self.size}"

    @property
    def format(self) -> str:
        """As the manifest names it."""
        return f"{FORMAT}, JPEG {QUALITY}" if self.jpeg else FORMAT


@dataclass(frozen=True, eq=False)
class _Entry:
    """`images` are (N, size, size, 3), or as JPEG all bytes, of which `places` says whose they
    are."""

    images: UInt8
    content: UInt8
    crc: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int64] | None = None

    def stored(self, row: int) -> bytes:
        if self.places is None:
            bytes_of: UInt8 = self.images[row]
        else:
            start, length = self.places[row].tolist()
            bytes_of = self.images[start : start + length]
        return bytes_of.tobytes()

    def sound(self, row: int) -> bool:
        return zlib.crc32(self.stored(row)) == int(self.crc[row])


def cached_images(
    images: Sequence[Image],
    size: int,
    read: Read,
    *,
    cache_dir: Path,
    fingerprint: str,
    version: str,
    name: str = "",
) -> UInt8:
    """The pixels of `images` in their order, as a read-only memory map (N, size, size, 3).

    Args:
        images: of one selection, whose `fingerprint` covers keys, content and decoder.
        size: pixels along a side.
        read: decodes those that no entry of the cache has.
        version: of the decoder; only entries of the same one are copied from.
        name: of the data set, for messages.

    Raises:
        DataError: from `read`, or when the cache cannot be written.
    """
    kind = _Kind(size, version, name=name)
    return _cached(images, read, cache_dir / f"{fingerprint}{kind.suffix}", kind).images


def cached_jpegs(
    images: Sequence[Image],
    size: int,
    read: Read,
    *,
    cache_dir: Path,
    fingerprint: str,
    version: str,
    name: str = "",
) -> Callable[[Sequence[int]], Iterator[UInt8]]:
    """The same, each kept as JPEG and decoded when it is asked for by its number.

    Raises:
        DataError: as `cached_images`; by what is returned also for images that were damaged since.
    """
    kind = _Kind(size, version, jpeg=True, name=name)
    folder = cache_dir / f"{fingerprint}{kind.suffix}"
    entry = _cached(images, read, folder, kind)

    def pixels(row: int) -> UInt8:
        data = entry.stored(row)
        if zlib.crc32(data) != int(entry.crc[row]):
            raise DataError(
                f"image {images[row].key!r} was damaged in the cache",
                place=str(folder),
                hint="delete this folder, it is built again; and look after the disk",
            )
        return decode_jpeg(data)

    return lambda rows: ahead(pixels, rows)


def is_cached(fingerprint: str, size: int, *, cache_dir: Path, jpeg: bool = False) -> bool:
    """Whether a selection has an entry of its own; not whether that is sound."""
    return (cache_dir / f"{fingerprint}{_Kind(size, '', jpeg).suffix}" / "manifest.json").exists()


def uncached(
    images: Images, size: int, *, cache_dir: Path, version: str, jpeg: bool = False
) -> Mask:
    """Which of `images` no entry has, of equal ones the first; see `cached_images`.

    Images count as equal whose hashes agree in eight bytes: this is for forecasts.
    """
    kind = _Kind(size, version, jpeg)
    needed = np.zeros(len(images), dtype=np.bool_)
    needed[np.unique(images.starts, return_index=True)[1]] = True
    for folder in sorted(cache_dir.glob(f"[!.]*{kind.suffix}")):
        if (entry := _open(folder, kind)) is not None:
            needed &= ~among(images.starts, starts_of(entry.content))
    return needed


def _cached(given: Sequence[Image], read: Read, folder: Path, kind: _Kind) -> _Entry:
    """The entry, built where it is not there or damaged."""
    cache_dir, images = folder.parent, Images.of(given)
    content = images.sha256
    for attempt in range(_ATTEMPTS):
        entry = _open(folder, kind)
        if entry is not None and _is_entry_of(entry, content):
            return entry
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _sweep(cache_dir)
            _build(folder, images, content, read, kind)
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


def _open(folder: Path, kind: _Kind) -> _Entry | None:
    """The entry, when its parts are there and fit each other."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if (manifest["format"], manifest["version"]) != (kind.format, kind.version):
            return None
        count, side = manifest["images"], kind.size
        content = np.load(folder / "content.npy", allow_pickle=False)
        crc = np.load(folder / "crc.npy", allow_pickle=False)
        found = [(content.shape, content.dtype), (crc.shape, crc.dtype)]
        expected = [((count, 32), np.uint8), ((count,), np.uint32)]
        places = None
        if kind.jpeg:
            images: UInt8 = np.memmap(folder / "images.bin", mode="r")
            places = np.load(folder / "places.npy", allow_pickle=False)
            found.append((places.shape, places.dtype))
            expected.append(((count, 2), np.int64))
        else:
            images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
            found.append((images.shape, images.dtype))
            expected.append(((count, side, side, 3), np.uint8))
        if found == expected:
            return _Entry(images, content, crc, places)
    return None


def _is_entry_of(entry: _Entry, content: UInt8) -> bool:
    """Whether it holds these images, by their hashes and by the checksums of some rows."""
    if not np.array_equal(entry.content, content):
        return False
    rows = np.unique(np.linspace(0, len(content) - 1, _CHECKED_ROWS).astype(int))
    return all(entry.sound(row) for row in rows)


def _build(folder: Path, images: Images, content: UInt8, read: Read, kind: _Kind) -> None:
    """Makes the entry, together with other processes that want it, and renames it to `folder`."""
    text = f"{kind.format} {kind.version} "
    digest = hashlib.sha256(text.encode() + content.tobytes()).hexdigest()
    name = f"{folder.name}-{digest[:16]}"
    parts = Parts(folder.parent, name, len(images), kind.size, jpeg=kind.jpeg)
    known = _Known(content, folder.parent, kind)
    encode: Callable[[UInt8], bytes] = encode_jpeg if kind.jpeg else np.ndarray.tobytes

    def stored(rows: Rows) -> list[bytes]:
        found = {row: known.stored(row) for row in rows.tolist()}
        missing = [row for row, data in found.items() if data is None]
        pixels = read(images[np.array(missing, dtype=np.int64)], kind.size)
        made = ahead(encode, pixels) if kind.jpeg else map(encode, pixels)
        found.update(zip(missing, made, strict=True))
        return [data for row in rows.tolist() if (data := found[row]) is not None]

    def room() -> int:
        wanted = len(images) * kind.size**2 * 3
        if kind.jpeg:
            some = np.unique(np.linspace(0, len(images) - 1, _SAMPLED_ROWS).astype(np.int64))
            wanted = round(1.1 * len(images) * np.mean([len(one) for one in stored(some)]))
        _check_room(folder.parent, wanted, kind)
        return wanted

    def is_ended() -> bool:
        entry = _open(folder, kind)
        return entry is not None and _is_entry_of(entry, content)

    try:
        while parts.fill(stored, room, is_ended):
            with parts.ending() as places:
                if places is not None:
                    _end(parts.entry, folder, content, places, kind)
            if places is None:
                parts.wait()
    except Exception:
        parts.leave()
        raise
    parts.remove()


def _end(own: Path, folder: Path, content: UInt8, places: Places, kind: _Kind) -> None:
    """Writes what stands beside the images, and publishes the entry."""
    np.save(own / "content.npy", content, allow_pickle=False)
    np.save(own / "crc.npy", places[:, 0].astype(np.uint32), allow_pickle=False)
    if kind.jpeg:
        np.save(own / "places.npy", places[:, 1:], allow_pickle=False)
        os.truncate(own / "images.bin", int(places[:, 1:].sum(axis=1).max()))
    manifest = {
        "format": kind.format,
        "version": kind.version,
        "images": len(content),
        "size": kind.size,
    }
    (own / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for file in own.iterdir():
        sync_folder(file)
    sync_folder(own)
    _publish(own, folder, content, kind)


def _check_room(cache_dir: Path, wanted: int, kind: _Kind) -> None:
    """A disk that is too small is not filled first."""
    free = shutil.disk_usage(cache_dir).free
    if wanted > free:
        needed, room = (f"{count / 2**20:,.1f} MiB" for count in (wanted, free))
        whose = f" of {kind.name!r}" if kind.name else ""
        smaller = "stored_as: jpeg (about a tenth of the room, pixels differ), "
        left = ", ".join(path.name for path in unfinished(cache_dir))
        others = f"delete what unfinished selections hold there ({left}), " if left else ""
        raise DataError(
            f"the decoded images{whose} take {needed}{' as JPEG' if kind.jpeg else ''}, and {room} "
            "are free",
            place=str(cache_dir),
            hint=f"free some space, {others}choose another --results folder, give this selection "
            "(under target:, or under sources: where it is a source or borrowed) "
            f"{'' if kind.jpeg else smaller}a smaller image_size or fewer images_per_class, or set "
            "the environment variable "
            "BENCH_DECODE=always, with which images are decoded from their files each time they "
            "are shown",
        )


class _Known:
    """Rows of the wanted content that other entries have; these are looked through once."""

    def __init__(self, content: UInt8, cache_dir: Path, kind: _Kind) -> None:
        wanted: dict[bytes, list[int]] = {}
        for row, key in enumerate(content):
            wanted.setdefault(key.tobytes(), []).append(row)
        self._rows: dict[int, tuple[_Entry, int]] = {}
        for folder in sorted(cache_dir.glob(f"[!.]*{kind.suffix}")):
            entry = _open(folder, kind) if wanted else None
            for place, key in enumerate(() if entry is None else entry.content):
                if entry is not None and key.tobytes() in wanted and entry.sound(place):
                    for row in wanted.pop(key.tobytes()):
                        self._rows[row] = (entry, place)

    def stored(self, row: int) -> bytes | None:
        """A row as it is stored; None where no entry has it."""
        if row not in self._rows:
            return None
        entry, place = self._rows[row]
        return entry.stored(place)


def _publish(own: Path, folder: Path, content: UInt8, kind: _Kind) -> None:
    """Renames `own` to `folder`, unless a sound entry has come there before."""
    for _ in range(3):
        try:
            own.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        else:
            sync_folder(folder.parent)
            return
        there = _open(folder, kind)
        if there is not None and _is_entry_of(there, content):
            return
        broken = folder.with_name(f"{_TEMPORARY}{folder.name}-{secrets.token_hex(6)}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(broken)
            shutil.rmtree(broken, ignore_errors=True)


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
