"""What was laid down beside a leaderboard before it was judged: its looks, and parts of claims.

A claim may have parts that a grid was not made for, as where it has a near and a far source and the
claim is about near ones. `designed.csv` beside leaderboards names those by which the verdict is
given, so that everybody who judges them gives the same: columns `leaderboard` (its name, empty for
all of the folder), `claim`, and `parts`, a regular expression that is looked for in their names.
What is tested, and so every p, stays that of all parts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.comparisons.evidence import Evidence
from analysis.findings.looks import with_looks
from analysis.findings.parts import Part
from bench.core.errors import DataError

NAME = "designed.csv"


def as_designed(evidence: Evidence, leaderboard: Path) -> Evidence:
    """The evidence, to be judged as what lies beside its leaderboard says.

    Args:
        leaderboard: or a folder of them, which is judged on all parts of each claim.

    Raises:
        DataError: what lies there cannot be read, or does not fit together.
    """
    designed = {} if leaderboard.is_dir() else read_design(leaderboard)
    return replace(with_looks(evidence, leaderboard), designed=designed)


def read_design(leaderboard: Path) -> Mapping[str, re.Pattern[str]]:
    """By claim what the names of its parts have; a row of this leaderboard goes before one of all.

    Raises:
        DataError: the file is no such table.
    """
    path = leaderboard.with_name(NAME)
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (row["leaderboard"], row["claim"], re.compile(row["parts"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error, re.error) as error:
        raise DataError(
            f"this table of parts of claims cannot be read ({error})",
            place=str(path),
            hint="its columns: leaderboard, claim, parts (a regular expression)",
        ) from None
    found = {claim: parts for name, claim, parts in rows if not name}
    return found | {claim: parts for name, claim, parts in rows if name == leaderboard.stem}


def chosen(parts: Sequence[Part], pattern: re.Pattern[str] | None) -> Sequence[Part]:
    """The parts of a claim that decide it: those named, all where none of them is there."""
    named = [replace(part, main=True) for part in parts if pattern and pattern.search(part.name)]
    return named or parts
