"""Ratios of accuracies over pairs of runs with all else fixed, and gains in points.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", Fig. 1 (copying against random
initialisation of the upper layers, tuned and frozen) and Fig. 2 (tuning against freezing), against
images per class and against distance; trend lines are averages per band. "A Multifaceted Analysis
…" states gains in percentage points instead. For networks of any depth D, R(8) of the papers is
R(D), R(6-8) is the last three layers and R(4-8) the last five.

Averages are taken of the ratio, as the paper does, and of its logarithm, which treats a half and a
double alike; intervals are of the latter. A ratio whose denominator is 0 is left out and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import LrRule, Pairs
from analysis.comparisons.units import summarise
from analysis.leaderboard.read import COPIED, PATTERN, SOURCE, key_of
from analysis.papers.chu2016_bands import SureBand, data_band, sure_distance_band
from bench.core.errors import DataError

DISTANCE_WORDS = ("dataset", "target", "class_draw", "source", "model")
DISTANCE_KEYS = (*DISTANCE_WORDS, "task_id")
"""Columns of a table of distances that say which target and source a distance belongs to.

Two folders of photographs have the same words and other ids. Tables of earlier versions have none.
"""


@dataclass(frozen=True)
class Ratios:
    """Points of a ratio chart.

    Attributes:
        frame: a row per pair: `panel`, `treatment`, `n_per_class`, `distance` (may be missing),
            `left`, `right` accuracies, `ratio`, `log_ratio`, `near_chance` (an accuracy is within
            two standard errors of guessing, so the ratio is mostly noise), `task`, `seed`.
        zero: pairs left out because an accuracy is 0.
        unpaired: runs without a partner.
        unfinished: runs without a result.
    """

    frame: pd.DataFrame
    zero: int
    unpaired: int
    unfinished: int


def with_distance(frame: pd.DataFrame, distances: pd.DataFrame | None) -> pd.DataFrame:
    """Add `distance` from a table with column `cosine` and any of `DISTANCE_KEYS`.

    `distance_low` and `distance_high` are added too; missing where the table has no interval.
    Runs whose target and source are not in the table keep a missing distance.

    Raises:
        DataError: when the table has no key, or two distances for the same key.
    """
    columns = {"distance": "cosine", "distance_low": "cosine_low", "distance_high": "cosine_high"}
    result = frame.drop(columns=list(columns), errors="ignore")
    if distances is None or distances.empty:
        return result.assign(**dict.fromkeys(columns, math.nan))
    if "task_id" in distances.columns and (old := distances["task_id"].isna()).any():
        first = with_distance(frame, distances[~old])
        return first.fillna(
            with_distance(frame, distances[old].drop(columns="task_id"))[[*columns]]
        )
    keys = [name for name in DISTANCE_KEYS if name in distances.columns]
    if not keys or "cosine" not in distances.columns:
        raise DataError(
            f"the table of distances has columns {', '.join(map(str, distances.columns))}",
            hint=f"it needs cosine and one or more of {', '.join(DISTANCE_KEYS)}",
        )
    words = key_of(distances, keys)
    if words.duplicated().any():
        raise DataError(f"two distances for the same {', '.join(keys)}")
    wanted = key_of(result, keys)
    for name, column in columns.items():
        result[name] = math.nan
        if column in distances.columns:
            values = distances[column].to_numpy(dtype=float)
            result[name] = wanted.map(pd.Series(values, index=words.to_numpy())).astype(float)
    return result


def distance_bands(frame: pd.DataFrame) -> list[SureBand]:
    """Each row's band of distance; between: its interval reaches over a band's edge.

    Args:
        frame: of `with_distance`.
    """
    ends = zip(frame["distance"], frame["distance_low"], frame["distance_high"], strict=True)
    return [sure_distance_band(*map(float, row)) for row in ends]


def between_bands(frame: pd.DataFrame) -> str:
    """The sources that belong to no band for sure, each with its interval; empty without one."""
    rows = frame[[band == "between" for band in distance_bands(frame)]] if len(frame) else frame
    columns = ["source", "target", "distance", "distance_low", "distance_high"]
    said = [
        f"{row['source']}: {row['distance']:.3f} ({row['distance_low']:.3f} to "
        f"{row['distance_high']:.3f}) reaches into another band, left out"
        for row in rows.drop_duplicates(columns).to_dict("records")
    ]
    return "; ".join(dict.fromkeys(said))


def _ratios(pairs: Pairs, panel: str, distances: pd.DataFrame | None) -> Ratios:
    frame = with_distance(pairs.frame, distances)
    positive = (frame["left"] > 0) & (frame["right"] > 0)
    kept = frame[positive].copy()
    kept["panel"] = panel
    kept["ratio"] = kept["left"] / kept["right"]
    kept["log_ratio"] = [math.log(ratio) for ratio in kept["ratio"]]
    known = [n for n in ("left", "right", "target_classes", "test_images") if n in kept]
    kept["near_chance"] = [_near_chance(row) for row in kept[known].to_dict("records")]
    return Ratios(
        kept.reset_index(drop=True), int((~positive).sum()), pairs.unpaired, pairs.unfinished
    )


def _near_chance(row: dict[str, object] | dict[object, object]) -> bool | None:
    """None where the leaderboard does not say how many classes and test images there were."""
    facts = row.get("target_classes"), row.get("test_images")
    numbers = [f for f in facts if isinstance(f, (int, float)) and f == f and f > 0]
    if len(numbers) < 2:
        return None
    chance = 1 / numbers[0]
    limit = chance + 2 * math.sqrt(chance * (1 - chance) / numbers[1])
    return any(isinstance(a, float) and a <= limit for a in (row.get("left"), row.get("right")))


def copy_ratios(
    evidence: Evidence,
    treatment: Literal["tune", "freeze"],
    reinit: int,
    lr: LrRule | None = None,
    rows: pd.Series[bool] | bool = True,
) -> Ratios:
    """CHU Fig. 1: accuracy with the last layer random over that with the last `reinit` random.

    Args:
        evidence: the leaderboard and its distances.
        treatment: what is done to the copied layers, in both runs.
        reinit: 3 is the paper's R(6-8), 5 its R(4-8).
        lr: as of `Evidence.pairs`; `rows`: of the leaderboard that count.

    A ratio above 1 says that copying more layers is better.
    """
    if reinit < 2:
        raise DataError(f"reinit is {reinit}", hint="two or more: one is what it is compared with")
    board = evidence.board
    arm = (board["treatment"] == treatment) & (board["method"] == "plain") & rows
    left, right = arm & (board["reinit"] == 1), arm & (board["reinit"] == reinit)
    # Patterns of other depths belong to other models, which the pairing keeps apart.
    found = evidence.pairs(left, right, PATTERN, lr=lr)
    return _ratios(found, f"last random / last {reinit} random", evidence.distances)


def tune_freeze_ratios(
    evidence: Evidence, lr: LrRule | None = None, rows: pd.Series[bool] | bool = True
) -> Ratios:
    """CHU Fig. 2: accuracy with all layers but the last tuned over that with them frozen.

    A ratio above 1 says that tuning is better. Arguments are as of `copy_ratios`.
    """
    board = evidence.board
    arm = (board["reinit"] == 1) & (board["method"] == "plain") & rows
    left, right = arm & (board["treatment"] == "tune"), arm & (board["treatment"] == "freeze")
    found = evidence.pairs(left, right, PATTERN, lr=lr)
    return _ratios(found, "tune / freeze", evidence.distances)


def scratch_ratios(
    evidence: Evidence,
    treatment: Literal["tune", "freeze"],
    lr: LrRule | None = None,
    rows: pd.Series[bool] | bool = True,
) -> Ratios:
    """Accuracy with all layers but the last copied over that of training from scratch.

    The same chart as CHU's for the question before: a ratio above 1 says that copying pays.
    Arguments are as of `copy_ratios`.
    """
    board = evidence.board
    plain = (board["method"] == "plain") & rows
    left = plain & (board["reinit"] == 1) & (board["treatment"] == treatment)
    right = plain & (board["treatment"] == "scratch")
    found = evidence.pairs(left, right, (*SOURCE, *PATTERN, *COPIED), lr=lr)
    word = {"tune": "tuned", "freeze": "frozen"}[treatment]
    return _ratios(found, f"{word} / scratch", evidence.distances)


def band_averages(ratios: Ratios, by: Literal["data", "distance"]) -> pd.DataFrame:
    """Trend lines of a ratio chart: the average ratio of each band.

    Returns:
        Columns band, mean_ratio, geometric_mean, low, high (of the geometric mean), points, n and
        unit (what the interval counts), note. Bands without a point have a row that says so. A
        source whose distance's interval reaches over a band's edge is in no band; notes say so.
    """
    frame = ratios.frame
    column = "n_per_class" if by == "data" else "distance"
    known = frame[frame[column].notna()]
    bands = [data_band(float(x)) for x in known[column]] if by == "data" else distance_bands(known)
    left_out = between_bands(known) if by == "distance" else ""
    rows = []
    for band in ("low", "medium", "large"):
        row = _band_row(band, known[[b == band for b in bands]])
        rows.append(row | {"note": "; ".join(t for t in (str(row["note"]), left_out) if t)})
    return pd.DataFrame(rows)


def _band_row(band: str, points: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {"band": band, "points": len(points)}
    if points.empty:
        empty = dict.fromkeys(("mean_ratio", "geometric_mean", "low", "high", "unit"))
        return row | empty | {"n": 0, "note": "no experiment in this band"}
    # Every comparison and size weighs the same within a task, as the paper's averages have it.
    sizes = points["comparison"] + " " + points["size"]
    mean = summarise(points.assign(size=sizes), "log_ratio", f"band {band}", "ratio")
    return row | {
        "mean_ratio": float(points["ratio"].mean()),
        "geometric_mean": math.exp(mean.value),
        "low": None if mean.low is None else math.exp(mean.low),
        "high": None if mean.high is None else math.exp(mean.high),
        "n": mean.n,
        "unit": mean.unit,
        "note": mean.note,
    }
