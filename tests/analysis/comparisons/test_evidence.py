"""Evidence keeps what several parts of a page ask for: it must be what each would compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.advice.recommend import advise, derived
from analysis.advice.types import Situation
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import LrRule, pair
from analysis.findings.evaluate import examine
from analysis.leaderboard import arms
from analysis.leaderboard.read import LOSS, PATTERN, SOURCE, read


@pytest.fixture(scope="module")
def board(committed: Path) -> pd.DataFrame:
    return read(committed / "papers/best-practices.csv")


def _asked(b: pd.DataFrame) -> list[tuple[pd.Series, pd.Series, tuple[str, ...], str, LrRule]]:  # type: ignore[type-arg]
    tuned, frozen, scratch = arms.fine_tuned(b), arms.frozen_features(b)[1], arms.scratch(b)
    metrics, rules = ("top1_accuracy", "val_top1_accuracy"), ("same", "best")
    return [
        (left, right, vary, metric, rule)  # type: ignore[misc]
        for left, right in ((tuned, frozen), (frozen, tuned), (tuned, scratch))
        for vary in (PATTERN, (*PATTERN, *SOURCE), (*PATTERN, *SOURCE, *LOSS))
        for metric in metrics
        for rule in rules
    ]


def test_pairs_are_those_of_their_own_arms_settings_metric_and_rule(board: pd.DataFrame) -> None:
    evidence = Evidence(board)
    for _ in range(2):
        for left, right, vary, metric, rule in _asked(board):
            kept = evidence.pairs(left, right, vary, metric, rule)
            literal = pair(board, left, right, vary, metric, rule)
            pd.testing.assert_frame_equal(kept.frame, literal.frame)
            assert (kept.unpaired, kept.unfinished) == (literal.unpaired, literal.unfinished)
    assert sum(len(evidence.pairs(*asked)) for asked in _asked(board)) > 100


def test_learning_rates_are_treated_as_the_evidence_says(board: pd.DataFrame) -> None:
    left, right = arms.fine_tuned(board), arms.frozen_features(board)[1]
    rules: tuple[LrRule, ...] = ("same", "best")
    for rule in rules:
        frame = Evidence(board, lr=rule).pairs(left, right, PATTERN).frame
        pd.testing.assert_frame_equal(frame, pair(board, left, right, PATTERN, lr=rule).frame)
        assert set(frame["lr_rule"]) == {rule}


def test_another_board_keeps_nothing_of_the_first(board: pd.DataFrame) -> None:
    evidence = Evidence(board)
    left, right = arms.fine_tuned(board), arms.frozen_features(board)[1]
    before = evidence.pairs(left, right, PATTERN).frame
    changed = board.assign(top1_accuracy=board["top1_accuracy"] / 2)
    after = replace(evidence, board=changed).pairs(left, right, PATTERN).frame
    assert after["left"].tolist() == pytest.approx((before["left"] / 2).tolist())


def test_no_part_of_a_page_changes_what_it_shares_with_others(board: pd.DataFrame) -> None:
    """Advice asked first, last and alone is the same, and the shared pairs stay as they were."""
    situation = Situation(images_per_class=20, classes=6)
    shared = Evidence(board)
    frames = {place: shared.pairs(*asked).frame for place, asked in enumerate(_asked(board))}
    before = {place: frame.copy() for place, frame in frames.items()}
    examined = examine(shared)
    lines = advise(situation, shared, examined.tests)
    table = derived(shared, examined.tests)
    for place, frame in frames.items():
        pd.testing.assert_frame_equal(frame, before[place])
    assert advise(situation, Evidence(board), examined.tests) == lines
    assert advise(situation, shared, examined.tests) == lines
    pd.testing.assert_frame_equal(derived(Evidence(board), examined.tests), table)
    again = examine(shared)
    assert again.findings == examined.findings
    pd.testing.assert_frame_equal(again.gains, examined.gains)
