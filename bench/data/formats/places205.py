"""Places-205: resized images and the lists of training and validation images.

The validation list is the test split, because the labels of test were never published.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Options

_IMAGES = ("data/vision/torralba/deeplearning/images256/", "images256/", "")
_LISTS: tuple[tuple[str, Split], ...] = (
    ("train_places205.csv", "train"),
    ("val_places205.csv", "test"),
)


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    prefix = next(one for one in _IMAGES if not one or tree.below(one))
    name_of: dict[str, str] = {}
    for name, split in _LISTS:
        table = tree.first(f"trainvalsplit_places205/{name}", name)
        for number, (path, index) in tree.fields(table, 2):
            label = path.partition("/")[2].rpartition("/")[0]  # a/abbey/x.jpg: abbey
            if not label or name_of.setdefault(index, label) != label:
                raise tree.wrong(f"{path!r} has class {index}, which is another", table, number)
            yield Entry(prefix + path, label, split, path)


PLACES205 = Format(
    name="places-205",
    title="Places-205",
    read=_read,
    expected="data/vision/torralba/deeplearning/images256/<letter>/<class>/*.jpg and "
    "trainvalsplit_places205/train_places205.csv and val_places205.csv, or "
    "imagesPlaces205_resize.tar.gz and trainvalsplit_places205.tar.gz",
    marks=("data/vision", "images256", "trainvalsplit_places205"),
    folders=("data", "images256", "trainvalsplit_places205"),
    archives=(
        Archive("imagesPlaces205_resize.tar*", gives="data/vision/"),
        Archive("trainvalsplit_places205.tar*", gives="trainvalsplit_places205/"),
    ),
    guesses=("places-205", "places205", "Places205"),
    counts=lambda options: Counts(205, {"train": 2_448_873, "test": 20_500}),
    splits="train, test (validation)",
    used_for="GE: source for MIT Indoor",
    where="http://places.csail.mit.edu/downloadData.html",
    licence="non-commercial research and education; the images belong to their owners",
)
