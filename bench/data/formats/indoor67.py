"""MIT Indoor 67: a folder per scene, and the lists of 80 + 20 images per class that all use."""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Options

_LISTS: tuple[tuple[str, Split], ...] = (("TrainImages.txt", "train"), ("TestImages.txt", "test"))


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    for table, split in _LISTS:
        for number, path in tree.lines(table):
            label, _, name = path.partition("/")
            if not label or not name:
                raise tree.wrong(f"{path!r} is not <class>/<image>", table, number)
            yield Entry(f"Images/{path}", label, split)


INDOOR67 = Format(
    name="mit-indoor-67",
    title="MIT Indoor Scenes 67",
    read=_read,
    expected="Images/<class>/*.jpg with TrainImages.txt and TestImages.txt beside it, or "
    "indoorCVPR_09.tar with the two lists",
    marks=("Images/airport_inside", "TrainImages.txt", "TestImages.txt"),
    folders=("Images",),
    archives=(Archive("indoorCVPR_09.tar*", gives="Images/"),),
    inner=("indoorCVPR_09",),
    guesses=("mit-indoor-67", "indoorCVPR_09", "mit67", "MITIndoor67"),
    counts=lambda options: Counts(67, {"train": 5_360, "test": 1_340}),
    images="5,360 / 1,340 listed of 15,620",
    used_for="GE: target; CHU: target",
    where="https://web.mit.edu/torralba/www/indoor.html",
    licence="research; the images belong to their owners",
)
