"""Questions to a leaderboard that grows look by look: which are open, and which runs they need.

A question is a claim of a paper, or a comparison of the report ("near − far, tuned"). It is decided
once its verdict on tasks of this kind is, together with everything else that the leaderboard allows
to be tested. It is stopped where a verdict at the last look has become unlikely, should the effect
stay as it looks (a futility rule, which is not binding: the level holds whether or not it is
followed).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from analysis.comparisons.contrasts import contrasts
from analysis.comparisons.evidence import Evidence
from analysis.findings.evaluate import CLAIMS, Examined
from analysis.findings.parts import FAILS, HOLDS, UNDECIDED, Claim, Finding, Part
from analysis.leaderboard.read import key_of, varying
from analysis.statistics.decisions import Hypothesis, Rules
from analysis.statistics.sample_size import repetitions_wanted
from analysis.statistics.sequential import Looks, chance_to_reach, predictive_power
from bench.core.errors import DataError
from bench.results.intervals import Estimate

State = Literal["open", "decided", "stopped", "untested"]
FUTILE = 0.14
"""A question is stopped whose chance of a verdict at the last look is smaller."""

MEASURED = {"CHU-C1": "distances", "CHU-C3": "distances", "CHU-C4": "distances"}
"""Claims that read what is measured on features: which key of a grid's `measure:` asks for it."""
WITHOUT = frozenset({"CHU-C1"})
"""Those of them that can be tested without, where no distance is known."""
OTHER_UNITS = {"CHU-C5": "orders of distances", "LI-C11": "classes"}
"""Claims that count something else than tasks, so that looks after so many tasks are not theirs."""


@dataclass(frozen=True)
class Standing:
    """How a question stands at a look.

    Attributes:
        question: a claim's id, or a comparison's label.
        tested: what of it the numbers are of: a claim's deciding part, a comparison's setting.
        verdict: of the findings, or "higher", "lower".
        effect, low, high, unit, tasks, p: of `tested`; p and interval are adjusted for the looks.
        chance: of a verdict at the last look.
        wanted: tasks in all that would decide it, roughly; None where that is not known.
        needed: what is missing where nothing can be tested.
        group: what tells the comparison's row from others of its label.
    """

    question: str
    state: State
    verdict: str
    tested: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    tasks: int = 0
    p: float | None = None
    chance: float | None = None
    wanted: int | None = None
    needed: str = ""
    group: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The question, of a comparison with its setting."""
        return (
            ", ".join(text for text in (self.question, self.tested) if text and self.group)
            or self.question
        )


def find_questions(names: Sequence[str], board: pd.DataFrame) -> list[str]:
    """The questions by their names: ids of claims, labels of comparisons.

    Args:
        names: as written; case does not count, and "-" stands for "−".
        board: the leaderboard, whether or not its runs have results.

    Raises:
        DataError: there is no such claim, and no such comparison on this leaderboard.
    """
    labels = [c.label for c in contrasts(board) if c.left.any() and c.right.any()]
    known = {_plain(text): text for text in (*(c.id for c in CLAIMS), *labels)}
    found = []
    for name in names:
        if _plain(name) not in known:
            shown = "; ".join(dict.fromkeys(labels)) or "none"
            raise DataError(
                f"there is no claim or comparison {name!r} on this grid",
                hint=f"comparisons of this grid: {shown}; claims: {CLAIMS[0].id} to "
                f"{CLAIMS[-1].id} (bench findings --published shows them)",
            )
        found.append(known[_plain(name)])
    return list(dict.fromkeys(found))


def needed_measures(questions: Collection[str], asked: Collection[str], place: str) -> set[str]:
    """The measurements that the questions rest on, as keys of `measure:`.

    Args:
        questions: from `find_questions`.
        asked: the keys of the grid's `measure:`.
        place: the grid's file.

    Raises:
        DataError: a claim cannot be tested, since the grid does not ask for its measurement.
    """
    for claim in questions:
        if claim in OTHER_UNITS:
            raise DataError(
                f"{claim} is about {OTHER_UNITS[claim]}, not tasks: looks after so many tasks do "
                "not keep its error rate",
                place=place,
                hint="leave it out here; bench grid runs the whole grid, and bench findings judges",
            )
    found = {claim: MEASURED[claim] for claim in questions if claim in MEASURED}
    for claim, kind in found.items():
        if kind not in asked and claim not in WITHOUT:
            raise DataError(
                f"{claim} cannot be decided on this grid: it rests on {kind}, and the grid "
                "measures none",
                place=place,
                hint=f"add measure: {{{kind}: {{}}}} to the grid (docs/grid-reference.md): the ids "
                "of its runs stay, and each look extracts the features of its tasks",
            )
    return set(found.values()) & set(asked)


def _plain(name: str) -> str:
    return " ".join(name.replace("−", "-").replace("–", "-").lower().split())


def standings(questions: Collection[str], examined: Examined, rules: Rules) -> list[Standing]:
    """How each question stands; of a comparison each setting and number of images by itself."""
    assert rules.looks is not None
    undecided = sum(d.p is not None and not d.general for d in examined.decisions.values())
    judge = _Judge(rules, rules.looks, rules.level / max(undecided, 1))
    findings = {f.claim: f for f in examined.findings}
    found: list[Standing] = []
    for question in questions:
        if question in findings:
            found.append(judge.of_claim(findings[question]))
            continue
        rows = examined.gains[examined.gains["label"] == question]
        records = rows.to_dict("records")
        found += [judge.of_row(row, len(records) > 1) for row in records]
        if not records:
            text = "no pair of finished runs"
            found.append(Standing(question, "untested", UNDECIDED, needed=text))
    return found


@dataclass(frozen=True)
class _Judge:
    """Attributes: `level` of each hypothesis, the family's over those that are not decided."""

    rules: Rules
    looks: Looks
    level: float

    def of_claim(self, finding: Finding) -> Standing:
        tested = [part for part in finding.parts if part.test is not None and part.main]
        main = finding.main
        found = Standing(
            finding.claim,
            "untested",
            finding.verdict,
            main.name if len(finding.parts) > 1 else "",
            main.effect,
            main.low,
            main.high,
            main.unit,
            main.n if main.counted == "task" else 0,
            main.p_holm,
            wanted=max((p.wanted for p in tested if p.wanted is not None), default=None),
            needed=finding.needed or main.detail,
        )
        if finding.verdict != UNDECIDED:
            return replace(found, state="decided", chance=1.0)
        if not tested:
            return found
        complete = len(tested) == sum(part.main for part in finding.parts)
        holds = min(self._chance(part, HOLDS) for part in tested) if complete else 0.0
        fails = max(self._chance(part, FAILS) for part in tested)
        found = self._open_or_not(replace(found, chance=max(holds, fails)))
        return found if complete or found.state == "open" else replace(found, state="untested")

    def _chance(self, part: Part, verdict: str) -> float:
        """Of a part's verdict in favour (or about equal), or against the claim."""
        assert part.test is not None
        if part.verdict != UNDECIDED:
            return float((part.verdict != FAILS) == (verdict == HOLDS))
        value = (part.effect or 0.0) if part.estimate is None else part.estimate.value
        against = part.test.direction < 0 or (not part.test.direction and value < 0)
        chance = 0.0
        if against == (verdict == FAILS):
            chance = self._of_test(part.test, part.estimate, part.interest)
        if verdict == HOLDS and part.equal is not None:
            chance = max(chance, self._of_test(part.equal, part.estimate, 0.0))
        return chance

    def _of_test(self, test: Hypothesis, e: Estimate | None, least: float) -> float:
        if test.p_general is None:  # too few tasks so far, or another unit
            return float(test.tasks < self.rules.least_tasks)
        level = self.level / (1 if test.p_here is None else 2)
        power = predictive_power(test.p_general, self.looks, test.tasks, level)
        return power if e is None else min(power, chance_to_reach(e, least, self.looks))

    def of_row(self, row: Mapping[Any, Any], several: bool) -> Standing:
        """A comparison at one setting and one number of images per class."""
        test, e = row["test"], row["estimate"]
        n = row["n_per_class"]
        about = f"from {row['about']}" if row["about"] else ""
        size = f"{n:g} images per class" if several and n is not None and n == n else ""
        tested = ", ".join(text for text in (about, row["setting"], size) if text)
        general = row["verdict"] != "undecided" and row["scope"] == "in general"
        found = Standing(
            row["label"],
            "decided",
            row["verdict"] if general else UNDECIDED,
            tested,
            row["gain_points"],
            row["low"],
            row["high"],
            "points",
            e.n if e.unit == "task" else 1,
            row["p_holm"],
            1.0,
            group=(row["label"], row["about"], row["setting"], n),
        )
        if general:
            return found
        wanted = repetitions_wanted(e, level=self.level)
        chance = self._of_test(test, e, self.rules.interest.get("points", 0.0))
        return self._open_or_not(replace(found, chance=chance, wanted=wanted))

    def _open_or_not(self, standing: Standing) -> Standing:
        last = standing.tasks >= self.looks.sizes[-1]
        futile = last or (standing.chance or 0.0) < FUTILE
        return replace(standing, state="stopped" if futile else "open")


# --- the runs that a question needs --------------------------------------------------------------


def recipes_of(standing: Standing, examined: Examined, evidence: Evidence) -> frozenset[str]:
    """The recipes (`recipe_id`) whose further runs bear on a question.

    Recipes that differ in the learning rate alone come together, so that each arm's best rate is
    chosen on all tasks.
    """
    board = evidence.board
    group_of = _but_for_the_rate(board)
    if standing.group:
        own = set(_of_comparison(standing, examined, board))
        groups = {group_of[recipe] for recipe in own}
    else:
        (claim,) = [c for c in CLAIMS if c.id == standing.question]
        groups = set(_of_claim(claim, evidence, group_of))
    return frozenset(recipe for recipe, group in group_of.items() if group in groups)


def _but_for_the_rate(board: pd.DataFrame) -> dict[str, str]:
    """Each recipe with what it has in common with those of other learning rates."""
    runs = board[board["role"] != "source"]
    recipes = runs["recipe_id"].astype(str)
    fixed = [  # settings with one value in each recipe; others belong to the task or the seed
        name
        for name in varying(board)
        if name != "lr" and key_of(runs, [name]).groupby(recipes).nunique().max() == 1
    ]
    return dict(zip(recipes, key_of(runs, fixed), strict=True))


def _of_comparison(standing: Standing, examined: Examined, board: pd.DataFrame) -> Iterator[str]:
    label, about, setting, n = standing.group
    recipe = dict(zip(map(str, board.index), board["recipe_id"].astype(str), strict=True))
    for answer in examined.answers:
        if (answer.contrast.label, answer.contrast.about) != (label, about):
            continue
        for pair in answer.frame.to_dict("records"):
            size = pair["n_per_class"]
            if pair["setting"] == setting and (size == n or (n is None and size != size)):
                for side in ("left_runs", "right_runs"):
                    yield from (recipe[place] for place in str(pair[side]).split())


def _of_claim(claim: Claim, evidence: Evidence, group_of: Mapping[str, str]) -> Iterator[str]:
    """The groups of recipes without which a test of the claim's is another one."""
    board = evidence.board
    groups = board["recipe_id"].astype(str).map(group_of)
    whole = _tests(claim, evidence)
    for group in dict.fromkeys(group_of.values()):
        rest = replace(evidence, board=board[groups != group])
        if _tests(claim, rest) != whole:
            yield group


def _tests(claim: Claim, evidence: Evidence) -> list[tuple[Any, ...]]:
    tested = [part for part in claim.on_runs(evidence) if part.test is not None]
    return [(part.name, part.n, part.effect, part.low, part.high, part.p) for part in tested]
