"""The class tree: counts of LI-3, lines that fit, drawn groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.figures.images import group_looks
from analysis.figures.sheets import tree_sheet
from analysis.figures.style import styled, to_svg
from analysis.networks.class_tree import TreeRow, class_tree, grid_groups
from bench.core.errors import DataError
from bench.data.wordnet.hierarchy import taxonomy
from bench.planning.workspace import open_session

CLASSES = taxonomy().classes


def leaves(tree: list[TreeRow]) -> list[TreeRow]:
    return [row for row in tree if row.kind != "open"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(CLASSES), min_size=1, max_size=60, unique=True),
    st.lists(st.sampled_from(CLASSES), max_size=20, unique=True),
    st.integers(2, 90),
)
def test_each_class_is_in_one_line_and_lines_fit(one: list[str], two: list[str], most: int) -> None:
    tree = class_tree({"one": one, "two": two}, most)
    assert len(tree) <= most
    assert sum(row.total for row in leaves(tree)) == len({*one, *two}) == tree[0].total
    for place, group in enumerate((one, two)):
        assert sum(row.counts[place] for row in leaves(tree)) == len(group)
    assert tree == class_tree({"one": list(reversed(one)), "two": two}, most)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=40, unique=True))
def test_a_whole_tree_has_every_class_below_its_first_hypernyms(chosen: list[str]) -> None:
    tree = class_tree({"all": chosen}, 500)
    above: list[TreeRow] = []
    for row in tree:
        del above[row.depth :]
        path = taxonomy().first_pointer_path(row.wnid)
        assert all(up.wnid in path for up in above)
        assert row.kind != "closed"
        above.append(row)
    assert {row.wnid for row in tree if row.kind == "class"} == set(chosen)
    assert all(row.total >= 2 for row in tree if row.kind == "open")


def test_counts_are_those_of_the_paper() -> None:
    dogs = class_tree({"dogs": taxonomy().under("dog.n.01")}, 400)
    assert (dogs[0].name, dogs[0].total) == ("dog", 118)
    whole = class_tree(
        dict(zip(("natural", "man-made"), taxonomy().branches(), strict=True)), rows=150
    )
    assert whole[0].counts == (451, 549)
    named = {row.name: row.total for row in whole}
    assert named["instrumentality"] == 347


def test_shared_classes_are_counted_once_and_shown_in_both_groups() -> None:
    near, far = CLASSES[:6], CLASSES[4:9]
    tree = class_tree({"near": near, "far": far}, 100)
    assert tree[0].total == 9
    assert sum(row.counts == (1, 1) for row in tree if row.kind == "class") == 2
    assert class_tree({"one": ["n02088364"]})[0].kind == "class"


def test_a_drawing_names_each_class_once() -> None:
    groups = {"target": CLASSES[150:190], "near": CLASSES[190:230], "far": CLASSES[500:520]}
    with styled():
        figure, caption = tree_sheet(groups, 400, "a title")
        svg = to_svg(figure).decode()
    assert "100 classes below" in caption
    assert "italics" not in caption
    for wnid in ("n02088364", "n02089867"):
        if wnid in {w for g in groups.values() for w in g}:
            assert svg.count(f">{taxonomy().name(wnid)}<") == 1
    assert "target: 40 classes" in svg
    with styled():
        _, caption = tree_sheet(groups, 30)
    assert "italics" in caption


def test_groups_are_told_apart() -> None:
    looks = group_looks(["target", "near", "far", "categories 20", "categories 50"])
    assert len({look.colour for look in looks.values()}) == 5
    assert len({look.marker for look in looks.values()}) == 5
    with pytest.raises(DataError, match="told apart"):
        group_looks([f"source {i}" for i in range(6)])


def test_groups_of_a_grid(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    plan = open_session(root / "grids" / "quickstart.yaml", results=tmp_path).plan
    title, groups = grid_groups(plan)
    assert title == "mammal.n.01, draw 0"
    assert {name: len(wnids) for name, wnids in groups.items()} == {
        "target": 10,
        "near": 20,
        "far": 20,
    }
    assert not set(groups["target"]) & {*groups["near"], *groups["far"]}
    assert grid_groups(plan, "mammal")[1] == groups
    with pytest.raises(DataError, match="tasks: mammal"):
        grid_groups(plan, "bird")
    grid = tmp_path / "digits.yaml"
    grid.write_text(
        "defaults: {target: {dataset: digits, test_per_class: 9}, model: narrow8_32}\n"
        "experiments: {a: {set: {pattern: scratch}}}\n"
    )
    with pytest.raises(DataError, match="the classes are those of digits, not WordNet's"):
        grid_groups(open_session(grid, results=tmp_path).plan)


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="no class"):
        class_tree({"target": []})
    with pytest.raises(DataError, match="2 or more"):
        class_tree({"target": CLASSES[:3]}, 1)
    with pytest.raises(DataError, match="n99999999"):
        class_tree({"target": ["n99999999"]})
