"""Questions of a leaderboard as paired gains, against slow literal pairing and testing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparisons.contrasts import answers, contrasts, decided, gain_rows
from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import examine
from analysis.leaderboard.labels import recipe, settings
from analysis.leaderboard.read import prepare, read
from analysis.report.summary import headline
from analysis.statistics.decisions import Rules, decide
from bench.results.records import COLUMNS


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


def study(draws: int = 3, seeds: int = 2, noise: float = 0.01, spread: float = 0.0) -> pd.DataFrame:
    """near tuned 0.6, near frozen 0.5, far tuned 0.55, scratch 0.3, more with more images.

    `noise` is of a run, `spread` of an arm on a draw of classes, which its seeds share.
    """
    rng, of_draws = np.random.default_rng(0), np.random.default_rng(1)
    shifts = spread * of_draws.standard_normal((4, draws, 3))
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
            top1_accuracy=level
            + 0.05 * math.log10(n)
            + shifts[place, draw, size]
            + noise * rng.standard_normal(),
        )
        for (place, (arm, level)), draw, seed, (size, n) in itertools.product(
            enumerate(arms), range(draws), range(seeds), enumerate((5, 20, 100))
        )
    ]
    return prepare(pd.DataFrame(rows))


Arm = dict[str, Any]
Gains = dict[int, list[float]]
ARMS: dict[str, tuple[Arm, Arm]] = {
    "near, tuned − scratch": ({"source": "near", "treatment": "tune"}, {"source": "none"}),
    "near, frozen − scratch": ({"source": "near", "treatment": "freeze"}, {"source": "none"}),
    "far, tuned − scratch": ({"source": "far", "treatment": "tune"}, {"source": "none"}),
    "near, tuned − frozen": (
        {"source": "near", "treatment": "tune"},
        {"source": "near", "treatment": "freeze"},
    ),
    "near − far, tuned": (
        {"source": "near", "treatment": "tune"},
        {"source": "far", "treatment": "tune"},
    ),
}
"""All that can be compared in a study."""


def table_of(board: pd.DataFrame, **rules: Any) -> pd.DataFrame:
    evidence = Evidence(board, rules=Rules(**rules))
    return gain_table(evidence)


def gain_table(evidence: Evidence) -> pd.DataFrame:
    """The answers with verdicts, as if nothing else were tested."""
    rows = gain_rows(answers(evidence), evidence)
    return decided(rows, decide(list(rows["test"]), evidence.rules))


# --- slow twins ---


def slow_gains(board: pd.DataFrame, left: Arm, right: Arm, n: int) -> Gains:
    """The differences of each draw, in points."""

    def runs(arm: Arm) -> dict[tuple[int, int], float]:
        found = {}
        for row in board.to_dict("records"):
            if row["images_per_class"] == n and all(row[k] == v for k, v in arm.items()):
                found[int(row["class_draw"]), int(row["seed_init"])] = float(row["top1_accuracy"])
        return found

    a, b = runs(left), runs(right)
    by_draw: Gains = {}
    for key in sorted(a.keys() & b.keys()):
        by_draw.setdefault(key[0], []).append(100 * (a[key] - b[key]))
    return by_draw


def over_tasks(gains: Gains) -> tuple[float, float, float, float]:
    """Mean over draws, the ends of Student's interval over them, and its p-value."""
    means = [sum(values) / len(values) for values in gains.values()]
    tested = stats.ttest_1samp(means, 0.0)
    low, high = tested.confidence_interval(0.95)
    return float(np.mean(means)), float(low), float(high), float(tested.pvalue)


def these_tasks(gains: Gains, share: float = 0.0) -> tuple[float, float, float]:
    """Ends of the interval and p-value of the mean of these very draws.

    Args:
        share: of the images to draw from that a training set takes, and two have in common.
    """
    t = len(gains)
    mean = sum(sum(values) / len(values) for values in gains.values()) / t
    parts = [
        (np.var(values, ddof=1) * (1 / len(values) + share / (1 - share)) / t**2, len(values) - 1)
        for values in gains.values()
    ]
    variance = sum(v for v, _ in parts)
    df = variance**2 / sum(v**2 / d for v, d in parts)
    error = math.sqrt(variance)
    half = float(stats.t.ppf(0.975, df)) * error
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, df))


def slow_holm(p: Mapping[Any, float]) -> dict[Any, tuple[float, float]]:
    """Holm (1979): each adjusted p-value, and the level that the raw one had to reach."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        left = len(p) - place
        largest = max(largest, min(1.0, left * p[name]))
        adjusted[name] = largest, 0.05 / left
    return adjusted


# --- gains, intervals and verdicts ---


@pytest.mark.parametrize(
    ("noise", "spread", "scopes"),
    [
        (0.01, 0.0, {"in general"}),
        (0.04, 0.0, {"in general", ""}),
        (0.01, 0.1, {"on these 3 tasks", ""}),
        (0.01, 0.02, {"in general", "on these 3 tasks", ""}),
    ],
)
def test_gains_and_verdicts_are_those_of_literal_pairs(
    noise: float, spread: float, scopes: set[str]
) -> None:
    board = study(noise=noise, spread=spread)
    table = table_of(board)
    assert set(table["scope"]) == scopes
    assert len(table) == len(ARMS) * 3
    gains = {
        (label, n): slow_gains(board, *arms, n)
        for label, arms in ARMS.items()
        for n in (5, 20, 100)
    }
    # Tested in general and on these draws, at half the level each.
    p = {key: (over_tasks(values)[3], these_tasks(values)[2]) for key, values in gains.items()}
    holm = slow_holm({key: min(1.0, 2 * min(both)) for key, both in p.items()})
    for row in table.to_dict("records"):
        key = row["label"], row["n_per_class"]
        mean, low, high, _ = over_tasks(gains[key])
        assert row["gain_points"] == pytest.approx(mean)
        assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
        assert (row["here_low"], row["here_high"]) == pytest.approx(these_tasks(gains[key])[:2])
        assert (row["n"], row["unit"], row["pairs"]) == (3, "task", 6)
        assert (row["p"], row["p_holm"]) == pytest.approx((p[key][0], holm[key][0]))
        general, here = (
            holm[key][0] <= 0.05 and 2 * value <= holm[key][1] and abs(mean) >= 1
            for value in p[key]
        )
        said = "higher" if mean > 0 else "lower"
        assert row["verdict"] == (said if general or here else "undecided")
        where = "in general" if general else "on these 3 tasks" if here else ""
        assert row["scope"] == where


def test_of_one_task_the_verdict_speaks_of_that_task() -> None:
    board = study(draws=1, seeds=3)
    table = table_of(board)
    for row in table.to_dict("records"):
        (values,) = slow_gains(board, *ARMS[row["label"]], row["n_per_class"]).values()
        tested = stats.ttest_1samp(values, 0.0)
        low, high = tested.confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert (row["here_low"], row["here_high"]) == (row["low"], row["high"])
        assert row["p"] == pytest.approx(tested.pvalue)
        assert (row["n"], row["unit"]) == (3, "seed")
    assert set(table["scope"]) <= {"on this task", ""}
    assert (table["verdict"] == "higher").any()
    # Two seeds have an interval, but are too few for a verdict.
    two = table_of(study(draws=1, seeds=2))
    assert two["low"].notna().all()
    assert set(two["verdict"]) == {"undecided"}
    assert two["p_holm"].isna().all()
    assert (table_of(study(draws=1, seeds=2), least_seeds=2)["p_holm"].notna()).all()


def test_an_effect_below_the_smallest_of_interest_decides_nothing() -> None:
    board = study(noise=0.0001)
    board.loc[board["treatment"] == "freeze", "top1_accuracy"] += 0.095
    for interest, verdict in ((0.4, "higher"), (0.6, "undecided")):
        table = table_of(board, interest={"points": interest})
        half = table[table["label"] == "near, tuned − frozen"]
        assert half["gain_points"].to_numpy() == pytest.approx(0.5, abs=0.05)
        assert (half["p_holm"] < 0.001).all()
        assert set(half["verdict"]) == {verdict}


def test_a_single_repetition_has_no_interval_and_no_verdict() -> None:
    table = table_of(study(draws=1, seeds=1))
    assert len(table)
    assert table["low"].isna().all()
    assert set(table["verdict"]) == {"undecided"}
    assert table["note"].str.contains("no interval").all()


def test_two_equal_differences_decide_nothing() -> None:
    for draws, seeds in ((1, 4), (4, 1), (4, 4)):
        table = table_of(study(draws=draws, seeds=seeds, noise=0.0))
        assert table["low"].isna().all()
        assert set(table["verdict"]) == {"undecided"}
        assert table["p_holm"].isna().all()


def test_a_diverged_run_counts_at_chance() -> None:
    rows = study()
    near = (rows["source"] == "near") & (rows["treatment"] == "tune") & (rows["n_per_class"] == 5)
    away = rows.index[near][0]
    rows.loc[away, "status"] = "diverged"
    rows.loc[away, ["top1_accuracy", "val_top1_accuracy"]] = np.nan
    board = prepare(rows)
    assert board.loc[away, "top1_accuracy"] == 1 / 10
    table = table_of(board).set_index(["label", "n_per_class"])
    row = table.loc[("near, tuned − frozen", 5.0)]
    gains = slow_gains(board, *ARMS["near, tuned − frozen"], 5)
    assert row["gain_points"] == pytest.approx(over_tasks(gains)[0])
    assert (row["diverged"], row["pairs"], row["unfinished"]) == (1, 6, 0)
    assert table.loc[("near, tuned − frozen", 20.0), "diverged"] == 0
    # One that failed has no outcome: its pair is missing, and that is shown.
    board.loc[away, ["status", "top1_accuracy"]] = ["failed", np.nan]
    row = table_of(board).set_index(["label", "n_per_class"]).loc[("near, tuned − frozen", 5.0)]
    assert (row["diverged"], row["pairs"], row["unfinished"]) == (0, 5, 1)


def test_sources_that_were_trained_differently_are_never_averaged() -> None:
    board = study()
    longer = board[board["source"] == "near"].assign(source_epochs=9)
    longer["top1_accuracy"] -= 0.2
    both = prepare(pd.concat([board, longer], ignore_index=True))
    table = table_of(both)
    found = table[(table["label"] == "near − far, tuned") & (table["n_per_class"] == 5)]
    lower, higher = sorted(found["gain_points"])
    assert higher - lower == pytest.approx(20)
    assert set(found["pairs"]) == {6}
    assert len(set(found["setting"])) == 2


def test_what_has_no_pair_has_no_row() -> None:
    board = study()
    alone = board[board["source"] == "near"]
    table = table_of(alone.reset_index(drop=True))
    assert set(table["question"]) == {"treatment"}
    none = board[board["source"] == "none"].reset_index(drop=True)
    assert table_of(none).empty


def test_holm_is_over_all_answers_and_all_claims_whichever_are_asked_for() -> None:
    evidence = Evidence(study(noise=0.04))
    examined = examine(evidence)
    family = {t.hypothesis: t.p for t in examined.tests if t.p is not None}
    answered = {t.hypothesis for t in examined.gains["test"]}
    claimed = {p.test.hypothesis for f in examined.findings for p in f.parts if p.test is not None}
    assert answered | claimed >= set(family)
    assert claimed - answered
    holm = slow_holm(family)
    for row in examined.gains.to_dict("records"):
        assert row["p_holm"] == pytest.approx(holm[row["test"].hypothesis][0])
    tested = [
        p for f in examined.findings for p in f.parts if p.test is not None and p.test.p is not None
    ]
    for part in tested:
        assert part.p_holm == pytest.approx(holm[part.test.hypothesis][0])
    alone = gain_table(evidence)
    assert (examined.gains["p_holm"] >= alone["p_holm"]).all()
    assert (examined.gains["p_holm"] > alone["p_holm"]).any()


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
    table = table_of(prepare(pd.DataFrame(rows)))
    methods = table[table["question"] == "method"].set_index("label")
    assert methods.loc["soft", "verdict"] == "higher"
    assert methods.loc["soft, schedule zero", "verdict"] == "lower"


_PHOTOGRAPHS = {
    "near − far, tuned": (("near", "T(1-7)R(8)"), ("far", "T(1-7)R(8)")),
    "near, tuned − frozen": (("near", "T(1-7)R(8)"), ("near", "F(1-7)R(8)")),
    "far, frozen − scratch": (("far", "F(1-7)R(8)"), ("none", "R(1-8)")),
}


_SIX = {("near, tuned − scratch", 100), ("near − far, tuned", 100)}
"""Where instruments were trained too."""


@pytest.fixture(scope="module")
def photographs(committed: Path) -> pd.DataFrame:
    return table_of(read(committed / "tiny-imagenet.csv"))


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize("label", _PHOTOGRAPHS)
def test_the_committed_photographs_give_the_differences_of_their_csv(
    committed: Path, photographs: pd.DataFrame, label: str, n: int
) -> None:
    rows = pd.read_csv(committed / "tiny-imagenet.csv", keep_default_na=False, na_values=[""])
    rows = rows[
        rows["target"].isin(["animal.n.01", "instrumentality.n.03"])
        & (rows["images_per_class"] == n)
        & (rows["epochs"] == {5: 30, 20: 20, 100: 10}[n])
        & rows["copied_lr_factor"].isin([1, np.nan])
        & rows["expand_to"].isna()
        & rows["lr"].isin([0.01, 0.03])  # what all arms tried
    ]
    gains: dict[Any, list[float]] = {}
    for target, of_target in rows.groupby("target"):
        chosen = []
        for source, pattern in _PHOTOGRAPHS[label]:
            arm = of_target[(of_target["source"] == source) & (of_target["pattern"] == pattern)]
            best = arm.groupby("lr")["val_top1_accuracy"].mean()
            chosen.append(arm[arm["lr"] == (best.idxmax() if len(best) else 0)])
        left, right = (arm.set_index(["class_draw", "seed_init"]) for arm in chosen)
        points = 100 * (left["top1_accuracy"] - right["top1_accuracy"]).dropna()
        gains |= {(target, draw): list(v) for draw, v in points.groupby("class_draw")}
    assert len(gains) == (6 if (label, n) in _SIX else 3)
    (row,) = photographs[
        photographs["main"] & (photographs["label"] == label) & (photographs["n_per_class"] == n)
    ].to_dict("records")
    mean, low, high, p = over_tasks(gains)
    assert row["gain_points"] == pytest.approx(mean)
    assert (row["low"], row["high"], row["p"]) == pytest.approx((low, high, p))
    animals = rows[rows["target"] == "animal.n.01"]
    share = float((animals["train_images"] / animals["available_images"]).iloc[0])
    # The targets' shares differ in the third digit.
    here = pytest.approx(these_tasks(gains, share)[:2], rel=1e-6 if len(gains) == 3 else 1e-3)
    assert (row["here_low"], row["here_high"]) == here
    runs = sum(map(len, gains.values()))
    found = row["n"], row["unit"], row["pairs"], row["unfinished"]
    assert found == (len(gains), "task", runs, 0)


def test_the_committed_photographs_decide_some_gains_and_say_where_they_hold(
    photographs: pd.DataFrame,
) -> None:
    main = photographs[photographs["main"]].set_index(["label", "n_per_class"])
    for n, verdict in ((100.0, "higher"), (20.0, "undecided"), (5.0, "lower")):
        assert main.loc[("near, tuned − frozen", n), "verdict"] == verdict
    assert main.loc[("near, tuned − frozen", 100.0), "scope"] == "on these 3 tasks"
    assert main.loc[("near, tuned − scratch", 100.0), "scope"] == "in general"
    assert (photographs["unfinished"] == 0).all()


def test_a_row_says_what_its_runs_start_from(committed: Path) -> None:
    found = answers(Evidence(read(committed / "tiny-imagenet.csv")))
    unsaid = [a for a in found if not a.contrast.source and a.contrast.question != "source"]
    assert {a.contrast.question for a in unsaid} == {"start", "copy", "freeze", "augment"}
    for answer in unsaid:
        said = answer.frame.groupby(["setting", "n_per_class"])["source"].nunique()
        assert (said == 1).all()
        several = answer.frame["source"].nunique() > 1
        for row in answer.frame.to_dict("records"):
            start = "no source" if row["source"] == "none" else f"from {row['source']}"
            assert (start in row["setting"]) or not several


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
    table = table_of(prepare(pd.DataFrame(rows)))
    assert set(table["edge"]) == {"highest"}
    first = headline(table, pd.DataFrame(), pd.DataFrame())[0]
    assert "each arm at the learning rate that validation chose" in first
    assert "its best is the highest tried" in first
