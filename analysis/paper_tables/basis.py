"""What measured runs are to a paper's own: the same protocol on its data, or on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pandas as pd

from analysis.paper_tables.cells import NONE, Arm, Words, phrase, words_of

OTHER_DATA = "the protocol on other data"
OTHER_NETWORK = "the protocol on another network"
OTHER_SETTINGS = "the paper's data and network, other settings"
SAME = "the paper's data and network"

_MOST = 3


@dataclass(frozen=True)
class Basis:
    """`text` is one of this module's four; `details` says in what runs differ from the paper's."""

    text: str
    details: tuple[str, ...]


def basis_of(rows: pd.DataFrame, standard: Mapping[str, Words], arms: Sequence[Arm] = ()) -> Basis:
    """How the runs differ from the paper's.

    Args:
        rows: of a prepared leaderboard.
        standard: column to patterns of the words that the paper's protocol has; `data` and `model`
            must be among its columns or those of `arms`.
        arms: conditions that chose the rows: the first word of one goes before the standard's.

    >>> rows = pd.DataFrame({"dataset": ["digits"], "target": ["all"], "epochs": [5]})
    >>> basis_of(rows, {"data": ("stanford-40 *",), "model": ("*",), "epochs": ("100",)})
    Basis(text='the protocol on other data', details=('digits all', '5 epochs'))
    """
    allowed = dict(standard)
    for column in ("data", "model", "image_size", "source_classes"):
        own = tuple(w[0] for one in arms for name, w in one.where if name == column)
        if own:
            allowed[column] = own
    if not {"data", "model"} <= set(allowed):
        raise ValueError("what the paper's data and network are is not said")
    differ: dict[str, list[str]] = {}
    for column, patterns in allowed.items():
        if column != "data" and column not in rows.columns:
            continue
        words = dict.fromkeys(words_of(rows, column))
        others = [w for w in words if not any(fnmatchcase(w, p) for p in patterns)]
        if others:
            differ[column] = others
    details = tuple(_say(column, words) for column, words in differ.items())
    if "data" in differ:
        return Basis(OTHER_DATA, details)
    if "model" in differ:
        return Basis(OTHER_NETWORK, details)
    return Basis(OTHER_SETTINGS if differ else SAME, details)


def _say(column: str, words: Sequence[str]) -> str:
    if list(words) == [NONE]:
        return phrase(column, NONE)
    known = [word for word in words if word != NONE]
    shown = " and ".join(known[:_MOST])
    more = f" and {len(known) - _MOST} more" if len(known) > _MOST else ""
    return phrase(column, shown + more)
