"""Anybody's images: a CSV file that lists them.

Its columns are `path,label[,split][,group]`; paths are relative to the file, splits are train, val
or test (empty: train), images of one group never stand in two splits. Further columns may be `box`
and `box_NAME` (parts of the image, for `views:`) and `group_NAME` (what images have in common, for
`train_where:` and verification). A table with the column `file_name` is Hugging Face's: that is the
path, and columns without a meaning here are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import cast

from bench.core.errors import DataError, nearest
from bench.core.tables import at_line, csv_rows, utf8_text
from bench.core.text import brief
from bench.data.dataset import Split
from bench.data.files.files import placeholder
from bench.data.files.mount import Span
from bench.data.files.tree import Tree
from bench.data.formats.contract import Entry, Format, Options
from bench.data.transforms.views import is_extra_column, parse_box

_EXPECTED = (
    "a CSV file with the columns path,label[,split][,group][,box][,box_NAME][,group_NAME], or a "
    "folder with manifest.csv or metadata.csv"
)
_SPLITS = ("train", "val", "test")
_COLUMNS = ("path", "label", "split", "group")


def _tree(root: Path, hint: str) -> Tree:
    """The images that the table lists; nothing else below its folder is looked at."""
    table = _table(root)
    text = _text(table)
    lines = [hashlib.sha256(text.encode()).hexdigest()]
    spans = {}
    for entry in _rows(table, text):
        info = (table.parent / entry.path).stat()
        lines.append(f"{entry.path}|{info.st_size}|{info.st_mtime_ns}")
        spans[entry.path] = Span(f"{table.parent}/{entry.path}")
    signature = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Tree(root, dict(sorted(spans.items())), hint, signature)


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    table = _table(tree.place)
    return _rows(table, _text(table))


def _table(root: Path) -> Path:
    names = ("manifest.csv", "metadata.csv")
    tables = [root] if root.is_file() else [root / name for name in names]
    return next((table for table in tables if table.is_file()), tables[0])


def _text(table: Path) -> str:
    """The table's text.

    Raises:
        DataError: with the line, where it is not UTF-8.
    """
    try:
        raw = table.read_bytes()
    except OSError as error:
        raise DataError(
            f"the manifest cannot be read ({error.strerror})", place=str(table)
        ) from None
    if instead := placeholder(raw):
        raise DataError(f"the manifest is {instead}", place=str(table))
    return utf8_text(raw, str(table), DataError)


def _rows(table: Path, text: str) -> Iterator[Entry]:
    rows = csv_rows(text, str(table), DataError)
    folder = table.parent.resolve()
    seen: set[str] = set()
    columns = _columns(table, next(rows, (0, []))[1])
    for line, cells in rows:
        place = at_line(str(table), line)
        if len(cells) != len(columns):
            raise DataError(
                "the line has not as many fields as there are columns",
                place=place,
                hint="every line has a field for every column, if only an empty one between commas",
            )
        yield _row(place, folder, dict(zip(columns, cells, strict=True)), seen)


def _columns(table: Path, columns: list[str]) -> list[str]:
    """The columns' names, `file_name` as `path`.

    Raises:
        DataError: for columns that are unknown, missing or there twice.
    """
    listed_by_hub = "file_name" in columns and "path" not in columns
    if listed_by_hub:
        columns = ["path" if name == "file_name" else name for name in columns]
    unknown = [name for name in columns if name not in _COLUMNS and not is_extra_column(name)]
    if listed_by_hub:
        unknown = []
    missing = [name for name in _COLUMNS[:2] if name not in columns]
    if unknown or missing or len(set(columns)) != len(columns):
        wrong = (
            f"column {brief(repr(unknown[0]), 80)} is not known; nearest: "
            f"{nearest(unknown[0], _COLUMNS)}"
            if unknown
            else f"column {missing[0]!r} is missing"
            if missing
            else "a column is there twice"
        )
        other = next((mark for mark in ";\t|" if mark in "".join(columns)), None)
        hint = f"the columns are parted by commas, not by {other!r}; " if other else ""
        raise DataError(wrong, place=f"{table}:1", hint=f"{hint}expected {_EXPECTED}")
    return columns


def _row(place: str, folder: Path, row: dict[str, str], seen: set[str]) -> Entry:
    path, label = row["path"], row["label"]
    split = row.get("split") or "train"
    if not path or not label:
        raise DataError("path or label is empty", place=place, hint="fill it or remove the line")
    if "\n" in label or "\0" in label:
        raise DataError(
            f"label {label!r} is no text on one line", place=place, hint="write it on one line"
        )
    if split not in _SPLITS:
        raise DataError(
            f"split {split!r} is not known", place=place, hint=f"use {nearest(split, _SPLITS)}"
        )
    key = _inside(place, folder, path)
    if key in seen:
        raise DataError(
            f"path {path!r} is listed twice", place=place, hint="an image has one label: keep one"
        )
    seen.add(key)
    extra = tuple((name, text) for name, text in row.items() if is_extra_column(name))
    for name, text in extra:
        if name.startswith("box") and text:
            parse_box(text, place)
    group = row.get("group") or None
    return Entry(key, label, cast(Split, split), group=group, more=extra)


def _inside(place: str, folder: Path, path: str) -> str:
    """The path as a key, when it leads to an image below `folder`."""
    parts = PurePosixPath(path).parts
    outside = path.startswith("/") or ".." in parts or "\\" in path or "\0" in path
    if outside or not (folder / path).resolve().is_relative_to(folder):
        raise DataError(
            f"path {path!r} leads out of the manifest's folder",
            place=place,
            hint="paths have / and no \\, and are relative to the CSV file"
            if "\\" in path
            else "paths are relative to the CSV file, with /; put it beside or above the images",
        )
    if not (folder / path).is_file():
        raise DataError(
            f"{path!r} is not a regular file"
            if (folder / path).exists()
            else f"there is no image {path!r}",
            place=place,
            hint=f"paths are relative to the CSV file; looked for {folder / path}",
        )
    if (folder / path).suffix.lower() in (".csv", ".txt", ".json"):
        raise DataError(
            f"{path!r} is no image file", place=place, hint="list images, such as .jpg or .png"
        )
    return "/".join(parts)


MANIFEST = Format(
    name="manifest",
    title="your own images, listed in a CSV file",
    read=_read,
    expected=_EXPECTED,
    marks=("manifest.csv", "metadata.csv"),
    files=("*.csv",),
    tree_of=_tree,
    may_be_partial=False,
    says_where=False,
    classes="yours",
    images="yours",
    splits="a column",
    used_for="your own images",
    where="yours",
    licence="yours",
)
