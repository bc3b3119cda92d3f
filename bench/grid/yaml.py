"""YAML as a person writes it, with the line of every value, and nothing executed.

Differences to PyYAML's safe loader: `1e-4` is a number, a key given twice is an error, and aliases
that unfold into millions of values are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import GridError

MAX_BYTES = 4_000_000
MAX_VALUES = 500_000

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader, with floats as YAML 1.2 and every scientist write them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in pairs if tag != "tag:yaml.org,2002:float"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Document:
    """A parsed file: plain values, and the line where each stands.

    Attributes:
        name: how the file is called in messages.
        value: dicts, lists, strings, numbers, booleans, None.
        lines: path of keys and indices to line, from 1.
    """

    name: str
    value: Any
    lines: dict[Path_, int]

    def place(self, path: Path_) -> str:
        """`file:line` of the value at `path`, or of its nearest ancestor that has one.

        >>> Document("a.yaml", {"x": 1}, {("x",): 3}).place(("x", "y"))
        'a.yaml:3'
        """
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"

    def error(self, path: Path_, message: str, hint: str | None = None) -> GridError:
        """An error at the line of the value at `path`."""
        return GridError(message, place=self.place(path), hint=hint)


def read_yaml(path: Path) -> Document:
    """Reads a YAML file.

    Raises:
        GridError: with file and line, if it cannot be read or is not plain data.
    """
    name = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        found = sorted(str(p) for p in Path("grids").glob("**/*.yaml"))[:6]
        hint = f"grids here: {', '.join(found)}" if found else "give the path of a YAML file"
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise GridError(
            f"cannot read the grid: {error.strerror}{where}", place=name, hint=hint
        ) from None
    if len(raw) > MAX_BYTES:
        raise GridError(f"{len(raw)} bytes are more than a grid needs", place=name)
    return parse_yaml(raw, name)


def parse_yaml(raw: bytes | str, name: str) -> Document:
    """As `read_yaml`, from text."""
    try:
        loader = _Loader(raw)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise GridError(f"this is not YAML: {problem}", place=f"{name}:{line}") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise GridError(f"this is not text: {error}", place=name) from None
    if node is None:
        raise GridError("the file is empty", place=name, hint="see grids/quickstart.yaml")
    reader = _Reader(loader, name)
    value = reader.build(node, ())
    return Document(name, value, reader.lines)


def scalar(text: str) -> Any:
    """What a YAML value on the command line means (`--set train.lr=1e-3`).

    >>> scalar("1e-3"), scalar("[1, 2]"), scalar("near")
    (0.001, [1, 2], 'near')
    """
    try:
        return parse_yaml(text, "the command line").value if text.strip() else text
    except GridError as error:
        raise GridError(f"cannot read the value {text!r}: {error.message}") from None


class _Reader:
    """Turns nodes into plain values, keeping lines; counts what it builds."""

    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self.loader, self.name = loader, name
        self.lines: dict[Path_, int] = {}
        self.built = 0
        self.open: set[int] = set()
        self.own: dict[int, set[str]] = {}

    def build(self, node: yaml.Node, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self.built += 1
        if self.built > MAX_VALUES:
            raise GridError("the aliases unfold into too many values", place=self.name)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self.open:
            raise self._error(node, "an alias contains itself")
        self.open.add(id(node))
        value = (
            [self.build(child, (*path, n)) for n, child in enumerate(node.value)]
            if isinstance(node, yaml.SequenceNode)
            else self._mapping(node, path)
        )
        self.open.discard(id(node))
        return value

    def _error(self, node: yaml.Node, message: str, hint: str | None = None) -> GridError:
        return GridError(message, place=f"{self.name}:{node.start_mark.line + 1}", hint=hint)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = self
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise self._error(
            node,
            f"{node.value!r} is neither text, number, true/false nor null",
            "put it in quotes if it is meant as text",
        )

    def _mapping(self, node: yaml.Node, path: Path_) -> dict[str, Any]:
        assert isinstance(node, yaml.MappingNode)
        if id(node) not in self.own:  # an alias brings the same node again, unfolded already
            self.own[id(node)] = {key.value for key, _ in node.value if key.value != "<<"}
            self._refuse_twice(node)
            self.loader.flatten_mapping(node)
        own = self.own[id(node)]
        result: dict[str, Any] = {}
        for key, child in node.value:
            name = str(key.value)
            if name in result and name not in own:
                continue
            self.lines[(*path, name)] = key.start_mark.line + 1
            result[name] = self.build(child, (*path, name))
        return result

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be a word")
            if key.value in seen and key.value != "<<":
                text = f"key {key.value!r} is given twice (first at line {seen[key.value]})"
                raise self._error(key, text, "keep one of the two")
            seen.setdefault(key.value, key.start_mark.line + 1)
