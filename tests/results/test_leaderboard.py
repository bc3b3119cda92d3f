"""Leaderboards: order, intervals, and rows for what has no result."""

from __future__ import annotations

import csv
import io
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.core.errors import BenchError
from bench.planning.workspace import open_session
from bench.results.aggregate import aggregate, best_of, conditions, outcome
from bench.results.leaderboard import describe, sort_rows, to_csv
from bench.results.records import COLUMNS

ROW = dict.fromkeys((column.name for column in COLUMNS), None) | {
    "experiments": "a",
    "status": "done",
    "source": "near",
    "pattern": "T(1-7)R(8)",
    "lr": 0.01,
}


def _one_task(values: list[float], **given_: Any) -> list[dict[str, Any]]:
    return [ROW | {"seed_order": s, "top1_accuracy": v} | given_ for s, v in enumerate(values)]


def _summary(table: list[dict[str, Any]], metric: str = "top1_accuracy") -> tuple[Any, ...]:
    """Mean, deviation and interval of the only condition."""
    (row,) = conditions(table)
    return tuple(row[f"{metric}_{name}"] for name in ("mean", "std", "low", "high"))


# --- intervals -----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_interval_of_one_task_is_scipys_over_seeds(values: list[float]) -> None:
    mean, deviation, low, high = _summary(_one_task(values))
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if np.ptp(values) < 1e-9 * max(max(values), 1e-3):
        assert (low, high) == (None, None)
        return
    if deviation > 1e-9:
        theirs = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        assert (low, high) == pytest.approx(np.clip(theirs, 0, 1), abs=1e-9)


def test_one_value_has_no_interval_and_none_has_nothing() -> None:
    assert _summary(_one_task([0.5])) == (0.5, None, None, None)
    assert _summary([ROW | {"status": "missing"}]) == (None, None, None, None)


def test_equal_repetitions_have_no_interval() -> None:
    assert _summary(_one_task([0.5, 0.5])) == (0.5, 0.0, None, None)


def test_test_images_that_seeds_share_widen_the_interval_of_one_task() -> None:
    values = [0.5, 0.52, 0.47]
    mean, _, low, high = _summary(_one_task(values, test_images=50))
    of_seeds = np.var(values, ddof=1) / 3
    of_images = np.mean([v * (1 - v) / 50 for v in values])
    half = _half(of_seeds, 3, of_images)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-6)
    # Even where all seeds agree.
    *_, low, high = _summary(_one_task([0.5, 0.5], test_images=50))
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, 0.5, 0.5 / math.sqrt(50)))


def _half(of_seeds: float, seeds: int, of_images: float, images: float = np.inf) -> float:
    """Half an interval: each variance with the quantile of its own degrees, squares added."""
    t, z = stats.t.ppf(0.975, seeds - 1), stats.t.ppf(0.975, images - 1)
    return math.sqrt(t**2 * of_seeds + z**2 * of_images)


def _mean_squares(truths: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, images and the rest in a two-way analysis of variance with a run per row."""
    seeds, images = truths.shape
    rest = truths - truths.mean(0) - truths.mean(1, keepdims=True) + truths.mean()
    return (
        images * float(truths.mean(1).var(ddof=1)),
        seeds * float(truths.mean(0).var(ddof=1)),
        float((rest**2).sum()) / (seeds - 1) / (images - 1),
    )


def _crossed(truths: np.ndarray) -> tuple[float, float]:
    """The interval of a mean over seeds and test images, both drawn at random."""
    seeds, images = truths.shape
    of_seeds, of_images, rest = (ms / truths.size for ms in _mean_squares(truths))
    of_images = max(of_images - rest, 0.0)
    half = _half(of_seeds, seeds, of_images, images)
    return float(truths.mean()) - half, float(truths.mean()) + half


def test_known_predictions_give_the_error_of_the_test_images_instead_of_a_bound() -> None:
    rng = np.random.default_rng(4)
    hard = rng.uniform(size=60)
    truths = {m: hard + rng.normal(0, 0.2, (3, 60)) < p for m, p in (("plain", 0.6), ("soft", 0.7))}
    table = [
        ROW
        | {"method": method, "run_id": f"{method}{s}", "seed_order": s, "test_images": 60}
        | {"top1_accuracy": float(right.mean()), "correct": right}
        for method, rows in truths.items()
        for s, right in enumerate(rows)
    ]
    baselines = {f"soft{s}": f"plain{s}" for s in range(3)}
    plain, soft = conditions(table, baselines)
    for row, method in ((plain, "plain"), (soft, "soft")):
        ends = row["top1_accuracy_low"], row["top1_accuracy_high"]
        assert ends == pytest.approx(_crossed(truths[method].astype(float)))
    # Arms err on the same images, which a bound from counts cannot know.
    ends = soft["top1_over_baseline_low"], soft["top1_over_baseline_high"]
    assert ends == pytest.approx(_crossed(truths["soft"].astype(float) - truths["plain"]))
    _, bounded = conditions([row | {"correct": None} for row in table], baselines)
    assert bounded["top1_over_baseline_low"] < ends[0]
    assert bounded["top1_over_baseline_high"] > ends[1]


def test_training_images_that_seeds_share_widen_the_interval() -> None:
    values = [0.3, 0.32, 0.35]
    mean, _, low, high = _summary(_one_task(values, train_images=30, available_images=40))
    error = math.sqrt((1 / 3 + 30 / 10) * np.var(values, ddof=1))
    assert (low, high) == pytest.approx(np.clip(stats.t.interval(0.95, 2, mean, error), 0, 1))


def test_the_interval_of_several_tasks_is_over_tasks() -> None:
    # Test images and overlapping draws are a task's own: its mean carries them already.
    values = {0: [0.2, 0.3], 1: [0.4, 0.5, 0.9], 2: [0.35]}
    table = [
        row | {"task_id": f"t{draw}", "class_draw": draw, "test_images": 10, "train_images": 5}
        for draw, accuracies in values.items()
        for row in _one_task(accuracies, available_images=9)
    ]
    tasks = [0.25, 0.6, 0.35]
    (row,) = conditions(table)
    assert (row["unit"], row["tasks"], row["n"], row["class_draws"]) == ("task", 3, 6, 3)
    mean, deviation, low, high = _summary(table)
    assert (mean, deviation) == pytest.approx((np.mean(tasks), np.std(tasks, ddof=1)))
    theirs = stats.t.interval(0.95, 2, np.mean(tasks), stats.sem(tasks))
    assert (low, high) == pytest.approx(np.clip(theirs, 0, 1))
    (alone,) = conditions(table[:2])
    assert (alone["unit"], alone["tasks"]) == ("seed", 1)


def test_losses_are_not_cut_at_1() -> None:
    table = [
        row | {"test_loss": loss}
        for row, loss in zip(_one_task([0.1, 0.2]), (0.5, 3.5), strict=True)
    ]
    *_, low, high = _summary(table, "test_loss")
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 1, 2.0, 1.5))


def _by_hand(rows: pd.DataFrame) -> tuple[float, float] | None:
    """A condition's interval from its runs, by pandas and scipy alone.

    Over tasks; of one task over seeds, with the test images' error bounded from counts and
    overlapping draws of training images corrected for.
    """
    tasks = rows.groupby("task_id")["top1_accuracy"].mean()
    if len(tasks) > 1:
        low, high = stats.t.interval(0.95, len(tasks) - 1, tasks.mean(), stats.sem(tasks))
        return max(low, 0.0), min(high, 1.0)
    p, seeds = rows["top1_accuracy"], len(rows)
    if seeds == 1:
        return None
    share = (rows["train_images"] / rows["available_images"]).iloc[0]
    of_seeds = p.var() * (1 / seeds + (share / (1 - share) if share < 1 else 0.0))
    of_images = (p * (1 - p) / rows["test_images"]).mean()
    half = _half(of_seeds, seeds, of_images)
    return max(p.mean() - half, 0.0), min(p.mean() + half, 1.0)


@pytest.mark.parametrize("name", ["tiny-imagenet", "borrowing", "borrowing-tiny-imagenet"])
def test_committed_conditions_are_those_of_pandas_and_scipy(name: str, committed: Path) -> None:
    rows = pd.read_csv(committed / f"{name}.csv", keep_default_na=False, na_values=[""])
    written = pd.read_csv(committed / f"{name}-aggregated.csv").set_index(
        ["experiment", "condition_id"]
    )
    assert written.index.is_unique
    table = rows.astype(object).where(rows.notna(), None).to_dict("records")
    table = [row | {"experiments": row["experiments"] or ""} for row in table]
    made = {(row["experiment"], row["condition_id"]): row for row in aggregate(table)}
    rows["experiment"] = rows["experiments"].fillna("").str.split(";")
    runs = rows[(rows["status"] == "done") & (rows["role"] == "finetune")].explode("experiment")
    units = []
    for key, group in runs.groupby(["experiment", "condition_id"]):
        row, tasks, ends = made[key], group["task_id"].nunique(), _by_hand(group)
        units.append(row["unit"])
        mean = group.groupby("task_id")["top1_accuracy"].mean().mean()
        assert (row["n"], row["tasks"]) == (len(group), tasks)
        assert row["top1_accuracy_mean"] == pytest.approx(mean)
        if ends is None:
            assert row["top1_accuracy_low"] is None
            continue
        assert (row["top1_accuracy_low"], row["top1_accuracy_high"]) == pytest.approx(
            ends, abs=1e-5
        )
        theirs = written.loc[key]
        assert theirs["top1_accuracy_mean"] == pytest.approx(mean, abs=1e-6)
        if tasks > 1:  # of one task it may know the predictions, which no table holds
            assert (theirs["top1_accuracy_low"], theirs["top1_accuracy_high"]) == pytest.approx(
                ends, abs=1e-6
            )
    assert len(units) > 30
    assert set(units) <= {"task", "seed"}


# --- what counts ---------------------------------------------------------------------------------


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
        ROW | {"seed_order": 1, "status": "missing"},
        ROW | {"seed_order": 2, "status": "failed", "reason": "x"},
        ROW | {"seed_order": 3, "status": "blocked"},
    ]
    (row,) = conditions(table)
    assert (row["n"], row["n_diverged"], row["n_missing"]) == (1, 0, 3)
    assert row["top1_accuracy_mean"] == pytest.approx(0.4)
    assert row["top1_accuracy_low"] is None


def test_a_run_that_diverged_counts_at_chance() -> None:
    away = ROW | {"seed_order": 2, "status": "diverged", "target_classes": 8}
    table = [*_one_task([0.4, 0.5], target_classes=8, test_loss=1.0), away]
    (row,) = conditions(table)
    assert (row["n"], row["n_diverged"], row["n_missing"]) == (3, 1, 0)
    values = [0.4, 0.5, 1 / 8]
    mean, deviation, low, high = _summary(table)
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    theirs = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(np.clip(theirs, 0, 1))
    assert row["test_loss_mean"] == pytest.approx((1 + 1 + math.log(8)) / 3)
    for name in ("top1_accuracy", "mean_class_accuracy", "val_top1_accuracy"):
        assert outcome(away, name) == 1 / 8
    assert outcome(away, "tar_at_far_1e-2") == 0.01
    # Without a number of classes there is no chance to count at.
    (row,) = conditions([row | {"target_classes": None} for row in table])
    assert (row["n"], row["n_diverged"]) == (2, 1)
    assert row["top1_accuracy_mean"] == pytest.approx(0.45)


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


def _rates(*rates: tuple[float, float | None, int, int]) -> list[dict[str, Any]]:
    """Conditions of (rate, validation accuracy, finished runs, diverged runs)."""
    table = []
    for lr, validation, done, away in rates:
        given_ = {"lr": lr, "target_classes": 10, "val_top1_accuracy": validation}
        table += _one_task([0.5] * done, **given_)
        gone = given_ | {"status": "diverged", "val_top1_accuracy": None, "top1_accuracy": None}
        table += [ROW | gone | {"seed_order": 90 + k} for k in range(away)]
    return conditions(table)


@pytest.mark.parametrize("turned", [False, True])
def test_a_rate_that_diverged_is_never_chosen_where_another_did_not(turned: bool) -> None:
    def chosen(*rates: tuple[float, float | None, int, int]) -> float:
        (row,) = best_of(_rates(*(rates[::-1] if turned else rates)), ["lr"])
        return float(row["lr"])

    # However well its other runs did.
    assert chosen((0.1, 0.3, 3, 0), (1.0, 0.99, 9, 1)) == 0.1
    assert chosen((0.01, 0.2, 3, 0), (0.1, 0.3, 3, 0), (1.0, 0.99, 3, 1)) == 0.1
    # Where all have some, the diverged ones count at chance.
    assert chosen((0.1, 0.5, 1, 3), (1.0, 0.4, 3, 1)) == 1.0
    assert chosen((0.1, 0.5, 3, 1), (1.0, None, 0, 4)) == 0.1


def test_options_are_chosen_as_rates_are() -> None:
    table = [
        ROW | {"train.momentum": m, "source": s, "val_top1_accuracy": v, "top1_accuracy": 0.5}
        for s, m, v in (("near", 0.5, 0.6), ("near", 0.9, 0.7), ("far", 0.5, 0.8))
    ]
    chosen = best_of(conditions(table), ["train.momentum"])
    assert [(row["source"], row["train.momentum"]) for row in chosen] == [
        ("near", 0.9),
        ("far", 0.5),
    ]
    with pytest.raises(BenchError, match="no column 'top1_accuracy_mean'"):
        best_of(conditions(table), ["top1_accuracy_mean"])


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


def test_differences_to_the_baseline_carry_test_images_and_diverged_runs() -> None:
    accuracies = {"plain": (0.2, 0.4, 0.6), "soft": (0.3, 0.4, None)}
    table = [
        ROW
        | {"method": method, "run_id": f"{method}{seed}", "seed_order": seed, "top1_accuracy": a}
        | {"status": "done" if a else "diverged", "target_classes": 10, "test_images": 80}
        for method, values in accuracies.items()
        for seed, a in enumerate(values)
    ]
    baselines = {f"soft{seed}": f"plain{seed}" for seed in (0, 1, 2)}
    _, soft = conditions(table, baselines)
    differences = [0.1, 0.0, 0.1 - 0.6]
    of_seeds = np.var(differences, ddof=1) / 3
    sides = [(0.3, 0.2), (0.4, 0.4), (0.1, 0.6)]
    of_images = np.mean([sum(p * (1 - p) for p in side) / 80 for side in sides])
    half = _half(of_seeds, 3, of_images)
    low, high = np.mean(differences) - half, np.mean(differences) + half
    assert soft["n_pairs"] == 3
    assert soft["top1_over_baseline_mean"] == pytest.approx(np.mean(differences))
    assert soft["top1_over_baseline_low"] == pytest.approx(low, rel=1e-5)
    assert soft["top1_over_baseline_high"] == pytest.approx(high, rel=1e-5)


def test_differences_over_several_tasks_count_tasks() -> None:
    values = {0: (0.1, 0.2), 1: (0.3, 0.5), 2: (0.15, 0.2)}
    table = [
        ROW
        | {"method": method, "run_id": f"{method}{draw}{seed}", "seed_order": seed}
        | {"class_draw": draw, "task_id": str(draw), "top1_accuracy": 0.4 + gain}
        for draw, gains in values.items()
        for seed, soft_gain in enumerate(gains)
        for method, gain in (("plain", 0.0), ("soft", soft_gain))
    ]
    baselines = {row["run_id"]: str(row["run_id"]).replace("soft", "plain") for row in table}
    _, soft = conditions(table, baselines)
    tasks = [np.mean(gains) for gains in values.values()]
    low, high = stats.t.interval(0.95, 2, np.mean(tasks), stats.sem(tasks))
    assert soft["n_pairs"] == 6
    assert (soft["top1_over_baseline_low"], soft["top1_over_baseline_high"]) == pytest.approx(
        (low, high)
    )


def test_csv_reads_back() -> None:
    table = [{"a": 0.1, "b": None, "c": "x,y\nz", "d": 5e-05, "e": 3}]
    (found,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert found == {"a": "0.1", "b": "", "c": "x,y\nz", "d": "5e-05", "e": "3"}


OVERLAPS = """
name: overlaps
defaults:
  target: &target
    dataset: digits
    classes: {recipe: listed, names: ["1", "2", "3"]}
    image_size: 16
    images_per_class: 4
    val_per_class: 2
    test_per_class: 4
  model: narrow8_32
  pattern: tune
  allow_overlap: true
  train: {epochs: 1}
sources:
  all: {<<: *target, classes: {recipe: all}}
  some: {<<: *target, classes: {recipe: listed, names: ["3", "4", "5"]}}
  shapes: {<<: *target, dataset: wordnet-shapes, classes: {recipe: under, synset: feline.n.01}}
experiments:
  a:
    axes: {source: [all, some, shapes]}
    include:
      - {source: none, pattern: scratch}
      - {source: none, parent: {source: some, pattern: tune}}
      - {source: none, parent: {pattern: scratch}}
      - {source: some, method: joint, borrow: all}
"""


def test_classes_that_source_and_target_share_are_counted(tmp_path: Path) -> None:
    """LI-A3: the source of 1000 classes contains the target's 100."""
    (tmp_path / "overlaps.yaml").write_text(OVERLAPS)
    session = open_session(tmp_path / "overlaps.yaml", results=tmp_path / "results")
    found = [
        (row["source"], row["source_links"], row["method"], row["source_class_overlap"])
        for row in describe(session.plan).values()
        if row["experiments"]
    ]
    assert sorted(found, key=str) == sorted(
        [
            ("all", 1, "plain", 3),
            ("listed", 1, "plain", 1),
            ("wordnet-shapes feline.n.01", 1, "plain", None),  # other names
            ("none", 0, "plain", None),
            ("listed > self T(1-7)R(8)", 2, "plain", 1),  # what the chain began with
            ("self", 1, "plain", None),
            ("listed", 1, "joint", 3),  # what is borrowed counts too
        ],
        key=str,
    )


def test_rows_are_sorted_by_size_then_letters_then_id() -> None:
    """As by one key for each row; numbers too large for a float are equal where it cannot tell."""
    values = [None, True, 0, 0.5, 1, 1.0, 2**53, 2**53 + 1, "0", "b", "a", ("b",), ("a",)]
    draw = random.Random(7)
    table = [
        {"seed_init": draw.choice(values), "a.b": draw.choice(values), "run_id": f"{n:03d}"}
        for n in draw.sample(range(400), 400)
    ]

    def orderable(value: Any) -> tuple[int, float, str]:
        if value is None:
            return (0, 0.0, "")
        is_number = isinstance(value, int | float)
        return (1, float(value), "") if is_number else (2, 0.0, str(value))

    names = ("seed_init", "a.b", "run_id")
    assert sort_rows(table) == sorted(table, key=lambda row: [orderable(row[n]) for n in names])


def test_deterministic_columns_come_first() -> None:
    kinds = [column.kind == "cost" for column in COLUMNS]
    assert kinds == sorted(kinds)


def test_the_glossary_explains_every_column() -> None:
    glossary = (Path(__file__).parents[2] / "results" / "README.md").read_text()
    for column in COLUMNS:
        line = f"| `{column.name}` | {column.meaning} | {column.kind} | {column.better or ''} |"
        assert line in glossary
