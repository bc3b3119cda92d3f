"""Anybody's images: a folder per class, or a CSV manifest.

    flowers/daisy/1.jpg  flowers/rose/2.png                   no split of its own
    flowers/train/daisy/1.jpg  flowers/test/daisy/9.jpg       train/, val/ (optional), test/

A manifest is a CSV file with the columns `path,label[,split][,group]`; paths are relative to the
file, splits are train, val or test (empty: train), images of one group never stand in two splits.
Further columns may be `box` and `box_NAME` (parts of the image, for `views:`) and `group_NAME`
(what images have in common, for `train_where:` and verification).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import cast

from bench.core.errors import DataError, nearest
from bench.core.text import counted, some
from bench.data.dataset import Split
from bench.data.files.archive import archive_files, is_archive
from bench.data.files.files import Files, folder_files, is_image, listed_files
from bench.data.files.imagefiles import FileDataset, Placed, place_images
from bench.data.layout import has_splits
from bench.data.transforms.views import is_extra_column, parse_box

FOLDER_EXPECTED = (
    "a folder with a folder of images per class, or with train/, val/ and test/ that have one "
    "each, or a .tar or .tar.gz of it"
)
MANIFEST_EXPECTED = (
    "a CSV file with the columns path,label[,split][,group][,box][,box_NAME][,group_NAME], or a "
    "folder with manifest.csv"
)
_SPLITS = ("train", "val", "test")


def fits_folder(path: Path) -> bool:
    """Whether the data set could lie here."""
    return path.is_dir() or (path.is_file() and is_archive(path))


def fits_manifest(path: Path) -> bool:
    """Whether the data set could lie here."""
    return (path.is_file() and path.suffix.lower() == ".csv") or (path / "manifest.csv").is_file()


def open_folder(root: Path, cache_dir: Path) -> FileDataset:
    """Indexes a folder or an archive with a folder of images per class.

    Raises:
        DataError: for images outside a class's folder, fewer than two classes, or folders of
            which it is not clear whether they are classes or splits.
    """
    files = archive_files(root, cache_dir) if root.is_file() else folder_files(root, cache_dir)
    return place_images("folder", files, _place(files), cache_dir, FOLDER_EXPECTED)


def _place(files: Files) -> Iterator[Placed]:
    with_splits = has_splits(files.sha256, files.place)
    loose = []
    for path in files.sha256:
        parts = path.split("/")
        if len(parts) < (3 if with_splits else 2):
            loose.append(path)
        elif with_splits:
            yield Placed(path, parts[1], cast(Split, parts[0]))
        else:
            yield Placed(path, parts[0], "train")
    if loose:
        raise DataError(
            f"{counted(len(loose), 'image lies', 'images lie')} in no class's folder: "
            f"{some(loose)}",
            place=str(files.place),
            hint=f"expected {FOLDER_EXPECTED}",
        )


def open_manifest(root: Path, cache_dir: Path) -> FileDataset:
    """Indexes the images that a CSV file lists.

    Raises:
        DataError: with the line, for unknown columns, empty fields, paths that are listed twice,
            lead out of the file's folder or to no image.
    """
    table = root if root.is_file() else root / "manifest.csv"
    placed = list(_rows(table, _text(table)))
    files = listed_files(table.parent, [one.path for one in placed], cache_dir)
    dataset = place_images("manifest", files, placed, cache_dir, MANIFEST_EXPECTED)
    return replace(dataset, columns={one.path: dict(one.columns) for one in placed if one.columns})


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
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        shown = raw[: error.end].split(b"\n")[-1][-40:].decode("latin-1")
        utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise DataError(
            f"the manifest is not UTF-8 text: {shown!r}",
            place=f"{table}:{line}",
            hint="save it as UTF-8 (in a spreadsheet: CSV UTF-8), or: iconv -f "
            f"{'utf-16' if utf16 else 'latin1'} -t utf-8 {table.name} > new.csv",
        ) from None


def _rows(table: Path, text: str) -> Iterator[Placed]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    folder = table.parent.resolve()
    seen: set[str] = set()
    try:
        _check_columns(table, reader.fieldnames or ())
        for row in reader:
            place = f"{table}:{reader.line_num}"
            yield _row(place, folder, row, seen)
    except csv.Error as error:
        raise DataError(
            f"not a CSV line ({error})",
            place=f"{table}:{max(reader.reader.line_num, 1)}",
            hint="fields with commas, quotes or line breaks stand in double quotes",
        ) from None


def _check_columns(table: Path, names: Iterable[str]) -> None:
    allowed = ("path", "label", "split", "group")
    columns = list(names)
    unknown = [name for name in columns if name not in allowed and not is_extra_column(name)]
    missing = [name for name in allowed[:2] if name not in columns]
    if unknown or missing or len(set(columns)) != len(columns):
        wrong = (
            f"column {unknown[0]!r} is not known; nearest: {nearest(unknown[0], allowed)}"
            if unknown
            else f"column {missing[0]!r} is missing"
            if missing
            else "a column is there twice"
        )
        other = next((mark for mark in ";\t|" if mark in "".join(columns)), None)
        hint = f"the columns are parted by commas, not by {other!r}; " if other else ""
        raise DataError(wrong, place=f"{table}:1", hint=f"{hint}expected {MANIFEST_EXPECTED}")


def _row(place: str, folder: Path, row: dict[str | None, str | None], seen: set[str]) -> Placed:
    if None in row or None in row.values():
        raise DataError(
            "the line has not as many fields as there are columns",
            place=place,
            hint="every line has a field for every column, if only an empty one between commas",
        )
    path, label = row["path"] or "", row["label"] or ""
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
    extra = tuple(
        (name, text or "") for name, text in row.items() if name and is_extra_column(name)
    )
    for name, text in extra:
        if name.startswith("box") and text:
            parse_box(text, place)
    return Placed(key, label, cast(Split, split), row.get("group") or None, extra)


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
    if not is_image(path) or not (folder / path).is_file():
        there = (folder / path).is_file()
        raise DataError(
            f"{path!r} is no image file" if there else f"there is no image {path!r}",
            place=place,
            hint="images end in .jpg, .png, .webp, .bmp, .gif, .tif or the like"
            if there
            else f"paths are relative to the CSV file; looked for {folder / path}",
        )
    return "/".join(parts)
