"""Boxes that a data set does not come with, such as parts of persons: a CSV file in its folder.

    path,box_head,box_torso
    JPEGImages/applauding_001.jpg,12 4 60 58,10 62 90 120

`options: {boxes: parts.csv}` names it. The path is the image's name in the data set, as errors and
`bench retrieve` print it; the other columns are those of a manifest, `box` and `box_NAME` with
left, top, width and height in pixels of the upright image, and give the views `box` and NAME. An
image may be left out, and a field may be empty, where no run shows the view.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from bench.core.errors import DataError
from bench.data.files.mount import Span
from bench.data.files.tree import Tree
from bench.data.places import MissingDataError
from bench.data.transforms.views import Columns, is_extra_column, parse_box

_HINT = (
    "a file of boxes has the columns path,box_NAME,…; a box is left, top, width and height in "
    "pixels, such as 10 20 64 128"
)


def box_file(root: Path, file: str) -> Path:
    """Where the file of boxes of a data set at `root` lies.

    Raises:
        MissingDataError: it is not there.
        DataError: it would lie outside the data set's folder.
    """
    folder = root if root.is_dir() else root.parent
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise DataError(
            f"option boxes is {file!r}, which leads out of the data set's folder",
            hint=f"put the file into {folder}, and name it without the folder",
        )
    if not (folder / file).is_file():
        raise MissingDataError(
            f"the file of boxes {file!r} is not in {folder}",
            hint=f"{_HINT}; or leave out the views that need it",
        )
    return folder / file


def with_boxes(
    columns: Columns, images: Collection[str], root: Path, file: str, *, partial: bool = False
) -> Columns:
    """The columns of a data set's images with those of its file of boxes.

    Args:
        columns: what is known of the images, by name.
        images: the names of all images.
        root: where the data set lies.
        file: the file of boxes, relative to it.
        partial: images of the file may be missing.

    Raises:
        DataError: as `box_file`, or its content is not as the module's docstring says.
    """
    path = box_file(root, file)
    known = set(images)
    found: dict[str, Mapping[str, str]] = dict(columns)
    seen: set[str] = set()
    tree = Tree(path.parent, {path.name: Span(str(path))}, _HINT, "")
    for number, row in tree.rows(path.name):
        if (
            any(name != "path" and not _is_box(name) for name in row)
            or "path" not in row
            or None in row.values()
        ):
            raise tree.wrong("the line has not the columns path and boxes", path.name, number)
        image = row.pop("path") or ""
        own = columns.get(image, {})
        if image in seen:
            raise tree.wrong(f"{image!r} is listed twice", path.name, number)
        if image not in known:
            if partial:
                continue
            text = f"there is no image {image!r}; images have names such as {min(known)!r}"
            raise tree.wrong(text, path.name, number)
        seen.add(image)
        for name, box in row.items():
            if name in own:
                raise tree.wrong(f"{image!r} has a column {name!r} already", path.name, number)
            if box:
                parse_box(box, f"{path}:{number}")
        found[image] = {**own, **{name: box or "" for name, box in row.items()}}
    return found


def _is_box(column: str | None) -> bool:
    return column is not None and column.startswith("box") and is_extra_column(column)
