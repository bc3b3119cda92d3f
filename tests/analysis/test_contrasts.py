"""Questions of a leaderboard as paired gains, against slow literal pairing."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.board import prepare, read
from analysis.contrasts import answers, contrasts, gain_table
from analysis.evidence import Evidence
from analysis.headline import headline
from analysis.labels import recipe, settings
from bench.records import COLUMNS


def run(**given: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": "done",
        "role": "finetune",
        "experiments": "e",
        "dataset": "d",
        "target": "t",
        "target_classes": 10,
        "class_draw": 0,
        "source": "near",
        "source_classes": 5,
        "images_per_class": 5,
        "model": "m",
        "pattern": "T(1-7)R(8)",
        "method": "plain",
        "lr": 0.01,
        "copied_lr_factor": 1,
        "epochs": 3,
        "batch_size": 8,
        "source_epochs": 2,
        "seed_draw": 0,
        "seed_init": 0,
        "seed_order": 0,
        "top1_accuracy": 0.5,
        "val_top1_accuracy": 0.5,
    }
    return row | given


def study(draws: int = 3, seeds: int = 2, noise: float = 0.01) -> pd.DataFrame:
    """near tuned 0.6, near frozen 0.5, far tuned 0.55, scratch 0.3, more with more images."""
    rng = np.random.default_rng(0)
    arms = [
        ({"source": "near", "pattern": "T(1-7)R(8)"}, 0.6),
        ({"source": "near", "pattern": "F(1-7)R(8)"}, 0.5),
        ({"source": "far", "pattern": "T(1-7)R(8)"}, 0.55),
        (
            {
                "source": "none",
                "pattern": "R(1-8)",
                "source_classes": None,
                "source_epochs": None,
                "copied_lr_factor": None,
            },
            0.3,
        ),
    ]
    rows = [
        run(
            **arm,
            class_draw=draw,
            seed_draw=seed,
            seed_init=seed,
            seed_order=seed,
            images_per_class=n,
            top1_accuracy=level + 0.05 * math.log10(n) + noise * rng.standard_normal(),
        )
        for (arm, level), draw, seed, n in itertools.product(
            arms, range(draws), range(seeds), (5, 20, 100)
        )
    ]
    return prepare(pd.DataFrame(rows))


def slow_gains(
    board: pd.DataFrame, left: dict[str, Any], right: dict[str, Any], n: int
) -> list[float]:
    """Mean difference of each draw, in points."""

    def runs(arm: dict[str, Any]) -> dict[tuple[int, int], float]:
        found = {}
        for row in board.to_dict("records"):
            if row["images_per_class"] == n and all(row[k] == v for k, v in arm.items()):
                found[int(row["class_draw"]), int(row["seed_init"])] = float(row["top1_accuracy"])
        return found

    a, b = runs(left), runs(right)
    by_draw: dict[int, list[float]] = {}
    for key in a.keys() & b.keys():
        by_draw.setdefault(key[0], []).append(100 * (a[key] - b[key]))
    return [sum(v) / len(v) for _, v in sorted(by_draw.items())]


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize(
    ("label", "left", "right"),
    [
        (
            "near, tuned − frozen",
            {"source": "near", "treatment": "tune"},
            {"source": "near", "treatment": "freeze"},
        ),
        (
            "near − far, tuned",
            {"source": "near", "treatment": "tune"},
            {"source": "far", "treatment": "tune"},
        ),
        ("near, tuned − scratch", {"source": "near", "treatment": "tune"}, {"source": "none"}),
    ],
)
def test_gains_are_those_of_literal_pairs(
    label: str, left: dict[str, Any], right: dict[str, Any], n: int
) -> None:
    board = study()
    table = gain_table(answers(Evidence(board)))
    row = table[(table["label"] == label) & (table["n_per_class"] == n)].iloc[0]
    values = slow_gains(board, left, right, n)
    mean, error = float(np.mean(values)), float(stats.sem(values))
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error)
    assert row["gain_points"] == pytest.approx(mean)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["n"], row["unit"], row["pairs"]) == (3, "class draw", 6)
    assert row["verdict"] == ("higher" if low > 0 else "lower" if high < 0 else "undecided")


def test_a_single_repetition_has_no_interval_and_no_verdict() -> None:
    table = gain_table(answers(Evidence(study(draws=1, seeds=1))))
    assert len(table)
    assert table["low"].isna().all()
    assert set(table["verdict"]) == {"undecided"}
    assert table["note"].str.contains("no interval").all()


def test_two_equal_differences_decide_nothing() -> None:
    table = gain_table(answers(Evidence(study(draws=1, seeds=2, noise=0.0))))
    assert table["low"].isna().all()
    assert set(table["verdict"]) == {"undecided"}
    assert table["p_holm"].isna().all()


def test_what_has_no_pair_has_no_row() -> None:
    board = study()
    alone = board[board["source"] == "near"]
    table = gain_table(answers(Evidence(alone.reset_index(drop=True))))
    assert set(table["question"]) == {"treatment"}
    none = board[board["source"] == "none"].reset_index(drop=True)
    assert gain_table(answers(Evidence(none))).empty


def test_holm_is_over_the_question() -> None:
    table = gain_table(answers(Evidence(study())))
    for _, rows in table.groupby(["question", "main"]):
        p = sorted(rows["p"])
        assert min(rows["p_holm"]) == pytest.approx(min(1.0, p[0] * len(p)))
        assert (rows["p_holm"] >= rows["p"]).all()


def test_methods_are_compared_with_plain_tuning() -> None:
    rows = [
        run(
            seed_init=s,
            seed_draw=s,
            seed_order=s,
            method=method,
            method_options=text,
            borrowed=None if method == "plain" else "parent",
            top1_accuracy=level + 0.001 * s * (1 if method == "plain" else 2),
        )
        for s in range(4)
        for method, text, level in (
            ("plain", None, 0.5),
            ("soft", "schedule=epoch", 0.55),
            ("soft", "schedule=zero", 0.45),
        )
    ]
    table = gain_table(answers(Evidence(prepare(pd.DataFrame(rows)))))
    methods = table[table["question"] == "method"].set_index("label")
    assert methods.loc["soft", "verdict"] == "higher"
    assert methods.loc["soft, schedule zero", "verdict"] == "lower"


def test_the_committed_photographs_give_the_published_differences(committed: Path) -> None:
    board = read(committed / "tiny-imagenet.csv")
    table = gain_table(answers(Evidence(board)))
    main = table[table["main"]].set_index(["label", "n_per_class"])
    assert main.loc[("near − far, tuned", 20.0), "gain_points"] == pytest.approx(5.0, abs=0.05)
    assert main.loc[("near, tuned − frozen", 100.0), "verdict"] == "higher"
    assert main.loc[("near, tuned − frozen", 5.0), "verdict"] == "lower"
    assert (table["unfinished"] == 0).all()


def test_settings_name_only_what_differs_and_tell_all_rows_apart(committed: Path) -> None:
    board = read(committed / "tiny-imagenet.csv")
    plain = board[board["role"] != "source"]
    beside = ["n_per_class", "source", "pattern", "lr"]
    named = plain.assign(setting=settings(plain, ["source_classes", "lr"], beside))
    factors = ["target", "expand_to", "copied_lr_factor", "epochs", "batch_size"]
    for _, group in named.groupby([*beside, "setting"]):
        assert len(group[factors].drop_duplicates()) == 1


def test_contrasts_are_named_once() -> None:
    found = [(c.question, c.label, c.about) for c in contrasts(study())]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"pattern": "T(1-5)R(6-8)"}, "tuned, last 3 random"),
        ({"pattern": "F(1-3)T(4-7)R(8)"}, "first 3 frozen"),
        ({"tuned": "bias"}, "tuned, bias parameters only"),
        ({"layer_lr_decay": 0.7}, "tuned, layer-wise rates 0.7"),
        ({"source": "near > self F(1-7)R(8)", "pattern": "T(1-8)"}, "tuned after F(1-7)R(8)"),
        ({"method": "joint", "borrowed": "parent, 500 random images"}, "joint, 500 random images"),
        ({"method": "unheard", "method_options": "a=1"}, "unheard, a 1"),
    ],
)
def test_recipes_in_words(row: dict[str, Any], said: str) -> None:
    board = prepare(pd.DataFrame([run(**row)]))
    assert recipe(board.to_dict("records")[0]) == said


def test_the_headline_says_that_the_rate_was_chosen_and_lies_at_the_edge() -> None:
    rows = [
        {
            **dict.fromkeys((c.name for c in COLUMNS), None),
            "status": "done",
            "dataset": "d",
            "target": "t",
            "class_draw": 0,
            "model": "m",
            "source": source,
            "pattern": pattern,
            "method": "plain",
            "lr": rate,
            "images_per_class": 5,
            "seed_draw": seed,
            "seed_init": seed,
            "seed_order": seed,
            "top1_accuracy": good + 0.1 * rate + 0.01 * math.sin(seed + rate + good),
            "val_top1_accuracy": good + rate,
        }
        for source, pattern, good in (("near", "T(1-7)R(8)", 0.6), ("none", "R(1-8)", 0.4))
        for rate in (0.01, 0.03)
        for seed in range(4)
    ]
    table = gain_table(answers(Evidence(prepare(pd.DataFrame(rows)))))
    assert set(table["edge"]) == {"highest"}
    first = headline(table, pd.DataFrame(), pd.DataFrame())[0]
    assert "each arm at the learning rate that validation chose" in first
    assert "its best is the highest tried" in first
