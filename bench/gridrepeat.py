"""Cells that differ from an earlier one in their seeds alone: its run, with other seeds.

A grid of a hundred thousand cells repeats most of its conditions with other seeds. A condition is
read and checked once; nothing that is checked depends on seeds, except where a run starts from
another of the same seed (`source: self`, `parent:`), and those cells are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.gridcells import Assignment
from bench.griderrors import CellError
from bench.spec import RunSpec, Seeds

__all__ = ["Repeats"]

_SEEDS = ("seed", "seeds", "seeds.draw", "seeds.init", "seeds.order")

Key = tuple[tuple[str, int], ...]


class Repeats:
    """Remembers the runs of an experiment by what their cells set besides seeds.

    Values are told apart by `id()`: those of an axis stand in the file's one document, which must
    outlive this.

    Args:
        seeds_of: the seeds of a cell, from the seed keys of its assignment.
    """

    def __init__(self, seeds_of: Callable[[Assignment], Seeds]) -> None:
        self._seeds_of = seeds_of
        self._runs: dict[Key, RunSpec] = {}
        self._seeds: dict[Key, Seeds] = {}

    def get(self, assignment: Assignment) -> RunSpec | None:
        """The run of a cell, if one that differs in seeds alone was read before."""
        run = self._runs.get(_key(assignment, seeds=False))
        if run is None:
            return None
        key = _key(assignment, seeds=True)
        if key not in self._seeds:
            try:
                self._seeds[key] = self._seeds_of({k: assignment[k] for k, _ in key})
            except CellError:  # read in full, the cell says where the wrong seed stands
                return None
        return run.model_copy(update={"seeds": self._seeds[key]})

    def add(self, assignment: Assignment, cell: Mapping[str, Any], run: RunSpec) -> None:
        """Remembers a run that was read from a cell."""
        if cell.get("source") != "self" and cell.get("parent") is None:
            self._runs[_key(assignment, seeds=False)] = run


def _key(assignment: Assignment, *, seeds: bool) -> Key:
    return tuple([(k, id(v)) for k, v in assignment.items() if (k in _SEEDS) is seeds])
