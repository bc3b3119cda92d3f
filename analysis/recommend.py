"""How should I fine-tune this target? Advice, each line with the experiments that support it.

CHU's Table 3 ("Best Practices for Fine-tuning Visual Classifiers to New Domains") says freeze, tune
or try both by cosine distance and images per class. Here it is given as printed, with how many of
the paper's splits stand behind each cell, and derived again from the user's own runs; where those
decide, they go before the paper. What nothing supports is called "no evidence".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from analysis.evidence import Evidence

__all__ = ["AdviceLine", "Situation", "Support", "advise"]

AdviceVerdict = Literal["measured", "as printed", "undecided", "no evidence"]


class Support(NamedTuple):
    """An experiment that speaks for a line of advice, and how many comparisons it holds."""

    experiment: str
    n: int


@dataclass(frozen=True)
class AdviceLine:
    """One line of advice.

    Attributes:
        topic: overlap, freeze or tune, learning rate, copy depth, borrowing, more labels.
        answer: what to do, in a few words.
        because: the numbers behind it, or what is missing.
        supporting: experiments and how many comparisons (pairs, splits, conditions) each holds.
        verdict: `measured` where the user's own runs decide, `as printed` where only the papers
            speak, `undecided` where there are runs whose interval includes zero, `no evidence`.
    """

    topic: str
    answer: str
    because: str
    supporting: tuple[Support, ...]
    verdict: AdviceVerdict

    @property
    def n(self) -> int:
        """Comparisons behind the line, all experiments together."""
        return sum(support.n for support in self.supporting)


@dataclass(frozen=True)
class Situation:
    """What is known of a target and of the source that is to be copied.

    Attributes:
        images_per_class: training images of a class; the mean where classes differ.
        classes: of the target.
        cosine, cosine_low, cosine_high: distance at the last hidden layer; None: not measured.
        model: the network's name; records of the same network are preferred.
        accuracy: wanted, a fraction; how many labels it takes is then said.
        overlap: images of the target that the source has too, by exact or perceptual hash; None:
            not looked for.
        overlap_test: how many of them are test images.
        fewest, most: training images of the smallest and of the largest class.
    """

    images_per_class: float
    classes: int
    cosine: float | None = None
    cosine_low: float | None = None
    cosine_high: float | None = None
    model: str | None = None
    accuracy: float | None = None
    overlap: int | None = None
    overlap_test: int = 0
    fewest: int | None = None
    most: int | None = None


def advise(situation: Situation, evidence: Evidence | None = None) -> list[AdviceLine]:
    """Lines of advice in a fixed order, one or more for each topic.

    Args:
        situation: what was measured of the target.
        evidence: the user's own leaderboards (`analysis.board.read_all`); None: the papers alone.
    """
    raise NotImplementedError


def printed() -> pd.DataFrame:
    """CHU's Table 3: distance, images_per_class (bands), advice, splits (of the paper) behind."""
    raise NotImplementedError


def derived(evidence: Evidence) -> pd.DataFrame:
    """The same table from the user's runs.

    Returns:
        Rows for all nine cells, and for a data band whose distance is `unknown` where there are
        runs: distance, images_per_class, advice (None without a pair), ratio (geometric mean of
        tune / freeze), low, high, n, unit, pairs, experiments, printed, splits, note.
    """
    raise NotImplementedError
