"""Presets: partial grids laid over a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import GridError
from bench.grid.expand import Grid, load_grid
from bench.grid.presets import split_presets, with_presets
from bench.grid.yaml import Document

GRID = """\
defaults:
  target: {dataset: imagenet, image_size: 64, images_per_class: 100}
  model: caffenet
  pattern: scratch
  train: {lr: 0.01, epochs: 90}
experiments:
  rates:
    axes:
      train.lr: [0.1, 0.01, 0.001]
      seed: [0, 1, 2]
  sizes:
    axes: {target.images_per_class: [10, 20]}
presets:
  miniature:
    defaults:
      target: {dataset: digits, image_size: 40, images_per_class: 5}
      train: {epochs: 2}
    experiments:
      rates: {axes: {train.lr: [0.1, 0.01]}}
      sizes: null
  one-seed:
    experiments: {rates: {axes: {seed: null}}}
  broken:
    defaults:
      train:
        epochs: soon
"""


def expand(folder: Path, *overrides: str, text: str = GRID) -> Grid:
    path = folder / "grid.yaml"
    path.write_text(text)
    return load_grid(path, overrides=list(overrides))


def test_without_its_name_a_preset_does_nothing(tmp_path: Path) -> None:
    grid = expand(tmp_path)
    assert [len(e.runs) for e in grid.experiments] == [9, 2]
    assert {run.train.epochs for run in grid.runs} == {90}


def test_a_preset_replaces_merges_and_removes(tmp_path: Path) -> None:
    grid = expand(tmp_path, "preset=miniature")
    assert [e.name for e in grid.experiments] == ["rates"]
    assert len(grid.runs) == 6
    assert {(run.data.dataset, run.train.epochs) for run in grid.runs} == {("digits", 2)}
    assert {run.train.lr for run in grid.runs} == {0.1, 0.01}


def test_presets_are_laid_in_order_and_below_set(tmp_path: Path) -> None:
    grid = expand(tmp_path, "preset=miniature,one-seed", "train.epochs=7")
    assert [(run.train.lr, run.seeds.draw, run.train.epochs) for run in grid.runs] == [
        (0.1, 0, 7),
        (0.01, 0, 7),
    ]


def test_an_error_in_a_preset_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(GridError) as caught:
        expand(tmp_path, "preset=broken")
    line = 1 + GRID.splitlines().index("        epochs: soon")
    assert f"grid.yaml:{line}" in str(caught.value)
    assert "soon" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (GRID, ["preset=minature"], ["no preset 'minature'", "miniature"]),
        ("experiments: {a: {}}\n", ["preset=x"], ["no preset 'x'", "has no presets"]),
        (GRID + "  odd: 3\n", ["preset=odd"], ["preset 'odd'", "partial grid", "found 3"]),
        (GRID + "  odd: {experiment: {}}\n", [], ["'experiment'", "experiments"]),
        (GRID + "  odd: {experiments: {siezs: null}}\n", [], ["'siezs'", "sizes"]),
    ],
)
def test_wrong_presets(text: str, overrides: list[str], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(GridError) as caught:
        expand(tmp_path, *overrides, text=text)
    for word in words:
        assert word in str(caught.value)


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)
parts = st.dictionaries(st.sampled_from(["about", "defaults", "slurm"]), values, max_size=3)


@given(parts, parts)
@settings(deadline=None)
def test_laying_is_idempotent_and_keeps_what_it_does_not_name(
    below: dict[str, Any], above: dict[str, Any]
) -> None:
    once = with_presets(Document("g", {**below, "presets": {"p": above}}, {}), ["p"]).value
    twice = with_presets(Document("g", {**once, "presets": {"p": above}}, {}), ["p"]).value
    assert once == twice
    for key in set(below) - set(above):
        assert once[key] == below[key]
    for key in set(above) - set(below):
        assert once[key] == above[key]


def test_names_are_split_from_other_overrides() -> None:
    assert split_presets(["preset=a, b", "train.lr=1.0", "preset=c"]) == (
        ["a", "b", "c"],
        ["train.lr=1.0"],
    )
