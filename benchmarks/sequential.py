"""What looks save and what they cost: simulated leaderboards that grow look by look.

    python -m benchmarks.sequential [BOARDS]

writes `benchmarks/SEQUENTIAL.md`. The boards are those of `benchmarks.simulated`; at each look the
code of `bench grid --decide` says how the questions stand and which recipes go on.
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
from analysis.findings.questions import Standing, recipes_of, standings
from analysis.statistics.decisions import Rules
from analysis.statistics.sequential import Looks, looks_at
from benchmarks.calibration import Tally, false_verdicts
from benchmarks.simulated import Design, Truth, simulate

OUT = Path(__file__).parent / "SEQUENTIAL.md"
BOARDS = 40
TASKS = 20
DESIGN = Design(
    TASKS,
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
        share: of the whole board's runs that were made.
        looks: that were taken.
        false: whether any look had a general verdict that is false where nothing differs.
    """

    last: dict[str, Standing]
    share: float
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
    return Grown(last, float(seen.mean()), number, false)


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
    """One board, judged by both designs; the fixed one has a single look, at all tasks."""
    rng = np.random.default_rng([9, seed])
    board, _ = simulate(DESIGN, truth, rng, predictions=False)
    return Compared(grow(board, looks_at(TASKS)), grow(board, Looks((TASKS,))))


def equal(seed: int) -> Grown:
    """One board where nothing differs, look by look."""
    rng = np.random.default_rng([10, seed])
    board, _ = simulate(DESIGN, EQUAL, rng, predictions=False)
    return grow(board, looks_at(TASKS))


def _mixed(seed: int) -> Compared:
    return compare(MIXED, seed)


def page(boards: int) -> str:
    """The tables, with so many mixed boards and twice as many where nothing differs."""
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(_mixed, range(boards)))
        flat = list(pool.map(equal, range(2 * boards)))
    rows = []
    for name, truth in QUESTIONS.items():
        effect = {"near − far, tuned": 3.0, "soft": 3.0, "joint": 1.5}.get(name, 6.0)
        hits = [(a, b) for one in found for asked, a, b in one.hits() if asked == name]
        tasks = [one.grown.last[name].tasks for one in found if name in one.grown.last]
        cells = ["–", "–"]
        if truth:
            cells = [f"{100 * np.mean([pair[n] for pair in hits]):.0f} %" for n in (0, 1)]
        shown = f"{effect:g} points" if truth else "0"
        rows.append(f"| {name} | {shown} | {cells[0]} | {cells[1]} | {np.mean(tasks):.1f} |")
    every = [(a, b) for one in found for _, a, b in one.hits()]
    power = [100 * float(np.mean([pair[n] for pair in every])) for n in (0, 1)]
    shares = [one.grown.share for one in found]
    false = Tally()
    for one in flat:
        false.add(one.false)
    return _PAGE.format(
        boards=boards,
        flat=2 * boards,
        rows="\n".join(rows),
        looked=power[0],
        fixed=power[1],
        share=100 * float(np.mean(shares)),
        least=100 * min(shares),
        most=100 * max(shares),
        looks=float(np.mean([one.grown.looks for one in found])),
        false=false.text(),
        flat_share=100 * float(np.mean([one.share for one in flat])),
        sizes=", ".join(map(str, looks_at(TASKS).sizes)),
        tasks=TASKS,
    )


_PAGE = """# Looks

Written by `python -m benchmarks.sequential`: simulated leaderboards of {tasks} tasks, one seed,
eight arms and 2,400 test images grow look by look (after {sizes} tasks)
by the code of `bench grid --decide`, and are judged at once by that of `bench findings`. Arms
deviate by one point between tasks. Seven comparisons are asked; about twenty are tested together.

| comparison | true effect | decided with looks | by the fixed design | tasks with looks, mean |
| --- | ---: | ---: | ---: | ---: |
{rows}

{boards} boards. True differences decided: {looked:.0f} % with looks, {fixed:.0f} % by the fixed
design. Looks took {share:.0f} % of the fixed design's runs on average ({least:.0f} to {most:.0f}
%), in {looks:.1f} looks. An arm that several questions share runs until the last of them is closed,
so the share falls with fewer questions.

Where nothing differs, {false} of {flat} boards had any false general verdict at any look (in
brackets the 95 % interval), and {flat_share:.0f} % of the runs were made.
"""


def main(arguments: Sequence[str]) -> int:
    """Writes the page."""
    boards = int(arguments[0]) if arguments else BOARDS
    OUT.write_text(page(boards))
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
