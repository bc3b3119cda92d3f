"""A leaderboard with what was measured beside it: what comparisons and findings start from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.comparisons.pairing import LrRule, Pairs, pair
from analysis.leaderboard.read import finished
from analysis.statistics.decisions import Rules

ClassPrecisions = Callable[[str], Mapping[str, float]]
Outputs = Callable[[str], "tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None"]
T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """What a user's own runs offer: a prepared leaderboard, and tables of measurements.

    Attributes:
        board: from `analysis.leaderboard.read.prepare`; with a column `correct`
            (`bench.results.predictions`) the test images' error is known pair by pair.
        distances: keys of `analysis.comparisons.ratios.DISTANCE_KEYS`; cosine, and mmd, svm, cnn
            where measured, optionally with `<name>_low` and `<name>_high`.
        verification: arm (fine-tuning or soft), expressions (all or two), far, tar, task, seed.
        probes: network (near, far, self, FT-near, FT-far), layer, accuracy, task, seed; layers
            from the lowest up. By default the probes among the leaderboard's runs.
        sensitivities: a, b, percentage, reverse_percentage, n_classes.
        class_precisions: average precision by class of a run by its id, from its record; None for a
            leaderboard alone, which has no column for single classes.
        outputs: scores (images, classes) before the softmax and labels of a run's test images, by
            its id, from its predictions; None for a leaderboard alone. A run without has None.
        lr: whether arms are compared at equal learning rates or each at its best by validation;
            None: at its best where there are several and validation accuracies.
        rules: what a verdict needs.
        designed: by claim what the names of the parts have that decide it; all decide one that is
            not there, see `analysis.findings.designed`.
    """

    board: pd.DataFrame
    distances: pd.DataFrame | None = None
    verification: pd.DataFrame | None = None
    probes: pd.DataFrame | None = None
    sensitivities: pd.DataFrame | None = None
    class_precisions: ClassPrecisions | None = None
    outputs: Outputs | None = None
    lr: LrRule | None = None
    rules: Rules = field(default_factory=Rules)
    designed: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    _computed: dict[Hashable, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def lr_rule(self, rows: pd.Series[bool]) -> LrRule:
        """How learning rates are treated among these rows."""
        if self.lr is not None:
            return self.lr
        done = self.board[rows & finished(self.board)]
        several = done["lr"].nunique() > 1
        return "best" if several and not done["val_top1_accuracy"].isna().any() else "same"

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result of `compute`, which runs for the first caller with this key alone.

        Findings, tables, figures and advice of one page compare the same arms. The result is
        shared, so no caller may change it.
        """
        if key not in self._computed:
            self._computed[key] = compute()
        result: T = self._computed[key]
        return result

    def pairs(
        self,
        left: pd.Series[bool],
        right: pd.Series[bool],
        vary: Collection[str],
        metric: str = "top1_accuracy",
        lr: LrRule | None = None,
    ) -> Pairs:
        """Pairs of runs of the leaderboard, see `analysis.comparisons.pairing.pair`.

        Args:
            lr: how learning rates are treated; None: by `lr_rule` of both arms.
        """
        rule = self.lr_rule(left | right) if lr is None else lr
        arms = (left.to_numpy(dtype=bool).tobytes(), right.to_numpy(dtype=bool).tobytes())
        key = ("pairs", arms, tuple(vary), metric, rule)
        return self.once(key, lambda: pair(self.board, left, right, vary, metric, rule))
