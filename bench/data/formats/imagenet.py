"""ILSVRC2012: folders, a tar per class, or the three files as they were downloaded.

Validation images may lie flat; their classes then come from the development kit or from Kaggle's
`LOC_val_solution.csv`. Validation is the test split, because the labels of test were never
published. Keys are `train/<wnid>/…` and `val/<wnid>/…` however the set is packed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.core.errors import DataError
from bench.data.dataset import all_wnids
from bench.data.files.annotations import mat_table
from bench.data.files.files import is_image
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Options

_KIT = "ILSVRC2012_devkit_t12/data/"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_KAGGLE = "LOC_val_solution.csv"
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    flat = []
    for path in tree.spans:
        if not path.startswith(("train/", "val/")) or not is_image(path):
            continue
        top, *folders, _ = path.split("/")
        if not folders and top == "val":
            flat.append(path)
            continue
        if not folders or not all_wnids(folders[:1]):
            raise _no_class(tree, path)
        yield Entry(path, folders[0], "test" if top == "val" else "train")
    if flat:
        labels = _flat_labels(tree)
        for path in flat:
            name = path.removeprefix("val/")
            if name not in labels:
                raise tree.wrong(f"image {path!r} has no class in the ground truth")
            yield Entry(path, labels[name], "test", f"val/{labels[name]}/{name}")


def _no_class(tree: Tree, path: str) -> DataError:
    return DataError(
        f"image {path!r} does not lie in the folder of a class such as n02084071",
        place=str(tree.place),
        hint=f"{tree.hint}; classes with other names: dataset: folder",
    )


def _flat_labels(tree: Tree) -> dict[str, str]:
    """Class by name of the validation image."""
    for folder in (_KIT, "", "data/"):
        if folder + _TRUTH in tree.spans:
            return _of_kit(tree, folder)
    if _KAGGLE in tree.spans:
        return _of_kaggle(tree)
    raise tree.wrong(
        f"val/ is flat, and neither {_KIT}{_TRUTH} nor {_KAGGLE} says the classes: put one there, "
        "or sort val/ into a folder per class"
    )


def _of_kit(tree: Tree, folder: str) -> dict[str, str]:
    synsets = mat_table(tree, folder + "meta.mat", "synsets")["synsets"]
    try:
        ids = [int(number) for number in synsets["ILSVRC2012_ID"].ravel()]
        wnids = [str(wnid) for wnid in synsets["WNID"].ravel()]
    except (ValueError, TypeError, IndexError) as error:
        raise tree.wrong(
            f"its synsets are not as expected ({error})", f"{folder}meta.mat"
        ) from error
    wnid_of = dict(zip(ids, wnids, strict=True))
    labels = {}
    for count, (number, line) in enumerate(tree.lines(folder + _TRUTH), start=1):
        if not line.isdigit() or int(line) not in wnid_of:
            raise tree.wrong(f"{line!r} is no ILSVRC2012_ID", folder + _TRUTH, number)
        labels[f"ILSVRC2012_val_{count:08d}.JPEG"] = wnid_of[int(line)]
    return labels


def _of_kaggle(tree: Tree) -> dict[str, str]:
    labels = {}
    for number, line in tree.lines(_KAGGLE):
        name, _, prediction = line.partition(",")
        wnid = prediction.partition(" ")[0]
        if _VAL.fullmatch(f"{name}.JPEG") and all_wnids([wnid]):
            labels[f"{name}.JPEG"] = wnid
        elif number > 1:
            raise tree.wrong(f"{line!r} is not <image>,<wnid> …", _KAGGLE, number)
    return labels


IMAGENET = Format(
    name="imagenet",
    title="ImageNet ILSVRC2012",
    read=_read,
    expected="a folder with train/<wnid>/*.JPEG or train/<wnid>.tar, and val/<wnid>/*.JPEG or flat "
    "val/*.JPEG with the development kit; or ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz",
    marks=(
        "train/n*/*.[jJ][pP]*",
        "train/n*.tar",
        "val/ILSVRC2012_val_*",
        "ILSVRC/Data/CLS-LOC/train",
    ),
    folders=("train", "val", "ILSVRC2012_devkit_t12", "ILSVRC", "data"),
    archives=(
        Archive("train/n*.tar", gives="", into="{stem}"),
        Archive("ILSVRC2012_img_train.tar", gives="", into="train", nested=True),
        Archive("ILSVRC2012_img_val.tar", gives="", into="val"),
        Archive("ILSVRC2012_devkit_t12.tar.gz", gives="ILSVRC2012_devkit_t12/"),
    ),
    inner=("ILSVRC/Data/CLS-LOC",),
    guesses=("imagenet", "ILSVRC2012", "imagenet-1k", "ILSVRC/Data/CLS-LOC"),
    counts=lambda options: Counts(1000, {"train": 1_281_167, "test": 50_000}),
    classes="1000, WordNet ids",
    splits="train, test (validation)",
    used_for="all four papers: source; LI and CHU: also target",
    where="https://image-net.org/download-images after registration (ILSVRC2012, Task 1 and 2)",
    licence="non-commercial research and education; the terms are accepted at registration",
)
