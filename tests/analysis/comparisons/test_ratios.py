"""Pairs with all else fixed, ratio charts, bands; on leaderboards with known answers."""

from __future__ import annotations

import fnmatch
import math
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import best_lr, comparisons, pair
from analysis.comparisons.ratios import (
    Ratios,
    band_averages,
    copy_ratios,
    tune_freeze_ratios,
    with_distance,
)
from analysis.comparisons.units import summarise
from analysis.leaderboard.labels import options
from analysis.leaderboard.read import LOSS, PATTERN, SIZES, SOURCE, prepare, read
from analysis.papers.chu2016_bands import (
    BANDS,
    data_band,
    distance_band,
    printed_advice,
    printed_evidence,
)
from bench.core.errors import DataError
from bench.results.records import COLUMNS

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
    stated = options({"method": "soft", "method.schedule": "zero", "method.ramp_epochs": None})
    usual = options({"method": "soft"})
    assert stated == usual | {"schedule": "zero"}
    assert options({"method": "of another version", "method.k": 3}) == {"k": 3}


def test_labels_of_earlier_boards_become_settings_of_their_own() -> None:
    board = _board(
        [
            _row(
                method="selective",
                method_options="k0=20;adaptive=False",
                borrowed="parent, 0.1 of images",
                target="t take 5",
                run_id="a",
            )
        ]
    )
    found = board.iloc[0]
    assert (found["method.k0"], found["method.adaptive"]) == (20, False)
    assert (found["borrow.images"], found["borrowed_sets"]) == (0.1, 1)
    assert (found["target"], found["target.classes.take"]) == ("t", 5)
    assert (found["source_side"], found["source_links"]) == ("near", 1)
    assert "written by an earlier version" in board.attrs["notes"][0]


# --- pairs ---


def _named(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


_OF_THE_TASK = {
    *("dataset", "target", "class_draw", "target.root", "target.classes.*", "target.options.*"),
    *("source.*dataset", "source.*root", "source.*classes.target_n", "source.*classes.source_n"),
}
_OF_A_REPETITION = {"seed_draw", "seed_init", "seed_order", "*.seeds.*", "*class_draw"}


def _literal_pairs(
    board: pd.DataFrame, left: Any, right: Any, vary: Collection[str]
) -> tuple[list[tuple[Any, ...]], dict[Any, set[Any]], int]:
    """Every left run beside every right run, by the rule in words.

    They pair where all settings are equal but those that the comparison names, and they start from
    the same run unless the source is named. Right runs that differ from each other in seeds alone
    are averaged; others make comparisons of their own. A recipe is all settings but those of the
    task, of repetitions, and the sizes that a claim is averaged over.

    Returns:
        Left run, difference and the right runs, sorted; the pairs of each comparison; and how
        many left runs are alone.
    """
    settings_ = [c.name for c in COLUMNS if c.kind == "factor"]
    settings_ += [name for name in board.columns if "." in name]
    rows = [
        {key: None if value != value else value for key, value in row.items()} | {"place": place}
        for place, row in board.to_dict("index").items()
        if row["status"] in ("done", "diverged") and row["top1_accuracy"] == row["top1_accuracy"]
    ]
    equal = [name for name in settings_ if not _named(name, vary)]
    equal += [] if _named("source", vary) else ["parent_id"]
    apart = {*_OF_THE_TASK, *_OF_A_REPETITION, *SIZES}
    recipe = [name for name in settings_ if not _named(name, apart)]
    groups: dict[Any, tuple[list[Any], list[Any]]] = {}
    alone = 0
    for a in (row for row in rows if left(row)):
        kinds: dict[Any, list[Any]] = {}
        for b in (row for row in rows if right(row)):
            if all(a[name] == b[name] for name in equal):
                kinds.setdefault(tuple(b[name] for name in recipe), []).append(b)
        alone += not kinds
        for kind, others in kinds.items():
            names = tuple(a[name] for name in recipe), kind
            held = tuple(a[name] for name in equal)
            groups.setdefault((names, held), ([], others))[0].append(a)
    found, comparisons_ = [], {}
    for (names, _), sides in groups.items():
        means = [sum(row["top1_accuracy"] for row in side) / len(side) for side in sides]
        places = [tuple(row["place"] for row in side) for side in sides]
        found.append((places[0][0], round(means[0] - means[1], 9), places[1]))
        comparisons_.setdefault(names, set()).add((places[0][0], places[1][0]))
    return sorted(found), comparisons_, alone


SETTINGS = {
    "source": ("near", "far"),
    "images_per_class": (5, None),
    "seed_draw": (0, 1),
    "train.momentum": (0.5, 0.9),
    "source.train.lr": (0.1, 0.2),
    "source.seeds.init": (0, 1),
    "class_draw": (0, 1),
}
STATES = ("done", "done", "done", "diverged", "failed")
CELL = st.tuples(*(st.sampled_from(values) for values in SETTINGS.values()))
CELLS = st.dictionaries(
    CELL, st.tuples(st.sampled_from(STATES), st.integers(1, 9)), min_size=2, max_size=40
)
NAMED = {
    "source": SOURCE,
    "train.momentum": ("train.momentum",),
    "images_per_class": ("images_per_class",),
    "source.train.lr": ("source.*", "source"),
}
Cells = dict[tuple[Any, ...], tuple[str, int]]


def _of_cells(cells: Cells) -> list[dict[str, Any]]:
    rows = []
    for cell, (status, tenths) in cells.items():
        row = dict(zip(SETTINGS, cell, strict=True))
        source = [row[n] for n in ("source", "source.train.lr", "source.seeds.init")]
        row |= {"parent_id": "-".join(map(str, source)), "target_classes": 4, "status": status}
        rows.append(_row(**row, top1_accuracy=tenths / 10 if status == "done" else None))
    return rows


def _arms(board: pd.DataFrame, name: str) -> tuple[Any, Any, Any, Any]:
    """Rows with the first and with the second value of a setting, as masks and as functions."""
    first, second = SETTINGS[name]
    is_second = board[name].isna() if second is None else board[name] == second
    return (
        board[name] == first,
        is_second,
        lambda row: row[name] == first,
        lambda row: row[name] == second,
    )


@pytest.mark.parametrize("name", NAMED)
@settings(deadline=None, max_examples=40)
@given(cells=CELLS)
def test_pairs_are_the_double_loop(name: str, cells: Cells) -> None:
    board = _board(_of_cells(cells))
    left, right, is_left, is_right = _arms(board, name)
    found = pair(board, left, right, NAMED[name])
    literal, comparisons_, alone = _literal_pairs(board, is_left, is_right, NAMED[name])
    rows = found.frame.to_dict("records")
    assert sorted((r["left_place"], round(r["difference"], 9)) for r in rows) == [
        (place, difference) for place, difference, _ in literal
    ]
    groups: dict[str, set[Any]] = {}
    for r in rows:
        groups.setdefault(r["comparison"], set()).add((r["left_place"], r["right_place"]))
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, comparisons_.values()))
    assert found.unpaired == alone
    assert found.unfinished == int(((left | right) & (board["status"] == "failed")).sum())


@pytest.mark.parametrize("name", NAMED)
@settings(deadline=None, max_examples=25)
@given(cells=CELLS, shuffle=st.randoms(use_true_random=False))
def test_pairing_does_not_depend_on_the_order_of_rows(
    name: str, cells: Cells, shuffle: random.Random
) -> None:
    rows = pd.DataFrame(_of_cells(cells))
    order = list(rows.index)
    shuffle.shuffle(order)
    results = []
    for board in (prepare(rows), prepare(rows.loc[order])):
        left, right, *_ = _arms(board, name)
        found = pair(board, left, right, NAMED[name])
        columns = ["left_place", "left", "right", "difference", "diverged", "size", "task", "seed"]
        table = found.frame[[*columns, "comparison"]].sort_values(["left_place", "comparison"])
        results.append((table.to_dict("records"), found.unpaired, found.unfinished))
        estimates = [
            summarise(group, "difference", "x").value for group in comparisons(found.frame)
        ]
        results[-1] += (sorted(estimates),)
    assert results[0] == results[1]


def test_another_momentum_is_another_comparison_and_never_a_seed() -> None:
    # The fault that was seen: treatments that no column told apart were averaged as seeds.
    rows = [
        _row(source=source, seed_draw=seed, top1_accuracy=a, **{"train.momentum": momentum})
        for source, momentum, a in (
            ("near", 0.5, 0.5),
            ("near", 0.9, 0.9),
            ("far", 0.5, 0.4),
            ("far", 0.9, 0.2),
        )
        for seed in (0, 1)
    ]
    board = _board(rows)
    arms = board["source"] == "near", board["source"] == "far"
    groups = list(comparisons(pair(board, *arms, SOURCE).frame))
    assert [group["difference"].round(9).tolist() for group in groups] == [[0.1, 0.1], [0.7, 0.7]]
    # Where momentum is named too, each left run has a comparison with either.
    both = pair(board, *arms, (*SOURCE, "train.momentum")).frame
    assert [len(group) for group in comparisons(both)] == [2, 2, 2, 2]


def test_unlike_targets_with_sources_of_their_own_are_one_comparison() -> None:
    rows = [
        _row(
            source=source,
            target=root,
            class_draw=draw,
            top1_accuracy=a,
            **{
                "target.classes.root": root,
                "source.classes.root": root,
                "source.classes.side": source,
                "source.classes.source_n": n,
            },
        )
        for source, a in (("near", 0.5), ("far", 0.4))
        for root, draw, n in (("animal.n.01", 0, 40), ("animal.n.01", 1, 40), ("tool.n.01", 0, 30))
    ]
    board = _board(rows)
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE).frame
    (group,) = comparisons(found)
    assert (len(group), group["task"].nunique()) == (3, 3)


@pytest.mark.parametrize(("second", "groups"), [(None, [3]), ("plant.n.02", [2, 1])])
def test_what_is_borrowed_beside_the_target_is_one_treatment_whatever_the_targets_root(
    second: str | None, groups: list[int]
) -> None:
    # A label that names the root: of the target's own it follows from the task, of another not.
    rows = [
        _row(
            source="near",
            target=root,
            class_draw=draw,
            method="selective",
            borrowed=f"parent;{named} far" if both else "parent",
            borrowed_sets=1 + both,
            top1_accuracy=0.4 + 0.1 * both,
            **{
                "target.classes.root": root,
                "borrow.classes.root": root,
                "borrow2.classes.root": named if both else None,
            },
        )
        for both in (False, True)
        for root, draw in (("animal.n.01", 0), ("animal.n.01", 1), ("tool.n.01", 0))
        for named in [second if second and root == "tool.n.01" else root]
    ]
    board = _board(rows)
    vary = (*SOURCE, "borrowed", "borrowed_*", "borrow*")
    found = pair(board, board["borrowed_sets"] == 2, board["borrowed_sets"] == 1, vary).frame
    assert [len(group) for group in comparisons(found)] == groups


def test_one_selection_for_all_targets_is_one_treatment() -> None:
    # Its label names the root of one of the targets, and an arm beside it makes the column.
    rows = [
        _row(
            target=root,
            class_draw=draw,
            method="selective",
            borrowed=borrowed,
            borrowed_sets=1,
            top1_accuracy=a,
            **{"target.classes.root": root, "borrow.classes.root": own},
        )
        for root, draw in (("animal.n.01", 0), ("animal.n.01", 1), ("tool.n.01", 0))
        for borrowed, own, a in (("animal.n.01", None, 0.5), (f"{root} far", root, 0.4))
    ]
    board = _board(rows)
    vary = (*SOURCE, "borrowed", "borrowed_*", "borrow*")
    fixed = board["borrowed"] == "animal.n.01"
    found = pair(board, fixed, ~fixed, vary).frame
    assert {left.split(" − ")[0] for left in found["comparison"]} == {
        found["comparison"].iloc[0].split(" − ")[0]
    }


def test_an_option_that_both_methods_have_is_held() -> None:
    # What BatchNorm sees is an option of joint and of soft fine-tuning, and of no plain run.
    rows = [
        _row(method=method, top1_accuracy=a, **{"method.batch_norm": norm})
        for method, norm, a in (
            ("joint", "source", 0.5),
            ("joint", "target", 0.6),
            ("soft", "source", 0.3),
            ("plain", None, 0.1),
        )
    ]
    board = _board(rows)
    joint = board["method"] == "joint"
    against = pair(board, joint, board["method"] == "soft", LOSS)
    assert against.frame["difference"].tolist() == pytest.approx([0.2])
    assert against.unpaired == 1
    plain = pair(board, joint, board["method"] == "plain", LOSS)
    assert plain.frame["difference"].tolist() == pytest.approx([0.4, 0.5])
    assert plain.frame["comparison"].nunique() == 2


def test_a_run_is_compared_with_one_that_starts_from_the_same_run() -> None:
    board = _board(
        [
            _row(parent_id="p", seed_draw=0, top1_accuracy=0.5),
            _row(parent_id="p", seed_draw=0, pattern="F(1-7)R(8)", top1_accuracy=0.4),
            _row(parent_id="p", seed_draw=1, top1_accuracy=0.5),
            _row(parent_id="q", seed_draw=1, pattern="F(1-7)R(8)", top1_accuracy=0.3),
        ]
    )
    tune, freeze = (board["treatment"] == word for word in ("tune", "freeze"))
    found = pair(board, tune, freeze, PATTERN)
    assert found.frame["difference"].tolist() == pytest.approx([0.1])
    assert found.unpaired == 1


def test_runs_without_a_result_are_counted_and_left_out() -> None:
    board = _board(
        [
            _row(source="near"),
            _row(source="far", status="failed", top1_accuracy=None),
            _row(source="near", seed_draw=1),
            _row(source="far", seed_draw=1, top1_accuracy=0.4),
        ]
    )
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE)
    assert (len(found), found.unpaired, found.unfinished) == (1, 1, 1)


def test_a_diverged_run_counts_at_chance_and_is_said() -> None:
    rows = [
        _row(source="near", target_classes=20, top1_accuracy=0.5),
        _row(source="far", target_classes=20, status="diverged", top1_accuracy=None),
    ]
    board = _board(rows)
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE)
    assert found.frame["difference"].tolist() == pytest.approx([0.5 - 1 / 20])
    assert found.frame["diverged"].tolist() == [1]
    assert summarise(found.frame, "difference", "x").diverged == 1
    assert (found.unpaired, found.unfinished) == (0, 0)
    unknown = _board([row | {"target_classes": None} for row in rows])
    found = pair(unknown, unknown["source"] == "near", unknown["source"] == "far", SOURCE)
    assert (len(found), found.unpaired, found.unfinished) == (0, 1, 1)
    assert "1 diverged runs have no number of classes" in unknown.attrs["notes"][0]


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


def test_a_rate_with_runs_that_diverged_is_chosen_only_where_all_have_some() -> None:
    def board(*diverged: tuple[float, int]) -> pd.DataFrame:
        return _board(
            [
                _row(
                    lr=lr,
                    seed_draw=seed,
                    target_classes=10,
                    status="diverged" if (lr, seed) in diverged else "done",
                    val_top1_accuracy=None if (lr, seed) in diverged else v,
                    top1_accuracy=None if (lr, seed) in diverged else v,
                )
                for lr, v in ((0.01, 0.3), (0.1, 0.9))
                for seed in (0, 1)
            ]
        )

    assert set(best_lr(board())["lr"]) == {0.1}
    # Even at chance 0.1 has the better mean, (0.9 + 0.1) / 2.
    assert set(best_lr(board((0.1, 1)))["lr"]) == {0.01}
    both = best_lr(board((0.1, 1), (0.01, 1)))
    assert both["lr"].tolist() == [0.1, 0.1]
    assert both["top1_accuracy"].tolist() == pytest.approx([0.9, 0.1])


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
    found = pair(board, board["source"] == "near", board["source"] == "far", SOURCE)
    assert len(found) == 30
    assert found.frame["comparison"].nunique() == 1
    e = summarise(found.frame, "difference", "x")
    assert (e.n, e.unit) == (3, "seed")


# --- what a pair owes to the test images ---


def _with_truths(rows: list[dict[str, Any]], truths: list[Any]) -> pd.DataFrame:
    return _board(rows).assign(correct=pd.Series(truths, dtype=object))


def _two_arms(seeds: int = 3, images: int = 200) -> tuple[list[dict[str, Any]], list[Any]]:
    """Runs whose arms err on the same images more often than not; and what each got right."""
    rng = np.random.default_rng(5)
    hard = rng.uniform(size=images)
    rows, truths = [], []
    for seed in range(seeds):
        for source, chance in (("near", 0.7), ("far", 0.5)):
            right = (hard + rng.normal(0, 0.1, images)) < chance
            truths.append(right)
            rows.append(_row(source=source, seed_draw=seed, top1_accuracy=float(right.mean())))
            rows[-1] |= {"test_images": images}
    return rows, truths


def test_pairs_carry_what_each_side_got_right() -> None:
    rows, truths = _two_arms()
    board = _with_truths(rows, truths)
    frame = pair(board, board["source"] == "near", board["source"] == "far", SOURCE).frame
    for row in frame.to_dict("records"):
        seed = row["seed_draw"]
        assert row["left_correct"].tolist() == truths[2 * seed].tolist()
        assert row["right_correct"].tolist() == truths[2 * seed + 1].tolist()
    # Sources of several seeds are averaged image by image.
    one = [r | {"source.seeds.init": k} for k, r in enumerate([rows[0], rows[1], rows[1]])]
    board = _with_truths(one, [truths[0], truths[1], truths[3]])
    frame = pair(board, board["source"] == "near", board["source"] == "far", SOURCE).frame
    both = (truths[1].astype(float) + truths[3]) / 2
    assert frame["right_correct"].iloc[0].tolist() == both.tolist()


@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_the_images_error_of_a_pair_is_that_of_drawing_them_again(kind: Any) -> None:
    """Against a bootstrap of the test images of one seed's pair, 2,000 times."""
    rows, truths = _two_arms(images=400)
    board = _with_truths(rows, truths)
    frame = pair(board, board["source"] == "near", board["source"] == "far", SOURCE).frame
    ratio = kind == "ratio"
    values = frame["left"] / frame["right"] if ratio else frame["left"] - frame["right"]
    effect = values.map(math.log) if ratio else values
    # Three equal seeds have no spread, so that the images' error is all there is.
    same = pd.concat([frame.assign(effect=effect).head(1)] * 3).assign(seed=list("abc"))
    found = summarise(same, "effect", "x", kind)
    rng = np.random.default_rng(0)
    left, right = truths[0], truths[1]
    drawn = []
    for _ in range(2000):
        again = rng.integers(left.size, size=left.size)
        a, b = left[again].mean(), right[again].mean()
        drawn.append(math.log(a / b) if ratio else a - b)
    assert found.error == pytest.approx(np.std(drawn, ddof=1), rel=0.06)
    # From counts alone the arms could have erred independently: no less, and here more.
    counts = summarise(same.drop(columns=["left_correct", "right_correct"]), "effect", "x", kind)
    p, q = float(left.mean()), float(right.mean())
    bound = (1 - p) / p + (1 - q) / q if ratio else p * (1 - p) + q * (1 - q)
    assert counts.error == pytest.approx(math.sqrt(bound / 400))
    assert counts.error > found.error  # type: ignore[operator]
    points = summarise(same.assign(effect=100 * same["effect"]), "effect", "x", kind, 100)
    assert points.error == pytest.approx(100 * found.error)  # type: ignore[operator]


# --- ratios ---


def _tune_freeze(board: pd.DataFrame, distances: pd.DataFrame | None = None) -> Ratios:
    return tune_freeze_ratios(Evidence(board, distances=distances), "same")


def test_a_panel_has_as_many_points_as_there_are_splits() -> None:
    board = _chu(lambda p, n: 0.5)
    for treatment in ("tune", "freeze"):
        for reinit in (3, 5):
            found = copy_ratios(Evidence(board), treatment, reinit, "same")  # type: ignore[arg-type]
            assert len(found.frame) == 23
            assert set(found.frame["ratio"]) == {1.0}
    assert len(_tune_freeze(board).frame) == 23


def test_known_ratios_give_known_averages() -> None:
    board = _chu(
        lambda p, n: (0.6 if p[0] == "T" else 0.4) if n >= 100 else (0.3 if p[0] == "T" else 0.4)
    )
    averages = band_averages(_tune_freeze(board), "data").set_index("band")
    assert averages["mean_ratio"].tolist() == pytest.approx([0.75, 0.75, 1.5])
    assert averages["geometric_mean"].tolist() == pytest.approx([0.75, 0.75, 1.5])
    assert averages["points"].tolist() == [11, 8, 4]
    assert averages.loc["large", "unit"] == "task"


def test_committed_ratios_are_those_of_a_plain_join(committed: Path) -> None:
    """Tuning over freezing on Tiny ImageNet, by pandas and scipy alone."""
    file = committed / "tiny-imagenet.csv"
    raw = pd.read_csv(file, keep_default_na=False, dtype=str)
    factors_ = [c.name for c in COLUMNS if c.kind == "factor" and c.name in raw.columns]
    settings_ = [name for name in factors_ if name != "pattern"]
    settings_ += [name for name in raw.columns if "." in name] + ["task_id", "parent_id"]
    plain = raw[(raw["method"] == "plain") & (raw["role"] == "finetune")]
    sides = (plain[plain["pattern"] == pattern] for pattern in ("T(1-7)R(8)", "F(1-7)R(8)"))
    joined = pd.merge(*sides, on=settings_, validate="one_to_one", suffixes=("_t", "_f"))
    tuned, frozen = (joined[f"top1_accuracy_{side}"].astype(float) for side in "tf")
    joined["log"] = np.log(tuned / frozen)
    found = _tune_freeze(read(file))
    assert len(found.frame) == len(joined) > 100
    assert sorted(found.frame["log_ratio"]) == pytest.approx(sorted(joined["log"]))
    assert found.unpaired == (plain["pattern"] == "T(1-7)R(8)").sum() - len(joined)
    # Sources, rates and factors of copied layers are comparisons of their own.
    literal = {}
    for key, group in joined.groupby(["source_side", "lr", "copied_lr_factor"]):
        sizes = group.groupby(["task_id", "images_per_class"])["log"].mean()
        tasks = sizes.groupby("task_id").mean()
        if len(tasks) > 1:
            literal[key] = stats.t.interval(0.95, len(tasks) - 1, tasks.mean(), stats.sem(tasks))
    ours = {}
    for group in comparisons(found.frame):
        e = summarise(group, "log_ratio", "x", "ratio")
        if e.unit == "task":
            first = group.iloc[0]
            key = (*(f"{first[n]:g}" for n in ("lr", "copied_lr_factor")),)
            ours[first["source_side"], *key] = (e.low, e.high)
    assert set(ours) == set(literal)
    assert len(ours) >= 4
    for key, ends in literal.items():
        assert ours[key] == pytest.approx(ends)


def test_bands_by_distance_use_the_table_of_distances() -> None:
    board = _chu(lambda p, n: 0.5)
    distances = pd.DataFrame({"dataset": ["coral", "cub"], "cosine": [0.455, 0.358]})
    found = _tune_freeze(board, distances)
    assert int(found.frame["distance"].notna().sum()) == 7
    averages = band_averages(found, "distance").set_index("band")
    assert averages["points"].tolist() == [0, 3, 4]
    assert averages.loc["low", "note"] == "no experiment in this band"


def test_zero_accuracy_gives_no_ratio_and_is_counted() -> None:
    board = _chu(lambda p, n: 0.0 if (p[0] == "F" and n == 1) else 0.5)
    found = _tune_freeze(board)
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
    assert _tune_freeze(_board(rows)).frame["near_chance"].tolist() == [True, False]
    assert _tune_freeze(_chu(lambda p, n: 0.5)).frame["near_chance"].isna().all()


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
    found = pair(board, *arms, SOURCE, lr="best")
    assert found.frame["difference"].tolist() == pytest.approx([0.1, 0.1])
    # Without a rate in common each arm has its own best.
    rows = [row | {"lr": 0.2} if row["source"] == "far" else row for row in rows]
    board = _board(rows)
    found = pair(board, *arms, SOURCE, lr="best")
    assert found.frame["lr"].tolist() == [0.03, 0.03]
    assert found.frame["difference"].tolist() == pytest.approx([0.3, 0.3])


def test_rates_are_compared_on_the_repetitions_that_all_finished() -> None:
    # Seed 1 is easy; only rate 0.1 has it. On the seed that both have, 0.01 is better.
    rows = [
        _row(lr=lr, seed_draw=seed, val_top1_accuracy=v, top1_accuracy=v)
        for lr, seed, v in ((0.01, 0, 0.5), (0.1, 0, 0.4), (0.1, 1, 0.9))
    ]
    assert best_lr(_board(rows))["lr"].tolist() == [0.01]
