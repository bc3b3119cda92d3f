"""Which hypotheses a leaderboard decides: one family, one rule, whatever the reader asks to see.

A comparison has a hypothesis about tasks of its kind (the unit is the task) where three tasks or
more repeat it, and one about these very tasks (the unit is the seed within its task). It is tested
by both, at half the level each, or by the second alone where there are fewer tasks. Holm's
procedure runs over all comparisons that the leaderboard allows to be tested, those of the
report's answers and those of the papers' claims. What is decided must also reach the smallest
effect of interest. That an effect is smaller than this is a statement of its own: two one-sided
tests of each comparison of a claim, a second family with Holm's procedure at the same level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from analysis.statistics.corrections import p_equal
from analysis.statistics.sequential import Looks
from bench.results.intervals import Estimate

LOG_RATIO = "% (log ratio x 100)"
"""The unit of the logarithm of a ratio of accuracies, times 100."""
UNIT_INTEREST: Mapping[str, float] = {
    "points": 1.0,
    LOG_RATIO: 2.0,
    "points per doubling": 0.5,
    "nats per doubling": 0.01,
    "epochs": 1.0,
    "Spearman": 0.2,
    "% of classes": 5.0,
}
"""Smallest effect of interest by unit; other units have none."""


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


@dataclass(frozen=True)
class Rules:
    """What a verdict needs; stated beside every table of verdicts.

    Attributes:
        least_tasks: of a statement about tasks of a kind.
        least_seeds: of a statement about one task, and of all tasks together about these tasks.
        interest: smallest effect of interest by unit; an estimate below it decides nothing.
        margin: points within which two arms are called about equal.
        level: of the whole family: the chance of any false verdict.
        looks: where tasks were added look by look: p-values are adjusted for the looks.
    """

    least_tasks: int = 3
    least_seeds: int = 3
    interest: Mapping[str, float] = field(default_factory=lambda: dict(UNIT_INTEREST))
    margin: float = 1.0
    level: float = 0.05
    looks: Looks | None = None

    def sentence(self) -> str:
        """The rules as they stand under a table.

        >>> Rules().sentence()[:62]
        'A verdict needs p (Holm, over all comparisons that these runs '
        """
        points = self.interest.get("points", 0.0)
        return (
            f"A verdict needs p (Holm, over all comparisons that these runs allow) of at most "
            f"{self.level:g} and an effect of {_points(points)} or more. A statement about tasks "
            f"of this kind needs {self.least_tasks} tasks or more, one about these tasks alone "
            f"{self.least_seeds} seeds or more; both are tested, and p is that of the stronger "
            f"one, so that the other may be undecided. About equal: two one-sided tests show less "
            f"than the smallest effect, a second family of {self.level:g} too; a claim that itself "
            f"speaks of equality is tested within {_points(self.margin)}."
            + (f" {self.looks.sentence()}" if self.looks is not None else "")
        )


@dataclass(frozen=True)
class Hypothesis:
    """What is tested of one comparison, before the correction for all others.

    Attributes:
        hypothesis: equal for comparisons of the same pairs, which count once.
        direction: the verdict if it is significant: 1, -1, or 0 below the effect of interest.
        p_general: of tasks of this kind; None with fewer than the least number of tasks.
        p_here: of these tasks; None where nothing was repeated.
        tasks: how many.
    """

    hypothesis: str
    direction: Literal[-1, 0, 1]
    p_general: float | None
    p_here: float | None
    tasks: int

    @property
    def p(self) -> float | None:
        """The smaller p-value, doubled where there are two: at half the level each."""
        known = [p for p in (self.p_general, self.p_here) if p is not None]
        return min(1.0, len(known) * min(known)) if known else None


@dataclass(frozen=True)
class Decision:
    """What was decided of a comparison.

    Attributes:
        p: adjusted after Holm; None: not tested.
        general, here: whether it is significant, of tasks of this kind and of these tasks.
        level: what an unadjusted p-value had to reach.
    """

    p: float | None
    general: bool
    here: bool
    level: float

    def of(self, test: Hypothesis) -> tuple[Literal[-1, 0, 1], Literal[-1, 0, 1]]:
        """1, -1 or 0 (undecided): on tasks of this kind, and on these tasks."""
        return test.direction if self.general else 0, test.direction if self.here else 0


def decide(tests: Iterable[Hypothesis], rules: Rules) -> dict[str, Decision]:
    """Holm's procedure (1979) over a family; the decision on each hypothesis.

    With looks it runs on p-values that are adjusted for them (`analysis.statistics.sequential`).
    """
    family: dict[str, Hypothesis] = {}
    for test in tests:
        family.setdefault(test.hypothesis, test)
    if rules.looks is not None:
        family = {name: _at_its_look(test, rules.looks) for name, test in family.items()}
    known = {name: test.p for name, test in family.items() if test.p is not None}
    ordered = sorted(known, key=lambda name: (known[name] or 0.0, name))
    found: dict[str, Decision] = {
        name: Decision(None, False, False, rules.level / max(len(known), 1)) for name in family
    }
    running = 0.0
    for place, name in enumerate(ordered):
        test, left = family[name], len(ordered) - place
        running = max(running, min(1.0, (known[name] or 0.0) * left))
        level = rules.level / left
        parts = [p for p in (test.p_general, test.p_here) if p is not None]
        passes = [
            running <= rules.level and p is not None and len(parts) * p <= level
            for p in (test.p_general, test.p_here)
        ]
        found[name] = Decision(running, passes[0], any(passes), level)
    return found


def _at_its_look(test: Hypothesis, looks: Looks) -> Hypothesis:
    general, here = (looks.adjusted(p, test.tasks) for p in (test.p_general, test.p_here))
    return replace(test, p_general=general, p_here=here)


def difference_test(e: Estimate, name: str, unit: str, rules: Rules) -> Hypothesis:
    """The test of "the mean is zero" for an estimate in a unit.

    >>> from bench.results.intervals import from_errors
    >>> e = from_errors(3.0, 0.5, 5, 6, "task")
    >>> difference_test(e, "a", "points", Rules()).direction
    1
    """
    least = rules.interest.get(unit, 0.0)
    test = Hypothesis(name, direction_of(e.value, least), None, None, 1)
    return two_levels(test, e, e.p, rules)


def equality_test(e: Estimate, name: str, unit: str, rules: Rules) -> Hypothesis | None:
    """The test of "the effect is at least the smallest one of interest, up or down" (TOST).

    None where the unit has no smallest effect of interest.

    >>> from bench.results.intervals import from_errors
    >>> test = equality_test(from_errors(0.1, 0.1, 9, 10, "task"), "a", "points", Rules())
    >>> test.direction, round(test.p_general, 6)
    (1, 4e-06)
    """
    least = rules.interest.get(unit, 0.0)
    if least <= 0:
        return None
    test = two_levels(Hypothesis(name, 1, None, None, 1), e, p_equal(e, -least, least), rules)
    if e.here is not None and test.p_here is not None:
        test = replace(test, p_here=p_equal(e.here, -least, least))
    return test


def direction_of(effect: float, least: float) -> Literal[-1, 0, 1]:
    """1 or -1 by the sign of an effect, 0 below the smallest effect of interest."""
    if effect == 0 or abs(effect) < least:
        return 0
    return 1 if effect > 0 else -1


def two_levels(test: Hypothesis, e: Estimate, p: float | None, rules: Rules) -> Hypothesis:
    """The test with its p-values, as far as the numbers of tasks and seeds allow them.

    Args:
        p: of the estimate; that of `e.here` is made by the same function elsewhere and given with
            `replace` where it is not that of "the mean is zero".
    """
    if e.unit == "seed":
        return replace(test, p_here=p if e.n >= rules.least_seeds else None, tasks=1)
    here = e.here
    if here is None:  # other units, such as classes or distances
        return replace(test, p_general=p if e.n >= rules.least_tasks else None, tasks=e.n)
    return replace(
        test,
        p_general=p if e.n >= rules.least_tasks else None,
        p_here=here.p if here.n >= rules.least_seeds else None,
        tasks=e.n,
    )


def hypothesis_name(frame: pd.DataFrame, kind: str, symmetric: bool = True) -> str:
    """A name for "these pairs, compared so": equal for the same pairs wherever they are tested.

    Args:
        symmetric: whether the comparison is the same with its sides swapped; with a margin on one
            side it is not.
    """
    if "left_runs" in frame:
        # The same pairs with their sides swapped are the same hypothesis.
        sides = [list(frame[name]) for name in ("left_runs", "right_runs")]
        both = [sorted(zip(*ordered, strict=True)) for ordered in (sides, sides[::-1])]
        rows = list(map(str, min(both) if symmetric else both[0]))
    else:
        columns = [n for n in ("task", "seed", "size") if n in frame]
        rows = sorted(map(str, frame[columns].to_numpy().tolist()))
    return hashlib.sha256("|".join([kind, *rows]).encode()).hexdigest()[:16]
