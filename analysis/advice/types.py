"""What advice consists of: the facts of a target, and lines with the experiments behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from analysis.statistics.decisions import (
    Decision,
    Hypothesis,
    Rules,
    decide,
    difference_test,
    hypothesis_name,
)
from bench.results.intervals import Estimate

AdviceVerdict = Literal["measured", "as printed", "undecided", "no evidence"]


class Support(NamedTuple):
    """An experiment that supports a line of advice, and how many comparisons it holds."""

    experiment: str
    n: int


@dataclass(frozen=True)
class AdviceLine:
    """One line of advice.

    Attributes:
        topic: overlap, freeze or tune, learning rate, copy depth, frozen layers, borrowing, more
            labels.
        answer: what to do, in a few words.
        because: the numbers behind it, or what is missing.
        supporting: experiments and how many comparisons (pairs, splits, conditions) each holds.
        verdict: `measured` where the user's own runs or images decide, `as printed` where there are
            only the papers, `undecided` where there are runs that do not decide it,
            `no evidence` where there is nothing.
        pattern: of the runs whose arm is advised over the one, tuning or freezing all layers but
            the last, that the page advises; None: none of them was compared with it.
    """

    topic: str
    answer: str
    because: str
    supporting: tuple[Support, ...]
    verdict: AdviceVerdict
    pattern: str | None = None

    @property
    def n(self) -> int:
        """Comparisons behind the line, all experiments together."""
        return sum(support.n for support in self.supporting)


@dataclass(frozen=True)
class Situation:
    """The facts of a target and of the source that is to be copied.

    Attributes:
        images_per_class: training images of a class; the mean where classes differ.
        classes: of the target.
        cosine, cosine_low, cosine_high: distance at the last hidden layer; None: not measured.
        model: the network's name; records of the same network are preferred.
        accuracy: wanted, a fraction; the labels that it takes are then given.
        overlap: images of the target that the source has too, by exact or perceptual hash; None:
            not looked for.
        overlap_test: how many of them are test or validation images.
        source_images: whether the source's images are at hand to be borrowed; None: not known.
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
    source_images: bool | None = None
    fewest: int | None = None
    most: int | None = None


class Significance:
    """Which estimates behind a page of advice are decided, all of them tested as one family.

    Advice is worked out twice: first to collect what it would test, when nothing is decided, and
    then, after `settle`, to be given.

    Args:
        rules: what a verdict needs.
        others: what else the same page tests.
    """

    def __init__(self, rules: Rules, others: Sequence[Hypothesis] = ()) -> None:
        self._rules, self._others = rules, tuple(others)
        self._tests: dict[str, Hypothesis] = {}
        self._decisions: Mapping[str, Decision] = {}

    def settle(self) -> None:
        """Decides everything that was asked so far."""
        self._decisions = decide([*self._others, *self._tests.values()], self._rules)

    def direction(self, e: Estimate, rows: pd.DataFrame, kind: str, unit: str) -> Literal[-1, 0, 1]:
        """1 where the estimate is decided above zero, -1 below, 0 otherwise.

        A decision on these tasks is enough: advice is for a user with these results.

        Args:
            rows: what it is the mean of; `kind` how, as in
                `analysis.statistics.decisions.hypothesis_name`.
            unit: of the estimate, which selects the smallest effect of interest.
        """
        test = difference_test(e, hypothesis_name(rows, kind), unit, self._rules)
        self._tests.setdefault(test.hypothesis, test)
        found = self._decisions.get(test.hypothesis)
        return 0 if found is None else found.of(test)[0] or found.of(test)[1]


def supports(rows: pd.DataFrame) -> tuple[Support, ...]:
    """How many rows each experiment of the leaderboards holds, most first.

    Args:
        rows: with `experiments` (names joined by ;) and `grid`; a row of two experiments counts
            under both names together, so that no row counts twice.

    >>> supports(pd.DataFrame({"grid": ["g", "g"], "experiments": ["a", "a;b"]}))
    (Support(experiment='g: a', n=1), Support(experiment='g: a, b', n=1))
    """
    counts: Counter[str] = Counter()
    for grid, names in zip(rows["grid"], rows["experiments"], strict=True):
        said = ", ".join(str(names).split(";")) if isinstance(names, str) and names else "runs"
        counts[f"{grid}: {said}" if isinstance(grid, str) and grid else said] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Support(name, n) for name, n in ranked)
