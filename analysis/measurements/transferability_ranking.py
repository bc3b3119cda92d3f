"""How well scores that need no training rank the sources that a grid did train from.

Every score of `analysis.measurements.transferability` beside the static baselines (size, source
accuracy, random): weighted Kendall tau, Spearman and regret at 1 against the measured accuracies.
The accuracy of a candidate is that of its best condition by validation, averaged over seeds, among
the conditions that were tried with every candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.leaderboard.read import SOURCE, key_of, repetition, varies, varying
from analysis.measurements.transferability import agreement

_TARGET = ("dataset", "target", "class_draw", "task_id")
_MEASURES = ("weighted_tau", "spearman", "regret_points")


def rankings(board: pd.DataFrame, transferability: pd.DataFrame | None) -> pd.DataFrame | None:
    """A row per score: how well it ranks the sources, and what following it costs.

    Numbers of images per class are averaged within a target, then the targets.

    Args:
        board: from `analysis.leaderboard.read.prepare`.
        transferability: of `analysis.measurements.tables.Measurements`.

    Returns:
        score, static, targets, candidates (fewest and most of a target, as text), the means
        regret_points, weighted_tau and spearman, ranked_targets (those that have the last two).
        None where no target has two candidates with scores and finished runs.
    """
    every = target_rankings(board, transferability)
    if every is None:
        return None
    rows = []
    for score, group in every.groupby("score", sort=False):
        tasks = group.groupby(_of_target(group), sort=False, dropna=False)[list(_MEASURES)].mean()
        low, high = int(group["n"].min()), int(group["n"].max())
        rows.append(
            {
                "score": score,
                "static": bool(group["static"].iloc[0]),
                "targets": len(tasks),
                "ranked_targets": int(tasks["weighted_tau"].notna().sum()),
                "candidates": f"{low}" if low == high else f"{low} to {high}",
                **tasks.mean().to_dict(),
            }
        )
    return pd.DataFrame(rows)


def target_rankings(
    board: pd.DataFrame, transferability: pd.DataFrame | None
) -> pd.DataFrame | None:
    """A row per target, number of images and score that all candidates have.

    Returns:
        dataset, target, class_draw, images_per_class, score, static, weighted_tau and spearman
        (missing with fewer than three candidates), regret_points (best accuracy less that of the
        candidate with the highest score), n (candidates). None as in `rankings`.
    """
    if transferability is None or transferability.empty:
        return None
    rows: list[dict[str, Any]] = []
    where = [*_of_target(transferability), "images_per_class"]
    for _, scored in transferability.groupby(key_of(transferability, where), sort=False):
        accuracies = measured_accuracies(board, scored)
        if len(accuracies) < 2:
            continue
        table = scored.assign(candidate=_names(scored))
        table = table[table["candidate"].isin(list(accuracies)) & table["value"].notna()]
        scores = {
            str(score): dict(zip(group["candidate"], group["value"].astype(float), strict=True))
            for score, group in table.groupby("score", sort=False)
            if set(group["candidate"]) == set(accuracies)
        }
        keys = {name: scored.iloc[0][name] for name in where}
        static = dict(zip(table["score"], table["static"], strict=True))
        rows += [
            keys
            | {
                "score": one.score,
                "static": bool(static[one.score]),
                "weighted_tau": one.weighted_tau,
                "spearman": one.spearman,
                "regret_points": 100 * one.regret_at_1,
                "n": one.n,
            }
            for one in (agreement(scores, accuracies) if scores else ())
        ]
    if not rows:
        return None
    return pd.DataFrame(rows).astype(dict.fromkeys(_MEASURES, float))


def measured_accuracies(board: pd.DataFrame, scored: pd.DataFrame) -> Mapping[str, float]:
    """Test accuracy by candidate ("model source"), each at its best condition by validation.

    Conditions count that were tried with every candidate, so that none has more to choose from.

    Args:
        board: from `analysis.leaderboard.read.prepare`.
        scored: rows of one target in the table of transferability.
    """
    keys = [*_of_target(scored), "images_per_class"]
    done = board[
        (key_of(board, keys) == key_of(scored.iloc[[0]], keys).iloc[0])
        & board["status"].isin(["done", "diverged"])
        & (board["method"] == "plain")
        & board["top1_accuracy"].notna()
        & board["val_top1_accuracy"].notna()
    ]
    done = done.assign(candidate=_names(done))
    done = done[done["candidate"].isin(_names(scored))]
    settings = [name for name in varying(done) if not repetition(name)]
    networks = ("model", "pattern") if done["model"].nunique() > 1 else ()
    shared = [n for n in settings if not varies(n, SOURCE) and n not in networks]
    done = done.assign(
        condition=key_of(done, settings), recipe=key_of(done, [*shared, "treatment"])
    )
    tried = done.groupby("recipe")["candidate"].transform("nunique")
    done = done[tried == done["candidate"].nunique()]
    measures = ["val_top1_accuracy", "top1_accuracy"]
    means = done.groupby(["candidate", "condition"])[measures].mean().reset_index()
    best = means.sort_values("val_top1_accuracy", kind="stable").groupby("candidate").last()
    return {str(name): float(value) for name, value in best["top1_accuracy"].items()}


def _of_target(table: pd.DataFrame) -> list[str]:
    return [name for name in _TARGET if name in table.columns]


def _names(frame: pd.DataFrame) -> list[str]:
    return [f"{m} {s}" for m, s in zip(frame["model"], frame["source"], strict=True)]
