"""From numbers to a verdict: the parts of a claim, each with its effect, interval and count.

A part holds or fails only where its interval lies wholly on one side; everything else is "not
enough evidence", with what would have to be run. A claim fails when one of its parts fails, holds
when all hold. Published numbers are single values, so there an ordering is read as printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from scipy import stats

from analysis.board import LrRule, key_of, pair, summarise
from analysis.repetitions import MOST_REPETITIONS, repetitions_wanted
from analysis.statistics import Estimate, student_interval
from bench.errors import DataError

__all__ = [
    "FAILS",
    "HOLDS",
    "UNDECIDED",
    "Claim",
    "Evidence",
    "Finding",
    "Part",
    "combine",
    "difference",
    "equivalent",
    "judge",
    "missing",
    "ordered",
    "slope",
    "trend",
]

Verdict = Literal["holds", "fails", "not enough evidence"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "fails"
UNDECIDED: Verdict = "not enough evidence"


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    `effect` has unit `unit` and the sign that the claim predicts is positive, unless `detail` says
    otherwise. `needed` says what to run where there is not enough; `wanted` how many repetitions
    would do in all (`repetitions_wanted`), where there are some.
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


@dataclass(frozen=True)
class Finding:
    """The verdict on one claim. Effect, interval and n are those of `main`, the part that decided.

    `p` is the largest p-value of the parts where the claim holds, since all of them must be real;
    where it fails, the smallest times their number, since one failing part is enough.
    """

    claim: str
    paper: str
    text: str
    basis: Literal["published", "measured"]
    verdict: Verdict
    effect: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    counted: str
    p: float | None
    detail: str
    needed: str
    parts: tuple[Part, ...]
    main: Part


@dataclass(frozen=True)
class Evidence:
    """What a user's own runs offer: a prepared leaderboard, and tables of measurements.

    Attributes:
        board: from `analysis.board.prepare`.
        distances: keys of `analysis.ratios.DISTANCE_KEYS`; cosine, and mmd, svm, cnn where
            measured, optionally with `<name>_low` and `<name>_high`.
        verification: arm (fine-tuning or soft), expressions (all or two), far, tar, seed.
        probes: network (near, far, self, FT-near, FT-far), layer, accuracy, seed; layers from the
            lowest up. By default the probes among the leaderboard's runs.
        sensitivities: a, b, percentage, reverse_percentage, n_classes.
        lr: whether arms are compared at equal learning rates or each at its best by validation;
            None: at its best where there are several and validation accuracies.
    """

    board: pd.DataFrame
    distances: pd.DataFrame | None = None
    verification: pd.DataFrame | None = None
    probes: pd.DataFrame | None = None
    sensitivities: pd.DataFrame | None = None
    lr: LrRule | None = None

    def lr_rule(self, rows: pd.Series[bool]) -> LrRule:
        """How learning rates are treated among these rows."""
        if self.lr is not None:
            return self.lr
        done = self.board[rows & (self.board["status"] == "done")]
        several = done["lr"].nunique() > 1
        return "best" if several and not done["val_top1_accuracy"].isna().any() else "same"


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
    """A claim's verdict: fails with any part, holds with all of them, else undecided."""
    if not parts:
        raise DataError(f"claim {claim.id} has no part")
    verdicts = {part.verdict for part in parts}
    verdict = FAILS if FAILS in verdicts else UNDECIDED if UNDECIDED in verdicts else HOLDS
    deciding = [p for p in parts if p.verdict == verdict]
    main = next((p for p in deciding if p.effect is not None), deciding[0])
    several = len(parts) > 1
    said = [f"{p.name}: {p.verdict}" + (f" ({p.detail})" if p.detail else "") for p in parts]
    return Finding(
        claim.id,
        claim.paper,
        claim.text,
        basis,
        verdict,
        main.effect,
        main.low,
        main.high,
        main.n,
        main.unit,
        main.counted,
        _joint_p(verdict, parts),
        "; ".join(said) if several else main.detail,
        "; ".join(_to_run(parts)),
        tuple(parts),
        main,
    )


def _joint_p(verdict: Verdict, parts: Sequence[Part]) -> float | None:
    known = [p.p for p in parts if p.p is not None]
    if verdict == FAILS:
        failing = [p.p for p in parts if p.verdict == FAILS and p.p is not None]
        return min(1.0, len(parts) * min(failing)) if failing else None
    return max(known) if len(known) == len(parts) else None


def _to_run(parts: Sequence[Part]) -> list[str]:
    """What is needed, each thing once, with the repetitions that its most doubtful part wants."""
    asked: dict[str, list[Part]] = {}
    for part in parts:
        if part.needed:
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
    estimate = student_interval(list(differences.values()), unit="published row")
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
    note = "; ".join(text for text in (detail, e.note) if text)
    return Part(name, verdict, e.value, e.low, e.high, e.n, unit, e.unit, e.p, note, needed)


# --- parts from a user's runs -------------------------------------------------------------------


def judge(name: str, e: Estimate, needed: str, detail: str = "", unit: str = "points") -> Part:
    """Holds where the whole interval is above zero, fails where it is below."""
    verdict = {1: HOLDS, -1: FAILS}.get(e.sign, UNDECIDED)
    if verdict != UNDECIDED:
        return _from_estimate(name, verdict, e, detail, unit)
    part = _from_estimate(name, verdict, e, detail, unit, needed)
    return replace(part, wanted=repetitions_wanted(e))


def _pairs(
    evidence: Evidence,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    metric: str,
) -> tuple[pd.DataFrame, str]:
    rule = evidence.lr_rule(left | right)
    found = pair(evidence.board, left, right, vary, metric, rule)
    said = [f"{len(found)} pairs" + (", best lr of each by validation" if rule == "best" else "")]
    if found.unpaired:
        said.append(f"{found.unpaired} runs without a partner")
    if found.unfinished:
        said.append(f"{found.unfinished} runs without a result")
    return found.frame, ", ".join(said)


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
) -> Part:
    """Whether the left arm is above the right one, paired; `needed` says how to get the pairs.

    Args:
        scale: what differences are multiplied with; negative where lower is better.
        margin: the left may be lower by so much (in `unit`): "not worse than".
    """
    frame, detail = _pairs(evidence, left, right, vary, metric)
    if frame.empty:
        return missing(name, "no pair of finished runs", needed)
    shifted = frame.assign(effect=scale * frame["difference"] + margin)
    e = summarise(shifted, "effect", name)
    part = judge(name, e, needed, detail, unit)
    if not margin:
        return part
    effect, low, high = (None if v is None else v - margin for v in (e.value, e.low, e.high))
    said = f"{part.detail}; a margin of {margin:g} {unit} is allowed"
    return replace(part, effect=effect, low=low, high=high, detail=said)


def equivalent(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Collection[str],
    needed: str,
    margin: float | None = None,
) -> Part:
    """Whether two arms differ by less than a margin: the interval lies within ± margin.

    Args:
        margin: in points; by default one sample standard deviation of the right arm over the
            repetitions ("about equal" as the papers use it).
    """
    frame, detail = _pairs(evidence, left, right, vary, "top1_accuracy")
    if frame.empty:
        return missing(name, "no pair of finished runs", needed)
    e = summarise(frame.assign(effect=100 * frame["difference"]), "effect", name)
    if margin is None:
        spread = frame.groupby(["task", "seed"])["right"].mean()
        if len(spread) < 3:
            return _from_estimate(
                name,
                UNDECIDED,
                e,
                f"{detail}; {len(spread)} repetitions give no spread",
                "points",
                needed,
            )
        margin = 100 * float(spread.std(ddof=1))
    detail = f"{detail}; margin {margin:.3g} points"
    if e.low is None or e.high is None:
        return _from_estimate(name, UNDECIDED, e, detail, "points", needed)
    inside, outside = -margin < e.low and e.high < margin, e.low > margin or e.high < -margin
    verdict = HOLDS if inside else FAILS if outside else UNDECIDED
    part = _from_estimate(name, verdict, e, detail, "points", "" if inside or outside else needed)
    # The p-value is of "no difference", which says nothing about being equal.
    return replace(part, p=None)


def slope(
    name: str,
    frame: pd.DataFrame,
    x: str,
    y: str,
    needed: str,
    rising: bool = True,
    log_x: bool = True,
    unit: str = "points per doubling",
    within: Sequence[str] = (),
    least: int = 3,
) -> Part:
    """Whether y rises (falls) with x: least-squares slopes, one for each task and seed.

    Args:
        frame: rows with `task`, `seed`, x and y; conditions that `within` names are kept apart, so
            that the slope is not between conditions.
        least: different x that a slope needs.

    The effect is positive in the direction that the claim predicts.
    """
    rows = frame[frame[x].notna() & frame[y].notna()]
    found = []
    if not rows.empty:
        groups = rows.groupby(key_of(rows, ["task", "seed", *within]), sort=True)
        for _, group in groups:
            if group[x].nunique() >= least:
                values = [math.log2(v) for v in group[x]] if log_x else list(group[x])
                fitted = float(stats.linregress(values, list(group[y])).slope)
                sign = 1 if rising else -1
                first = group.iloc[0]
                kept = {"task": first["task"], "seed": first["seed"], "slope": sign * fitted}
                # Slopes of two sources are not averaged within a seed.
                found.append(kept | ({"source": first["source"]} if "source" in within else {}))
    if not found:
        return missing(name, f"no task with {least} different values of {x}", needed)
    e = summarise(pd.DataFrame(found), "slope", name)
    return judge(name, e, needed, f"{len(found)} slopes", unit)
