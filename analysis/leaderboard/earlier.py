"""Leaderboards that were written before every setting had a column, or by hand.

Their labels are read into the columns of today once, when the file is opened. What had no column
then is not known: runs that differ in it alone cannot be told apart, and a note says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench import methods

_UNKNOWN = (
    "this leaderboard was written by an earlier version: settings that had no column then are not "
    "known, so runs that differ in them alone count as repetitions; bench leaderboard GRID writes "
    "it again"
)
_PARTS = {
    "categories": re.compile(r"(?:^|, )([0-9.e-]+) of classes"),
    "images": re.compile(r"(?:^|, )([0-9.e-]+) of images"),
    "total_images": re.compile(r"(?:^|, )(\d+) random images"),
}
_PATTERN = re.compile(r"[TFR]\([0-9,-]+\)\S*")
_TAKE = re.compile(r" take (\d+)$")


_BORROWING = ("soft", "joint", "selective", "soft_selective")


@functools.cache
def default_options(method: str) -> Mapping[str, Any]:
    """A method's options at their defaults; none of a method that this version does not have."""
    return methods.defaults_of(method)


def described(board: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A copy of the table with the columns of today, and what is to be known about it.

    >>> old = pd.DataFrame({"source": ["near"], "method_options": ["k0=20"], "target": ["t"]})
    >>> described(old)[0][["source_side", "method.k0"]].values.tolist()
    [['near', 20]]
    """
    result = board.copy()
    if "condition_id" in board.columns and board["condition_id"].notna().any():
        return result, []
    columns: dict[str, list[Any]] = {}
    rows = board.to_dict("records")
    for place, row in enumerate(rows):
        for name, value in _settings(row).items():
            columns.setdefault(name, [None] * len(rows))[place] = value
    for name, values in columns.items():
        if name not in result.columns or result[name].isna().all():
            result[name] = pd.Series(values, index=result.index, dtype=object)
    if "target.classes.take" in columns:
        result["target"] = [_TAKE.sub("", str(text)) for text in result["target"]]
    return result, [_UNKNOWN] if "run_id" in board.columns and board["run_id"].notna().any() else []


def _settings(row: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _source(row.get("source"))
    for part in _words(row.get("method_options")):
        name, _, value = part.partition("=")
        found[f"method.{name}"] = _typed(value)
    method = str(row.get("method"))
    found = {f"method.{name}": value for name, value in default_options(method).items()} | found
    sets = _words(row.get("borrowed"))
    # Methods that borrow had at least one selection, whether or not a hand-made row names it.
    found["borrowed_sets"] = len(sets) or int(method in _BORROWING)
    for number, text in enumerate(sets, start=1):
        for name, mark in _PARTS.items():
            if match := mark.search(text):
                found[f"borrow{number if number > 1 else ''}.{name}"] = _typed(match[1])
    if match := _TAKE.search(str(row.get("target"))):
        found["target.classes.take"] = int(match[1])
    return found


def _source(label: Any) -> dict[str, Any]:
    if not isinstance(label, str):
        return {}
    links = label.split(" > ")
    end = links[0].split(" ")[-1]
    kind = {"none": "scratch", "timm": "timm", "file": "file"}.get(links[0].split(" ")[0], "run")
    pattern = _PATTERN.search(links[-1]) if len(links) > 1 else None
    random = {"source.classes.recipe": "categories"} if links[0].startswith("categories") else {}
    return random | {
        "source_kind": kind,
        "source_side": end if end in ("near", "far", "self") else None,
        "source_origin": links[0],
        "source_links": len(links) if kind == "run" else len(links) - 1,
        "source_pattern": pattern[0] if pattern else None,
    }


def _words(text: Any) -> list[str]:
    return [part for part in text.split(";") if part] if isinstance(text, str) else []


def _typed(text: str) -> Any:
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
