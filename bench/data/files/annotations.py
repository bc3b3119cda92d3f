"""Files that describe images: MATLAB tables and bounding boxes in XML."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from bench.data.files.tree import Tree

Box = tuple[float, float, float, float]


def mat_table(tree: Tree, path: str, *names: str) -> dict[str, Any]:
    """Arrays of a MATLAB file, by name; squeezed.

    Raises:
        DataError: when the file is missing, is none, or lacks one of the names.
    """
    from scipy.io import loadmat

    data = tree.read(path)
    try:
        found = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=list(names))
    except Exception as error:  # scipy raises many kinds on hostile bytes; nothing is unpickled
        raise tree.wrong(f"is no MATLAB file ({error})", path) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise tree.wrong(f"has no array {missing[0]!r}", path)
    return {name: found[name] for name in names}


def mat_texts(tree: Tree, path: str, name: str) -> list[str]:
    """A MATLAB cell array of texts."""
    values: list[str] = mat_table(tree, path, name)[name].ravel().tolist()
    wrong = [value for value in values if not isinstance(value, str)]
    if wrong:
        raise tree.wrong(f"{name} holds {wrong[0]!r}, which is no text", path)
    return values


def voc_boxes(
    tree: Tree, path: str, *, first: int, wanted: Callable[[str], bool] = bool
) -> tuple[Box, ...]:
    """Boxes of the objects of an annotation in PASCAL VOC's XML.

    A document type, which all attacks on XML parsers need, is refused.

    Args:
        tree: the files.
        path: of the annotation.
        first: the number of the first pixel, 0 or 1; where it is 1 the last pixel is included.
        wanted: which objects, by name.

    Returns:
        (left, top, right, bottom) each, right and bottom excluded, as the file orders them.

    Raises:
        DataError: when the file is missing or is no such annotation.
    """
    try:
        text = tree.text(path)
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise tree.wrong("is XML with a document type, which is refused", path)
        document = ElementTree.fromstring(text)
        boxes: list[Box] = []
        for one in document.iter("object"):
            if not wanted(one.findtext("name", "?").strip()):
                continue
            edges = [float(one.findtext(f"bndbox/{side}", "")) for side in _SIDES]
            left, top = (max(edge - first, 0.0) for edge in edges[:2])
            boxes.append((left, top, edges[2], edges[3]))
    except (ElementTree.ParseError, ValueError) as error:
        raise tree.wrong(f"is no annotation in XML ({error})", path) from error
    return tuple(boxes)


def table_edges(tree: Tree, path: str) -> dict[str, Box]:
    """The four numbers of each image in a table of `<image> <number> <number> <number> <number>`.

    Raises:
        DataError: with the line, where they are no numbers.
    """
    found: dict[str, Box] = {}
    for number, (image, *edges) in tree.fields(path, 5):
        try:
            a, b, c, d = map(float, edges)
        except ValueError as error:
            raise tree.wrong(f"no box ({error})", path, number) from error
        found[image] = (a, b, c, d)
    return found


_SIDES = ("xmin", "ymin", "xmax", "ymax")
