"""Are the printed intervals and verdicts what they say? Simulated boards with a known truth.

    python -m benchmarks.calibration            # writes CALIBRATION.md; a quarter of an hour
    python -m benchmarks.calibration --long     # three times the boards; about an hour
    python -m benchmarks.calibration --quick    # a tenth of the boards, printed only

Leaderboard rows go in, estimates and verdicts come out of the code that reports and findings use
(`analysis.findings.evaluate.examine`, `analysis.comparisons.pairing`, `bench.results.aggregate`).
Coverage is the share of intervals that hold the truth; a false verdict is one that the truth
contradicts: any difference where arms do not differ, the wrong sign, "about equal" of arms that
differ by more than the margin.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.advice.tune_or_freeze import regret
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.learning_curves import crossing, fit_power_law, repeated_laws
from analysis.comparisons.pairing import pair
from analysis.comparisons.units import summarise
from analysis.findings.evaluate import CLAIMS, Examined, examine
from analysis.findings.parts import Part
from analysis.leaderboard.read import PATTERN, SOURCE
from bench.results.aggregate import conditions
from bench.results.intervals import Estimate
from benchmarks.simulated import ARMS, Array, Design, Truth, differences, simulate

OUT = Path(__file__).with_name("CALIBRATION.md")
FEW = ("near", "far", "near, frozen", "scratch")


@dataclass(frozen=True)
class Setting:
    """A design with a truth.

    Attributes:
        name: in the table.
        calibrated: whether the design says that intervals cover 95 % here; where they are bounds
            or cannot be, `why` says so.
        predictions: whether the leaderboard says which test images each run got right.
    """

    name: str
    design: Design
    truth: Truth = field(default_factory=Truth)
    predictions: bool = True
    calibrated: bool = True
    why: str = ""

    def said(self) -> str:
        """What the page says of it.

        >>> Setting("a", Design(1, 5)).said(), Setting("a", Design(3, 5)).said()
        ('at least 95 %', 'yes')
        """
        if not self.calibrated:
            return f"no: {self.why}"
        return "at least 95 %" if self.design.tasks == 1 else "yes"


@dataclass
class Tally:
    """How often something was the case."""

    hits: int = 0
    n: int = 0

    def add(self, hit: bool) -> None:
        """Counts one more."""
        self.hits += int(hit)
        self.n += 1

    @property
    def share(self) -> float:
        """Hits of all; NaN without any."""
        return self.hits / self.n if self.n else math.nan

    def text(self) -> str:
        """The share with its 95 % interval (Wilson), or a dash."""
        if not self.n:
            return "–"
        z, p, n = 1.96, self.share, self.n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return f"{p:.3f} ({max(middle - half, 0.0):.3f} – {middle + half:.3f})"


def _pair(tasks: int, seeds: int, **more: Any) -> Design:
    return Design(tasks, seeds, ("near", "far"), **more)


UNEQUAL = Truth(seed_spread=0.12, unequal=4.0)
TIES = Truth(accuracy=0.9, seed_spread=0.01, task_spread=0.01)
INTERACTION = Truth(interaction=0.03)
DIVERGING = Truth(diverged={"far": 0.2})
SETTINGS: tuple[Setting, ...] = (
    *(
        Setting(f"{tasks} × {seeds}", _pair(tasks, seeds))
        for tasks, seeds in ((1, 5), (2, 3), (3, 5), (10, 2))
    ),
    Setting("3 × 5, an effect of 5 points", _pair(3, 5), Truth(effects={"near": 0.05})),
    Setting("3 × 5, unequal spread", _pair(3, 5), UNEQUAL),
    Setting("1 × 5, unequal spread", _pair(1, 5), UNEQUAL),
    Setting("10 × 2, interaction of task and arm", _pair(10, 2), INTERACTION),
    Setting("3 × 5, interaction of task and arm", _pair(3, 5), INTERACTION),
    Setting(
        "3 × 5, one arm diverges in 20 %",
        _pair(3, 5),
        DIVERGING,
        calibrated=False,
        why="a few jumps to chance in 15 runs are no normal sample",
    ),
    Setting(
        "10 × 2, one arm diverges in 20 %",
        _pair(10, 2),
        DIVERGING,
        calibrated=False,
        why="so too; its ratios are skewed",
    ),
    Setting(
        "3 × 5, 20 test images, heavy ties",
        _pair(3, 5, test_images=20),
        TIES,
        calibrated=False,
        why="equal differences have no interval, and others few values",
    ),
    Setting(
        "1 × 5, training draws that overlap by half",
        _pair(1, 5, available=200),
        Truth(seed_spread=0.02, draw_spread=1.5),
    ),
    Setting(
        "1 × 5, no predictions",
        _pair(1, 5),
        predictions=False,
        calibrated=False,
        why="the test images' error is an upper bound: at least 95 %",
    ),
)
"""For coverage: tasks × seeds, two arms, one size."""


# --- coverage ------------------------------------------------------------------------------------


def coverage(setting: Setting, boards: int, seed: int = 0) -> dict[str, Tally]:
    """Coverage of every kind of interval that two arms have.

    Returns:
        `difference` (over tasks, or this task), `difference, these tasks`, `ratio`, `mean`
        (a row of the leaderboard), each of the truth that it speaks of.
    """
    rng = np.random.default_rng([seed, *setting.name.encode()])
    names = ("difference", "difference, these tasks", "ratio", "mean")
    found = {name: Tally() for name in names}
    for _ in range(boards):
        board, expected = simulate(setting.design, setting.truth, rng, setting.predictions)
        left, right = board["arm"] == "near", board["arm"] == "far"
        frame = pair(board, left, right, SOURCE, lr="same").frame
        frame = frame.assign(points=100 * frame["difference"])
        e = summarise(frame, "points", "difference", "difference", 100.0)
        here = 100 * float(differences(expected, "near", "far", setting.design.sizes).mean())
        truths = setting.truth.effect("near", 100), setting.truth.effect("far", 100)
        base = setting.truth.accuracy
        general = 100 * (
            setting.truth.expected(base + truths[0], "near")
            - setting.truth.expected(base + truths[1], "far")
        )
        one = setting.design.tasks == 1
        _cover(found["difference"], e, here if one else general)
        if e.here is not None:
            _cover(found["difference, these tasks"], e.here, here)
        if one or not setting.truth.interaction:
            _ratio(found["ratio"], frame, expected, one)
        _mean(found["mean"], board, expected, one, setting)
    return found


def _cover(tally: Tally, e: Estimate, truth: float) -> None:
    if e.low is not None and e.high is not None:
        tally.add(e.low <= truth <= e.high)


def _ratio(tally: Tally, frame: pd.DataFrame, expected: pd.DataFrame, one: bool) -> None:
    """Of one task the ratio of its expected accuracies; of several that of any of them."""
    if (frame[["left", "right"]] <= 0).any(axis=None):
        return
    values = frame.assign(log=np.log(frame["left"].astype(float) / frame["right"].astype(float)))
    e = summarise(values, "log", "ratio", "ratio")
    means = expected.groupby(["task", "arm"])["expected"].mean().unstack()
    truth = float(np.log(means["near"] / means["far"]).mean())
    _cover(tally, e, truth if one else float(truth))


def _mean(
    tally: Tally, board: pd.DataFrame, expected: pd.DataFrame, one: bool, setting: Setting
) -> None:
    rows = board[board["arm"] == "near"]
    plain = [
        {
            str(k): (None if v is None or (isinstance(v, float) and v != v) else v)
            for k, v in row.items()
        }
        for row in rows.to_dict("records")
    ]
    (row,) = conditions(plain)
    if row["top1_accuracy_low"] is None:
        return
    of_task = float(expected[expected["arm"] == "near"]["expected"].mean())
    base = setting.truth.accuracy + setting.truth.effect("near", 100)
    truth = of_task if one else setting.truth.expected(base, "near")
    tally.add(row["top1_accuracy_low"] <= truth <= row["top1_accuracy_high"])


# --- coverage of what is derived from several sizes ---------------------------------------------

_SIZES = (5, 20, 100)
_CURVES = {
    **{("near", n): e for n, e in zip(_SIZES, (0.00, 0.06, 0.12), strict=True)},
    **{("far", n): e for n, e in zip(_SIZES, (-0.06, 0.02, 0.10), strict=True)},
    **{("near, frozen", n): e for n, e in zip(_SIZES, (0.05, 0.06, 0.07), strict=True)},
    **{("far, frozen", n): e for n, e in zip(_SIZES, (-0.05, -0.04, -0.03), strict=True)},
}
"""Accuracies against the logarithm of images per class; near crosses near, frozen, at 20."""
CURVES: tuple[Setting, ...] = tuple(
    Setting(name, Design(tasks, seeds, (*FEW[:3], "far, frozen"), _SIZES), truth)
    for name, tasks, seeds, truth in (
        ("1 × 5", 1, 5, Truth(effects=_CURVES)),
        ("2 × 3", 2, 3, Truth(effects=_CURVES)),
        ("3 × 5", 3, 5, Truth(effects=_CURVES)),
        ("10 × 2", 10, 2, Truth(effects=_CURVES)),
        ("3 × 5, unequal spread", 3, 5, replace(UNEQUAL, effects=_CURVES)),
        ("10 × 2, interaction", 10, 2, replace(INTERACTION, effects=_CURVES)),
    )
)
"""For slopes, gaps, exponents, crossings and regrets: tasks × seeds, four arms, three sizes."""


def derived(setting: Setting, boards: int, seed: int = 1) -> dict[str, Tally]:
    """Coverage of the intervals that several sizes or several differences go into.

    Returns:
        `slope` (of the difference near − far against the logarithm of images per class, claim
        LI-C6), `gap` (near − far before less after fine-tuning, LI-C4), `exponent` (of the error's
        power law), `crossing` (where it has an interval), `regret` (of "always tune", on boards of
        the same design where nothing differs).
    """
    rng = np.random.default_rng([seed, *setting.name.encode()])
    found = {name: Tally() for name in ("slope", "gap", "exponent", "crossing", "regret")}
    one = setting.design.tasks == 1
    exact = _expected(setting.truth)
    equal = replace(setting, truth=replace(setting.truth, effects={}))
    for _ in range(boards):
        board, expected = simulate(setting.design, setting.truth, rng)
        table = expected.groupby(["arm", "size"])["expected"].mean().unstack() if one else exact
        means = {str(arm): np.asarray(table.loc[arm], dtype=float) for arm in table.index}
        evidence = Evidence(board)
        falls = _part(evidence, "LI-C6", "near - far falls with n")
        points = 100 * (means["near"] - means["far"])
        _within(found["slope"], falls, -float(np.polyfit(np.log2(_SIZES), points, 1)[0]))
        gap = _part(evidence, "LI-C4", "the gap near - far is larger before fine-tuning")
        frozen = 100 * (means["near, frozen"] - means["far, frozen"])
        _within(found["gap"], gap, float((frozen - points).mean()))
        laws = repeated_laws(board[board["arm"] == "near"])
        truth = _exponent(expected if one else None, setting.truth)
        _cover(found["exponent"], summarise(laws, "exponent", "exponents", "given"), truth)
        left, right = board["arm"] == "near", board["arm"] == "near, frozen"
        cross = crossing(pair(board, left, right, PATTERN).frame, "simulated")
        at = _crossing_of(means["near"] - means["near, frozen"])
        if cross.low is not None and cross.high is not None and at is not None:
            found["crossing"].add(cross.low <= at * 1.0001 and cross.high >= at * 0.9999)
        if not one and not setting.truth.interaction:  # with one, arms do differ in each task
            flat, _ = simulate(equal.design, equal.truth, rng)
            rows = regret(Evidence(flat)).table.to_dict("records")
            (row,) = [r for r in rows if r["strategy"] == "always tune"]
            if row["low"] is not None:
                found["regret"].add(row["low"] <= 0 <= row["high"])
    return found


def _expected(truth: Truth) -> pd.DataFrame:
    """The mean accuracy over tasks, by arm and size."""
    arms = sorted({arm for arm, _ in _CURVES})
    rows = [[truth.accuracy + truth.effect(arm, n) for n in _SIZES] for arm in arms]
    return pd.DataFrame(rows, index=arms, columns=list(_SIZES))


def _part(evidence: Evidence, claim: str, name: str) -> Part:
    (found,) = [c for c in CLAIMS if c.id == claim]
    (part,) = [p for p in found.on_runs(evidence) if p.name == name]
    return part


def _within(tally: Tally, part: Part, truth: float) -> None:
    if part.low is not None and part.high is not None:
        tally.add(part.low <= truth <= part.high)


def _exponent(expected: pd.DataFrame | None, truth: Truth) -> float:
    """Of near's expected errors: of the task at hand, or the mean over tasks of the kind."""
    if expected is not None:
        rows = expected[expected["arm"] == "near"].sort_values("size")
        return fit_power_law(rows["size"], 1 - rows["expected"]).exponent
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    wide = math.hypot(truth.task_spread, truth.interaction)
    means = [truth.accuracy + truth.effect("near", n) for n in _SIZES]
    found = [  # accuracies end where `simulate` has them end
        fit_power_law(_SIZES, 1 - np.clip(np.array(means) + wide * x, 0.02, 0.98)).exponent
        for x in nodes
    ]
    return float(np.dot(weights, found) / weights.sum())


def _crossing_of(values: Array) -> float | None:
    """Images per class at which a difference that rises with the logarithm is zero."""
    if not values[0] < 0 < values[-1]:
        return None
    return math.exp(float(np.interp(0.0, values, np.log(_SIZES))))


# --- verdicts ------------------------------------------------------------------------------------

BOARDS: tuple[Setting, ...] = (
    *(
        Setting(f"{t} × {s}, four arms, two sizes", Design(t, s, FEW, (5, 100)))
        for t, s in ((1, 5), (2, 5), (3, 5), (10, 2))
    ),
    Setting("3 × 5, thirteen claims", Design(3, 5, ARMS, (5, 100))),
    Setting(
        "3 × 5, thirteen claims, no predictions", Design(3, 5, ARMS, (100,)), predictions=False
    ),
    Setting("3 × 5, four arms, unequal spread", Design(3, 5, FEW, (5, 100)), UNEQUAL),
    Setting("1 × 5, four arms, 20 test images", Design(1, 5, FEW, (5, 100), 20), TIES),
    Setting("10 × 2, four arms, interaction", Design(10, 2, FEW, (5, 100)), INTERACTION),
)
"""For false verdicts: nothing differs in any of them."""


@dataclass
class Verdicts:
    """What became of boards where nothing differs.

    Attributes:
        boards: with any false verdict, general or on these tasks.
        general: with a false general verdict.
        parts: of all comparisons and claims' parts.
        raw: what an interval read alone, without correction, would have said.
        family: comparisons of a board.
    """

    boards: Tally = field(default_factory=Tally)
    general: Tally = field(default_factory=Tally)
    parts: Tally = field(default_factory=Tally)
    raw: Tally = field(default_factory=Tally)
    family: int = 0


_TRUE_OF_EQUALS = ("≈", "≥", "gain of 2 to 10", "no better", "does not help")
"""Parts whose verdict may be right where nothing differs: about equal, not worse than, a gain."""


def verdicts(setting: Setting, boards: int, seed: int = 2) -> Verdicts:
    """False verdicts on boards where nothing differs."""
    rng = np.random.default_rng([seed, *setting.name.encode()])
    found = Verdicts()
    for _ in range(boards):
        board, expected = simulate(setting.design, setting.truth, rng, setting.predictions)
        examined = examine(Evidence(board))
        found.family = max(found.family, len(examined.decisions))
        del expected
        false = list(false_verdicts(examined, bool(setting.truth.interaction)))
        found.boards.add(any(here for here, _, _ in false))
        found.general.add(any(general for _, general, _ in false))
        for here, _, raw in false:
            found.parts.add(here)
            found.raw.add(raw)
    return found


def false_verdicts(examined: Examined, interaction: bool) -> Iterator[tuple[bool, bool, bool]]:
    """For each comparison: a false verdict, a false general one, a raw interval without zero.

    With an interaction the tasks at hand do differ, so that verdicts on them may be right.
    """
    for finding in examined.findings:
        for part in finding.parts:
            if part.effect is None:
                continue
            equal = any(word in part.name for word in _TRUE_OF_EQUALS)
            wrong = "fails" if "≈" in part.name or "≥" in part.name else "holds"
            one = part.counted == "seed"
            if equal:
                general = part.verdict == wrong
                here = part.here == wrong
            else:
                # Where nothing differs, "about equal" is right.
                general = part.verdict in ("holds", "fails")
                here = part.here in ("holds", "fails")
            general = general and not one
            raw = part.low is not None and (part.low > 0 or (part.high or 0) < 0)
            yield (general or (here and not interaction)), general, raw and not equal
    for row in examined.gains.to_dict("records"):
        decided = row["verdict"] != "undecided"
        general = decided and row["scope"] == "in general"
        raw = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
        yield (general or (decided and not interaction)), general, raw


def power(tasks: int, seeds: int, points: float, boards: int, seed: int = 3) -> tuple[Tally, Tally]:
    """How often "near > far" is decided, in general and on these tasks, on a board of four arms."""
    design = Design(tasks, seeds, FEW, (100,))
    truth = Truth(effects={"near": points / 100}, interaction=0.01)
    rng = np.random.default_rng([seed, tasks, seeds, int(points * 10)])
    general, here = Tally(), Tally()
    for _ in range(boards):
        board, _ = simulate(design, truth, rng)
        gains = examine(Evidence(board)).gains
        row = gains[gains["label"] == "near − far, tuned"].iloc[0]
        general.add(row["verdict"] == "higher" and row["scope"] == "in general")
        here.add(row["verdict"] == "higher")
    return general, here


# --- the page ------------------------------------------------------------------------------------


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def page(scale: float, show: Callable[[str], object] = print) -> str:
    """All tables, with `scale` of the boards of the committed page."""
    n = {name: max(int(k * scale), 20) for name, k in _BOARDS.items()}
    with ProcessPoolExecutor(2) as pool:
        covers = list(pool.map(coverage, SETTINGS, [n["coverage"]] * len(SETTINGS)))
        show(f"coverage of {len(SETTINGS)} settings")
        curves = list(pool.map(derived, CURVES, [n["derived"]] * len(CURVES)))
        show(f"slopes, gaps, exponents, crossings and regrets of {len(CURVES)} settings")
        found = list(pool.map(verdicts, BOARDS, [n["verdicts"]] * len(BOARDS)))
        show(f"verdicts of {len(BOARDS)} settings")
        cases = [(t, s, p) for t, s in ((1, 5), (3, 5), (10, 2)) for p in (1.0, 2.0, 5.0)]
        powers = list(pool.map(_power, cases, [n["power"]] * len(cases)))
    lines = [_INTRODUCTION, "", "## Coverage of 95 % intervals", ""]
    names = list(covers[0])
    rows = [[s.name, *(c[k].text() for k in names), s.said()] for s, c in _both(SETTINGS, covers)]
    lines += _table(["tasks × seeds", *names, "called calibrated"], rows)
    lines += ["", f"{n['coverage']:,} boards each; in brackets the 95 % interval of the share.", ""]
    names = list(curves[0])
    rows = [[s.name, *(c[k].text() for k in names), s.said()] for s, c in _both(CURVES, curves)]
    lines += _table(["tasks × seeds", *names, "called calibrated"], rows)
    lines += ["", _ABOUT_CURVES.format(n["derived"]), ""]
    lines += ["## False verdicts where nothing differs", ""]
    rows = [
        [s.name, str(f.family), f.boards.text(), f.general.text(), f.parts.text(), f.raw.text()]
        for s, f in zip(BOARDS, found, strict=True)
    ]
    head = ["board", "comparisons", "boards with any", "boards with a general one"]
    lines += _table([*head, "of all parts", "of all parts, read alone"], rows)
    lines += ["", _ABOUT_VERDICTS.format(n["verdicts"]), "", "## Power", ""]
    rows = [
        [f"{t} × {s}", f"{p:g} points", general.text() if t > 2 else "–", here.text()]
        for (t, s, p), (general, here) in zip(cases, powers, strict=True)
    ]
    lines += _table(
        ["tasks × seeds", "near over far", "decided in general", "on these tasks"], rows
    )
    lines += ["", f"{n['power']} boards each. {_ABOUT_POWER}", ""]
    return "\n".join(lines)


def _both(
    settings: Sequence[Setting], found: Sequence[dict[str, Tally]]
) -> Iterator[tuple[Setting, dict[str, Tally]]]:
    return zip(settings, found, strict=True)


def _power(case: tuple[int, int, float], boards: int) -> tuple[Tally, Tally]:
    return power(*case, boards)


_BOARDS = {"coverage": 300, "derived": 50, "verdicts": 25, "power": 15}
_INTRODUCTION = """# Calibration

Written by `python -m benchmarks.calibration`: simulated leaderboards with a known truth go through
the code that leaderboards, reports and findings use. Runs answer test images of unlike difficulty,
which all runs of a task share; tasks differ in difficulty; seeds and arms have noise of their own.
Twenty classes, accuracy about 45 %, 500 test images unless stated. Intervals of one task cover at
least as often as stated: seeds and test images each have the quantile of their own degrees."""
_ABOUT_CURVES = """{0} boards each, four arms at 5, 20 and 100 images per class. Slopes are of
near − far against the logarithm of images per class, gaps those of near − far before less after
fine-tuning, exponents those of the error's power law. A crossing has an interval where both ends
lie within what was measured; it needs three tasks, or one with three seeds. Regrets are of "always
tune" where nothing differs; they need two tasks, and since many single values are exactly 0 their
interval is not called calibrated, nor printed elsewhere. The cells of the advice's table are ratios
as above."""
_ABOUT_VERDICTS = """{0} boards each. A verdict is false where the truth contradicts it: "about
equal" and "not worse by more than a point" may be right where nothing differs. "Read alone" is what
each 95 % interval would say without the correction for all comparisons, as it counts for many
reports. With an interaction the tasks at hand do differ, so only general verdicts can be false."""
_ABOUT_POWER = """Four arms (near, far, near frozen, scratch) at 100 images per class, so that
eight or so comparisons are tested together; arms deviate by one point between tasks."""


def main(arguments: Sequence[str]) -> int:
    """Writes the page, or prints a quick one."""
    quick = "--quick" in arguments
    scale = 0.1 if quick else 3.0 if "--long" in arguments else 1.0
    text = page(scale, lambda said: print(said, flush=True))
    if quick:
        print(text)
    else:
        OUT.write_text(text)
        print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
