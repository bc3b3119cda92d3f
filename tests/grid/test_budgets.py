"""Grids whose validation images count as labels; and that nothing else moved."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.core.errors import GridError
from bench.planning.workspace import Session, open_session

ROOT = Path(__file__).parents[2]
TEXT = """\
defaults:
  target:
    dataset: wordnet-shapes
    classes: {{recipe: categories, side: target, target_n: 4}}
    images_per_class: 5
    {target}
  model: narrow8_32
  train: {{epochs: 2{train}}}
sources: {{some: {{classes: {{side: source, n: 5}}}}}}
experiments:
  a: {{axes: {{source: [some], pattern: [tune]}}}}
"""


def opened(folder: Path, *, target: str = "", train: str = "") -> Session:
    path = folder / "grid.yaml"
    path.write_text(TEXT.format(target=target, train=train))
    return open_session(path, results=folder / "results")


def test_ids_of_committed_leaderboards_stay(tmp_path: Path, committed: Path) -> None:
    session = open_session(ROOT / "grids" / "borrowing.yaml", results=tmp_path)
    with (committed / "borrowing.csv").open(newline="") as file:
        assert set(session.plan.runs) == {row["run_id"] for row in csv.DictReader(file)}


def test_a_target_spends_its_budget_and_its_source_is_the_same_run(tmp_path: Path) -> None:
    besides = opened(tmp_path)
    spent = opened(tmp_path, target="val_from: budget")
    (source, target), (source_too, other) = besides.wanted, spent.wanted
    assert source.id == source_too.id
    assert target.id != other.id
    assert (target.facts.train_images, other.facts.train_images) == (4 * 5, 4 * 4)
    assert other.facts.held_out_images == target.facts.held_out_images - 4 * 10 + 4 * 1
    assert spent.plan.runs[other.id].spec.data.val_per_class == 0


def test_a_written_number_of_validation_images_beside_a_budget_has_a_line(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"val_per_class is 3, but val_from is budget") as caught:
        opened(tmp_path, target="val_per_class: 3\n    val_from: budget")
    assert caught.value.place == f"{tmp_path / 'grid.yaml'}:2"


def test_a_second_training_without_a_choice_has_a_line_and_one_with_it_an_id(
    tmp_path: Path,
) -> None:
    with pytest.raises(GridError, match="refit is true, but select is last") as caught:
        opened(tmp_path, train=", refit: true, select: last")
    assert caught.value.place == f"{tmp_path / 'grid.yaml'}:8"
    once, again = opened(tmp_path).wanted, opened(tmp_path, train=", refit: true").wanted
    assert once[0].id == again[0].id  # pretrain has its own recipe
    assert once[1].id != again[1].id
