"""Leaderboards: order, intervals, and rows for what has no result."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.errors import BenchError
from bench.leaderboard import aggregate, best_of, conditions, mean_interval, to_csv
from bench.records import COLUMNS

ROW = dict.fromkeys((column.name for column in COLUMNS), None) | {
    "experiments": "a",
    "status": "done",
    "source": "near",
    "pattern": "T(1-7)R(8)",
    "lr": 0.01,
}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_interval_is_scipys(values: list[float]) -> None:
    mean, deviation, half = mean_interval(values)
    assert mean is not None
    assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if np.ptp(values) < 1e-9 * max(max(values), 1e-3):
        assert half is None
        return
    assert half is not None
    if deviation and deviation > 1e-9:
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-9)


def test_one_value_has_no_interval_and_none_has_nothing() -> None:
    assert mean_interval([0.5]) == (0.5, None, None)
    assert mean_interval([]) == (None, None, None)


def test_seeds_are_aggregated_and_conditions_kept_apart() -> None:
    table = [
        ROW
        | {"lr": lr, "seed_order": seed, "top1_accuracy": lr + seed / 10, "run_id": f"{lr}{seed}"}
        for lr in (0.01, 0.1)
        for seed in (0, 1, 2)
    ]
    found = {row["lr"]: row for row in conditions(table)}
    assert {lr: row["n"] for lr, row in found.items()} == {0.01: 3, 0.1: 3}
    assert found[0.1]["top1_accuracy_mean"] == pytest.approx(0.2)
    assert found[0.1]["top1_accuracy_std"] == pytest.approx(0.1)
    assert found[0.1]["top1_accuracy_low"] < 0.1 < 0.3 < found[0.1]["top1_accuracy_high"]


def test_what_has_no_result_is_counted_not_averaged() -> None:
    table = [
        ROW | {"seed_order": 0, "top1_accuracy": 0.4},
        ROW | {"seed_order": 1, "status": "diverged"},
        ROW | {"seed_order": 2, "status": "failed", "reason": "x"},
        ROW | {"seed_order": 3, "status": "blocked"},
    ]
    (row,) = conditions(table)
    assert (row["n"], row["n_diverged"], row["n_missing"]) == (1, 1, 2)
    assert row["top1_accuracy_mean"] == pytest.approx(0.4)
    assert row["top1_accuracy_low"] is None


def test_fewer_training_images_than_asked_for_are_said() -> None:
    given = {"images_per_class": 20, "target_classes": 3, "top1_accuracy": 0.5}
    for used, said in (((60, 60), None), ((51, 51), "51 of 60"), ((51, 60), "51 to 60 of 60")):
        table = [
            ROW | given | {"seed_draw": seed, "train_images": images}
            for seed, images in enumerate(used)
        ]
        (row,) = conditions(table)
        assert row["train_images_used"] == said
    (whole,) = conditions([ROW | {"train_images": 51, "target_classes": 3, "top1_accuracy": 0.5}])
    assert whole["train_images_used"] is None
    assert "train_images_used" not in aggregate(table)[0]


def test_a_run_of_two_experiments_counts_in_both() -> None:
    table = [
        ROW | {"experiments": names, "seed_order": seed, "top1_accuracy": 0.5}
        for names, seed in (("a;b", 0), ("a;b", 1), ("a", 2), ("", 0))
    ]
    assert [(row["experiment"], row["n"]) for row in aggregate(table)] == [
        ("a", 3),
        ("b", 2),
        ("", 1),
    ]


def test_the_learning_rate_is_chosen_on_validation_data() -> None:
    table = [
        ROW | {"source": source, "lr": lr, "val_top1_accuracy": val, "top1_accuracy": test}
        for source, lr, val, test in [
            ("near", 0.1, 0.6, 0.4),
            ("near", 0.2, 0.5, 0.9),
            ("far", 0.1, None, None),
            ("far", 0.2, 0.3, 0.3),
        ]
    ]
    chosen = best_of(conditions(table), ["lr"])
    assert [(row["source"], row["lr"]) for row in chosen] == [("near", 0.1), ("far", 0.2)]
    with pytest.raises(BenchError, match="lr_typo"):
        best_of(conditions(table), ["lr_typo"])


def test_differences_to_the_baseline_are_paired() -> None:
    table = [
        ROW
        | {"method": method, "run_id": f"{method}{seed}", "seed_order": seed, "top1_accuracy": a}
        for method, accuracies in {"plain": (0.2, 0.4, 0.6), "soft": (0.3, 0.4, 0.8)}.items()
        for seed, a in enumerate(accuracies)
    ]
    baselines = {
        f"{method}{seed}": f"plain{seed}" for method in ("plain", "soft") for seed in (0, 1, 2)
    }
    plain, soft = conditions(table, baselines)
    assert plain["n_pairs"] is None
    assert soft["n_pairs"] == 3
    low, high = stats.t.interval(0.95, 2, loc=0.1, scale=stats.sem([0.1, 0.0, 0.2]))
    assert soft["top1_over_baseline_mean"] == pytest.approx(0.1)
    assert soft["top1_over_baseline_low"] == pytest.approx(low)
    assert soft["top1_over_baseline_high"] == pytest.approx(high)


def test_csv_reads_back() -> None:
    table = [{"a": 0.1, "b": None, "c": "x,y\nz", "d": 5e-05, "e": 3}]
    (found,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert found == {"a": "0.1", "b": "", "c": "x,y\nz", "d": "5e-05", "e": "3"}


def test_deterministic_columns_come_first() -> None:
    kinds = [column.kind == "cost" for column in COLUMNS]
    assert kinds == sorted(kinds)


def test_the_glossary_explains_every_column() -> None:
    glossary = (Path(__file__).parents[1] / "results" / "README.md").read_text()
    for column in COLUMNS:
        line = f"| `{column.name}` | {column.meaning} | {column.kind} | {column.better or ''} |"
        assert line in glossary


def test_equal_repetitions_have_no_interval() -> None:
    assert mean_interval([0.5, 0.5]) == (0.5, 0.0, None)
