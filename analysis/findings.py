"""Every claim of the four papers, tested on their published numbers and on a user's own runs.

A verdict is *holds*, *fails* or *not enough evidence*; the last says what to run. On the published
numbers two claims fail: the four distances of CHU do not give one ordering (the linear SVM puts
Coral beyond Plankton), and in LI's Table 3 an SVM on features of the far DOG network ends below
scratch. Claims whose numbers are only drawn are not decided there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from analysis import (
    findings_factors,
    findings_layers,
    findings_practices,
    findings_selective,
    findings_soft,
)
from analysis.evidence import Claim, Evidence, Finding, combine
from analysis.statistics import holm
from bench.errors import DataError, nearest

__all__ = ["CLAIMS", "claim", "on_published", "on_runs", "table"]

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


def on_runs(evidence: Evidence, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Each claim's verdict on a user's runs; `needed` says what is missing where undecided.

    Args:
        evidence: a leaderboard from `analysis.board.read` or `prepare`, and what was measured.
    """
    names = _sources(evidence.board)
    return [
        combine(
            c,
            "measured",
            [replace(p, needed=_with_names(p.needed, names)) for p in c.on_runs(evidence)],
        )
        for c in claims
    ]


def _sources(board: pd.DataFrame) -> list[str]:
    """Names of the leaderboard's sources, without nothing, the target itself and chains."""
    said = [s for s in board["source"] if isinstance(s, str) and ">" not in s]
    return [s for s in dict.fromkeys(said) if s.split(" ")[-1] not in ("none", "self")]


def _with_names(needed: str, names: Sequence[str]) -> str:
    """A recipe in the names of the user's grid; where near and far must be named so, this is said.

    >>> _with_names("source: [near, none]", ["imagenet"])
    'source: [imagenet, none]'
    >>> _with_names("source: [near, far]", ["imagenet"])
    'source: [near, far] (two sources under these names; here there is imagenet)'
    """
    ends = {name.split(" ")[-1] for name in names}
    here = f"here there {'are' if len(names) > 1 else 'is'} {', '.join(names)}" if names else ""
    if "source: [near, far" in needed and not {"near", "far"} <= ends:
        more = f" (two sources under these names{f'; {here}' if here else ''})"
        return re.sub(r"(source: \[near, far[^\]]*\])", rf"\1{more}", needed, count=1)
    if "near" not in ends:
        return needed.replace("source: [near, none]", f"source: [{[*names, 'SOURCE'][0]}, none]")
    return needed


def table(
    measured: Sequence[Finding] = (), published: Sequence[Finding] | None = None
) -> pd.DataFrame:
    """A row per claim: the verdict, effect, interval and n, the published verdict and effect.

    `p_holm` adjusts the p-values for all claims in the table. Missing numbers are None, and then
    `detail` or `needed` says why.

    >>> table().shape[0]
    28
    """
    printed = {f.claim: f for f in (on_published() if published is None else published)}
    found = list(measured) or list(printed.values())
    adjusted = holm({f.claim: f.p for f in found if f.p is not None})
    return pd.DataFrame([_line(f, printed.get(f.claim), adjusted.get(f.claim)) for f in found])


def _line(finding: Finding, printed: Finding | None, p_holm: float | None) -> dict[str, object]:
    return {
        "claim": finding.claim,
        "paper": finding.paper,
        "text": finding.text,
        "verdict": finding.verdict,
        "effect": finding.effect,
        "low": finding.low,
        "high": finding.high,
        "n": finding.n,
        "unit": finding.unit,
        "counted": finding.counted,
        "p_holm": p_holm,
        "published_verdict": printed.verdict if printed else None,
        "published_effect": printed.effect if printed else None,
        "published_unit": printed.unit if printed else None,
        "detail": finding.detail,
        "needed": finding.needed,
    }
