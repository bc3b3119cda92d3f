"""docs/grid-reference.md is what the models give, and each of its examples is read by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bench.grid.cell import SECTIONS
from bench.grid.expand import _EXPERIMENT, _TOP, load_grid
from scripts import grid_reference as reference

NEEDED: dict[str, dict[str, Any]] = {
    "target": {"dataset": "wordnet-shapes"},
    "model": {"name": "resnet18"},
    "borrow": {"data": {"dataset": "wordnet-shapes"}},
    "evaluate": {"verification": {}},
    "race": {"budget": "30m"},
}
"""What a section cannot do without, beside the key of an example."""

EXAMPLES = [
    (name, key) for name, (_, examples, left_out) in reference.sections().items()
    for key in examples if key not in left_out
]  # fmt: skip


def test_the_page_is_made_anew_by_the_script() -> None:
    assert reference.page() == reference.OUT.read_text(encoding="utf-8")


def test_the_page_has_every_key_that_a_grid_may_have() -> None:
    assert set(reference.TOP) == {*_TOP, "presets"}
    assert set(reference.EXPERIMENT) == set(_EXPERIMENT)
    assert set(reference.CELL) == set(SECTIONS)
    for name, (kind, examples, left_out) in reference.sections().items():
        assert set(examples) - set(left_out) == set(kind.model_fields) - set(left_out), name


def needed(name: str, kind: type[BaseModel]) -> dict[str, Any]:
    """What must be given, of a recipe from its own examples."""
    examples = reference.sections()[name][1]
    own = {
        key: value
        for key, field in kind.model_fields.items()
        if field.is_required() and key in examples
        for value in [reference.example_of(examples, key)[0].get(key)]
    }
    return own | NEEDED.get(name, {})


@pytest.mark.parametrize(("name", "key"), EXAMPLES)
def test_an_example_is_read_and_is_not_the_default(name: str, key: str) -> None:
    kind, examples, _ = reference.sections()[name]
    example = needed(name, kind) | reference.example_of(examples, key)[0]
    if name == "classes: {recipe: categories}":
        example = {"side": "source", "n": 40} | example
    read = kind.model_validate(example)
    field = kind.model_fields[key]
    is_default = getattr(read, key) == field.get_default(call_default_factory=True)
    assert field.is_required() or key == "verification" or not is_default or key == "normalise"


@pytest.mark.parametrize("part", [*reference.TOP.values(), *reference.EXPERIMENT.values()])
def test_an_example_of_the_file_is_yaml_of_its_key(part: tuple[str, ...]) -> None:
    table = reference.TOP if part in reference.TOP.values() else reference.EXPERIMENT
    (key,) = yaml.safe_load(part[-1])
    assert table[key] == part  # type: ignore[index]


def test_an_example_of_a_cell_is_read(tmp_path: Path) -> None:
    base = {
        "target": "{dataset: wordnet-shapes, classes: {recipe: random, n: 5}, image_size: 32}",
        "source": "{classes: {recipe: random, n: 10}}",
        "model": "narrow8_32",
        "pattern": "tune",
    }
    for key, example in reference.CELL.items():
        if key == "weights":  # a package that may not be installed
            continue
        cell = base | {key: example}
        if key in ("target", "parent"):
            cell.pop("source")
        if key == "target":
            cell["pattern"] = "scratch"
        if key == "method":
            cell["pattern"] = "freeze"
        if key == "borrow":
            cell["method"] = "joint"
        sources = "" if key != "parent" else "sources: {near: {dataset: digits}}\n"
        lines = "".join(f"  {name}: {value}\n" for name, value in cell.items())
        path = tmp_path / f"{key}.yaml"
        path.write_text(f"{sources}defaults:\n{lines}experiments: {{one: {{}}}}\n")
        assert load_grid(path).runs, key


def test_a_key_without_a_sentence_or_an_example_is_an_error() -> None:
    class Undescribed(BaseModel):
        """Has a key that nobody describes."""

        key: int = 0

    with pytest.raises(KeyError):
        reference.table(Undescribed, {"key": "1"})
    with pytest.raises(KeyError):
        reference.table(reference.Seeds, {"draw": "1"})
