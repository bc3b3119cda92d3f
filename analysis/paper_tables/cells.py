"""How a published cell is found among measured runs: which rows of a leaderboard it is about.

A condition names columns of a leaderboard and the words that they may hold, as patterns of
`fnmatch`. Of several words the first is the paper's own; the others stand in for it in the
rehearsals on other data. Nothing here reads data or computes a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import pandas as pd

from analysis.leaderboard.labels import options
from analysis.leaderboard.read import key_of

Words = tuple[str, ...]
NONE = "-"
"""The word of an empty cell."""


@dataclass(frozen=True)
class Arm:
    """The runs behind a cell.

    Attributes:
        experiment: of the grid; empty for any.
        where: column to patterns. Beside the leaderboard's columns: `data` (data set and target),
            `option_NAME` (of the method), `size` (1 for the fewest images per class among the rows
            left, 2 for the next, …) and `training` (least or most training images among them).
        role: `finetune`, or `source` for runs that others start from.
    """

    experiment: str
    where: tuple[tuple[str, Words], ...]
    role: Literal["finetune", "source"] = "finetune"


def arm(
    experiment: str,
    role: Literal["finetune", "source"] = "finetune",
    /,
    **where: str | Words,
) -> Arm:
    """An `Arm`; conditions are looked at in the order given.

    >>> arm("table-2", method="soft", model=("resnet50", "narrow8_32")).where
    (('method', ('soft',)), ('model', ('resnet50', 'narrow8_32')))
    """
    said = tuple((name, (v,) if isinstance(v, str) else v) for name, v in where.items())
    return Arm(experiment, said, role)


@dataclass(frozen=True)
class Difference:
    """The score of one arm less that of another, paired by task and seeds."""

    first: Arm
    second: Arm


@dataclass(frozen=True)
class Averaged:
    """The score of the mean of two arms' softmax outputs, paired by task and seeds (GE Table 5)."""

    first: Arm
    second: Arm


@dataclass(frozen=True)
class Distance:
    """A distance of a target from its source (CHU Table 2): a column of `Evidence.distances`."""

    data: Words
    name: Literal["cosine", "mmd", "svm", "cnn"]


@dataclass(frozen=True)
class Sensitivity:
    """Of how many classes network `a` has the better filters than `b` (LI Fig. 9), in percent.

    `runs` are those whose networks they are.
    """

    a: str
    b: str
    runs: Arm


@dataclass(frozen=True)
class Advised:
    """A cell of CHU's Table 3, by its bands."""

    distance: str
    data: str


Of = Arm | Difference | Averaged | Distance | Sensitivity | Advised


@dataclass(frozen=True)
class Cell:
    """A published cell and what is measured for it.

    Attributes:
        row, column: of `published.csv`.
        of: where to look.
        metric: a column of the leaderboard, or a name of `analysis.paper_tables.compare.COUNTS`.
        spread: the published column that holds the spread of this one, if there is one.
        class_name: of the single class whose average precision is compared, if it is one's; the
            metric is then the column that it gets.
    """

    row: str
    column: str
    of: Of
    metric: str = "top1_accuracy"
    spread: str = ""
    class_name: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A published table whose cells are measured, or a part of the text with such numbers.

    Attributes:
        name: of `published.csv`.
        title: what it is about.
        cells: in the order of the paper.
        standard: column to the words that it has in the paper's protocol; what a run has instead
            is said beside it. A condition's first word goes before these.
        experiments: of the grid, whose other runs are shown below as without a published number.
        metric: of those.
        elsewhere: published rows that no run of the harness can be beside, and why.
        note: what is to be known of the whole table.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    standard: Mapping[str, Words]
    experiments: Words = ()
    metric: str = "top1_accuracy"
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Drawn:
    """A figure whose values are only drawn in the paper: rows by columns of what was measured.

    Attributes:
        experiment: of the grid.
        rows, columns: of the leaderboard (or as in `Arm.where`), which name the matrix's sides.
        names: patterns of words, and how they are called.
        standard, note: see `PaperTable`.
    """

    name: str
    title: str
    experiment: str
    rows: Words
    columns: Words
    names: Mapping[str, str]
    standard: Mapping[str, Words]
    metric: str = "top1_accuracy"
    note: str = ""


def words_of(rows: pd.DataFrame, column: str) -> pd.Series[str]:
    """A column as words, empty cells as `NONE`; the made-up columns of `Arm.where` too.

    >>> board = pd.DataFrame({"dataset": "d", "target": "t", "method": "m", "method.k0": [20]})
    >>> words_of(board, "data")[0], words_of(board, "option_k0")[0], words_of(board, "option_x")[0]
    ('d t', '20', '-')
    """
    if column == "data":
        return key_of(rows, ["dataset"]) + " " + key_of(rows, ["target"])
    if column.startswith("option_"):
        name = column.removeprefix("option_")
        values = [options(row).get(name) for row in rows.to_dict("records")]
        return key_of(pd.DataFrame({name: pd.Series(values, rows.index, dtype=object)}), [name])
    if column == "size":
        return _ranks(rows["images_per_class"])
    if column not in rows.columns:
        return pd.Series(NONE, index=rows.index, dtype=str)
    return key_of(rows, [column])


_PHRASES = {
    "image_size": "{} pixels",
    "epochs": "{} epochs",
    "images_per_class": "{} images per class",
    "source_classes": "{} source classes",
    "target_classes": "{} classes",
    "views": "views {}",
    "lr": "lr {}",
    "frozen": "first {} layers frozen",
    "expand_to": "expanded to {}",
    "option_layer": "layer {}",
}
_EMPTY = {
    "images_per_class": "all images",
    "source_classes": "no source",
    "views": "whole images",
    "expand_to": "not expanded",
}


def phrase(column: str, word: str) -> str:
    """A word of a column (see `words_of`) as it stands in a sentence.

    >>> phrase("epochs", "5"), phrase("data", "digits all"), phrase("image_size", NONE)
    ('5 epochs', 'digits all', 'no image size')
    """
    if word == NONE:
        return _EMPTY.get(column, f"no {column.replace('_', ' ')}")
    return _PHRASES.get(column, "{}").format(word)


def _ranks(values: pd.Series[float]) -> pd.Series[str]:
    known = sorted({float(v) for v in values if v is not None and v == v})
    said = [str(known.index(float(v)) + 1) if v is not None and v == v else NONE for v in values]
    return pd.Series(said, index=values.index, dtype=str)


def rows_of(board: pd.DataFrame, which: Arm) -> pd.DataFrame:
    """The rows of a prepared leaderboard that an arm is about, finished or not.

    >>> board = pd.DataFrame({"experiments": ["a;b", "b"], "role": ["finetune", "finetune"],
    ...     "method": ["soft", "plain"]})
    >>> list(rows_of(board, arm("b", method="pl*")).index)
    [1]
    """
    rows = board[board["role"] == which.role]
    if which.experiment:
        rows = _kept(rows, [which.experiment in _names(text) for text in rows["experiments"]])
    for column, patterns in which.where:
        if column == "training":
            rows = _kept(rows, _of_size(rows["train_images"], patterns[0]))
        else:
            rows = _kept(rows, [_is_one(word, patterns) for word in words_of(rows, column)])
    return rows


def _kept(rows: pd.DataFrame, which: Sequence[bool]) -> pd.DataFrame:
    return rows[pd.Series(which, index=rows.index, dtype=bool)]


def _names(text: object) -> Sequence[str]:
    return text.split(";") if isinstance(text, str) else ()


def _is_one(word: str, patterns: Words) -> bool:
    return any(fnmatchcase(word, pattern) for pattern in patterns)


def _of_size(images: pd.Series[float], which: str) -> list[bool]:
    """Rows with the least or the most images; where no number is known, all of them."""
    known = {float(v) for v in images if v is not None and v == v}
    if not known:
        return [True] * len(images)
    if which == "most" and len(known) == 1:
        return [False] * len(images)
    wanted = max(known) if which == "most" else min(known)
    return [v == v and v is not None and float(v) == wanted for v in images]
