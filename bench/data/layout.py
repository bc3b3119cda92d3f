"""What the folders at the top of an image folder are: classes, or splits with classes in them.

Splits are called train, val and test and stand alone. Anything else that looks like splits is
an error and no guess: a network would learn to tell `train/` from `valid/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.core.errors import DataError
from bench.core.text import some
from bench.data.dataset import Split

_MEANT: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("eval", "evaluation", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "heldout", "holdout"), "test"),
}
_FILLERS = {"", "set", "images", "image", "imgs", "img", "data", "split", "seg", "new"}
_OR_CLASSES = "if they are names of classes, list the images in a CSV file (dataset: manifest)"


def split_meant(name: str) -> Split | None:
    """The split that a folder's name stands for in another spelling; None if it does not.

    >>> [split_meant(name) for name in ("Valid", "test_images", "trainset", "cat")]
    ['val', 'test', 'train', None]
    """
    words = [word.removesuffix("set") for word in re.split(r"[^a-z]+", name.casefold())]
    found = [_MEANT[word] for word in words if word in _MEANT]
    others = [word for word in words if word not in _MEANT and word not in _FILLERS]
    return found[0] if len(found) == 1 and not others else None


def has_splits(paths: Iterable[str], place: Path) -> bool:
    """Whether the folders at the top are train/, val/ and test/, not classes.

    A class may be called "test": it counts as one when its images lie in it and other classes
    stand beside it.

    Args:
        paths: posix paths of the images.
        place: where they lie, for messages.

    Raises:
        DataError: for splits in another spelling, without train/, or with other folders beside
            them; with what to rename.
    """
    deep: dict[str, bool] = {}
    for path in paths:
        top, *below = path.split("/")
        if below:
            deep[top] = deep.get(top, False) or len(below) > 1
    meant = {top: split for top in sorted(deep) if (split := split_meant(top))}
    if not meant or not (len(meant) == len(deep) or any(deep[top] for top in meant)):
        _check_wrapped(deep, place)
        return False
    stray = sorted(set(deep) - set(meant))
    renamed = {top: split for top, split in meant.items() if top != split}
    if not stray and not renamed and "train" in meant:
        return True
    raise _unclear(meant, renamed, stray, place)


def _unclear(
    meant: Mapping[str, Split], renamed: Mapping[str, Split], stray: list[str], place: Path
) -> DataError:
    wrong, ways = [], []
    if renamed:
        one = len(renamed) == 1
        names = " and ".join(repr(top) for top in renamed)
        wrong.append(
            f"{'folder' if one else 'folders'} {names} {'looks' if one else 'look'} like "
            f"{'a split' if one else 'splits'} of the data, but splits are called train, val, test"
        )
        ways += [
            f"rename {top}/ to {split}/"
            if list(meant.values()).count(split) == 1
            else f"put what is in {top}/ into one folder {split}/"
            for top, split in renamed.items()
        ]
    if stray:
        wrong.append(
            f"beside {'/, '.join(meant)}/ there are images in {some(map(repr, stray), limit=4)}, "
            "so these folders are neither all classes nor all splits"
        )
        ways.append(f"move {stray[0]!r} away, or into the splits if it is a class")
    if "train" not in meant.values():
        wrong.append(f"there is no folder train/ beside {'/ and '.join(meant)}/")
        ways.append("put the training images into train/, a folder per class")
    return DataError("; ".join(wrong), place=str(place), hint=f"{'; '.join(ways)}; {_OR_CLASSES}")


def _check_wrapped(deep: Mapping[str, bool], place: Path) -> None:
    """A data set in a folder of its own would be one class."""
    if len(deep) == 1 and all(deep.values()):
        (top,) = deep
        raise DataError(
            f"all images lie below one folder, {top!r}",
            place=str(place),
            hint=f"if the classes are the folders in it, set root: {place / top}",
        )
