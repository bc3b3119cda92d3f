"""Advice on tasks that it was not derived from, against habits, a race, and trying everything.

Each task is left out in turn, with all of its runs, and what `bench recommend` advises is derived
from the others. A way of choosing scores the test accuracy of the arm that it takes. Regret is
counted from the arm that was best on average in the other tasks, which owes nothing to this one;
the best by test accuracy on the task itself is so by luck too, and stands here as a bound alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple, cast

import pandas as pd

from analysis.advice.recommend import advise
from analysis.advice.tune_or_freeze import PAPER, decide, tune_freeze_pairs
from analysis.advice.types import Situation
from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.read import finished
from analysis.papers.chu2016_bands import Advice, data_band, distance_band, printed_advice
from bench.core.errors import DataError

ADVICE = "the advice, freeze or tune"
WHOLE = "the advice, freeze or tune and how many layers to copy"
LIKE = "its rule on runs of the same source and number of images alone"
OTHER_KINDS = "the advice, from targets of other kinds alone"
PRINTED = f"{PAPER} as printed"
TUNE, FREEZE = "always tune", "always freeze"
BOTH = "tune and freeze, the better by validation"
ALL = "all arms, the best by validation"
RACES = {
    share: f"tune and freeze for {word} of their epochs, the better by validation goes on"
    for share, word in ((0.2, "a fifth"), (0.5, "half"))
}
"""Races by the share of the epochs after which one of two arms is given up."""
COIN = "a coin"
REFERENCE = "the arm that was best in the other tasks"
BOUND = "the best by test accuracy"
SITUATION = ["model", "source", "n_per_class"]
"""Columns that say what is to be fine-tuned, beside the task; arms of one are chosen from."""


class Choice(NamedTuple):
    """What a way of choosing gets: accuracy on test images, and the seconds that it trains."""

    accuracy: float
    seconds: float


# --- what there is to choose from ---------------------------------------------------------------


def arms(board: pd.DataFrame, early: pd.DataFrame | None = None) -> pd.DataFrame:
    """The fine-tuned arms of each task: a row for each run that copies layers.

    Args:
        board: from `analysis.leaderboard.read.prepare`.
        early: validation accuracies in the middle of trainings: `run_id`, `share` (of the epochs,
            as in `RACES`), `epoch` and `epochs` (counts), `val_top1_accuracy`; None: there are
            none.

    Returns:
        Columns task, seed, model, source, n_per_class, arm (the pattern), role (tune or freeze, of
        all layers but the last; else empty), accuracy, validation, seconds, and for each race
        `early SHARE` (validation accuracy) and `done SHARE` (of the epochs that it comes after).

    Raises:
        DataError: two runs differ in more than what these columns show.
    """
    copies = board["treatment"].isin(["tune", "freeze", "partly"]) & (board["method"] == "plain")
    copies &= board["role"] != "source"
    rows = board[copies & finished(board) & finished(board, "val_top1_accuracy")]
    table = rows[["task", "seed", *SITUATION]].assign(
        arm=rows["pattern"],
        role=rows["treatment"].where(rows["reinit"] == 1, "").replace("partly", ""),
        accuracy=100 * rows["top1_accuracy"],
        validation=100 * rows["val_top1_accuracy"],
        seconds=rows["seconds"].astype(float) if "seconds" in rows else float("nan"),
    )
    keys = ["task", "seed", *SITUATION, "arm"]
    if table.duplicated(keys).any():
        first = table[table.duplicated(keys)].iloc[0]
        raise DataError(
            f"{first['arm']} has several runs on one task with the same seeds",
            hint="advice is compared where arms differ in their pattern alone",
        )
    for share, some in () if early is None else early.groupby("share"):
        known = some.set_index("run_id").reindex(rows["run_id"]).set_index(table.index)
        table[f"early {share:g}"] = 100 * known["val_top1_accuracy"]
        table[f"done {share:g}"] = known["epoch"] / known["epochs"]
    return table


Row = Mapping[Hashable, Any]
"""A row of `arms`."""


def _choice(best: Sequence[Row], seconds: float | None = None) -> Choice:
    """The mean over arms that are equally good, which is that of drawing lots."""
    spent = [row["seconds"] for row in best] if seconds is None else [seconds]
    return Choice(fmean(row["accuracy"] for row in best), fmean(spent))


def _best(rows: Sequence[Row], by: str) -> list[Row]:
    most = max(row[by] for row in rows)
    return [row for row in rows if row[by] == most]


def _race(two: Sequence[Row], share: float) -> Choice:
    """Both until the first validation after a share of the epochs; the better one goes on."""
    best = _best(two, f"early {share:g}")
    begun = {row["arm"]: row["seconds"] * row[f"done {share:g}"] for row in two}
    rest = [row["seconds"] + sum(begun.values()) - begun[row["arm"]] for row in best]
    return _choice(best, fmean(rest))


def _followed(two: Sequence[Row], advice: Advice) -> Choice:
    if advice == "try both":
        return _choice(_best(two, "validation"), sum(row["seconds"] for row in two))
    return _choice([row for row in two if row["role"] == advice])


def _choices(
    rows: Sequence[Row], elsewhere: Mapping[Hashable, float], advised: Mapping[str, Advice]
) -> Iterator[tuple[str, Choice]]:
    """What each way takes in one situation of one task.

    Args:
        rows: its arms.
        elsewhere: the mean accuracy of arms in the same situation of other tasks.
        advised: what each advice says here.
    """
    two = [row for row in rows if row["role"]]
    every = sum(row["seconds"] for row in rows)
    for name, advice in advised.items():
        yield name, _followed(two, advice)
    yield BOTH, _followed(two, "try both")
    yield COIN, _choice(two)
    for share, name in RACES.items():
        if all(row.get(f"early {share:g}", math.nan) >= 0 for row in two):
            yield name, _race(two, share)
    if len(rows) > len(two):
        yield ALL, _choice(_best(rows, "validation"), every)
    known = [{**row, "elsewhere": elsewhere[row["arm"]]} for row in rows if row["arm"] in elsewhere]
    if known:
        yield REFERENCE, _choice(_best(known, "elsewhere"))
    yield BOUND, _choice(_best(rows, "accuracy"), every)


# --- what is advised ----------------------------------------------------------------------------


class _Advisor:
    """Derives advice from the runs of other tasks; the same question is answered once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.pairs = evidence, tune_freeze_pairs(evidence)
        self.answers: dict[tuple[object, ...], tuple[Advice, str | None]] = {}

    def ways(self, pair: Row) -> tuple[dict[str, Advice], str | None]:
        """Every way of choosing that names an arm, or both, before anything is trained.

        Returns:
            What each says, and the pattern that `bench recommend` advises over all of them.
        """
        board, images, cosine = self.evidence.board, float(pair["n_per_class"]), _cosine(pair)
        elsewhere = board["task"] != pair["task"]
        advice, pattern = self._page((pair["task"],), elsewhere, pair)
        like = self.pairs[
            (self.pairs["task"] != pair["task"])
            & (self.pairs["comparison"] == pair["comparison"])
            & (self.pairs["n_per_class"] == images)
        ]
        found: dict[str, Advice] = {
            TUNE: "tune",
            FREEZE: "freeze",
            ADVICE: advice,
            LIKE: decide(like, cosine, images).advice,
        }
        kinds = _kinds(self.pairs)
        if kinds.nunique() > 1:
            (kind,) = _kinds(pd.DataFrame([pair]))
            others = elsewhere & (_kinds(board) != kind)
            found[OTHER_KINDS], _ = self._page((pair["task"], kind), others, pair)
        if cosine is not None:
            found[PRINTED] = printed_advice(distance_band(cosine), data_band(images))
        return found, pattern

    def _page(
        self, key: tuple[object, ...], rows: pd.Series[bool], pair: Row
    ) -> tuple[Advice, str | None]:
        """What `bench recommend` prints from these rows: freeze or tune, and the pattern if any."""
        images, cosine = float(pair["n_per_class"]), _cosine(pair)
        band = None if cosine is None else distance_band(cosine)
        key = (*key, pair["model"], data_band(images), band)
        if key not in self.answers:
            some = replace(self.evidence, board=self.evidence.board[rows])
            classes = int(pair["target_classes"])
            lines = advise(Situation(images, classes, cosine, model=pair["model"]), some)
            (answer,) = (line.answer for line in lines if line.topic == "freeze or tune")
            pattern = next((line.pattern for line in lines if line.pattern), None)
            self.answers[key] = cast("Advice", answer), pattern
        return self.answers[key]


def _kinds(rows: pd.DataFrame) -> pd.Series[str]:
    """What kind of target a task is: a data set and the root of its classes."""
    return rows["dataset"].astype(str) + " " + rows["target"].astype(str)


def _cosine(pair: Row) -> float | None:
    return None if pair["distance_band"] == "unknown" else float(pair["distance"])


def outcomes(evidence: Evidence, early: pd.DataFrame | None = None) -> pd.DataFrame:
    """What each way of choosing gets on each task, from runs on the other tasks alone.

    Returns:
        Columns task, seed, model, source, n_per_class, way, advice (None where it does not say one
        beforehand), accuracy (points), seconds.

    Raises:
        DataError: with fewer than two tasks that have a tuned and a frozen run.
    """
    pairs = tune_freeze_pairs(evidence)
    if len(pairs) == 0 or pairs["task"].nunique() < 2:
        raise DataError(
            "fewer than two tasks have both tuned and frozen runs",
            hint="advice is scored on a task by the runs on others: add targets or class draws",
        )
    table, advisor = arms(evidence.board, early), _Advisor(evidence)
    of_run = {pair["left_place"]: pair for pair in pairs.to_dict("records")}
    rows = []
    for situation, inside in table.groupby(SITUATION, sort=True):
        for (task, seed), group in inside.groupby(["task", "seed"], sort=True):
            pair = next((of_run[run] for run in group.index if run in of_run), None)
            if pair is None:
                continue
            others = inside[inside["task"] != task].groupby("arm")["accuracy"].mean().to_dict()
            here, (advised, pattern) = group.to_dict("records"), advisor.ways(pair)
            got, said = dict(_choices(here, others, advised)), dict[str, str](advised)
            if ALL in got:
                deep = [row for row in here if row["arm"] == pattern]
                said[WHOLE] = deep[0]["arm"] if deep else advised[ADVICE]
                got[WHOLE] = _choice(deep) if deep else got[ADVICE]
            for way, choice in got.items():
                rows.append((task, seed, *situation, way, said.get(way), *choice))
    columns = ["task", "seed", *SITUATION, "way", "advice", "accuracy", "seconds"]
    return pd.DataFrame(rows, columns=columns)
