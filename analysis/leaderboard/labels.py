"""What a row of a leaderboard is called in tables and figures: its recipe and its setting.

A recipe is what was done (tuned, frozen, scratch, a method with the options that are not at their
default). A setting is what else was held fixed; only what differs between the rows is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.leaderboard.earlier import default_options
from analysis.leaderboard.read import differ_within, key_of, repetition, varying, words_of


def _given(value: Any) -> bool:
    return value is not None and value == value and value != ""


def options(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The options of a run's method; those that the leaderboard does not state have their default.

    A column of a CSV that has whole numbers and empty cells is read as numbers with a point; an
    option that is text or a whole number by default is that again.

    >>> options({"method": "soft", "method.schedule": "zero"})["schedule"]
    'zero'
    >>> options({"method": "probe", "method.layer": 7.0})["layer"]
    '7'
    """
    found = dict(default_options(str(row["method"])))
    for key, value in row.items():
        if str(key).startswith("method.") and _given(value):
            name = str(key)[7:]
            found[name] = _like(found.get(name), value)
    return found


def _like(default: Any, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and isinstance(default, (str, int)):
        return str(int(value)) if isinstance(default, str) else int(value)
    return value


def recipe(row: Mapping[Any, Any]) -> str:
    """What was done, in a few words; the row is one of `analysis.leaderboard.read.prepare`.

    >>> recipe({"method": "plain", "treatment": "tune", "reinit": 1, "depth": 8, "source": "near"})
    'tuned'
    >>> recipe({"method": "soft", "treatment": "tune", "reinit": 1, "method.schedule": "zero",
    ...     "borrowed": "parent, 0.1 of images", "borrowed_sets": 1, "borrow.images": 0.1})
    'soft, schedule zero, 0.1 of images'
    """
    method = str(row["method"])
    words = [_treatment(row)] if method == "plain" else [method.replace("_", " ")]
    if method != "plain" and row["treatment"] not in ("tune", "freeze"):
        words.append(_treatment(row))
    if _links(row) > 1:
        before = row.get("source.method.name")
        how = f" {before}" if _given(before) and before != "plain" else ""
        words[0] += f" after {row.get('source_pattern')}{how}"
    usual = default_options(method)
    stated = {k[7:]: v for k, v in row.items() if str(k).startswith("method.") and _given(v)}
    words += [_option(name, value) for name, value in stated.items() if usual.get(name) != value]
    words += _borrowed(row)
    tuned, decay, pull = (row.get(name) for name in ("tuned", "layer_lr_decay", "l2_sp"))
    if _given(tuned):
        words.append(f"{tuned} parameters only")
    if _given(decay):
        words.append(f"layer-wise rates {number(decay)}")
    if _given(pull):
        words.append(f"L2-SP {number(pull)}")
    return ", ".join(words)


def _links(row: Mapping[Any, Any]) -> int:
    links = row.get("source_links")
    return int(links) if _given(links) and links is not None else 0


def _borrowed(row: Mapping[Any, Any]) -> list[str]:
    parts = [
        f"{number(row[name])} {words}"
        for name, words in (
            ("borrow.categories", "of classes"),
            ("borrow.images", "of images"),
            ("borrow.total_images", "random images"),
        )
        if _given(row.get(name))
    ]
    sets = row.get("borrowed_sets")
    several = _given(sets) and sets is not None and sets > 1
    if several or (_given(row.get("borrowed")) and row["borrowed"] != "parent" and not parts):
        return [f"borrows {row['borrowed']}"]
    return parts


def start_and_recipe(row: Mapping[Any, Any]) -> str:
    """A line's name: what it starts from, and what was done.

    >>> start_and_recipe({"source": "near", "source_origin": "near", "method": "plain",
    ...     "treatment": "tune", "reinit": 1})
    'near, tuned'
    """
    done, origin = recipe(row), str(row.get("source_origin"))
    if origin == "none":
        return done
    if row.get("source_side") == "self" and _links(row) == 1 and row["treatment"] == "tune":
        return "scratch model, tuned again"
    return f"{origin}, {done}"


def _treatment(row: Mapping[Any, Any]) -> str:
    treatment, reinit = row["treatment"], row["reinit"]
    if treatment == "scratch":
        return "scratch"
    names = {"tune": "tuned", "freeze": "frozen"}
    text = names.get(str(treatment), f"first {row.get('frozen')} frozen")
    if treatment == "partly" and not row.get("frozen"):
        text = f"partly frozen {row.get('pattern')}"
    return f"{text}, last {reinit} random" if reinit > 1 else text


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{'' if value else 'not '}{name.replace('_', ' ')}"
    return f"{name.replace('_', ' ')} {number(value)}"


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
_LAST = ("method_options", "borrowed", "source_kind", "source_side", "source_origin")
"""Labels: named only where nothing before tells the rows apart."""


def settings(
    frame: pd.DataFrame,
    leave_out: Sequence[str],
    beside: Sequence[str] = (),
    weights: Sequence[int] = (),
) -> list[str]:
    """What tells each row from the other rows with equal `beside`; empty for the commonest setting.

    Args:
        frame: rows of a prepared leaderboard.
        leave_out: factors that are not part of a setting: what is compared. Repetitions never are.
        beside: columns given next to the setting (such as images per class). A factor that they
            and earlier factors determine (epochs that go with images per class) is not named.
        weights: how often each row counts for what is commonest; once by default.

    >>> rows = pd.DataFrame({"target": ["a", "a", "b"], "epochs": [5, 5, 5]})
    >>> settings(rows, [])
    ['', '', 'b']
    """
    if frame.empty:
        return []
    counts = list(weights) or [1] * len(frame)
    names = [n for n in varying(frame) if n not in leave_out and not repetition(n)]
    names.sort(key=_order)
    base = key_of(frame, list(beside)).tolist()
    told, kept = base, []
    for name in names:
        words = words_of(frame[name])
        if differ_within(words, told):
            kept.append((name, words, _commonest(words, base, counts)))
            told = [f"{before}|{word}" for before, word in zip(told, words, strict=True)]
    rows = frame[[name for name, _, _ in kept]].to_dict("records")
    said: list[list[str]] = [[] for _ in range(len(frame))]
    for name, words, usual in kept:
        for place, (word, common) in enumerate(zip(words, usual, strict=True)):
            if name in _ALWAYS or word != common:
                said[place].append(_say(name, rows[place][name]))
    return [", ".join(words) for words in said]


def _order(name: str) -> int:
    if name in _FIRST:
        return _FIRST.index(name)
    return len(_FIRST) + (name in _LAST)


def _commonest(words: Sequence[str], base: Sequence[str], counts: Sequence[int]) -> list[str]:
    """For each row the commonest word of its group; of equal ones what is commoner in all."""
    overall: dict[str, int] = {}
    groups: dict[str, dict[str, int]] = {}
    for word, group, n in zip(words, base, counts, strict=True):
        overall[word] = overall.get(word, 0) + n
        group_counts = groups.setdefault(group, {})
        group_counts[word] = group_counts.get(word, 0) + n
    usual = {
        group: min(found, key=lambda word: (-found[word], -overall[word], word))
        for group, found in groups.items()
    }
    return [usual[group] for group in base]


def _say(name: str, value: Any) -> str:
    short = name.rpartition(".")[2].replace("_", " ")
    short = f"source {short}" if name.startswith("source.") else short
    short = f"borrowed {short}" if name.startswith("borrow") and "." in name else short
    if not _given(value):
        return _UNSAID.get(name, f"no {short}")
    if name == "source" and value == "none":
        return "no source"
    if name in _SAID:
        return _SAID[name].format(number(value))
    if isinstance(value, bool):
        return f"{'' if value else 'not '}{short}"
    return f"{short} {number(value)}" if "." in name else number(value)
