"""What looks save and what they cost.

    python -m benchmarks.sequential [FAMILIES] [BOARDS]

writes `benchmarks/SEQUENTIAL.md`: families of comparisons with normal differences, many of them,
judged by the code that decides; and whole leaderboards of `benchmarks.simulated`, for which the
code of `bench grid --decide` says how the questions stand and which recipes go on. 600 families
take minutes, a board half a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import examine
from analysis.findings.questions import FUTILE, Standing, recipes_of, standings
from analysis.statistics.decisions import Rules, decide, difference_test
from analysis.statistics.sequential import Looks, chance_to_reach, looks_at, predictive_power
from bench.results.intervals import student
from benchmarks.calibration import Tally, false_verdicts
from benchmarks.simulated import Design, Truth, simulate

OUT = Path(__file__).parent / "SEQUENTIAL.md"
FAMILIES, BOARDS = 600, 0
TASKS = 20
"""Of the fixed design."""
MOST = 27
"""Of the design with looks: what is decided early pays for further tasks of what is not."""
DESIGN = Design(
    MOST,
    1,
    ("near", "far", "near, frozen", "scratch", "soft", "intermediate", "joint", "selective"),
    test_images=2400,
)
QUESTIONS = {
    "near, tuned − frozen": "higher",
    "near, tuned − scratch": "higher",
    "near − far, tuned": "higher",
    "soft": "higher",
    "joint": "higher",
    "soft, schedule zero": "",
    "selective": "",
}
"""What is asked, and the true direction in `MIXED`; empty where nothing differs."""
_NEVER = Standing("", "untested", "")
MIXED = Truth(
    effects={"near, frozen": -0.06, "scratch": -0.06, "far": -0.03, "soft": 0.03, "joint": 0.015},
    interaction=0.01,
)
"""Effects of 6, 6, 3, 3, 1.5, 0 and 0 points."""
EQUAL = Truth(interaction=0.01)


@dataclass(frozen=True)
class Grown:
    """A board that grew look by look.

    Attributes:
        last: how each question stood when it was closed.
        runs: that were made.
        looks: that were taken.
        false: whether any look had a general verdict that is false where nothing differs.
    """

    last: dict[str, Standing]
    runs: int
    looks: int
    false: bool


def grow(board: pd.DataFrame, looks: Looks) -> Grown:
    """Looks at a board whose runs are all known, as if they were made look by look."""
    rules = Rules(looks=looks)
    tasks = sorted(set(board["task_id"]))
    place = board["task_id"].map({task: n for n, task in enumerate(tasks)})
    seen = place < looks.sizes[0]
    last: dict[str, Standing] = {}
    false, number = False, 0
    for number, size in enumerate(looks.sizes, 1):
        evidence = Evidence(board[seen], rules=rules)
        examined = examine(evidence)
        false |= any(general for _, general, _ in false_verdicts(examined, True))
        asked = [name for name in QUESTIONS if last.get(name, _NEVER).state != "decided"]
        now = standings(asked, examined, rules)
        last |= {one.question: one for one in now if one.tested in ("", "from near")}
        going = [one for one in last.values() if one.state == "open"]
        if not going or size == looks.sizes[-1]:
            break
        recipes = set().union(*(recipes_of(one, examined, evidence) for one in going))
        seen |= board["recipe_id"].isin(recipes) & (place < looks.sizes[number])
    return Grown(last, int(seen.sum()), number, false)


@dataclass(frozen=True)
class Compared:
    """A board judged look by look and at once; which true differences each design decided."""

    grown: Grown
    fixed: Grown

    def hits(self) -> list[tuple[str, bool, bool]]:
        """Each question with a difference: whether looks, and the fixed design, decided it."""
        both = (self.grown.last, self.fixed.last)
        return [
            (name, *(last.get(name, _NEVER).verdict == truth for last in both))  # type: ignore[misc]
            for name, truth in QUESTIONS.items()
            if truth
        ]


def compare(truth: Truth, seed: int) -> Compared:
    """One board, judged by both designs; the fixed one has a single look, at fewer tasks."""
    rng = np.random.default_rng([9, seed])
    board, _ = simulate(DESIGN, truth, rng, predictions=False)
    few = board[board["task_id"].isin(sorted(set(board["task_id"]))[:TASKS])]
    return Compared(grow(board, looks_at(MOST)), grow(few, Looks((TASKS,))))


def equal(seed: int) -> Grown:
    """One board where nothing differs, look by look."""
    rng = np.random.default_rng([10, seed])
    board, _ = simulate(DESIGN, EQUAL, rng, predictions=False)
    return grow(board, looks_at(MOST))


def _mixed(seed: int) -> Compared:
    return compare(MIXED, seed)


# --- families of comparisons ----------------------------------------------------------------------

MIXES = {
    "large, medium, small, none": (6.0, 6.0, 3.0, 3.0, 1.5, 0.0, 0.0),
    "large, small, none": (6.0, 6.0, 1.5, 1.5, 0.0, 0.0, 0.0),
    "none": (0.0,) * 7,
}
"""True effects in points; all comparisons share one arm."""
SPREAD = 3.2
"""Standard deviation of a difference between tasks, in points."""
_LEAST = 1.0


@dataclass(frozen=True)
class Family:
    """What became of one family.

    Attributes:
        share: of the fixed design's runs that were made.
        looked, fixed: the decided direction of each comparison, 0 for none, with looks and without.
    """

    share: float
    looked: tuple[int, ...]
    fixed: tuple[int, ...]


def family(effects: Sequence[float], looks: Looks, rng: np.random.Generator) -> Family:
    """Comparisons over tasks, tested look by look as `standings` closes questions, and at once."""
    tasks, many = looks.sizes[-1], len(effects)
    common = rng.standard_normal((tasks, 1))
    own = rng.standard_normal((tasks, many))
    values = np.asarray(effects) + SPREAD / np.sqrt(2) * (own - common)
    rules = Rules(looks=looks)
    seen, closed, found = [looks.sizes[0]] * many, set[int](), [0] * many
    for size in looks.sizes:
        seen = [old if k in closed else size for k, old in enumerate(seen)]
        estimates = [student(values[: seen[k], k], unit="task") for k in range(many)]
        tests = [difference_test(e, str(k), "points", rules) for k, e in enumerate(estimates)]
        decisions = decide(tests, rules)
        level = rules.level / max(1, sum(not d.general for d in decisions.values()))
        for k, (test, e) in enumerate(zip(tests, estimates, strict=True)):
            general, _ = decisions[str(k)].of(test)
            found[k] = found[k] or general
            chance = predictive_power(test.p_general or 1.0, looks, e.n, level)
            if found[k] or min(chance, chance_to_reach(e, _LEAST, looks)) < FUTILE:
                closed.add(k)
        if len(closed) == many:
            break
    estimates = [student(column, unit="task") for column in values[:TASKS].T]
    tests = [difference_test(e, str(k), "points", Rules()) for k, e in enumerate(estimates)]
    at_once = decide(tests, Rules())
    fixed = tuple(at_once[str(k)].of(test)[0] for k, test in enumerate(tests))
    share = (sum(seen) + max(seen)) / (TASKS * (many + 1))
    return Family(share, tuple(found), fixed)


def families(effects: Sequence[float], count: int, seed: int = 0) -> list[Family]:
    """So many families with the same true effects."""
    rng = np.random.default_rng([seed, count])
    return [family(effects, looks_at(MOST), rng) for _ in range(count)]


def power(found: Sequence[Family], effects: Sequence[float]) -> tuple[float, float]:
    """The share of true effects that were decided in their direction: with looks, and at once."""
    true = [k for k, effect in enumerate(effects) if effect]
    sides = [[one.looked for one in found], [one.fixed for one in found]]
    looked, fixed = (float(np.mean([[of[k] > 0 for k in true] for of in side])) for side in sides)
    return looked, fixed


def false_share(found: Sequence[Family], effects: Sequence[float]) -> Tally:
    """How many families had a verdict, with looks, on a comparison without an effect."""
    tally = Tally()
    for one in found:
        tally.add(any(k and not effect for k, effect in zip(one.looked, effects, strict=True)))
    return tally


# --- the page ------------------------------------------------------------------------------------


def _of_families(count: int) -> list[str]:
    lines = [
        "| true effects | runs, of the fixed design's | decided with looks | by the fixed design "
        "| a false verdict |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, effects in MIXES.items():
        found = families(effects, count)
        cells = ["–", "–"]
        if any(effects):
            cells = [f"{100 * share:.0f} %" for share in power(found, effects)]
        runs = f"{100 * float(np.mean([one.share for one in found])):.0f} %"
        false = false_share(found, effects).text()
        lines.append(f"| {name} | {runs} | {cells[0]} | {cells[1]} | {false} |")
    return lines


def _of_boards(boards: int) -> list[str]:
    """A table of the questions, and what became of boards where nothing differs."""
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(_mixed, range(boards)))
        flat = list(pool.map(equal, range(2 * boards)))
    lines = [
        "| comparison | decided with looks | by the fixed design | tasks with looks, mean |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, truth in QUESTIONS.items():
        hits = [(a, b) for one in found for asked, a, b in one.hits() if asked == name]
        tasks = [one.grown.last[name].tasks for one in found if name in one.grown.last]
        cells = ["–", "–"]
        if truth:
            cells = [f"{100 * np.mean([pair[n] for pair in hits]):.0f} %" for n in (0, 1)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {np.mean(tasks):.1f} |")
    false = Tally()
    for one in flat:
        false.add(one.false)
    share = 100 * float(np.mean([one.grown.runs / one.fixed.runs for one in found]))
    lines += [
        "",
        f"{boards} boards; looks took {share:.0f} % of the fixed design's runs. Of {2 * boards} "
        f"boards where nothing differs {false.text()} had a false general verdict at any look.",
    ]
    return lines


_PAGE = """# Looks

Written by `python -m benchmarks.sequential`. Seven comparisons share one arm; differences are
normal with a spread of {spread:g} points between tasks. The fixed design runs {tasks} tasks and
tests everything once. The other is looked at after {sizes}
tasks: what is decided or has become hopeless is not run further, and pays for the further tasks
of what is open. Large effects are of 6 points, medium of 3, small of 1.5.

{families}

{count} families a row. "A false verdict" counts families in which any comparison without an effect
got a verdict at any look; in brackets the 95 % interval. An arm that is shared runs until the last
of its comparisons is closed, so the share of the runs falls with fewer questions.
"""
_OF_BOARDS = """
## Whole leaderboards

Eight arms, one seed, 2,400 test images; arms deviate by one point between tasks. Seven comparisons
are asked, about twenty are tested together. True effects are of 6, 6, 3, 3, 1.5, 0 and 0 points.

{boards}
"""


def page(count: int, boards: int) -> str:
    """The tables, of so many families and leaderboards; no leaderboards leaves their part out."""
    sizes = ", ".join(map(str, looks_at(MOST).sizes))
    rows = "\n".join(_of_families(count))
    text = _PAGE.format(tasks=TASKS, spread=SPREAD, sizes=sizes, families=rows, count=count)
    if boards:
        text += _OF_BOARDS.format(boards="\n".join(_of_boards(boards)))
    return text


def main(arguments: Sequence[str]) -> int:
    """Writes the page."""
    given = [int(text) for text in arguments]
    count, boards = (*given, *(FAMILIES, BOARDS)[len(given) :])
    OUT.write_text(page(count, boards))
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
