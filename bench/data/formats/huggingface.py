"""A data set of the Hugging Face hub that lies on disk: `save_to_disk`, or an imagefolder.

    dataset_dict.json  train/state.json  train/dataset_info.json  train/data-00000-of-00001.arrow
    train/cat/1.jpg  test/cat/9.jpg            or train/metadata.csv: file_name,label

timm's reader asks the hub; this one reads what is there. Arrow files are looked at once, through
pyarrow; images are then read at their place in the file.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import DataError, nearest
from bench.data.dataset import Split
from bench.data.files.files import is_image
from bench.data.files.tree import Tree
from bench.data.formats.contract import Entry, Format, Option, Options
from bench.data.formats.folder import WITHOUT_EMPTY, check_vanished
from bench.data.formats.webdataset import SPLIT_OF


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    states = [path for path in tree.spans if path.rpartition("/")[2] == "state.json"]
    if states:
        for state in states:
            yield from _saved(tree, state.rpartition("/")[0], options)
    else:
        yield from _image_folder(tree, options)


def _split(tree: Tree, folder: str) -> Split:
    if not folder:
        return "train"
    if folder not in SPLIT_OF:
        raise tree.wrong(f"split {folder!r} is not known; nearest: {nearest(folder, SPLIT_OF)}")
    return SPLIT_OF[folder]


# --- save_to_disk -------------------------------------------------------------------------------


def _saved(tree: Tree, folder: str, options: Options) -> Iterator[Entry]:
    prefix = f"{folder}/" if folder else ""
    files = tree.json(f"{prefix}state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise tree.wrong("has no list _data_files: save the set anew", f"{prefix}state.json")
    features = tree.json(f"{prefix}dataset_info.json").get("features")
    if not isinstance(features, dict):
        raise tree.wrong("has no features", f"{prefix}dataset_info.json")
    image, label = str(options["image"]), str(options["label"])
    for column, name in ((image, "image"), (label, "label")):
        if column not in features:
            raise tree.wrong(
                f"there is no column {column!r}; columns: {nearest(column, features)} (options: "
                f"{{{name}: …}} names another)",
                f"{prefix}dataset_info.json",
            )
    names = features[label].get("names") if isinstance(features[label], dict) else None
    number = 0
    for file in files:
        path = tree.first(f"{prefix}{file.get('filename')}")
        for span, value in _rows(tree, path, image, label):
            yield Entry(
                path,
                _name(tree, path, value, names),
                _split(tree, folder),
                f"{prefix}{number:08d}",
                span=span,
            )
            number += 1


def _name(tree: Tree, path: str, value: Any, names: Any) -> str:
    if value is not None and not names:
        return str(value)
    if isinstance(value, int) and isinstance(names, list) and 0 <= value < len(names):
        return str(names[value])
    raise tree.wrong(f"an image has the label {value!r}, which has no name", path)


def _rows(
    tree: Tree, path: str, image: str, label: str
) -> Iterator[tuple[tuple[int, int], str | int | None]]:
    """Place of the image's bytes in the file, and the label, row by row."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataError(
            "Arrow files need the package pyarrow",
            place=f"{tree.place}/{path}",
            hint="pip install pyarrow; or save the images as a folder per class",
        ) from error
    span = tree.spans[path]
    if span.size is not None:
        raise tree.wrong("lies in an archive: unpack it", path)
    with arrow.memory_map(span.path) as file:
        whole = file.read_buffer()
        try:
            batches = list(arrow.ipc.open_stream(arrow.BufferReader(whole)))
        except arrow.ArrowInvalid as error:
            raise tree.wrong(f"is no Arrow stream ({error}); it may be incomplete", path) from error
        for batch in batches:
            column = batch.column(image)
            if arrow.types.is_struct(column.type):
                column = column.field("bytes")
            places = _places(tree, path, column, whole)
            yield from zip(places, batch.column(label).to_pylist(), strict=True)


def _places(tree: Tree, path: str, column: Any, whole: Any) -> list[tuple[int, int]]:
    if column.null_count:
        raise tree.wrong(
            f"{column.null_count} images are not in it but in files elsewhere: save it anew "
            "(save_to_disk takes images in), or save them as a folder per class",
            path,
        )
    _, offsets, data = column.buffers()
    wide = str(column.type).startswith("large")
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)
    ends = ends[column.offset : column.offset + len(column) + 1].astype(np.int64)
    starts = ends + (data.address - whole.address)
    if len(starts) and not 0 <= starts[0] <= starts[-1] <= whole.size:
        raise tree.wrong("is compressed: save it without compression", path)
    return [(int(start), int(end - start)) for start, end in itertools.pairwise(starts)]


# --- an imagefolder -----------------------------------------------------------------------------


def _image_folder(tree: Tree, options: Options) -> Iterator[Entry]:
    tops = {path.partition("/")[0] for path in tree.spans if is_image(path)}
    folders = sorted(tops) if tops and tops <= set(SPLIT_OF) else [""]
    sorted_into: set[str] = set()
    classes: set[str] = set()
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        split = _split(tree, folder)
        tables = [f"{prefix}metadata.{kind}" for kind in ("csv", "jsonl")]
        table = next((name for name in tables if name in tree.spans), None)
        if table is None:
            for path in tree.below(prefix):
                parts = path.removeprefix(prefix).split("/")
                if tree.is_image(path) and len(parts) > 1:
                    classes.add(parts[0])
                    yield Entry(path, parts[0], split)
            sorted_into.add(folder)
            continue
        for number, row in _metadata(tree, table):
            name, label = row.get("file_name"), row.get(str(options["label"]))
            if not name or label in (None, ""):
                raise tree.wrong(f"file_name or {options['label']} is missing", table, number)
            yield Entry(prefix + str(name), str(label), split)
    if classes and not options["without_empty"]:
        check_vanished(tree, classes, None if folders == [""] else sorted_into)


def _metadata(tree: Tree, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if Path(table).suffix == ".csv":
        yield from tree.rows(table)
        return
    for number, line in tree.lines(table):
        yield number, tree.json_object(line, table, number)


HUGGINGFACE = Format(
    name="huggingface",
    title="a data set of the Hugging Face hub on disk",
    read=_read,
    expected="what datasets.save_to_disk wrote (dataset_dict.json, or state.json), or an "
    "imagefolder: train/<class>/*, or train/metadata.csv (or .jsonl) with file_name and label",
    marks=("dataset_dict.json", "state.json", "train", "metadata.csv", "metadata.jsonl"),
    counts_the_rest=True,
    options={
        "image": Option("image", "the column of the images"),
        "label": Option("label", "the column of the classes"),
        "without_empty": WITHOUT_EMPTY,
    },
    classes="the set's",
    images="the set's",
    splits="train, validation, test",
    used_for="your own images; Arrow files need the package pyarrow",
    where="https://huggingface.co/docs/datasets: load_dataset(…).save_to_disk(PATH)",
    licence="see the data set's card",
)
