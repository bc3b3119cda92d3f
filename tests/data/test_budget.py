"""Validation images out of the budget: exact shares, nested sets, and the test set left alone."""

import hashlib
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.core.errors import DataError
from bench.data.catalog import load, resolve
from bench.data.dataset import Image
from bench.data.selection.pools import Pool
from bench.data.selection.splits import split_pools
from bench.specs.data import DataSpec, validation_images

USUAL = {
    "images_per_class": 10,
    "val_per_class": 0,
    "test_per_class": 3,
    "test_from": "auto",
    "draw": 0,
    "on_short": "error",
    "val_share": 0.2,
}
SHARES = st.floats(0.001, 0.999)


def images_of(label, train=40, val=0, test=5, people=None, rng=None):
    """Images of one class; with `people`, everybody shows several classes."""
    return [
        Image(
            f"{part}/{label}/{number}.png",
            label,
            part,
            hashlib.sha256(f"{part}{label}{number}".encode()).hexdigest(),
            None if people is None else f"person {rng.randrange(people)}",
        )
        for part, count in (("train", train), ("val", val), ("test", test))
        for number in range(count)
    ]


def split(images, *, draw, val_share=None, **options):
    """The images of each class by `split_pools`, classes in sorted order."""
    by_label = {}
    for image in images:
        by_label.setdefault(image.label, []).append(image)
    pools = [Pool(label, tuple(by_label[label])) for label in sorted(by_label)]
    if val_share is not None:
        options |= {"val_from": "budget", "val_share": val_share}
    return split_pools(pools, DataSpec(dataset="d", **options), draw)


def keys(images):
    return {image.key for image in images}


def per_class(images):
    return Counter(image.label for image in images)


@given(share=SHARES, budget=st.integers(0, 400))
def test_the_share_is_the_nearest_and_grows_by_at_most_one(share, budget):
    found = validation_images(budget, share)
    assert validation_images(budget + 1, share) - found in (0, 1)
    if budget >= 2:
        assert 1 <= found <= budget - 1
        if 1 <= share * budget <= budget - 1:
            assert abs(found - share * budget) <= 0.5 + 1e-9


def test_halves_go_up_although_floats_are_a_little_less():
    assert 0.29 * 50 < 14.5
    assert validation_images(50, 0.29) == 15


def slow_twin(images, k, share, draw):
    """One class at a time, in drawn order: an image validates where their number has to grow."""
    result = {"train": [], "val": []}
    for label in sorted({image.label for image in images}):
        mine = [i for i in images if i.label == label and i.split != "test"]
        mine.sort(key=lambda i: hashlib.sha256(f"images|{draw}|{i.key}".encode()).hexdigest())
        for count, image in enumerate(mine[:k], start=1):
            grows = validation_images(count, share) > validation_images(count - 1, share)
            result["val" if grows else "train"].append(image)
    return result


@settings(max_examples=60, deadline=None)
@given(
    k=st.none() | st.integers(2, 30),
    share=SHARES,
    draw=st.integers(0, 5),
    own_val=st.integers(0, 9),
    seed=st.integers(0, 10**6),
)
def test_a_budget_equals_its_slow_twin(k, share, draw, own_val, seed):
    images = [i for label in "abc" for i in images_of(label, train=30, val=own_val)]
    random.Random(seed).shuffle(images)
    found = split(images, **USUAL | {"images_per_class": k, "val_share": share, "draw": draw})
    twin = slow_twin(images, k, share, draw)
    assert list(found.train) == twin["train"]
    assert list(found.val) == twin["val"]
    assert found.available_images == 3 * (30 + own_val)
    of_class = (30 + own_val) if k is None else k
    held = validation_images(of_class, share)
    assert set(per_class(found.val).values()) == {held}
    assert set(per_class(found.train).values()) == {of_class - held}


@settings(max_examples=60, deadline=None)
@given(
    share=SHARES,
    people=st.none() | st.integers(6, 40),
    given_test=st.booleans(),
    contents=st.integers(150, 10**6),
    draw=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
def test_budgets_are_nested_disjoint_and_leave_the_test_set_alone(
    share, people, given_test, contents, draw, seed
):
    rng = random.Random(seed)
    images = [i for label in "abc" for i in images_of(label, people=people, rng=rng)]
    images = [
        Image(i.key, i.label, i.split, f"{rng.randrange(contents):064x}", i.group) for i in images
    ]
    options = USUAL | {
        "val_share": share,
        "draw": draw,
        "test_from": "given" if given_test else "pool",
    }
    try:
        found = [split(images, **options | {"images_per_class": k}) for k in (2, 5, 12)]
        besides = split(images, **options | {"val_share": None, "images_per_class": 1})
    except DataError:  # few people: no exact split keeps them apart
        assume(False)
    for count, one in zip((2, 5, 12), found, strict=True):
        held = validation_images(count, share)
        assert per_class(one.val) == dict.fromkeys("abc", held)
        assert per_class(one.train) == dict.fromkeys("abc", count - held)
        assert one.test == besides.test
        parts = (one.train, one.val, one.test)
        for number, part in enumerate(parts):
            for other in parts[:number]:
                assert not keys(part) & keys(other)
                assert not {i.sha256 for i in part} & {i.sha256 for i in other}
                assert not ({i.group for i in part} & {i.group for i in other}) - {None}
    for small, large in pairwise(found):
        assert keys(small.train) <= keys(large.train)
        assert keys(small.val) <= keys(large.val)


@settings(max_examples=40, deadline=None)
@given(share=SHARES, people=st.none() | st.integers(8, 40), seed=st.integers(0, 10**6))
def test_without_a_number_every_image_is_in_the_budget(share, people, seed):
    rng = random.Random(seed)
    images = [
        image
        for label in "abc"
        for image in images_of(label, train=rng.randrange(10, 40), people=people, rng=rng)
    ]
    options = USUAL | {"val_share": share, "images_per_class": None, "test_from": "given"}
    try:
        found = split(images, **options)
    except DataError:
        assume(False)
    tested = {image.group for image in found.test} - {None}
    usable = [i for i in images if i.split == "train" and i.group not in tested]
    assert keys(found.train + found.val) == keys(usable)
    assert found.available_images == len(usable)


def test_a_class_with_too_few_images_is_named_with_the_ways_out():
    images = images_of("a") + images_of("b", train=4)
    with pytest.raises(DataError) as caught:
        split(images, **USUAL)
    assert "b: 3 of 8 train, 1 of 2 validation" in caught.value.message
    assert "images_per_class of at most 4" in caught.value.hint
    assert "val_per_class" not in caught.value.hint


def test_cap_uses_what_there_is_but_needs_one_to_train_and_one_to_validate():
    images = images_of("a") + images_of("b", train=4)
    found = split(images, **USUAL | {"on_short": "cap"})
    assert per_class(found.train) == {"a": 8, "b": 3}
    assert per_class(found.val) == {"a": 2, "b": 1}
    with pytest.raises(DataError, match=r"no image left for training, for validation or for test"):
        split(images_of("a") + images_of("b", train=1), **USUAL | {"on_short": "cap"})


def test_a_class_that_has_validation_images_alone_is_no_slip_of_spelling():
    images = images_of("a", train=0, val=20) + images_of("b")
    assert per_class(split(images, **USUAL).train) == {"a": 8, "b": 8}


# --- the spec ---

DIGITS = DataSpec(dataset="digits", images_per_class=5, test_per_class=20)


def test_a_selection_of_digits_spends_its_budget(tmp_path: Path):
    spent = DataSpec(dataset="digits", images_per_class=5, test_per_class=20, val_from="budget")
    places = {"data_root": None, "cache_dir": tmp_path}
    found, besides = resolve(spent, 0, **places), resolve(DIGITS, 0, **places)
    assert (len(found.train), len(found.val), len(found.test)) == (40, 10, 200)
    assert found.test == besides.test
    assert found.fingerprint != besides.fingerprint
    assert found.available_images == besides.available_images + 100
    loaded = load(found, spent, **places)
    assert (len(loaded.train), len(loaded.val)) == (40, 10)


def test_a_budget_survives_json_and_is_part_of_the_identity():
    written = DIGITS.model_dump(exclude={"val_per_class"}) | {"val_from": "budget"}
    spent = DataSpec.model_validate(written)
    assert spent.val_per_class == 0
    assert DataSpec.model_validate_json(spent.model_dump_json()) == spent
    assert {**DIGITS.identity(), "val_per_class": 0} == {
        k: v for k, v in spent.identity().items() if not k.startswith(("val_from", "val_share"))
    }
    assert spent.identity() | {"val_share": 0.3} == (
        spent.model_copy(update={"val_share": 0.3}).identity()
    )
    assert not {"val_from", "val_share"} & DIGITS.identity().keys()


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (
            {"val_from": "budget", "val_per_class": 10},
            "val_per_class is 10, but val_from is budget",
        ),
        ({"val_from": "budget", "images_per_class": 1}, "at least 2, or val_from: extra"),
        ({"val_share": 0.5}, "val_share is 0.5, but val_from is extra"),
        ({"val_from": "budget", "val_share": 1.0}, "less than 1"),
        ({"val_from": "budget", "val_share": 0.0}, "greater than 0"),
        ({"val_from": "both"}, "'extra' or 'budget'"),
    ],
)
def test_what_contradicts_itself_is_refused(written, text):
    with pytest.raises(ValidationError, match=text):
        DataSpec.model_validate({"dataset": "digits", **written})
