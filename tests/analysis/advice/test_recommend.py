"""Advice on leaderboards where the best choice was planted, and its cost counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.advice.labels import curves
from analysis.advice.recommend import advise, derived, printed
from analysis.advice.training import best_rates
from analysis.advice.tune_or_freeze import Cell, cells, decide, regret, tune_freeze_pairs
from analysis.advice.types import Significance, Situation
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.learning_curves import repeated_laws
from analysis.leaderboard.read import prepare
from analysis.papers.chu2016_bands import BANDS, data_band, distance_band
from analysis.statistics.decisions import Hypothesis, Rules
from bench.core.errors import DataError
from bench.results.records import COLUMNS

TUNE, FREEZE = "T(1-7)R(8)", "F(1-7)R(8)"
Rows = list[dict[str, Any]]
MIDDLES = {"low": 0.1, "medium": 0.3, "large": 0.6}
SIZES = {"low": 10, "medium": 50, "large": 200}


def _row(accuracy: float, **given: Any) -> dict[str, Any]:
    seed = given.pop("seed", 0)
    return (
        dict.fromkeys((c.name for c in COLUMNS), None)
        | {
            "experiments": "planted",
            "status": "done",
            "source": "near",
            "dataset": "d",
            "target": "t",
            "class_draw": 0,
            "images_per_class": 10,
            "model": "m",
            "pattern": TUNE,
            "method": "plain",
            "method_options": "",
            "lr": 0.01,
            "batch_size": 16,
            "top1_accuracy": accuracy,
            "val_top1_accuracy": accuracy,
            "seed_draw": seed,
            "seed_init": seed,
            "seed_order": seed,
        }
        | given
    )


def _pairs(ratio: float, seeds: int = 5, **given: Any) -> Rows:
    """Tuned and frozen runs whose ratio is about `ratio`."""
    rows = []
    for seed in range(seeds):
        frozen = 0.4 + 0.01 * math.sin(7 * seed)
        wobble = 1 + 0.002 * math.sin(3 * seed)
        rows.append(_row(frozen, pattern=FREEZE, seed=seed, **given))
        rows.append(_row(frozen * ratio * wobble, pattern=TUNE, seed=seed, **given))
    return rows


def _evidence(rows: Rows, cosines: dict[str, float] | None = None) -> Evidence:
    table = None
    if cosines is not None:
        table = pd.DataFrame({"target": list(cosines), "cosine": list(cosines.values())})
    return Evidence(prepare(pd.DataFrame(rows)), distances=table)


# --- the printed table ---


def test_the_printed_table_and_the_splits_behind_it() -> None:
    table = printed().set_index(["distance", "images_per_class"])
    splits = {d: [int(table.loc[(d, n), "splits"]) for n in BANDS] for d in BANDS}
    assert splits == {"low": [6, 6, 1], "medium": [4, 3, 0], "large": [3, 1, 4]}
    advice = [[str(table.loc[(d, n), "advice"]) for n in BANDS] for d in BANDS]
    assert advice == [
        ["freeze", "try both", "tune"],
        ["try both", "tune", "tune"],
        ["try both", "tune", "tune"],
    ]


@pytest.mark.parametrize(
    ("images", "cosine", "advice"),
    [
        (1, 0.0, "freeze"),
        (20, 0.1999, "freeze"),
        (21, 0.1999, "try both"),
        (99, 0.1, "try both"),
        (100, 0.1, "tune"),
        (20, 0.2, "try both"),
        (21, 0.2, "tune"),
        (20, 0.4, "try both"),
        (21, 0.4, "tune"),
    ],
)
def test_without_runs_the_paper_is_heard_at_its_band_edges(
    images: int, cosine: float, advice: str
) -> None:
    line = _line(advise(Situation(images, 5, cosine)), "freeze or tune")
    assert line.answer == advice
    assert line.verdict == "as printed"


def test_a_printed_cell_without_an_experiment_is_no_evidence() -> None:
    line = _line(advise(Situation(200, 5, 0.3)), "freeze or tune")
    assert (line.answer, line.verdict, line.n) == ("try both", "no evidence", 0)
    assert "no experiment of the paper" in line.because


def _line(lines: Sequence[Any], topic: str) -> Any:
    return next(line for line in lines if line.topic == topic)


# --- the table from one's own runs ---


def _planted_cells() -> tuple[Rows, dict[str, float], dict[tuple[str, str], str]]:
    """Six cells with known ratios, one target each."""
    rows: Rows = []
    cosines, truth = {}, {}
    ratios = {"tune": 1.3, "freeze": 0.7, "try both": 1.0}
    wanted = ["tune", "freeze", "try both", "freeze", "tune", "try both"]
    for k, advice in enumerate(wanted):
        distance, data = BANDS[k // 3], BANDS[k % 3]
        rows += _pairs(ratios[advice], target=f"t{k}", images_per_class=SIZES[data])
        cosines[f"t{k}"] = MIDDLES[distance]
        truth[distance, data] = advice
    return rows, cosines, truth


def test_known_ratios_give_the_known_table() -> None:
    rows, cosines, truth = _planted_cells()
    table = derived(_evidence(rows, cosines))
    for row in table.to_dict("records"):
        expected = truth.get((row["distance"], row["images_per_class"]))
        if expected is None:
            assert row["pairs"] == 0
            assert row["note"] == "no evidence"
        else:
            assert row["advice"] == expected
            assert row["experiments"] == (("planted", 5),)


def test_known_ratios_give_the_known_advice_against_the_paper() -> None:
    rows, cosines, truth = _planted_cells()
    evidence = _evidence(rows, cosines)
    for (distance, data), advice in truth.items():
        line = _line(
            advise(Situation(SIZES[data], 5, MIDDLES[distance]), evidence), "freeze or tune"
        )
        assert line.answer == advice
        assert line.verdict == ("undecided" if advice == "try both" else "measured")
        assert line.n == 5


def _cells(rows: Rows, data: Any = "low", rules: Rules | None = None) -> list[Cell]:
    """The cells of a data band at whatever distance, tested as a family of their own."""
    pairs = tune_freeze_pairs(_evidence(rows))
    significance = Significance(rules or Rules())
    cells(pairs, None, data, significance)
    significance.settle()
    return cells(pairs, None, data, significance)


def _log_ratios(rows: Rows, sizes: Sequence[int], seeds: int = 5) -> list[float]:
    """Of tuning over freezing, averaged over sizes, for each seed."""
    at = {(r["pattern"], r["images_per_class"], r["seed_draw"]): r["top1_accuracy"] for r in rows}
    return [
        sum(math.log(at[TUNE, n, s] / at[FREEZE, n, s]) for n in sizes) / len(sizes)
        for s in range(seeds)
    ]


def test_a_cell_is_the_mean_of_the_logarithms_by_repetition() -> None:
    rows = _pairs(1.2) + _pairs(1.5, images_per_class=12)
    (found,) = _cells(rows)
    logs = _log_ratios(rows, (10, 12))
    low, high = stats.t.interval(0.95, 4, np.mean(logs), stats.sem(logs))
    assert (found.ratio, found.low, found.high) == pytest.approx(
        (math.exp(np.mean(logs)), math.exp(low), math.exp(high))
    )
    assert (found.n, found.unit, found.pairs) == (5, "seed", 10)
    assert (found.advice, found.source, found.scope) == ("tune", "from near", "on this task")


def test_seeds_are_averaged_within_class_draws_before_these_count() -> None:
    ratios = {0: 1.2, 1: 1.3, 2: 1.5, 3: 1.25}
    rows = [r for draw, ratio in ratios.items() for r in _pairs(ratio, class_draw=draw)]
    (found,) = _cells(rows)
    draws = [
        float(np.mean(_log_ratios([r for r in rows if r["class_draw"] == draw], (10,))))
        for draw in ratios
    ]
    low, high = stats.t.interval(0.95, 3, np.mean(draws), stats.sem(draws))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert (found.n, found.unit, found.pairs) == (4, "task", 20)
    assert (found.advice, found.scope) == ("tune", "on these 4 tasks")


def test_sources_are_never_averaged() -> None:
    rows = _pairs(1.4) + _pairs(0.7, source="far")
    found = {cell.source: cell for cell in _cells(rows)}
    assert {source: cell.advice for source, cell in found.items()} == {
        "from near": "tune",
        "from far": "freeze",
    }
    line = _line(advise(Situation(10, 5), _evidence(rows)), "freeze or tune")
    assert (line.answer, line.verdict) == ("try both", "undecided")
    assert "from near: tune / freeze 1.4" in line.because
    assert "from far: tune / freeze 0.7" in line.because
    # The one that was repeated more often decides.
    more = [r for draw in range(3) for r in _pairs(1.4 + draw / 20, class_draw=draw)]
    line = _line(
        advise(Situation(10, 5), _evidence(more + _pairs(0.7, source="far"))), "freeze or tune"
    )
    assert (line.answer, line.verdict) == ("tune", "measured")


def test_two_repetitions_that_agree_decide_nothing() -> None:
    (found,) = _cells(_pairs(1.5, seeds=2))
    assert found.advice == "try both"
    assert found.low is not None
    assert found.low > 1
    line = _line(advise(Situation(10, 5), _evidence(_pairs(1.5, seeds=2))), "freeze or tune")
    assert (line.answer, line.verdict) == ("try both", "undecided")
    (found,) = _cells(_pairs(1.5, seeds=2), rules=Rules(least_seeds=2))
    assert found.advice == "tune"


def test_an_effect_below_that_of_interest_decides_nothing() -> None:
    # One per cent, and its interval is far from zero.
    (found,) = _cells(_pairs(1.01))
    assert found.low is not None
    assert (found.advice, found.low > 1) == ("try both", True)
    (found,) = _cells(_pairs(1.01), rules=Rules(interest={"% (log ratio x 100)": 0.5}))
    assert found.advice == "tune"


def test_what_else_a_page_tests_is_corrected_for() -> None:
    rng = np.random.default_rng(0)
    rows: Rows = []
    for seed, ratio in enumerate(rng.normal(1.2, 0.05, 5)):
        rows.append(_row(0.4, pattern=FREEZE, seed=seed))
        rows.append(_row(0.4 * ratio, seed=seed))
    logs = _log_ratios(rows, (10,))
    p = stats.ttest_1samp(logs, 0).pvalue
    evidence = _evidence(rows)
    for others, verdict in ((int(0.05 / p) - 1, "measured"), (int(0.05 / p) + 1, "undecided")):
        more = [Hypothesis(str(k), 1, None, 0.9, 1) for k in range(others)]
        line = _line(advise(Situation(10, 5), evidence, more), "freeze or tune")
        assert (others > 3, line.verdict) == (True, verdict)
        known = {
            row["images_per_class"]: row
            for row in derived(evidence, more).to_dict("records")
            if row["pairs"]
        }
        assert known["low"]["advice"] == ("tune" if verdict == "measured" else "try both")


def test_diverged_runs_count_at_chance_and_are_said() -> None:
    rows = [row | {"target_classes": 5} for row in _pairs(1.4)]
    rows[0] |= {"status": "diverged", "top1_accuracy": None, "val_top1_accuracy": None}
    (found,) = _cells(rows)
    logs = _log_ratios([rows[0] | {"top1_accuracy": 1 / 5}, *rows[1:]], (10,))
    assert found.ratio == pytest.approx(math.exp(np.mean(logs)))
    assert "1 diverged run at chance" in found.note


def test_runs_at_other_distances_are_heard_beside_the_paper() -> None:
    evidence = _evidence(_pairs(1.4, images_per_class=50), {"t": 0.6})
    pairs = tune_freeze_pairs(evidence)
    agreeing = decide(pairs, 0.3, 50)
    assert (agreeing.advice, agreeing.verdict) == ("tune", "measured")
    against = decide(tune_freeze_pairs(_evidence(_pairs(0.6, images_per_class=50))), 0.3, 50)
    assert (against.advice, against.verdict) == ("try both", "undecided")
    assert "CHU Table 3: tune" in against.because


def test_an_unknown_distance_is_said() -> None:
    lines = advise(Situation(10, 5))
    line = _line(lines, "freeze or tune")
    assert (line.answer, line.verdict) == ("try both", "no evidence")
    assert "freeze at low distance" in line.because
    assert _line(advise(Situation(150, 5)), "freeze or tune").answer == "tune"


# --- what following it costs ---


def _cross_fitted(rows: Rows, seeds: int, take: Any) -> float:
    """Points that a way of taking arms loses on one condition, one half of its seeds at a time.

    The better arm is that of the other half, so that where arms are equal nothing is lost by luck.
    """
    at = {(r["pattern"], r["seed_draw"]): 100 * r["top1_accuracy"] for r in rows}
    halves = list(range(0, seeds, 2)), list(range(1, seeds, 2))
    lost = []
    for half, other in (halves, halves[::-1]):
        tuned, frozen = (sum(at[arm, s] for s in other) for arm in (TUNE, FREEZE))
        best = TUNE if tuned >= frozen else FREEZE
        lost.append(sum(at[best, s] - at[take(s), s] for s in half) / len(half))
    return sum(lost) / 2


def test_regret_is_that_of_a_literal_count() -> None:
    rows = (
        _pairs(1.4, target="a", images_per_class=200)
        + _pairs(1.3, target="b", images_per_class=200)
        + _pairs(0.8, target="c", images_per_class=200)
        + _pairs(1.02, target="c", images_per_class=300)
    )
    rng = np.random.default_rng(0)
    for row in rows:
        row["top1_accuracy"] += rng.normal(0, 0.02)
        row["val_top1_accuracy"] = row["top1_accuracy"] + rng.normal(0, 0.02)
    found = regret(_evidence(rows))
    assert (found.held_out, found.groups) == ("target", 3)
    assert (found.without_validation, found.without_halves) == (0, 0)
    lost: dict[str, list[float]] = {}
    for target in "abc":
        others = [row for row in rows if row["target"] != target]
        advice = decide(tune_freeze_pairs(_evidence(others)), None, 200).advice
        of_target: dict[str, list[float]] = {}
        for n in (200, 300) if target == "c" else (200,):
            mine = [r for r in rows if (r["target"], r["images_per_class"]) == (target, n)]
            val = {(r["pattern"], r["seed_draw"]): r["val_top1_accuracy"] for r in mine}

            def validated(seed: int, val: Any = val) -> str:
                return TUNE if val[TUNE, seed] >= val[FREEZE, seed] else FREEZE

            ways = {
                "always tune": lambda s: TUNE,
                "always freeze": lambda s: FREEZE,
                "try both": validated,
            }
            of_advice = {"tune": "always tune", "freeze": "always freeze"}.get(advice, advice)
            ways["this advice"] = ways[of_advice]
            for name, take in ways.items():
                of_target.setdefault(name, []).append(_cross_fitted(mine, 5, take))
        for name, values in of_target.items():
            lost.setdefault(name, []).append(sum(values) / len(values))
    table = found.table.set_index("strategy")
    assert set(table.index) == set(lost)  # the paper's cell is not known without a distance
    for name, values in lost.items():
        row = table.loc[name]
        assert row["regret_points"] == pytest.approx(np.mean(values))
        if np.ptp(values) < 1e-9:  # the same arm as the better one, in every target
            assert row[["low", "high"]].isna().all()
        else:
            ends = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
            assert (row["low"], row["high"]) == pytest.approx(ends)
        assert (row["n"], row["unit"]) == (3, "task")
    assert table.loc["try both", "trainings"] == 2
    assert table.loc["always tune", "trainings"] == 1


def test_where_arms_do_not_differ_no_decision_loses_on_average() -> None:
    rng = np.random.default_rng(1)
    lost: dict[str, list[float]] = {}
    times, spread = 25, 0.02
    for _ in range(times):
        rows = [
            _row(a, pattern=p, seed=s, target=target, val_top1_accuracy=v, images_per_class=200)
            for target in "abcd"
            for s in range(4)
            for p, a, v in zip(
                (TUNE, FREEZE), rng.normal(0.5, spread, 2), rng.random(2), strict=True
            )
        ]
        for row in regret(_evidence(rows)).table.to_dict("records"):
            lost.setdefault(row["strategy"], []).append(row["regret_points"])
    assert set(lost) == {"this advice", "always tune", "always freeze", "try both"}
    for values in lost.values():
        assert len(values) == times
        # The better of two runs by test accuracy would be 0.56 deviations above their mean.
        assert abs(np.mean(values)) < 3 * stats.sem(values) < 0.56 * 100 * spread


def test_advice_from_like_targets_loses_nothing_and_the_wrong_habit_does() -> None:
    rows, cosines = [], {}
    for k in range(8):
        near = k % 2 == 0
        ratio = (0.8 if near else 1.25) + 0.004 * k
        rows += _pairs(ratio, target=f"t{k}", images_per_class=200)
        cosines[f"t{k}"] = 0.1 if near else 0.6
    table = regret(_evidence(rows, cosines)).table.set_index("strategy")
    assert table.loc["this advice", "regret_points"] == pytest.approx(0, abs=1e-9)
    assert table.loc["always tune", "regret_points"] > 3
    assert table.loc["always freeze", "regret_points"] > 3
    assert table.loc["CHU Table 3 as printed", "regret_points"] > 3
    assert table.loc["this advice", "trainings"] == 1


def test_regret_needs_two_targets_and_keeps_families_together() -> None:
    with pytest.raises(DataError, match="two or more"):
        regret(_evidence(_pairs(1.2)))
    draws = _pairs(1.2) + _pairs(1.2, class_draw=1) + _pairs(1.2, target="t take 5")
    found = regret(_evidence(draws))
    assert (found.held_out, found.groups) == ("class draw", 2)


def test_a_condition_with_one_seed_has_no_half_to_be_scored_on() -> None:
    two = _pairs(1.2, target="a") + _pairs(1.2, target="b")
    found = regret(_evidence([*two, *_pairs(1.2, seeds=1, target="b", images_per_class=50)]))
    assert found.without_halves == 1
    assert set(found.table["n"]) == {2}
    with pytest.raises(DataError, match="no condition has two seeds"):
        regret(_evidence(_pairs(1.2, seeds=1, target="a") + _pairs(1.2, seeds=1, target="b")))


def test_runs_without_validation_are_counted_and_left_out() -> None:
    rows = _pairs(1.2, target="a") + _pairs(1.2, target="b")
    rows[0]["val_top1_accuracy"] = None
    assert regret(_evidence(rows)).without_validation == 1


# --- rates, depth, borrowing ---


def test_the_best_rate_is_chosen_by_validation_and_edges_are_named() -> None:
    rows = []
    for seed in range(3):
        for rate, validation, test in ((0.001, 0.3, 0.9), (0.01, 0.5, 0.2), (0.1, 0.4, 0.1)):
            rows.append(_row(test, lr=rate, val_top1_accuracy=validation, seed=seed))
    found = best_rates(_evidence(rows).board, "tune")
    assert [(r.lr, r.lowest, r.highest) for r in found.itertuples()] == [(0.01, 0.001, 0.1)]
    lines = advise(Situation(10, 5, model="m"), _evidence(rows))
    line = _line(lines, "learning rate, tune")
    assert (line.answer, line.verdict, line.n) == ("0.01", "measured", 1)
    two = [row for row in rows if row["lr"] <= 0.01]
    said = _line(advise(Situation(10, 5), _evidence(two)), "learning rate, tune").because
    assert "the highest tried was best in 1" in said


def test_a_rate_that_diverged_is_advised_only_where_all_did() -> None:
    rows = [
        _row(a, lr=rate, seed=seed, target_classes=10)
        for seed in range(3)
        for rate, a in ((0.01, 0.4), (0.1, 0.9))
    ]
    assert best_rates(_evidence(rows).board, "tune")["lr"].tolist() == [0.1]
    rows[1] |= {"status": "diverged", "top1_accuracy": None, "val_top1_accuracy": None}
    assert best_rates(_evidence(rows).board, "tune")["lr"].tolist() == [0.01]


def test_rates_are_compared_on_common_seeds() -> None:
    rows = [_row(0.5, lr=0.01, val_top1_accuracy=0.5, seed=s) for s in (0, 1)]
    rows += [_row(0.5, lr=0.1, val_top1_accuracy=v, seed=s) for s, v in ((0, 0.4), (2, 0.9))]
    assert best_rates(_evidence(rows).board, "tune")["lr"].tolist() == [0.01]


@pytest.mark.parametrize(
    ("loss", "answer"),
    [
        (0.05, "copy all but the last layer"),
        (-0.05, "re-initialise the last 3 layers, tune, from near"),
    ],
)
def test_copy_depth_follows_the_runs(loss: float, answer: str) -> None:
    rows = _pairs(1.3)
    rows += [
        _row(0.52 - loss + 0.01 * math.sin(7 * s), pattern="T(1-5)R(6-8)", seed=s) for s in range(5)
    ]
    line = _line(advise(Situation(10, 5), _evidence(rows)), "copy depth")
    assert (line.answer, line.verdict, line.n) == (answer, "measured", 5)


def test_the_exception_of_copying_is_named() -> None:
    line = _line(advise(Situation(300, 5, 0.6)), "copy depth")
    assert "try re-initialising" in line.answer
    assert line.n == 4


def _borrowed(gain: float, **given: Any) -> Rows:
    """Soft fine-tuning that gains so much over the tuned runs of `_pairs(1.2)`."""
    return [
        _row(
            0.48 + gain + 0.01 * math.sin(7 * s), method="soft", borrowed="parent", seed=s, **given
        )
        for s in range(5)
    ]


@pytest.mark.parametrize(
    ("gain", "answer", "verdict"),
    [
        (0.08, "yes, with soft, from near", "measured"),
        (0.004, "not shown to help: plain fine-tuning first", "undecided"),
        (None, "worth a try: method: soft", "as printed"),
    ],
)
def test_borrowing_follows_the_runs(gain: float | None, answer: str, verdict: str) -> None:
    rows = _pairs(1.2) + ([] if gain is None else _borrowed(gain))
    line = _line(advise(Situation(10, 5), _evidence(rows)), "borrowing")
    assert (line.answer, line.verdict) == (answer, verdict)
    assert line.n == (5 if gain is not None else line.n)


def test_borrowing_that_harms_is_not_advised() -> None:
    line = _line(advise(Situation(10, 5), _evidence(_pairs(1.2) + _borrowed(-0.08))), "borrowing")
    assert line.answer.endswith("plain fine-tuning first") or line.answer.startswith("no")
    assert "soft, from near -8." in line.because or "soft, from near -7." in line.because


def test_what_is_borrowed_is_not_averaged() -> None:
    rows = _pairs(1.2) + _borrowed(0.08) + _borrowed(-0.06, **{"method.batch_norm": "target"})
    line = _line(advise(Situation(10, 5), _evidence(rows)), "borrowing")
    assert "soft, from near" in line.because
    assert "soft, batch norm target" in line.because
    assert (line.answer, line.n) == ("yes, with soft, from near", 10)


def test_held_out_images_in_the_source_are_warned_of() -> None:
    lines = advise(Situation(10, 5, overlap=3, overlap_test=2))
    assert "too high" in _line(lines, "overlap").answer
    assert "exclude_overlap" in _line(lines, "borrowing").because
    assert _line(advise(Situation(10, 5, overlap=0)), "overlap").answer == "none found"
    assert _line(advise(Situation(10, 5)), "overlap").verdict == "no evidence"


def test_runs_of_another_network_are_named_as_such() -> None:
    evidence = _evidence(_pairs(1.3, images_per_class=200))
    same = _line(advise(Situation(200, 5, model="m"), evidence), "freeze or tune")
    other = _line(advise(Situation(200, 5, model="resnet18"), evidence), "freeze or tune")
    assert "other networks" not in same.because
    assert "other networks (m), none of resnet18" in other.because


# --- more labels ---


def _curve(exponent: float, sizes: Sequence[int] = (5, 20, 80), **given: Any) -> Rows:
    return [
        _row(
            1 - (0.8 + 0.01 * math.sin(5 * seed + n)) * n**-exponent,
            images_per_class=n,
            seed=seed,
            **given,
        )
        for seed in range(4)
        for n in sizes
    ]


def test_planted_exponents_come_back() -> None:
    (curve,) = curves(_evidence(_curve(0.3)))
    laws = repeated_laws(curve.runs)
    assert len(laws) == 4
    assert laws["exponent"].mean() == pytest.approx(0.3, abs=0.01)


def test_other_momentum_is_another_curve() -> None:
    rows = _curve(0.3, **{"train.momentum": 0.5}) + _curve(0.5, **{"train.momentum": 0.9})
    found = [repeated_laws(curve.runs)["exponent"].mean() for curve in curves(_evidence(rows))]
    assert sorted(found) == pytest.approx([0.3, 0.5], abs=0.01)


def test_class_draws_are_the_unit_of_a_curve() -> None:
    rows = [row for draw in range(3) for row in _curve(0.3 + draw / 50, class_draw=draw)]
    (curve,) = curves(_evidence(rows))
    laws = repeated_laws(curve.runs)
    assert (len(laws), laws["task"].nunique()) == (12, 3)
    line = _line(advise(Situation(20, 5), _evidence(rows)), "more labels")
    assert "(3 tasks)" in line.because


def test_how_many_more_labels() -> None:
    evidence = _evidence(_curve(0.5))
    line = _line(advise(Situation(20, 5, accuracy=0.9), evidence), "more labels")
    # 0.8 n^-0.5 = 0.1 at n = 64
    assert line.answer.startswith("90 % accuracy at about 6")
    assert line.verdict == "measured"
    plain = _line(advise(Situation(20, 5), evidence), "more labels")
    assert "twice the labels cut the error by 29" in plain.answer
    far = _line(advise(Situation(20, 5, accuracy=0.98), evidence), "more labels")
    assert "extrapolated" in far.answer
    assert far.verdict == "undecided"
    never = _line(advise(Situation(20, 5, accuracy=0.9999), evidence), "more labels")
    assert "takes over 100 times the" in never.answer


def test_flat_curves_promise_nothing() -> None:
    line = _line(advise(Situation(20, 5, accuracy=0.9), _evidence(_curve(0.0))), "more labels")
    assert line.answer == "more labels are not shown to help"


def test_crossings_of_tuning_and_freezing() -> None:
    rows: Rows = []
    for n, ratio in ((5, 0.8), (20, 0.9), (80, 1.3)):
        rows += _pairs(ratio, images_per_class=n)
    line = _line(advise(Situation(20, 5), _evidence(rows)), "crossing")
    assert line.answer.startswith("tuning is better from about 2")
    assert "you have 20" in line.answer
    assert line.verdict == "measured"


def test_an_arm_that_is_better_at_both_ends_is_named_and_open_ends_are_not() -> None:
    def said(*ratios: float) -> Sequence[str]:
        rows: Rows = []
        for n, ratio in zip((5, 20, 80), ratios, strict=True):
            rows += _pairs(ratio, images_per_class=n)
        lines = advise(Situation(20, 5), _evidence(rows))
        return [line.answer for line in lines if line.topic == "crossing"]

    assert said(1.2, 1.1, 1.3) == ["tuning is better than freezing at 5 and at 80 images per class"]
    assert said(0.8, 0.9, 0.7) == ["freezing is better than tuning at 5 and at 80 images per class"]
    assert said(0.8, 0.9, 1.0) == []


def test_without_sizes_it_is_said_what_to_run() -> None:
    line = _line(advise(Situation(20, 5), _evidence(_pairs(1.2))), "more labels")
    assert line.verdict == "no evidence"
    assert "images_per_class" in line.because


# --- all of it ---


def test_every_line_says_why_and_only_evidence_has_a_number() -> None:
    rows, cosines, _ = _planted_cells()
    for evidence in (None, _evidence(rows, cosines)):
        for n in (3, 50, 400):
            for cosine in (None, 0.1, 0.5):
                for line in advise(Situation(n, 5, cosine), evidence):
                    assert line.because
                    assert line.answer
                    if line.topic != "overlap":
                        assert (line.n == 0) <= (line.verdict in ("no evidence",))
    assert data_band(3) == "low"
    assert distance_band(0.5) == "large"


def test_unequal_classes_are_named() -> None:
    said = _line(advise(Situation(30, 5, 0.1, fewest=3, most=200)), "freeze or tune").because
    assert "3 to 200 in a class" in said
