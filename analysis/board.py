"""A leaderboard as the analyses need it: checked, with the pattern taken apart, and in pairs.

A pair is two finished runs that are equal in every factor except those that are meant to vary. The
learning rate is either one of the equal factors (`lr="same"`) or chosen for each arm by validation
accuracy (`lr="best"`), never by test accuracy.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.board_checks import WHICH_FILE, check, once
from analysis.statistics import Estimate, interval
from bench.errors import BenchError, DataError
from bench.records import COLUMNS
from bench.spec import LayerPattern

__all__ = [
    "ADDED",
    "FACTORS",
    "PATTERN_FACTORS",
    "SEEDS",
    "SOURCE_FACTORS",
    "Pairs",
    "best_lr",
    "key_of",
    "options",
    "pair",
    "parse",
    "prepare",
    "read",
    "summarise",
]

FACTORS = ("grid", *(c.name for c in COLUMNS if c.kind == "factor"))
"""What must be equal in a pair. A leaderboard does not hold every option of a run, so runs of two
grids are never paired: `grid` is the file that a row comes from, empty for a single one."""
SEEDS = ("seed_draw", "seed_init", "seed_order")
SOURCE_FACTORS = ("source", "source_classes", "source_epochs")
"""What differs when the source differs; another source may have been trained for longer."""
PATTERN_FACTORS = ("pattern", "copied_lr_factor")
"""What differs when the pattern differs: a factor for copied layers means nothing without any."""
LrRule = Literal["same", "best"]


def read(path: Path) -> pd.DataFrame:
    """A leaderboard from its CSV; empty cells are missing, the word none is a word.

    Raises:
        DataError: when the file is absent, is no leaderboard or holds no row.
    """
    if not path.is_file():
        raise DataError("there is no such leaderboard", place=str(path), hint=WHICH_FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError("this is not a text file", place=str(path), hint=WHICH_FILE) from None
    return parse(text, str(path))


def parse(text: str, place: str | None = None) -> pd.DataFrame:
    """A leaderboard from the text of its CSV, see `read`.

    What is odd about its rows stands in `attrs["notes"]` (`analysis.board_checks.once`).

    >>> parse("status,pattern\\n")
    Traceback (most recent call last):
        ...
    bench.errors.DataError: this is not a leaderboard: it has no column dataset, target, …
      give the CSV that bench grid wrote (results/GRID.csv), not the aggregated one
    """
    try:
        table = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:
        raise DataError("the file is empty", place=place, hint=WHICH_FILE) from None
    except (pd.errors.ParserError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"this is no CSV table: {reason}", place=place, hint=WHICH_FILE) from None
    rows, notes = once(table, place)
    board = prepare(rows, place)
    board.attrs["notes"] = notes
    return board


def prepare(board: pd.DataFrame, place: str | None = None) -> pd.DataFrame:
    """The leaderboard with columns added that the analyses use; every row is kept.

    Added: `depth` layers of the pattern, `reinit` random layers at its end, `frozen` layers frozen
    from the first on, `treatment` (tune, freeze, partly or scratch), `n_per_class` training images
    per class, `task` (data set, target and class draw; of a folder or a manifest the grid too,
    since the leaderboard does not say whose images they are).

    Raises:
        DataError: naming the columns that are absent or hold what they cannot; also for an empty
            leaderboard.
    """
    check(board, place)
    result = board.copy()
    for name in (*FACTORS, "experiments", "role", "top1_accuracy", "val_top1_accuracy"):
        if name not in result.columns:
            result[name] = None
    parts = [_pattern_parts(text, place) for text in result["pattern"]]
    for name in ("depth", "reinit", "frozen", "treatment"):
        result[name] = [part[name] for part in parts]
    result["n_per_class"] = [_per_class(row) for row in result.to_dict("records")]
    tasks = [result[name].map(_word) for name in ("dataset", "target", "class_draw")]
    result["task"] = tasks[0] + " " + tasks[1] + " " + tasks[2]
    own = result["dataset"].isin(["folder", "manifest"]) & result["grid"].notna()
    if own.any():
        result.loc[own, "task"] += " of " + result.loc[own, "grid"].map(_word)
    return result


ADDED = ("depth", "reinit", "frozen", "treatment", "n_per_class", "task")
"""Columns that `prepare` adds."""


def _word(value: Any) -> str:
    """A cell as text that does not depend on whether its column holds whole or broken numbers."""
    if value is None or value != value:
        return "-"
    return f"{value:.12g}" if isinstance(value, (int, float)) else str(value)


def _pattern_parts(text: Any, place: str | None) -> dict[str, Any]:
    try:
        pattern = LayerPattern.parse(str(text))
    except BenchError as error:
        raise DataError(error.message, place=place) from None
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


def options(text: Any) -> dict[str, str]:
    """The options of a method as the leaderboard writes them, name=value joined by ;.

    >>> options("alpha=0;k0=20")
    {'alpha': '0', 'k0': '20'}
    """
    if not isinstance(text, str) or not text:
        return {}
    return dict(part.split("=", 1) for part in text.split(";") if "=" in part)


def best_lr(board: pd.DataFrame) -> pd.DataFrame:
    """Finished rows at the learning rate with the best validation accuracy of their condition.

    A condition is everything but the learning rate, seeds and class draws. Validation decides, so
    the test accuracies of the rows kept are not optimistic. Rates are compared on the repetitions
    that all of them finished, where there are any; equal means go to the smaller rate.

    Raises:
        DataError: when a condition with several rates has no validation accuracy.
    """
    done = board[(board["status"] == "done") & board["top1_accuracy"].notna()]
    runs = _runs(done, "top1_accuracy")
    conditions: dict[tuple[str, ...], list[_Run]] = {}
    for run in runs:
        conditions.setdefault(run.words(_CONDITION), []).append(run)
    kept = {r.place for group in conditions.values() for r in _at_best(group)}
    return done[[place in kept for place in range(len(done))]]


@dataclass(frozen=True)
class _Run:
    """A finished run: its place in its arm, its factors as words, its metric and validation."""

    place: int
    factors: Mapping[str, str]
    value: float
    validation: float | None

    def words(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.factors[name] for name in names)


_REPETITION = ("class_draw", *SEEDS)
_CONDITION = tuple(name for name in FACTORS if name not in ("lr", *_REPETITION))


def _runs(frame: pd.DataFrame, metric: str) -> list[_Run]:
    columns = [[_word(value) for value in frame[name]] for name in FACTORS]
    validations = [None if v is None or v != v else float(v) for v in frame["val_top1_accuracy"]]
    values = [float(v) for v in frame[metric]]
    rows = zip(zip(*columns, strict=True), values, validations, strict=True)
    return [
        _Run(place, dict(zip(FACTORS, words, strict=True)), value, validation)
        for place, (words, value, validation) in enumerate(rows)
    ]


def _at_best(runs: Sequence[_Run], allowed: Collection[str] | None = None) -> list[_Run]:
    """The runs of one condition at their best rate, among the allowed ones."""
    by_rate: dict[str, list[_Run]] = {}
    for run in runs:
        rate = run.factors["lr"]
        if allowed is None or rate in allowed:
            by_rate.setdefault(rate, []).append(run)
    if len(by_rate) < 2:
        return [run for group in by_rate.values() for run in group]
    repetitions = [{run.words(_REPETITION) for run in group} for group in by_rate.values()]
    shared = set.intersection(*repetitions) or set.union(*repetitions)

    def mean(rate: str) -> float:
        found = [r.validation for r in by_rate[rate] if r.words(_REPETITION) in shared]
        known = [v for v in found if v is not None]
        if len(known) < len(found):
            raise DataError(
                "no validation accuracy to choose a learning rate by",
                hint="give val_per_class in the grid, or compare at equal learning rates",
            )
        return sum(known) / len(known)

    return by_rate[min(by_rate, key=lambda rate: (-mean(rate), float(rate)))]


def key_of(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series[str]:
    """The cells of each row as one text; equal numbers give equal text whatever their type."""
    words = [frame[name].map(_word) for name in columns]
    key = words[0].astype(str)
    for word in words[1:]:
        key = key + "|" + word
    return key


@dataclass(frozen=True)
class Pairs:
    """Pairs of finished runs, all else equal.

    Attributes:
        frame: the left run's columns, with `left`, `right` (the metric), `difference`, `seed`,
            and both sides' validation accuracies `left_val`, `right_val` (NaN: not known).
        unpaired: finished left runs without a partner.
        unfinished: rows of either arm without a result: diverged, failed, blocked or missing.
    """

    frame: pd.DataFrame
    unpaired: int
    unfinished: int

    def __len__(self) -> int:
        return len(self.frame)


def pair(
    board: pd.DataFrame,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    metric: str = "top1_accuracy",
    lr: LrRule = "same",
) -> Pairs:
    """Pairs each left run with the right runs that are equal in every factor not in `vary`.

    Args:
        board: from `prepare`.
        left, right: which rows are the arms.
        vary: factor columns that may differ. Several right runs for one left run are averaged.
        lr: `best` compares each arm at its own best learning rate, by validation; both choose
            among the rates that both tried, so that neither was tuned harder, and among their own
            where they have none in common.

    >>> rows = [dict(status="done", dataset="d", target="t", class_draw=0, source=s, model="m",
    ...     pattern="T(1-7)R(8)", method="plain", top1_accuracy=a) for s, a in
    ...     (("near", 0.5), ("far", 0.4))]
    >>> board = prepare(pd.DataFrame(rows))
    >>> found = pair(board, board.source == "near", board.source == "far", SOURCE_FACTORS)
    >>> round(float(found.frame.difference.iloc[0]), 6)
    0.1
    """
    unknown = [name for name in vary if name not in FACTORS]
    if unknown:
        raise DataError(f"{', '.join(unknown)} is not a factor of a leaderboard")
    if metric not in board.columns:
        raise DataError(f"the leaderboard has no column {metric}")
    finished = (board["status"] == "done") & board[metric].notna()
    unfinished = int(((left | right) & ~finished).sum())
    frame = board[finished & left]
    arms = _runs(frame, metric), _runs(board[finished & right], metric)
    keys = [n for n in FACTORS if n not in vary]
    if lr == "best":
        keys.remove("lr")
        arms = _tuned_alike(*arms, [n for n in keys if n not in _REPETITION])
    partners: dict[tuple[str, ...], list[_Run]] = {}
    for run in arms[1]:
        partners.setdefault(run.words(keys), []).append(run)
    matched = [(run, partners[run.words(keys)]) for run in arms[0] if run.words(keys) in partners]
    rows = frame.iloc[[run.place for run, _ in matched]]
    values = [run.value for run, _ in matched], [_mean([o.value for o in v]) for _, v in matched]
    pairs = _with_values(rows, *values)
    pairs["left_val"] = np.array([_or_nan(run.validation) for run, _ in matched])
    pairs["right_val"] = np.array([_mean([_or_nan(o.validation) for o in v]) for _, v in matched])
    return Pairs(pairs, len(arms[0]) - len(matched), unfinished)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _tuned_alike(
    left: Sequence[_Run], right: Sequence[_Run], shared: Sequence[str]
) -> tuple[list[_Run], list[_Run]]:
    """Each condition of either arm at its best rate among those that both arms tried."""
    rates: tuple[dict[tuple[str, ...], set[str]], ...] = ({}, {})
    for side, runs in zip(rates, (left, right), strict=True):
        for run in runs:
            side.setdefault(run.words(shared), set()).add(run.factors["lr"])
    chosen: tuple[list[_Run], list[_Run]] = ([], [])
    for kept, runs in zip(chosen, (left, right), strict=True):
        conditions: dict[tuple[str, ...], list[_Run]] = {}
        for run in runs:
            conditions.setdefault(run.words(_CONDITION), []).append(run)
        for group in conditions.values():
            both = set.intersection(*(side.get(group[0].words(shared), set()) for side in rates))
            own = {run.factors["lr"] for run in group}
            kept += _at_best(group, (both & own) or None)
    for kept in chosen:
        kept.sort(key=lambda run: run.place)
    return chosen


def _with_values(frame: pd.DataFrame, left: list[float], right: list[float]) -> pd.DataFrame:
    result = frame.copy()
    result["left"], result["right"] = left, right
    result["difference"] = [a - b for a, b in zip(left, right, strict=True)]
    result["seed"] = key_of(frame, SEEDS) if len(frame) else []
    return result.reset_index(drop=True)


def summarise(frame: pd.DataFrame, column: str, name: str) -> Estimate:
    """Mean of a column over pairs, with the interval that the repetitions allow.

    Pairs of one task, source and seed (other images per class, other patterns, …) are averaged
    first: they share their random draws and are no repetitions of each other. Sources are never
    averaged: where the frame says which `source` a row has, each pair of source and target is a
    unit of its own; of several units the interval is over units, so that disagreement widens it.

    Raises:
        DataError: without a pair.
    """
    if frame.empty:
        raise DataError(f"no pairs for {name}", hint="run the experiments it needs first")
    groups: dict[str, list[float]] = {}
    units = key_of(frame, ["task", "source"] if "source" in frame.columns else ["task"])
    means = frame.groupby([units.to_numpy(), frame["seed"].to_numpy()], sort=True)[column].mean()
    for unit, mean in zip(means.index.get_level_values(0), means, strict=True):
        groups.setdefault(str(unit), []).append(float(mean))
    found = interval(groups, name)
    tasks = frame["task"].nunique()
    if len(groups) == tasks:
        return found
    alone = "one target: other classes were not tried" if tasks == 1 else ""
    note = "; ".join(text for text in (alone, found.note) if text)
    return replace(found, unit="source-target pair", note=note)
