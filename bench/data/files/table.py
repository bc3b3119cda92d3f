"""The table of a data set's images: names, classes, contents and places, memory-mapped.

A file holds a digest of the rest, a line of JSON, and columns of fixed width, sorted by key. It is
made once and never changes. A process reads the rows that it uses, and all processes of a machine
share the pages: ImageNet's 1.28 million rows are 120 MB on the disk and next to nothing in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from bench.core.files import write_atomic
from bench.data.dataset import Image, Notes, Split, digest
from bench.data.files.mount import Span
from bench.data.selection.images import Columns, Images, Texts, hashes

TABLE_FORMAT = "bench data set table 3"
_DIGEST, _ALIGNED = 64, 64
"""Bytes of the digest's hexadecimal digits, and those that a column begins at a multiple of."""
_FOLDER, _CACHE, _ELSEWHERE = range(3)
"""The data set's folder, the cache, or anywhere."""

Crop = tuple[int, int, int, int]


class Row(NamedTuple):
    """One image: as `Image` has it, the SHA-256 of its file, and where that lies."""

    key: str
    label: str
    split: Split
    group: str | None
    content: str
    span: Span
    crop: Crop | None = None
    columns: Mapping[str, str] = {}

    @property
    def sha256(self) -> str:
        """Of the file, or of the file and the part that the image is."""
        return self.content if self.crop is None else digest([self.content, f"crop {self.crop}"])


class Table:
    """A table that was opened, see `written`.

    Attributes:
        labels: the classes, sorted.
        notes: what a reader of the data set should know.
        splits: those that some image is in.
        layout: the options that say which images there are, as text.
    """

    def __init__(self, mapped: mmap.mmap, folder: Path, cache_dir: Path) -> None:
        end = mapped.find(b"\n", _DIGEST)
        header = json.loads(mapped[_DIGEST:end])
        if header["format"] != TABLE_FORMAT:
            raise ValueError("a table of another kind")
        self._columns: dict[str, npt.NDArray[Any]] = {}
        for name, (kind, shape, at) in header["columns"].items():
            array = np.frombuffer(mapped, kind, math.prod(shape), _padded(end + 1) + at)
            self._columns[name] = array.reshape(shape)
        self._places = (str(folder), str(cache_dir))
        self._keys = self._texts("key")
        self._files = self._texts("file") if "file" in self._columns else self._keys
        self._fingerprints: dict[str, str] = header["fingerprints"]
        self._packs: dict[str, int] = header["packs"]
        self._starts: list[int] = header["starts"]
        self.labels: tuple[str, ...] = tuple(header["labels"])
        self._numbers = {label: number for number, label in enumerate(self.labels)}
        self._images = Columns(
            keys=self._keys,
            label=self._columns["label"],
            labels=self.labels,
            split=self._columns["split"],
            sha256=self._columns["sha256"],
            group=self._columns.get("group"),
            groups=tuple(header["groups"]),
        )
        self.notes: Notes = header["notes"]
        self.layout: str = header["layout"]
        self.splits: frozenset[Split] = frozenset(header["splits"])

    @classmethod
    def open(cls, path: Path, folder: Path, cache_dir: Path) -> Self | None:
        """The table at `path`; None where there is none that is as it was written.

        Args:
            path: of the file.
            folder: that the data set lies in.
            cache_dir: where archives are packed.
        """
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            with path.open("rb") as file:
                written = file.read(_DIGEST).decode("ascii")
                if hashlib.file_digest(file, "sha256").hexdigest() != written:
                    return None
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return cls(mapped, folder, cache_dir)
        return None

    def __len__(self) -> int:
        return len(self._columns["label"])

    def packs_are_there(self) -> bool:
        """Whether the files of the cache in which members of archives are packed are there."""
        for name, end in self._packs.items():
            try:
                if Path(self._places[_CACHE], name).stat().st_size < end:
                    return False
            except OSError:
                return False
        return True

    def keys(self) -> Iterator[str]:
        """Names of all images, sorted."""
        return (self._keys[row] for row in range(len(self)))

    def images_of(self, label: str) -> Images:
        """All images of a class, sorted by key.

        Raises:
            KeyError: there is no such class.
        """
        number = self._numbers[label]
        rows = self._columns["order"][self._starts[number] : self._starts[number + 1]]
        return Images(self._images, rows)

    def fingerprint(self, name: str, version: str) -> str:
        """Of the names, classes, splits and contents of all images, as one decoder reads them."""
        known = self._fingerprints.get(f"{name} {version}")
        every = (image for label in self.labels for image in self.images_of(label))
        return known or fingerprint(name, version, every)

    def row(self, key: str) -> int:
        """The row of an image.

        Raises:
            KeyError: there is no such image.
        """
        wanted = key.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._keys.raw(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self._keys.raw(low) != wanted:
            raise KeyError(key)
        return low

    def content(self, row: int) -> str:
        """SHA-256 of the file that an image lies in."""
        name = "content" if "content" in self._columns else "sha256"
        raw: bytes = self._columns[name][row].tobytes()
        return raw.hex()

    def crop(self, row: int) -> Crop | None:
        """The part of the file that an image is; None for all of it."""
        if "crop" not in self._columns:
            return None
        is_part, *sides = self._columns["crop"][row].tolist()
        return (sides[0], sides[1], sides[2], sides[3]) if is_part else None

    def span(self, row: int) -> Span:
        """Where the bytes of an image's file lie."""
        kind, name = int(self._columns["base"][row]), self._files[row]
        path = name if kind == _ELSEWHERE else f"{self._places[kind]}/{name}"
        if "size" not in self._columns:
            return Span(path)
        size = int(self._columns["size"][row])
        return Span(path, int(self._columns["offset"][row]), size if size >= 0 else None)

    def further(self) -> dict[str, Mapping[str, str]]:
        """What is known of images beside the class, by their keys; of most data sets nothing."""
        if "further" not in self._columns:
            return {}
        texts = self._texts("further")
        found = ((self._keys[row], texts[row]) for row in range(len(self)))
        return {key: json.loads(text) for key, text in found if text}

    def _texts(self, name: str) -> Texts:
        return Texts(self._columns[f"{name} ends"], self._columns[name])


def fingerprint(name: str, version: str, images: Iterable[Image]) -> str:
    """Of a whole data set, whose images come class by class."""
    lines = (f"{one.label}\0{one.split}\0{one.key}\0{one.sha256}" for one in images)
    return digest(line for part in ((name, version), lines) for line in part)


# --- writing -----------------------------------------------------------------------------------


def write(
    path: Path,
    rows: Iterable[Row],
    notes: Notes,
    *,
    name: str,
    version: str,
    layout: str,
    folder: Path,
    cache_dir: Path,
) -> None:
    """Writes a table.

    Args:
        path: of the file.
        rows: in any order; no key is there twice.
        notes: what a reader of the data set should know.
        name, version: of the data set and of the decoder, for the fingerprint.
        layout: see `Table`.
        folder, cache_dir: as for `Table.open`; both may be moved.
    """
    rows = sorted(rows, key=lambda row: row.key)
    known = Columns.of(Image(row.key, row.label, row.split, row.sha256, row.group) for row in rows)
    order = np.argsort(known.label, kind="stable").astype(np.int32)
    columns = {
        **_texts("key", known.keys),
        "label": known.label,
        "order": order,
        "split": known.split,
        "sha256": known.sha256,
        **_of_files(rows, folder, cache_dir),
    }
    if known.group is not None:
        columns["group"] = known.group
    if any(row.columns for row in rows):
        further = (json.dumps(row.columns) if row.columns else "" for row in rows)
        columns |= _texts("further", Texts.written(further))
    header = {
        "format": TABLE_FORMAT,
        "labels": known.labels,
        "starts": np.searchsorted(known.label[order], np.arange(len(known.labels) + 1)).tolist(),
        "groups": known.groups,
        "splits": sorted({row.split for row in rows}),
        "packs": _packs(rows, columns["base"], cache_dir),
        "fingerprints": {f"{name} {version}": fingerprint(name, version, Images(known, order))},
        "notes": notes,
        "layout": layout,
    }
    write_atomic(path, _packed(header, columns))


_Columns = dict[str, npt.NDArray[Any]]


def _of_files(rows: Sequence[Row], folder: Path, cache_dir: Path) -> _Columns:
    """Where the files lie, and what of them the images are."""
    places = [_based(row.span.path, folder, cache_dir) for row in rows]
    found: _Columns = {"base": np.array([kind for kind, _ in places], dtype=np.uint8)}
    if any(file != row.key for (_, file), row in zip(places, rows, strict=True)):
        found |= _texts("file", Texts.written(file for _, file in places))
    if any(row.span.size is not None for row in rows):
        sizes = [-1 if row.span.size is None else row.span.size for row in rows]
        found["offset"] = np.array([row.span.offset for row in rows], dtype=np.int64)
        found["size"] = np.array(sizes, dtype=np.int64)
    if any(row.crop is not None for row in rows):
        crops = [(1, *row.crop) if row.crop is not None else (0,) * 5 for row in rows]
        found["crop"] = np.array(crops, dtype=np.int64)
        found["content"] = hashes(row.content for row in rows)
    return found


def _based(path: str, folder: Path, cache_dir: Path) -> tuple[int, str]:
    """The kind of place that a file lies in, and its path from there."""
    for kind, base in ((_CACHE, cache_dir), (_FOLDER, folder)):
        if path.startswith(f"{base}/"):
            return kind, path.removeprefix(f"{base}/")
    return _ELSEWHERE, os.path.abspath(path)  # noqa: PTH100 -- links stay as they are


def _packs(rows: Sequence[Row], bases: npt.NDArray[Any], cache_dir: Path) -> dict[str, int]:
    """The files of the cache that images lie in, each with the bytes that it has at least."""
    found: dict[str, int] = {}
    for number in np.flatnonzero(bases == _CACHE).tolist():
        span = rows[number].span
        name = span.path.removeprefix(f"{cache_dir}/")
        found[name] = max(found.get(name, 0), span.offset + (span.size or 0))
    return found


def _texts(name: str, texts: Texts) -> _Columns:
    return {f"{name} ends": texts.ends, name: texts.content}


def _packed(header: Mapping[str, Any], columns: _Columns) -> bytes:
    places: dict[str, tuple[str, tuple[int, ...], int]] = {}
    body: list[bytes] = []
    at = 0
    for name, column in columns.items():
        places[name] = (column.dtype.str, column.shape, at)
        body.append(column.tobytes().ljust(_padded(column.nbytes), b"\0"))
        at += len(body[-1])
    first = json.dumps({**header, "columns": places}).encode() + b"\n"
    whole = first.ljust(_padded(_DIGEST + len(first)) - _DIGEST, b"\0") + b"".join(body)
    return hashlib.sha256(whole).hexdigest().encode() + whole


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
