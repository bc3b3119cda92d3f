"""Claims of "Multifaceted Analysis of Fine-Tuning in Deep Model for Visual Recognition" (2019) on
layers and filters, as predicates: LI-C10 (layer probes, Fig. 10) and LI-C11 (filter sensitivity,
Fig. 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.units import summarise
from analysis.findings.parts import UNDECIDED, Claim, Part, judge, missing, ordered
from analysis.leaderboard import arms
from analysis.papers import published
from analysis.statistics.decisions import Hypothesis, Rules, hypothesis_name

_PAPER = "li-2019"
_FIG_9 = "Fig. 9 (values given in text Sec. 4.3.1)"
_FIG_10 = "Fig. 10a (values given in text Sec. 4.3.2)"
_PROBES = "method: probe for every layer, of near, far, self, and of both fine-tuned on the target"
_OWN, _FOREIGN = ("FT-near", "FT-far", "self"), ("near", "far")


# --- LI-C10: which layer's features ---


def _c10_published() -> list[Part]:
    def at(network: str, layer: str) -> float:
        return published.value(_PAPER, _FIG_10, network, layer)

    own = {n: (at(n, "fc8"), at(n, "fc7")) for n in ("FT-near", "FT-far", "Self")}
    return [
        ordered("fc8 > fc7 for features trained on the target", own),
        missing(
            "fc7 > fc8 for foreign features",
            "fc8 is printed, fc7 of near and far only drawn (the SVM's fc7 in Table 3 is higher)",
        ),
        missing("far > self below conv5", "only drawn"),
    ]


def _layer_gap(
    table: pd.DataFrame, name: str, networks: Sequence[str], high: str, low: str, rules: Rules
) -> Part:
    """Accuracy at one layer less that at another, averaged over networks, by task and seed."""
    rows = table[table["network"].isin(networks) & table["layer"].isin([high, low])]
    wide = rows.pivot_table(
        index=["task", "seed", "network"], columns="layer", values="accuracy", aggfunc="mean"
    )
    if high not in wide.columns or low not in wide.columns:
        return missing(name, f"no probes of {high} and {low}", _PROBES)
    gap = (100 * (wide[high] - wide[low])).dropna().reset_index(name="gap")
    if gap.empty:
        return missing(name, f"no network with probes of both {high} and {low}", _PROBES)
    gap = gap.assign(size=gap["network"])
    e = summarise(gap, "gap", name)
    pairs = hypothesis_name(gap, name)
    return judge(name, e, _PROBES, rules, pairs, ", ".join(sorted(set(gap["network"]))))


def _c10_runs(evidence: Evidence) -> list[Part]:
    table = arms.probes(evidence.board) if evidence.probes is None else evidence.probes
    if "task" not in table.columns:
        table = table.assign(task="probes")
    rules = evidence.rules
    names = (
        "last layer > the one before for features trained on the target",
        "the one before > last layer for foreign features",
        "far > self in the lower half of the layers",
    )
    if table.empty:
        return [missing(name, "no layer probes", _PROBES) for name in names]
    layers = list(dict.fromkeys(table["layer"]))
    if len(layers) < 2:
        return [missing(name, f"probes of {len(layers)} layer only", _PROBES) for name in names]
    last, before = layers[-1], layers[-2]
    # Below conv5, the fifth of eight layers; of another depth, the same share.
    lower = layers[: max(1, len(layers) * 4 // 8)]
    return [
        _layer_gap(table, names[0], _OWN, last, before, rules),
        _layer_gap(table, names[1], _FOREIGN, before, last, rules),
        _network_gap(table, names[2], "far", "self", lower, rules),
    ]


def _network_gap(
    table: pd.DataFrame, name: str, high: str, low: str, layers: Sequence[str], rules: Rules
) -> Part:
    rows = table[table["layer"].isin(layers)]
    wide = rows.pivot_table(
        index=["task", "seed", "layer"], columns="network", values="accuracy", aggfunc="mean"
    )
    if high not in wide.columns or low not in wide.columns:
        return missing(name, f"no probes of {high} and {low}", _PROBES)
    gap = (100 * (wide[high] - wide[low])).dropna().reset_index(name="gap")
    if gap.empty:
        return missing(name, f"no layer with probes of both {high} and {low}", _PROBES)
    gap = gap.assign(size=gap["layer"])
    e = summarise(gap, "gap", name)
    pairs = hypothesis_name(gap, name)
    return judge(name, e, _PROBES, rules, pairs, f"layers {', '.join(layers)}")


# --- LI-C11: sensitivity of filters ---

_MORE = ("FT-near > near", "FT-far > far")
_CLOSER = "the difference of near and far shrinks"
_SENSITIVITY = (
    "sensitivity percentages of FT-near against near, FT-far against far, near against far and "
    "FT-near against FT-far"
)


def _c11_published() -> list[Part]:
    def percentage(row: str) -> float:
        return published.value(_PAPER, _FIG_9, row, "percentage of categories")

    rows = {row: (percentage(row), 50.0) for row in _MORE}
    after = percentage("FT-near > FT-far")
    return [
        ordered("fine-tuning raises sensitivity in over 50 % of classes", rows),
        missing(_CLOSER, f"after fine-tuning near is ahead in {after:g} %; before is only drawn"),
    ]


def _row(table: pd.DataFrame, name: str) -> tuple[float, float, int] | None:
    """Percentages of A > B and B > A and the number of classes, for "A > B"."""
    a, b = name.split(" > ")
    found = table[(table["a"] == a) & (table["b"] == b)]
    if found.empty:
        return None
    first = found.iloc[0]
    return float(first["percentage"]), float(first["reverse_percentage"]), int(first["n_classes"])


_LEAST_CLASSES = 10


def _of_classes(name: str, gap: float, p: float, n: int, rules: Rules) -> Hypothesis:
    """A test whose unit is the class; fewer than ten decide nothing."""
    least = rules.interest.get("% of classes", 0.0)
    direction: Literal[-1, 0, 1] = 0 if abs(gap) < least else 1 if gap > 0 else -1
    return Hypothesis(f"classes {name}", direction, p if n >= _LEAST_CLASSES else None, None, n)


def _above_half(table: pd.DataFrame, name: str, rules: Rules) -> Part:
    """Exact binomial interval of the share of classes, ties left out, against one half."""
    row = _row(table, name)
    if row is None:
        return missing(name, "not measured", _SENSITIVITY)
    above, below = (round(share * row[2] / 100) for share in row[:2])
    if above + below == 0:
        return missing(name, "all classes are tied", _SENSITIVITY)
    test = stats.binomtest(above, above + below)
    interval = test.proportion_ci(0.95)
    low, high = 100 * float(interval.low), 100 * float(interval.high)
    share, n = 100 * above / (above + below), above + below
    return Part(
        name,
        UNDECIDED,
        share,
        low,
        high,
        n,
        "% of classes",
        "class",
        float(test.pvalue),
        f"{row[2] - above - below} of {row[2]} classes tied",
        f"more classes: {_SENSITIVITY}",
        test=_of_classes(name, share - 50, float(test.pvalue), n, rules),
    )


def _c11_runs(evidence: Evidence) -> list[Part]:
    table = evidence.sensitivities
    if table is None or table.empty:
        return [missing(n, "no filter sensitivities", _SENSITIVITY) for n in (*_MORE, _CLOSER)]
    rules = evidence.rules
    return [*(_above_half(table, name, rules) for name in _MORE), _closer(table, rules)]


def _closer(table: pd.DataFrame, rules: Rules) -> Part:
    """Whether near leads far in more classes before fine-tuning than after it."""
    before, after = _row(table, "near > far"), _row(table, "FT-near > FT-far")
    if before is None or after is None:
        return missing(_CLOSER, "not measured", _SENSITIVITY)
    counts = [[round(share * row[2] / 100) for share in row[:2]] for row in (before, after)]
    if min(map(sum, counts)) == 0:
        return missing(_CLOSER, "all classes are tied", _SENSITIVITY)
    shares = [above / (above + below) for above, below in counts]
    totals = [sum(row) for row in counts]
    gap = abs(shares[0] - 0.5) - abs(shares[1] - 0.5)
    error = sum(s * (1 - s) / n for s, n in zip(shares, totals, strict=True)) ** 0.5
    low, high = gap - 1.96 * error, gap + 1.96 * error
    p = float(2 * stats.norm.sf(abs(gap) / error)) if error > 0 else float(gap == 0)
    detail = f"near ahead of far in {100 * shares[0]:.0f} % before, {100 * shares[1]:.0f} % after"
    return Part(
        _CLOSER,
        UNDECIDED,
        100 * gap,
        100 * low,
        100 * high,
        min(totals),
        "% of classes",
        "class",
        p,
        detail,
        f"more classes: {_SENSITIVITY}",
        test=_of_classes(_CLOSER, 100 * gap, p, min(totals), rules),
    )


CLAIMS: Sequence[Claim] = (
    Claim(
        "LI-C10",
        _PAPER,
        "fc7 is best for foreign features, fc8 for own; far beats self below conv5",
        _c10_published,
        _c10_runs,
    ),
    Claim(
        "LI-C11",
        _PAPER,
        "fine-tuning raises filter sensitivity and brings near and far together",
        _c11_published,
        _c11_runs,
    ),
)
