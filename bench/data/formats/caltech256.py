"""Caltech-256: a folder per category, and a 257th of clutter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Option, Options

# The archive also has 056.dog/greg/… and 198.spider/RENAME2, which are no images of the set.
_IMAGE = re.compile(r"(\d{3}\.[^/]+)/\d{3}_\d{4}\.jpg")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    for path in tree.spans:
        found = _IMAGE.fullmatch(path)
        if found and (options["clutter"] or not found[1].startswith("257.")):
            yield Entry(path, found[1])


CALTECH256 = Format(
    name="caltech-256",
    title="Caltech-256",
    read=_read,
    expected="256_ObjectCategories/ with 001.ak47/001_0001.jpg to 257.clutter/, or "
    "256_ObjectCategories.tar",
    marks=("001.*",),
    folders=("[0-9][0-9][0-9].*",),
    archives=(Archive("256_ObjectCategories.tar", gives="256_ObjectCategories/"),),
    inner=("256_ObjectCategories",),
    guesses=("256_ObjectCategories", "caltech-256", "caltech256/256_ObjectCategories"),
    counts=lambda options: (
        Counts(257, {"train": 30_607}) if options["clutter"] else Counts(256, {"train": 29_780})
    ),
    options={"clutter": Option(False, "257.clutter is a class too")},
    classes="256, with clutter 257",
    images="29,780, with clutter 30,607",
    splits="none",
    used_for="GE: target; CHU: target",
    where="https://data.caltech.edu/records/nyy15-4j048",
    licence="CC BY 4.0, says the record",
)
