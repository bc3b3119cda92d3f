"""VGGFace2: a folder per person; no person of train/ is in test/."""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.files import is_image
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Box, Counts, Entry, Format, Option, Options

_PARTS: tuple[Split, ...] = ("train", "test")
_IMAGES = {"train": 3_141_890, "test": 169_396}
_PERSONS = {"train": 8_631, "test": 500, "all": 9_131}


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    every = options["identities"] == "all"
    for part in _PARTS:
        if not every and part != options["identities"]:
            continue
        boxes = _boxes(tree, f"bb_landmark/loose_bb_{part}.csv")
        for name in _listed(tree, part):
            person = name.partition("/")[0]
            box = boxes.get(name.rpartition(".")[0])
            yield Entry(
                f"{part}/{name}",
                person,
                part if every else "train",
                boxes=() if box is None else (box,),
            )


def _listed(tree: Tree, part: str) -> list[str]:
    """The authors' list where it is there, else the files of the folder."""
    for table in (f"{part}_list.txt", f"meta/{part}_list.txt"):
        if table in tree.spans:
            return [line for _, line in tree.lines(table)]
    found = [p.partition("/")[2] for p in tree.below(f"{part}/") if is_image(p)]
    return [name for name in found if name.count("/") == 1]


def _boxes(tree: Tree, table: str) -> dict[str, Box]:
    """By `n000002/0001_01`."""
    if table not in tree.spans:
        return {}
    found: dict[str, Box] = {}
    for number, row in tree.rows(table):
        try:
            x, y, width, height = (float(row[name] or "") for name in ("X", "Y", "W", "H"))
            found[row["NAME_ID"] or ""] = (x, y, x + width, y + height)
        except (KeyError, ValueError) as error:
            raise tree.wrong(f"no box ({error!r})", table, number) from error
    return found


def _counts(options: Options) -> Counts:
    part = str(options["identities"])
    if part == "all":
        return Counts(_PERSONS[part], {"train": _IMAGES["train"], "test": _IMAGES["test"]})
    return Counts(_PERSONS[part], {"train": _IMAGES[part]})


VGGFACE2 = Format(
    name="vggface2",
    title="VGGFace2",
    read=_read,
    expected="train/n000002/*.jpg and test/n000001/*.jpg (and train_list.txt, test_list.txt, "
    "bb_landmark/loose_bb_train.csv), or vggface2_train.tar.gz and vggface2_test.tar.gz",
    marks=("train/n??????", "test/n??????", "data/train/n??????", "train_list.txt"),
    folders=("train", "test", "meta", "bb_landmark", "data"),
    archives=(
        Archive("vggface2_train.tar*", gives="train/"),
        Archive("vggface2_test.tar*", gives="test/"),
        Archive("data/vggface2_train.tar*", gives="train/"),
        Archive("data/vggface2_test.tar*", gives="test/"),
        Archive("bb_landmark.tar*", gives="bb_landmark/"),
    ),
    inner=("data",),
    guesses=("vggface2", "VGGFace2", "VGG-Face2"),
    counts=_counts,
    options={
        "identities": Option(
            "train",
            "whose images: train and test make one pool of their own; all is both, with the "
            "persons of test as the test split",
            ("train", "test", "all"),
        )
    },
    classes="8,631 and 500 persons",
    images="3,141,890 and 169,396",
    splits="none; with identities: all persons are either training or test",
    used_for="SFT: source for faces",
    where="withdrawn by its authors; https://www.robots.ox.ac.uk/~vgg/data/vgg_face2/ says more",
    licence="was CC BY-SA 4.0, research; faces of persons who were not asked",
    version=2,
)
