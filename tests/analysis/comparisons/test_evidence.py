"""Evidence computes once what a fresh call gives; repetitions hold every column that is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.advice.recommend import advise, derived
from analysis.advice.types import Situation
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import LrRule, pair
from analysis.comparisons.units import combined, observation, repetitions
from analysis.findings.evaluate import examine
from analysis.leaderboard import arms
from analysis.leaderboard.read import LOSS, PATTERN, SOURCE, read


def test_shared_pairs_are_those_of_a_fresh_pairing(committed: Path) -> None:
    board = read(committed / "tiny-imagenet.csv")
    evidence = Evidence(board)
    tuned, frozen = arms.fine_tuned(board), arms.frozen_features(board)[1]
    found = evidence.pairs(tuned, frozen, PATTERN)
    fresh = pair(board, tuned, frozen, PATTERN, lr=evidence.lr_rule(tuned | frozen))
    pd.testing.assert_frame_equal(found.frame, fresh.frame)
    assert (found.unpaired, found.unfinished) == (fresh.unpaired, fresh.unfinished)
    assert evidence.pairs(tuned, frozen, PATTERN) is found
    # Whatever else is asked is another comparison.
    for other in (
        evidence.pairs(frozen, tuned, PATTERN),
        evidence.pairs(tuned, frozen, (*PATTERN, "copied_lr_factor")),
        evidence.pairs(tuned, frozen, PATTERN, "val_top1_accuracy"),
        evidence.pairs(tuned, frozen, PATTERN, lr="same"),
        replace(evidence, board=board[tuned | frozen]).pairs(
            tuned[tuned | frozen], frozen[tuned | frozen], PATTERN
        ),
    ):
        assert other is not found


class _Reads(dict[Any, Any]):
    """A row that notes which of its values are read."""

    read: set[str]

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("kind", ["difference", "ratio", "accuracy", "given", "other"])
def test_repetitions_hold_every_column_that_is_read(kind: Any) -> None:
    truth = np.array([True, False])
    values = {
        "task": "a",
        "seed": "0",
        "size": "5",
        "diverged": 1,
        "per_image": truth,
        "train_images": 5,
        "available_images": 9,
        "test_images": 2,
        "image_variance": 0.1,
        "left": 0.5,
        "right": 0.6,
        "left_correct": truth,
        "right_correct": truth,
        "top1_accuracy": 0.5,
        "correct": truth,
    }
    _Reads.read = set()
    row = _Reads(values)
    observation(row, 0.1, kind, 1.0)
    combined([row], [1.0], kind)
    frame = pd.DataFrame([values | {"further": 1}])
    assert _Reads.read <= set(repetitions(frame)[0])
    assert set(repetitions(frame)[0]) == set(values)
    assert set(repetitions(frame, "further")[0]) == {*values, "further"}


@pytest.fixture(scope="module")
def small(committed: Path) -> pd.DataFrame:
    return read(committed / "papers/best-practices.csv")


def _asked(b: pd.DataFrame) -> list[tuple[pd.Series, pd.Series, tuple[str, ...], str, LrRule]]:  # type: ignore[type-arg]
    tuned, frozen, scratch = arms.fine_tuned(b), arms.frozen_features(b)[1], arms.scratch(b)
    return [
        (left, right, vary, metric, rule)  # type: ignore[misc]
        for left, right in ((tuned, frozen), (frozen, tuned), (tuned, scratch))
        for vary in (PATTERN, (*PATTERN, *SOURCE), (*PATTERN, *SOURCE, *LOSS))
        for metric in ("top1_accuracy", "val_top1_accuracy")
        for rule in ("same", "best")
    ]


def test_another_board_keeps_nothing_of_the_first(small: pd.DataFrame) -> None:
    evidence = Evidence(small)
    left, right = arms.fine_tuned(small), arms.frozen_features(small)[1]
    before = evidence.pairs(left, right, PATTERN).frame
    changed = small.assign(top1_accuracy=small["top1_accuracy"] / 2)
    after = replace(evidence, board=changed).pairs(left, right, PATTERN).frame
    assert after["left"].tolist() == pytest.approx((before["left"] / 2).tolist())


def test_no_part_of_a_page_changes_what_it_shares_with_others(small: pd.DataFrame) -> None:
    """Advice asked first, last and alone is the same, and the shared pairs stay as they were."""
    situation = Situation(images_per_class=20, classes=6)
    shared = Evidence(small)
    frames = {place: shared.pairs(*asked).frame for place, asked in enumerate(_asked(small))}
    before = {place: frame.copy() for place, frame in frames.items()}
    examined = examine(shared)
    lines = advise(situation, shared, examined.tests)
    table = derived(shared, examined.tests)
    for place, frame in frames.items():
        pd.testing.assert_frame_equal(frame, before[place])
    assert advise(situation, Evidence(small), examined.tests) == lines
    assert advise(situation, shared, examined.tests) == lines
    pd.testing.assert_frame_equal(derived(Evidence(small), examined.tests), table)
    again = examine(shared)
    assert again.findings == examined.findings
    pd.testing.assert_frame_equal(again.gains, examined.gains)
