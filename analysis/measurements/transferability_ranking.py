"""How well scores that need no training rank the sources that a grid did train from.

Every score of `analysis.measurements.transferability` beside the static baselines (size, source
accuracy, random): weighted Kendall tau, Spearman and regret at 1 against what the leaderboard
found. What was found of a candidate is its best condition by validation accuracy, averaged over
seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.leaderboard.read import SEEDS, key_of, varying
from analysis.measurements.transferability import agreement

_TARGET = ("dataset", "target", "class_draw")


def rankings(board: pd.DataFrame, transferability: pd.DataFrame | None) -> pd.DataFrame | None:
    """A row per target and score: how well it ranks the candidates, and what following it costs.

    Args:
        board: from `analysis.leaderboard.read.prepare`.
        transferability: of `analysis.measurements.tables.Measurements`.

    Returns:
        dataset, target, class_draw, images_per_class, score, static, weighted_tau and spearman
        (missing with fewer than three candidates), regret_points (best accuracy less that of the
        candidate with the highest score), best and chosen (candidates as "model source"), n
        (candidates), note. None where no target has two candidates with scores and finished runs.
    """
    if transferability is None or transferability.empty:
        return None
    rows: list[dict[str, Any]] = []
    where = [*_TARGET, "images_per_class"]
    for _, scored in transferability.groupby(key_of(transferability, where), sort=False):
        found = found_accuracies(board, scored)
        if len(found) > 1:
            rows += _ranked(scored, found)
    return pd.DataFrame(rows) if rows else None


def found_accuracies(board: pd.DataFrame, scored: pd.DataFrame) -> dict[str, float]:
    """Test accuracy by candidate ("model source"), each at its best condition by validation.

    Args:
        board: from `analysis.leaderboard.read.prepare`.
        scored: rows of one target in the table of transferability.
    """
    first = scored.iloc[[0]]
    keys = [*_TARGET, "images_per_class"]
    mine = key_of(board, keys) == key_of(first, keys).iloc[0]
    done = board[
        mine
        & board["status"].isin(["done", "diverged"])
        & (board["method"] == "plain")
        & board["top1_accuracy"].notna()
        & board["val_top1_accuracy"].notna()
    ]
    wanted = set(_names(scored))
    best: dict[str, tuple[float, float]] = {}
    condition = [name for name in varying(done) if name not in SEEDS]
    for _, group in done.groupby(key_of(done, condition), sort=True) if len(done) else ():
        name = _names(group)[0]
        if name in wanted:
            means = group[["val_top1_accuracy", "top1_accuracy"]].astype(float).mean()
            values = float(means.iloc[0]), float(means.iloc[1])
            if name not in best or values[0] > best[name][0]:
                best[name] = values
    return {name: accuracy for name, (_, accuracy) in best.items()}


def _names(frame: pd.DataFrame) -> list[str]:
    return [f"{m} {s}" for m, s in zip(frame["model"], frame["source"], strict=True)]


def _ranked(scored: pd.DataFrame, found: Mapping[str, float]) -> list[dict[str, Any]]:
    table = scored.assign(candidate=_names(scored))
    scores: dict[str, dict[str, float]] = {}
    absent: dict[str, Sequence[str]] = {}
    for score, group in table.groupby("score", sort=False):
        values = dict(zip(group["candidate"], group["value"], strict=True))
        known = {n: float(values[n]) for n in found if n in values and pd.notna(values[n])}
        if len(known) == len(found):
            scores[str(score)] = known
        else:
            absent[str(score)] = sorted(set(found) - set(known))
    static = dict(zip(table["score"], table["static"], strict=True))
    keys = {name: table.iloc[0][name] for name in (*_TARGET, "images_per_class")}
    top = max(found, key=lambda name: (found[name], name))
    rows = []
    for one in agreement(scores, found) if scores else ():
        ranked = scores[one.score]
        chosen = [name for name in sorted(ranked) if ranked[name] == max(ranked.values())]
        rows.append(
            keys
            | {
                "score": one.score,
                "static": bool(static[one.score]),
                "weighted_tau": one.weighted_tau,
                "spearman": one.spearman,
                "regret_points": 100 * one.regret_at_1,
                "best": top,
                "chosen": " or ".join(chosen),
                "n": one.n,
                "note": one.note,
            }
        )
    for score, lacking in absent.items():
        empty = dict.fromkeys(("weighted_tau", "spearman", "regret_points", "chosen"))
        note = f"no score of {', '.join(lacking)}"
        rows.append(
            keys
            | {"score": score, "static": bool(static[score]), **empty}
            | {"best": top, "n": len(found), "note": note}
        )
    return rows
