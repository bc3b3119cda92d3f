"""Image files of a data set: their names, content hashes and bytes, from a folder or an archive.

Every file is read and hashed once. The table of names and hashes lies below `cache_dir/index`,
named after the place and after the tree's names, sizes and times, so that a tree that has changed
is read again. Bytes are checked against the table whenever they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from bench.core.errors import DataError
from bench.core.files import write_atomic

TABLE_FORMAT = "bench file table 1"
_KINDS = ("bmp", "gif", "jfif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS)
_A = TypeVar("_A")
_B = TypeVar("_B")


def is_image(path: str) -> bool:
    """Whether the name is that of an image file.

    >>> is_image("train/a.JPEG"), is_image("val_annotations.txt")
    (True, False)
    """
    return os.path.splitext(path)[1].lower() in _SUFFIXES  # noqa: PTH122 (a string, no file)


@dataclass(frozen=True, eq=False)
class Files:
    """The image files below a folder or in an archive.

    Attributes:
        place: where they lie, for messages.
        sha256: content hash by posix path inside the tree, sorted by path.
        texts: small text files that the layout needs, by path.
        others: how many other files there are.
        blob: the file that holds all bytes, or None where each image is a file below `place`.
        spans: (offset, length) of each path in `blob`.
    """

    place: Path
    sha256: Mapping[str, str]
    texts: Mapping[str, str]
    others: int
    blob: Path | None = None
    spans: Mapping[str, tuple[int, int]] | None = None

    def read(self, path: str) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: when they are not those that were indexed.
        """
        try:
            data = self._bytes(path)
        except OSError as error:
            raise DataError(
                f"image {path!r} cannot be read ({error.strerror})",
                place=str(self.place),
                hint="the data have changed since they were indexed: start the command again",
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sha256[path]:
            packed = self.blob is not None and self.blob != self.place
            raise DataError(
                f"image {path!r} is not what it was when the data were indexed",
                place=str(self.blob or self.place),
                hint="delete this file of the cache; the next command makes it anew"
                if packed
                else "start the command again; it indexes the data as they are now",
            )
        return data

    def _bytes(self, path: str) -> bytes:
        if self.blob is None or self.spans is None:
            return (self.place / path).read_bytes()
        offset, length = self.spans[path]
        with self.blob.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def folder_files(
    root: Path,
    cache_dir: Path,
    *,
    texts: frozenset[str] = frozenset(),
    tops: frozenset[str] | None = None,
) -> Files:
    """The image files below `root`, links followed, hidden files left out.

    Args:
        root: a folder.
        cache_dir: the table is kept below it.
        texts: names (without folder) of the text files that the layout needs.
        tops: look only into these folders of `root`; None looks into all.

    Raises:
        DataError: for a name that is not UTF-8, or a file that cannot be read.
    """
    return _indexed(
        root, sorted(_walk(root, tops)), f"folder {sorted(tops or ())}", texts, cache_dir
    )


def listed_files(root: Path, paths: Sequence[str], cache_dir: Path) -> Files:
    """The image files `paths` below `root`."""
    entries = []
    for path in sorted(paths):
        info = (root / path).stat()
        entries.append((path, info.st_size, info.st_mtime_ns))
    return _indexed(root, entries, "listed", frozenset(), cache_dir)


def _indexed(
    root: Path,
    entries: Sequence[tuple[str, int, int]],
    kind: str,
    texts: frozenset[str],
    cache_dir: Path,
) -> Files:
    lines = [f"{path}|{size}|{mtime_ns}" for path, size, mtime_ns in entries]
    signature = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    stored = table_path(cache_dir, f"{root.resolve()}|{kind}", signature)
    known = load_table(stored, root, None)
    if known is not None:
        return known
    images = [path for path, _, _ in entries if is_image(path)]
    needed = [path for path, _, _ in entries if path.rpartition("/")[2] in texts]
    found = Files(
        place=root,
        sha256=dict(zip(images, ahead(lambda path: _hash(root, path), images), strict=True)),
        texts={path: _read(root, path).decode("utf-8", "replace") for path in needed},
        others=len(entries) - len(images) - len(needed),
    )
    store_table(stored, found)
    return found


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Posix path (after `prefix`), size in bytes and modification time in ns of every file.

    Links are followed, hidden files are left out.

    Raises:
        DataError: for links that lead in circles or nowhere, and names that are not UTF-8.
    """
    return _walk(folder, None, prefix)


def _walk(
    folder: Path, tops: frozenset[str] | None, prefix: str = "", above: tuple[Any, ...] = ()
) -> Iterator[tuple[str, int, int]]:
    """As `walk`; `tops` are the only folders that are looked into."""
    here = folder.stat()
    if (here.st_dev, here.st_ino) in above:
        raise DataError(
            f"folder {prefix!r} is a link to a folder that it lies in", place=str(folder)
        )
    with _scanned(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            _check_utf8(folder, path)
            try:
                if entry.is_dir():
                    if prefix or tops is None or entry.name in tops:
                        yield from _walk(
                            Path(entry.path),
                            tops,
                            path + "/",
                            (*above, (here.st_dev, here.st_ino)),
                        )
                elif prefix or tops is None:
                    info = entry.stat()
                    yield path, info.st_size, info.st_mtime_ns
            except FileNotFoundError:
                raise DataError(
                    f"{path!r} is a link to nothing",
                    place=str(folder),
                    hint="remove the link, or put back what it leads to",
                ) from None
            except PermissionError as error:
                raise _closed(folder, error) from None


def _scanned(folder: Path) -> Any:
    """The entries of a folder, as of `os.scandir`."""
    try:
        return os.scandir(folder)
    except OSError as error:
        raise _closed(folder, error) from None


def _closed(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the folder cannot be read ({error.strerror})",
        place=str(folder),
        hint=f"let yourself read it: chmod -R u+rX {folder}, or move it out of the data set",
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
    if "\n" not in path and "\ufffd" not in name:  # it is UTF-8, but the process cannot know it
        encoding = sys.getfilesystemencoding()
        raise DataError(
            f"file name {name!r} cannot be read in this environment, whose encoding is {encoding}",
            place=os.fsencode(folder).decode("utf-8", "replace"),
            hint="set the environment variable PYTHONUTF8=1, or LC_ALL=C.UTF-8",
        )
    raise DataError(
        f"file name {path!r} is not UTF-8 text on one line",
        place=os.fsencode(folder).decode("utf-8", "replace"),
        hint="rename the file",
    )


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path!r} cannot be read ({error.strerror})",
            place=str(root),
            hint="let yourself read it: chmod u+r, or move it out of the data set",
        ) from error


def _hash(root: Path, path: str) -> str:
    return hashlib.sha256(_read(root, path)).hexdigest()


def ahead(work: Callable[[_A], _B], items: Iterable[_A], block: int = 512) -> Iterator[_B]:
    """`map` on a few threads, results in order, at most `block` of them held at once."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(usable or 1, 8)
    rest = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(rest, block)):
            yield from pool.map(work, chunk)


def table_path(cache_dir: Path, place: str, signature: str) -> Path:
    """Where the table of a tree is kept; a tree that has changed has another name."""
    where = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_dir / "index" / f"{where[:16]}-{signature[:16]}.json"


def store_table(path: Path, files: Files) -> None:
    """Writes the table, whole or not at all."""
    spans = files.spans
    table = {
        "format": TABLE_FORMAT,
        "paths": list(files.sha256),
        "sha256": list(files.sha256.values()),
        "spans": None if spans is None else [list(spans[key]) for key in files.sha256],
        "texts": dict(files.texts),
        "others": files.others,
    }
    write_atomic(path, json.dumps(table, separators=(",", ":")))


def load_table(path: Path, place: Path, blob: Path | None) -> Files | None:
    """The table at `path`; None where there is none that is whole and ours."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] == TABLE_FORMAT and (blob is None) == (table["spans"] is None):
            return _files(table, place, blob)
    return None


def _files(table: Mapping[str, Any], place: Path, blob: Path | None) -> Files | None:
    paths: Sequence[str] = table["paths"]
    spans = None
    if blob is not None:
        spans = {
            path: (int(offset), int(length))
            for path, (offset, length) in zip(paths, table["spans"], strict=True)
        }
        end = max((offset + length for offset, length in spans.values()), default=0)
        if blob.stat().st_size < end:
            return None
    hashes = dict(zip(paths, table["sha256"], strict=True))
    return Files(place, hashes, dict(table["texts"]), int(table["others"]), blob, spans)
