"""What the four papers leave open, and how it is read here: the question, the option, the default.

Method options and `train:` options stand in each record and, where a row's method has any, in the
leaderboard's `method_options`. Options of measurements are arguments of the functions named.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Ambiguity:
    """One point that a paper leaves open.

    Attributes:
        id: as in the register: paper, then number; CROSS for what concerns several.
        question: what is open.
        option: where to choose.
        default: what is chosen unless said otherwise.
    """

    id: str
    question: str
    option: str
    default: str


def _register() -> tuple[Ambiguity, ...]:
    text = files("analysis.papers").joinpath("ambiguities.csv").read_text(encoding="utf-8")
    return tuple(Ambiguity(**row) for row in csv.DictReader(text.splitlines()))


AMBIGUITIES = _register()
"""The register, in the papers' order."""
