"""The lines that `bench classes` prints: lists, counts, trees and draws of classes."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from pydantic import TypeAdapter, ValidationError

from bench.core.errors import BenchError
from bench.grid.errors import cell_error
from bench.grid.yaml import scalar
from bench.specs.data import ClassRecipe


def class_lines(
    *,
    recipe: str | None,
    under: str | None,
    rule: str,
    dataset: str,
    root: str | None,
    data_root: Path | None,
    cache: Path,
    count: bool,
    tree: bool,
) -> list[str]:
    """What was asked for, a line each: `wnid  name`, a number, or an indented tree.

    Raises:
        BenchError: for a recipe or a synset that does not exist, with the alternatives.
    """
    from bench.data.catalog import open_dataset
    from bench.data.selection.classes import select
    from bench.data.wordnet.hierarchy import Rule, taxonomy

    if recipe is not None and under is not None:
        raise BenchError("give a recipe or --under, not both")
    if rule not in get_args(Rule):
        raise BenchError(f"--rule {rule!r} is not known", hint=", ".join(get_args(Rule)))
    data = open_dataset(dataset, root, data_root=data_root, cache_dir=cache)
    raw = (
        f"{{recipe: under, synset: {under}, rule: {rule}}}" if under else recipe or "{recipe: all}"
    )
    names = select(_recipe(raw), data.classes, wnid_keyed=data.wnid_keyed, dataset=dataset).names
    if count:
        return [str(len(names))]
    if not data.wnid_keyed:
        return list(names)
    words = taxonomy()
    if tree:
        return words.tree_lines(under or "entity.n.01", cast(Rule, rule), names)
    return [f"{name}  {words.name(name)}" for name in names]


def _recipe(text: str) -> ClassRecipe:
    value = scalar(text)
    if isinstance(value, str):
        value = {"recipe": value}
    try:
        adapter: TypeAdapter[ClassRecipe] = TypeAdapter(ClassRecipe)
        return adapter.validate_python(value)
    except ValidationError as error:
        found = cell_error(error, ("recipe",))
        raise BenchError(f"recipe {text}: {found.message}", hint=found.hint) from None
