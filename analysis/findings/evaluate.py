"""Every claim of the four papers, tested on their published numbers and on a user's own runs.

A verdict is *holds*, *fails* or *not enough evidence*; the last says what to run. On the published
numbers two claims fail: the four distances of CHU do not give one ordering (the linear SVM puts
Coral beyond Plankton), and in LI's Table 3 an SVM on features of the far DOG network ends below
scratch. Claims whose numbers are only drawn are not decided there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.comparisons.contrasts import Answer, answers, decided, gain_rows
from analysis.comparisons.evidence import Evidence
from analysis.findings import chu2016 as findings_practices
from analysis.findings import ge2017 as findings_selective
from analysis.findings import li2019_accuracy as findings_factors
from analysis.findings import li2019_layers as findings_layers
from analysis.findings import sft2019 as findings_soft
from analysis.findings.parts import Claim, Finding, Part, combine
from analysis.statistics.decisions import Decision, Hypothesis, decide
from bench.core.errors import DataError, nearest

CLAIMS: tuple[Claim, ...] = (
    *findings_soft.CLAIMS,
    *findings_selective.CLAIMS,
    *findings_factors.CLAIMS,
    *findings_layers.CLAIMS,
    *findings_practices.CLAIMS,
)
"""All claims, SFT-C1 to CHU-C5."""


def claim(name: str) -> Claim:
    """A claim by its id.

    >>> claim("CHU-C5").text
    'all four distances give one ordering'
    """
    for candidate in CLAIMS:
        if candidate.id == name:
            return candidate
    known = [c.id for c in CLAIMS]
    raise DataError(f"no claim {name!r}", hint=f"there are: {nearest(name, known, len(known))}")


def on_published(claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Each claim's verdict on the published numbers.

    >>> [f.verdict for f in on_published([claim("LI-C1"), claim("CHU-C5"), claim("CHU-C2")])]
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
    parts = {c.id: list(c.on_runs(evidence)) for c in CLAIMS}
    of_parts = [p.test for found in parts.values() for p in found if p.test is not None]
    tests = (*of_parts, *gains["test"])
    decisions = decide(tests, evidence.rules)
    known = _sides(evidence.board)
    findings = tuple(
        combine(c, "measured", [_decided(p, decisions, known) for p in parts[c.id]]) for c in CLAIMS
    )
    return Examined(findings, found_answers, decided(gains, decisions), tests, decisions)


def on_runs(evidence: Evidence, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Each claim's verdict on a user's runs; `needed` says what is missing where undecided.

    The family that p-values are adjusted for is that of `examine`, whichever claims are asked for.
    """
    wanted = {c.id for c in claims}
    return [f for f in examine(evidence).findings if f.claim in wanted]


def _decided(part: Part, decisions: Mapping[str, Decision], sides: set[str]) -> Part:
    if part.test is not None:
        part = part.decided(decisions[part.test.hypothesis])
    if "source: [near" in part.needed and not {"near", "far"} <= sides:
        said = "near and far are sources chosen by the recipe near_far"
        return replace(part, needed=f"{part.needed} ({said})")
    return part


def _sides(board: pd.DataFrame) -> set[str]:
    return {str(side) for side in board["source_side"].dropna()}


def table(
    measured: Sequence[Finding] = (), published: Sequence[Finding] | None = None
) -> pd.DataFrame:
    """A row per claim: the verdict, effect, interval and n, the published verdict and effect.

    `p_holm` is adjusted for everything that the leaderboard allows to be tested. `here` is the
    verdict on these tasks alone. Missing numbers are None, and then `detail` or `needed` says why.

    >>> table().shape[0]
    28
    """
    printed = {f.claim: f for f in (on_published() if published is None else published)}
    found = list(measured) or list(printed.values())
    return pd.DataFrame([_line(f, printed.get(f.claim)) for f in found])


def _line(finding: Finding, printed: Finding | None) -> dict[str, object]:
    return {
        "claim": finding.claim,
        "paper": finding.paper,
        "text": finding.text,
        "verdict": finding.verdict,
        "here": finding.here,
        "effect": finding.effect,
        "low": finding.low,
        "high": finding.high,
        "n": finding.n,
        "unit": finding.unit,
        "counted": finding.counted,
        "p_holm": finding.p_holm,
        "published_verdict": printed.verdict if printed else None,
        "published_effect": printed.effect if printed else None,
        "published_unit": printed.unit if printed else None,
        "detail": finding.detail,
        "needed": finding.needed,
    }
