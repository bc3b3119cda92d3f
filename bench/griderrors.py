"""What is wrong with a cell of a grid, in its author's words and at its author's key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from bench.spec import DataSpec, ModelSpec, Seeds, TrainSpec

__all__ = ["CellError", "cell_error"]


class CellError(Exception):
    """What is wrong with a cell, and at which key; `bench.grid` adds the file and line."""

    def __init__(self, key: tuple[str, ...], message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.key, self.message, self.hint = key, message, hint


_TAGS = {"all", "listed", "random", "under", "near_far", "categories", "half"}


def cell_error(error: ValidationError, prefix: tuple[str, ...]) -> CellError:
    """The first problem of a validation error in the user's words."""
    from bench.errors import nearest

    problem = error.errors()[0]
    location = tuple(str(part) for part in problem["loc"] if part not in _TAGS)
    key = prefix + location if prefix != ("pattern",) or location else prefix
    value = problem.get("input")
    text = problem["msg"].removeprefix("Value error, ")
    hint = None
    if problem["type"] == "extra_forbidden":
        text, hint = f"unknown key {location[-1]!r}", None
        fields = _fields(prefix[0], location[:-1], error)
        hint = f"known: {nearest(location[-1], fields, 24)}" if fields else None
    elif problem["type"] != "value_error":
        text = f"{'.'.join(key)} is {value!r}: {text[0].lower()}{text[1:]}"
        hint = _number_hint(value)
    return CellError(key, text, hint)


def _number_hint(value: Any) -> str | None:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return None
        return f"write {value.strip()} without quotes"
    return None


def _fields(section: str, location: tuple[str, ...], error: ValidationError) -> list[str]:
    kinds: dict[str, type[BaseModel]] = {
        "target": DataSpec,
        "source": DataSpec,
        "borrow": DataSpec,
        "train": TrainSpec,
        "model": ModelSpec,
        "seeds": Seeds,
    }
    if location == ("classes",):
        import bench.spec as spec

        tag = next((part for part in error.errors()[0]["loc"] if part in _TAGS), None)
        for kind in (
            spec.AllClasses,
            spec.ListedClasses,
            spec.RandomClasses,
            spec.UnderSynset,
            spec.NearFarClasses,
            spec.SourceCategories,
            spec.HalfClasses,
        ):
            if kind.model_fields["recipe"].default == tag:
                return list(kind.model_fields)
    return list(kinds[section].model_fields) if section in kinds and not location else []
