"""A `Format` and its files as a data set: indexed once, its table kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from bench.core.errors import DataError
from bench.core.files import write_atomic
from bench.data.boxes import with_boxes
from bench.data.dataset import Image, Notes, digest
from bench.data.files.decode import Reading
from bench.data.files.files import ahead, table_path
from bench.data.files.imagefiles import FileDataset, ImageFiles
from bench.data.files.mount import Span
from bench.data.formats.contract import READING, Entry, Format, Options, Value
from bench.data.names import one_spelling
from bench.data.transforms.views import Columns

TABLE_FORMAT = "bench data set table 2"


def open_format(
    form: Format, root: Path, cache_dir: Path, given: Iterable[tuple[str, Value]] = ()
) -> FileDataset:
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
    tree = form.tree(root, cache_dir)
    layout = {name: value for name, value in options.items() if name not in (*READING, "boxes")}
    chosen = json.dumps([form.version, *sorted(layout.items())])
    signature = hashlib.sha256(f"{tree.signature}|{chosen}".encode()).hexdigest()
    stored = table_path(cache_dir, f"{root.resolve()}|{form.name}", signature)
    table = _load(stored)
    if table is None:
        entries, notes = form.checked(tree, form.read(tree, options), options)
        entries, merged = one_spelling(entries, str(tree.place), options)
        places = {entry.source: tree.spans[entry.path].part(entry.span) for entry in entries}
        hashes = dict(zip(places, ahead(_hash, places.values()), strict=True))
        entries.sort(key=lambda entry: entry.name)
        hashed = tuple(hashes[one.source] for one in entries)
        table = _Table(tuple(entries), hashed, {**notes, **merged})
        _store(stored, table)
    return _dataset(form, root, tree.spans, table, cache_dir, options)


@dataclass(frozen=True)
class _Table:
    """What is read, and the SHA-256 of the bytes of each."""

    entries: tuple[Entry, ...]
    sha256: tuple[str, ...]
    notes: Notes


def _hash(span: Span) -> str:
    found = hashlib.sha256()
    try:
        for block in span.blocks():
            found.update(block)
        return found.hexdigest()
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})",
            place=span.path,
            hint=f"let yourself read it: chmod u+r {quote(span.path)}, or move it out of the "
            "data set",
        ) from error


def _store(path: Path, table: _Table) -> None:
    content = {
        "format": TABLE_FORMAT,
        "rows": [_row(entry) for entry in table.entries],
        "sha256": table.sha256,
        "notes": table.notes,
    }
    write_atomic(path, json.dumps(content, separators=(",", ":")))


def _load(path: Path) -> _Table | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == TABLE_FORMAT:
            entries = tuple(_entry(row) for row in content["rows"])
            if len(entries) == len(content["sha256"]):
                return _Table(entries, tuple(content["sha256"]), dict(content["notes"]))
    return None


_USUAL: tuple[Any, ...] = ("", None, (), None, None)


def _row(entry: Entry) -> list[Any]:
    """The fields; what is at its default at the end is left out, for a million images."""
    rest = [entry.key, entry.group, tuple(entry.columns().items()), entry.crop, entry.span]
    while rest and rest[-1] == _USUAL[len(rest) - 1]:
        rest.pop()
    return [entry.path, entry.label, entry.split, *rest]


def _entry(row: list[Any]) -> Entry:
    path, label, split, key, group, more, crop, span = [*row, *_USUAL[len(row) - 3 :]]
    return Entry(
        path,
        label,
        split,
        key,
        group,
        more=tuple((name, text) for name, text in more),
        crop=None if crop is None else tuple(crop),
        span=None if span is None else tuple(span),
    )


def _dataset(
    form: Format,
    root: Path,
    spans: Mapping[str, Span],
    table: _Table,
    cache_dir: Path,
    options: Options,
) -> FileDataset:
    entries = table.entries
    contents = {entry.name: sha for entry, sha in zip(entries, table.sha256, strict=True)}
    crops = {entry.name: entry.crop for entry in entries if entry.crop is not None}
    parts = {name: digest([contents[name], f"crop {crop}"]) for name, crop in crops.items()}
    sha256 = contents | parts if crops else contents
    by_label: dict[str, list[Image]] = {}
    for entry in entries:
        image = Image(entry.name, entry.label, entry.split, sha256[entry.name], entry.group)
        by_label.setdefault(entry.label, []).append(image)
    if len(by_label) < 2:
        found = f"one class, {min(by_label)!r}," if by_label else "no images"
        raise DataError(
            f"data set {form.name!r}: {found} found, at least two classes are needed",
            place=str(root),
            hint=form.hint,
        )
    ordered = {label: tuple(by_label[label]) for label in sorted(by_label)}
    places = {entry.name: spans[entry.path].part(entry.span) for entry in entries}
    reading = Reading(**{name: options[name] for name in READING})  # type: ignore[arg-type]
    files = ImageFiles(root, sha256, places, contents, crops, reading)
    columns: Columns = {entry.name: entry.columns() for entry in entries if entry.has_columns}
    if file := str(options["boxes"]):
        columns = with_boxes(columns, sha256, root, file, partial=bool(options.get("partial")))
    return FileDataset(form.name, files, ordered, cache_dir, columns, table.notes)
