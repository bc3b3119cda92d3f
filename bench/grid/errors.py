"""What is wrong with a cell of a grid, in its author's words and at its author's key."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.core.errors import BenchError, GridError, nearest
from bench.grid.yaml import scalar
from bench.specs.data import Borrowed, DataSpec
from bench.specs.problems import shown, way_out, words
from bench.specs.recipes import RECIPES, recipe_hint
from bench.specs.run import ModelSpec, Seeds, TrainSpec

Key = tuple[str, ...]


class CellError(GridError):
    """What is wrong with a cell, and at which key; `bench.grid.expand` adds the file and line."""

    def __init__(self, key: Key, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key

    def at(self, key: Key) -> CellError:
        """The same error of a value that stands at another key, as a source's do in its run."""
        old = ".".join(self.key)
        message = self.message
        if old and message.startswith(old):
            message = ".".join(key) + message[len(old) :]
        return CellError(key, message, self.hint)


@contextmanager
def at_key(*key: str) -> Iterator[None]:
    """Puts an error from below the grid at a key of the cell."""
    try:
        yield
    except BenchError as error:
        raise CellError(key, error.message, error.hint) from None


@contextmanager
def below(*key: str) -> Iterator[None]:
    """Puts an error of a run that is part of a cell below the key of that run."""
    try:
        yield
    except CellError as error:
        raise error.at((*key, *error.key)) from None


_KINDS: Mapping[str, type[BaseModel]] = {
    "target": DataSpec,
    "source": DataSpec,
    "borrow": Borrowed,
    "train": TrainSpec,
    "model": ModelSpec,
    "seeds": Seeds,
}


def cell_error(error: ValidationError, prefix: Key) -> CellError:
    """The first problem of a validation error in the user's words.

    Args:
        error: of one of the models of `bench.specs`.
        prefix: the key under which the model's fields stand in the grid.
    """
    found = error.errors()
    details = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    union = str(details["loc"][-1:]).startswith("('constrained-")  # one of several types
    location, recipe = _without_tag(details["loc"][:-1] if union else details["loc"], prefix)
    key, kind = prefix + location, details["type"]
    name, value = ".".join(key), details.get("input")
    if kind == "extra_forbidden":
        fields = _fields(prefix, location[:-1], recipe)
        hint = f"known: {nearest(location[-1], fields, 12)}" if fields else None
        return CellError(key, f"{name}: unknown key {location[-1]!r}", hint)
    if kind == "missing":
        return CellError(
            key, f"{name} is missing", recipe_hint(recipe) if recipe else f"add {key[-1]}: …"
        )
    if kind in ("union_tag_not_found", "union_tag_invalid") or (
        key[-1:] in (("classes",), ("recipe",)) and not isinstance(value, Mapping)
    ):
        return _no_recipe(key, value)
    if kind == "value_error":
        text, _, way = details["msg"].removeprefix("Value error, ").partition("; ")
        return CellError(key, text, way or (recipe_hint(recipe) if recipe else None))
    if kind == "literal_error":
        return CellError(key, *_not_one_of(name, value, details["ctx"]["expected"], recipe))
    either = (
        [one for one in found if one["loc"][:-1] == details["loc"][:-1]] if union else [details]
    )
    usual = filter(None, map(way_out, either))
    hint = (
        _way_out(kind, value, prefix != ("recipe",))
        or (recipe_hint(recipe) if recipe else None)
        or " or ".join(usual)
        or None
    )
    return CellError(key, f"{name} is {shown(value)}: {' or '.join(map(words, either))}", hint)


def known_keys(key: str, sections: Collection[str]) -> str:
    """The hint for a key that is no section: where it stands, then the sections, nearest first.

    >>> known_keys("lr", ["target", "train"])
    'write train.lr or pretrain.lr; known: target, train'
    """
    head = key.split(".")[0]
    homes: dict[str, type[BaseModel]] = {**_KINDS, "pretrain": TrainSpec}
    below = [f"{home}.{key}" for home in _HOMES if head in homes[home].model_fields]
    known = f"known: {nearest(head, sections, len(sections))}"
    return f"write {' or '.join(below)}; {known}" if below else known


_HOMES = ("target", "source", "train", "pretrain", "model", "seeds")
_FEW = 4


def _not_one_of(name: str, value: Any, expected: str, recipe: str | None) -> tuple[str, str]:
    """Message and hint of a value that is none of those expected, such as `'a', 'b' or 'c'`."""
    names = re.findall(r"'([^']*)'", expected)
    few = len(names) <= _FEW
    message = (
        f"{name} is {shown(value)}: {f'must be {expected}' if few else 'there is no such value'}"
    )
    usual = f"write {nearest(str(value), names, len(names))}" if names else f"write {expected}"
    return message, (few and recipe and recipe_hint(recipe)) or usual


def _without_tag(location: tuple[str | int, ...], prefix: Key) -> tuple[Key, str | None]:
    """The keys of the file: pydantic puts the recipe's name between `classes` and its fields."""
    parts = [str(part) for part in location]
    at = parts.index("classes") + 1 if "classes" in parts else 0 if prefix == ("recipe",) else None
    if at is None or at >= len(parts) or parts[at] not in RECIPES:
        return tuple(parts), None
    return (*parts[:at], *parts[at + 1 :]), parts[at]


def _no_recipe(key: Key, value: Any) -> CellError:
    """The error of a value that names no recipe, or one that does not exist."""
    every = f"recipes: {', '.join(RECIPES)}; their fields: bench classes --help"
    name = ".".join(key)
    if not isinstance(value, Mapping):
        known = recipe_hint(value) if isinstance(value, str) and value in RECIPES else every
        example = known.partition("for example ")[2] or RECIPES["random"].example
        return CellError(key, f"{name} is {value!r}: expected a recipe, such as {example}", every)
    if "recipe" not in value:
        return CellError(key, f"{name} is {dict(value)!r}: it does not say which recipe", every)
    asked = str(value["recipe"])
    known = nearest(asked, RECIPES, len(RECIPES))
    return CellError(
        (*key, "recipe") if key != ("recipe",) else key,
        f"there is no recipe {asked!r}",
        f"recipes: {known}; their fields: bench classes --help",
    )


def _way_out(kind: str, value: Any, grid: bool) -> str | None:
    """What to write instead of this value, where that can be seen from it."""
    if kind == "string_type" and isinstance(value, int | float):
        return "put it in quotes" if isinstance(value, bool) else f"write it in quotes: '{value}'"
    if isinstance(value, list) and grid and kind not in ("too_short", "tuple_type"):
        return "lists of values to try stand under axes:"
    if isinstance(value, str) and value.strip() and kind.startswith(("int", "float")):
        written = value.strip()
        plain = written.lstrip("+0") or "0"
        if isinstance(scalar(written), int | float):
            return f"write {written} without quotes"
        if plain != written and isinstance(scalar(plain), int):
            return f"write {plain}, without {'+' if written[0] == '+' else 'zeros'} in front"
        if written.lstrip("+-.").lower() in ("nan", "inf", "infinity"):
            return "a finite number is needed"
    return None


def _fields(prefix: Key, location: Key, recipe: str | None) -> list[str]:
    """The keys that may stand at a place."""
    if recipe is not None:
        return ["recipe", *RECIPES[recipe].required, *RECIPES[recipe].optional]
    kind = _KINDS.get(prefix[-1]) if prefix and not location else None
    fields = list(kind.model_fields) if kind else []
    return [*fields, *DataSpec.model_fields, "name"] if kind is Borrowed else fields
