"""Claims of "Multifaceted Analysis of Fine-Tuning in Deep Model for Visual Recognition" (2019) on
layers and filters: LI-C10 (layer probes, Fig. 10) and LI-C11 (filter sensitivity,
Fig. 9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.units import summarise
from analysis.findings.parts import UNDECIDED, Part, claim, judge, missing, ordered
from analysis.leaderboard import arms
from analysis.papers import published
from analysis.statistics.decisions import Hypothesis, Rules, direction_of, hypothesis_name

_PAPER = "li-2019"
_claim = partial(claim, _PAPER)
_SHARE = "% of classes"
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


def _gap(
    table: pd.DataFrame, name: str, side: str, high: str, low: str, detail: str, rules: Rules
) -> Part:
    """Accuracy at one layer less that at another, or of one network less that of another.

    Args:
        side: `layer` or `network`, whichever `high` and `low` are; over the other one the gaps are
            averaged, by task and seed.
        detail: what the gaps are averaged over; empty to name the networks.
    """
    other = {"layer": "network", "network": "layer"}[side]
    wide = table.pivot_table(
        index=["task", "seed", other], columns=side, values="accuracy", aggfunc="mean"
    )
    if high not in wide.columns or low not in wide.columns:
        return missing(name, f"no probes of {high} and {low}", _PROBES)
    gap = (100 * (wide[high] - wide[low])).dropna().reset_index(name="gap")
    if gap.empty:
        return missing(name, f"no {other} with probes of both {high} and {low}", _PROBES)
    gap = gap.assign(size=gap[other])
    detail = detail or ", ".join(sorted(set(gap[other])))
    pairs = hypothesis_name(gap, name)
    return judge(name, summarise(gap, "gap", name), _PROBES, rules, pairs, detail)


@_claim(
    "LI-C10",
    "fc7 is best for foreign features, fc8 for own; far beats self below conv5",
    _c10_published,
)
def c10(evidence: Evidence) -> list[Part]:
    table = arms.probes(evidence.board) if evidence.probes is None else evidence.probes
    if "task" not in table.columns:
        table = table.assign(task="probes")
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
    own, foreign = (table[table["network"].isin(of)] for of in (_OWN, _FOREIGN))
    below, text = table[table["layer"].isin(lower)], f"layers {', '.join(lower)}"
    return [
        _gap(own, names[0], "layer", last, before, "", evidence.rules),
        _gap(foreign, names[1], "layer", before, last, "", evidence.rules),
        _gap(below, names[2], "network", "far", "self", text, evidence.rules),
    ]


# --- LI-C11: sensitivity of filters ---

_MORE = (("FT-near", "near"), ("FT-far", "far"))
_CLOSER = "the difference of near and far shrinks"
_SENSITIVITY = (
    "sensitivity percentages of FT-near against near, FT-far against far, near against far and "
    "FT-near against FT-far"
)


def _c11_published() -> list[Part]:
    def percentage(row: str) -> float:
        return published.value(_PAPER, _FIG_9, row, "percentage of categories")

    names = [f"{a} > {b}" for a, b in _MORE]
    after = percentage("FT-near > FT-far")
    return [
        ordered(
            "fine-tuning raises sensitivity in over 50 % of classes",
            {name: (percentage(name), 50.0) for name in names},
        ),
        missing(_CLOSER, f"after fine-tuning near is ahead in {after:g} %; before is only drawn"),
    ]


@dataclass(frozen=True)
class _Classes:
    """In how many classes one network's filters are better than another's, and worse."""

    above: int
    below: int
    of: int

    @property
    def untied(self) -> int:
        return self.above + self.below

    @property
    def share(self) -> float:
        return self.above / self.untied


def _classes(table: pd.DataFrame, a: str, b: str) -> _Classes | None:
    rows = table[(table["a"] == a) & (table["b"] == b)]
    if rows.empty:
        return None
    n = int(rows["n_classes"].iloc[0])
    shares = [float(rows[name].iloc[0]) for name in ("percentage", "reverse_percentage")]
    above, below = (round(share * n / 100) for share in shares)
    return _Classes(above, below, n)


_LEAST_CLASSES = 10


def _of_classes(
    name: str, effect: float, gap: float, ends: tuple[float, float], p: float, n: int, rules: Rules
) -> Part:
    """A part whose unit is the class; fewer than ten classes decide nothing.

    Args:
        gap: what is tested against zero, in percent of classes.
    """
    direction = direction_of(gap, rules.interest.get(_SHARE, 0.0))
    decides = p if n >= _LEAST_CLASSES else None
    return Part(
        name,
        UNDECIDED,
        effect=effect,
        low=ends[0],
        high=ends[1],
        n=n,
        unit=_SHARE,
        counted="class",
        p=p,
        needed=f"more classes: {_SENSITIVITY}",
        test=Hypothesis(f"classes {name}", direction, decides, None, n),
    )


def _above_half(table: pd.DataFrame, a: str, b: str, rules: Rules) -> Part:
    """Exact binomial interval of the share of classes, ties left out, against one half."""
    name, classes = f"{a} > {b}", _classes(table, a, b)
    if classes is None:
        return missing(name, "not measured", _SENSITIVITY)
    if not classes.untied:
        return missing(name, "all classes are tied", _SENSITIVITY)
    n, share = classes.untied, 100 * classes.above / classes.untied
    test = stats.binomtest(classes.above, n)
    interval = test.proportion_ci(0.95)
    ends = 100 * float(interval.low), 100 * float(interval.high)
    part = _of_classes(name, share, share - 50, ends, float(test.pvalue), n, rules)
    return replace(part, detail=f"{classes.of - n} of {classes.of} classes tied")


@_claim(
    "LI-C11",
    "fine-tuning raises filter sensitivity and brings near and far together",
    _c11_published,
)
def c11(evidence: Evidence) -> list[Part]:
    table = evidence.sensitivities
    if table is None or table.empty:
        names = (*(f"{a} > {b}" for a, b in _MORE), _CLOSER)
        return [missing(name, "no filter sensitivities", _SENSITIVITY) for name in names]
    more = [_above_half(table, a, b, evidence.rules) for a, b in _MORE]
    return [*more, _closer(table, evidence.rules)]


def _closer(table: pd.DataFrame, rules: Rules) -> Part:
    """Whether near leads far in more classes before fine-tuning than after it."""
    before, after = _classes(table, "near", "far"), _classes(table, "FT-near", "FT-far")
    if before is None or after is None:
        return missing(_CLOSER, "not measured", _SENSITIVITY)
    if not before.untied or not after.untied:
        return missing(_CLOSER, "all classes are tied", _SENSITIVITY)
    gap = abs(before.share - 0.5) - abs(after.share - 0.5)
    error = sum(c.share * (1 - c.share) / c.untied for c in (before, after)) ** 0.5
    ends = 100 * (gap - 1.96 * error), 100 * (gap + 1.96 * error)
    p = float(2 * stats.norm.sf(abs(gap) / error)) if error > 0 else float(gap == 0)
    n = min(before.untied, after.untied)
    part = _of_classes(_CLOSER, 100 * gap, 100 * gap, ends, p, n, rules)
    shares = f"{100 * before.share:.0f} % before, {100 * after.share:.0f} % after"
    return replace(part, detail=f"near ahead of far in {shares}")


CLAIMS = (c10, c11)
