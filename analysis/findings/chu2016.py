"""Claims of "Best Practices for Fine-tuning Visual Classifiers to New Domains", CHU-C1 to CHU-C5.

The accuracies behind Figs. 1 to 3 exist only in the graphics, so only the claim on the distances
can be tested on published numbers; there it is false for the linear SVM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import pandas as pd
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import comparisons
from analysis.comparisons.ratios import (
    DISTANCE_KEYS,
    Ratios,
    between_bands,
    copy_ratios,
    distance_bands,
    tune_freeze_ratios,
)
from analysis.comparisons.units import summarise
from analysis.findings.parts import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Part,
    Verdict,
    claim,
    drawn,
    for_each,
    judge,
    missing,
    setting_names,
)
from analysis.papers import published
from analysis.papers.chu2016_bands import Band, data_band, distance_band
from analysis.statistics.decisions import LOG_RATIO, Hypothesis, hypothesis_name
from bench.core.text import counted

_PAPER = "chu-2016"
_claim = partial(claim, _PAPER)
_SEEDED = "seed: [0, 1, 2]"
_DISTANCE = "distances of the targets from their sources: bench distance"


def _log_ratio(
    evidence: Evidence, name: str, rows: pd.DataFrame, needed: str, detail: str, sign: int = 1
) -> list[Part]:
    """A part for each comparison: sources and recipes are not averaged, and neither are they units.

    Each source of a target has a part of its own, since the sources of one target share it.
    """
    if rows.empty:
        return [missing(name, f"no pair of finished runs {detail}".strip(), needed)]
    groups = list(comparisons(rows))

    def make(named: str, group: pd.DataFrame) -> Part:
        effect = group.assign(effect=100 * sign * group["log_ratio"])
        e = summarise(effect, "effect", named, "ratio", 100 * sign)
        text = f"{len(group)} pairs {detail}".strip()
        pairs = hypothesis_name(group, f"ratio {sign}")
        return judge(named, e, needed, evidence.rules, pairs, text, LOG_RATIO)

    return for_each(name, groups, setting_names(evidence.board, groups), make)


def _in_band(n_per_class: float | None, band: Band) -> bool:
    return n_per_class is not None and n_per_class == n_per_class and data_band(n_per_class) == band


# --- CHU-C1: copy all but the last layer ---


def _exception(n_per_class: float | None, distance: float, high: float) -> bool:
    """High distance and much data, where the paper excepts its rule; also an unknown distance,
    and one whose interval reaches into the band.
    """
    if not _in_band(n_per_class, "large"):
        return False
    farthest = distance if high != high else min(max(high, distance), 2.0)
    return distance != distance or distance_band(farthest) == "large"


@_claim(
    "CHU-C1",
    "copy all but the last layer, unless distance and data are large",
    drawn("Fig. 1", "copying all but the last layer is not worse"),
)
def c1(evidence: Evidence) -> list[Part]:
    b = evidence.board
    depths = sorted({int(n) for n in b.loc[b["method"] == "plain", "reinit"] if n > 1})
    needed = f'pattern: ["T(1-7)R(8)", "T(1-5)R(6-8)", "T(1-3)R(4-8)"] (and with F), {_SEEDED}'
    parts, excepted = [], []
    for reinit in depths:
        for treatment in ("tune", "freeze"):
            rule = evidence.lr_rule(b["reinit"].isin([1, reinit]) & (b["treatment"] == treatment))
            found = copy_ratios(evidence, treatment, reinit, rule).frame
            if found.empty:
                continue
            columns = ["n_per_class", "distance", "distance_high"]
            conditions = zip(*(found[name] for name in columns), strict=True)
            away = pd.Series([_exception(*c) for c in conditions], index=found.index)
            kept, out = found[~away], found[away]
            name = f"last layer random ≥ last {reinit} random, {treatment}"
            parts += _log_ratio(evidence, name, kept, needed, _says(kept))
            excepted += (
                [f"{treatment}, last {reinit}: {out['ratio'].mean():.3f}"] if len(out) else []
            )
    if not parts:
        name = "copying all but the last layer is not worse"
        return [missing(name, "no pairs with different numbers of random layers", needed)]
    if excepted:
        said = f"mean ratios where the rule is excepted: {'; '.join(excepted)}"
        parts[0] = replace(parts[0], detail=f"{parts[0].detail}; {said}")
    return parts


def _says(rows: pd.DataFrame) -> str:
    below = rows[rows["ratio"] < 1]
    return f"({len(below)} with a ratio below 1)" if len(rows) else ""


# --- CHU-C2 to C4: tune or freeze ---


def _tune_freeze(evidence: Evidence) -> Ratios:
    b = evidence.board
    rule = evidence.lr_rule((b["reinit"] == 1) & b["treatment"].isin(["tune", "freeze"]))
    return tune_freeze_ratios(evidence, rule)


@_claim(
    "CHU-C2",
    "with much data, tune",
    drawn("Fig. 2", "with 100 images per class or more, tune > freeze"),
)
def c2(evidence: Evidence) -> list[Part]:
    rows = _tune_freeze(evidence).frame
    much = rows[rows["n_per_class"].map(lambda n: _in_band(n, "large")).astype(bool)]
    needed = f"images_per_class of 100 or more, pattern: [tune, freeze], {_SEEDED}"
    name = "with 100 images per class or more, tune > freeze"
    return _log_ratio(evidence, name, much, needed, "with 100 images per class or more")


@_claim(
    "CHU-C3",
    "with little data and a near source, freeze",
    drawn("Fig. 2", "with few images and a near source, freeze > tune"),
)
def c3(evidence: Evidence) -> list[Part]:
    rows, name = _tune_freeze(evidence).frame, "with few images and a near source, freeze > tune"
    runs = f"images_per_class of 20 or fewer, pattern: [tune, freeze], {_SEEDED}"
    if rows.empty or rows["distance"].isna().all():
        return [
            missing(name, "no distance known" if len(rows) else "no pairs", f"{runs}; {_DISTANCE}")
        ]
    few = rows[rows["n_per_class"].map(lambda n: _in_band(n, "low")).astype(bool)]
    near = few[pd.Series(distance_bands(few), few.index, dtype=object) == "low"]
    parts = _log_ratio(evidence, name, near, f"{runs}, at a cosine distance below 0.2", "", sign=-1)
    said = [parts[0].detail, _sources(near), between_bands(few)]
    return [replace(parts[0], detail="; ".join(text for text in said if text)), *parts[1:]]


def _sources(rows: pd.DataFrame) -> str:
    """Which sources count, and how far each is."""
    known = rows[["source", "distance"]].drop_duplicates()
    return ", ".join(f"{s} at {d:.3f}" for s, d in known.to_numpy().tolist())


_LEAST_DISTANCES = 4
"""Different distances that a slope needs, a twentieth apart or more: two clusters have no slope."""


@_claim(
    "CHU-C4",
    "tune over freeze grows with distance",
    drawn("Fig. 2", "tune / freeze grows with distance"),
)
def c4(evidence: Evidence) -> list[Part]:
    """The slope over targets: each is one point, the mean over its class draws, sources and runs.

    Draws of one data set are as far from a source as one another, and gain alike, so of several
    targets they are no further units; of one target alone each draw is. Nor are sources of one
    task, which share its images.
    """
    name, rows = "tune / freeze grows with distance", _tune_freeze(evidence).frame
    needed = f"four or more targets, pattern: [tune, freeze], {_SEEDED}; {_DISTANCE}"
    known = rows[rows["distance"].notna()]
    if known.empty:
        return [missing(name, "no distance known" if len(rows) else "no pairs", needed)]
    unit, points = max(map(_points, comparisons(known)), key=lambda of: len(of[1]))
    apart = (points["distance"] / 0.05).round().nunique()
    if apart < _LEAST_DISTANCES:
        said = f"{apart} distances a twentieth apart, over {counted(len(points), unit)}"
        return [missing(name, f"{said}; {_LEAST_DISTANCES} are needed", needed)]
    line = stats.linregress(points["distance"], 100 * points["log_ratio"])
    slope, p, n = float(line.slope), float(line.pvalue), len(points)
    half = float(stats.t.ppf(0.975, n - 2)) * float(line.stderr)
    return [
        Part(
            name,
            UNDECIDED,
            effect=slope,
            low=slope - half,
            high=slope + half,
            n=n,
            unit=f"{LOG_RATIO} per unit of cosine distance",
            counted=unit,
            p=p,
            needed=f"more targets: {needed}",
            test=Hypothesis("slope on distance", 1 if slope > 0 else -1, p, None, n),
        )
    ]


def _points(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What is one point, and the mean distance and log ratio of each."""
    of_target = [n for n in ("dataset", "target", "target.root") if n in rows.columns]
    tasks = rows.groupby(["task", *of_target], dropna=False)[["distance", "log_ratio"]].mean()
    targets = tasks.groupby(level=of_target, dropna=False).mean()
    return ("target", targets) if len(targets) > 1 else ("task", tasks)


# --- CHU-C5: one ordering by all distances ---

_OTHERS = {"mmd": "MMD", "svm": "Linear SVM", "cnn": "CNN"}


def _c5_published() -> list[Part]:
    table = published.table(_PAPER, "Table 2").astype(float)
    cosine = list(table["Cosine distance"])
    names = [str(name) for name in table.index]
    return [
        _same_order(f"cosine and {column} agree", names, cosine, list(table[column]))
        for column in _OTHERS.values()
    ]


def _same_order(name: str, labels: Sequence[str], a: Sequence[float], b: Sequence[float]) -> Part:
    rho = float(stats.spearmanr(a, b).statistic)
    swapped = [
        f"{labels[i]} and {labels[j]}"
        for i, j in combinations(range(len(labels)), 2)
        if (a[i] - a[j]) * (b[i] - b[j]) < 0
    ]
    detail = f"the other way round: {', '.join(swapped)}" if swapped else "one ordering"
    verdict = FAILS if swapped else HOLDS
    return _orders(name, verdict, rho, len(labels), detail)


def _orders(name: str, verdict: Verdict, rho: float | None, n: int, detail: str) -> Part:
    return Part(name, verdict, effect=rho, n=n, unit="Spearman", counted="target", detail=detail)


@_claim("CHU-C5", "all four distances give one ordering", _c5_published)
def c5(evidence: Evidence) -> list[Part]:
    table, needed = evidence.distances, f"three or more targets or sources; {_DISTANCE}"
    others = [c for c in _OTHERS if table is not None and c in table.columns]
    if table is None or "cosine" not in table.columns or not others:
        return [missing("all distances give one ordering", "fewer than two distances", needed)]
    keys = [c for c in DISTANCE_KEYS if c in table.columns]
    parts = []
    for other in others:
        known = table[table["cosine"].notna() & table[other].notna()]
        name = f"cosine and {_OTHERS[other]} agree"
        if len(known) < 3:
            parts.append(missing(name, f"{len(known)} targets", needed))
            continue
        labels = [" ".join(map(str, row)) for row in known[keys].to_numpy()] or ["?"] * len(known)
        if {"cosine_low", "cosine_high", f"{other}_low", f"{other}_high"} <= set(table.columns):
            parts.append(_order_by_intervals(name, labels, known, other, needed))
        else:
            a, b = (list(known[c].astype(float)) for c in ("cosine", other))
            part = _same_order(name, labels, a, b)
            said = f"{part.detail}; the distances have no intervals"
            parts.append(replace(part, verdict=UNDECIDED, detail=said, needed=needed))
    return parts


def _order_by_intervals(
    name: str, labels: Sequence[str], table: pd.DataFrame, other: str, needed: str
) -> Part:
    """Two targets are in order only where their intervals do not overlap."""
    rows = table.to_dict("records")

    def order(i: int, j: int, column: str) -> int:
        a, b = rows[i], rows[j]
        if a[f"{column}_high"] < b[f"{column}_low"]:
            return -1
        return 1 if a[f"{column}_low"] > b[f"{column}_high"] else 0

    swapped, open_ = [], 0
    for i, j in combinations(range(len(rows)), 2):
        product = order(i, j, "cosine") * order(i, j, other)
        swapped += [f"{labels[i]} and {labels[j]}"] if product < 0 else []
        open_ += product == 0
    rho = float(stats.spearmanr(table["cosine"], table[other]).statistic)
    verdict = FAILS if swapped else UNDECIDED if open_ else HOLDS
    said = [f"the other way round: {', '.join(swapped)}"] if swapped else []
    said += [f"{open_} pairs of targets too close to order"] if open_ else []
    text = "; ".join(said) or "one ordering"
    part = _orders(name, verdict, None if math.isnan(rho) else rho, len(rows), text)
    return replace(part, needed=f"more images: {needed}" if verdict == UNDECIDED else "")


CLAIMS = (c1, c2, c3, c4, c5)
