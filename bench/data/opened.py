"""A `Format` and its files as a data set: indexed once, by one process; its table is mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from bench.core.errors import DataError
from bench.core.locks import exclusive
from bench.data.boxes import with_boxes
from bench.data.files.decode import Reading
from bench.data.files.files import ahead, table_path
from bench.data.files.imagefiles import FileDataset, ImageFiles
from bench.data.files.mount import Span
from bench.data.files.table import Row, Table, write
from bench.data.formats.contract import READING, Entry, Format, Options, Value
from bench.data.names import one_spelling
from bench.data.transforms.views import Columns

_LOOK_S = 0.1
"""How often a process looks whether another one has ended."""


def open_format(
    form: Format, root: Path, cache_dir: Path, given: Iterable[tuple[str, Value]] = ()
) -> FileDataset:
    """Reads a data set; the first time every image file is read once, by one process.

    Args:
        form: the data set.
        root: where it lies.
        cache_dir: tables and packed archives are kept below it.
        given: options by name.

    Raises:
        DataError: saying what was expected, what was found, and where to get it.
    """
    options = form.chosen(given)
    reading = Reading(**{name: options[name] for name in READING})  # type: ignore[arg-type]
    table = _Indexed(form, root, cache_dir, options).table(reading)
    columns: Columns = table.further()
    if file := str(options["boxes"]):
        partial = bool(options.get("partial"))
        columns = with_boxes(columns, list(table.keys()), root, file, partial=partial)
    return FileDataset(form.name, ImageFiles(root, table, reading), cache_dir, columns)


def rely_on_tables() -> None:
    """Has this process open data sets as they were seen last, without a look at each file.

    For processes that execute what another one has planned: a million files take seconds to look at
    on a local disk, and minutes on a cluster's. The images' bytes are compared with the table's
    hashes all the same when they are decoded.
    """
    global _relies
    _relies = True


_relies = False


@dataclass(frozen=True)
class _Indexed:
    """A data set and its options, whose table is looked for in the cache and made if need be."""

    form: Format
    root: Path
    cache_dir: Path
    options: Options

    def table(self, reading: Reading) -> Table:
        """The table; while another process makes it, this one waits."""
        if _relies and (seen := self._seen_last()):
            return seen
        signature = self.form.signature(self.root)
        found = self._stored(signature)
        with contextlib.suppress(OSError):
            os.utime(self._path(signature))
        while found is None:
            stored = self._path(signature)
            stored.parent.mkdir(parents=True, exist_ok=True)
            lock = stored.with_suffix(".lock")
            with exclusive(lock) as mine:
                if mine:
                    try:
                        return self._made(reading)
                    finally:
                        lock.unlink(missing_ok=True)
            time.sleep(_LOOK_S)
            found = self._stored(signature)
        return found

    def _stored(self, signature: str) -> Table | None:
        found = Table.open(self._path(signature), self._folder, self.cache_dir)
        return found if found is not None and found.packs_are_there() else None

    def _seen_last(self) -> Table | None:
        """The table that was made or opened last, of those with the same options."""
        places = self._path("").parent.glob(f"{self._path('').name.partition('-')[0]}-*.table")
        with contextlib.suppress(OSError):  # one that is gone by now
            for path in sorted(places, key=lambda path: path.stat().st_mtime_ns, reverse=True):
                found = Table.open(path, self._folder, self.cache_dir)
                if found and found.layout == self._layout and found.packs_are_there():
                    return found
        return None

    def _made(self, reading: Reading) -> Table:
        form, options = self.form, self.options
        tree = form.tree(self.root, self.cache_dir)
        if found := self._stored(tree.signature):  # the tree has packed an archive again
            return found
        entries, notes = form.checked(tree, form.read(tree, options), options)
        entries, merged = one_spelling(entries, str(tree.place), options)
        _check_classes(form, self.root, {entry.label for entry in entries})
        places = {entry.source: tree.spans[entry.path].part(entry.span) for entry in entries}
        hashes = dict(zip(places, ahead(_hash, places.values()), strict=True))
        rows = (_row(entry, places[entry.source], hashes[entry.source]) for entry in entries)
        stored = self._path(tree.signature)
        write(
            stored,
            rows,
            {**notes, **merged},
            name=form.name,
            version=reading.version,
            layout=self._layout,
            folder=self._folder,
            cache_dir=self.cache_dir,
        )
        if made := self._stored(tree.signature):
            return made
        raise DataError(
            "the table of the data set that was just made does not verify, or is deleted again",
            place=str(stored),
            hint="see what else writes into the cache, or choose another --results folder",
        )

    @property
    def _folder(self) -> Path:
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def _layout(self) -> str:
        chosen = {n: value for n, value in self.options.items() if n not in (*READING, "boxes")}
        return json.dumps([self.form.version, *sorted(chosen.items())])

    def _path(self, signature: str) -> Path:
        text = hashlib.sha256(f"{signature}|{self._layout}".encode()).hexdigest()
        place = f"{self.root.resolve()}|{self.form.name}"
        return table_path(self.cache_dir, place, text).with_suffix(".table")


def _check_classes(form: Format, root: Path, labels: Collection[str]) -> None:
    if len(labels) < 2:
        found = f"one class, {min(labels)!r}," if labels else "no images"
        raise DataError(
            f"data set {form.name!r}: {found} found, at least two classes are needed",
            place=str(root),
            hint=form.hint,
        )


def _row(entry: Entry, span: Span, content: str) -> Row:
    columns = entry.columns() if entry.has_columns else {}
    return Row(
        entry.name, entry.label, entry.split, entry.group, content, span, entry.crop, columns
    )


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
