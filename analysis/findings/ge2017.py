"""Claims of "Borrowing Treasures from the Wealthy: Deep Transfer Learning through Selective Joint
Fine-Tuning" (2017): GE-C1 to GE-C5.

Stanford Dogs lies inside ImageNet, so the gains printed for it may come from labelled test images
among the borrowed ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.findings.parts import (
    FAILS,
    HOLDS,
    Part,
    claim,
    difference,
    equivalent,
    from_estimate,
    missing,
    near_and_far,
    ordered,
    parts_of,
    within,
    without_numbers,
)
from analysis.leaderboard import arms
from analysis.leaderboard.read import LOSS, SOURCE
from analysis.papers import published
from bench.core.text import counted
from bench.results.intervals import student

_PAPER = "ge-yu-2017"
_claim = partial(claim, _PAPER)
_ABOUT_EQUAL_POINTS = 1.0
"""Differences below a point count as "about the same" where the paper says so of 0.1 and 0.2."""
_TABLES: Mapping[str, str] = {"Table 2": "Stanford Dogs", "Table 3": "Oxford Flowers"}
_PLAIN = "Fine-tuning w/o source domain"
_FULL = "Selective joint fine-tuning"
_RUNS = "method: [plain, joint, selective] with the same source, pattern and seeds"


def _accuracy(table: str, row: str) -> float:
    return published.value(_PAPER, table, row, "mean Acc")


def _rows(left: str, right: str) -> dict[str, tuple[float, float]]:
    return {data: (_accuracy(t, left), _accuracy(t, right)) for t, data in _TABLES.items()}


def _c1_published() -> list[Part]:
    whole = "Joint fine-tuning with all source samples"
    random = "Selective joint FT with random source samples"
    close = [abs(a - b) for a, b in _rows(whole, random).values()]
    equal = student(close, unit="published row")
    verdict = HOLDS if max(close) < _ABOUT_EQUAL_POINTS else FAILS
    detail = f"differences {', '.join(f'{d:.2g}' for d in close)} within {_ABOUT_EQUAL_POINTS:g}"
    return [
        ordered("selective > all source", _rows(_FULL, whole)),
        Part(
            "all ≈ random source",
            verdict,
            effect=equal.value,
            n=2,
            counted="published row",
            detail=detail,
        ),
        ordered("all source > no source", _rows(whole, _PLAIN)),
        ordered("random source > no source", _rows(random, _PLAIN)),
    ]


@_claim("GE-C1", "selected source > all source ≈ random source > no source", _c1_published)
def c1(evidence: Evidence) -> list[Part]:
    b, vary = evidence.board, LOSS
    chosen = arms.selective(b)
    random = arms.selective(b, partners="random") | arms.joint(b, "random")
    whole, plain = arms.joint(b), arms.fine_tuned(b)
    needed = f"{_RUNS}; method: joint, and selective with partners: [nearest, random]"
    return [
        *difference(evidence, "selective > all source", chosen, whole, vary, needed),
        *equivalent(evidence, "all ≈ random source", whole, random, vary, needed),
        *difference(evidence, "all source > no source", whole, plain, vary, needed),
        *difference(evidence, "random source > no source", random, plain, vary, needed),
    ]


def _c2_published() -> list[Part]:
    def bank(row: str) -> float:
        return published.value(_PAPER, "Table 1", row, "overall accuracy")

    kernels = bank("Conv1-Conv2 in AlexNet")
    gabor, deeper = bank("Gabor Filters"), bank("Conv1-Conv5 in AlexNet")
    with_gabor = _rows(_FULL, "Selective joint FT with Gabor filter bank")
    return [
        ordered(
            "adaptive K > fixed K", _rows(_FULL, "Selective joint FT w/o iterative NN retrieval")
        ),
        ordered("conv1-2 > Gabor", {"Table 1": (kernels, gabor), **with_gabor}),
        ordered("Gabor > conv1-5", {"Table 1": (gabor, deeper)}),
        ordered("conv1-5 > conv4-5", {"Table 1": (deeper, bank("Conv4-Conv5 in AlexNet"))}),
    ]


@_claim(
    "GE-C2", "adaptive K > fixed K; conv1-2 > Gabor > mixtures with deeper layers", _c2_published
)
def c2(evidence: Evidence) -> list[Part]:
    b = evidence.board
    chosen, kernels = arms.selective(b), arms.selective(b, adaptive=False)
    gabor = arms.selective(b, bank="gabor"), arms.selective(b, adaptive=False, bank="gabor")
    deeper = arms.selective(b, layers=None), arms.selective(b, adaptive=False, layers=None)
    both, other = chosen | kernels, gabor[0] | gabor[1]
    needed = "method: selective with"
    vary_bank = (*_TEXT, "method.bank", "method.layers", "method.orientations", "bank.*")
    parts = difference(
        evidence,
        "adaptive K > fixed K",
        chosen,
        kernels,
        (*_TEXT, "method.adaptive", "method.k_fixed"),
        f"{needed} adaptive: [true, false]",
    )
    for name, others, how in (
        ("first layers > Gabor", other, "bank: [kernels, gabor]"),
        ("first layers > deeper ones", deeper[0] | deeper[1], 'layers: ["1,2", "1,2,3,4,5"]'),
    ):
        parts += _same_growth(evidence, name, both, others, vary_bank, f"{needed} {how}")
    return parts


_TEXT = ("method_options",)
"""The options of a method in one text, for people."""


def _same_growth(
    evidence: Evidence,
    name: str,
    left: pd.Series[bool],
    right: pd.Series[bool],
    vary: Sequence[str],
    needed: str,
) -> list[Part]:
    """Difference of two banks where K grows alike in both: adaptive runs if there are any."""
    grows = arms.option(evidence.board, "adaptive").map(lambda value: value is not False)
    done = evidence.board["status"] == "done"
    for growth in (grows, ~grows):
        if (left & growth & done).any() and (right & growth & done).any():
            return difference(evidence, name, left & growth, right & growth, vary, needed)
    return [missing(name, "no pair of finished runs", needed)]


_LEAST_GAIN, _MOST_GAIN = 2.0, 10.0


def _c3_published() -> list[Part]:
    gains = {data: a - b for data, (a, b) in _rows(_FULL, _PLAIN).items()}
    for n in (15, 30, 45, 60):
        column = f"mean Acc {n}/class"
        ours, plain = (published.value(_PAPER, "Table 4", r, column) for r in (_FULL, _PLAIN))
        gains[f"Caltech 256, {n}/class"] = ours - plain
    places = "Selective joint FT with Places (ii)"
    gains["MIT Indoor"] = _accuracy("Table 5", places) - _accuracy("Table 5", _PLAIN)
    objects = _accuracy("Table 5", "Selective joint FT with ImageNet (i)")
    e = student(list(gains.values()), unit="published row")
    inside = all(_LEAST_GAIN - 1e-9 <= g <= _MOST_GAIN + 1e-9 for g in gains.values())
    detail = ", ".join(f"{k} {g:+.1f}" for k, g in gains.items())
    detail += (
        f"; best source of each data set: MIT Indoor with objects gains only "
        f"{objects - _accuracy('Table 5', _PLAIN):.1f}"
    )
    verdict = HOLDS if inside else FAILS
    name = "gain of 2 to 10 points"
    return [from_estimate(name, verdict, e, detail, "points")]


@_claim("GE-C3", "selective joint fine-tuning gains 2 to 10 points over fine-tuning", _c3_published)
def c3(evidence: Evidence) -> list[Part]:
    name, b = "gain of 2 to 10 points", evidence.board

    def make(named: str, frame: pd.DataFrame, detail: str) -> Part:
        return within(named, frame, _RUNS, evidence.rules, _LEAST_GAIN, _MOST_GAIN, detail)

    left, right = arms.selective(b), arms.fine_tuned(b)
    return parts_of(evidence, name, left, right, LOSS, _RUNS, make)


def _c4_published() -> list[Part]:
    scenes = _accuracy("Table 5", "Selective joint FT with Places (ii)")
    objects = _accuracy("Table 5", "Selective joint FT with ImageNet (i)")
    both = _accuracy("Table 5", "Selective joint FT with hybrid data (iii)")
    return [
        ordered("scene source > object source", {"MIT Indoor": (scenes, objects)}),
        ordered("both together no better", {"MIT Indoor": (scenes, both)}, strict=False),
    ]


_SCENES = ("places-205 all", "vehicle.n.01")
"""What Table 5's runs borrow as scenes, in full and in the rehearsal; the rest are objects."""


@_claim(
    "GE-C4",
    "a scene source beats an object source for scenes; both together are no better",
    _c4_published,
)
def c4(evidence: Evidence) -> list[Part]:
    b = evidence.board
    chosen = arms.selective(b)
    near, far = chosen & arms.source_is(b, "near"), chosen & arms.source_is(b, "far")
    both = arms.is_method(b, "selective") & arms.borrows(b, selections=2)
    vary = (*SOURCE, *_TEXT, "borrowed", "borrowed_*", "borrow*")
    table = b["experiments"].fillna("").map(lambda names: "table-5" in str(names).split(";"))
    scenes = table & chosen & b["borrowed"].isin(_SCENES)
    if scenes.any():
        objects, needed = table & chosen & ~scenes, f"{_RUNS}; Table 5 of the paper's grid"
        name = "scene source > object source"
        return [
            *difference(evidence, name, scenes, objects, vary, needed),
            *difference(
                evidence, "both together no better", scenes, table & both, vary, needed, margin=1.0
            ),
        ]
    needed = "method: selective with source: [near, far], and borrowing from both"
    needed = near_and_far(evidence, needed)
    return [
        *difference(evidence, "near source > far source", near, far, vary, needed),
        *difference(evidence, "both together no better", near, both, vary, needed, margin=1.0),
    ]


@_claim(
    "GE-C5",
    "a very large K0 hurts",
    without_numbers("said in the text, no number printed", "a very large K0 hurts"),
)
def c5(evidence: Evidence) -> list[Part]:
    """The largest K0 against the best smaller one, which validation accuracy chooses."""
    name, b = "a very large K0 hurts", evidence.board
    needed = "method: selective with three or more values of k0"
    selective = arms.selective(b)
    k0 = pd.to_numeric(arms.option(b, "k0"), errors="coerce")
    ended = selective & b["status"].isin(["done", "diverged"])
    sizes = sorted({int(k) for k in k0[ended].dropna()})
    if len(sizes) < 3:
        return [missing(name, counted(len(sizes), "value") + " of k0", needed)]
    means = {k: float(b.loc[ended & (k0 == k), "val_top1_accuracy"].mean()) for k in sizes[:-1]}
    validation = {k: mean for k, mean in means.items() if not math.isnan(mean)}
    if not validation:
        return [missing(name, "no validation accuracy to choose K0 by", needed)]
    best = max(validation, key=lambda k: validation[k])  # of equal ones the smallest
    left, right = (selective & (k0 == k) for k in (best, sizes[-1]))
    parts = difference(evidence, name, left, right, (*_TEXT, "method.k0"), needed)
    said = f"K0 {best} against {sizes[-1]}"
    return [replace(part, detail=f"{said}; {part.detail}") for part in parts]


CLAIMS = (c1, c2, c3, c4, c5)
