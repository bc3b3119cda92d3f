"""The questions a leaderboard answers, each as pairs of arms with all else equal.

Tune or freeze, pretrained or scratch, which source, which method, how many layers to copy or to
freeze, augmentation. Gains are in percentage points, as LI states them, paired by data set,
classes, draw and seeds. A gain is claimed only where it is decided together with everything else
that the leaderboard allows to be tested (`analysis.statistics.decisions`). What has no pairs has no
row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.units import summarise
from analysis.leaderboard import arms
from analysis.leaderboard.labels import recipe, settings
from analysis.leaderboard.read import (
    COPIED,
    LOSS,
    PATTERN,
    SIZES,
    SOURCE,
    differ_within,
    key_of,
    varying,
    words_of,
)
from analysis.statistics.decisions import Decision, difference_test, hypothesis_name

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
        names: the two arms in words; `treatment` what was done in both, where that is one thing.
        source: what both start from, or the left arm.
    """

    question: Question
    label: str
    left: pd.Series[bool]
    right: pd.Series[bool]
    vary: tuple[str, ...]
    about: str = ""
    names: tuple[str, str] = ("", "")
    treatment: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """A contrast with its pairs.

    Attributes:
        frame: of `analysis.comparisons.pairing.Pairs`, with `gain_points` and `setting`.
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
        board: from `analysis.leaderboard.read.prepare`.
    """
    plain = _usual(board) & (board["role"] != "source")
    direct = board["source_kind"].isin(["timm", "file"]) | (
        (board["source_links"] == 1) & (board["source_side"] != "self")
    )
    named = [s for s in dict.fromkeys(board.loc[plain & direct, "source"]) if isinstance(s, str)]
    sources = sorted(named, key=lambda s: _order(board, s))
    found: list[Contrast] = []
    for build in (_start, _treatment, _source, _method, _copy, _freeze):
        found += build(board, plain, sources)
    expanded = board["expand_to"].notna()
    label, names = "expanded offline − not expanded", ("expanded offline", "not expanded")
    vary = ("expand_to", "train.equal_steps")
    found.append(Contrast("augment", label, plain & expanded, plain & ~expanded, vary, "", names))
    return found


def _order(board: pd.DataFrame, source: str) -> tuple[int, float, str]:
    """near, far, then others by the number of their classes, the largest first."""
    rows = board[board["source"] == source]
    side = str(rows["source_side"].iloc[0])
    classes = pd.to_numeric(rows["source_classes"]).max()
    return {"near": 0, "far": 1}.get(side, 2), -classes if classes == classes else 0.0, source


_NOTHING_COPIED = (*SOURCE, *PATTERN, *COPIED)


def _start(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    last = plain & (board["reinit"] == 1)
    scratch = plain & (board["treatment"] == "scratch")
    found = [
        Contrast(
            "start",
            f"{source}, {word} − scratch",
            last & treated & of,
            scratch,
            _NOTHING_COPIED,
            names=(f"{source}, {word}", "scratch"),
            treatment=word,
            source=source,
        )
        for source in sources
        for of in [board["source"] == source]
        for word, treated in _treatments(board)
    ]
    again, name = arms.fine_tuned_again(board) & plain, "scratch model tuned again"
    both = (name, "scratch")
    return [
        *found,
        Contrast("start", f"{name} − scratch", again, scratch, _NOTHING_COPIED, names=both),
    ]


def _treatments(board: pd.DataFrame) -> list[tuple[str, pd.Series[bool]]]:
    return [(w, board["treatment"] == t) for w, t in (("tuned", "tune"), ("frozen", "freeze"))]


def _treatment(
    board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]
) -> list[Contrast]:
    last = plain & (board["reinit"] == 1)
    tuned, frozen = (last & rows for _, rows in _treatments(board))
    return [
        Contrast(
            "treatment",
            f"{s}, tuned − frozen",
            tuned & of,
            frozen & of,
            PATTERN,
            names=(f"{s}, tuned", f"{s}, frozen"),
            source=s,
        )
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
            SOURCE,
            names=(a, b),
            treatment=word,
        )
        for a, b in combinations(sources, 2)
        for word, treated in _treatments(board)
    ]


def _method(board: pd.DataFrame, plain: pd.Series[bool], sources: Sequence[str]) -> list[Contrast]:
    """Every other recipe against plain tuning, where the leaderboard compares methods.

    A recipe that starts straight from the source has the same source run as its partner; chains
    and training from scratch start elsewhere.
    """
    targets = board["role"] != "source"
    recipes = pd.Series([recipe(row) for row in board.to_dict("records")], index=board.index)
    if not (targets & ~_usual(board)).any():
        return []
    tuned = plain & (board["treatment"] == "tune") & (board["reinit"] == 1)
    straight = (*LOSS, *PATTERN, *COPIED)
    wanted = ~arms.is_method(board, "probe") & targets & ~tuned & ~_layers(board)
    found = []
    for source in sources:
        base = tuned & (board["source"] == source)
        for direct, vary in ((True, straight), (False, (*straight, *SOURCE))):
            of = board["source_origin"].isin([source, "none"])
            of &= (board["source"] == source) == direct
            found += [
                Contrast(
                    "method",
                    name,
                    wanted & (recipes == name) & of,
                    base,
                    vary,
                    source,
                    (name, "tuned"),
                    source=source,
                )
                for name in dict.fromkeys(recipes[wanted & of])
            ]
    return found


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
            PATTERN,
            names=("last layer random", f"last {n} random"),
            treatment=word,
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
            PATTERN,
            names=(f"first {n} frozen", "none frozen"),
        )
        for n in sizes
    ]


def answers(evidence: Evidence) -> list[Answer]:
    """The contrasts that have pairs; learning rates as `Evidence.lr_rule` treats them."""
    answered = []
    for contrast in contrasts(evidence.board):
        if not contrast.left.any() or not contrast.right.any():
            continue
        rule = evidence.lr_rule(contrast.left | contrast.right)
        pairs = evidence.pairs(contrast.left, contrast.right, contrast.vary, lr=rule)
        if not len(pairs):
            continue
        named = _settings(evidence.board, pairs.frame, contrast)
        points = 100 * pairs.frame["difference"]
        frame = pairs.frame.assign(gain_points=points, setting=named)
        done = contrast.left & evidence.board["status"].isin(["done", "diverged"])
        tried = tuple(sorted({float(rate) for rate in evidence.board.loc[done, "lr"].dropna()}))
        answered.append(Answer(contrast, frame, pairs.unpaired, pairs.unfinished, rule, tried))
    return answered


def _settings(board: pd.DataFrame, frame: pd.DataFrame, contrast: Contrast) -> list[str]:
    """What tells a pair from others at its number of images: of the left arm, and of the right."""
    leave = {"images_per_class", "lr", "target_classes", *_text_columns(board, contrast)}
    rows = board.loc[list(frame["right_place"])].reset_index(drop=True)
    row_of = key_of(frame, ["comparison", *_sizes(frame)]).tolist()
    # What one row repeats over, such as the target and the sources that go with it.
    leave |= {
        n
        for n in varying(board)
        for side in (frame, rows)
        if differ_within(words_of(side[n]), row_of)
    }
    left = settings(frame, sorted(leave), ["n_per_class"])
    right = settings(rows, sorted(leave), ["n_per_class"])
    names = [
        a if a == b or not b else f"{a or 'usual'} against {b}"
        for a, b in zip(left, right, strict=True)
    ]
    # Comparisons that differ in nothing that has words, at one size, are told apart by a number,
    # the same at all sizes.
    told = pd.DataFrame(
        {"name": names, "kind": list(frame["comparison"]), "size": key_of(frame, _sizes(frame))}
    )
    crowded = told.groupby(["name", "size"])["kind"].nunique().groupby("name").max()
    often = told.value_counts(["name", "kind"]).reset_index()
    often = often.sort_values(["count", "kind"], ascending=[False, True])
    order = dict(
        zip(
            zip(often["name"], often["kind"], strict=True),
            often.groupby("name", sort=False).cumcount(),
            strict=True,
        )
    )
    places = [
        int(order[name, kind]) if crowded[name] > 1 else 0
        for name, kind in zip(told["name"], told["kind"], strict=True)
    ]
    return [
        f"{name or 'usual'} ({place + 1})" if place else name
        for name, place in zip(names, places, strict=True)
    ]


def _text_columns(board: pd.DataFrame, contrast: Contrast) -> list[str]:
    """Settings that the contrast's label says, so that its rows need not name them."""
    if contrast.question == "method":
        said = ("method", "borrow", *COPIED[1:])
        return ["pattern", "source", *(n for n in board.columns if str(n).startswith(said))]
    return {"augment": [], "copy": ["pattern"], "freeze": []}.get(
        contrast.question, ["pattern", "source"]
    )


def gain_rows(found: Sequence[Answer], evidence: Evidence) -> pd.DataFrame:
    """A row per contrast, setting and number of images per class.

    Returns:
        question, label, about, left_name, right_name, treatment, source, setting, main (the
        setting with the most pairs at its number of images per class), n_per_class, gain_points,
        low, high (95 %; None for a single repetition), n and unit (what the interval counts),
        here_low and here_high (as a statement about these tasks alone), pairs, left, right (mean
        accuracies of the pairs, fractions), diverged (runs at chance), p, test, lr, edge (highest
        or lowest where the left arm's chosen rate is that of those tried), unpaired, unfinished,
        note, estimate (behind all of it). Empty without a pair.
    """
    rows = [row for answer in found for row in _with_main(list(_rows(answer, evidence)))]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def decided(rows: pd.DataFrame, decisions: Mapping[str, Decision]) -> pd.DataFrame:
    """The rows with `p_holm`, `verdict` (higher, lower or undecided) and `scope`.

    The verdict is that on tasks of this kind where it is decided, else that on these tasks; `scope`
    says which: "in general", "on these 3 tasks" or "on this task".
    """
    found = []
    for test, n, unit in zip(rows["test"], rows["n"], rows["unit"], strict=True):
        decision = decisions[test.hypothesis]
        general, here = decision.of(test)
        sign = general or here
        tasks = n if unit == "task" else 1
        where = "on this task" if tasks == 1 else f"on these {tasks} tasks"
        scope = "" if not sign else "in general" if general else where
        found.append((decision.p, _SAID[sign], scope))
    result = rows.copy()
    for place, name in enumerate(("p_holm", "verdict", "scope")):
        result[name] = pd.Series([row[place] for row in found], index=rows.index, dtype=object)
    return result


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
    *("question", "label", "about", "left_name", "right_name", "treatment", "source", "setting"),
    *("main", "n_per_class", "gain_points", "low", "high", "n", "unit", "here_low", "here_high"),
    *("pairs", "left", "right", "diverged", "p", "test", "lr", "edge", "unpaired", "unfinished"),
    *("note", "estimate"),
)


def _rows(answer: Answer, evidence: Evidence) -> Iterator[dict[str, Any]]:
    contrast, frame = answer.contrast, answer.frame
    words = key_of(frame, ["comparison", "setting", *_sizes(frame)])
    commonest = frame["setting"].value_counts().to_dict()
    groups = [group for _, group in frame.groupby(words, sort=False)]
    groups.sort(key=lambda g: _place(g.iloc[0], commonest))
    for group in groups:
        first = group.iloc[0]
        n = first["n_per_class"]
        name = f"{contrast.label} {first['setting']} {n}"
        e = summarise(group, "gain_points", name, "difference", 100.0)
        here = e.here
        pairs = hypothesis_name(group, "top1_accuracy 0")
        yield {
            "question": contrast.question,
            "label": contrast.label,
            "about": contrast.about,
            "left_name": contrast.names[0],
            "right_name": contrast.names[1],
            "treatment": contrast.treatment,
            "source": contrast.source,
            "setting": first["setting"],
            "n_per_class": None if n is None or n != n else float(n),
            "gain_points": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
            "unit": e.unit,
            "here_low": here.low if here is not None else e.low,
            "here_high": here.high if here is not None else e.high,
            "pairs": len(group),
            "left": float(group["left"].mean()),
            "right": float(group["right"].mean()),
            "diverged": e.diverged,
            "p": e.p,
            "test": difference_test(e, pairs, "points", evidence.rules),
            "lr": answer.lr,
            "edge": _edge(answer, group),
            "unpaired": answer.unpaired,
            "unfinished": answer.unfinished,
            "note": e.note,
            "estimate": e,
        }


def _sizes(frame: pd.DataFrame) -> list[str]:
    """What tells sizes apart; the number of classes only where a task has several."""
    found = [n for n in SIZES if n in frame.columns]
    of_task = ("target_classes", "target.classes.take")
    several = key_of(frame, [n for n in of_task if n in found]).groupby(frame["task"]).nunique()
    return found if several.max() > 1 else [n for n in found if n not in of_task]


def _edge(answer: Answer, group: pd.DataFrame) -> str:
    chosen, tried = {float(rate) for rate in group["lr"].dropna()}, answer.tried
    if answer.lr != "best" or len(tried) < 2 or len(chosen) != 1:
        return ""
    return {tried[0]: "lowest", tried[-1]: "highest"}.get(chosen.pop(), "")


_SAID = {1: "higher", -1: "lower", 0: "undecided"}


def _place(row: pd.Series[Any], commonest: Mapping[Any, int]) -> tuple[float, str, float]:
    """The setting with the most pairs first, then few images before many."""
    n = row["n_per_class"]
    known = float(n) if n is not None and n == n else math.inf
    return -commonest[row["setting"]], str(row["setting"]), known
