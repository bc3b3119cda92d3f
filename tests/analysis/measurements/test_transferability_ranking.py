"""Scores against measured accuracies: equal conditions, targets as units, a table in the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis.leaderboard.read import read
from analysis.measurements.tables import Measurements
from analysis.measurements.transferability_ranking import measured_accuracies, rankings
from analysis.report.other_tables import measured

WHERE = ["dataset", "target", "class_draw", "images_per_class", "model", "source"]


@pytest.fixture(scope="module")
def board(committed: Path) -> pd.DataFrame:
    """Three targets (class draws), several sources each."""
    table = read(committed / "tiny-imagenet.csv")
    mine = (table["target"] == "animal.n.01") & table["experiments"].str.contains("near-far")
    return table[mine | (table["role"] == "source")]


@pytest.fixture(scope="module")
def scores(board: pd.DataFrame) -> pd.DataFrame:
    """A score that is the measured accuracy, one that is its negative, and a static one."""
    runs = board[(board["role"] == "finetune") & board["source"].isin(["near", "far"])]
    rows = []
    for _, group in runs.groupby(WHERE[:4], dropna=False):
        candidates = group[WHERE].drop_duplicates()
        accuracies = measured_accuracies(board, candidates)
        assert len(accuracies) > 1
        for row in candidates.to_dict("records"):
            value = accuracies[f"{row['model']} {row['source']}"]
            for score, number in (("right", value), ("wrong", -value), ("size", 1.0)):
                rows.append(row | {"score": score, "value": number, "static": score == "size"})
    return pd.DataFrame(rows)


def _best_by_hand(board: pd.DataFrame, scores: pd.DataFrame) -> list[list[dict[str, float]]]:
    """By target and number of images, accuracy of each source at its best rate and treatment."""
    targets = []
    for draw in sorted(set(scores["class_draw"])):
        sizes = []
        for size in sorted(set(scores["images_per_class"])):
            runs = board[(board["class_draw"] == draw) & (board["images_per_class"] == size)]
            runs = runs[(runs["role"] == "finetune") & (runs["method"] == "plain")]
            runs = runs[runs["status"].isin(["done", "diverged"])]
            tried = {
                s: set(zip(g["pattern"], g["lr"], strict=True)) for s, g in runs.groupby("source")
            }
            both = tried["near"] & tried["far"]
            best = {}
            for source in ("near", "far"):
                conditions = [
                    g[["val_top1_accuracy", "top1_accuracy"]].mean()
                    for key, g in runs[runs["source"] == source].groupby(["pattern", "lr"])
                    if key in both
                ]
                best[source] = max(conditions, key=lambda m: m["val_top1_accuracy"])[1:].item()
            sizes.append(best)
        targets.append(sizes)
    return targets


def test_sizes_are_averaged_within_a_target_and_targets_are_counted(
    board: pd.DataFrame, scores: pd.DataFrame
) -> None:
    found = rankings(board, scores)
    assert found is not None
    rows = {row["score"]: row for row in found.to_dict("records")}
    by_hand = _best_by_hand(board, scores)
    gaps = [
        sum(100 * abs(best["near"] - best["far"]) for best in sizes) / len(sizes)
        for sizes in by_hand
    ]
    assert rows["right"]["regret_points"] == 0
    assert rows["wrong"]["regret_points"] == pytest.approx(sum(gaps) / len(gaps))
    assert rows["size"]["regret_points"] == pytest.approx(sum(gaps) / len(gaps) / 2)
    assert {row["targets"] for row in rows.values()} == {len(by_hand)} == {3}
    assert {row["ranked_targets"] for row in rows.values()} == {0}
    assert {row["candidates"] for row in rows.values()} == {"2"}


def test_a_source_with_more_conditions_has_no_more_to_choose_from(
    board: pd.DataFrame, scores: pd.DataFrame
) -> None:
    scored = scores.iloc[[0]]
    both = pd.concat([scored.assign(source="near"), scored.assign(source="far")])
    before = measured_accuracies(board, both)
    extra = board[(board["role"] == "finetune") & (board["source"] == "near")]
    extra = extra.assign(lr=99.0, val_top1_accuracy=1.0, top1_accuracy=1.0)
    more = pd.concat([board, extra], ignore_index=True)
    assert measured_accuracies(more, both) == before


def test_three_sources_have_rank_correlations(board: pd.DataFrame) -> None:
    runs = board[(board["role"] == "finetune") & board["source"].isin(["near", "far"])]
    again = runs[runs["source"] == "far"].assign(source="third")
    for name in ("top1_accuracy", "val_top1_accuracy"):
        again[name] = again[name] / 2
    three = pd.concat([runs, again], ignore_index=True)
    first = three[WHERE].drop_duplicates()
    first = first[(first["class_draw"] == first["class_draw"].iloc[0])]
    first = first[first["images_per_class"] == first["images_per_class"].iloc[0]]
    truth = measured_accuracies(three, first)
    values = {"near": 1.0, "far": 3.0, "third": 2.0}
    scored = first.assign(score="s", static=False, value=first["source"].map(values))
    found = rankings(three, scored)
    assert found is not None
    (row,) = found.to_dict("records")
    names = [f"{m} {s}" for m, s in zip(first["model"], first["source"], strict=True)]
    pair = [values[s] for s in first["source"]], [truth[name] for name in names]
    assert row["weighted_tau"] == pytest.approx(stats.weightedtau(*pair).statistic)
    assert row["spearman"] == pytest.approx(stats.spearmanr(*pair).statistic)
    assert row["ranked_targets"] == 1


def test_the_report_has_the_table_and_says_how_few_targets_there_are(
    board: pd.DataFrame, scores: pd.DataFrame
) -> None:
    few = board[board["images_per_class"] == board["images_per_class"].dropna().min()]
    tables, _ = measured(few, Measurements(transferability=scores))
    table = tables[-1]
    cells = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [(c["score"], c["looks at target images"], c["n"]) for c in cells] == [
        ("right", "yes", "3 targets"),
        ("wrong", "yes", "3 targets"),
        ("size", "no", "3 targets"),
    ]
    assert {c["weighted tau"] for c in cells} == {"–"}
    assert "0 targets have them" in table.note
