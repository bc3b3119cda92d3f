"""From numbers to a verdict: the parts of a claim, each with its effect, interval and count.

On a user's runs a part is a comparison with its test; verdicts are given when all parts of all
claims, and all answers of the report, are known (`analysis.statistics.decisions`). A claim fails
when one of its parts fails, and holds when all parts of its main setting hold. Published numbers
are single values, so there an ordering is read as printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import comparisons, pair
from analysis.comparisons.units import Kind, combined, summarise
from analysis.leaderboard.labels import settings
from analysis.leaderboard.read import SIZES, key_of
from analysis.statistics.corrections import p_equal, p_outside
from analysis.statistics.decisions import (
    Decision,
    Hypothesis,
    Rules,
    difference_test,
    hypothesis_name,
    two_levels,
)
from analysis.statistics.sample_size import MOST_REPETITIONS, repetitions_wanted
from bench.core.errors import DataError
from bench.results.intervals import Estimate, student

Verdict = Literal["holds", "fails", "not enough evidence"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "fails"
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
        p: unadjusted; `p_holm` adjusted for all comparisons that the leaderboard allows.
        needed: what to run where there is not enough; `wanted` how many repetitions would do in
            all (`repetitions_wanted`), where there are some.
        test: what decides it; None for published numbers and where nothing can be tested.
        estimate: what `test` and `wanted` come from.
        main: whether it is of the setting that was repeated most; other settings are shown too,
            and can make a claim fail, but a claim may hold without them.
    """

    name: str
    verdict: Verdict
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
    estimate: Estimate | None = None
    main: bool = True
    here: Verdict = UNDECIDED
    p_holm: float | None = None

    @property
    def scope(self) -> str:
        """What the verdict speaks of.

        >>> Part("x", HOLDS, 1.0, n=5, counted="seed").scope
        'on this task'
        """
        if self.counted == "seed":
            return "on this task"
        few = self.counted == "task" and self.test is not None and self.test.p_general is None
        return f"on these {self.n} tasks" if few else ""

    def decided(self, decision: Decision) -> Part:
        """The part with its verdicts, once the whole family is known."""
        if self.test is None:
            return self
        general, here = decision.of(self.test)
        one = self.test.p_general is None
        verdict = _VERDICTS[here if one else general]
        part = replace(self, verdict=verdict, here=_VERDICTS[here], p_holm=decision.p)
        if verdict != UNDECIDED:
            return replace(part, needed="")
        wanted = None
        if self.estimate is not None and self.estimate.method == "Student t":
            wanted = repetitions_wanted(self.estimate, level=decision.level)
        return replace(part, wanted=wanted)


@dataclass(frozen=True)
class Finding:
    """The verdict on one claim. Effect, interval and n are those of `main`, the part that decided.

    `here` is the verdict on these tasks alone.
    """

    claim: str
    paper: str
    text: str
    basis: Literal["published", "measured"]
    verdict: Verdict
    here: Verdict
    effect: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    counted: str
    p: float | None
    p_holm: float | None
    detail: str
    needed: str
    parts: tuple[Part, ...]
    main: Part


@dataclass(frozen=True)
class Claim:
    """A paper's claim and how it is tested on published numbers and on a user's runs."""

    id: str
    paper: str
    text: str
    on_published: Callable[[], Sequence[Part]]
    on_runs: Callable[[Evidence], Sequence[Part]]


def combine(
    claim: Claim, basis: Literal["published", "measured"], parts: Sequence[Part]
) -> Finding:
    """A claim's verdict: fails with any part, holds with all parts of its main setting."""
    if not parts:
        raise DataError(f"claim {claim.id} has no part")
    verdict = _together([(part.verdict, part.main) for part in parts])
    deciding = [p for p in parts if p.verdict == verdict and (p.main or verdict == FAILS)]
    known = [p for p in deciding if p.effect is not None] or deciding
    main = max(known, key=lambda p: (p.counted != "seed", p.n))  # of equal ones the first
    several = len(parts) > 1
    said = [f"{p.name}: {p.verdict}" + (f" ({p.detail})" if p.detail else "") for p in parts]
    return Finding(
        claim.id,
        claim.paper,
        claim.text,
        basis,
        verdict,
        _together([(part.here, part.main) for part in parts]),
        main.effect,
        main.low,
        main.high,
        main.n,
        main.unit,
        main.counted,
        main.p,
        main.p_holm,
        "; ".join(said) if several else main.detail,
        "; ".join(_to_run(parts)),
        tuple(parts),
        main,
    )


def _together(parts: Sequence[tuple[Verdict, bool]]) -> Verdict:
    if any(verdict == FAILS for verdict, _ in parts):
        return FAILS
    return HOLDS if all(v == HOLDS for v, main in parts if main) else UNDECIDED


def _to_run(parts: Sequence[Part]) -> list[str]:
    """What is needed, each thing once, with the repetitions that its most doubtful part wants."""
    asked: dict[str, list[Part]] = {}
    for part in parts:
        if part.needed and part.main:
            asked.setdefault(part.needed, []).append(part)
    return [_how_many(group) + needed for needed, group in asked.items()]


def _how_many(group: Sequence[Part]) -> str:
    counted = [part for part in group if part.wanted is not None]
    if not counted:
        return ""
    most = max(counted, key=lambda part: part.wanted or 0)
    unit = most.counted if most.counted.endswith("s") else f"{most.counted}s"
    if (most.wanted or 0) > MOST_REPETITIONS:
        return f"over {MOST_REPETITIONS} {unit} instead of {most.n}, small as the effect is: "
    return f"about {most.wanted} {unit} instead of {most.n}: "


# --- parts from published numbers ---------------------------------------------------------------


def missing(name: str, detail: str, needed: str = "") -> Part:
    """A part for which there are no numbers."""
    return Part(name, UNDECIDED, detail=detail, needed=needed)


def ordered(
    name: str,
    rows: Mapping[str, tuple[float, float]],
    strict: bool = True,
    tolerance: float = 0.0,
    unit: str = "points",
) -> Part:
    """Whether the first number of every row is above the second (not below, if not `strict`).

    Args:
        rows: label → (left, right), as printed.
        tolerance: the left may be lower by so much.

    The interval is Student's t over three rows or more; they are data sets or networks, not
    repetitions.
    """
    differences = {label: left - right for label, (left, right) in rows.items()}
    least = 1e-9 if strict else -tolerance - 1e-9
    bad = {label: d for label, d in differences.items() if d < least}
    estimate = student(list(differences.values()), unit="published row")
    if len(rows) < 3:
        estimate = replace(estimate, low=None, high=None, p=None, note="")
    seen = ", ".join(f"{label} {d:+.4g}" for label, d in differences.items())
    detail = f"against it {', '.join(f'{k} {d:+.4g}' for k, d in bad.items())}; " if bad else ""
    return _from_estimate(name, FAILS if bad else HOLDS, estimate, detail + seen, unit)


def trend(name: str, x: Sequence[float], y: Sequence[float], rising: bool = True) -> Part:
    """Whether printed values rise (fall) without exception: Spearman's correlation is ±1."""
    rho = float(stats.spearmanr(x, y).statistic)
    verdict = HOLDS if (rho if rising else -rho) > 1 - 1e-9 else FAILS
    points = ", ".join(f"{a:g}: {b:g}" for a, b in zip(x, y, strict=True))
    return Part(
        name, verdict, rho, n=len(x), unit="Spearman", counted="published value", detail=points
    )


def _from_estimate(
    name: str, verdict: Verdict, e: Estimate, detail: str, unit: str, needed: str = ""
) -> Part:
    away = f"{e.diverged} diverged runs count at chance" if e.diverged else ""
    note = "; ".join(text for text in (detail, away, e.note) if text)
    return Part(
        name, verdict, e.value, e.low, e.high, e.n, unit, e.unit, e.p, note, needed, estimate=e
    )


# --- parts from a user's runs -------------------------------------------------------------------


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
    part = _from_estimate(name, UNDECIDED, e, _with_here(detail, e, unit), unit, needed)
    return replace(part, test=difference_test(e, pairs, unit, rules))


def _with_here(detail: str, e: Estimate, unit: str) -> str:
    """The detail with the estimate for these tasks alone, where that is another statement."""
    here = e.here
    if here is None or here.low is None or here.high is None:
        return detail
    text = f"on these {e.n} tasks alone {here.value:+.3g} ({here.low:+.3g} to {here.high:+.3g})"
    return "; ".join(part for part in (detail, f"{text} {unit}") if part)


def parts_of(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    needed: str,
    make: Callable[[str, pd.DataFrame, str], Part],
    metric: str = "top1_accuracy",
) -> list[Part]:
    """A part for each comparison of two arms, the one that was repeated most first.

    Args:
        make: gives the part for its name, its pairs and what is to be said of them.
    """
    rule = evidence.lr_rule(left | right)
    found = pair(evidence.board, left, right, vary, metric, rule)
    if not len(found):
        return [missing(name, "no pair of finished runs", needed)]
    groups = list(comparisons(found.frame))
    names = setting_names(evidence.board, groups)
    parts = []
    for place, (group, setting) in enumerate(zip(groups, names, strict=True)):
        said = [f"{len(group)} pairs"]
        said += ["best lr of each by validation"] if rule == "best" else []
        if not place:
            said += [f"{found.unpaired} runs without a partner"] if found.unpaired else []
            said += [f"{found.unfinished} runs without a result"] if found.unfinished else []
        part = make(f"{name}, {setting}" if setting else name, group, ", ".join(said))
        parts.append(replace(part, main=as_repeated(group, groups[0])))
    return parts


def as_repeated(group: pd.DataFrame, most: pd.DataFrame) -> bool:
    """Whether a comparison was repeated as often as the one that was repeated most."""
    return len(group) == len(most) and group["task"].nunique() == most["task"].nunique()


def setting_names(board: pd.DataFrame, groups: Sequence[pd.DataFrame]) -> list[str]:
    """What tells each of several comparisons from the others; empty for the commonest."""
    if len(groups) == 1:
        return [""]
    sides = []
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
    metric: str = "top1_accuracy",
    scale: float = 100.0,
    unit: str = "points",
    margin: float = 0.0,
) -> list[Part]:
    """Whether the left arm is above the right one, paired; `needed` says how to get the pairs.

    Args:
        scale: what differences are multiplied with; negative where lower is better.
        margin: the left may be lower by so much (in `unit`): "not worse than".
    """
    kind: Kind = "difference" if metric == "top1_accuracy" else "other"

    def make(named: str, frame: pd.DataFrame, detail: str) -> Part:
        shifted = frame.assign(effect=scale * frame["difference"] + margin)
        e = summarise(shifted, "effect", named, kind, scale)
        pairs = hypothesis_name(frame, f"{metric} {margin:g}", symmetric=not margin)
        part = judge(named, e, needed, evidence.rules, pairs, detail, unit)
        if not margin:
            return part
        effect, low, high = (None if v is None else v - margin for v in (e.value, e.low, e.high))
        said = f"{part.detail}; a margin of {margin:g} {unit} is allowed"
        test = difference_test(e, pairs, "", evidence.rules)
        return replace(part, effect=effect, low=low, high=high, detail=said, test=test)

    return parts_of(evidence, name, left, right, vary, needed, make, metric)


def equivalent(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    needed: str,
    margin: float | None = None,
) -> list[Part]:
    """Whether two arms differ by less than a margin in points, by two one-sided tests.

    It holds where the difference is significantly inside ± margin, and fails where it is
    significantly outside; the margin is the rules' where none is given.
    """
    wide = evidence.rules.margin if margin is None else margin

    def make(named: str, frame: pd.DataFrame, detail: str) -> Part:
        return within(
            named, frame, needed, evidence.rules, -wide, wide, f"{detail}; margin {wide:g} points"
        )

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
    part = _from_estimate(name, UNDECIDED, e, _with_here(detail, e, "points"), "points", needed)
    return replace(part, test=test, p=p_of(e))


def slope(
    name: str,
    frame: pd.DataFrame,
    x: str,
    y: str,
    needed: str,
    rules: Rules,
    rising: bool = True,
    log_x: bool = True,
    unit: str = "points per doubling",
    within: Sequence[str] = (),
    least: int = 3,
) -> list[Part]:
    """Whether y rises (falls) with x: least-squares slopes, one for each task and seed.

    Args:
        frame: rows with `task`, `seed`, x and y; conditions that `within` names are kept apart, so
            that the slope is not between conditions. What they differ in beside the task makes
            parts of their own, the one with the most tasks first.
        least: different x that a slope needs.

    The effect is positive in the direction that the claim predicts.
    """
    rows = frame[frame[x].notna() & frame[y].notna()]
    found: dict[str, list[dict[str, object]]] = {}
    examples: dict[str, object] = {}
    sign = 1 if rising else -1
    if not rows.empty:
        apart = key_of(rows, list(within))
        for (kind, _, _), group in rows.groupby([apart, rows["task"], rows["seed"]], sort=True):
            if group[x].nunique() >= least:
                found.setdefault(str(kind), []).append(_slope_of(group, x, y, log_x, sign))
                examples.setdefault(str(kind), group.index[0])
    if not found:
        return [missing(name, f"no task with {least} different values of {x}", needed)]
    kinds = sorted(found, key=lambda k: (-len({r["task"] for r in found[k]}), -len(found[k]), k))
    names = settings(rows.loc[[examples[kind] for kind in kinds]], [x]) if len(kinds) > 1 else [""]
    parts = []
    for place, (kind, setting) in enumerate(zip(kinds, names, strict=True)):
        table = pd.DataFrame(found[kind])
        named = f"{name}, {setting}" if setting and place else name
        e = summarise(table, "slope", named, "given")
        pairs = hypothesis_name(table.assign(size=f"{kind} {x} {y}"), f"slope {x} {y} {name}")
        part = judge(named, e, needed, rules, pairs, f"{len(table)} slopes", unit)
        parts.append(replace(part, main=as_repeated(table, pd.DataFrame(found[kinds[0]]))))
    return parts


def _slope_of(group: pd.DataFrame, x: str, y: str, log_x: bool, sign: int) -> dict[str, object]:
    """The least-squares slope of one repetition: a weighted sum of its values, so that what it
    owes to the test images is known where that of the values is.
    """
    places = [math.log2(v) if log_x else float(v) for v in group[x]]
    middle = math.fsum(places) / len(places)
    whole = math.fsum((place - middle) ** 2 for place in places)
    weights = [sign * (place - middle) / whole for place in places]
    values = [float(v) for v in group[y]]
    rows = [{str(k): v for k, v in row.items()} for row in group.to_dict("records")]
    in_points = y == "points"
    kind: Kind = "difference" if "left" in group else "accuracy"
    return {
        "task": group["task"].iloc[0],
        "seed": group["seed"].iloc[0],
        "slope": math.fsum(w * v for w, v in zip(weights, values, strict=True)),
        "diverged": int(group["diverged"].sum()) if "diverged" in group else 0,
        **combined(rows, weights, kind if in_points else "other", 100.0),
    }
