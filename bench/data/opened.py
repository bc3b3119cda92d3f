"""A `Format` and its files as a data set: indexed once, its table kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import DataError
from bench.core.files import write_atomic
from bench.core.text import some
from bench.data.dataset import Image, Notes, Split, UInt8, digest
from bench.data.files.decode import decode_whole
from bench.data.files.files import ahead, table_path
from bench.data.files.imagefiles import FileDataset
from bench.data.files.mount import Span
from bench.data.files.tree import open_tree
from bench.data.formats.contract import Entry, Format, Value

TABLE_FORMAT = "bench data set table 1"


def open_format(
    form: Format, root: Path, cache_dir: Path, given: Iterable[tuple[str, Value]] = ()
) -> FormatDataset:
    """Reads a data set; the first time every image file is read once.

    Args:
        form: the data set.
        root: where it lies.
        cache_dir: tables and packed archives are kept below it.
        given: options by name.

    Raises:
        DataError: saying what was expected, what was found, and where to get it.
    """
    options = form.chosen(given)
    tree = open_tree(
        root,
        cache_dir,
        folders=form.folders,
        archives=form.archives,
        inner=form.inner,
        hint=form.hint,
    )
    chosen = json.dumps([form.version, *sorted(options.items())])
    signature = hashlib.sha256(f"{tree.signature}|{chosen}".encode()).hexdigest()
    stored = table_path(cache_dir, f"{root.resolve()}|{form.name}", signature)
    table = _load(stored)
    if table is None:
        entries, notes = form.checked(tree, form.read(tree, options), options)
        places = {entry.source: tree.spans[entry.path].part(entry.span) for entry in entries}
        hashes = dict(zip(places, ahead(_hash, places.values()), strict=True))
        entries.sort(key=lambda entry: entry.name)
        table = _Table(tuple(entries), tuple(hashes[one.source] for one in entries), notes)
        _store(stored, table)
    return _dataset(form, root, tree.spans, table, cache_dir)


@dataclass(frozen=True)
class _Table:
    """What is read, and the SHA-256 of the bytes of each."""

    entries: tuple[Entry, ...]
    sha256: tuple[str, ...]
    notes: Mapping[str, int]


def _hash(span: Span) -> str:
    try:
        return hashlib.sha256(span.read()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", place=span.path) from error


def _store(path: Path, table: _Table) -> None:
    content = {
        "format": TABLE_FORMAT,
        "rows": [_row(entry) for entry in table.entries],
        "sha256": table.sha256,
        "notes": dict(table.notes),
    }
    write_atomic(path, json.dumps(content, separators=(",", ":")))


def _load(path: Path) -> _Table | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == TABLE_FORMAT:
            entries = tuple(_entry(*row) for row in content["rows"])
            if len(entries) == len(content["sha256"]):
                return _Table(entries, tuple(content["sha256"]), content["notes"])
    return None


def _row(entry: Entry) -> list[Any]:
    """The fields; what is at its default at the end is left out, for a million images."""
    row = [entry.path, entry.label, entry.split, entry.key, entry.group]
    rest = [entry.boxes, entry.facts, entry.crop, entry.span]
    if any(rest):
        return [*row, *rest]
    return row if entry.key or entry.group else row[:3]


def _entry(
    path: str,
    label: str,
    split: Split,
    key: str = "",
    group: str | None = None,
    boxes: Sequence[Any] = (),
    facts: Sequence[Any] = (),
    crop: Sequence[Any] | None = None,
    span: Sequence[Any] | None = None,
) -> Entry:
    return Entry(
        path,
        label,
        split,
        key,
        group,
        tuple(tuple(box) for box in boxes),
        tuple(tuple(fact) for fact in facts),
        None if crop is None else tuple(crop),
        None if span is None else tuple(span),
    )


@dataclass(frozen=True, eq=False)
class FormatFiles:
    """The image files of a data set by the keys of its images; what `FileDataset` reads.

    Attributes:
        place: for messages.
        sha256: of each image: of its file, or of its file and the part that it is.
        spans: where each file lies.
        contents: SHA-256 of each file.
        crops: the part of the file that the image is.
        others: files that are no images; not counted here.
    """

    place: Path
    sha256: Mapping[str, str]
    spans: Mapping[str, Span]
    contents: Mapping[str, str]
    crops: Mapping[str, tuple[int, int, int, int]]
    others: int = 0

    def read(self, path: str) -> bytes:
        """The bytes of an image file; of a part of one, the part as an image file.

        Raises:
            DataError: when they are not those that were indexed.
        """
        crop = self.crops.get(path)
        if crop is None:
            return self._whole(path)
        picture = self._picture(self.spans[path], self.contents[path], path)
        return _encoded(_part(picture, crop))

    def _whole(self, key: str) -> bytes:
        try:
            data = self.spans[key].read()
        except OSError as error:
            raise self._changed(key, f"cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != self.contents[key]:
            raise self._changed(key, "is not what it was when the data were indexed")
        return data

    def _changed(self, key: str, what: str) -> DataError:
        return DataError(
            f"image {key!r} {what}",
            place=self.spans[key].path,
            hint="start the command again; it indexes the data as they are now",
        )

    @cached_property
    def _picture(self) -> Callable[[Span, str, str], UInt8]:
        """Decodes a file; the last few are kept, because their parts are asked for in a row."""

        @lru_cache(maxsize=8)
        def decoded(span: Span, content: str, key: str) -> UInt8:
            return decode_whole(self._whole(key))

        return decoded


def _part(picture: UInt8, crop: tuple[int, int, int, int]) -> UInt8:
    """(bottom - top, right - left, 3); what lies outside is mirrored at the edge."""
    left, top, right, bottom = crop
    height, width, _ = picture.shape
    rows, columns = (
        _mirrored(np.arange(start, end), size)
        for start, end, size in ((top, bottom, height), (left, right, width))
    )
    return np.ascontiguousarray(picture[rows][:, columns])


def _mirrored(places: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Places in 0..size-1, as numpy's `pad(mode="reflect")` would find them."""
    if size == 1:
        return np.zeros_like(places)
    period = 2 * (size - 1)
    folded = places % period
    mirrored: np.ndarray[Any, Any] = np.minimum(folded, period - folded)
    return mirrored


def _encoded(part: UInt8) -> bytes:
    height, width, _ = part.shape
    return b"P6 %d %d 255\n" % (width, height) + part.tobytes()


@dataclass(frozen=True, eq=False)
class FormatDataset(FileDataset):
    """A data set in its authors' layout; see `bench.data.dataset.Dataset`."""

    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> Notes:
        """What is listed and not there; only with the option `partial`."""
        return dict(self.missing)


def _dataset(
    form: Format, root: Path, spans: Mapping[str, Span], table: _Table, cache_dir: Path
) -> FormatDataset:
    entries = table.entries
    contents = {entry.name: sha for entry, sha in zip(entries, table.sha256, strict=True)}
    crops = {entry.name: entry.crop for entry in entries if entry.crop is not None}
    sha256 = contents
    if crops:
        parts = {name: digest([contents[name], f"crop {crop}"]) for name, crop in crops.items()}
        sha256 = contents | parts
    by_label: dict[str, list[Image]] = {}
    for entry in entries:
        image = _image(entry, sha256[entry.name])
        by_label.setdefault(entry.label, []).append(image)
    if len(by_label) < 2:
        raise DataError(
            f"data set {form.name!r}: {len(by_label)} classes found, at least two are needed"
            f"{': ' + some(by_label) if by_label else ''}",
            place=str(root),
            hint=form.hint,
        )
    ordered = {label: tuple(by_label[label]) for label in sorted(by_label)}
    places = {entry.name: spans[entry.path].part(entry.span) for entry in entries}
    files = FormatFiles(root, sha256, places, contents, crops)
    said = {entry.name: entry.columns() for entry in entries if entry.boxes or entry.facts}
    return FormatDataset(form.name, files, ordered, cache_dir, columns=said, missing=table.notes)


def _image(entry: Entry, sha256: str) -> Image:
    return Image(entry.name, entry.label, entry.split, sha256, entry.group)
