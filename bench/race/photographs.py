"""Which images of a folder train, validate and test, where nobody has said it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.paths import Places
from bench.data.catalog import open_dataset
from bench.data.dataset import Split

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.2
LEAST_TEST = 30
"""Test images of each class that are wanted, where a third of the class is as many."""

FEW = 30
"""A class with fewer training images than this is validated on several draws."""


@dataclass(frozen=True)
class Photographs:
    """A folder of images and how it is divided.

    Attributes:
        target: the section `target:` of a grid, without the image size.
        classes: number of classes.
        train: images that may be trained and validated on, about.
        test: test images, about.
        smallest: training and validation images of the smallest class.
        words: how it is divided, in a sentence.
    """

    target: Mapping[str, Any]
    classes: int
    train: int
    test: int
    smallest: int
    words: str

    @property
    def draws(self) -> int:
        """Divisions into training and validation images that each arm is validated on."""
        return 3 if self.smallest < FEW else 1


def divide(root: Path, places: Places) -> Photographs:
    """Looks at a folder, archive or CSV file of images and divides it.

    `test/` is the test set; `val/` alone is; else a stratified fifth of each class, or more where
    the smallest class would have fewer than `LEAST_TEST` test images, up to a third.

    Args:
        root: the folder, archive or CSV file.
        places: where data sets and their index lie.

    Raises:
        DataError: it is not there, or no data set of two classes.
    """
    kind = "manifest" if root.suffix.lower() == ".csv" else "folder"
    dataset = open_dataset(kind, str(root), **places)
    counts: dict[Split, dict[str, int]] = {"train": {}, "val": {}, "test": {}}
    for label in dataset.classes:
        for image in dataset.images_of(label):
            own = counts[image.split]
            own[label] = own.get(label, 0) + 1
    target: dict[str, Any] = {"dataset": kind, "root": str(root), "on_corrupt": "skip"}
    target |= {"val_from": "budget", "val_share": VALIDATION_SHARE, "on_short": "cap"}
    given: Split | None = next((part for part in ("test", "val") if counts[part]), None)
    pools = counts["train"]
    if given is None:
        share = min(1 / 3, max(TEST_SHARE, LEAST_TEST / min(pools.values())))
        target["test_per_class"] = share = round(share, 4)
        held_back = {k: max(1, math.floor(share * n + 0.5)) for k, n in pools.items()}
        test = sum(held_back.values())
        words = f"{100 * share:.0f} % of each class are held back for the test"
        smallest = min(n - held_back[k] for k, n in pools.items())
        train = sum(pools.values()) - test
    else:
        if given == "val":
            target["test_from"] = "val"
            words = "val/ is the test set, as there is no test/"
        else:
            words = "test/ is the test set"
            pools = {k: n + counts["val"].get(k, 0) for k, n in pools.items()}
        test, train = sum(counts[given].values()), sum(pools.values())
        smallest = min(pools.values())
    words += f"; {100 * VALIDATION_SHARE:.0f} % of the rest choose the recipe, then train too"
    return Photographs(target, len(dataset.classes), train, test, smallest, words)
