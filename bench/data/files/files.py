"""Files of a folder: which there are, which of them are images, and work on them in threads."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TypeVar

from bench.core.errors import DataError
from bench.core.text import counted

MAX_DEPTH = 64
"""Folders below one another; a path of a data set has a handful."""
_KINDS = (
    "apng avif avifs bmp dds dib gif heic heif icns ico j2c j2k jfif jp2 jpe jpeg jpf jpg jpx mpo "
    "pbm pcx pfm pgm png pnm ppm psd qoi sgi tga tif tiff webp"
)
_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"8BPS"),
    *(b"\0\0\0\x0cjP  ", b"\xffO\xffQ", b"qoif", b"DDS "),
)
_PLACED_SIGNATURE = re.compile(
    rb"RIFF....WEBP|....ftyp(avif|avis|heic|heix|mif1)|BM....\0\0\0\0|P[1-6]\s+[#\d]", re.DOTALL
)
_A = TypeVar("_A")
_B = TypeVar("_B")


def is_image(path: str) -> bool:
    """Whether the name is that of an image file, or of iCloud's placeholder of one.

    >>> is_image("train/a.JPEG"), is_image("val_annotations.txt"), is_image("cat/.a.jpg.icloud")
    (True, False, True)
    """
    name = path.removesuffix(".icloud")
    return os.path.splitext(name)[1].lower() in _SUFFIXES  # noqa: PTH122 (a string, no file)


def begins_like_image(head: bytes) -> bool:
    """Whether bytes are the first 16 or more of an image file, whatever its name.

    >>> begins_like_image(b"GIF89a..."), begins_like_image(b"a text")
    (True, False)
    """
    return head.startswith(_SIGNATURES) or _PLACED_SIGNATURE.match(head) is not None


def placeholder(data: bytes) -> str | None:
    """What stands in a file's place until it is fetched, and how to; None for anything else.

    >>> placeholder(b"version https://git-lfs.github.com/spec/v1")
    'a Git LFS pointer, not the file: git lfs pull fetches it'
    """
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file: git lfs pull fetches it"
    if data.startswith(b"bplist00"):
        return "a placeholder of iCloud, not the file: download it first (Download Now in Finder)"
    if data and not data.strip(b"\0"):
        return "only zeros, such as a placeholder of OneDrive or a torn copy: download it anew"
    if 0 < len(data) < 1024 and data.isascii() and b"/annex/objects/" in data:
        return "a git-annex pointer, not the file: git annex get fetches it"
    return None


def walk(
    folder: Path, prefix: str = "", seen: dict[tuple[int, int], str] | None = None
) -> Iterator[tuple[str, int, int]]:
    """Posix path (after `prefix`), size in bytes and modification time in ns of every file.

    Links are followed, hidden files are left out (but not iCloud's placeholders). A folder with
    nothing in it is given as its path with a slash at the end.

    Args:
        folder: where to begin.
        prefix: of all paths; empty, or with a slash at the end.
        seen: the folders that were looked into already, by device and inode.

    Raises:
        DataError: for links that lead to a folder a second time or nowhere, what is neither a file
            nor a folder, folders too deep, and names that are not UTF-8.
    """
    seen = {} if seen is None else seen
    _enter(folder, prefix, seen)
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise _closed(folder, error) from None
    empty = bool(prefix)
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name == "__MACOSX"
        if hidden and not entry.name.endswith(".icloud"):
            continue
        empty = False
        path = prefix + entry.name
        _check_utf8(folder, path)
        try:
            info = entry.stat()
        except FileNotFoundError:
            raise DataError(
                f"{path!r} is a link to nothing",
                place=str(folder),
                hint="remove the link, or put back what it leads to",
            ) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise DataError(
                    f"{path!r} is a link that leads back to itself",
                    place=str(folder),
                    hint="remove the link",
                ) from None
            raise _closed(folder, error) from None
        if stat.S_ISDIR(info.st_mode):
            yield from walk(Path(entry.path), f"{path}/", seen)
        elif stat.S_ISREG(info.st_mode):
            yield path, info.st_size, info.st_mtime_ns
        else:
            raise DataError(
                f"{path!r} is not a regular file but a pipe, a device or the like",
                place=str(folder),
                hint="remove it, or move it out of the data set",
            )
    if empty:
        yield prefix, 0, 0


def _enter(folder: Path, prefix: str, seen: dict[tuple[int, int], str]) -> None:
    """Notes that a folder is looked into; once only."""
    if prefix.count("/") > MAX_DEPTH:
        raise DataError(
            f"folders lie more than {MAX_DEPTH} deep",
            place=f"{str(folder)[:200]}…",
            hint="a data set has a folder per class: move the images up, or remove the folder",
        )
    info = folder.stat()
    here = (info.st_dev, info.st_ino)
    if info.st_ino and here in seen:
        first = seen[here]
        inside = prefix.startswith(first)
        raise DataError(
            f"folder {prefix!r} is a link to a folder that it lies in"
            if inside
            else f"folders {first!r} and {prefix!r} are one folder, reached through a link",
            place=str(folder),
            hint="remove the link: each image is read once",
        )
    seen[here] = prefix


def _closed(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the folder cannot be read ({error.strerror})",
        place=str(folder),
        hint=f"let yourself read it: chmod -R u+rX {quote(str(folder))}, or move it out of the "
        "data set",
    )


def _check_utf8(folder: Path, path: str) -> None:
    try:
        if "\n" not in path:
            path.encode()
            return
    except UnicodeEncodeError:
        pass
    raw = os.fsencode(path)
    name = raw.decode("utf-8", "replace")
    place = os.fsencode(folder).decode("utf-8", "replace")
    if "\n" not in path and "\ufffd" not in name:  # it is UTF-8, but the process cannot know it
        raise DataError(
            f"file name {name!r} cannot be read in this environment, whose encoding is "
            f"{sys.getfilesystemencoding()}",
            place=place,
            hint="set the environment variable PYTHONUTF8=1, or LC_ALL=C.UTF-8",
        )
    raise DataError(
        f"file name {path!r} is not UTF-8 text on one line", place=place, hint="rename the file"
    )


_WARNINGS: Counter[str] = Counter()
_MOST_THREADS = 16
"""Pillow decodes and resizes without Python's lock; with the rest (0.4 of 1.1 ms of an image of
0.2 megapixels, 0.7 of 9.9 ms of one of 3) a process keeps 3 to 14 cores busy."""


def ahead(work: Callable[[_A], _B], items: Iterable[_A], block: int = 512) -> Iterator[_B]:
    """`map` on a thread per core, results in order, at most `block` of them held at once.

    What libraries warn of meanwhile is counted, see `taken_warnings`.
    """
    rest = iter(items)
    with ThreadPoolExecutor(decoding_threads()) as pool:
        while chunk := list(islice(rest, block)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                results = list(pool.map(work, chunk))
            _WARNINGS.update(str(one.message).strip().splitlines()[0] for one in caught)
            yield from results


def usable_cores() -> int:
    """Cores that this process may use: what it is bound to, and of a SLURM job what was asked."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    return max(1, min(bound or 1, int(asked) if asked.isdigit() else bound or 1))


def decoding_threads() -> int:
    """How many threads `ahead` has."""
    return min(usable_cores(), _MOST_THREADS)


def taken_warnings() -> str | None:
    """What libraries warned of in `ahead` since the last call, on one line; None for nothing."""
    found = _WARNINGS.most_common()
    _WARNINGS.clear()
    if not found:
        return None
    more = f" and {counted(len(found) - 1, 'other warning')}" if len(found) > 1 else ""
    total = sum(count for _, count in found)
    return f"{counted(total, 'warning')} while reading images: {found[0][0]}{more}"


def table_path(cache_dir: Path, place: str, signature: str) -> Path:
    """Where the table of a tree is kept; a tree that has changed has another name."""
    where = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_dir / "index" / f"{where[:16]}-{signature[:16]}.json"
