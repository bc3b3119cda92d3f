"""Moorea Labeled Corals: photographs with labelled points; an image is a patch around a point.

A photograph has a text beside it: `2008/mcr_lter1_….jpg` and `2008/mcr_lter1_….jpg.txt`.

    # Row; Col; Label
    671; 217; Sand

Nine labels are the data set's classes; the others are rare. Their spelling differs in upper and
lower case between years. CHU does not state the size of a patch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.data.files.files import is_image
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Option, Options

_NINE = ("CCA", "Turf", "Macro", "Sand", "Acrop", "Pavon", "Monti", "Pocill", "Porit")
_NAME = {name.lower(): name for name in _NINE}
_YEARS = ("2008", "2009", "2010")
_PHOTO = re.compile(r"(?:.*/)?(20\d\d)/([^/]+)")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    years = options["years"]
    seen: set[str] = set()
    texts = [path for path in tree.spans if path.endswith(".txt") and is_image(path[:-4])]
    photos = {path for path in tree.spans if is_image(path)}
    alone = sorted(path for path in photos if f"{path}.txt" not in tree.spans)
    if alone and not options["partial"]:
        raise tree.wrong(f"{len(alone)} photographs have no {alone[0]}.txt beside them")
    for text in texts:
        found = _PHOTO.fullmatch(text.removesuffix(".txt"))
        if found and isinstance(years, tuple) and found[1] in years:
            seen.add(found[1])
            yield from _patches(tree, text, f"{found[1]}/{found[2]}", options)
    missing = [year for year in years if year not in seen] if isinstance(years, tuple) else []
    if missing and not options["partial"]:
        raise tree.wrong(f"year {missing[0]} is missing")


def _patches(tree: Tree, text: str, photo: str, options: Options) -> Iterator[Entry]:
    side = int(options["patch"])  # type: ignore[arg-type]
    seen: set[str] = set()
    for number, line in tree.lines(text):
        if line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(";")]
        if len(fields) < 3 or not (fields[0].isdigit() and fields[1].isdigit() and fields[2]):
            raise tree.wrong(f"{line!r} is not <row>; <column>; <label>", text, number)
        row, column, label = int(fields[0]), int(fields[1]), fields[2].lower()
        key = f"{photo}@{row:04d},{column:04d}"
        if (options["labels"] == "nine" and label not in _NAME) or key in seen:
            continue  # a point drawn twice counts with its first label
        seen.add(key)
        left, top = column - side // 2, row - side // 2
        yield Entry(
            text.removesuffix(".txt"),
            _NAME.get(label, label.capitalize()),
            key=key,
            group=photo if options["group"] == "photo" else None,
            crop=(left, top, left + side, top + side),
        )


MOOREA = Format(
    name="moorea-corals",
    title="Moorea Labeled Corals",
    read=_read,
    expected="2008/, 2009/ and 2010/ with *.jpg and *.jpg.txt (row; column; label) each, or the "
    "zips of the three years",
    marks=("20[01][0-9]/mcr_lter*", "MCR_LTER_ComputerVision_LabeledCorals_*"),
    folders=("20[01][0-9]", "MCR_LTER_*", "knb-lter-mcr*"),
    archives=(Archive("MCR_LTER_ComputerVision_LabeledCorals_*.zip", gives="", into="{stem}"),),
    guesses=("moorea-corals", "moorea_labeled_corals", "MLC", "knb-lter-mcr.5006.3"),
    counts=lambda options: Counts(9 if options["labels"] == "nine" else None),
    options={
        "patch": Option(224, "side of a patch in pixels of the photograph"),
        "labels": Option("nine", "the nine classes, or all labels", ("nine", "all")),
        "years": Option(_YEARS, "which years", _YEARS),
        "group": Option(
            "none", "photo: patches of one photograph stay in one split", ("none", "photo")
        ),
    },
    classes="9 (CHU uses 8)",
    images="about 380,000 points in 2,055 photographs",
    splits="none",
    used_for="CHU: target (50 validation, 300 test per class)",
    where="https://portal.edirepository.org/nis/mapbrowse?scope=knb-lter-mcr&identifier=5006",
    licence="CC BY 4.0",
)
