"""Advice on leaderboards where the best choice was planted, and its cost counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.advice_labels import repeated_laws
from analysis.advice_table import cell
from analysis.bands import BANDS, data_band, distance_band
from analysis.board import prepare
from analysis.evidence import Evidence
from analysis.recommend import (
    Situation,
    advise,
    best_rates,
    curves,
    decide,
    derived,
    printed,
    regret,
    tune_freeze_pairs,
)
from bench.errors import DataError
from bench.records import COLUMNS

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


def test_a_cell_is_the_mean_of_the_logarithms_by_repetition() -> None:
    rows = _pairs(1.2) + _pairs(1.5, images_per_class=12)
    found = cell(tune_freeze_pairs(_evidence(rows)), None, "low")
    board = prepare(pd.DataFrame(rows))
    logs = []
    for seed in range(5):
        both = []
        for n in (10, 12):
            at = board[(board["seed_draw"] == seed) & (board["images_per_class"] == n)]
            tuned, frozen = (
                float(at.loc[at["pattern"] == p, "top1_accuracy"].iloc[0]) for p in (TUNE, FREEZE)
            )
            both.append(math.log(tuned / frozen))
        logs.append(sum(both) / 2)
    assert found.ratio == pytest.approx(math.exp(np.mean(logs)))
    assert (found.n, found.unit, found.pairs) == (5, "seed", 10)


def test_two_repetitions_that_agree_decide_nothing() -> None:
    found = cell(tune_freeze_pairs(_evidence(_pairs(1.5, seeds=2))), None, "low")
    assert found.advice == "try both"
    assert "too few" in found.note


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


def test_regret_is_that_of_a_literal_count() -> None:
    rows = (
        _pairs(1.4, target="a", images_per_class=200)
        + _pairs(1.3, target="b", images_per_class=200)
        + _pairs(0.8, target="c", images_per_class=200)
    )
    for row in rows:  # validation says the truth
        row["val_top1_accuracy"] = row["top1_accuracy"]
    found = regret(_evidence(rows))
    assert (found.held_out, found.groups, found.without_validation) == ("target", 3, 0)
    lost: dict[str, list[float]] = {"this advice": [], "always tune": [], "always freeze": []}
    for target in "abc":
        others = [row for row in rows if row["target"] != target]
        advice = decide(tune_freeze_pairs(_evidence(others)), None, 200).advice
        points: dict[str, list[float]] = {name: [] for name in lost}
        for seed in range(5):
            mine = [r for r in rows if r["target"] == target and r["seed_draw"] == seed]
            at = {r["pattern"]: 100 * r["top1_accuracy"] for r in mine}
            best = max(at.values())
            taken = {"tune": at[TUNE], "freeze": at[FREEZE], "try both": best}
            points["this advice"].append(best - taken[advice])
            points["always tune"].append(best - at[TUNE])
            points["always freeze"].append(best - at[FREEZE])
        for name, values in points.items():
            lost[name].append(sum(values) / 5)
    table = found.table.set_index("strategy")
    for name, values in lost.items():
        assert table.loc[name, "regret_points"] == pytest.approx(sum(values) / 3)
    assert table.loc["try both", "regret_points"] == pytest.approx(0)
    assert table.loc["try both", "trainings"] == 2
    assert "CHU Table 3 as printed" not in table.index  # no distance is known


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


def test_rates_are_compared_on_common_seeds() -> None:
    rows = [_row(0.5, lr=0.01, val_top1_accuracy=0.5, seed=s) for s in (0, 1)]
    rows += [_row(0.5, lr=0.1, val_top1_accuracy=v, seed=s) for s, v in ((0, 0.4), (2, 0.9))]
    assert best_rates(_evidence(rows).board, "tune")["lr"].tolist() == [0.01]


@pytest.mark.parametrize(
    ("loss", "answer"),
    [(0.05, "copy all but the last layer"), (-0.05, "re-initialise the last 3 layers, tune")],
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


@pytest.mark.parametrize(
    ("gain", "answer", "verdict"),
    [
        (0.08, "yes, with soft", "measured"),
        (-0.08, "no: it would not gain a point", "measured"),
        (None, "worth a try: method: soft", "as printed"),
    ],
)
def test_borrowing_follows_the_runs(gain: float | None, answer: str, verdict: str) -> None:
    rows = _pairs(1.2)
    if gain is not None:
        rows += [
            _row(0.48 + gain + 0.01 * math.sin(7 * s), method="soft", borrowed="parent", seed=s)
            for s in range(5)
        ]
    line = _line(advise(Situation(10, 5), _evidence(rows)), "borrowing")
    assert (line.answer, line.verdict) == (answer, verdict)


def test_held_out_images_in_the_source_are_warned_of() -> None:
    lines = advise(Situation(10, 5, overlap=3, overlap_test=2))
    assert "flatter" in _line(lines, "overlap").answer
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
    assert "out of sight" in never.answer


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
