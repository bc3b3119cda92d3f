"""Stanford Dogs: MATLAB lists, boxes in XML; classes are WordNet ids.

All images are cut from ImageNet, so a network that has seen ImageNet has seen its test images:
`bench data check stanford-dogs PATH --against imagenet OTHER` says how many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.annotations import mat_texts, voc_boxes
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Box, Counts, Entry, Format, Options

_LISTS: tuple[tuple[str, Split], ...] = (("train_list.mat", "train"), ("test_list.mat", "test"))
_FOLDER = re.compile(r"(n\d{8})-[^/]+/[^/]+\.jpg")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    with_boxes = bool(tree.below("Annotation/"))
    for name, split in _LISTS:
        table = tree.first(name, f"lists/{name}")
        for path in mat_texts(tree, table, "file_list"):
            found = _FOLDER.fullmatch(path)
            if not found:
                raise tree.wrong(f"{path!r} is not <wnid>-<breed>/<image>.jpg", table)
            boxes: tuple[Box, ...] = ()
            if with_boxes and not (options["partial"] and f"Images/{path}" not in tree.spans):
                boxes = voc_boxes(tree, f"Annotation/{path.removesuffix('.jpg')}", first=0)
            yield Entry(f"Images/{path}", found[1], split, boxes=boxes)


STANFORD_DOGS = Format(
    name="stanford-dogs",
    title="Stanford Dogs",
    read=_read,
    expected="Images/<wnid>-<breed>/*.jpg with train_list.mat and test_list.mat beside it (and "
    "Annotation/ for boxes), or images.tar and lists.tar (and annotation.tar)",
    marks=("Images/n*", "train_list.mat", "lists/train_list.mat"),
    folders=("Images", "Annotation", "lists"),
    archives=(
        Archive("images.tar", gives="Images/"),
        Archive("lists.tar", gives="train_list.mat"),
        Archive("annotation.tar", gives="Annotation/"),
    ),
    guesses=("stanford-dogs", "StanfordDogs", "stanford_dogs"),
    counts=lambda options: Counts(120, {"train": 12_000, "test": 8_580}),
    classes="120, WordNet ids",
    splits="train, test; boxes",
    used_for="SFT: target; GE: target",
    where="http://vision.stanford.edu/aditya86/ImageNetDogs/ (images, annotation and lists)",
    licence="images of ImageNet: non-commercial research and education",
)
