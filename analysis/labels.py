"""What a row of a leaderboard is called in tables and figures: its recipe and its setting.

A recipe is what was done (tuned, frozen, scratch, a method with the options that are not at their
default). A setting is what else was held fixed; only what differs between the rows is named.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.board import FACTORS, SEEDS, key_of, options
from bench import methods
from bench.errors import GridError

__all__ = ["REPETITION", "count", "number", "recipe", "root", "settings"]

REPETITION = ("class_draw", *SEEDS)
"""Columns that tell repetitions of one condition apart."""


def root(source: Any) -> str:
    """Where a chain of runs began.

    >>> root("near > self F(1-7)R(8)"), root("none")
    ('near', 'none')
    """
    return str(source).split(" > ")[0] if isinstance(source, str) else "none"


def _given(value: Any) -> bool:
    return value is not None and value == value and value != ""


@functools.cache
def _defaults(method: str) -> Mapping[str, str]:
    try:
        found = methods.check(method, {}).model_dump()
    except GridError:  # a leaderboard of another version: all its options are named then
        return {}
    return {name: str(value) for name, value in found.items()}


def recipe(row: Mapping[Any, Any]) -> str:
    """What was done, in a few words; the row is one of `analysis.board.prepare`.

    >>> recipe({"method": "plain", "treatment": "tune", "reinit": 1, "depth": 8, "source": "near"})
    'tuned'
    >>> recipe({"method": "soft", "treatment": "tune", "reinit": 1, "method_options":
    ...     "schedule=zero", "borrowed": "parent, 0.1 of images"})
    'soft, schedule zero, 0.1 of images'
    """
    method = str(row["method"])
    chain = str(row.get("source", "")).partition(" > ")[2]
    words = [_treatment(row)] if method == "plain" else [method.replace("_", " ")]
    if method != "plain" and row["treatment"] not in ("tune", "freeze"):
        words.append(_treatment(row))
    if chain:
        words[0] += f" after {chain.removeprefix('self ')}"
    usual = _defaults(method)
    said = options(row.get("method_options"))
    words += [_option(name, value) for name, value in said.items() if usual.get(name) != value]
    borrowed = row.get("borrowed")
    if isinstance(borrowed, str):
        parts = borrowed.split(", ")
        words += parts[1:] if parts[0] == "parent" else [f"borrows {borrowed}"]
    tuned, decay, pull = (row.get(name) for name in ("tuned", "layer_lr_decay", "l2_sp"))
    if _given(tuned):
        words.append(f"{tuned} parameters only")
    if _given(decay):
        words.append(f"layer-wise rates {number(decay)}")
    if _given(pull):
        words.append(f"L2-SP {number(pull)}")
    return ", ".join(words)


def _treatment(row: Mapping[Any, Any]) -> str:
    treatment, reinit = row["treatment"], row["reinit"]
    if treatment == "scratch":
        return "scratch"
    names = {"tune": "tuned", "freeze": "frozen"}
    text = names.get(str(treatment), f"first {row.get('frozen')} frozen")
    if treatment == "partly" and not row.get("frozen"):
        text = f"partly frozen {row.get('pattern')}"
    return f"{text}, last {reinit} random" if reinit > 1 else text


def _option(name: str, value: str) -> str:
    if value in ("True", "False"):
        return f"{'' if value == 'True' else 'not '}{name.replace('_', ' ')}"
    return f"{name.replace('_', ' ')} {value}"


def number(value: Any, digits: int = 3) -> str:
    """A number without needless digits.

    >>> number(0.30000000000000004), number(100.0), number(1234567.0), number(0.0001)
    ('0.3', '100', '1,234,567', '0.0001')
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or math.isinf(value):
            return "–"
        if float(value).is_integer():
            return f"{int(value):,}"
        return f"{value:.{digits}g}"
    return str(value)


def count(n: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "class draw"), count(3, "class draw"), count(2, "box")
    ('1 class draw', '3 class draws', '2 boxes')
    """
    plural = f"{noun}es" if noun.endswith(("x", "s", "ch")) else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


_SAID: Mapping[str, str] = {
    "source": "from {}",
    "lr": "lr {}",
    "copied_lr_factor": "copied layers at {} × lr",
    "weight_decay": "weight decay {}",
    "epochs": "{} epochs",
    "batch_size": "batches of {}",
    "expand_to": "expanded to {}",
    "image_size": "{} pixels",
    "target_classes": "{} classes",
    "source_classes": "{} source classes",
    "source_epochs": "{} source epochs",
    "images_per_class": "{} images per class",
    "tuned": "only {} tuned",
    "layer_lr_decay": "layer-wise rates {}",
    "l2_sp": "L2-SP {}",
    "borrowed": "borrows {}",
}
_UNSAID = {"expand_to": "not expanded", "borrowed": "borrows nothing", "tuned": "all tuned"}
_ALWAYS = ("grid", "dataset", "model", "source", "pattern")
"""Said of every row where they differ; of other factors what is not the commonest is said."""
_FIRST = (
    "grid",
    "dataset",
    "model",
    "source",
    "target",
    "pattern",
    "expand_to",
    "copied_lr_factor",
)


def settings(
    frame: pd.DataFrame, leave_out: Sequence[str], beside: Sequence[str] = ()
) -> list[str]:
    """What tells each row from the other rows with equal `beside`; empty for the commonest setting.

    Args:
        frame: rows of a prepared leaderboard.
        leave_out: factors that are not part of a setting: what is compared, and repetitions.
        beside: columns given next to the setting (such as images per class). A factor that they
            and earlier factors determine (epochs that go with images per class) is not named.

    >>> rows = pd.DataFrame({"target": ["a", "a", "b"], "epochs": [5, 5, 5]})
    >>> settings(rows, [])
    ['', '', 'b']
    """
    if frame.empty:
        return []
    names = [n for n in FACTORS if n in frame.columns and n not in {*leave_out, *REPETITION}]
    names.sort(key=lambda n: _FIRST.index(n) if n in _FIRST else len(_FIRST))
    base = key_of(frame, list(beside)) if beside else pd.Series("", index=frame.index)
    told, kept = base, []
    for name in names:
        words = key_of(frame, [name])
        if words.groupby(told).nunique().max() > 1:
            kept.append((name, words, _commonest(words, base)))
            told = told + "|" + words
    rows = frame.to_dict("records")
    said: list[list[str]] = [[] for _ in rows]
    for name, words, usual in kept:
        for place, (word, common) in enumerate(zip(words, usual, strict=True)):
            if name in _ALWAYS or word != common:
                said[place].append(_say(name, rows[place][name]))
    return [", ".join(words) for words in said]


def _commonest(words: pd.Series[str], base: pd.Series[str]) -> list[str]:
    """For each row the commonest word of its group; of equal ones what is commoner in all."""
    overall = words.value_counts().to_dict()
    usual = {}
    for key in dict.fromkeys(base):
        counts = words[base == key].value_counts().to_dict()
        usual[key] = min(counts, key=lambda word: (-counts[word], -overall[word], word))
    return [str(usual[key]) for key in base]


def _say(name: str, value: Any) -> str:
    if not _given(value):
        return _UNSAID.get(name, f"no {name.replace('_', ' ')}")
    if name == "source" and value == "none":
        return "no source"
    if name == "method_options":
        return ", ".join(_option(k, v) for k, v in options(value).items())
    return _SAID.get(name, "{}").format(number(value))
