"""Cells of a grid as assignments of dotted keys, and how they are laid over a mapping."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Assignment = dict[str, Any]
Place = tuple[str | int, ...]
Value = tuple[Assignment, dict[str, Place]]
"""What one value of an axis sets, and where in the file that stands."""


def product(axes: Sequence[Sequence[Value]]) -> Iterator[tuple[Assignment, tuple[Value, ...]]]:
    """All combinations of the axes' values: what each sets, and the values it is made of."""
    for values in itertools.product(*axes):
        assignment: Assignment = {}
        for part, _ in values:
            assignment.update(part)
        yield assignment, values


def matches(pattern: Assignment, assignment: Assignment) -> bool:
    """Whether an assignment has all keys of `pattern` with their values."""
    return all(key in assignment and assignment[key] == value for key, value in pattern.items())


def undot(key: str, value: Any) -> dict[str, Any]:
    """A dotted key as nested mappings.

    >>> undot("train.lr", 0.1)
    {'train': {'lr': 0.1}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def assign(cell: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `cell` with the dotted key set; a name in the way becomes `{name: …}`."""
    head, _, rest = key.partition(".")
    if not rest:
        return {**cell, head: value}
    inner = cell.get(head)
    if isinstance(inner, str) and inner not in ("none", "self"):
        inner = {"name": inner}
    return {**cell, head: assign(inner if isinstance(inner, Mapping) else {}, rest, value)}
