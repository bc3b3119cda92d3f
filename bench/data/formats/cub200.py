"""CUB-200-2011: birds, described by text tables; one box each."""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.files.annotations import table_edges
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Box, Counts, Entry, Format, Options


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    paths = _table(tree, "images.txt")
    classes = _table(tree, "classes.txt")
    label_of = _table(tree, "image_class_labels.txt")
    training = _table(tree, "train_test_split.txt")
    boxes = _boxes(tree)
    for image, path in paths.items():
        for name, table in (
            ("image_class_labels.txt", label_of),
            ("train_test_split.txt", training),
        ):
            if image not in table:
                raise tree.wrong(f"image {image} of images.txt is not in it", name)
        if label_of[image] not in classes:
            raise tree.wrong(
                f"image {image} has the unknown class {label_of[image]}", "classes.txt"
            )
        if training[image] not in ("0", "1"):
            raise tree.wrong(f"image {image}: {training[image]!r}", "train_test_split.txt")
        yield Entry(
            f"images/{path}",
            classes[label_of[image]],
            "train" if training[image] == "1" else "test",
            boxes=(boxes[image],) if image in boxes else (),
        )


def _table(tree: Tree, name: str) -> dict[str, str]:
    rows: dict[str, str] = {}
    for number, (key, value) in tree.fields(name, 2):
        if rows.setdefault(key, value) != value:
            raise tree.wrong(f"number {key} is there twice", name, number)
    return rows


def _boxes(tree: Tree) -> dict[str, Box]:
    """x, y, width and height by image; pixels are counted from 0."""
    table = table_edges(tree, "bounding_boxes.txt")
    return {image: (x, y, x + width, y + height) for image, (x, y, width, height) in table.items()}


CUB200 = Format(
    name="cub-200-2011",
    title="Caltech-UCSD Birds 200, 2011",
    read=_read,
    expected="CUB_200_2011/ with images/, images.txt, classes.txt, image_class_labels.txt, "
    "train_test_split.txt and bounding_boxes.txt, or CUB_200_2011.tgz",
    marks=("images.txt", "train_test_split.txt", "images/001.*"),
    folders=("images",),
    archives=(Archive("CUB_200_2011.t*", gives="CUB_200_2011/"),),
    inner=("CUB_200_2011",),
    guesses=("CUB_200_2011", "cub-200-2011", "CUB_200_2011/CUB_200_2011"),
    counts=lambda options: Counts(200, {"train": 5_994, "test": 5_794}),
    splits="train, test; boxes",
    used_for="CHU: target",
    where="https://data.caltech.edu/records/65de6-vp158",
    licence="the authors do not own the images' copyrights: non-commercial research",
)
