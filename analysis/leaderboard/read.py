"""A leaderboard as the analyses need it: checked, with the pattern taken apart and tasks named.

Every setting that differs among the runs has a column (`bench.results.leaderboard.describe`), so
two rows are runs of one condition exactly where all those columns are equal but for seeds and class
draws. A run that diverged has an outcome: it counts at chance, and `status` still says so. A run
whose training never left chance, or that starts from one, is evidence for nothing: its status here
is `not converged`, so that it takes part in no comparison (LI Fig. 12c marks such runs).
"""

from __future__ import annotations

import functools
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.leaderboard.checks import WHICH_FILE, check, line_of, once, read_cells
from analysis.leaderboard.earlier import described
from bench.core.errors import BenchError, DataError
from bench.core.paths import read_regular
from bench.core.tables import utf8_text
from bench.results.aggregate import REPETITION_COLUMNS
from bench.results.conditions import is_repetition
from bench.results.records import COLUMNS
from bench.specs.pattern import LayerPattern

MAX_BYTES = 500_000_000
TEXTS = (
    *("experiments", "grid", "role", "source", "source_kind", "source_side", "source_origin"),
    *("source_pattern", "dataset", "target", "views", "train_where", "model", "pattern", "method"),
    *("method_options", "borrowed", "tuned", "condition_id", "recipe_id", "task_id", "run_id"),
    *("parent_id", "target.classes.names", "source.classes.names"),
)
"""Columns of text, in which 007 is no number and 12e34567 an id."""
_FIXED = tuple(c.name for c in COLUMNS)
_FACTORS = tuple(c.name for c in COLUMNS if c.kind == "factor")
_COUNTED = ("source_classes", "target_classes")
"""Counts of what a selection gives; the selections themselves are settings."""
SEEDS = ("seed_draw", "seed_init", "seed_order")
PATTERN = ("pattern",)
"""What differs when the pattern differs: nothing else."""
COPIED = (
    *("copied_lr_factor", "tuned", "layer_lr_decay", "l2_sp"),
    *("train.unfreeze_every", "train.lora_*", "train.copied_statistics", "train.head"),
)
"""Options of copied and tuned layers; without such layers they mean nothing."""
SOURCE = ("source", "source_*", "source.*", "weights.*")
"""What differs when the source differs; another source may have been trained for longer."""
LOSS = ("method", "method_options", "method.*", "borrowed", "borrowed_*", "borrow*", "bank.*")
"""What differs when the loss is built differently."""
NOT_CONVERGED = "not converged"
"""Status of runs that learned nothing, and of those that start from them."""
SIZES = (
    "images_per_class",
    "epochs",
    "batch_size",
    "target_classes",
    "target.classes.take",
    "train.step_epochs",
    "train.step_iterations",
    "train.warmup_epochs",
)
"""Numbers of images and classes of one draw, and the schedules that go with them: what a claim is
averaged over within a task, in equal pairs."""
ADDED = ("depth", "reinit", "frozen", "treatment", "n_per_class", "task", "seed")
"""Columns that `prepare` adds."""


def read(path: Path) -> pd.DataFrame:
    """A leaderboard from its CSV; empty cells are missing, the word none is a word.

    Raises:
        DataError: when the file is absent, is no leaderboard or holds no row.
    """
    try:
        raw = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise DataError("there is no such leaderboard", place=str(path), hint=WHICH_FILE) from None
    except OSError as error:
        raise DataError(
            f"cannot read the leaderboard: {error.strerror}", place=str(path), hint=WHICH_FILE
        ) from None
    return parse(utf8_text(raw, str(path), DataError, wanted=WHICH_FILE), str(path))


def parse(text: str, place: str | None = None) -> pd.DataFrame:
    """A leaderboard from the text of its CSV, see `read`.

    What is odd about its rows stands in `attrs["notes"]` (`analysis.leaderboard.checks.once`).

    >>> parse("status,pattern\\n")
    Traceback (most recent call last):
        ...
    bench.core.errors.DataError: this is not a leaderboard: it has no column dataset, target, …
      give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one
    """
    check(read_cells(text, place), place)
    table = pd.read_csv(
        io.StringIO(text, newline=""),
        keep_default_na=False,
        na_values=[""],
        dtype=dict.fromkeys(TEXTS, object),
        low_memory=False,
    )
    rows, notes = once(table, place)
    board = prepare(rows, place)
    board.attrs["notes"] = [*notes, *board.attrs.get("notes", [])]
    return board


def prepare(board: pd.DataFrame, place: str | None = None) -> pd.DataFrame:
    """The leaderboard with columns added that the analyses use; every row is kept.

    Added: `depth` layers of the pattern, `reinit` random layers at its end, `frozen` layers frozen
    from the first on, `treatment` (tune, freeze, partly or scratch), `n_per_class` training images
    per class, `task` (its id; in leaderboards without one data set, target and class draw, of a
    folder or a manifest the grid too), `seed` (all seeds of the run and of its sources). Runs that
    diverged get the accuracies of guessing.

    Args:
        board: rows as `bench.results.leaderboard.rows` gives them, or from its CSV.

    Raises:
        DataError: naming the columns that are absent or hold what they cannot; also for an empty
            leaderboard.
    """
    check(board, place)
    result, notes = described(board)
    for name in (*_FACTORS, "grid", "experiments", "role", "parent_id", "run_id"):
        if name not in result.columns:
            result[name] = None
    for name in ("top1_accuracy", "val_top1_accuracy"):
        if name not in result.columns:
            result[name] = None
        result[name] = pd.to_numeric(result[name]).astype(float)
    parts = _pattern_parts(result["pattern"], place)
    for name in ("depth", "reinit", "frozen", "treatment"):
        result[name] = [part[name] for part in parts]
    result["n_per_class"] = [_per_class(row) for row in result.to_dict("records")]
    result["task"] = _tasks(result)
    result["seed"] = key_of(result, repetition_columns(result))
    lost = _at_chance(result)
    if "not_converged" in result.columns:
        stuck = result["not_converged"].notna() & (result["status"] == "done")
        result.loc[stuck, "status"] = NOT_CONVERGED
    if lost:
        notes.append(f"{lost} diverged runs have no number of classes, so no chance to count at")
    # One text: pandas copies attributes in depth with every operation.
    result.attrs = {"notes": notes, "varying": "\n".join(_several(result))}
    return result


def with_not_converged(board: pd.DataFrame) -> pd.DataFrame:
    """The board of `prepare` with the runs that learned nothing counted as any other."""
    result = board.copy()
    result.loc[result["status"] == NOT_CONVERGED, "status"] = "done"
    return result


_GUESSED = ("mean_class_accuracy", "mean_average_precision")
"""Shares that guessing among equally frequent classes brings to one by their number."""
_VERIFIED = "tar_at_far_"


def _at_chance(board: pd.DataFrame) -> int:
    """Give diverged runs the accuracies of guessing; return how many have no number of classes."""
    away = board["status"] == "diverged"
    if not away.any():
        return 0
    if "target_classes" not in board.columns:
        return int(away.sum())
    chance = 1 / pd.to_numeric(board.loc[away, "target_classes"]).astype(float)
    for name in ("top1_accuracy", "val_top1_accuracy"):
        if name in board.columns:
            board[name] = board[name].astype(float)
            board.loc[away, name] = chance
    # Chance stands for diverged runs beside results, not where no run has the metric at all.
    beside = key_of(board, [n for n in ("dataset", "target", "verification") if n in board.columns])
    for name in [str(n) for n in board.columns if str(n).startswith((*_GUESSED, _VERIFIED))]:
        board[name] = pd.to_numeric(board[name]).astype(float)
        known = set(beside[board[name].notna() & (board["status"] == "done")])
        filled = away & beside.isin(known)
        if name.startswith(_VERIFIED):  # of pairs of one identity chance accepts as many as others
            board.loc[filled, name] = float(name.removeprefix(_VERIFIED))
        else:
            board.loc[filled, name] = chance[filled[away]]
    return int(chance.isna().sum())


def _tasks(board: pd.DataFrame) -> pd.Series[str]:
    names = [board[name].map(_word) for name in ("dataset", "target", "class_draw")]
    task = names[0] + " " + names[1] + " " + names[2]
    own = board["dataset"].isin(["folder", "manifest"]) & board["grid"].notna()
    task = task.where(~own, task + " of " + board["grid"].map(_word))
    if "task_id" not in board.columns:
        return task
    return board["task_id"].where(board["task_id"].notna(), task).astype(str)


def finished(board: pd.DataFrame, metric: str = "top1_accuracy") -> pd.Series[bool]:
    """Rows with an outcome: done, or diverged and so at chance."""
    return board["status"].isin(["done", "diverged"]) & board[metric].notna()


# --- columns ------------------------------------------------------------------------------------


def factors(board: pd.DataFrame) -> list[str]:
    """The columns that say what a run is, repetitions included: fixed ones, then dotted ones.

    Counts of classes are settings only where the leaderboard has no ids: with them, the selections
    that they come from have columns.
    """
    known = "condition_id" in board.columns and board["condition_id"].notna().any()
    fixed = [n for n in _FACTORS if n in board.columns and not (known and n in _COUNTED)]
    dotted = [str(n) for n in board.columns if "." in str(n) and n not in _FIXED]
    return [*(["grid"] if "grid" in board.columns else []), *fixed, *dotted]


def varying(board: pd.DataFrame) -> list[str]:
    """The factors that have more than one value in the leaderboard that these rows are of."""
    known = board.attrs.get("varying")
    if known is None:
        return _several(board)
    return known.split("\n") if known else []


def _several(board: pd.DataFrame) -> list[str]:
    return [n for n in factors(board) if len(set(map(_word, board[n].tolist()))) > 1]


def repetition(name: str) -> bool:
    """Whether a column tells repetitions of one condition apart: a seed or a class draw."""
    return name in REPETITION_COLUMNS or ("." in name and is_repetition(name))


def repetition_columns(board: pd.DataFrame) -> list[str]:
    """The columns of seeds, those of sources included; draws of classes belong to the task."""
    return [n for n in factors(board) if repetition(n) and not n.endswith("class_draw")]


def varies(name: str, named: Collection[str]) -> bool:
    """Whether a column is among those that a comparison names; `source.*` names all below.

    >>> varies("source.train.lr", SOURCE), varies("train.lr", SOURCE)
    (True, False)
    """
    starts = tuple(text[:-1] for text in named if text.endswith("*"))
    return name in named or (bool(starts) and name.startswith(starts))


def key_of(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series[str]:
    """The cells of each row as one text; equal numbers give equal text whatever their type."""
    if not columns:
        return pd.Series("", index=frame.index, dtype=object)
    words = [words_of(frame[name]) for name in columns]
    return pd.Series(["|".join(row) for row in zip(*words, strict=True)], frame.index, dtype=object)


def words_of(column: pd.Series[Any]) -> list[str]:
    """Each cell as a text, as `key_of` has it.

    >>> words_of(pd.Series([1.0, 0.5, None]))
    ['1', '0.5', '-']
    """
    return list(map(_word, column.tolist()))


def differ_within(words: Sequence[str], groups: Sequence[str]) -> bool:
    """Whether some group has two words; both have an entry for each row.

    >>> differ_within(["a", "b", "b"], ["x", "y", "y"]), differ_within(["a", "b"], ["x", "x"])
    (False, True)
    """
    first: dict[str, str] = {}
    return any(first.setdefault(g, w) != w for g, w in zip(groups, words, strict=True))


def _word(value: Any) -> str:
    """A cell as text that does not depend on whether its column holds whole or broken numbers."""
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.12g}"
    return str(value)


def _pattern_parts(patterns: pd.Series[Any], place: str | None) -> list[dict[str, Any]]:
    parts = []
    for n, text in enumerate(patterns):
        try:
            parts.append(_parts_of("" if text is None or text != text else str(text)))
        except BenchError as error:
            where = line_of(patterns.iloc[n:], place, isinstance(patterns.index, pd.RangeIndex))
            raise DataError(error.message, place=where, hint=error.hint) from None
    return parts


@functools.lru_cache(maxsize=4096)
def _parts_of(text: str) -> dict[str, Any]:
    pattern = LayerPattern.parse(text)
    kinds = [pattern.kind(layer) for layer in range(1, pattern.depth + 1)]
    copied = len("".join(kinds).rstrip("R"))
    treatments = {("T",): "tune", ("F",): "freeze", (): "scratch"}
    treatment = treatments.get(tuple(sorted(set(kinds[:copied]))), "partly")
    return {
        "depth": pattern.depth,
        "reinit": pattern.depth - copied,
        "frozen": pattern.frozen_prefix,
        "treatment": treatment,
    }


def _per_class(row: Mapping[Any, Any]) -> float | None:
    """Images per class asked for; where all were taken, the mean over the classes."""
    asked = row.get("images_per_class")
    if asked is not None and asked == asked:
        return float(asked)
    images, classes = row.get("train_images"), row.get("target_classes")
    if not images or not classes or images != images or classes != classes:
        return None
    return float(images) / float(classes)
