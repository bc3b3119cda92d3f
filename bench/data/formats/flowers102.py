"""Oxford Flowers 102: numbered images, labels and splits in MATLAB files.

Classes have numbers and no names in the distribution: 001 to 102.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.data.dataset import Split
from bench.data.files.annotations import mat_table
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Option, Options

_SPLITS: tuple[tuple[str, Split], ...] = (("trnid", "train"), ("valid", "val"), ("tstid", "test"))


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    labels = _numbers(mat_table(tree, "imagelabels.mat", "labels")["labels"])
    table = mat_table(tree, "setid.mat", *(name for name, _ in _SPLITS))
    for name, split in _SPLITS:
        for number in _numbers(table[name]):
            if not 1 <= number <= len(labels):
                raise tree.wrong(f"{name} has image {number} of {len(labels)}", "setid.mat")
            merged = options["val_in_train"] and split == "val"
            label = f"{labels[number - 1]:03d}"
            yield Entry(f"jpg/image_{number:05d}.jpg", label, "train" if merged else split)


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values.ravel()]


def _counts(options: Options) -> Counts:
    images: dict[Split, int] = {"train": 1_020, "val": 1_020, "test": 6_149}
    if options["val_in_train"]:
        images = {"train": 2_040, "test": 6_149}
    return Counts(102, images)


FLOWERS102 = Format(
    name="flowers-102",
    title="Oxford Flowers 102",
    read=_read,
    expected="jpg/image_00001.jpg to image_08189.jpg, imagelabels.mat and setid.mat, or "
    "102flowers.tgz with the two tables",
    marks=("jpg/image_*", "imagelabels.mat", "setid.mat"),
    folders=("jpg",),
    archives=(Archive("102flowers.t*", gives="jpg/"),),
    guesses=("flowers-102", "oxford-flowers-102", "102flowers"),
    counts=_counts,
    options={"val_in_train": Option(False, "the official validation images are training images")},
    used_for="GE: target, Table 3's last row with val_in_train",
    where="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    licence="research; the images belong to their owners",
)
