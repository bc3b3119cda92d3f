"""Samples of several images: views that a data set declares as boxes.

`views: [whole, box]` shows the network each image as a whole, as everywhere, and the part of it
that the column `box` names, stretched to a square; view NAME is the box of column `box_NAME`. A box
is text: left, top, width and height in pixels of the upright image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image as Pillow

from bench.core.errors import DataError, nearest
from bench.core.text import some
from bench.data.dataset import Dataset, Image, UInt8, digest
from bench.data.files.files import ahead
from bench.data.selection.images import Images
from bench.data.selection.splits import Splits

WHOLE = "whole"
VIEWS_VERSION = 1
Columns = Mapping[str, Mapping[str, str]]
"""Key of an image to column to text."""
Box = tuple[float, float, float, float]


def is_extra_column(name: str) -> bool:
    """Whether a manifest may have the column besides the usual ones.

    >>> [is_extra_column(name) for name in ("box", "box_head", "group_expression", "boxes")]
    [True, True, True, False]
    """
    return name == "box" or (name.startswith(("box_", "group_")) and not name.endswith("_"))


def parse_box(text: str, place: str | None = None) -> Box:
    """Left, top, width and height, parted by spaces or commas, perhaps in brackets.

    Raises:
        DataError: not four numbers, or no area.

    >>> parse_box("[4, 2, 10.5, 8]")
    (4.0, 2.0, 10.5, 8.0)
    """
    try:
        left, top, width, height = map(float, text.strip(" []()").replace(",", " ").split())
    except ValueError:
        left = top = width = height = math.nan
    inside = left >= 0 and top >= 0 and width > 0 and height > 0
    if not (inside and all(map(math.isfinite, (left, top, width, height)))):
        raise DataError(
            f"{text!r} is no box",
            place=place,
            hint="write left, top, width and height in pixels, such as 10 20 64 128",
        )
    return left, top, width, height


def columns_of(dataset: Dataset) -> Columns:
    """What a data set says of its images beyond the class; nothing for most."""
    found: Columns = getattr(dataset, "columns", {})
    return found


def allowed_by(
    dataset: Dataset, where: Sequence[tuple[str, tuple[str, ...]]], columns: str = "group_"
) -> Callable[[Image], bool] | None:
    """Whether an image has one of the values in each of the columns `group_NAME`; None for all.

    Args:
        dataset: the data set.
        where: (name, values) of each column.
        columns: what the columns' names begin with.

    Raises:
        DataError: no such column, or a value that no image has.
    """
    if not where:
        return None
    table = columns_of(dataset)
    known = sorted({name for row in table.values() for name in row if name.startswith(columns)})
    for name, values in where:
        column = f"{columns}{name}"
        if column not in known:
            others = nearest(column, known) if known else "none: only manifests can have some"
            raise DataError(
                f"data set {dataset.name!r} has no column {column!r}", hint=f"there are: {others}"
            )
        there = sorted({row.get(column, "") for row in table.values()})
        for value in values:
            if value not in there:
                raise DataError(
                    f"no image has {column} {value!r}", hint=f"known: {nearest(value, there)}"
                )

    def allowed(image: Image) -> bool:
        row = table.get(image.key, {})
        return all(row.get(f"{columns}{name}") in values for name, values in where)

    return allowed


# --- views ------------------------------------------------------------------------------------


def _boxes(dataset: Dataset, images: Sequence[Image], views: Sequence[str]) -> list[str | None]:
    """The box of each view of each image as text, None for the whole; image by image.

    Raises:
        DataError: no such column, or images whose box is not given.
    """
    table = columns_of(dataset)
    known = sorted({name for row in table.values() for name in row if name.startswith("box")})
    column = {view: view if view in known else f"box_{view}" for view in views}
    for view in views:
        if view != WHOLE and column[view] not in known:
            raise DataError(
                f"data set {dataset.name!r} has no view {view!r}",
                hint=f"views: {nearest(view, [WHOLE, *known])}; boxes are columns box or box_NAME "
                "of a manifest, or of a CSV file in the data set's folder that options: "
                "{boxes: FILE} names",
            )
    found, lacking = [], []
    for image in images:
        for view in views:
            text = None if view == WHOLE else table.get(image.key, {}).get(column[view], "")
            if text == "":
                lacking.append(f"{image.key}: {view}")
            found.append(text)
    if lacking:
        raise DataError(
            f"{len(lacking)} boxes are not given: {some(lacking)}",
            hint="fill the column, or leave the images out of the data set",
        )
    return found


def views_fingerprint(
    dataset: Dataset, fingerprint: str, parts: Splits, views: Sequence[str]
) -> str:
    """Of the images and of the views of each; `fingerprint` itself for whole images alone.

    Raises:
        DataError: see `parse_box`; no such column, or boxes that are not given.
    """
    if not views:
        return fingerprint
    boxes = _boxes(dataset, (*parts.train, *parts.val, *parts.test), views)
    for text in boxes:
        if text is not None:
            parse_box(text)
    return digest([fingerprint, f"views {VIEWS_VERSION}", json.dumps([list(views), boxes])])


def view_images(dataset: Dataset, images: Sequence[Image], views: Sequence[str]) -> Images:
    """An image per view of each image, view by view within an image, for `read_views`.

    Without views the images as they are.

    Their content hash covers the box, so that decoded views are found again by it; that of a whole
    image is its own.
    """
    if not views:
        return Images.of(images)
    boxes = _boxes(dataset, images, views)
    repeated = [image for image in images for _ in views]
    return Images.of(
        [
            image
            if text is None
            else replace(
                image,
                key=f"{image.key}\0{text}",
                sha256=digest([image.sha256, f"box {VIEWS_VERSION}", repr(parse_box(text))]),
            )
            for image, text in zip(repeated, boxes, strict=True)
        ]
    )


def read_views(dataset: Dataset, images: Sequence[Image], size: int) -> Iterator[UInt8]:
    """Pixels (size, size, 3) of what `view_images` gave, in order.

    Raises:
        DataError: an image that cannot be decoded, or a box that reaches beyond it.
    """
    whole = [image for image in images if "\0" not in image.key]
    plain = dataset.read(whole, size)
    files = getattr(dataset, "files", None)

    def part(image: Image) -> UInt8:
        key, _, text = image.key.partition("\0")
        if files is None:
            raise DataError(f"data set {dataset.name!r} has no boxes")
        return crop(files.decoded(key), parse_box(text), size, place=key)

    parts = ahead(part, [image for image in images if "\0" in image.key])
    for image in images:
        yield next(parts if "\0" in image.key else plain)


def crop(image: UInt8, box: Box, size: int, place: str | None = None) -> UInt8:
    """The part of an image within a box, stretched to (size, size, 3) as `decode` resizes.

    Args:
        image: uint8 (H, W, 3).
        box: left, top, width, height in pixels; may be fractions of pixels.
        size: side in pixels.
        place: for errors.

    Raises:
        DataError: the box reaches beyond the image.

    >>> crop(np.zeros((8, 6, 3), np.uint8), (1, 1, 2, 2), 4).shape
    (4, 4, 3)
    """
    height, width = image.shape[:2]
    left, top, wide, high = box
    right, bottom = left + wide, top + high
    if right > width or bottom > height:
        raise DataError(
            f"the box {left:g} {top:g} {wide:g} {high:g} reaches beyond an image of "
            f"{width} x {height} pixels",
            place=place,
            hint="boxes are left, top, width and height in pixels of the upright image",
        )
    cut = Pillow.fromarray(image).resize(
        (size, size), Pillow.Resampling.BICUBIC, box=(left, top, right, bottom)
    )
    return np.asarray(cut)
