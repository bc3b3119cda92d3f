"""Every claim on the published numbers, and on leaderboards where the truth was planted."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import CLAIMS, examine, find_claim, on_published, table
from analysis.findings.parts import Finding, Part, combine, judge, ordered, slope, trend
from analysis.leaderboard.read import parse, prepare
from analysis.papers import published
from analysis.statistics.decisions import Rules
from bench.core.errors import DataError
from bench.core.text import p_value
from bench.results.intervals import Estimate
from bench.results.records import COLUMNS

TUNE, FREEZE, SCRATCH = "T(1-7)R(8)", "F(1-7)R(8)", "R(1-8)"
Rows = list[dict[str, Any]]

PUBLISHED = {
    "holds": "SFT-C1 SFT-C2 SFT-C3 SFT-C4 SFT-C5 SFT-C6 SFT-C7 GE-C1 GE-C2 GE-C3 GE-C4 "
    "LI-C1 LI-C2 LI-C3",
    "fails": "LI-C4 CHU-C5",
    "not enough evidence": "GE-C5 LI-C5 LI-C6 LI-C7 LI-C8 LI-C9 LI-C10 LI-C11 "
    "LI-C12 LI-C13 "
    "CHU-C1 CHU-C2 CHU-C3 CHU-C4",
}


# --- on the published numbers ---


def test_verdicts_on_the_published_numbers() -> None:
    found = {f.claim: f.verdict for f in on_published()}
    assert found == {name: v for v, names in PUBLISHED.items() for name in names.split()}


def test_every_claim_of_the_papers_is_there_once() -> None:
    numbers = {"SFT": 7, "GE": 5, "LI": 13, "CHU": 5}
    expected = [f"{paper}-C{i}" for paper, n in numbers.items() for i in range(1, n + 1)]
    assert [c.id for c in CLAIMS] == expected


def test_the_contradictions_are_named() -> None:
    orderings, near_far = on_published([find_claim("CHU-C5"), find_claim("LI-C4")])
    assert "Coral and Plankton" in orderings.detail
    assert orderings.main.effect == pytest.approx(27 / 28)
    assert [p.verdict for p in orderings.parts] == ["holds", "fails", "holds"]
    assert "DOG SVM -0.24" in near_far.detail
    assert [p.verdict for p in near_far.parts] == ["holds", "fails", "holds"]


def test_numbers_behind_published_verdicts() -> None:
    losses = {
        arm: [
            published.value("soft-ft-2019", "Table 5", arm, f"TAR @ FAR=1e-{k}")
            - published.value(
                "soft-ft-2019", "Table 5", f"{arm} (trained on 2 expressions)", f"TAR @ FAR=1e-{k}"
            )
            for k in (2, 3, 4, 5)
        ]
        for arm in ("fine-tuning", "soft fine-tuning")
    }
    assert losses["fine-tuning"] == pytest.approx([12.6, 10.3, 2.5, 2.2])
    assert losses["soft fine-tuning"] == pytest.approx([2.6, 4.8, 8.0, 10.1])
    gains = on_published([find_claim("GE-C3")])[0]
    assert "Stanford Dogs +9.8" in gains.detail
    assert "Oxford Flowers +2.4" in gains.detail


# --- planted leaderboards ---


def _row(accuracy: float, **given: Any) -> dict[str, Any]:
    row = dict.fromkeys((c.name for c in COLUMNS), None) | {
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
        "top1_accuracy": accuracy,
        "val_top1_accuracy": accuracy,
        "target_classes": 10,
    }
    seed = given.pop("seed", 0)
    if row["source"] == "none":
        row["pattern"] = SCRATCH
    return row | {"seed_draw": seed, "seed_init": seed, "seed_order": seed} | given


def _seeds() -> Iterator[tuple[int, float]]:
    """Five seeds; a shift that arms of one seed share."""
    for seed in range(5):
        yield seed, 0.01 * math.sin(7 * seed)


def _jitter(*words: object) -> float:
    """Reproducible noise of 0.3 percent."""
    return 0.003 * math.sin(zlib.crc32(repr(words).encode()))


def _arms(arms: Sequence[tuple[float, dict[str, Any]]], **shared: Any) -> Rows:
    return [
        _row(a + shift + _jitter(a, seed, i), seed=seed, **{**shared, **given})
        for i, (a, given) in enumerate(arms)
        for seed, shift in _seeds()
    ]


def _methods(*values: tuple[float, str, str] | tuple[float, str, str, str]) -> Rows:
    """Arms by accuracy, method, options and what is borrowed, by default the parent's data."""
    given = []
    for a, method, options, *borrowed in values:
        default = None if method == "plain" else "parent"
        label = borrowed[0] if borrowed else default
        given.append((a, {"method": method, "method_options": options, "borrowed": label}))
    return _arms(given)


def _sources(*values: tuple[float, str], **shared: Any) -> Rows:
    given = [
        (a, {"source": s, "pattern": SCRATCH if s == "none" else TUNE} | shared) for a, s in values
    ]
    return _arms(given)


def _sft_c3(e: int) -> Rows:
    rows = _arms(
        [
            (0.3 + (0.1 * k if p == FREEZE else 0.1 * e * k), {"model": f"net{k}", "pattern": p})
            for k in range(3)
            for p in (FREEZE, TUNE)
        ]
    )
    # One seed swaps two networks: correlations that all are 1 have no spread to judge them by.
    swapped = [r for r in rows if r["seed_draw"] == 0 and r["pattern"] == TUNE][:2]
    for row, name in zip(swapped, ("net1", "net0"), strict=True):
        row["model"] = name
    return rows


def _li_c1(e: int) -> Rows:
    return _arms(
        [
            (0.5 + 0.05 * e * math.log2(n / 80), {"source": f"categories {n}", "source_classes": n})
            for n in (80, 200, 800)
        ]
    )


def _li_c4(e: int) -> Rows:
    tuned = _sources((0.5 + 0.1 * e, "near"), (0.5, "far"), (0.5 - 0.1 * e, "none"))
    return tuned + _arms(
        [
            (0.4 + 0.3 * e, {"source": "near", "pattern": FREEZE}),
            (0.4, {"source": "far", "pattern": FREEZE}),
        ]
    )


def _li_c5(e: int) -> Rows:
    rows = []
    for rate in (0.0001, 0.001, 0.01):
        best = 0.5 + 0.1 * e * (rate == 0.001)
        for row in _arms([(best, {"lr": rate})]):
            rows.append(
                row
                | {"train_loss": 1 - 0.1 * e * math.log10(rate) + _jitter(row["seed_draw"], rate)}
            )
    return rows


def _li_c6(e: int) -> Rows:
    rows = []
    for k, n in enumerate((5, 20, 80)):
        gain = 0.3 - 0.1 * e * k if e > 0 else 0.05 + 0.1 * k
        rows += _sources(
            (0.3 + gain, "near"), (0.3 + gain / 2, "far"), (0.3, "none"), images_per_class=n
        )
    return rows


def _li_c7(e: int) -> Rows:
    return _arms(
        [
            (0.5 - 0.05 * e * k, {"target": f"t take {n}", "target_classes": n})
            for k, n in enumerate((10, 40, 100))
        ]
    )


def _li_c8(e: int) -> Rows:
    return _arms(
        [
            (0.5 - e * loss * (1 if s == "near" else 1.1), {"source": s, "pattern": p})
            for s in ("near", "far")
            for p, loss in ((TUNE, 0.0), ("F(1-3)T(4-7)R(8)", 0.2), (FREEZE, 0.4))
        ]
    )


def _li_c9(e: int) -> Rows:
    return _arms(
        [
            (0.4 + (x is not None) * g, {"source": s, "pattern": p, "expand_to": x})
            for s, p, g in (("none", SCRATCH, 0.2 * e), ("near", TUNE, 0.02 * e))
            for x in (None, 1200)
        ]
    )


def _chu_c1(e: int) -> Rows:
    return _arms(
        [
            (0.6 - 0.05 * e * k, {"pattern": p})
            for k, p in enumerate((TUNE, "T(1-5)R(6-8)", "T(1-3)R(4-8)"))
        ]
    )


def _tune_freeze(ratio: float, **given: Any) -> Rows:
    return _arms([(0.4 * ratio, {"pattern": TUNE} | given), (0.4, {"pattern": FREEZE} | given)])


def _chu_c4(e: int) -> Rows:
    return [row for k in range(4) for row in _tune_freeze(1.0 + 0.2 * e * (k - 1), target=f"t{k}")]


COSINES = pd.DataFrame({"target": [f"t{k}" for k in range(4)], "cosine": [0.1, 0.2, 0.3, 0.4]})

PLANTED: dict[str, Callable[[int], Rows]] = {
    "SFT-C1": lambda e: _methods((0.5 + 0.1 * e, "soft", ""), (0.5, "plain", "")),
    "SFT-C2": lambda e: _methods(
        (0.5 + 0.2 * e, "soft", ""),
        (0.5 + 0.1 * e, "soft", "schedule=zero;source_head=kept"),
        (0.5, "plain", ""),
    ),
    "SFT-C3": _sft_c3,
    "SFT-C4": lambda e: _methods(
        (0.5 + 0.2 * e, "soft", ""),
        (0.5 + 0.1 * e, "soft", "", "parent, 0.1 of classes"),
        (0.5, "soft", "", "parent, 0.1 of images"),
        (0.5 + 0.15 * e, "soft", "", "parent;dogs all"),
    ),
    "SFT-C7": lambda e: [
        row
        | {"epochs_to_threshold": 10 - (5 + row["seed_draw"] % 2) * e * (row["method"] == "soft")}
        for row in _methods((0.5, "soft", ""), (0.5, "plain", ""))
    ],
    "GE-C1": lambda e: _methods(
        (0.6 + 0.1 * e, "selective", ""),
        (0.6, "joint", ""),
        (0.6, "joint", "", "parent, 500 random images"),
        (0.6 - 0.1 * e, "plain", ""),
    ),
    "GE-C2": lambda e: _methods(
        (0.5 + 0.1 * e, "selective", "adaptive=True"),
        (0.5, "selective", "adaptive=False"),
        (0.5, "selective", "adaptive=True;bank=gabor"),
        (0.5, "selective", "adaptive=True;layers=1,2,3,4,5"),
    ),
    "GE-C3": lambda e: _methods((0.5 + 0.06 * e, "selective", ""), (0.5, "plain", "")),
    "GE-C4": lambda e: _arms(
        [
            (a, {"source": s, "method": "selective", "borrowed": b})
            for a, s, b in (
                (0.5 + 0.1 * e, "near", "parent"),
                (0.5, "far", "parent"),
                (0.5 + 0.09 * e - 0.01, "near", "parent;far"),
            )
        ]
    ),
    "GE-C5": lambda e: [
        row | {"val_top1_accuracy": 0.9 if "k0=20" in row["method_options"] else 0.5}
        for row in _methods(
            (0.5, "selective", "k0=10"),
            (0.6, "selective", "k0=20"),
            (0.6 - 0.1 * e, "selective", "k0=500"),
        )
    ],
    "LI-C1": _li_c1,
    "LI-C2": lambda e: _arms(
        [
            (0.5, {"source": "none", "pattern": SCRATCH}),
            (0.5 - 0.1 * e, {"source": "categories 80", "source_classes": 80}),
            (0.9, {"source": "categories 800", "source_classes": 800}),
        ]
    ),
    "LI-C3": lambda e: _arms(
        [
            (0.5 if e > 0 else 0.9, {"source": "self", "pattern": "T(1-8)"}),
            (0.5, {"source": "none", "pattern": SCRATCH}),
        ]
    ),
    "LI-C4": _li_c4,
    "LI-C5": _li_c5,
    "LI-C6": _li_c6,
    "LI-C7": _li_c7,
    "LI-C8": _li_c8,
    "LI-C9": _li_c9,
    "LI-C12": lambda e: [
        row
        | {"epochs_to_converge": 40 - (20 + row["seed_draw"] % 2) * e * (row["source"] == "near")}
        for row in _sources((0.5, "near"), (0.5, "none"))
    ],
    "CHU-C1": _chu_c1,
    "CHU-C2": lambda e: _tune_freeze(1 + 0.2 * e, images_per_class=200),
    "CHU-C3": lambda e: _tune_freeze(1 - 0.2 * e, target="t0"),
    "CHU-C4": _chu_c4,
}


def _judged(name: str, rows: Rows, **extras: Any) -> Finding:
    return _of(Evidence(prepare(pd.DataFrame(rows)), **extras), name)


def _of(evidence: Evidence, name: str) -> Finding:
    (found,) = [f for f in examine(evidence).findings if f.claim == name]
    return found


@pytest.mark.parametrize("name", list(PLANTED))
def test_planted_effects_hold_and_their_opposites_fail(name: str) -> None:
    extras = {"distances": COSINES} if name in ("CHU-C3", "CHU-C4") else {}
    for sign, verdict in ((1, "holds"), (-1, "fails")):
        found = _judged(name, PLANTED[name](sign), **extras)
        assert found.verdict == verdict, (found.detail, found.needed)
        assert found.main.n >= 1
        assert found.main.effect is not None


@pytest.mark.parametrize("name", [name for name in PLANTED if name != "CHU-C4"])  # counts targets
def test_one_seed_decides_nothing(name: str) -> None:
    rows = [row for row in PLANTED[name](1) if row["seed_draw"] == 0]
    found = _judged(name, rows, distances=COSINES)
    assert found.verdict == "not enough evidence"
    assert found.needed


def _drawn(rng: np.random.Generator, cosines: Sequence[float]) -> tuple[Rows, pd.DataFrame]:
    """A data set at each distance, of a gain of its own whatever the distance; four draws each."""
    rows: Rows = []
    distances = []
    for place, cosine in enumerate(cosines):
        own = rng.normal(0, 0.2)
        for draw in range(4):
            task = {"dataset": f"d{place}", "target": f"t{place}", "class_draw": draw}
            ratio = float(np.exp(own + rng.normal(0, 0.02)))
            arms = ((0.4 * ratio, TUNE), (0.4, FREEZE))
            rows += [_row(a, seed=0, pattern=pattern, **task) for a, pattern in arms]
            distances.append({**task, "cosine": cosine + rng.uniform(-0.04, 0.04)})
    return rows, pd.DataFrame(distances)


def test_class_draws_of_one_data_set_are_no_points_of_a_slope_over_data_sets() -> None:
    rng = np.random.default_rng(0)
    rows, distances = _drawn(rng, [0.15, 0.35])
    found = _judged("CHU-C4", rows, distances=distances)
    assert found.verdict == "not enough evidence"
    assert "2 distances a twentieth apart, over 2 targets; 4 are needed" in found.detail


def test_where_distance_changes_nothing_a_slope_is_seldom_judged() -> None:
    rng, wrong, inside = np.random.default_rng(1), 0, 0
    for _ in range(60):
        rows, distances = _drawn(rng, [0.05, 0.15, 0.25, 0.35, 0.45])
        main = _judged("CHU-C4", rows, distances=distances).main
        assert (main.n, main.counted) == (5, "target")
        assert main.low is not None
        assert main.high is not None
        wrong += main.verdict != "not enough evidence"
        inside += main.low <= 0 <= main.high
    assert wrong <= 8  # 1 in 1,000 with more, were the true rate 5 %
    assert inside >= 51


def _measured(source: str, cosine: float, low: float, high: float) -> dict[str, Any]:
    return {"source": source, "cosine": cosine, "cosine_low": low, "cosine_high": high}


def test_a_source_that_may_be_in_another_band_is_left_out_and_named() -> None:
    rows = _tune_freeze(0.8, source="near") + _tune_freeze(2.0, source="far")
    distances = pd.DataFrame(
        [_measured("near", 0.025, 0.01, 0.04), _measured("far", 0.198, 0.152, 0.249)]
    )
    found = _judged("CHU-C3", rows, distances=distances)
    assert (found.verdict, found.main.n, found.main.counted) == ("holds", 5, "seed")
    assert "far: 0.198 (0.152 to 0.249) reaches into another band, left out" in found.detail


def test_sources_that_disagree_are_not_averaged_within_a_seed() -> None:
    rows = _tune_freeze(0.8, source="near") + _tune_freeze(0.99, source="far")
    distances = pd.DataFrame(
        [_measured("near", 0.025, 0.01, 0.04), _measured("far", 0.1, 0.05, 0.15)]
    )
    found = _judged("CHU-C3", rows, distances=distances)
    # Each source is a comparison of its own; sources of one target are no repetitions of it.
    assert (found.verdict, found.main.n, found.main.counted) == ("not enough evidence", 5, "seed")
    assert [p.verdict for p in found.parts] == ["not enough evidence", "holds"]


def test_equal_differences_give_no_interval_and_no_verdict() -> None:
    rows = [
        _row(a, method=method, seed=seed)
        for method, a in (("soft", 0.49), ("plain", 0.5))
        for seed in range(2)
    ]
    found = _judged("SFT-C1", rows)
    assert (found.verdict, found.main.low, found.main.p) == ("not enough evidence", None, None)
    assert "no spread" in found.detail


def _tasks(gain: float, spread: float, tasks: int, seed: int = 0) -> Rows:
    """Soft and plain fine-tuning on so many class draws, soft better by `gain` points."""
    rng = np.random.default_rng(seed)
    return [
        _row(0.5 + (method == "soft") * float(rng.normal(gain, spread)) / 100, method=method)
        | {"class_draw": draw}
        for draw in range(tasks)
        for method in ("soft", "plain")
    ]


@pytest.mark.parametrize(
    ("gain", "tasks", "verdict"),
    [
        (0.3, 10, "about equal"),  # 0.3 points are there, and too few to be of interest
        (0.0, 10, "about equal"),
        (3.0, 10, "holds"),
        (-3.0, 10, "fails"),
        (0.0, 2, "not enough evidence"),
    ],
)
def test_what_differs_too_little_is_about_equal(gain: float, tasks: int, verdict: str) -> None:
    assert _judged("SFT-C1", _tasks(gain, 0.3, tasks)).verdict == verdict


def test_about_equal_has_the_p_value_of_the_test_of_equality() -> None:
    rows = _tasks(0.3, 0.3, 10)
    found = _judged("SFT-C1", rows)
    assert found.main.estimate is not None
    # two one-sided t tests at ±1 point by scipy; there is one row a task, so one level alone
    pairs = zip(rows[::2], rows[1::2], strict=True)
    values = [100 * (a["top1_accuracy"] - b["top1_accuracy"]) for a, b in pairs]
    below = stats.ttest_1samp(values, 1.0, alternative="less").pvalue
    above = stats.ttest_1samp(values, -1.0, alternative="greater").pvalue
    assert found.main.p_holm == pytest.approx(max(below, above), rel=1e-4)
    assert f"p (Holm) {p_value(found.main.p_holm)}" in found.detail


def test_what_to_run_names_no_seeds_beside_their_number() -> None:
    claim = find_claim("SFT-C2")

    def needed(*parts: Part) -> str:
        return combine(claim, "measured", parts).needed

    few = Part("a", "not enough evidence", effect=5.0, n=3, counted="seed", wanted=5,
               needed="pattern: [tune, freeze], seed: [0, 1, 2]")  # fmt: skip
    many = replace(few, name="b", effect=0.4, wanted=31)
    none = replace(few, effect=None, n=0, wanted=None)
    assert needed(few) == "about 5 seeds instead of 3: pattern: [tune, freeze]"
    assert needed(none) == "pattern: [tune, freeze], seed: [0, 1, 2]"
    assert needed(many) == (
        "over 30 seeds instead of 3, as the effect is small beside its spread: "
        "pattern: [tune, freeze]"
    )
    assert needed(few, many) == (
        "over 30 seeds instead of 3 to decide 'b' too: pattern: [tune, freeze]"
    )


def test_an_interval_in_general_that_is_the_narrower_one_is_explained() -> None:
    agreeing = Estimate(3.0, 2.9, 3.1, 3, "task", here=Estimate(3.0, 1.0, 5.0, 3, "seed"))
    apart = replace(agreeing, low=0.0, high=6.0)
    text = "x; on these 3 tasks alone +3 (+1 to +5) points"
    assert judge("a", apart, "", Rules(), "p", "x").detail == text
    assert judge("a", agreeing, "", Rules(), "p", "x").detail == (
        f"{text}, wider as it has the errors of seeds and test images, and the means of 3 tasks "
        "may differ little by chance"
    )


def test_a_difference_of_just_one_point_is_seldom_called_equal() -> None:
    boards = [_judged("SFT-C1", _tasks(1.0, 0.5, 8, seed)).verdict for seed in range(40)]
    assert boards.count("about equal") <= 5  # five in a hundred, give or take
    assert boards.count("fails") == 0


def test_a_claim_is_about_equal_where_its_parts_are_or_hold() -> None:
    claim = find_claim("SFT-C2")
    for verdicts, whole in (
        (("holds", "about equal"), "about equal"),
        (("holds", "holds"), "holds"),
        (("about equal", "fails"), "fails"),
        (("about equal", "not enough evidence"), "not enough evidence"),
    ):
        parts = [Part(str(n), v, effect=1.0, n=9, here=v) for n, v in enumerate(verdicts)]
        found = combine(claim, "measured", parts)
        assert (found.verdict, found.here) == (whole, whole)
        assert found.main.verdict == whole


def test_noise_decides_little() -> None:
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(20):
        rows = [r | {"top1_accuracy": rng.normal(0.5, 0.02)} for r in PLANTED["SFT-C1"](1)]
        decided += _judged("SFT-C1", rows).verdict != "not enough evidence"
    assert decided <= 4


def test_arms_are_compared_each_at_its_best_rate_by_validation() -> None:
    rows = []
    for method, good in (("soft", 0.1), ("plain", 0.01)):
        for rate in (0.01, 0.1):
            at = 0.6 if method == "soft" else 0.5
            for row in _arms([(at if rate == good else 0.1, {"method": method, "lr": rate})]):
                rows.append(row)
    found = _judged("SFT-C1", rows)
    assert found.main.effect == pytest.approx(10, abs=1)
    assert "best lr" in found.detail
    # At equal rates there are two comparisons, which contradict each other and are not averaged.
    same = _judged("SFT-C1", rows, lr="same")
    assert sorted(round(p.effect or 0, -1) for p in same.parts) == [-40, 50]
    assert same.verdict == "fails"


def test_diverged_runs_are_reported() -> None:
    rows = PLANTED["SFT-C1"](1)
    rows[0] |= {"status": "diverged", "top1_accuracy": None}
    assert "1 diverged runs count at chance" in _judged("SFT-C1", rows).detail
    rows[0] |= {"status": "failed"}
    assert "1 runs without a result" in _judged("SFT-C1", rows).detail


# --- claims on further measurements ---


def _faces(e: int) -> pd.DataFrame:
    rows = []
    for seed in range(4):
        for far, tuned, soft, tuned_two, soft_two in (
            (1e-2, 0.80, 0.87, 0.67, 0.84),
            (1e-5, 0.40, 0.59, 0.38, 0.48),
        ):
            values = (
                (tuned, soft, tuned_two, soft_two) if e > 0 else (soft, tuned, soft_two, tuned_two)
            )
            names = [(a, x) for x in ("all", "two") for a in ("fine-tuning", "soft")]
            for (arm, expressions), tar in zip(names, values, strict=True):
                tar += 0.003 * math.sin(seed + tar)
                rows.append((arm, expressions, far, tar, seed))
    return pd.DataFrame(rows, columns=["arm", "expressions", "far", "tar", "seed"])


def test_claims_on_faces() -> None:
    rows = PLANTED["SFT-C1"](1)
    for name in ("SFT-C5", "SFT-C6"):
        assert _judged(name, rows, verification=_faces(1)).verdict == "holds"
        assert _judged(name, rows, verification=_faces(-1)).verdict == "fails"
        assert _judged(name, rows).verdict == "not enough evidence"


def _probes(e: int) -> pd.DataFrame:
    level = {
        "near": 0.5,
        "far": 0.45,
        "self": 0.40 if e > 0 else 0.55,
        "FT-near": 0.6,
        "FT-far": 0.55,
    }
    rows = []
    for network, base in level.items():
        for k, layer in enumerate(("conv1", "conv3", "fc7", "fc8")):
            last = (0.02 if network in ("near", "far") else -0.02) * e * (-1 if k == 3 else 1)
            for seed in range(4):
                noise = 0.001 * math.sin(seed * (k + 1) + len(network))
                rows.append((network, layer, base + 0.02 * k + last * (k >= 2) + noise, seed))
    return pd.DataFrame(rows, columns=["network", "layer", "accuracy", "seed"])


def test_claims_on_layers() -> None:
    rows = PLANTED["SFT-C1"](1)
    found = _judged("LI-C10", rows, probes=_probes(1))
    assert found.verdict == "holds", found.detail
    assert _judged("LI-C10", rows, probes=_probes(-1)).verdict == "fails"
    lacking = _probes(1)
    lacking = lacking[lacking["network"] != "self"]
    assert _judged("LI-C10", rows, probes=lacking).verdict == "not enough evidence"


def test_probes_are_read_from_a_leaderboard() -> None:
    sources = {
        "near": "near",
        "far": "tiny-imagenet far",
        "self": "self",
        "FT-near": "near > self T(1-7)R(8)",
        "FT-far": "far > self T(1-7)R(8)",
    }
    rows = [
        _row(a, method="probe", method_options=f"layer={k + 1}", source=sources[n], seed=s)
        for k, layer in enumerate(("conv1", "conv3", "fc7", "fc8"))
        for n, a, s in _probes(1)
        .query("layer == @layer")[["network", "accuracy", "seed"]]
        .to_numpy()
    ]
    other = _row(0.9, method="probe", method_options="layer=penultimate")
    found = _judged("LI-C10", [*reversed(rows), other])
    given = _judged("LI-C10", PLANTED["SFT-C1"](1), probes=_probes(1))
    assert found.verdict == given.verdict == "holds"
    assert found.main.effect == pytest.approx(given.main.effect)


def test_probes_of_networks_with_seeds_of_their_own_are_of_one_repetition() -> None:
    """The networks before a probe are what is compared, and so are their seeds."""
    rows = []
    for layer in (1, 2, 3, 4):
        for network, base in (("far", 0.6), ("self", 0.5)):
            for seed, shift in _seeds():
                given = {"method": "probe", "method_options": f"layer={layer}", "source": network}
                own = {"source.seeds.init": seed if network == "self" else 0}
                rows.append(_row(base + shift + _jitter(layer, network, seed), seed=seed, **given))
                rows[-1] |= own
    below = _judged("LI-C10", rows).parts[2]
    assert (below.n, below.counted) == (5, "seed")
    assert below.effect == pytest.approx(10, abs=0.5)


def test_svms_on_frozen_features_stand_for_before_fine_tuning() -> None:
    rows = [r for r in PLANTED["LI-C4"](1) if r["pattern"] != FREEZE]
    svms = _arms(
        [
            (
                a,
                {
                    "source": s,
                    "method": "svm",
                    "method_options": "layer=penultimate",
                    "pattern": FREEZE,
                },
            )
            for a, s in ((0.7, "near"), (0.4, "far"))
        ]
    )
    assert _judged("LI-C4", rows).verdict == "not enough evidence"
    assert _judged("LI-C4", rows + svms).verdict == "holds"


def _sensitivities(more: float, before: float, after: float, classes: int) -> pd.DataFrame:
    values = {
        "FT-near > near": more,
        "FT-far > far": more,
        "near > far": before,
        "FT-near > FT-far": after,
    }
    rows = [(*name.split(" > "), v, 100 - v, classes) for name, v in values.items()]
    return pd.DataFrame(rows, columns=["a", "b", "percentage", "reverse_percentage", "n_classes"])


def test_claims_on_filters() -> None:
    rows = PLANTED["SFT-C1"](1)
    cases = {
        "holds": (75, 80, 53, 100),
        "fails": (30, 80, 53, 100),
        "not enough evidence": (70, 80, 60, 10),
    }
    for verdict, case in cases.items():
        found = _judged("LI-C11", rows, sensitivities=_sensitivities(*case))
        assert found.verdict == verdict, found.detail


def test_claims_on_distances() -> None:
    rows = PLANTED["SFT-C1"](1)
    agree = COSINES.assign(mmd=[1, 2, 3, 4], svm=[0.6, 0.7, 0.8, 0.9])
    swapped = agree.assign(svm=[0.6, 0.8, 0.7, 0.9])

    def measured(table: pd.DataFrame, half: float) -> pd.DataFrame:
        ends = {
            f"{c}_{end}": table[c] + s * half * (1 if c != "mmd" else 8)
            for c in ("cosine", "mmd", "svm")
            for end, s in (("low", -1), ("high", 1))
        }
        return table.assign(**ends)

    assert _judged("CHU-C5", rows, distances=measured(agree, 0.01)).verdict == "holds"
    found = _judged("CHU-C5", rows, distances=measured(swapped, 0.01))
    assert found.verdict == "fails"
    assert "t1 and t2" in found.detail
    # With wide intervals, or without any, the same swap decides nothing.
    for unsure in (measured(swapped, 0.06), swapped, agree):
        assert _judged("CHU-C5", rows, distances=unsure).verdict == "not enough evidence"
    assert _judged("CHU-C5", rows, distances=agree.head(2)).verdict == "not enough evidence"


def test_the_exception_of_chu_c1_is_left_out_and_shown() -> None:
    good, bad = PLANTED["CHU-C1"](1), PLANTED["CHU-C1"](-1)
    far = [row | {"target": "t3", "images_per_class": 400} for row in bad]
    found = _judged("CHU-C1", good + far, distances=COSINES.replace("t0", "t"))
    assert found.verdict == "holds", found.detail
    assert "mean ratios where the rule is excepted" in found.detail


def test_a_board_without_few_images_has_no_pair_for_chu_c3() -> None:
    rows = [row | {"images_per_class": 400} for row in PLANTED["CHU-C3"](1)]
    found = _judged("CHU-C3", rows, distances=COSINES)
    assert found.verdict == "not enough evidence"
    assert found.needed


# --- the table ---


def test_an_empty_board_says_what_to_run_for_every_claim() -> None:
    board = prepare(pd.DataFrame([_row(0.5, method="probe")]))
    found = examine(Evidence(board)).findings
    assert {f.verdict for f in found} == {"not enough evidence"}
    assert all(f.needed for f in found)


def test_no_number_is_missing_without_a_word() -> None:
    rows = [row for name in ("LI-C4", "CHU-C2") for row in PLANTED[name](1)]
    frame = table(examine(Evidence(prepare(pd.DataFrame(rows)))).findings)
    assert len(frame) == 30
    assert frame["published_verdict"].tolist() == [f.verdict for f in on_published()]
    for line in frame.to_dict("records"):
        said = bool(line["detail"] or line["needed"])
        for name in ("effect", "low", "high"):
            missing = line[name] is None or line[name] != line[name]
            assert not missing or said, line
        assert line["needed"] or line["verdict"] != "not enough evidence", line


def test_holm_never_lowers_a_p_value() -> None:
    rows = [row for name in ("LI-C4", "CHU-C2") for row in PLANTED[name](1)]
    found = examine(Evidence(prepare(pd.DataFrame(rows)))).findings
    decided = [f.main for f in found if f.main.p_holm]
    assert decided
    assert all(part.p is not None and (part.p_holm or 0) >= part.p for part in decided)


def test_values_of_k0_may_stand_in_a_column_of_broken_numbers() -> None:
    """In a CSV in which other methods have no k0, 20 neighbours are 20.0."""
    board = prepare(pd.DataFrame(PLANTED["GE-C5"](1)))
    board["method.k0"] = board["method.k0"].astype(float)
    found = _of(Evidence(board), "GE-C5")
    assert found.verdict == "holds", found.detail


def test_published_helpers() -> None:
    assert ordered("x", {"a": (2, 1), "b": (1, 2)}).verdict == "fails"
    assert ordered("x", {"a": (1, 1)}).verdict == "fails"
    assert ordered("x", {"a": (1, 1)}, strict=False).verdict == "holds"
    assert ordered("x", {"a": (1, 1.5)}, strict=False).verdict == "fails"
    assert trend("x", [1, 2, 3], [1, 3, 2]).verdict == "fails"
    assert trend("x", [1, 2, 3], [3, 2, 1], rising=False).verdict == "holds"


def test_a_slope_is_least_squares_on_doublings() -> None:
    frame = pd.DataFrame(
        {"task": "t", "seed": np.repeat([0, 1], 3), "x": [1, 2, 4] * 2, "y": [1, 2, 3, 2, 3, 4.5]}
    )
    (found,) = slope("s", frame, "x", "y", "more", Rules())
    assert found.effect == pytest.approx((1 + 1.25) / 2)
    (few,) = slope("s", frame[frame["x"] < 4], "x", "y", "more", Rules())
    assert few.verdict == "not enough evidence"
    assert few.effect is None


def test_an_unknown_claim_names_the_others() -> None:
    with pytest.raises(DataError, match="LI-C1"):
        find_claim("LI-C14")


# --- how training goes (LI-C12, LI-C13) ---


def _at_rate(rate: float, away: int, of: int) -> Rows:
    """Draws of the classes of which some diverge, or never leave chance."""
    rows = [_row(0.5, lr=rate, class_draw=draw, seed=draw) for draw in range(of)]
    for draw, row in enumerate(rows[:away]):
        row |= {"status": "diverged"} if draw % 2 else {"not_converged": "run"}
    return rows


@pytest.mark.parametrize(
    ("away", "of", "verdict"),
    [
        (8, 8, "holds"),
        (0, 8, "fails"),
        (4, 8, "not enough evidence"),
        (5, 5, "not enough evidence"),
    ],
)
def test_a_rate_that_does_not_converge(away: int, of: int, verdict: str) -> None:
    rows = [*_at_rate(0.02, away, of), *_at_rate(0.01, 0, of)]
    found = _judged("LI-C13", rows)
    assert found.verdict == verdict
    assert found.main.effect == 100 * away / of
    ends = stats.beta.ppf(0.025, away, of - away + 1), stats.beta.ppf(0.975, away + 1, of - away)
    assert found.main.low == pytest.approx(0.0 if not away else 100 * ends[0])
    assert found.main.high == pytest.approx(100.0 if away == of else 100 * ends[1])
    assert (found.main.n, found.main.counted) == (of, "task")


def test_seeds_of_one_task_are_counted_where_there_is_one_task() -> None:
    rows = [_row(0.5, lr=0.02, seed=seed, status="diverged") for seed in range(8)]
    found = _judged("LI-C13", [*rows, *_arms([(0.5, {})])])
    assert (found.verdict, found.main.n, found.main.counted) == ("holds", 8, "seed")
    assert _judged("LI-C13", PLANTED["LI-C4"](1)).main.detail == "no run at rate 0.02"


def test_scratch_has_a_rate_of_its_own_where_no_rate_is_shared_and_none_is_validated() -> None:
    """LI's grid: 0.01 from scratch, 0.001 for fine-tuning, all images train."""
    rows = _sources((0.6, "near"), (0.5, "far"), (0.3, "none"))
    for row in rows:
        row |= {"lr": 0.01 if row["source"] == "none" else 0.001, "val_top1_accuracy": None}
        row |= {"epochs_to_converge": 20 + row["seed_draw"] % 2 + (row["source"] == "none") * 9}
    (part,) = [p for p in _judged("LI-C4", rows).parts if p.name == "far > scratch"]
    assert part.verdict == "holds"
    assert "rate 0.001 against 0.01" in part.detail
    found = _judged("LI-C12", rows)
    assert [p.effect for p in found.parts] == pytest.approx([9, 9])
    # A rate that both have is compared with itself alone.
    both = [row | {"lr": 0.01} for row in rows if row["source"] == "far"]
    (part,) = [p for p in _judged("LI-C4", [*rows, *both]).parts if p.name == "far > scratch"]
    assert part.n == 5
    assert "against" not in part.detail


# --- leaderboards that are odd ---


def _csv(rows: Rows) -> str:
    named = [row | {"run_id": row.get("run_id") or f"r{i}"} for i, row in enumerate(rows)]
    return pd.DataFrame(named).to_csv(index=False)


def test_percentages_are_refused_with_their_line() -> None:
    text = _csv([_row(0.573), _row(57.3, seed=1)])
    with pytest.raises(DataError, match=r"top1_accuracy is 57\.3") as error:
        parse(text, "x.csv")
    assert error.value.place == "x.csv:3"


def test_rows_that_are_there_twice_count_once_and_differing_ones_are_refused() -> None:
    rows = [_row(0.5, run_id="a"), _row(0.6, seed=1, run_id="b")]
    board = parse(_csv(rows + rows))
    assert len(board) == 2
    assert board.attrs["notes"][0] == "2 rows are there twice and counted once"
    assert "written by an earlier version" in board.attrs["notes"][1]
    with pytest.raises(DataError, match="run a is there twice") as error:
        parse(_csv([*rows, rows[0] | {"top1_accuracy": 0.4}]), "x.csv")
    assert error.value.place == "x.csv:4"


def test_an_empty_seed_is_noted() -> None:
    board = parse(_csv([_row(0.5), _row(0.6) | {"seed_draw": None}]))
    assert "1 finished run has no seed_draw" in board.attrs["notes"][0]
