"""Pairs of runs that are equal in everything but what a comparison names.

Both sides of a pair are single conditions, or the same named choice over the same set: the learning
rate with the best validation accuracy among the rates that both sides tried. Pairs of one
*comparison* have the same recipe on the left and the same on the right; pairs of several are never
averaged without being named. Equality is that of all settings of the run and of its parents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.leaderboard.labels import options
from analysis.leaderboard.read import (
    SIZES,
    differ_within,
    finished,
    key_of,
    repetition,
    varies,
    varying,
    words_of,
)
from bench.core.errors import DataError

LrRule = Literal["same", "best"]
TASK = (
    "dataset",
    "target",
    "class_draw",
    "target.root",
    "target.classes.*",
    "target.options.*",
    "target.test_from",
    "target.test_per_class",
)
"""Settings that name the task."""
_RELATIVE = re.compile(
    r"(?P<data>(source|bank|borrow\d*)\.(source\.)*)"
    r"(?P<end>dataset|root|options\..+|classes\.(root|names|synset|target_n|n|source_n))"
)
"""Settings of a source that may follow from its target's task."""
_BORROWED_ROOT = re.compile(r"borrow\d*\.classes\.root")
_TARGETS = {"dataset": "dataset"}
_OF_THE_SOURCE = "classes.source_n"
"""How many classes the source has, even where it is written with the target's classes."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of runs with an outcome, all else equal.

    Attributes:
        frame: the left run's columns, with `left`, `right` (the metric), `difference`, both sides'
            validation accuracies `left_val`, `right_val` (NaN: not known), `diverged` (how many of
            the two counted at chance), `comparison` (equal for pairs of the same two recipes),
            `size` (what is averaged over within a task), `left_place` and `right_place` (the index
            of the runs on the board, of several the first), `left_runs` and `right_runs` (the
            indices of all of them), `lr_rule` and, where predictions are known, `left_correct`,
            `right_correct` (one truth value for each test image).
        unpaired: left runs without a partner.
        unfinished: rows of either arm without a result: failed, blocked or missing.
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
    """Pair each left run with the right runs that are equal in every setting not in `vary`.

    Args:
        board: from `prepare`.
        left, right: which rows are the arms.
        vary: settings that may differ, such as `analysis.leaderboard.read.SOURCE`; where methods
            differ, an option that both have (such as what BatchNorm sees) is held all the same. A
            left run whose partners are of several recipes is paired with each of them, in
            comparisons of their own; those of one recipe (seeds of a source that varies) are
            averaged.
            So are left runs that differ in what varies alone: a repetition is what is held.
        lr: `best` compares each arm at its own best learning rate, by validation; both choose
            among the rates that both tried, so that neither was tuned harder, and among their own
            where they have none in common.

    >>> from analysis.leaderboard.read import SOURCE, prepare
    >>> rows = [dict(status="done", dataset="d", target="t", class_draw=0, source=s, model="m",
    ...     pattern="T(1-7)R(8)", method="plain", top1_accuracy=a) for s, a in
    ...     (("near", 0.5), ("far", 0.4))]
    >>> board = prepare(pd.DataFrame(rows))
    >>> found = pair(board, board.source == "near", board.source == "far", SOURCE)
    >>> round(float(found.frame.difference.iloc[0]), 6)
    0.1
    """
    if metric not in board.columns:
        raise DataError(f"the leaderboard has no column {metric}")
    done = finished(board, metric)
    settings = varying(board)
    if varies("pattern", vary) and any(_all_frozen(board[done & rows]) for rows in (left, right)):
        vary = (*vary, _STATISTICS)
    held = [name for name in settings if not varies(name, vary)]
    if not varies("source", vary):
        held = [*held, "parent_id"]
    arms = [board[done & rows] for rows in (left, right)]
    if lr == "best":
        held = [name for name in held if name != "lr"]
        arms = _at_best_rates(arms, [n for n in held if not repetition(n) and n != "parent_id"])
    recipes = _recipes(arms, settings, lr)
    found, alone = _partners(arms, held, recipes, [_shared_options(arm, vary) for arm in arms])
    matched = [(sides, f"{own} − {kind}") for (_, own, kind), sides in found.items()]
    frame = _matched(arms, matched, metric, [n for n in held if repetition(n)])
    return Pairs(frame.assign(lr_rule=lr), alone, int(((left | right) & ~done).sum()))


_STATISTICS = "train.copied_statistics"
"""Of BatchNorm in tuned layers. Those of frozen ones never move, so beside a frozen network either
choice changes nothing but what is tuned."""


def _all_frozen(arm: pd.DataFrame) -> bool:
    return len(arm) > 0 and "treatment" in arm and bool((arm["treatment"] == "freeze").all())


def own_rates(
    board: pd.DataFrame, left: pd.Series[bool], right: pd.Series[bool], lr: LrRule
) -> tuple[str, ...]:
    """What else may vary where the rate belongs to the arms, as with training from scratch.

    A network that copies layers and one from scratch have rates of their own in the papers (LI
    §3). Without validation images neither can be chosen, so arms that have no rate in common are
    compared each at its own; arms that have one are compared at that.

    Returns:
        `("lr",)` or nothing, to be added to what `pair` varies.
    """
    rates = [set(board.loc[rows & finished(board), "lr"].dropna()) for rows in (left, right)]
    return ("lr",) if lr == "same" and all(rates) and not rates[0] & rates[1] else ()


def _partners(
    arms: Sequence[pd.DataFrame],
    held: Sequence[str],
    recipes: Sequence[Sequence[str]],
    shared: Sequence[Sequence[Mapping[str, Any]]],
) -> tuple[dict[tuple[str, str, str], tuple[list[int], list[int]]], int]:
    """Places of the left and the right runs by what is held and both recipes; left runs alone."""
    rights: dict[str, dict[str, list[int]]] = {}
    places = zip(key_of(arms[1], held), recipes[1], strict=True)
    for place, (key, kind) in enumerate(places):
        rights.setdefault(key, {}).setdefault(kind, []).append(place)
    found: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
    alone = 0
    places = zip(key_of(arms[0], held), recipes[0], strict=True)
    for place, (key, own) in enumerate(places):
        partners = {
            kind: others
            for kind, others in rights.get(key, {}).items()
            if _alike(shared[0][place], shared[1][others[0]])
        }
        alone += not partners
        for kind in sorted(partners):
            found.setdefault((key, own, kind), ([], partners[kind]))[0].append(place)
    return found, alone


def _recipes(arms: Sequence[pd.DataFrame], settings: Sequence[str], lr: LrRule) -> list[list[str]]:
    """For each row of each arm a text that tells recipes apart.

    What a source has as its target has it follows from the task. So does what it has otherwise,
    such as a number of classes, unless a task has it in several ways: then it is a treatment.
    """
    rows = _one_label_a_borrowed_set(one_label_a_source(pd.concat(arms)))
    kept = [n for n in settings if n not in SIZES and not repetition(n)]
    kept = [n for n in kept if (lr == "same" or n != "lr") and not varies(n, TASK)]
    told = {name: words_of(rows[name]) for name in kept}
    relative = {name: place for name in kept if (place := _RELATIVE.fullmatch(name))}
    kept = [n for n in kept if n not in relative]
    of_task = _joined([words_of(rows["task"]), *(told[name] for name in kept)], len(rows))
    for name, place in relative.items():
        of_target = _TARGETS.get(place["end"], f"target.{place['end']}")
        if of_target in rows.columns and place["end"] != _OF_THE_SOURCE:
            follows = (rows[name].notna() & _relative(rows, place["data"])).tolist()
            told[name] = [
                "as the target" if may and word == target else word
                for may, word, target in zip(
                    follows, told[name], words_of(rows[of_target]), strict=True
                )
            ]
        if differ_within(told[name], of_task):
            kept.append(name)
    texts, left = _joined([told[name] for name in kept], len(rows)), len(arms[0])
    return [texts[:left], texts[left:]]


def _joined(columns: Sequence[Sequence[str]], rows: int) -> list[str]:
    """The words of each row as one text; without columns it is empty."""
    return ["|".join(row) for row in zip(*columns, strict=True)] if columns else [""] * rows


def one_label_a_source(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each network that is copied from one label.

    A label names the data set of the source where the target's is another, so that one network
    has two labels where targets are of several data sets.
    """
    labels = [name for name in ("source", "source_origin") if name in rows.columns]
    if rows["parent_id"].isna().all():
        return rows
    least = rows.groupby("parent_id")[labels].transform("min")
    return rows.assign(**least.fillna(rows[labels]))


def _one_label_a_borrowed_set(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave the root of the target out of the labels of what is borrowed from beside it.

    `animal.n.01 far` names the far classes of a task of animals: with the root one treatment would
    have another label for each root of targets. It stays where a set has another root or none, and
    where labels without it are no fewer, as those of one selection for all targets.
    """
    roots = [n for n in rows.columns if _BORROWED_ROOT.fullmatch(str(n))]
    needed = {"borrowed", "borrowed_sets", "target.classes.root"}
    if not roots or not needed <= set(rows.columns):
        return rows
    own, labels = rows["target.classes.root"], rows["borrowed"]
    follows = rows[roots].eq(own, axis=0).sum(axis=1) == rows["borrowed_sets"]
    short = [
        re.sub(rf"(?<![\w.]){re.escape(str(root))}(?![\w.])", "the target's", str(label))
        for label, root in zip(labels, own, strict=True)
    ]
    shorter = labels.mask(follows & labels.notna(), pd.Series(short, rows.index))
    return rows.assign(borrowed=shorter) if shorter.nunique() < labels.nunique() else rows


def _relative(rows: pd.DataFrame, data: str) -> pd.Series[bool]:
    """Rows whose source is chosen from the target's data set by a recipe that has sides."""
    chosen = pd.Series(True, index=rows.index)
    if data == "source.":
        chosen &= rows["source_side"].notna()
    for name, of_target in ((f"{data}dataset", "dataset"), (f"{data}root", "target.root")):
        if name in rows.columns:
            there = of_target in rows.columns
            chosen &= key_of(rows, [name]) == (key_of(rows, [of_target]) if there else "-")
    return chosen


_SHARED = ("batch_norm", "target_weight", "source_weight", "most_per_class", "epoch_base")
"""Options that several methods have: where both arms of a comparison have one, it is held."""


def _shared_options(arm: pd.DataFrame, vary: Collection[str]) -> list[Mapping[str, Any]]:
    if not varies("method.", vary):
        return [{}] * len(arm)
    columns = ["method", *(n for n in arm.columns if str(n).startswith("method."))]
    found = (options(row) for row in arm[columns].to_dict("records"))
    return [{name: o[name] for name in _SHARED if name in o} for o in found]


def _alike(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return all(value == right.get(name, value) for name, value in left.items())


def _matched(
    arms: Sequence[pd.DataFrame],
    matched: Sequence[tuple[tuple[list[int], list[int]], str]],
    metric: str,
    seeds: Sequence[str],
) -> pd.DataFrame:
    """A row for each pair of groups of runs; `seeds` are the repetitions that both sides share."""
    sides = {
        name: (arm, [groups[place] for groups, _ in matched])
        for place, (name, arm) in enumerate(zip(("left", "right"), arms, strict=True))
    }
    left, first = arms[0], [groups[0] for groups in sides["left"][1]]
    frame = left.iloc[first].copy()
    diverged = np.zeros(len(frame), dtype=int)
    for name, (arm, groups) in sides.items():
        frame[name] = _means(arm[metric], groups)
        frame[f"{name}_val"] = _means(arm["val_top1_accuracy"], groups)
        frame[f"{name}_place"] = [arm.index[members].min() for members in groups]
        frame[f"{name}_runs"] = [" ".join(sorted(map(str, arm.index[m]))) for m in groups]
        away = (arm["status"] == "diverged").to_numpy()
        diverged += np.array([int(away[members].sum()) for members in groups], dtype=int)
        if "correct" in left.columns and metric == "top1_accuracy":
            truths = arm["correct"].to_numpy()
            means = [_mean_truth(truths[members]) for members in groups]
            frame[f"{name}_correct"] = pd.Series(means, index=frame.index, dtype=object)
    frame["difference"] = frame["left"] - frame["right"]
    frame["diverged"] = diverged
    frame["comparison"] = pd.Series([kind for _, kind in matched], frame.index, dtype=object)
    frame["size"] = key_of(frame, [n for n in SIZES if n in frame.columns])
    frame["seed"] = key_of(frame, seeds)
    return frame.reset_index(drop=True)


def _means(values: pd.Series[Any], groups: Sequence[list[int]]) -> list[float]:
    numbers = values.astype(float).to_numpy()
    return [math.fsum(numbers[members]) / len(members) for members in groups]


def _mean_truth(truths: Any) -> Any:
    known = [t for t in truths if isinstance(t, np.ndarray)]
    if len(known) < len(truths) or len({t.size for t in known}) != 1:
        return None
    return np.mean([t.astype(float) for t in known], axis=0)


def comparisons(frame: pd.DataFrame, by: str = "comparison") -> Iterator[pd.DataFrame]:
    """The pairs of each comparison, the most repeated first: by tasks, then by pairs."""
    groups = [group for _, group in frame.groupby(by, sort=True)]
    yield from sorted(groups, key=lambda g: (-g["task"].nunique(), -len(g)))


# --- the learning rate ---------------------------------------------------------------------------


def best_lr(board: pd.DataFrame) -> pd.DataFrame:
    """Rows with an outcome at the learning rate with the best validation accuracy.

    A rate is chosen for each condition, which is everything but the learning rate, seeds and class
    draws. Validation decides, so the test accuracies of the rows kept are not optimistic. Rates
    are compared on the repetitions that all of them have, where there are any; a rate with runs
    that diverged is chosen only where all rates have some; equal means go to the smaller rate.

    Raises:
        DataError: when a condition with several rates has no validation accuracy.
    """
    done = board[finished(board)]
    if done.empty:
        return done
    return done[_at_rates(done, lambda places: None)]


def best_rate(group: pd.DataFrame, allowed: Collection[float] | None = None) -> float:
    """The best rate of one condition by validation, among the allowed ones; NaN without a rate."""
    runs: dict[float, list[tuple[Any, Any, Any]]] = {}
    columns = (group[name].tolist() for name in ("lr", "status", "val_top1_accuracy"))
    repetitions = zip(group["task"].tolist(), group["seed"].tolist(), strict=True)
    for rate, status, validation, key in zip(*columns, repetitions, strict=True):
        if rate is not None and rate == rate and (allowed is None or float(rate) in allowed):
            runs.setdefault(float(rate), []).append((status, validation, key))
    rates = sorted(runs)
    if len(rates) < 2:
        return rates[0] if rates else math.nan
    keys = [{key for _, _, key in runs[rate]} for rate in rates]
    shared = set.intersection(*keys) or set.union(*keys)
    sound = [rate for rate in rates if all(status != "diverged" for status, _, _ in runs[rate])]
    means: dict[float, float] = {}
    for rate in sound or rates:
        values = [validation for _, validation, key in runs[rate] if key in shared]
        if any(value is None or value != value for value in values):
            raise DataError(
                "no validation accuracy to choose a learning rate by",
                hint="give val_per_class in the grid, or compare at equal learning rates",
            )
        means[rate] = math.fsum(values) / len(values) if values else -1.0
    return min(means, key=lambda rate: (-means[rate], rate))


def _at_rates(
    rows: pd.DataFrame, allowed: Callable[[Sequence[int]], Collection[float] | None]
) -> npt.NDArray[np.bool_]:
    """Which rows are at the best rate of their condition, among those allowed to its places."""
    held = [n for n in varying(rows) if n != "lr" and not repetition(n)]
    rates = pd.to_numeric(rows["lr"]).to_numpy(dtype=float)
    kept = np.zeros(len(rows), dtype=bool)
    conditions: dict[str, list[int]] = {}
    for place, word in enumerate(key_of(rows, held)):
        conditions.setdefault(word, []).append(place)
    for places in conditions.values():
        of = rates[places]
        if np.isnan(of).all():
            kept[places] = True
            continue
        rate = of[0] if (of == of[0]).all() else best_rate(rows.iloc[places], allowed(places))
        kept[places] = of == rate
    return kept


def _at_best_rates(arms: Sequence[pd.DataFrame], shared: Sequence[str]) -> list[pd.DataFrame]:
    """Each condition of either arm at its best rate among those that both arms tried."""
    tried: list[dict[str, set[float]]] = [{}, {}]
    keys = [key_of(arm, shared) for arm in arms]
    for side, arm, key in zip(tried, arms, keys, strict=True):
        for word, rate in zip(key, arm["lr"], strict=True):
            side.setdefault(word, set()).add(float(rate))
    chosen = []
    for arm, key in zip(arms, keys, strict=True):
        words, rates = list(key), pd.to_numeric(arm["lr"]).tolist()

        def allowed(
            places: Sequence[int], words: list[str] = words, rates: list[float] = rates
        ) -> set[float] | None:
            both = set.intersection(*(side.get(words[places[0]], set()) for side in tried))
            return both & {float(rates[place]) for place in places} or None

        chosen.append(arm[_at_rates(arm, allowed)])
    return chosen
