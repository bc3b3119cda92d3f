"""Every claim of the four papers, tested on their published numbers and on a user's own runs.

A verdict is *holds*, *fails*, *about equal* or *not enough evidence*; the last says what to run.
On the published numbers two claims fail: the four distances of CHU do not give one ordering (the
linear SVM puts Coral beyond Plankton), and in LI's Table 3 an SVM on features of the far DOG
network ends below scratch. Claims whose numbers are only drawn are not decided there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.comparisons.contrasts import Answer, answers, decided, gain_rows
from analysis.comparisons.evidence import Evidence
from analysis.findings import (
    chu2016,
    ge2017,
    li2019_accuracy,
    li2019_layers,
    li2019_training,
    sft2019,
)
from analysis.findings.designed import chosen
from analysis.findings.parts import Claim, Finding, Part, combine
from analysis.statistics.decisions import Decision, Hypothesis, decide
from analysis.statistics.sequential import Looks
from bench.core.errors import DataError, nearest

CLAIMS: tuple[Claim, ...] = (
    *sft2019.CLAIMS,
    *ge2017.CLAIMS,
    *li2019_accuracy.CLAIMS,
    *li2019_layers.CLAIMS,
    *li2019_training.CLAIMS,
    *chu2016.CLAIMS,
)
"""All claims, SFT-C1 to CHU-C5."""


def find_claim(name: str) -> Claim:
    """A claim by its id, in capitals or not.

    >>> find_claim("chu-c5").text
    'all four distances give one ordering'
    """
    ids = [c.id for c in CLAIMS]
    if name.upper() not in ids:
        raise DataError(f"there is no claim {name!r}", hint=nearest(name.upper(), ids, len(ids)))
    return CLAIMS[ids.index(name.upper())]


def on_published(claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Each claim's verdict on the published numbers.

    >>> [f.verdict for f in on_published(list(map(find_claim, ["LI-C1", "CHU-C5", "CHU-C2"])))]
    ['holds', 'fails', 'not enough evidence']
    """
    return [combine(c, "published", c.on_published()) for c in claims]


@dataclass(frozen=True, eq=False)
class Examined:
    """Everything that a leaderboard allows to be tested, with what was decided.

    Attributes:
        findings: of every claim.
        answers: the report's contrasts with their pairs.
        gains: their rows, see `analysis.comparisons.contrasts.gain_rows`, with verdicts.
        tests: of the family.
        decisions: by hypothesis; their number is the size of the family.
    """

    findings: tuple[Finding, ...]
    answers: tuple[Answer, ...]
    gains: pd.DataFrame
    tests: tuple[Hypothesis, ...]
    decisions: Mapping[str, Decision]


def examine(evidence: Evidence) -> Examined:
    """Tests all answers and all claims as one family (`analysis.statistics.decisions`).

    Args:
        evidence: a leaderboard from `analysis.leaderboard.read.read` or `prepare`, and what was
            measured.
    """
    found_answers = tuple(answers(evidence))
    gains = gain_rows(found_answers, evidence)
    parts = {c: list(c.on_runs(evidence)) for c in CLAIMS}
    of_parts = [p.test for of_claim in parts.values() for p in of_claim if p.test is not None]
    tests = (*of_parts, *gains["test"])
    decisions = decide(tests, evidence.rules)
    equal = [p.equal for of_claim in parts.values() for p in of_claim if p.equal is not None]
    both = {**decide(equal, evidence.rules), **decisions}
    looks = evidence.rules.looks
    findings = tuple(
        combine(c, "measured", chosen(found, evidence.designed.get(c.id)))
        for c, of_claim in parts.items()
        for found in [[_decided(part, both, looks) for part in of_claim]]
    )
    gains = decided(gains, decisions)
    if looks is not None and len(gains):
        gains = _with_repeated_intervals(gains, looks)
    return Examined(findings, found_answers, gains, tests, decisions)


def _decided(part: Part, decisions: Mapping[str, Decision], looks: Looks | None) -> Part:
    if part.test is None:
        return part
    equal = None if part.equal is None else decisions[part.equal.hypothesis]
    tasks, part = part.test.tasks, part.decided(decisions[part.test.hypothesis], equal)
    if looks is None or part.effect is None:
        return part
    low, high = looks.interval(part.estimate, part.effect) if part.estimate else (None, None)
    look = f"look {looks.place(tasks)} of {len(looks.sizes)}"
    return replace(part, low=low, high=high, look=look)


def _with_repeated_intervals(gains: pd.DataFrame, looks: Looks) -> pd.DataFrame:
    """The rows with the intervals of all looks together; those of these tasks alone have none."""
    ends = [looks.interval(e, e.value) for e in gains["estimate"]]
    columns = {"low": [low for low, _ in ends], "high": [high for _, high in ends]}
    columns |= {"here_low": [None] * len(gains), "here_high": [None] * len(gains)}
    made = {n: pd.Series(v, index=gains.index, dtype=object) for n, v in columns.items()}
    return gains.assign(**made)


def table(
    measured: Sequence[Finding] = (), published: Sequence[Finding] | None = None
) -> pd.DataFrame:
    """A row per claim: the verdict, effect, interval and n, the published verdict and effect.

    `p_holm` is adjusted for everything that the leaderboard allows to be tested. `here` is the
    verdict on these tasks alone. Missing numbers are None, and then `detail` or `needed` says why.

    >>> table().shape[0]
    30
    """
    printed = {f.claim: f for f in (on_published() if published is None else published)}
    found = list(measured) or list(printed.values())
    return pd.DataFrame([_line(f, printed.get(f.claim)) for f in found])


def _line(finding: Finding, printed: Finding | None) -> dict[str, object]:
    own = ("claim", "paper", "text", "verdict", "here")
    of_main = ("effect", "low", "high", "n", "unit", "counted", "p_holm")
    return {
        **{name: getattr(finding, name) for name in own},
        **{name: getattr(finding.main, name) for name in of_main},
        "published_verdict": printed.verdict if printed else None,
        "published_effect": printed.main.effect if printed else None,
        "published_unit": printed.main.unit if printed else None,
        "detail": finding.detail,
        "needed": finding.needed,
    }
