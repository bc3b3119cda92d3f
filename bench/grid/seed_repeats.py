"""Cells that differ from an earlier one in their seeds alone: its run, with other seeds.

A grid of a hundred thousand cells repeats most of its conditions with other seeds. A condition is
read and checked once; nothing that is checked depends on seeds, except where a run starts from
another of the same seed (`source: self`, `parent:`) or varies seeds itself (a soup), and those
cells are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.grid.cells import Assignment
from bench.grid.errors import CellError
from bench.specs.run import RunSpec, Seeds

_SEEDS = ("seed", "seeds", "seeds.draw", "seeds.init", "seeds.order")

Names = tuple[str, ...]
Key = tuple[Names, tuple[int, ...]]
"""Names, and the id of each one's value."""


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
        self._splits: dict[Names, tuple[Names, Names]] = {}

    def get(self, assignment: Assignment) -> RunSpec | None:
        """The run of a cell, if one that differs in seeds alone was read before."""
        others, seeds = self._keys(assignment)
        run = self._runs.get(others)
        if run is None:
            return None
        if seeds not in self._seeds:
            try:
                self._seeds[seeds] = self._seeds_of({name: assignment[name] for name in seeds[0]})
            except CellError:  # read in full, the cell says where the wrong seed stands
                return None
        return run.model_copy(update={"seeds": self._seeds[seeds]})

    def add(self, assignment: Assignment, cell: Mapping[str, Any], run: RunSpec) -> None:
        """Remembers a run that was read from a cell."""
        follows = cell.get("source") == "self" or cell.get("parent") is not None
        if not follows and not run.method.over:
            self._runs[self._keys(assignment)[0]] = run

    def _keys(self, assignment: Assignment) -> tuple[Key, Key]:
        """What an assignment sets besides seeds, and its seeds."""
        names = tuple(assignment)
        if names not in self._splits:
            others = tuple(name for name in names if name not in _SEEDS)
            self._splits[names] = (others, tuple(name for name in names if name in _SEEDS))
        others, seeds = self._splits[names]
        return (
            (others, tuple([id(assignment[name]) for name in others])),
            (seeds, tuple([id(assignment[name]) for name in seeds])),
        )
