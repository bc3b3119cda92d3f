"""YAML as a person writes it, with the line of every value, and nothing executed.

Plain values mean what YAML 1.2 says: `1e-4` is a number, true and false are the only truth values.
What YAML 1.1 converts besides (`1:30`, `010`, `0x1F`, `1_000`, `no`, dates) is text. A key given
twice is an error; so are values nested deeper than `MAX_DEPTH`, and aliases that unfold into more
than `MAX_VALUES` values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

import yaml

from bench.core.errors import GridError
from bench.core.paths import read_regular
from bench.core.tables import utf8_text
from bench.grid.other_files import grids_here

MAX_BYTES = 4_000_000
MAX_VALUES = 500_000
MAX_DEPTH = 100

Path_ = tuple[str | int, ...]


class Written(float):
    """A number with a fraction or an exponent; shown as it was written, `1e3` and not 1000.0.

    >>> Written("1e3") == 1000, f"{Written('1e3')}"
    (True, '1e3')
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


_KINDS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """The safe loader, with the plain values above and a bound on depth."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _DEEP, mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return Written(str(self.construct_scalar(node)))


for _kind, (_form, _first) in _KINDS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_form})$"), _first)
_Loader.add_constructor(_TAG + "float", _Loader.construct_yaml_float)

_DEEP = f"values are nested deeper than {MAX_DEPTH} levels"
_WAYS_OUT = {
    r"'\t'": "indent with spaces, not with tabs",
    "cannot start any token": "put the value in quotes if it is meant as text",
    "expected the node content": "put the value in quotes if it is meant as text",
    "undefined alias": "define it above with &NAME, or put the text in quotes",
    "nested deeper": "a grid needs a few levels; check the brackets",
    "mapping values are not allowed": "put a value that holds ': ' in quotes, or check indentation",
    "escape": "in double quotes a backslash begins an escape; use single quotes",
    "tab": "indent with spaces",
    "another document": "keep one grid in a file; --- begins another",
}
_CHECK = "check brackets, quotes and indentation here and on the lines above"


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

    def place_of(self, text: str, homes: Sequence[Path_]) -> str | None:
        """`file:line` of a text below the first of `homes` that has it.

        >>> Document("a.yaml", {"x": ["b", "c"]}, {("x", 1): 4}).place_of("c", [("x",)])
        'a.yaml:4'
        """
        for home in homes:
            for path, line in self.lines.items():
                if path[: len(home)] == home and self._at(path) == text:
                    return f"{self.name}:{line}"
        return None

    def _at(self, path: Path_) -> Any:
        value = self.value
        for key in path:
            value = value[key]
        return value

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
        raw = read_regular(path, MAX_BYTES)
    except OSError as error:
        hint = grids_here(name)
        if isinstance(error, PermissionError):
            hint = f"let yourself read it: chmod u+r {quote(name)}"
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise GridError(
            f"cannot read the grid: {error.strerror}{where}", place=name, hint=hint
        ) from None
    return parse_yaml(raw, name)


def parse_yaml(raw: bytes | str, name: str) -> Document:
    """As `read_yaml`, from text."""
    text = raw if isinstance(raw, str) else utf8_text(raw, name, GridError)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise GridError(
            f"character {chr(error.character)!a} is not allowed in YAML",
            place=f"{name}:{line}",
            hint="remove it, or write it as an escape in double quotes",
        ) from None
    except yaml.YAMLError as error:
        raise _not_yaml(error, name) from None
    if node is None:
        raise GridError("the file is empty", place=name, hint="see grids/quickstart.yaml")
    reader = _Reader(loader, name)
    value = reader.build(node, ())
    return Document(name, value, reader.lines)


def _not_yaml(error: yaml.YAMLError, name: str) -> GridError:
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    begun = getattr(error, "context_mark", None)
    hint = next((way for part, way in _WAYS_OUT.items() if part in problem), _CHECK)
    if hint is _CHECK and begun and mark and begun.line < mark.line:
        hint = f"{getattr(error, 'context', '')}, begun on line {begun.line + 1}; {_CHECK}"
    line = mark.line + 1 if mark else 1
    return GridError(f"this is not YAML: {problem}", place=f"{name}:{line}", hint=hint)


_OPENS = ("[", "{", '"', "'")


def scalar(text: str) -> Any:
    """What a value on the command line means (`--set train.lr=1e-3`).

    Lists, mappings and quoted texts are YAML; anything else is one value with all its characters,
    so that a path may hold ` #` or `: `.

    >>> scalar("1e-3"), scalar("[1, 2]"), scalar("/data/birds #2")
    (1e-3, [1, 2], '/data/birds #2')
    """
    try:
        if text.lstrip().startswith(_OPENS):
            return _whole(text.strip())
        loader = _Loader("")
        tag = loader.resolve(yaml.ScalarNode, text.strip(), (True, False))  # type: ignore[no-untyped-call]
        if not text.strip() or tag in (_TAG + "str", _TAG + "merge"):
            return text
        return _Reader(loader, "").plain(yaml.ScalarNode(tag, text.strip()))
    except GridError as error:
        raise GridError(
            f"cannot read the value {text!r}: {error.message}",
            hint="write a text that begins with a bracket or a quote as '\"…\"'",
        ) from None


def _whole(text: str) -> Any:
    """A list, a mapping or a quoted text with nothing behind it."""
    value = parse_yaml(text, "").value
    end = _Loader(text).get_single_node().end_mark.index  # type: ignore[union-attr]
    if end != len(text):
        raise GridError(f"{text[end:]!r} stands behind it")
    return value


class _Reader:
    """Turns nodes into plain values, keeping lines; counts what it builds."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader, self.name = loader, name
        self.lines: dict[Path_, int] = {}
        self.built = 0
        self.open: set[int] = set()
        self.pairs: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}

    def build(self, node: yaml.Node, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count(1)
        if len(path) > MAX_DEPTH:
            self._fail(node, _DEEP, _WAYS_OUT["nested deeper"])
        if isinstance(node, yaml.ScalarNode):
            return self.plain(node)
        self._enter(node)
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.build(child, (*path, n)) for n, child in enumerate(node.value)]
        else:
            value = {}
            for name, (key, child) in self._pairs(node).items():
                self.lines[(*path, name)] = key.start_mark.line + 1
                value[name] = self.build(child, (*path, name))
        self.open.discard(id(node))
        return value

    def plain(self, node: yaml.ScalarNode) -> str | bool | int | float | None:
        """The value of a scalar."""
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = self
        if value is not None and not isinstance(value, str | bool | int | float):
            self._fail(
                node,
                f"{node.value!r} is neither text, number, true/false nor null",
                "put it in quotes if it is meant as text",
            )
        return value

    def _count(self, number: int) -> None:
        self.built += number
        if self.built > MAX_VALUES:
            raise GridError(
                f"the file has more than {MAX_VALUES:,} values, aliases unfolded",
                place=self.name,
                hint="write fewer or smaller aliases, or several grids",
            )

    def _enter(self, node: yaml.Node) -> None:
        if id(node) in self.open:
            self._fail(node, "an alias contains itself", "name another anchor, or write the value")
        self.open.add(id(node))

    def _fail(self, node: yaml.Node, message: str, hint: str) -> NoReturn:
        line = node.start_mark.line + 1 if node.start_mark else 1
        raise GridError(message, place=f"{self.name}:{line}", hint=hint)

    def _pairs(self, node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The keys and values of a mapping; its own go over those merged by `<<`."""
        if id(node) not in self.pairs:  # an alias brings the same node again
            own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
            merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    self._fail(key, "a key must be a word", "put it in quotes")
                if key.tag == _TAG + "merge":
                    for part in self._merged(value):
                        self._enter(part)
                        merged = self._pairs(part) | merged
                        self.open.discard(id(part))
                elif key.value in own:
                    first = own[key.value][0].start_mark.line + 1
                    text = f"key {key.value!r} is given twice (first at line {first})"
                    self._fail(key, text, "keep one of the two")
                else:
                    own[key.value] = (key, value)
            self._count(len(merged))
            self.pairs[id(node)] = merged | own
        return self.pairs[id(node)]

    def _merged(self, node: yaml.Node) -> list[yaml.MappingNode]:
        """The mappings that stand behind `<<`, the strongest first."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                self._fail(part, "<< takes a mapping or a list of mappings", "write <<: *NAME")
        return list(parts)
