"""Stanford 40 Actions: a list per action and split, the acting person's box in XML."""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.annotations import voc_boxes
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Box, Counts, Entry, Format, Options

_SPLITS: tuple[Split, ...] = ("train", "test")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    with_boxes = bool(tree.below("XMLAnnotations/"))
    for action in _actions(tree):
        for split in _SPLITS:
            for _, name in tree.lines(f"ImageSplits/{action}_{split}.txt"):
                path = f"JPEGImages/{name}"
                boxes: tuple[Box, ...] = ()
                if with_boxes and not (options["partial"] and path not in tree.spans):
                    xml = f"XMLAnnotations/{name.removesuffix('.jpg')}.xml"
                    boxes = voc_boxes(tree, xml, first=1)
                yield Entry(path, action, split, boxes=boxes)


def _actions(tree: Tree) -> list[str]:
    """The first column of actions.txt, below its heading."""
    rows = [row[0] for _, row in tree.fields("ImageSplits/actions.txt", 1)]
    return [row.split()[0] for row in rows[1:]]


STANFORD40 = Format(
    name="stanford-40",
    title="Stanford 40 Actions",
    read=_read,
    expected="JPEGImages/, ImageSplits/ with actions.txt and <action>_train.txt and "
    "<action>_test.txt (and XMLAnnotations/ for boxes), or their Stanford40_*.zip",
    marks=("JPEGImages", "ImageSplits"),
    folders=("JPEGImages", "ImageSplits", "XMLAnnotations"),
    archives=(
        Archive("Stanford40_JPEGImages.*", gives="JPEGImages/"),
        Archive("Stanford40_ImageSplits.*", gives="ImageSplits/"),
        Archive("Stanford40_XMLAnnotations.*", gives="XMLAnnotations/"),
        Archive("Stanford40.*", gives="JPEGImages/"),
    ),
    inner=("Stanford40",),
    guesses=("Stanford40", "stanford-40"),
    counts=lambda options: Counts(40, {"train": 4_000, "test": 5_532}),
    splits="train, test; boxes of persons",
    used_for="SFT: target (mAP)",
    where="http://vision.stanford.edu/Datasets/40actions.html",
    licence="research; the images belong to their owners",
)
