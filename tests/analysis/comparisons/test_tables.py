"""Curves, costs and the tables of ratio charts, against slow literal twins."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparisons import curves as tables
from analysis.comparisons import ratio_tables
from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import examine
from analysis.leaderboard.read import ADDED, prepare, read
from analysis.papers.chu2016_bands import data_band
from bench.core.errors import DataError


@pytest.fixture(scope="module")
def photographs(committed: Path) -> Evidence:
    return Evidence(read(committed / "tiny-imagenet.csv"))


def test_curves_are_means_over_the_same_repetitions(photographs: Evidence) -> None:
    table = tables.frozen_curves(photographs)
    board = photographs.board
    near = table[table["line"].str.startswith("near")].set_index("x")
    for frozen in range(8):
        rows = [
            r
            for r in board.to_dict("records")
            if r["source"] == "near"
            and r["frozen"] == frozen
            and r["reinit"] == 1
            and r["treatment"] in ("tune", "freeze", "partly")
            and (r["target"], r["n_per_class"], r["lr"]) == ("animal.n.01", 100, 0.01)
            and r["copied_lr_factor"] == 1
            and r["class_draw"] == 0
            and r["seed_init"] in (0, 1)
        ]
        assert len(rows) == 2
        mean = sum(r["top1_accuracy"] for r in rows) / 2
        assert near.loc[frozen, "mean"] == pytest.approx(mean)
        assert near.loc[frozen, "n"] == 2
        assert near.loc[frozen, "unit"] == "seed"


def test_an_interval_of_several_tasks_is_students_over_their_means(photographs: Evidence) -> None:
    table = tables.data_curves(photographs)
    runs = tables.runs_of_curves(photographs)
    several = 0
    for row in table.to_dict("records"):
        mine = runs[(runs["line"] == row["line"]) & (runs["setting"] == row["setting"])]
        mine = mine[mine["x"] == row["x"]]
        means = mine.groupby(["target", "class_draw"])["top1_accuracy"].mean()
        assert row["mean"] == pytest.approx(means.mean())
        assert row["repetitions"] == len(mine)
        if len(means) == 1:
            assert (row["n"], row["unit"]) == (len(mine), "seed")
            continue
        several += 1
        assert (row["n"], row["unit"]) == (len(means), "task")
        low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((max(low, 0), min(high, 1)))
    assert several >= 15


def test_a_diverged_run_is_on_the_curve_at_chance(photographs: Evidence) -> None:
    board = photographs.board.copy()
    of = (board["source"] == "near") & (board["pattern"] == "F(1-3)T(4-7)R(8)")
    away = board.index[of & (board["seed_init"] == 1)]
    assert len(away) == 1
    board.loc[away, "status"] = "diverged"
    changed = tables.frozen_curves(Evidence(prepare(board.drop(columns=list(ADDED)))))
    before = tables.frozen_curves(photographs)
    at = (changed["line"].str.startswith("near")) & (changed["x"] == 3)
    assert changed.loc[at, "diverged"].tolist() == [1]
    assert changed.loc[~at, "diverged"].sum() == 0
    lost = float(board.loc[away, "top1_accuracy"].iloc[0]) - 1 / 20
    assert changed.loc[at, "mean"].iloc[0] == pytest.approx(
        before.loc[at, "mean"].iloc[0] - lost / 2
    )


def test_a_curve_never_changes_its_repetitions(photographs: Evidence) -> None:
    runs = tables.runs_of_curves(photographs)
    for _, group in runs.groupby(["line", "setting"]):
        sets = [set(zip(g["task"], g["seed"], strict=True)) for _, g in group.groupby("x")]
        assert len(sets) >= 3
        assert all(s == sets[0] for s in sets)


@pytest.mark.parametrize(
    "make",
    [
        tables.data_curves,
        tables.lr_curves,
        tables.frozen_curves,
        tables.copied_curves,
        tables.source_size_curves,
        tables.costs,
    ],
)
def test_a_leaderboard_without_the_experiment_gives_an_empty_table(make: object) -> None:
    row = {
        "status": "done",
        "role": "finetune",
        "dataset": "d",
        "target": "t",
        "class_draw": 0,
        "source": "none",
        "model": "m",
        "pattern": "R(1-8)",
        "method": "plain",
        "top1_accuracy": 0.5,
    }
    assert callable(make)
    assert make(Evidence(prepare(pd.DataFrame([row])))).empty


def test_the_pareto_front_is_what_nothing_beats(photographs: Evidence) -> None:
    table = tables.costs(photographs)
    for _, panel in table.groupby(["setting", "n_per_class"]):
        for row in panel.to_dict("records"):
            beaten = any(
                other["seconds"] < row["seconds"] and other["accuracy"] > row["accuracy"]
                for other in panel.to_dict("records")
            )
            assert not (row["best"] and beaten)
        assert panel["best"].any()


def test_machines_count_every_run_and_hour(photographs: Evidence) -> None:
    table = tables.machines(photographs.board)
    assert table["runs"].sum() == 666
    assert table["hours"].sum() == pytest.approx(photographs.board["seconds"].sum() / 3600)


def test_without_cost_columns_machines_are_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="no cost columns"):
        tables.machines(pd.DataFrame({"status": ["done"]}))


def test_unfinished_runs_are_counted_with_their_reason(photographs: Evidence) -> None:
    board = photographs.board.copy()
    board.loc[board.index[:3], "status"] = "failed"
    board["reason"] = board["reason"].astype(object)
    board.loc[board.index[:3], "reason"] = "out of memory"
    table = tables.unfinished(board)
    assert table["runs"].sum() == 3
    assert set(table["reason"]) == {"out of memory"}


def test_points_and_bands_of_a_ratio_chart(photographs: Evidence) -> None:
    charts = ratio_tables.ratio_charts(photographs)
    assert {"tune / freeze", "tuned / scratch", "tuned: last 1 / last 3 random"} <= set(charts)
    for ratios in charts.values():
        points = ratio_tables.point_table(ratios, "data")
        assert sorted(points["ratio"]) == pytest.approx(sorted(ratios.frame["ratio"]))
        assert np.allclose(np.log(points["shown_x"] / points["x"]), 0, atol=0.2)
        bands = ratio_tables.band_table(ratios, "data").set_index("band")
        # The slow twin: logarithms averaged over seeds, then over sizes and comparisons of a
        # task, then over tasks.
        for band, row in bands.iterrows():
            inside = ratios.frame[[data_band(n) == band for n in ratios.frame["n_per_class"]]]
            if inside.empty:
                assert row["note"] == "no experiment in this band"
                continue
            sizes = inside.groupby(
                ["task", "comparison", "n_per_class", "epochs", "target_classes"]
            )
            means = sizes["log_ratio"].mean().groupby("task").mean()
            assert row["ratio"] == pytest.approx(inside["ratio"].mean())
            assert row["geometric_mean"] == pytest.approx(math.exp(means.mean()))
            assert row["points"] == len(inside)
            if len(means) == 1:
                assert (row["n"], row["unit"]) == (inside["seed"].nunique(), "seed")
                continue
            assert (row["n"], row["unit"]) == (len(means), "task")
            ends = stats.ttest_1samp(means, 0).confidence_interval(0.95)
            assert (row["low"], row["high"]) == pytest.approx(tuple(map(math.exp, ends)))


def test_the_ratio_of_equal_runs_is_one(photographs: Evidence) -> None:
    board = photographs.board.copy()
    board["top1_accuracy"] = 0.4
    for ratios in ratio_tables.ratio_charts(Evidence(board)).values():
        assert (ratio_tables.point_table(ratios, "data")["ratio"] == 1).all()
        bands = ratio_tables.band_table(ratios, "data")
        assert bands["ratio"].dropna().to_numpy() == pytest.approx(1.0)


def test_trend_lines_are_averages_of_the_points_drawn() -> None:
    """CHU Figs. 1 and 2: "Trend lines are averages", each point a pair of experiments."""
    points = {"a": (1.8, 1.2, 1.0), "b": (0.9, 0.8), "c": (1.5,)}
    rows = [
        {
            "status": "done",
            "role": "finetune",
            "source": "near",
            "method": "plain",
            "dataset": "d",
            "target": task,
            "class_draw": 0,
            "model": "net",
            "images_per_class": 2 + place,
            "pattern": pattern,
            "lr": 0.01,
            "seed_draw": 0,
            "seed_init": 0,
            "seed_order": 0,
            "top1_accuracy": 0.4 * (ratio if pattern[0] == "T" else 1.0),
        }
        for task, ratios in points.items()
        for place, ratio in enumerate(ratios)
        for pattern in ("T(1-7)R(8)", "F(1-7)R(8)")
    ]
    ratios = ratio_tables.ratio_charts(Evidence(prepare(pd.DataFrame(rows))))["tune / freeze"]
    low = ratio_tables.band_table(ratios, "data").set_index("band").loc["low"]
    drawn = ratio_tables.point_table(ratios, "data")["ratio"]
    assert low["ratio"] == pytest.approx(drawn.mean()) == pytest.approx(1.2)
    # The geometric mean, over tasks that weigh the same, carries the interval.
    logs = [np.log(np.array(task)).mean() for task in points.values()]
    assert low["geometric_mean"] == pytest.approx(math.exp(np.mean(logs)))
    ends = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (low["low"], low["high"]) == pytest.approx(tuple(map(math.exp, ends)))


def test_distances_place_the_points(photographs: Evidence) -> None:
    distances = pd.DataFrame({"source": ["near", "far"], "cosine": [0.1, 0.5]})
    evidence = Evidence(photographs.board, distances=distances)
    ratios = ratio_tables.ratio_charts(evidence)["tune / freeze"]
    points = ratio_tables.point_table(ratios, "distance")
    assert set(points["x"]) == {0.1, 0.5}
    bands = ratio_tables.band_table(ratios, "distance").set_index("band")
    assert bands.loc["large", "points"] + bands.loc["low", "points"] == len(points)


CURVES = (("T(1-7)R(8)", 0.9, 0.3), ("F(1-7)R(8)", 0.7, 0.15))
MEETS = (0.9 / 0.7) ** (1 / 0.15)
"""Tuned and frozen as power laws of the error, and where they are equal."""


def planted(tasks: int, seeds: int, noise: float) -> Evidence:
    """Errors with `noise` percent of noise."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "status": "done",
            "role": "finetune",
            "dataset": "d",
            "target": "t",
            "class_draw": task,
            "source": "near",
            "model": "m",
            "pattern": pattern,
            "method": "plain",
            "lr": 0.01,
            "images_per_class": n,
            "seed_draw": s,
            "seed_init": s,
            "seed_order": s,
            "top1_accuracy": 1 - scale * n**-exponent * (1 + noise / 100 * rng.standard_normal()),
        }
        for pattern, scale, exponent in CURVES
        for n in (2, 4, 8, 16, 32)
        for task in range(tasks)
        for s in range(seeds)
    ]
    return Evidence(prepare(pd.DataFrame(rows)))


def test_fits_and_crossings_of_planted_curves() -> None:
    evidence = planted(tasks=1, seeds=3, noise=0)
    curves, laws = ratio_tables.fits(evidence)
    exponents = laws.set_index("line")["exponent"]
    assert exponents["near, tuned"] == pytest.approx(0.3, abs=1e-6)
    assert exponents["near, frozen"] == pytest.approx(0.15, abs=1e-6)
    assert set(curves["line"]) == {"near, tuned", "near, frozen"}
    # Tuned reaches its best at its largest size; frozen needs more than was measured.
    needed = laws.set_index("line")
    assert needed.loc["near, tuned", "images"] == pytest.approx(32, rel=1e-6)
    assert bool(needed.loc["near, frozen", "extrapolated"])
    examined = examine(evidence)
    (at,) = ratio_tables.crossings(examined.answers, examined.gains).to_dict("records")
    assert at["images"] == pytest.approx(MEETS, rel=0.05)
    assert at["above"] == "left"
    # Seeds that agree to the last digit have no spread, so nothing is decided.
    assert (at["low"], at["high"], at["decided"]) == (None, None, False)


@pytest.mark.parametrize("tasks", [1, 4])
def test_a_crossing_is_decided_where_both_its_ends_are(tasks: int) -> None:
    evidence = planted(tasks=tasks, seeds=5, noise=0.5)
    examined = examine(evidence)
    (at,) = ratio_tables.crossings(examined.answers, examined.gains).to_dict("records")
    gains = examined.gains[examined.gains["question"] == "treatment"].set_index("n_per_class")
    assert (gains.loc[2, "verdict"], gains.loc[32, "verdict"]) == ("lower", "higher")
    assert at["decided"]
    assert at["low"] < at["images"] < at["high"]
    assert (at["low"], at["high"]) == pytest.approx((MEETS, MEETS), rel=0.3)
    assert (at["n"], at["unit"]) == ((5, "seed") if tasks == 1 else (4, "task"))
    assert (at["smallest"], at["largest"], at["label"]) == (2, 32, "near, tuned − frozen")
    # The same curves where neither end, or only one of them, has a verdict.
    for ends in ((2,), (32,), (2, 32)):
        open_ = examined.gains.copy()
        open_.loc[open_["n_per_class"].isin(ends), "verdict"] = "undecided"
        (other,) = ratio_tables.crossings(examined.answers, open_).to_dict("records")
        assert not other["decided"]
        assert other["images"] == at["images"]


def test_a_law_is_fitted_to_each_repetition() -> None:
    evidence = planted(tasks=3, seeds=2, noise=0.5)
    _, laws = ratio_tables.fits(evidence)
    board = evidence.board
    for pattern, word in (("T(1-7)R(8)", "tuned"), ("F(1-7)R(8)", "frozen")):
        runs = board[board["pattern"] == pattern]
        slopes: dict[int, list[float]] = {}
        for (draw, _), group in runs.groupby(["class_draw", "seed_init"]):
            found = stats.linregress(
                np.log(group["images_per_class"]), np.log(1 - group["top1_accuracy"])
            )
            slopes.setdefault(int(draw), []).append(-float(found.slope))
        means = [sum(values) / len(values) for values in slopes.values()]
        low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        (row,) = laws[laws["line"] == f"near, {word}"].to_dict("records")
        assert row["exponent"] == pytest.approx(np.mean(means))
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert (row["n"], row["unit"]) == (3, "task")
