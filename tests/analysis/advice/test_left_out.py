"""Advice on tasks left out: counted by hand, blind to the task, right where it is so by design."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.advice import left_out as ways
from analysis.advice.left_out import arms, outcomes
from analysis.advice.left_out_tables import FAMILIES, TESTED, against, compared, section
from analysis.advice.recommend import advise
from analysis.advice.tune_or_freeze import decide, tune_freeze_pairs
from analysis.advice.types import Situation
from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.read import prepare
from bench.core.errors import DataError
from bench.results.records import COLUMNS
from scripts import early_validations

TUNE, FREEZE = "T(1-7)R(8)", "F(1-7)R(8)"
Rows = list[dict[str, Any]]
SECONDS = {TUNE: 10.0, FREEZE: 4.0}


def _run(task: int, pattern: str, accuracy: float, validation: float, **given: Any) -> Any:
    factors = {
        "experiments": "planted",
        "status": "done",
        "role": "finetune",
        "source": "near",
        "dataset": "d",
        "target": "t",
        "target_classes": 20,
        "class_draw": task,
        "images_per_class": 100,
        "model": "m",
        "pattern": pattern,
        "method": "plain",
        "lr": 0.01,
        "seconds": SECONDS.get(pattern, 8.0),
        "top1_accuracy": accuracy,
        "val_top1_accuracy": validation,
    }
    return dict.fromkeys(c.name for c in COLUMNS) | factors | given


def _tasks(
    tasks: int, gain: Callable[[int], float], rng: np.random.Generator, **given: Any
) -> Rows:
    """A tuned and a frozen run for each task; tuning gains so much in expectation."""
    rows = []
    for task in range(tasks):
        level = 0.4 + rng.normal(0, 0.03)
        for pattern, more in ((TUNE, gain(task)), (FREEZE, 0.0)):
            test, validation = level + more + rng.normal(0, (0.01, 0.03))
            rows.append(_run(task, pattern, test, validation, **given))
    return rows


def _evidence(rows: Rows, cosines: dict[str, float] | None = None) -> Evidence:
    table = None
    if cosines is not None:
        table = pd.DataFrame({"source": list(cosines), "cosine": list(cosines.values())})
    return Evidence(prepare(pd.DataFrame(rows)), distances=table)


def _of(found: pd.DataFrame, way: str) -> pd.Series[float]:
    rows = found[found["way"] == way]
    return rows.set_index(["task", "source", "n_per_class"])["accuracy"].sort_index()


def _planted(seed: int = 0) -> Rows:
    """Two sources and two numbers of images on five tasks: freeze with few images, else tune."""
    rng = np.random.default_rng(seed)
    rows = []
    for source, bonus in (("near", 0.0), ("far", 0.02)):
        for n, gain in ((5, -0.05), (100, 0.06)):
            rows += _tasks(5, lambda _, g=gain: g, rng, source=source, images_per_class=n)
            rows[-1]["top1_accuracy"] += bonus
    return rows


def test_every_way_gets_what_a_count_by_hand_gives() -> None:
    rows = _planted()
    found = outcomes(_evidence(rows))
    sums: dict[str, dict[Any, float]] = {}
    for task in range(5):
        others = [row for row in rows if row["class_draw"] != task]
        pairs = tune_freeze_pairs(_evidence(others))
        for source in ("near", "far"):
            for n in (5, 100):
                here = {
                    row["pattern"]: row
                    for row in rows
                    if (row["class_draw"], row["source"], row["images_per_class"])
                    == (task, source, n)
                }
                same = [r for r in others if (r["source"], r["images_per_class"]) == (source, n)]
                test = {p: 100 * row["top1_accuracy"] for p, row in here.items()}
                validated = max(here, key=lambda p, runs=here: runs[p]["val_top1_accuracy"])
                arm = {"tune": TUNE, "freeze": FREEZE, "try both": validated}
                mean = {
                    p: fmean(r["top1_accuracy"] for r in same if r["pattern"] == p) for p in here
                }
                for name, accuracy in {
                    ways.ADVICE: test[arm[decide(pairs, None, n).advice]],
                    ways.TUNE: test[TUNE],
                    ways.FREEZE: test[FREEZE],
                    ways.BOTH: test[validated],
                    ways.COIN: fmean(test.values()),
                    ways.REFERENCE: test[max(mean, key=mean.__getitem__)],
                    ways.BOUND: max(test.values()),
                }.items():
                    sums.setdefault(name, {})[f"d t {task}", source, float(n)] = accuracy
    for name, expected in sums.items():
        assert _of(found, name).to_dict() == pytest.approx(expected), name
    for name in (ways.TUNE, ways.BOTH):
        gained = [
            fmean(sums[ways.ADVICE][key] - sums[name][key] for key in sums[name] if key[0] == task)
            for task in sorted({key[0] for key in sums[name]})
        ]
        e = against(found, name)
        assert e is not None
        assert (e.value, e.n, e.unit) == (pytest.approx(fmean(gained)), 5, "task")
        if e.low is not None:
            ends = stats.t.interval(0.95, 4, fmean(gained), stats.sem(gained))
            assert (e.low, e.high) == pytest.approx(ends)


def test_what_is_advised_does_not_depend_on_the_task_left_out() -> None:
    rows = _planted()
    before = outcomes(_evidence(rows))
    for task in (0, 3):
        upset = [
            row | {"top1_accuracy": 1 - row["top1_accuracy"]} if row["class_draw"] == task else row
            for row in rows
        ]
        after = outcomes(_evidence(upset))
        for way in (ways.ADVICE, ways.LIKE):
            said = [
                found.loc[(found["way"] == way) & (found["task"] == f"d t {task}"), "advice"]
                for found in (before, after)
            ]
            assert list(said[0]) == list(said[1])
        picked = [_of(found, ways.REFERENCE)[f"d t {task}"] for found in (before, after)]
        assert list(picked[0]) == pytest.approx([100 - value for value in picked[1]])


def test_advice_that_is_right_by_design_has_no_regret_and_habits_do() -> None:
    rng = np.random.default_rng(1)
    rows = _tasks(8, lambda _: -0.08, rng, source="near")
    rows += _tasks(8, lambda _: 0.08, rng, source="far")
    found = outcomes(_evidence(rows, {"near": 0.1, "far": 0.6}))
    table = compared(found, "planted").set_index("way")
    assert table.loc[ways.ADVICE, "regret"] == pytest.approx(0)
    assert table.loc[ways.ADVICE, "advised"] == "freeze 8, tune 8"
    for habit in (ways.TUNE, ways.FREEZE):
        row = table.loc[habit]
        assert row["low"] < 4 < row["high"]
        assert row["low"] > 3
        assert row["regret"] == pytest.approx(row["advice_more"])
    # The printed cell tunes at every distance with so many images.
    assert table.loc[ways.PRINTED, "accuracy"] == pytest.approx(table.loc[ways.TUNE, "accuracy"])


def _boards(
    mean: float, spread: float, tasks: int, boards: int, seed: int = 5
) -> tuple[list[float], list[tuple[float, float]]]:
    """The advice less always tuning on boards of a known truth, and the intervals.

    Args:
        mean, spread: of what tuning gains, over tasks.
    """
    rng = np.random.default_rng(seed)
    values, ends = [], []
    for _ in range(boards):
        gains = rng.normal(mean, spread, tasks) if spread else np.full(tasks, mean)
        rows = _tasks(tasks, lambda task, g=gains: float(g[task]), rng)
        e = against(outcomes(_evidence(rows)), ways.TUNE)
        assert e is not None
        values.append(e.value)
        if e.low is not None and e.high is not None:
            ends.append((e.low, e.high))
    return values, ends


def test_where_nothing_differs_the_advice_neither_gains_nor_loses() -> None:
    """The better of two by test accuracy would be 0.56 deviations of 1 point above each."""
    values, ends = _boards(0.0, 0.0, tasks=6, boards=12)
    assert abs(fmean(values)) < 3 * stats.sem(values) < 0.56
    inside = sum(low <= 0 <= high for low, high in ends)
    assert stats.binomtest(inside, len(ends), 0.95).pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 0.0), (-0.012, 0.02)])
def test_intervals_hold_the_truth_as_often_as_they_state(mean: float, spread: float) -> None:
    """The second is at the edge of a decision, where the advice hangs on single tasks."""
    values, ends = _boards(mean, spread, tasks=10, boards=150)
    truth = fmean(values) if mean else 0.0
    inside = sum(low <= truth <= high for low, high in ends)
    assert stats.binomtest(inside, len(ends), 0.95).pvalue > 0.01


def test_a_race_costs_one_training_and_what_the_other_had_begun() -> None:
    rows = _tasks(3, lambda _: 0.05, np.random.default_rng(2))
    for place, row in enumerate(rows):
        row["run_id"] = f"{place:032x}"
    early = pd.DataFrame(
        {
            "run_id": [row["run_id"] for row in rows],
            "share": 0.2,
            "epoch": 2,
            "epochs": 8,
            "val_top1_accuracy": [0.3 if row["pattern"] == FREEZE else 0.2 for row in rows],
        }
    )
    found = outcomes(_evidence(rows), early)
    race = found[found["way"] == ways.RACES[0.2]]
    assert list(race["seconds"]) == pytest.approx([4.0 + 10.0 / 4] * 3)
    assert _of(found, ways.RACES[0.2]).to_dict() == pytest.approx(_of(found, ways.FREEZE).to_dict())
    both = found[found["way"] == ways.BOTH]
    assert list(both["seconds"]) == [14.0] * 3
    assert ways.RACES[0.5] not in set(found["way"])


def test_equal_validation_accuracies_are_a_draw() -> None:
    rows = _tasks(3, lambda _: 0.05, np.random.default_rng(3))
    found = outcomes(_evidence([row | {"val_top1_accuracy": 0.5} for row in rows]))
    assert _of(found, ways.BOTH).to_dict() == pytest.approx(_of(found, ways.COIN).to_dict())


def test_how_many_layers_to_copy_is_part_of_the_advice() -> None:
    rng = np.random.default_rng(4)
    rows = _tasks(6, lambda _: 0.05, rng)
    for row in [row for row in rows if row["pattern"] == TUNE]:
        better = row["top1_accuracy"] + 0.04 + rng.normal(0, 0.005)
        rows.append(_run(row["class_draw"], "T(1-5)R(6-8)", better, 0.5))
    found = outcomes(_evidence(rows))
    whole = found[found["way"] == ways.WHOLE]
    assert set(whole["advice"]) == {"T(1-5)R(6-8)"}
    assert list(whole["seconds"]) == [8.0] * 6
    e = against(found, ways.TUNE, ways.WHOLE)
    assert e is not None
    assert e.low is not None
    assert e.low < 4 < (e.high or 0)
    assert list(found.loc[found["way"] == ways.ALL, "seconds"]) == [22.0] * 6
    page = section(compared(found, "planted", ways.WHOLE).assign(p_holm=0.01, verdict="better"))
    assert f"* Against *{ways.TUNE}* {ways.WHOLE}, is better on planted." in " ".join(page.split())


def test_an_arm_that_was_only_compared_with_tuning_does_not_replace_freezing() -> None:
    """Some frozen layers are better than none here, and worse than freezing all but the last."""
    rng = np.random.default_rng(4)
    rows = _tasks(6, lambda _: -0.1, rng)
    for row in [row for row in rows if row["pattern"] == TUNE]:
        better = row["top1_accuracy"] + 0.04 + rng.normal(0, 0.005)
        rows.append(_run(row["class_draw"], "F(1-3)T(4-7)R(8)", better, 0.5))
    evidence = _evidence(rows)
    lines = advise(Situation(100, 20, model="m"), evidence)
    said = {line.topic: (line.answer, line.pattern) for line in lines}
    assert said["freeze or tune"] == ("freeze", None)
    assert said["frozen layers"] == ("freeze the first 3, from near layers", None)
    found = outcomes(evidence)
    whole = found[found["way"] == ways.WHOLE]
    assert set(whole["advice"]) == {"freeze"}
    assert list(whole["accuracy"]) == list(found.loc[found["way"] == ways.FREEZE, "accuracy"])


def test_regret_is_counted_where_another_task_has_the_situation() -> None:
    """A number of images that one task alone has tells no best arm; it is left out, and counted."""
    rng = np.random.default_rng(5)
    rows = _tasks(4, lambda _: 0.05, rng)
    alone = [row | {"images_per_class": 5} for row in rows[:2]]
    for row in alone:
        row["top1_accuracy"] -= 0.3
    found = outcomes(_evidence([*rows, *alone]))
    table = compared(found, "planted").set_index(["images_per_class", "way"])
    everywhere, at_5 = table.loc[math.nan], table.loc[5.0]
    assert set(everywhere["without_regret"]) == {1}
    assert everywhere.loc[ways.TUNE, "regret"] == pytest.approx(0.0)
    assert everywhere.loc[ways.TUNE, "accuracy"] < 40  # of all five
    assert set(at_5["without_regret"]) == {1}
    assert at_5["regret"].isna().all()
    assert ways.REFERENCE not in set(at_5.index)
    page = section(compared(found, "planted").assign(p_holm=0.01, verdict="better"))
    assert "+0.00 (1 left out) |" in page


def test_what_cannot_be_scored_is_an_error() -> None:
    one = _tasks(1, lambda _: 0.05, np.random.default_rng(0))
    with pytest.raises(DataError, match="fewer than two tasks have both tuned and frozen runs"):
        outcomes(_evidence(one))
    with pytest.raises(DataError, match="several runs on one task with the same seeds"):
        arms(_evidence([*one, one[0] | {"lr": 0.1}]).board)


def test_every_family_is_corrected_for(committed: Path) -> None:
    """Families of one number of images per class too, whose rows have no other."""
    table = pd.read_csv(committed / "evidence" / "advice.csv")
    whole = table[table["images_per_class"].isna() & table["way"].isin(TESTED)]
    tested = whole[whole["p"].notna()]
    ordered = tested.sort_values("p")
    left = len(ordered) - np.arange(len(ordered))
    expected = np.minimum(1, np.maximum.accumulate(ordered["p"].to_numpy() * left))
    assert set(tested["family"]) == set(table["family"])
    assert ordered["p_holm"].to_numpy() == pytest.approx(expected)
    for verdict, least, most in (("better", 1, math.inf), ("better by less than a point", 0, 1)):
        mine = tested[(tested["p_holm"] <= 0.05) & tested["advice_more"].between(least, most)]
        assert list(mine.index) == list(table.index[table["verdict"] == verdict])
    undecided = table.index[table["verdict"] == "not shown to differ"]
    assert set(undecided) == set(tested.index[tested["p_holm"] > 0.05])
    assert section(table) in (committed / "evidence" / "README.md").read_text()


def test_the_committed_rows_are_means_of_tasks_by_pandas_alone(committed: Path) -> None:
    board = pd.read_csv(committed / "evidence" / "near-far.csv", low_memory=False)
    tuned = board["pattern"].isin([TUNE, FREEZE])
    wide = board[tuned].pivot_table(
        index=["task_id", "source", "images_per_class"], columns="pattern", values="top1_accuracy"
    )
    task = 100 * (wide[FREEZE] - wide[TUNE]).groupby(level="task_id").mean()
    ends = stats.t.interval(0.95, len(task) - 1, task.mean(), stats.sem(task))
    table = pd.read_csv(committed / "evidence" / "advice.csv")
    (row,) = table[
        (table["family"] == "near-far")
        & (table["way"] == ways.FREEZE)
        & table["images_per_class"].isna()
    ].to_dict("records")
    shown = (row["over_tune"], row["over_tune_low"], row["over_tune_high"])
    assert shown == pytest.approx((task.mean(), *ends))
    assert not math.isnan(row["seconds"])


def test_early_validations_are_the_first_after_each_share(committed: Path, tmp_path: Path) -> None:
    board = pd.read_csv(committed / "evidence" / "near-far.csv", dtype=str, keep_default_na=False)
    some = board[(board["class_draw"] == "0") & (board["images_per_class"] == "5")]
    wanted = sorted(some.loc[some["pattern"].isin([TUNE, FREEZE]), "run_id"])
    for family in FAMILIES:
        some.to_csv(tmp_path / f"{family}.csv", index=False)
    for run in wanted:
        (tmp_path / "runs" / f"a-{run}").mkdir(parents=True)
        lines = [f"{n},{0.01 * n:.2f}" if n % 2 else f"{n}," for n in range(30)]
        text = "\n".join(["epoch,val_top1_accuracy", *lines])
        (tmp_path / "runs" / f"a-{run}" / "history.csv").write_text(text)
    found = list(early_validations.rows(tmp_path, tmp_path))
    assert [row["run_id"] for row in found] == [run for run in wanted for _ in ways.RACES]
    shown = [(row["share"], row["epoch"], row["val_top1_accuracy"]) for row in found]
    assert shown == [(0.2, 6, 0.05), (0.5, 16, 0.15)] * len(wanted)
    assert len(wanted) == 8
