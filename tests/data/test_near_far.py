"""Near and far sources: the paper's sizes, and what holds for any root, data set and draw."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bench.core.errors import DataError
from bench.data.selection.classes import Selection, select
from bench.data.wordnet.hierarchy import Rule, taxonomy
from bench.specs.data import NearFarClasses

CLASSES = taxonomy().classes
NATURAL, MAN_MADE = map(set, taxonomy().branches())
DOGS = set(taxonomy().under("dog.n.01"))
INSTRUMENTS = set(taxonomy().under("instrumentality.n.03"))


def imagenet(recipe: NearFarClasses, classes: tuple[str, ...] = CLASSES) -> Selection:
    return select(recipe, classes, wnid_keyed=True, dataset="imagenet")


def sides(root: str, draw: int = 0, **options: int) -> tuple[list[str], list[str], list[str]]:
    """Target, near and far."""
    target, near, far = (
        list(
            imagenet(
                NearFarClasses.model_validate(
                    {"root": root, "side": side, "class_draw": draw, **options}
                )
            ).names
        )
        for side in ("target", "near", "far")
    )
    return target, near, far


@pytest.mark.parametrize("root", ["dog.n.01", "instrumentality.n.03"])
@pytest.mark.parametrize("draw", [0, 1, 2])
def test_sizes_overlap_and_disjointness(root: str, draw: int) -> None:
    target, near, far = sides(root, draw)
    assert [len(target), len(near), len(far)] == [100, 500, 500]
    assert [len(set(names)) for names in (target, near, far)] == [100, 500, 500]
    assert len(set(near) & set(far)) == 100
    assert not set(target) & (set(near) | set(far))
    assert set(target) | set(near) | set(far) == set(CLASSES)
    assert set(near).isdisjoint(target)
    assert set(far).isdisjoint(target)


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_dog(draw: int) -> None:
    """Written out as in the paper: near is the other 400 and 100 of far."""
    target, near, far = sides("dog.n.01", draw)
    assert set(target) < DOGS
    assert set(far) < MAN_MADE
    before = set(CLASSES) - set(target) - set(far)
    assert len(before) == 400
    assert set(near) - set(far) == before
    assert len(before & NATURAL) == 351
    assert len(before & DOGS) == 18
    assert len(before & MAN_MADE) == 49


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_instrumentality(draw: int) -> None:
    target, near, far = sides("instrumentality.n.03", draw)
    assert set(target) < INSTRUMENTS
    assert set(far) > NATURAL
    assert len(set(far) & (MAN_MADE - INSTRUMENTS)) == 49
    before = set(CLASSES) - set(target) - set(far)
    assert set(near) - set(far) == before
    assert len(before & INSTRUMENTS) == 247
    assert len(before - INSTRUMENTS) == 153
    assert not before & NATURAL


def test_the_notes_tell_the_composition() -> None:
    dog = dict(imagenet(NearFarClasses(root="dog.n.01", side="near")).notes)
    assert dog == {
        "root": "dog.n.01",
        "classes_under_root": 118,
        "branch": "natural",
        "near_under_root": 18,
        "near_beside_root": 333,
        "near_from_other_branch": 49,
        "shared_with_far": 100,
    }
    far = dict(imagenet(NearFarClasses(root="instrumentality.n.03", side="far")).notes)
    assert (far["far_from_other_branch"], far["far_from_own_branch"]) == (451, 49)


def test_a_root_on_both_branches_takes_the_side_of_most_and_says_so() -> None:
    under = set(taxonomy().under("food.n.02"))
    assert under & NATURAL
    assert under & MAN_MADE
    target, near, far = sides("food.n.02", target_n=10, source_n=300)
    notes = dict(
        imagenet(NearFarClasses(root="food.n.02", side="far", target_n=10, source_n=300)).notes
    )
    assert notes["branch"] == "natural"
    assert notes["classes_under_root_but_man_made"] == len(under & MAN_MADE)
    assert not set(far) & under
    assert set(near) > under - set(target)


def test_alternative_branches() -> None:
    names = imagenet(
        NearFarClasses(root="instrumentality.n.03", side="far", branches="artifact_or_food")
    )
    assert set(names.names) > set(taxonomy().branches("artifact_or_food")[0])
    assert dict(names.notes)["branch"] == "artifact_or_food"


def test_a_near_source_needs_a_class_of_the_targets_branch() -> None:
    beagle, crane = "n02088364", "n03126707"
    recipe = NearFarClasses(root="dog.n.01", side="near", target_n=1, source_n=1)
    with pytest.raises(DataError, match="leave no class of its branch"):
        imagenet(recipe, (beagle, crane))
    wolf = "n02114367"
    assert imagenet(recipe, (beagle, crane, wolf)).names == (wolf,)


def test_a_class_that_wordnet_does_not_know() -> None:
    with pytest.raises(DataError, match="no synset 'n99999999'"):
        imagenet(NearFarClasses(root="dog.n.01", side="far"), ("n99999999",))


@st.composite
def near_far_cases(draw: st.DrawFn) -> tuple[tuple[str, ...], NearFarClasses]:
    """Some classes and a recipe over them whose sizes may or may not be possible."""
    step = draw(st.integers(1, 9))
    classes = CLASSES[draw(st.integers(0, step - 1)) :: step]
    rule: Rule = draw(st.sampled_from(["first_pointer", "closure", "longest_path"]))
    roots = ["dog.n.01", "mammal.n.01", "food.n.02", "covering.n.02", "container.n.01"]
    root = draw(st.sampled_from([*roots, "animal.n.01", "instrumentality.n.03", "artifact.n.01"]))
    there = len(taxonomy().under(root, rule, classes))
    recipe = {
        "root": root,
        "rule": rule,
        "branches": draw(st.sampled_from(["natural", "artifact_or_food"])),
        "target_n": draw(st.sampled_from([1, there // 2 + 1, max(there, 1), there + 1])),
        "source_n": max(1, draw(st.integers(1, 10)) * (len(classes) - there) // 9),
        "class_draw": draw(st.integers(0, 5)),
        "side": "target",
    }
    return classes, NearFarClasses.model_validate(recipe)


@settings(max_examples=150, deadline=None)
@given(near_far_cases())
def test_near_and_far_for_any_root_data_set_and_size(
    case: tuple[tuple[str, ...], NearFarClasses],
) -> None:
    classes, recipe = case
    under = set(taxonomy().under(recipe.root, recipe.rule, classes))
    first, second = (set(s) for s in taxonomy().branches(recipe.branches, classes))
    own, opposite = (
        (first, second) if len(under & first) >= len(under & second) else (second, first)
    )
    n = recipe.source_n
    possible_far = n <= len(classes) - len(under)
    if recipe.target_n > len(under):
        with pytest.raises(DataError, match=f"has {len(under)} classes under"):
            imagenet(recipe, classes)
        return
    target = set(imagenet(recipe, classes).names)
    assert len(target) == recipe.target_n
    assert target <= under
    far_recipe = recipe.model_copy(update={"side": "far"})
    near_recipe = recipe.model_copy(update={"side": "near"})
    if not possible_far:
        event("too few for far")
        with pytest.raises(DataError, match="source_n"):
            imagenet(far_recipe, classes)
        return
    far = set(imagenet(far_recipe, classes).names)
    assert len(far) == n
    assert not far & under
    # The other branch first: its own branch only once the other is used up.
    assert far <= opposite or far >= opposite - under
    left = set(classes) - target - far
    if not left & (under | own):
        event("nothing near is left")
        with pytest.raises(DataError, match="no class of its branch"):
            imagenet(near_recipe, classes)
        return
    near = set(imagenet(near_recipe, classes).names)
    assert len(near) == n
    assert not near & target
    if len(left) <= n:
        event("near is topped up from far")
        assert near >= left
        assert near - left <= far
    else:
        nearest_first = [left & under, (left & own) - under, (left & opposite) - under]
        for place, group in enumerate(nearest_first):
            later = set().union(*nearest_first[place + 1 :])
            assert near >= group or not near & later
        event("near is a part of what is left")
        assert near <= left
