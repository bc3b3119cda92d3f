"""Where in a grid file, or on the command line, a value of a cell comes from."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel

from bench.core.errors import GridError
from bench.grid.cells import Place
from bench.grid.errors import Key, known_keys
from bench.grid.pattern import is_scratch
from bench.grid.yaml import Document, scalar
from bench.specs.data import DataSpec
from bench.specs.run import Seeds, TrainSpec

_COPIED = ("source", "parent", "weights")
"""Sections that name what layers are copied from."""


class Override(NamedTuple):
    """One `--set`: a dotted key, its value, and how it was written."""

    key: str
    value: Any
    text: str


def read_override(text: str, sections: Mapping[str, str]) -> Override:
    """Reads `key.key=value`.

    Raises:
        GridError: for a key that is no section of a cell, or a value that is no YAML.

    >>> read_override("train.epochs=3", {"train": ""}).value
    3
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or key.split(".")[0] not in sections:
        raise GridError(
            f"--set {text}: "
            + (f"unknown key {key!r}" if equals else "there is no = between key and value"),
            hint="write --set KEY=VALUE, for example --set train.epochs=5; "
            + known_keys(key, sections),
        )
    return Override(key, scalar(value), f"--set {text}")


_MODELS: Mapping[str, type[BaseModel]] = {
    **dict.fromkeys(("target", "source"), DataSpec),
    **dict.fromkeys(("train", "pretrain"), TrainSpec),
    "seeds": Seeds,
}


def sweeps(override: Override) -> bool:
    """Whether an override is an axis: a list where one value is meant.

    >>> sections = {"seed": "", "target": ""}
    >>> [sweeps(read_override(text, sections)) for text in ("seed=[0, 1]", "target.views=[a, b]")]
    [True, False]
    """
    head, _, rest = override.key.partition(".")
    if not isinstance(override.value, list) or not rest:
        return isinstance(override.value, list) and head != "borrow"
    fields = _MODELS[head].model_fields if head in _MODELS else {}
    return rest in fields and "tuple" not in str(fields[rest].annotation)


def laid_over(overrides: Sequence[Override], pattern: Any) -> list[Override]:
    """The overrides that a cell takes.

    A cell that copies nothing takes no override of the place that copies come from: a source would
    only make it an error. Where `--set` gives the pattern too, everything is taken.

    >>> weights = Override("weights", "timm", "--set weights=timm")
    >>> len(laid_over([weights], "tune")), laid_over([weights], "scratch")
    (1, [])
    """
    if not is_scratch(pattern) or any(one.key == "pattern" for one in overrides):
        return list(overrides)
    return [one for one in overrides if not _gives_a_source(one)]


def _gives_a_source(override: Override) -> bool:
    return override.key.split(".")[0] in _COPIED and override.value not in (None, "none")


def check_laid(overrides: Sequence[Override], laid: Collection[str]) -> None:
    """Refuses an override whose text is not among those that some cell took, `laid`."""
    for one in overrides:
        if one.text not in laid:
            raise GridError(
                "it changes nothing: every run trains from scratch",
                place=one.text,
                hint="set a pattern that copies too, such as --set pattern=tune, or leave it out",
            )


@dataclass(frozen=True)
class Origins:
    """What a cell was put together from, the strongest first: see `place`.

    Attributes:
        document: the grid file.
        experiment: the experiment's path in it.
        overrides: what `--set` lays over every cell.
        assigned: paths of the values of axes, by dotted key.
        named: paths of the definitions under `sources:` and `targets:` that are used, by section.
    """

    document: Document
    experiment: Place
    overrides: Sequence[Override] = ()
    assigned: Mapping[str, Place] = field(default_factory=dict)
    named: Mapping[str, Place] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """`file:line` of the value at `key`, or the `--set` that gave it.

        The strongest origin that has the whole key counts; if none has, the one that has most of it
        from the front. A source's values may be the target's own.
        """
        keys = [key, ("target", *key[1:])] if key[:1] in (("source",), ("borrow",)) else [key]
        parts = (one[:depth] for one in keys for depth in range(len(one), 1, -1))
        found = next(filter(None, map(self._origin, parts)), None)
        return found or self._origin(key[:1]) or self.document.place(self.experiment)

    def _origin(self, key: Key) -> str | None:
        for override in reversed(self.overrides):
            if _has(override.key, override.value, key):
                return str(override.text)
        for dotted, path in sorted(self.assigned.items(), key=lambda item: "." not in item[0]):
            parts = tuple(dotted.split("."))
            length = min(len(parts), len(key))
            if parts[:length] == key[:length] and (
                found := self._line(path, key[len(parts) :], nested=False)
            ):
                return found
        homes: list[tuple[Place, Key]] = []
        if key[0] in self.named and len(key) > 1:
            homes.append((self.named[key[0]], key[1:]))
        homes += [((*self.experiment, "set"), key), (("defaults",), key)]
        return next(filter(None, (self._line(home, rest) for home, rest in homes)), None)

    def _line(self, home: Place, rest: Key, nested: bool = True) -> str | None:
        """The line of `rest` below `home`; keys of a section may be written with dots."""
        for written in _ways_to_write(rest) if nested else [rest]:
            if (*home, *written) in self.document.lines:
                return self.document.place((*home, *written))
        return None


def _has(dotted: str, value: Any, key: Key) -> bool:
    """Whether an override gives the value at `key`."""
    parts = tuple(dotted.split("."))
    length = min(len(parts), len(key))
    if parts[:length] != key[:length]:
        return False
    for part in key[len(parts) :]:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _ways_to_write(key: Key) -> Iterator[Key]:
    """All groupings of the parts, joined by dots: a.b.c, a → b.c, a.b → c, a → b → c.

    >>> list(_ways_to_write(("train", "lr")))
    [('train', 'lr'), ('train.lr',)]
    """
    for joints in itertools.product((False, True), repeat=max(len(key) - 1, 0)):
        written = list(key[:1])
        for joined, part in zip(joints, key[1:], strict=True):
            if joined:
                written[-1] = f"{written[-1]}.{part}"
            else:
                written.append(part)
        yield tuple(written)
