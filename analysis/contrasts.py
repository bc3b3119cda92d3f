"""The questions a leaderboard answers, each as pairs of arms with all else equal.

Tune or freeze, pretrained or scratch, which source, which method, how many layers to copy or to
freeze, augmentation. Gains are in percentage points, as LI states them, paired by data set,
classes, draw and seeds. A gain is claimed only where its interval excludes zero; p-values are
adjusted after Holm over a question's family. What a leaderboard has no pairs for has no row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import pandas as pd

from analysis import arms
from analysis.board import PATTERN_FACTORS, SOURCE_FACTORS, key_of, summarise
from analysis.evidence import Evidence
from analysis.labels import recipe, root, settings
from analysis.ratios import gains
from analysis.statistics import holm, student_interval

__all__ = ["QUESTIONS", "Answer", "Contrast", "Question", "answers", "contrasts", "gain_table"]

Question = Literal["start", "treatment", "source", "method", "copy", "freeze", "augment"]
QUESTIONS: Mapping[Question, str] = {
    "start": "Pretrained or from scratch?",
    "treatment": "Tune or freeze?",
    "source": "Which source?",
    "method": "Which method?",
    "copy": "How many layers to copy?",
    "freeze": "How many layers to freeze?",
    "augment": "Augment offline?",
}
"""In the order in which a user asks them."""
_RECIPE = ("tuned", "layer_lr_decay", "l2_sp")


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two arms of a leaderboard.

    Attributes:
        label: "LEFT − RIGHT" in words; a gain is the left arm's accuracy less the right one's.
        left, right: which rows.
        vary: factors that may differ within a pair.
        about: what the label leaves out, such as the source that both start from.
    """

    question: Question
    label: str
    left: pd.Series[bool]
    right: pd.Series[bool]
    vary: tuple[str, ...]
    about: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """A contrast with its pairs.

    Attributes:
        frame: of `analysis.board.Pairs`, with `gain_points` and `setting`.
        unpaired, unfinished: runs left out for want of a partner or of a result.
        lr: "same", or "best" where each arm has its best learning rate by validation.
        tried: the left arm's learning rates.
    """

    contrast: Contrast
    frame: pd.DataFrame
    unpaired: int
    unfinished: int
    lr: str
    tried: tuple[float, ...] = ()


def _usual(board: pd.DataFrame) -> pd.Series[bool]:
    """Plain training with nothing added."""
    rows = arms.is_method(board, "plain")
    for name in _RECIPE:
        rows &= board[name].isna()
    return rows


def contrasts(board: pd.DataFrame) -> list[Contrast]:
    """Every contrast that a leaderboard may hold pairs for, in the order of `QUESTIONS`.

    Args:
        board: from `analysis.board.prepare`.
    """
    plain = _usual(board) & (board["role"] != "source")
    named = [s for s in dict.fromkeys(board.loc[plain, "source"]) if isinstance(s, str)]
    sources = sorted((s for s in named if s not in ("none", "self") and ">" not in s), key=_order)
    found: list[Contrast] = []
    for build in (_start, _treatment, _source, _method, _copy, _freeze):
        found += build(board, plain, sources)
    expanded = board["expand_to"].notna()
    label = "expanded offline − not expanded"
    found.append(Contrast("augment", label, plain & expanded, plain & ~expanded, ("expand_to",)))
    return found


def _order(source: str) -> tuple[int, int, str]:
    """near, far, then others by the number in their name, the largest first."""
    digits = "".join(c for c in source if c.isdigit())
    return {"near": 0, "far": 1}.get(source, 2), -int(digits[:9] or 0), source


def _start(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    vary = (*SOURCE_FACTORS, *PATTERN_FACTORS)
    last = plain & (board["reinit"] == 1)
    scratch = plain & (board["treatment"] == "scratch")
    found = [
        Contrast("start", f"{source}, {word} − scratch", last & treated & of, scratch, vary)
        for source in sources
        for of in [board["source"] == source]
        for word, treated in _treatments(board)
    ]
    again = arms.fine_tuned_again(board) & plain
    return [*found, Contrast("start", "scratch model tuned again − scratch", again, scratch, vary)]


def _treatments(board: pd.DataFrame) -> list[tuple[str, pd.Series[bool]]]:
    return [(w, board["treatment"] == t) for w, t in (("tuned", "tune"), ("frozen", "freeze"))]


def _treatment(
    board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]
) -> list[Contrast]:
    last = plain & (board["reinit"] == 1)
    tuned, frozen = (last & rows for _, rows in _treatments(board))
    return [
        Contrast("treatment", f"{s}, tuned − frozen", tuned & of, frozen & of, PATTERN_FACTORS)
        for s in sources
        for of in [board["source"] == s]
    ]


def _source(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    last = plain & (board["reinit"] == 1)
    return [
        Contrast(
            "source",
            f"{a} − {b}, {word}",
            last & treated & (board["source"] == a),
            last & treated & (board["source"] == b),
            SOURCE_FACTORS,
        )
        for a, b in combinations(sources, 2)
        for word, treated in _treatments(board)
    ]


def _method(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    """Every other recipe against plain tuning, where the leaderboard compares methods."""
    targets = board["role"] != "source"
    recipes = pd.Series([recipe(row) for row in board.to_dict("records")], index=board.index)
    if not (targets & ~_usual(board)).any():
        return []
    roots = board["source"].map(root)
    tuned = plain & (board["treatment"] == "tune") & (board["reinit"] == 1)
    vary = (*arms.LOSS_FACTORS, *PATTERN_FACTORS, *_RECIPE, *SOURCE_FACTORS)
    wanted = ~arms.is_method(board, "probe") & targets & ~tuned & ~_layers(board)
    return [
        Contrast("method", name, wanted & (recipes == name) & of, tuned & base, vary, source)
        for source in sources
        for base in [board["source"] == source]
        for of in [roots.isin([source, "none"])]
        for name in dict.fromkeys(recipes[wanted & of])
    ]


def _layers(board: pd.DataFrame) -> pd.Series[bool]:
    """Plain rows that belong to the questions of layers, or that trained the scratch model on."""
    deeper = (board["reinit"] > 1) & (board["treatment"] != "scratch")
    other = (board["treatment"] == "partly") | deeper | arms.source_is(board, "self")
    return _usual(board) & (other | board["expand_to"].notna())


def _copy(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    sizes = [int(n) for n in sorted(set(board.loc[plain & _deep(board), "reinit"]))]
    return [
        Contrast(
            "copy",
            f"last layer random − last {n}, {word}",
            plain & treated & (board["reinit"] == 1),
            plain & treated & (board["reinit"] == n),
            ("pattern",),
        )
        for n in sizes
        for word, treated in _treatments(board)
    ]


def _deep(board: pd.DataFrame) -> pd.Series[bool]:
    return (board["reinit"] > 1) & board["treatment"].isin(["tune", "freeze"])


def _freeze(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    last = plain & (board["reinit"] == 1)
    tuned = last & (board["treatment"] == "tune")
    partly = last & (board["treatment"] == "partly") & (board["frozen"] > 0)
    sizes = [int(n) for n in sorted(set(board.loc[partly, "frozen"]))]
    return [
        Contrast(
            "freeze",
            f"first {n} frozen − none",
            partly & (board["frozen"] == n),
            tuned,
            ("pattern",),
        )
        for n in sizes
    ]


def answers(evidence: Evidence, found: Sequence[Contrast] | None = None) -> list[Answer]:
    """The contrasts that have pairs; learning rates as `Evidence.lr_rule` treats them."""
    return list(_answers(evidence, contrasts(evidence.board) if found is None else found))


def _answers(evidence: Evidence, found: Sequence[Contrast]) -> Iterator[Answer]:
    for contrast in found:
        if not contrast.left.any() or not contrast.right.any():
            continue
        rule = evidence.lr_rule(contrast.left | contrast.right)
        pairs = gains(evidence.board, contrast.left, contrast.right, contrast.vary, lr=rule)
        if not len(pairs):
            continue
        # The factor of copied layers is part of the recipe, but says what the left arm was.
        leave = {*contrast.vary, "images_per_class", "lr"} - {"copied_lr_factor"}
        named = settings(pairs.frame, sorted(leave), ["n_per_class"])
        frame = pairs.frame.assign(setting=named)
        done = contrast.left & (evidence.board["status"] == "done")
        tried = tuple(sorted({float(rate) for rate in evidence.board.loc[done, "lr"].dropna()}))
        yield Answer(contrast, frame, pairs.unpaired, pairs.unfinished, rule, tried)


def gain_table(found: Sequence[Answer]) -> pd.DataFrame:
    """A row per contrast, setting and number of images per class.

    Returns:
        question, label, about, setting, main (the setting with the most pairs at its number of
        images per class), n_per_class, gain_points, low, high (95 %; None for a
        single repetition), n and unit (what the interval counts), pairs, pairs_low and pairs_high
        (the interval over pairs as if they were independent, which those of one draw of classes
        are not), left, right (mean accuracies of the pairs, fractions), p, p_holm (over the
        question's main rows, or over its others), verdict (higher or lower where the interval
        excludes zero and there are three pairs or more, else undecided), lr, edge (highest or
        lowest where the left arm's chosen rate is that of those tried), unpaired, unfinished,
        note. Empty without a pair.
    """
    rows = [row for answer in found for row in _with_main(list(_rows(answer)))]
    families: dict[str, dict[str, float]] = {}
    for place, row in enumerate(rows):
        if row["p"] is not None:
            family = f"{row['question']} {row['main']}"
            families.setdefault(family, {})[str(place)] = row["p"]
    for p_values in families.values():
        for key, adjusted in holm(p_values).items():
            rows[int(key)]["p_holm"] = adjusted
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _with_main(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    most: dict[Any, int] = {}
    for row in rows:
        most[row["n_per_class"]] = max(row["pairs"], most.get(row["n_per_class"], 0))
    main = [row["pairs"] == most[row["n_per_class"]] for row in rows]
    # Of settings with as many pairs the usual one, which needs no name, comes before others.
    usual = {r["n_per_class"] for r, m in zip(rows, main, strict=True) if m and not r["setting"]}
    return [
        row | {"main": m and (not row["setting"] or row["n_per_class"] not in usual)}
        for row, m in zip(rows, main, strict=True)
    ]


_COLUMNS = (
    *("question", "label", "about", "setting", "main", "n_per_class", "gain_points", "low", "high"),
    *("n", "unit", "pairs", "pairs_low", "pairs_high", "left", "right", "p", "p_holm", "verdict"),
    *("lr", "edge", "unpaired", "unfinished", "note"),
)


def _rows(answer: Answer) -> Iterator[dict[str, Any]]:
    contrast, frame = answer.contrast, answer.frame
    words = key_of(frame, ["setting", "n_per_class"])
    commonest = frame["setting"].value_counts().to_dict()
    groups = [group for _, group in frame.groupby(words, sort=False)]
    groups.sort(key=lambda g: _place(g.iloc[0], commonest))
    for group in groups:
        first = group.iloc[0]
        n = first["n_per_class"]
        e = summarise(group, "gain_points", f"{contrast.label} {first['setting']} {n}")
        means = group.groupby(["task", "seed"], sort=True)["gain_points"].mean()
        over_pairs = student_interval(means.to_numpy(), unit="pair")
        few = len(means) < _LEAST_PAIRS or (e.n < _LEAST_PAIRS and over_pairs.sign != e.sign)
        yield {
            "question": contrast.question,
            "label": contrast.label,
            "about": contrast.about,
            "setting": first["setting"],
            "n_per_class": None if n is None or n != n else float(n),
            "gain_points": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
            "unit": e.unit,
            "pairs": len(group),
            "pairs_low": over_pairs.low,
            "pairs_high": over_pairs.high,
            "left": float(group["left"].mean()),
            "right": float(group["right"].mean()),
            "p": e.p,
            "p_holm": None,
            "verdict": "undecided" if few else _SAID[e.sign],
            "lr": answer.lr,
            "edge": _edge(answer, group),
            "unpaired": answer.unpaired,
            "unfinished": answer.unfinished,
            "note": e.note,
        }


def _edge(answer: Answer, group: pd.DataFrame) -> str:
    chosen, tried = {float(rate) for rate in group["lr"].dropna()}, answer.tried
    if answer.lr != "best" or len(tried) < 2 or len(chosen) != 1:
        return ""
    return {tried[0]: "lowest", tried[-1]: "highest"}.get(chosen.pop(), "")


_SAID = {1: "higher", -1: "lower", 0: "undecided"}
_LEAST_PAIRS = 3
"""Fewer decide nothing: two that happen to agree have an interval of hardly any width."""


def _place(row: pd.Series[Any], commonest: Mapping[Any, int]) -> tuple[float, str, float]:
    """The setting with the most pairs first, then few images before many."""
    n = row["n_per_class"]
    known = float(n) if n is not None and n == n else math.inf
    return -commonest[row["setting"]], str(row["setting"]), known
