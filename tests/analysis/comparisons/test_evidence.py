"""Evidence computes once what a fresh call gives; repetitions hold every column that is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import pair
from analysis.comparisons.units import combined, observation, repetitions
from analysis.leaderboard import arms
from analysis.leaderboard.read import PATTERN, read


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
