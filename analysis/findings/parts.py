"""From numbers to a verdict: the parts of a claim, each with its effect, interval and count.

On a user's runs a part is a comparison with its test; verdicts are given when all parts of all
claims, and all answers of the report, are known (`analysis.statistics.decisions`). A claim fails
when one of its parts fails, and holds when all parts of its main setting hold; it is about equal
when all of these hold or show an effect that is too small to be of interest. Published numbers are
single values, so there an ordering is read as printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import pandas as pd
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import comparisons, one_label_a_source
from analysis.comparisons.units import Kind, combined, repetitions, summarise
from analysis.leaderboard.labels import settings
from analysis.leaderboard.read import SIZES, key_of
from analysis.statistics.corrections import p_equal, p_outside
from analysis.statistics.decisions import (
    Decision,
    Hypothesis,
    Rules,
    difference_test,
    equality_test,
    hypothesis_name,
    two_levels,
)
from analysis.statistics.sample_size import (
    MOST_REPETITIONS,
    repetitions_for_equality,
    repetitions_wanted,
)
from bench.core.errors import DataError
from bench.core.text import p_value
from bench.results.intervals import Estimate, student

Verdict = Literal["holds", "fails", "about equal", "not enough evidence"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "fails"
EQUAL: Verdict = "about equal"
"""What is compared differs by less than the smallest effect of interest, in either direction."""
UNDECIDED: Verdict = "not enough evidence"
_VERDICTS: Mapping[int, Verdict] = {1: HOLDS, -1: FAILS, 0: UNDECIDED}


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes:
        verdict: on tasks of this kind where enough tasks repeat the comparison, else on those that
            there are (`scope`).
        here: the verdict on these tasks alone.
        effect: in `unit`; the sign that the claim predicts is positive, unless `detail` says
            otherwise. `low` and `high` are the ends of its interval over `n` of what is `counted`.
        p: unadjusted; `p_holm` of the test that gave the verdict, adjusted for all comparisons that
            the leaderboard allows.
        needed: what to run where there is not enough; `wanted` how many repetitions would do in
            all (`repetitions_wanted`), where there are some.
        test: what decides it; None for published numbers and where nothing can be tested.
        equal: the test of an effect below the smallest one of interest; None where the unit has no
            such effect, and where the claim itself speaks of a margin.
        interest: the smallest effect of interest, 0 where there is none.
        estimate: what `test` and `wanted` come from.
        main: whether it is of the setting that was repeated most; other settings are shown too,
            and can make a claim fail, but a claim may hold without them.
        look: "look 3 of 5" where tasks were added look by look.
    """

    name: str
    verdict: Verdict
    _: KW_ONLY
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = "points"
    counted: str = "pair"
    p: float | None = None
    detail: str = ""
    needed: str = ""
    wanted: int | None = None
    test: Hypothesis | None = None
    equal: Hypothesis | None = None
    interest: float = 0.0
    estimate: Estimate | None = None
    main: bool = True
    here: Verdict = UNDECIDED
    p_holm: float | None = None
    look: str = ""

    @property
    def scope(self) -> str:
        """What the verdict speaks of.

        >>> Part("x", HOLDS, effect=1.0, n=5, counted="seed").scope
        'on this task'
        """
        if self.counted == "seed":
            return "on this task"
        few = self.counted == "task" and self.test is not None and self.test.p_general is None
        return f"on these {self.n} tasks" if few else ""

    def decided(self, decision: Decision, equal: Decision | None = None) -> Part:
        """The part with its verdicts, once the whole family is tested.

        Args:
            equal: on `self.equal`; it counts where no difference was decided.
        """
        if self.test is None:
            return self
        levels = zip(decision.of(self.test), _equal(self.equal, equal), strict=True)
        general, here = (EQUAL if same and not sign else _VERDICTS[sign] for sign, same in levels)
        one = self.test.p_general is None
        verdict = here if one else general
        decides = equal if verdict == EQUAL and equal is not None else decision
        part = replace(self, verdict=verdict, here=here, p_holm=decides.p)
        if EQUAL in (verdict, here) and equal is not None:
            small = f"within ±{self.interest:g} {self.unit}, p (Holm) {p_value(equal.p)}"
            part = replace(part, detail="; ".join(t for t in (self.detail, small) if t))
        if verdict != UNDECIDED:
            return replace(part, needed="")
        return replace(part, wanted=self._wanted(decision, equal))

    def _wanted(self, decision: Decision, equal: Decision | None) -> int | None:
        """The fewer of those that would show the effect and those that would show it too small."""
        if self.estimate is None or self.estimate.method != "Student t":
            return None
        known: list[int | None] = []
        if abs(self.estimate.value) >= self.interest:  # else no number of tasks shows a difference
            known += [repetitions_wanted(self.estimate, level=decision.level)]
        if equal is not None:  # tested at two levels, at half of it each
            known += [repetitions_for_equality(self.estimate, self.interest, level=equal.level / 2)]
        return min((n for n in known if n is not None), default=None)


def _equal(test: Hypothesis | None, decision: Decision | None) -> tuple[int, int]:
    return (0, 0) if test is None or decision is None else decision.of(test)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one claim.

    Attributes:
        here: the verdict on these tasks alone.
        main: the part that decided, whose effect, interval and n stand for the claim.
    """

    claim: str
    paper: str
    text: str
    basis: Literal["published", "measured"]
    verdict: Verdict
    here: Verdict
    detail: str
    needed: str
    parts: tuple[Part, ...]
    main: Part


OnPublished = Callable[[], Sequence[Part]]
OnRuns = Callable[[Evidence], Sequence[Part]]


@dataclass(frozen=True)
class Claim:
    """A paper's claim and how it is tested on published numbers and on a user's runs."""

    id: str
    paper: str
    text: str
    on_published: OnPublished
    on_runs: OnRuns


def claim(paper: str, name: str, text: str, published: OnPublished) -> Callable[[OnRuns], Claim]:
    """Make a claim of a function that gives its parts on a user's runs.

    Args:
        name: its id, such as LI-C4.
        published: gives its parts on the numbers in print; `drawn` where there are none.

    >>> @claim("x-2020", "X-C1", "an example", drawn("Fig. 1", "a > b"))
    ... def example(evidence):
    ...     return []
    >>> example.id, example.on_published()[0].detail
    ('X-C1', 'Fig. 1 is only drawn, its values are not printed')
    """
    return lambda on_runs: Claim(name, paper, text, published, on_runs)


def combine(
    claim: Claim, basis: Literal["published", "measured"], parts: Sequence[Part]
) -> Finding:
    """A claim's verdict: fails with any part, holds with all parts of its main setting.

    It is about equal where each of these holds or is about equal.
    """
    if not parts:
        raise DataError(f"claim {claim.id} has no part")
    verdict = _together([(part.verdict, part.main) for part in parts])
    deciding = [p for p in parts if p.verdict == verdict and (p.main or verdict == FAILS)]
    measured = [p for p in deciding if p.effect is not None] or deciding
    main = max(measured, key=lambda p: (p.counted != "seed", p.n))  # of equal ones the first
    details = [f"{p.name}: {p.verdict}" + (f" ({p.detail})" if p.detail else "") for p in parts]
    return Finding(
        claim=claim.id,
        paper=claim.paper,
        text=claim.text,
        basis=basis,
        verdict=verdict,
        here=_together([(part.here, part.main) for part in parts]),
        detail="; ".join(details) if len(parts) > 1 else main.detail,
        needed="; ".join(_to_run(parts)),
        parts=tuple(parts),
        main=main,
    )


def _together(parts: Sequence[tuple[Verdict, bool]]) -> Verdict:
    if any(verdict == FAILS for verdict, _ in parts):
        return FAILS
    main = {verdict for verdict, main in parts if main}
    return HOLDS if main == {HOLDS} else EQUAL if main and main <= {HOLDS, EQUAL} else UNDECIDED


def _to_run(parts: Sequence[Part]) -> list[str]:
    """What is needed, each thing once, with the repetitions that its most doubtful part wants."""
    asked: dict[str, list[Part]] = {}
    for part in parts:
        if part.needed and part.main:
            asked.setdefault(part.needed, []).append(part)
    return [_with_number(group, needed, len(parts) > 1) for needed, group in asked.items()]


_SEEDS = re.compile(r"[,;] seed: \[0, 1, 2\]| with three or more seeds( or class draws)?")


def _with_number(group: Sequence[Part], needed: str, several: bool) -> str:
    """What to run, and how often where that can be told; seeds are then not named besides."""
    counted = [part for part in group if part.wanted is not None]
    if not counted:
        return needed
    most = max(counted, key=lambda part: part.wanted or 0)
    unit = most.counted if most.counted.endswith("s") else f"{most.counted}s"
    if (most.wanted or 0) <= MOST_REPETITIONS:
        number = f"about {most.wanted} {unit} instead of {most.n}"
    elif several:
        number = f"over {MOST_REPETITIONS} {unit} instead of {most.n} to decide {most.name!r} too"
    else:
        number = (
            f"over {MOST_REPETITIONS} {unit} instead of {most.n}, as the effect is small beside "
            "its spread"
        )
    return f"{number}: {_SEEDS.sub('', needed)}"


# --- parts from published numbers ---------------------------------------------------------------


def missing(name: str, detail: str, needed: str = "") -> Part:
    """A part for which there are no numbers."""
    return Part(name, UNDECIDED, detail=detail, needed=needed)


def without_numbers(detail: str, *names: str) -> OnPublished:
    """The parts of a claim for which the paper prints no numbers."""
    return lambda: [missing(name, detail) for name in names]


def drawn(figure: str, *names: str) -> OnPublished:
    """The parts of a claim whose published values a figure shows without numbers."""
    return without_numbers(f"{figure} is only drawn, its values are not printed", *names)


def ordered(
    name: str,
    rows: Mapping[str, tuple[float, float]],
    strict: bool = True,
    unit: str = "points",
) -> Part:
    """Whether the first number of every row is above the second (not below, if not `strict`).

    Args:
        rows: label → (left, right), as printed.

    The interval is Student's t over three rows or more; they are data sets or networks, not
    repetitions.
    """
    differences = {label: left - right for label, (left, right) in rows.items()}
    least = 1e-9 if strict else -1e-9
    bad = {label: d for label, d in differences.items() if d < least}
    estimate = student(list(differences.values()), unit="published row")
    if len(rows) < 3:
        estimate = replace(estimate, low=None, high=None, error=None, degrees=None, note="")
    text = _signed(differences)
    text = f"against it {_signed(bad)}; {text}" if bad else text
    return from_estimate(name, FAILS if bad else HOLDS, estimate, text, unit)


def _signed(differences: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {d:+.4g}" for label, d in differences.items())


def trend(name: str, x: Sequence[float], y: Sequence[float], rising: bool = True) -> Part:
    """Whether printed values rise (fall) without exception: Spearman's correlation is ±1."""
    rho = float(stats.spearmanr(x, y).statistic)
    verdict = HOLDS if (rho if rising else -rho) > 1 - 1e-9 else FAILS
    points = ", ".join(f"{a:g}: {b:g}" for a, b in zip(x, y, strict=True))
    return Part(
        name,
        verdict,
        effect=rho,
        n=len(x),
        unit="Spearman",
        counted="published value",
        detail=points,
    )


def from_estimate(
    name: str, verdict: Verdict, e: Estimate, detail: str, unit: str, needed: str = ""
) -> Part:
    """A part with the numbers of an estimate, whose notes stand behind the detail."""
    away = f"{e.diverged} diverged runs count at chance" if e.diverged else ""
    note = "; ".join(text for text in (detail, away, e.note) if text)
    return Part(
        name,
        verdict,
        effect=e.value,
        low=e.low,
        high=e.high,
        n=e.n,
        unit=unit,
        counted=e.unit,
        p=e.p,
        detail=note,
        needed=needed,
        estimate=e,
    )


# --- parts from a user's runs -------------------------------------------------------------------


def near_and_far(evidence: Evidence, needed: str) -> str:
    """What to run, with where near and far come from if the leaderboard lacks one of them."""
    if {"near", "far"} <= set(evidence.board["source_side"].dropna()):
        return needed
    return f"{needed} (near and far are sources chosen by the recipe near_far)"


def judge(
    name: str,
    e: Estimate,
    needed: str,
    rules: Rules,
    pairs: str,
    detail: str = "",
    unit: str = "points",
) -> Part:
    """A part whose mean is tested against zero; its verdict waits for the family.

    Args:
        pairs: the hypothesis' name, from `analysis.statistics.decisions.hypothesis_name`.
    """
    part = from_estimate(name, UNDECIDED, e, _with_here(detail, e, unit, rules), unit, needed)
    return replace(
        part,
        test=difference_test(e, pairs, unit, rules),
        equal=equality_test(e, f"equal {pairs}", unit, rules),
        interest=rules.interest.get(unit, 0.0),
    )


def _with_here(detail: str, e: Estimate, unit: str, rules: Rules) -> str:
    """The detail with the estimate for these tasks alone, where that is another statement.

    It is left out where there are looks: its interval is that of one look.
    """
    here = e.here if rules.looks is None else None
    if here is None or here.low is None or here.high is None:
        return detail
    text = f"on these {e.n} tasks alone {here.value:+.3g} ({here.low:+.3g} to {here.high:+.3g})"
    text = f"{text} {unit}"
    if e.low is not None and e.high is not None and e.high - e.low < here.high - here.low:
        text += (
            f", wider as it has the errors of seeds and test images, and the means of {e.n} tasks "
            "may differ little by chance"
        )
    return "; ".join(part for part in (detail, text) if part)


@dataclass(frozen=True)
class Measure:
    """A column of a leaderboard in which arms are compared.

    Attributes:
        scale: what differences are multiplied with to be in `unit`; negative where lower is better.
    """

    column: str
    scale: float
    unit: str


POINTS = Measure("top1_accuracy", 100.0, "points")


def parts_of(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    needed: str,
    make: Callable[[str, pd.DataFrame, str], Part],
    measure: Measure = POINTS,
) -> list[Part]:
    """A part for each comparison of two arms, the one that was repeated most first.

    Args:
        needed: how to get pairs.
        make: gives the part for its name, its pairs and its detail.
    """
    rule = evidence.lr_rule(left | right)
    pairs = evidence.pairs(left, right, vary, measure.column, rule)
    if not len(pairs):
        return [missing(name, "no pair of finished runs", needed)]
    groups = list(comparisons(pairs.frame))
    best = ", best lr of each by validation" if rule == "best" else ""
    best += _rates(evidence.board, left, right) if rule == "same" and "lr" in vary else ""
    rest = f", {pairs.unpaired} runs without a partner" if pairs.unpaired else ""
    rest += f", {pairs.unfinished} runs without a result" if pairs.unfinished else ""

    def made(named: str, group: pd.DataFrame) -> Part:
        return make(named, group, f"{len(group)} pairs{best}{rest if group is groups[0] else ''}")

    return for_each(name, groups, setting_names(evidence.board, groups), made)


def _rates(board: pd.DataFrame, left: pd.Series[bool], right: pd.Series[bool]) -> str:
    """The rates of both arms, where each has its own."""
    sides = [sorted(set(board.loc[rows, "lr"].dropna())) for rows in (left, right)]
    if sides[0] == sides[1] or not all(sides):
        return ""
    texts = [", ".join(f"{rate:g}" for rate in side) for side in sides]
    return f", rate {' against '.join(texts)}"


def for_each(
    name: str,
    groups: Sequence[pd.DataFrame],
    names: Sequence[str],
    make: Callable[[str, pd.DataFrame], Part],
) -> list[Part]:
    """A part for each comparison; those that were repeated as often as the first are the main ones.

    Args:
        groups: repetitions of each comparison, the most repeated first.
        names: what tells each from the others, such as of `setting_names`; may be empty.
        make: gives the part for its name and its repetitions.
    """
    return [
        replace(
            make(f"{name}, {setting}" if setting else name, group),
            main=_as_repeated(group, groups[0]),
        )
        for group, setting in zip(groups, names, strict=True)
    ]


def numbered(groups: Sequence[pd.DataFrame]) -> list[str]:
    """Names of comparisons that have no words; the first needs none."""
    return ["", *(f"setting {place}" for place in range(2, len(groups) + 1))]


def _as_repeated(group: pd.DataFrame, most: pd.DataFrame) -> bool:
    """Whether a comparison was repeated as often as the one that was repeated most."""
    return len(group) == len(most) and group["task"].nunique() == most["task"].nunique()


def setting_names(board: pd.DataFrame, groups: Sequence[pd.DataFrame]) -> list[str]:
    """What tells each of several comparisons from the others; empty for the commonest."""
    if len(groups) == 1:
        return [""]
    sides, board = [], one_label_a_source(board)
    for side in ("left_place", "right_place"):
        # One run of each, whatever the order of rows; its size and schedule are not part of it.
        rows = board.loc[[_least(board, group[side]) for group in groups]]
        leave = ["lr", "target", "dataset", *SIZES]
        sides.append(settings(rows, leave, weights=[len(group) for group in groups]))
    names = []
    for left, right in zip(*sides, strict=True):
        names.append(left if left == right or not right else f"{left} against {right}".strip())
    return [name or f"setting {i + 1}" if i else name for i, name in enumerate(names)]


def _least(board: pd.DataFrame, places: pd.Series[Any]) -> Any:
    known = board.loc[list(places)]
    told = (
        known["run_id"].map(str)
        if "run_id" in known.columns
        else key_of(known, list(map(str, known.columns)))
    )
    return told.sort_values(kind="stable").index[0]


def difference(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    needed: str,
    measure: Measure = POINTS,
    margin: float = 0.0,
) -> list[Part]:
    """Whether the left arm is above the right one, paired; `needed` says how to get the pairs.

    Args:
        margin: the left may be lower by so much (in the measure's unit): "not worse than".
    """
    kind: Kind = "difference" if measure == POINTS else "other"
    scale, unit = measure.scale, measure.unit

    def make(named: str, frame: pd.DataFrame, detail: str) -> Part:
        shifted = frame.assign(effect=scale * frame["difference"] + margin)
        e = summarise(shifted, "effect", named, kind, scale)
        pairs = hypothesis_name(frame, f"{measure.column} {margin:g}", symmetric=not margin)
        part = judge(named, e, needed, evidence.rules, pairs, detail, unit)
        if not margin:
            return part
        effect, low, high = (None if v is None else v - margin for v in (e.value, e.low, e.high))
        detail = f"{part.detail}; a margin of {margin:g} {unit} is allowed"
        test = difference_test(e, pairs, "", evidence.rules)
        return replace(
            part, effect=effect, low=low, high=high, detail=detail, test=test, equal=None
        )

    return parts_of(evidence, name, left, right, vary, needed, make, measure)


def equivalent(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    needed: str,
) -> list[Part]:
    """Whether two arms differ by less than a margin in points, by two one-sided tests.

    It holds where the difference is significantly inside ± margin, and fails where it is
    significantly outside; the margin is the rules'.
    """
    margin = evidence.rules.margin

    def make(named: str, frame: pd.DataFrame, detail: str) -> Part:
        detail = f"{detail}; margin {margin:g} points"
        return within(named, frame, needed, evidence.rules, -margin, margin, detail)

    return parts_of(evidence, name, left, right, vary, needed, make)


def within(
    name: str,
    frame: pd.DataFrame,
    needed: str,
    rules: Rules,
    low: float,
    high: float,
    detail: str,
) -> Part:
    """Whether a mean difference in points lies between two ends, or outside them."""
    e = summarise(frame.assign(effect=100 * frame["difference"]), "effect", name, "difference", 100)
    inside = (e.value > low) and (e.value < high)
    pairs = hypothesis_name(frame, f"within {low:g} {high:g}", symmetric=low == -high)

    def p_of(one: Estimate | None) -> float | None:
        if one is None:
            return None
        return p_equal(one, low, high) if inside else p_outside(one, low, high)

    test = two_levels(Hypothesis(pairs, 1 if inside else -1, None, None, 1), e, p_of(e), rules)
    if e.here is not None and test.p_here is not None:
        test = replace(test, p_here=p_of(e.here))
    part = from_estimate(
        name, UNDECIDED, e, _with_here(detail, e, "points", rules), "points", needed
    )
    return replace(part, test=test, p=p_of(e))


_LEAST_SIZES = 3
"""Different values that a slope needs."""
_SLOPE_UNITS = {"train_loss": "nats per doubling"}


def slope(
    name: str,
    frame: pd.DataFrame,
    x: str,
    y: str,
    needed: str,
    rules: Rules,
    rising: bool = True,
    within: Sequence[str] = (),
) -> list[Part]:
    """Whether y rises (falls) with x doubled: least-squares slopes, one for each task and seed.

    Args:
        frame: rows with `task`, `seed`, x and y; conditions that `within` names are kept apart, so
            that the slope is not between conditions. What they differ in beside the task makes
            parts of their own, the one with the most tasks first.
        y: `points`, or another column.

    The effect is positive in the direction that the claim predicts.
    """
    rows = frame[frame[x].notna() & frame[y].notna()]
    slopes: list[dict[str, object]] = []
    if not rows.empty:
        apart = key_of(rows, list(within))
        for (kind, _, _), group in rows.groupby([apart, rows["task"], rows["seed"]], sort=True):
            if group[x].nunique() >= _LEAST_SIZES:
                of_kind = {"kind": str(kind), "size": f"{kind} {x} {y}", "example": group.index[0]}
                slopes.append(of_kind | _slope_of(group, x, y, 1 if rising else -1))
    if not slopes:
        return [missing(name, f"no task with {_LEAST_SIZES} different values of {x}", needed)]
    groups = list(comparisons(pd.DataFrame(slopes), "kind"))
    examples = rows.loc[[group["example"].iloc[0] for group in groups]]
    names = settings(examples, [x]) if len(groups) > 1 else [""]
    unit = _SLOPE_UNITS.get(y, "points per doubling")

    def make(named: str, group: pd.DataFrame) -> Part:
        e = summarise(group, "slope", named, "given")
        pairs = hypothesis_name(group, f"slope {x} {y} {name}")
        return judge(named, e, needed, rules, pairs, f"{len(group)} slopes", unit)

    return for_each(name, groups, ["", *names[1:]], make)


def _slope_of(group: pd.DataFrame, x: str, y: str, sign: int) -> dict[str, object]:
    """The least-squares slope of one repetition.

    It is a weighted sum of values, so what it owes to the test images follows from theirs.
    """
    places = [math.log2(v) for v in group[x]]
    middle = math.fsum(places) / len(places)
    whole = math.fsum((place - middle) ** 2 for place in places)
    weights = [sign * (place - middle) / whole for place in places]
    values = [float(v) for v in group[y]]
    rows = repetitions(group)
    in_points = y == "points"
    kind: Kind = "difference" if "left" in group else "accuracy"
    return {
        "task": group["task"].iloc[0],
        "seed": group["seed"].iloc[0],
        "slope": math.fsum(w * v for w, v in zip(weights, values, strict=True)),
        "diverged": int(group["diverged"].sum()) if "diverged" in group else 0,
        **combined(rows, weights, kind if in_points else "other", 100.0),
    }
