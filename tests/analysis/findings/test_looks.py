"""Boards that grow look by look: what is judged, what is closed, which recipes go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import CLAIMS, examine
from analysis.findings.looks import LookRow, looks_file, read_looks, with_looks, write_looks
from analysis.findings.parts import UNDECIDED, Part
from analysis.findings.questions import (
    MEASURED,
    OTHER_UNITS,
    Standing,
    find_questions,
    needed_measures,
    recipes_of,
    standings,
)
from analysis.statistics.decisions import Hypothesis, Rules
from analysis.statistics.sequential import Looks, nominal_level
from bench.core.errors import DataError
from benchmarks.simulated import Design, Truth, simulate

ARMS = ("near", "far", "near, frozen", "scratch", "soft")
DESIGN = Design(8, 1, ARMS, test_images=2000)
TRUTH = Truth(effects={"scratch": -0.2, "near, frozen": -0.2}, interaction=0.01)
LOOKS = Looks((4, 6, 8))
TUNED_OVER_SCRATCH = "near, tuned − scratch"


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    found, _ = simulate(DESIGN, TRUTH, np.random.default_rng(0), predictions=False)
    return found


def after(board: pd.DataFrame, tasks: int) -> pd.DataFrame:
    """The rows of the first tasks."""
    return board[board["task_id"].isin(sorted(set(board["task_id"]))[:tasks])]


def judged(board: pd.DataFrame, looks: Looks | None) -> Evidence:
    return Evidence(board, rules=Rules(looks=looks))


def test_with_one_look_findings_are_those_of_the_fixed_design(board: pd.DataFrame) -> None:
    plain, looked = examine(judged(board, None)), examine(judged(board, Looks((8,))))
    assert plain.decisions == looked.decisions
    for a, b in zip(plain.findings, looked.findings, strict=True):
        assert (a.verdict, a.main.effect, a.main.p_holm) == (
            b.verdict,
            b.main.effect,
            b.main.p_holm,
        )
        if a.main.counted == "task" and b.main.low is not None:
            assert (a.main.low, a.main.high) == pytest.approx((b.main.low, b.main.high))
    tasks = plain.gains["unit"] == "task"
    for name in ("low", "high"):
        assert list(plain.gains.loc[tasks, name]) == pytest.approx(
            list(looked.gains.loc[tasks, name])
        )


def test_intervals_are_those_at_the_level_of_the_look(board: pd.DataFrame) -> None:
    gains = examine(judged(after(board, 6), LOOKS)).gains
    row = gains[gains["label"] == TUNED_OVER_SCRATCH].iloc[0]
    level = nominal_level((0.5, 0.75), 0.05 / LOOKS.excess)
    from scipy import stats

    e = row["estimate"]
    low, high = stats.t.interval(1 - level, 5, loc=e.value, scale=e.error)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert level < 0.05
    assert row["here_low"] is None


def test_a_large_effect_is_decided_before_the_last_look_and_no_effect_is_stopped(
    board: pd.DataFrame,
) -> None:
    examined = examine(judged(after(board, 6), LOOKS))
    large, none = standings([TUNED_OVER_SCRATCH, "soft"], examined, Rules(looks=LOOKS))
    assert (large.state, large.verdict, large.tasks) == ("decided", "higher", 6)
    assert none.state == "stopped"
    assert none.chance is not None
    assert none.chance < 0.1


def test_at_the_last_look_nothing_is_open(board: pd.DataFrame) -> None:
    names = [TUNED_OVER_SCRATCH, "soft", "near − far, tuned", "LI-C4", "LI-C8", "SFT-C1", "GE-C1"]
    found = standings(names, examine(judged(board, LOOKS)), Rules(looks=LOOKS))
    assert {one.question for one in found} == set(names)
    assert not [one for one in found if one.state == "open"]
    assert {one.question: one.state for one in found}["GE-C1"] == "untested"


def test_recipes_of_a_comparison_are_those_of_its_arms(board: pd.DataFrame) -> None:
    evidence = judged(after(board, 4), LOOKS)
    examined = examine(evidence)
    (one,) = standings([TUNED_OVER_SCRATCH], examined, evidence.rules)
    own = board[board["arm"].isin(["near", "scratch"])]
    assert recipes_of(one, examined, evidence) == set(own["recipe_id"])


def test_recipes_of_a_claim_are_those_that_bear_on_its_tests(board: pd.DataFrame) -> None:
    """Found by leaving recipes out; the arms of SFT-C1 are plain and soft tuning from near."""
    evidence = judged(after(board, 4), LOOKS)
    examined = examine(evidence)
    (one,) = standings(["SFT-C1"], examined, evidence.rules)
    own = board[board["arm"].isin(["near", "soft"])]
    assert recipes_of(one, examined, evidence) == set(own["recipe_id"])


def test_recipes_of_all_rates_go_on_together() -> None:
    """Else the best rate of an arm would be chosen on unlike tasks."""
    found, _ = simulate(
        Design(4, 1, ("near", "scratch"), test_images=500), Truth(), np.random.default_rng(0)
    )
    other = found[found["arm"] == "near"].assign(lr=0.5)
    other["recipe_id"] = other["recipe_id"] + "-fast"
    both = pd.concat([found.assign(lr=0.1), other], ignore_index=True)
    both["val_top1_accuracy"] = both["val_top1_accuracy"].where(both["lr"] < 0.3, 0.01)
    both.attrs["varying"] = "\n".join([*found.attrs["varying"].split("\n"), "lr"])
    evidence = judged(both, LOOKS)
    examined = examine(evidence)
    (one,) = standings([TUNED_OVER_SCRATCH], examined, evidence.rules)
    assert recipes_of(one, examined, evidence) == set(both["recipe_id"])


def test_questions_are_found_whatever_the_minus_and_the_case(board: pd.DataFrame) -> None:
    named = ["li-c4", "NEAR, tuned - Scratch", TUNED_OVER_SCRATCH]
    assert find_questions(named, board) == ["LI-C4", TUNED_OVER_SCRATCH]
    with pytest.raises(DataError) as caught:
        find_questions(["near - nothing"], board)
    text = str(caught.value)
    assert "there is no claim or comparison 'near - nothing' on this grid" in text
    assert "near, tuned − scratch" in text
    assert "SFT-C1 to CHU-C5" in text


# --- the file ------------------------------------------------------------------------------------

ROW = LookRow(
    *("4;6;8", 1, "near − far, tuned", "100 images per class", "open", "not enough evidence"),
    *(4, 1.5, None, 3.25, "points", 0.25, 0.5, None, 1, "a;b", 12),
)


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = looks_file(tmp_path / "grid.csv")
    assert path.name == "grid-looks.csv"
    assert read_looks(path) == (None, [])
    rows = [replace(ROW, look=0, effect=None, order=None, recipes=""), ROW]
    write_looks(path, rows)
    assert read_looks(path) == (LOOKS, rows)


@pytest.mark.parametrize(
    "text",
    ["", "look,question\n1,x\n", "\x00", "looks,look\n4;x,1\n"],
    ids=["empty", "few columns", "null", "no numbers"],
)
def test_a_broken_file_is_an_error_not_a_board_without_looks(tmp_path: Path, text: str) -> None:
    looks_file(tmp_path / "grid.csv").write_text(text)
    with pytest.raises(DataError, match="this file of looks cannot be read"):
        with_looks(Evidence(pd.DataFrame()), tmp_path / "grid.csv")


def test_looks_that_lie_beside_a_leaderboard_count(tmp_path: Path) -> None:
    plain = Evidence(pd.DataFrame())
    assert with_looks(plain, tmp_path / "grid.csv").rules.looks is None
    write_looks(looks_file(tmp_path / "grid.csv"), [ROW])
    assert with_looks(plain, tmp_path / "grid.csv").rules.looks == LOOKS
    assert with_looks(plain, tmp_path / "other.csv").rules.looks is None
    assert with_looks(plain, tmp_path).rules.looks == LOOKS
    write_looks(looks_file(tmp_path / "other.csv"), [replace(ROW, looks="3;4")])
    with pytest.raises(DataError, match=r"grid-looks\.csv, other-looks\.csv"):
        with_looks(plain, tmp_path)


def test_a_question_without_runs_has_a_name_and_a_reason() -> None:
    one = Standing("LI-C4", "untested", "not enough evidence", "near > far", needed="runs")
    assert one.name == "LI-C4"
    assert replace(one, group=("a",)).name == "LI-C4, near > far"


def test_the_claims_that_rest_on_measurements_are_those_that_read_them(
    board: pd.DataFrame,
) -> None:
    read: set[str] = set()

    class Seen(Evidence):
        def __getattribute__(self, name: str) -> object:
            if name in ("distances", "sensitivities"):
                read.add("filters" if name == "sensitivities" else name)
            return super().__getattribute__(name)

    # With patterns of several depths, which the claims on what is copied ask for.
    deeper = board.assign(reinit=board["reinit"].where(board["seed"] != 0, board["reinit"] + 2))
    found = {}
    for claim in CLAIMS:
        for rows in (board, deeper, pd.concat([board, deeper])):
            read.clear()
            claim.on_runs(Seen(rows, rules=Rules()))
            if read:
                found[claim.id] = read.copy()
    assert found.pop("CHU-C2") == {"distances"}  # in its table of ratios; its test has none
    measured = {claim: {kind} for claim, kind in MEASURED.items()}
    assert measured | {"CHU-C5": {"distances"}, "LI-C11": {"filters"}} == found
    assert OTHER_UNITS.keys() == found.keys() - MEASURED.keys()


def test_a_claim_whose_measurement_the_grid_lacks_is_refused_at_the_start() -> None:
    assert needed_measures(["CHU-C3", "LI-C4"], ["distances", "filters"], "g") == {"distances"}
    assert needed_measures(["CHU-C1", "LI-C4"], [], "g") == set()
    with pytest.raises(DataError) as caught:
        needed_measures(["CHU-C4"], ["filters"], "grid.yaml")
    assert "CHU-C4 cannot be decided on this grid: it rests on distances" in str(caught.value)
    assert "measure: {distances: {}}" in str(caught.value)
    with pytest.raises(DataError, match="LI-C11 is about classes, not tasks"):
        needed_measures(["LI-C11"], ["filters"], "grid.yaml")


@pytest.mark.parametrize(("p", "state"), [(0.2, "open"), (0.97, "stopped")])
def test_a_slope_on_distances_has_a_chance_by_its_p_alone(
    board: pd.DataFrame, p: float, state: str
) -> None:
    """CHU-C4: a test without an estimate of units."""
    examined = examine(judged(after(board, 4), LOOKS))
    test = Hypothesis("slope on distance", 1, p, None, 4)
    part = Part("slope", UNDECIDED, effect=2.0, n=4, unit="slope", counted="task", p=p, test=test)
    findings = tuple(
        replace(f, parts=(part,)) if f.claim == "CHU-C4" else f for f in examined.findings
    )
    (found,) = standings(["CHU-C4"], replace(examined, findings=findings), Rules(looks=LOOKS))
    assert found.state == state
    assert 0 < (found.chance or 0.0) < 1
