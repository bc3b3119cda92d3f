"""FGVC-Aircraft 2013b: variants (or families, manufacturers), lists and one box each.

The papers train on the official training and validation images together: `val_in_train: true`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.annotations import table_edges
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Box, Counts, Entry, Format, Option, Options

_NAMES = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}
_CLASSES = {"variant": 100, "family": 70, "manufacturer": None}
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    level = str(options["level"])
    names = {line for _, line in tree.lines(f"data/{_NAMES[level]}.txt")}
    boxes = _boxes(tree) if "data/images_box.txt" in tree.spans else {}
    for split in _SPLITS:
        table = f"data/images_{level}_{split}.txt"
        for number, (image, label) in tree.fields(table, 2):
            if label not in names:
                raise tree.wrong(f"{label!r} is not in {_NAMES[level]}.txt", table, number)
            merged = options["val_in_train"] and split == "val"
            yield Entry(
                f"data/images/{image}.jpg",
                label,
                "train" if merged else split,
                boxes=(boxes[image],) if image in boxes else (),
            )


def _boxes(tree: Tree) -> dict[str, Box]:
    """By image; the upper left pixel is (1, 1) in the file, right and lower edges included."""
    table = table_edges(tree, "data/images_box.txt")
    return {
        image: (left - 1, top - 1, right, low) for image, (left, top, right, low) in table.items()
    }


def _counts(options: Options) -> Counts:
    images: dict[Split, int] = {"train": 3_334, "val": 3_333, "test": 3_333}
    if options["val_in_train"]:
        images = {"train": 6_667, "test": 3_333}
    return Counts(_CLASSES[str(options["level"])], images)


AIRCRAFT = Format(
    name="fgvc-aircraft",
    title="FGVC-Aircraft 2013b",
    read=_read,
    expected="fgvc-aircraft-2013b/data/ with images/, variants.txt and images_variant_train.txt, "
    "_val.txt and _test.txt, or fgvc-aircraft-2013b.tar.gz",
    marks=("data/images_variant_train.txt", "data/variants.txt"),
    folders=("data",),
    archives=(Archive("fgvc-aircraft-2013b.tar*", gives="fgvc-aircraft-2013b/"),),
    inner=("fgvc-aircraft-2013b",),
    guesses=("fgvc-aircraft-2013b", "fgvc-aircraft"),
    counts=_counts,
    options={
        "level": Option("variant", "what a class is", tuple(_NAMES)),
        "val_in_train": Option(False, "the official validation images are training images"),
    },
    classes="100 variants",
    splits="train, val, test; boxes",
    used_for="SFT: target (mean class accuracy), 6,667 training images with val_in_train",
    where="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    licence="non-commercial research; each image has a copyright banner of 20 pixels at its foot",
)
