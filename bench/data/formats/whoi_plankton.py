"""WHOI-Plankton: a folder per year, in it a folder per class.

2006/Akashiwo/IFCB1_2006_158_000036_00123.png
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Option, Options

_YEARS = tuple(str(year) for year in range(2006, 2015))
_IMAGE = re.compile(r"(20\d\d)/([^/]+)/([^/]+)_\d+\.png")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    years = options["years"]
    seen: set[str] = set()
    for path in tree.spans:
        found = _IMAGE.fullmatch(path)
        if found and isinstance(years, tuple) and found[1] in years:
            seen.add(found[1])
            yield Entry(path, found[2], group=found[3] if options["group"] == "sample" else None)
    missing = [year for year in years if year not in seen] if isinstance(years, tuple) else []
    if missing and not options["partial"]:
        raise tree.wrong(
            f"the years {', '.join(missing)} are missing (options: years: [...] takes some of them)"
        )


WHOI_PLANKTON = Format(
    name="whoi-plankton",
    title="WHOI-Plankton",
    read=_read,
    expected="2006/ to 2014/ with a folder of *.png per class each, or 2006.zip to 2014.zip",
    marks=("20[01][0-9]/*/IFCB*.png",),
    folders=("20[01][0-9]",),
    archives=tuple(Archive(f"{year}.zip", gives=f"{year}/") for year in _YEARS),
    guesses=("whoi-plankton", "WHOI-Plankton"),
    counts=lambda options: Counts(103 if options["years"] == _YEARS else None),
    options={
        "years": Option(_YEARS, "which years", _YEARS),
        "group": Option(
            "none", "sample: images of one water sample stay in one split", ("none", "sample")
        ),
    },
    classes="103 (CHU uses 34)",
    images="about 3.4 million",
    splits="none",
    used_for="CHU: target (50 validation, 85 test per class)",
    where="https://hdl.handle.net/10.1575/1912/7341",
    licence="see the record; cite Orenstein et al. 2015",
)
