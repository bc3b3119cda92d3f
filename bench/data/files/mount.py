"""Archives as if they had been unpacked where they lie; nothing is extracted.

A table of names and places (offset, size) is kept below the cache folder. Members of a plain tar
are read where they lie, also those of a tar in it (ILSVRC2012's training images). Of a compressed
tar or a zip the members are packed one after the other into one file of the cache, because a
compressed stream cannot be read at a place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import DataError
from bench.core.files import temporary_beside, write_atomic
from bench.data.files.archive import (
    MAX_MEMBERS,
    archive_errors,
    is_archive,
    is_plain,
    members,
    safe_name,
)
from bench.data.files.files import table_path

TABLE_FORMAT = "bench mounted archive 1"
_LIMIT_OF_INNER_ARCHIVES = 8 * 2**30
MAX_FILE_BYTES = 512 * 2**20
_ROOM_LEFT = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Span:
    """Where the bytes of a file lie: all of `path`, or `size` bytes of it from `offset` on.

    `path` is a text: there may be a million, and a `Path` takes ten times the memory.
    """

    path: str
    offset: int = 0
    size: int | None = None

    def part(self, span: tuple[int, int] | None) -> Span:
        """`size` bytes of it from `offset` on; None is all."""
        return self if span is None else Span(self.path, self.offset + span[0], span[1])

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: when they are more than `MAX_FILE_BYTES`.
        """
        return b"".join(self.blocks())

    def blocks(self) -> Iterator[bytes]:
        """The bytes, a few at a time; see `read`."""
        with Path(self.path).open("rb") as file:
            left = os.fstat(file.fileno()).st_size if self.size is None else self.size
            if left > MAX_FILE_BYTES:
                raise DataError(
                    f"{left:,} bytes are more than an image or a list may have, {MAX_FILE_BYTES:,}",
                    place=self.path,
                    hint="make the image smaller, or move the file out of the data set",
                )
            file.seek(self.offset)
            while left > 0 and (block := file.read(min(left, 2**22))):
                left -= len(block)
                yield block


def is_mountable(path: Path) -> bool:
    """Whether the name is that of an archive that can be read without unpacking it."""
    return is_archive(path) or path.name.lower().endswith(".zip")


def mounted(path: Path, cache_dir: Path, *, nested: bool = False) -> dict[str, Span]:
    """The visible files of an archive, by their names in it.

    Args:
        path: .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .zip.
        cache_dir: the table, and packed bytes, are kept below it.
        nested: members of a plain tar that end in .tar are read as folders of their name.

    Raises:
        DataError: naming the member, for an archive that is torn or not safe.
    """
    info = path.stat()
    text = f"mount|{info.st_size}|{info.st_mtime_ns}|{nested}"
    stored = table_path(cache_dir, str(path.resolve()), hashlib.sha256(text.encode()).hexdigest())
    plain = not _is_zip(path) and is_plain(path)
    blob = path if plain else stored.with_suffix(".pack")
    spans = _load(stored, blob)
    if spans is None:
        with archive_errors(path):
            spans = _plain_spans(path, nested) if plain else _pack(path, blob)
        write_atomic(stored, json.dumps({"format": TABLE_FORMAT, "spans": spans}))
    return {name: Span(str(blob), offset, size) for name, (offset, size) in spans.items()}


Spans = dict[str, tuple[int, int]]


def _load(stored: Path, blob: Path) -> Spans | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        table = json.loads(stored.read_text(encoding="utf-8"))
        if table["format"] == TABLE_FORMAT:
            spans = {name: (int(at), int(size)) for name, (at, size) in table["spans"].items()}
            end = max((at + size for at, size in spans.values()), default=0)
            return spans if blob.stat().st_size >= end else None
    return None


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _plain_spans(path: Path, nested: bool) -> Spans:
    spans: Spans = {}
    limit = _LIMIT_OF_INNER_ARCHIVES if nested else None
    for name, offset, size, _ in members(path, limit=limit):
        if nested and name.endswith(".tar"):
            folder = name.removesuffix(".tar")
            for inner, at, length, _ in members(path, span=(offset, size)):
                _add(path, spans, f"{folder}/{inner}", (at, length))
        else:
            _add(path, spans, name, (offset, size))
    return spans


def _add(path: Path, spans: Spans, name: str, span: tuple[int, int]) -> None:
    if name in spans:
        raise DataError(
            f"member {name!r} is there twice", place=str(path), hint="get the archive again"
        )
    spans[name] = span


def _pack(path: Path, blob: Path) -> Spans:
    spans: Spans = {}
    blob.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(blob)
    try:
        with temporary.open("wb") as pack:
            for name, read in _readers(path):
                data = read()
                _check_room(path, blob.parent, len(data))
                _add(path, spans, name, (pack.tell(), len(data)))
                pack.write(data)
            pack.flush()
            os.fsync(pack.fileno())
        temporary.replace(blob)
    finally:
        temporary.unlink(missing_ok=True)
    return spans


def _check_room(path: Path, folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + _ROOM_LEFT > free:
        raise DataError(
            f"its members do not fit into the cache: {free / 2**20:,.0f} MiB are free in {folder}",
            place=str(path),
            hint="free some space, choose another --results folder, or unpack the archive and "
            "give its folder",
        )


def _readers(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if not _is_zip(path):
        for name, _, _, read in members(path):
            yield name, read
        return
    with zipfile.ZipFile(path) as archive:
        for count, member in enumerate(archive.infolist()):
            if count >= MAX_MEMBERS:
                raise DataError(f"more than {MAX_MEMBERS} members", place=str(path))
            kind = stat.S_IFMT(member.external_attr >> 16)
            special = kind not in (0, stat.S_IFREG, stat.S_IFDIR) or bool(member.flag_bits & 1)
            name = safe_name(path, member.filename, member.file_size, special=special)
            parts = name.split("/")
            if member.is_dir() or parts[0] == "__MACOSX" or any(p.startswith(".") for p in parts):
                continue
            yield name, lambda member=member: archive.read(member)  # type: ignore[misc]
