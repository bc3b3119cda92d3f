"""Which names may be given, and names of `sources:` and `targets:` replaced by what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.errors import GridError, nearest
from bench.grid.borrow import RESERVED, is_pool
from bench.grid.cell import merge
from bench.grid.cells import Place
from bench.grid.errors import CellError, below

_WORDS = {"source": ("none", "self"), "borrow": RESERVED, "target": ()}
"""What may stand in place of a name."""

_HOMES = {"source": "sources", "borrow": "sources", "target": "targets"}


_LONGEST = 100
_TAKEN = ("(sources)", "(ingredients)", "(features)")


def check_name(name: str, place: str, what: str = "name") -> None:
    """Refuses a name of a grid or an experiment that files, tables or a terminal cannot hold.

    Raises:
        GridError: with the name as it was written, and what is wrong with it.

    >>> check_name("a;b", "grid.yaml:3", "experiment")
    Traceback (most recent call last):
        ...
    bench.core.errors.GridError: grid.yaml:3: experiment 'a;b' has ';' in its name
      give another name: ...
    """
    signs = "".join(sorted({c for c in name if c in "/\\;" or not c.isprintable()}))
    if not name.strip():
        wrong = "has no letters"
    elif signs:
        wrong = f"has {signs!r} in its name"
    elif name.startswith(".") or name != name.strip():
        wrong = "begins with a dot, or begins or ends with a space"
    elif len(name.encode()) > _LONGEST:
        wrong = f"is longer than {_LONGEST} bytes"
    elif name in _TAKEN:
        wrong = "is what tables call runs without an experiment"
    else:
        return
    raise GridError(
        f"{what} {name!r} {wrong}",
        place=place,
        hint="give another name: printable characters without / \\ and ;, no dot in front, at most "
        f"{_LONGEST} bytes",
    )


@dataclass(frozen=True)
class Names:
    """What a grid defines under `sources:` and `targets:`."""

    sources: Mapping[str, Any]
    targets: Mapping[str, Any]

    def resolve(self, cell: Mapping[str, Any], named: dict[str, Place]) -> dict[str, Any]:
        """The cell with definitions in place of names, in parents too.

        `named` gets the path of each definition used, by section.
        """
        resolved = self._one(self._one(dict(cell), "source", named), "target", named)
        if "borrow" in resolved:
            resolved["borrow"] = self._borrow(resolved["borrow"], named)
        if isinstance(resolved.get("parent"), Mapping):
            with below("parent"):
                resolved["parent"] = self.resolve(resolved["parent"], {})
        return resolved

    def _borrow(self, value: Any, named: dict[str, Place]) -> Any:
        if isinstance(value, list):
            return [self._borrow(item, named) for item in value]
        if is_pool(value):
            return {"pool": self._borrow(value["pool"], named)}
        name = value.get("name") if isinstance(value, Mapping) else value
        if name in RESERVED:
            return value
        return self._one({"borrow": value}, "borrow", named)["borrow"]

    def _one(self, cell: dict[str, Any], section: str, named: dict[str, Place]) -> dict[str, Any]:
        value = cell.get(section)
        name = value.get("name") if isinstance(value, Mapping) else value
        if not isinstance(name, str) or (section == "source" and name in _WORDS["source"]):
            return cell
        table, home = (self.targets if section == "target" else self.sources), _HOMES[section]
        if name not in table:
            known = nearest(name, [*table, *_WORDS[section]], 20) or "none"
            raise CellError(
                (section,),
                f"{section} {name!r} is not defined",
                f"defined: {known}; a new name is defined under {home}:",
            )
        rest = {k: v for k, v in value.items() if k != "name"} if isinstance(value, Mapping) else {}
        named[section] = (home, name)
        if not isinstance(table[name], Mapping):
            raise CellError(
                (section,),
                f"{home}: {name}: expected a mapping, found {table[name]!r}",
                "write for example {classes: {recipe: random, n: 10}}",
            )
        return {**cell, section: merge(table[name], rest)}
