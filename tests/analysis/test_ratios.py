"""Pairs with all else fixed, ratio charts, bands; on leaderboards with known answers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.bands import BANDS, data_band, distance_band, printed_advice, printed_evidence
from analysis.board import SOURCE_FACTORS, best_lr, options, pair, prepare, read, summarise
from analysis.ratios import band_averages, copy_ratios, gains, tune_freeze_ratios, with_distance
from bench.errors import DataError
from bench.records import COLUMNS

PATTERNS = (
    "T(1-7)R(8)",
    "T(1-5)R(6-8)",
    "T(1-3)R(4-8)",
    "F(1-7)R(8)",
    "F(1-5)R(6-8)",
    "F(1-3)R(4-8)",
)
CHU_SPLITS = {
    "caltech256": (1, 10, 25, 53),
    "sun397": (1, 10, 50, 70),
    "mitindoor": (1, 10, 25, 75),
    "cub": (5, 20, 35),
    "coral": (10, 50, 200, 450),
    "plankton": (1, 10, 300, 550),
}


def _row(**given_: Any) -> dict[str, Any]:
    row = dict.fromkeys((c.name for c in COLUMNS), None) | {
        "status": "done",
        "role": "finetune",
        "source": "near",
        "dataset": "d",
        "target": "t",
        "class_draw": 0,
        "images_per_class": 5,
        "model": "m",
        "pattern": "T(1-7)R(8)",
        "method": "plain",
        "method_options": "",
        "lr": 0.01,
        "seed_draw": 0,
        "seed_init": 0,
        "seed_order": 0,
        "top1_accuracy": 0.5,
    }
    return row | given_


def _board(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return prepare(pd.DataFrame(rows))


def _chu(accuracy: Any) -> pd.DataFrame:
    return _board(
        [
            _row(dataset=d, images_per_class=n, pattern=p, top1_accuracy=accuracy(p, n))
            for d, sizes in CHU_SPLITS.items()
            for n in sizes
            for p in PATTERNS
        ]
    )


# --- bands ---


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2000))
def test_data_bands_are_the_printed_ranges(n: int) -> None:
    ranges = {"low": range(1, 21), "medium": range(21, 100), "large": range(100, 2001)}
    assert n in ranges[data_band(n)]


def test_distance_bands_are_half_open() -> None:
    below = math.nextafter(0.2, 0), math.nextafter(0.4, 0)
    assert [distance_band(d) for d in (0, below[0], 0.2, below[1], 0.4, 1)] == [
        "low",
        "low",
        "medium",
        "medium",
        "large",
        "large",
    ]
    for wrong in (-0.1, 2.1, math.nan):
        with pytest.raises(DataError):
            distance_band(wrong)
    for wrong in (0, -1, math.nan):
        with pytest.raises(DataError):
            data_band(wrong)


def test_evidence_behind_the_printed_table() -> None:
    counts = printed_evidence()
    matrix = [[counts[d, n] for n in BANDS] for d in BANDS]
    assert matrix == [[6, 6, 1], [4, 3, 0], [3, 1, 4]]
    assert sum(map(sum, matrix)) == 28


def test_printed_advice() -> None:
    table = [[printed_advice(d, n) for n in BANDS] for d in BANDS]
    assert table == [
        ["freeze", "try both", "tune"],
        ["try both", "tune", "tune"],
        ["try both", "tune", "tune"],
    ]


# --- the board ---


def test_patterns_are_taken_apart_at_any_depth() -> None:
    rows = [_row(pattern=p) for p in (*PATTERNS, "R(1-8)", "F(1-3)T(4-17)R(18)", "T(1-50)R(51-53)")]
    board = _board(rows)
    assert board["reinit"].tolist() == [1, 3, 5, 1, 3, 5, 8, 1, 3]
    assert board["treatment"].tolist() == [
        *["tune"] * 3,
        *["freeze"] * 3,
        "scratch",
        "partly",
        "tune",
    ]
    assert board["frozen"].tolist() == [0, 0, 0, 7, 5, 3, 0, 3, 0]


def test_csv_keeps_the_word_none_and_empty_cells(tmp_path: Any) -> None:
    path = tmp_path / "board.csv"
    pd.DataFrame(
        [
            _row(
                source="none",
                pattern="R(1-8)",
                images_per_class=None,
                train_images=30,
                target_classes=3,
            )
        ]
    ).to_csv(path, index=False)
    board = read(path)
    assert board["source"].tolist() == ["none"]
    assert board["n_per_class"].tolist() == [10]
    with pytest.raises(DataError, match="no such leaderboard"):
        read(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pd.DataFrame(), "empty"),
        (pd.DataFrame([{"status": "done"}]), "no column dataset"),
        (pd.DataFrame([_row(pattern="X(1)")]), "cannot read"),
    ],
)
def test_wrong_boards_are_named(rows: pd.DataFrame, said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepare(rows)


def test_options_of_a_method() -> None:
    assert options("a=1;b=x=y") == {"a": "1", "b": "x=y"}
    assert options(float("nan")) == options("") == {}


def _literal_pairs(board: pd.DataFrame, left: Any, right: Any, vary: set[str]) -> list[float]:
    factors = [c.name for c in COLUMNS if c.kind == "factor" and c.name not in vary]
    rows = [
        {key: None if value != value else value for key, value in row.items()}
        for row in board.to_dict("records")
    ]
    found = []
    for a in rows:
        others = [
            b["top1_accuracy"] for b in rows if right(b) and all(a[f] == b[f] for f in factors)
        ]
        if left(a) and others:
            found.append(a["top1_accuracy"] - sum(others) / len(others))
    return sorted(found)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["near", "far"]),
            st.sampled_from([5, 10, None]),
            st.integers(0, 1),
            st.floats(0.1, 0.9),
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda t: t[:3],
    )
)
def test_pairs_are_the_double_loop(cells: list[tuple[Any, ...]]) -> None:
    board = _board(
        [
            _row(source=s, images_per_class=n, seed_draw=seed, top1_accuracy=a)
            for s, n, seed, a in cells
        ]
    )
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE_FACTORS)
    literal = _literal_pairs(
        board,
        lambda r: r["source"] == "near",
        lambda r: r["source"] == "far",
        set(SOURCE_FACTORS),
    )
    assert sorted(found.frame["difference"]) == pytest.approx(literal)
    assert len(found) + found.unpaired == sum(s == "near" for s, *_ in cells)


def test_runs_without_a_result_are_counted_and_left_out() -> None:
    board = _board(
        [
            _row(source="near"),
            _row(source="far", status="diverged", top1_accuracy=None),
            _row(source="near", seed_draw=1),
            _row(source="far", seed_draw=1, top1_accuracy=0.4),
        ]
    )
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE_FACTORS)
    assert (len(found), found.unpaired, found.unfinished) == (1, 1, 1)


def test_the_learning_rate_is_chosen_by_validation_alone() -> None:
    rows = [
        _row(lr=lr, seed_draw=s, val_top1_accuracy=v, top1_accuracy=t)
        for lr, v, t in ((0.01, 0.6, 0.3), (0.1, 0.5, 0.9))
        for s in (0, 1)
    ]
    assert best_lr(_board(rows))["lr"].tolist() == [0.01, 0.01]
    without = [row | {"val_top1_accuracy": None} for row in rows]
    with pytest.raises(DataError, match="no validation accuracy"):
        best_lr(_board(without))


def test_pairs_share_draws_before_they_count() -> None:
    # Ten sizes of one seed are one repetition, not ten.
    board = _board(
        [
            _row(source=s, images_per_class=n, seed_draw=seed, top1_accuracy=a)
            for s, a in (("near", 0.5), ("far", 0.4))
            for n in range(1, 11)
            for seed in (0, 1, 2)
        ]
    )
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE_FACTORS)
    assert len(found) == 30
    assert summarise(found.frame, "difference", "x").n == 3


# --- ratios ---


def test_a_panel_has_as_many_points_as_there_are_splits() -> None:
    board = _chu(lambda p, n: 0.5)
    for treatment in ("tune", "freeze"):
        for reinit in (3, 5):
            found = copy_ratios(board, treatment, reinit)  # type: ignore[arg-type]
            assert len(found.frame) == 23
            assert set(found.frame["ratio"]) == {1.0}
    assert len(tune_freeze_ratios(board).frame) == 23


def test_known_ratios_give_known_averages() -> None:
    board = _chu(
        lambda p, n: (0.6 if p[0] == "T" else 0.4) if n >= 100 else (0.3 if p[0] == "T" else 0.4)
    )
    averages = band_averages(tune_freeze_ratios(board), "data").set_index("band")
    assert averages["mean_ratio"].tolist() == pytest.approx([0.75, 0.75, 1.5])
    assert averages["geometric_mean"].tolist() == pytest.approx([0.75, 0.75, 1.5])
    assert averages["points"].tolist() == [11, 8, 4]
    assert averages.loc["large", "unit"] == "class draw"


def test_bands_by_distance_use_the_table_of_distances() -> None:
    board = _chu(lambda p, n: 0.5)
    distances = pd.DataFrame({"dataset": ["coral", "cub"], "cosine": [0.455, 0.358]})
    found = tune_freeze_ratios(board, distances)
    assert int(found.frame["distance"].notna().sum()) == 7
    averages = band_averages(found, "distance").set_index("band")
    assert averages["points"].tolist() == [0, 3, 4]
    assert averages.loc["low", "note"] == "no experiment in this band"


def test_zero_accuracy_gives_no_ratio_and_is_counted() -> None:
    board = _chu(lambda p, n: 0.0 if (p[0] == "F" and n == 1) else 0.5)
    found = tune_freeze_ratios(board)
    assert found.zero == 4
    assert len(found.frame) == 19
    assert found.frame["log_ratio"].map(math.isfinite).all()


def test_ratios_near_chance_are_flagged() -> None:
    facts = {"target_classes": 10, "test_images": 1000}
    rows = [
        _row(pattern=p, seed_draw=s, top1_accuracy=a, **facts)
        for s, a in ((0, 0.11), (1, 0.5))
        for p in ("T(1-7)R(8)", "F(1-7)R(8)")
    ]
    assert tune_freeze_ratios(_board(rows)).frame["near_chance"].tolist() == [True, False]
    assert tune_freeze_ratios(_chu(lambda p, n: 0.5)).frame["near_chance"].isna().all()


def test_gains_are_in_points() -> None:
    board = _board([_row(source="near", top1_accuracy=0.5), _row(source="far", top1_accuracy=0.42)])
    found = gains(board, board["source"] == "near", board["source"] == "far", SOURCE_FACTORS)
    assert found.frame["gain_points"].tolist() == pytest.approx([8])


def test_distances_must_say_whose_they_are() -> None:
    frame = _chu(lambda p, n: 0.5)
    with pytest.raises(DataError, match="needs cosine"):
        with_distance(frame, pd.DataFrame({"name": ["x"], "cosine": [0.1]}))
    with pytest.raises(DataError, match="two distances"):
        with_distance(frame, pd.DataFrame({"dataset": ["cub"] * 2, "cosine": [0.1, 0.2]}))
    assert with_distance(frame, None)["distance"].isna().all()


def test_neither_arm_is_tuned_harder_than_the_other() -> None:
    # near tried three rates, far one of them: only that one is compared.
    rows = [
        _row(source=s, lr=lr, seed_draw=seed, val_top1_accuracy=a, top1_accuracy=a)
        for s, rates in (("near", {0.01: 0.5, 0.03: 0.7, 0.1: 0.6}), ("far", {0.01: 0.4}))
        for lr, a in rates.items()
        for seed in (0, 1)
    ]
    board = _board(rows)
    arms = board["source"] == "near", board["source"] == "far"
    found = pair(board, *arms, SOURCE_FACTORS, lr="best")
    assert found.frame["difference"].tolist() == pytest.approx([0.1, 0.1])
    # Without a rate in common each arm has its own best.
    rows = [row | {"lr": 0.2} if row["source"] == "far" else row for row in rows]
    board = _board(rows)
    found = pair(board, *arms, SOURCE_FACTORS, lr="best")
    assert found.frame["lr"].tolist() == [0.03, 0.03]
    assert found.frame["difference"].tolist() == pytest.approx([0.3, 0.3])


def test_rates_are_compared_on_the_repetitions_that_all_finished() -> None:
    # Seed 1 is easy; only rate 0.1 has it. On the seed that both have, 0.01 is better.
    rows = [
        _row(lr=lr, seed_draw=seed, val_top1_accuracy=v, top1_accuracy=v)
        for lr, seed, v in ((0.01, 0, 0.5), (0.1, 0, 0.4), (0.1, 1, 0.9))
    ]
    assert best_lr(_board(rows))["lr"].tolist() == [0.01]
