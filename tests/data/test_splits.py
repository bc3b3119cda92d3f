"""Splits against a slow literal twin, and the traps of ledger X-4."""

import hashlib
import math
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.core.errors import DataError
from bench.data.dataset import Image
from bench.data.selection.pools import Pool
from bench.data.selection.splits import split_pools
from bench.specs.data import DataSpec

USUAL = {
    "images_per_class": 3,
    "val_per_class": 2,
    "test_per_class": None,
    "test_from": "auto",
    "draw": 0,
    "on_short": "error",
}


def images_of(label, train=20, val=0, test=5, group=None):
    return [
        Image(
            f"{part}/{label}/{number}.png",
            label,
            part,
            hashlib.sha256(f"{part}{label}{number}".encode()).hexdigest(),
            None if group is None else group(number),
        )
        for part, count in (("train", train), ("val", val), ("test", test))
        for number in range(count)
    ]


def pool_of(*labels, **counts):
    return [image for label in labels for image in images_of(label, **counts)]


def split(images, *, draw, **options):
    """Those of the images that `split_pools` takes, classes in sorted order."""
    by_label = {}
    for image in images:
        by_label.setdefault(image.label, []).append(image)
    pools = [Pool(label, tuple(by_label[label])) for label in sorted(by_label)]
    return split_pools(pools, DataSpec(dataset="d", **options), draw)


def keys(images):
    return {image.key for image in images}


def per_class(images):
    return Counter(image.label for image in images)


def slow_twin(images, k, v, t, given_test, draw):
    """One class at a time, straight from the definition: no groups, enough images, no val split."""

    def rank(salt, image):
        return hashlib.sha256(f"{salt}|{image.key}".encode()).hexdigest()

    test_hashes = {i.sha256 for i in images if given_test and i.split == "test"}
    pool, seen = [], set()
    for image in sorted((i for i in images if i.split == "train"), key=lambda i: i.key):
        if image.sha256 not in test_hashes and image.sha256 not in seen:
            pool.append(image)
            seen.add(image.sha256)
    result = {"train": [], "val": [], "test": []}
    for label in sorted({i.label for i in images}):
        if given_test:
            test = [i for i in images if i.label == label and i.split == "test"]
            test = sorted(test, key=lambda i: rank("test", i))[:t]
            mine = [i for i in pool if i.label == label]
        else:
            mine = sorted((i for i in pool if i.label == label), key=lambda i: rank("test", i))
            test, mine = mine[:t], mine[t:]
        mine = sorted(mine, key=lambda i: rank(f"images|{draw}", i))
        result["test"] += test
        result["val"] += mine[:v]
        result["train"] += mine[v:] if k is None else mine[v : v + k]
    return result


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True),
    contents=st.integers(40, 400),
    k=st.none() | st.integers(1, 4),
    v=st.integers(0, 3),
    t=st.integers(1, 3),
    given_test=st.booleans(),
    draw=st.integers(0, 5),
    seed=st.integers(0, 10**6),
)
def test_split_equals_its_slow_twin(labels, contents, k, v, t, given_test, draw, seed):
    rng = random.Random(seed)  # few distinct contents make many duplicates
    images = [
        Image(i.key, i.label, i.split, f"{rng.randrange(contents):064x}")
        for i in pool_of(*labels, train=30)
    ]
    rng.shuffle(images)
    options = {
        "images_per_class": k,
        "val_per_class": v,
        "test_per_class": t,
        "test_from": "given" if given_test else "pool",
        "draw": draw,
        "on_short": "error",
    }
    twin = slow_twin(images, k, v, t, given_test, draw)
    sizes = {part: per_class(twin[part]) for part in twin}
    enough = all(
        sizes["train"][label] >= (k or 1) and sizes["val"][label] == v and sizes["test"][label] == t
        for label in labels
    )
    if not enough:
        with pytest.raises(DataError, match="too few images"):
            split(images, **options)
        return
    found = split(images, **options)
    assert list(found.train) == twin["train"]
    assert list(found.val) == twin["val"]
    assert list(found.test) == twin["test"]
    parts = [found.train, found.val, found.test]
    for one in range(3):
        for other in range(one):
            assert not keys(parts[one]) & keys(parts[other])
            assert not {i.sha256 for i in parts[one]} & {i.sha256 for i in parts[other]}


def test_counts_are_exact_per_class_and_not_only_in_all():
    images = pool_of("a", train=100) + pool_of("b", train=20)
    found = split(images, **USUAL | {"images_per_class": 10})
    assert per_class(found.train) == {"a": 10, "b": 10}
    assert per_class(found.val) == {"a": 2, "b": 2}
    assert per_class(found.test) == {"a": 5, "b": 5}
    # the trap: k·C images drawn from the whole pool are not k of each class
    pool = [image for image in images if image.split == "train"]
    assert per_class(random.Random(0).sample(pool, 20)) != {"a": 10, "b": 10}


def test_training_sets_are_nested_and_the_rest_is_the_same_for_every_k():
    images = pool_of("a", "b")
    found = [split(images, **USUAL | {"images_per_class": k}) for k in (1, 5, 10, None)]
    for small, large in pairwise(found):
        assert keys(small.train) < keys(large.train)
        assert small.val == large.val
        assert small.test == large.test
    assert per_class(found[-1].train) == {"a": 18, "b": 18}


@pytest.mark.parametrize("test_from", ["given", "pool"])
def test_draws_differ_but_share_the_test_set(test_from):
    images = pool_of("a", "b")
    options = USUAL | {"test_from": test_from, "test_per_class": 4}
    found = [split(images, **options | {"draw": draw}) for draw in range(3)]
    assert len({found_one.test for found_one in found}) == 1
    assert len({frozenset(keys(found_one.train)) for found_one in found}) == 3
    assert {image.split for image in found[0].test} == {"test" if test_from == "given" else "train"}


def test_a_given_validation_split_is_used():
    found = split(pool_of("a", "b", val=6), **USUAL | {"images_per_class": None})
    assert {image.split for image in found.val} == {"val"}
    assert per_class(found.val) == {"a": 2, "b": 2}
    assert per_class(found.train) == {"a": 20, "b": 20}


def test_a_training_image_with_the_bytes_of_a_test_image_is_dropped_and_counted():
    images = pool_of("a", "b")
    leak = Image("train/a/leak.png", "a", "train", images[20].sha256)
    assert images[20].split == "test"
    found = split([*images, leak], **USUAL | {"images_per_class": None})
    assert leak not in found.train + found.val
    assert found.notes == {"dropped_equal_to_test": 1}


def test_no_classes_have_no_images():
    found = split_pools([], DataSpec(dataset="x", image_size=8, test_per_class=1), 0)
    assert (found.classes, len(found.train), len(found.test), found.notes) == ((), 0, 0, {})


def test_duplicates_are_kept_once_also_over_two_classes():
    images = pool_of("a", "b")
    twin = Image("train/a/zz.png", "a", "train", images[0].sha256)
    other = Image("train/b/zz.png", "b", "train", images[1].sha256)
    found = split([other, twin, *images], **USUAL | {"images_per_class": None, "val_per_class": 0})
    assert (
        found.train == split(images, **USUAL | {"images_per_class": None, "val_per_class": 0}).train
    )
    assert found.notes == {"dropped_duplicates": 2, "dropped_duplicates_with_other_label": 1}


def test_a_set_without_test_split_asks_for_a_number():
    images = pool_of("a", "b", test=0)
    with pytest.raises(DataError, match="test_per_class"):
        split(images, **USUAL)
    with pytest.raises(DataError, match="test_per_class"):
        split(pool_of("a", "b"), **USUAL | {"test_from": "pool"})
    with pytest.raises(DataError, match="without test images"):
        split(images, **USUAL | {"test_from": "given"})
    assert len(split(images, **USUAL | {"test_per_class": 7}).test) == 14


def test_on_short_error_names_classes_counts_and_ways_out():
    images = pool_of("a", "b") + pool_of("cub", train=29)
    with pytest.raises(DataError) as caught:
        split(images, **USUAL | {"images_per_class": 25})
    text = str(caught.value)
    assert "2 of 3 classes" in text
    assert "a: 18 of 25 train; b: 18 of 25 train" in text
    assert "at most 18" in text
    assert "on_short: cap" in text
    assert "on_short: drop_class" in text


def test_on_short_cap_uses_what_there_is_as_for_cub():
    """CHU's CUB: 35 training and 2 validation images of 29 or 30."""
    images = pool_of("a", train=29) + pool_of("b", train=30) + pool_of("c", train=40)
    found = split(images, **USUAL | {"images_per_class": 35, "on_short": "cap"})
    assert per_class(found.train) == {"a": 27, "b": 28, "c": 35}
    assert per_class(found.val) == {"a": 2, "b": 2, "c": 2}
    assert found.notes == {"capped_classes": ["a: 27 of 35 train", "b: 28 of 35 train"]}


def test_cap_still_refuses_a_class_with_nothing_to_train_on():
    images = pool_of("a") + pool_of("b", train=2)
    with pytest.raises(DataError, match="no image left"):
        split(images, **USUAL | {"on_short": "cap"})


def test_on_short_drop_class_drops_and_says_so():
    images = pool_of("a", train=40) + pool_of("b", train=3)
    found = split(images, **USUAL | {"images_per_class": 10, "on_short": "drop_class"})
    assert found.classes == ("a",)
    assert per_class(found.train + found.val + found.test) == {"a": 17}
    assert found.notes == {"dropped_classes": ["b: 1 of 10 train"]}
    with pytest.raises(DataError, match="all 2 classes"):
        split(images, **USUAL | {"images_per_class": 99, "on_short": "drop_class"})


@pytest.mark.parametrize("test_from", ["given", "pool"])
def test_groups_never_stand_in_two_splits(test_from):
    def person(number):
        return f"person {number // 4}"

    images = pool_of("a", "b", train=40, test=4 if test_from == "given" else 0, group=person)
    found = split(
        images,
        **USUAL
        | {"test_from": test_from, "test_per_class": 3, "val_per_class": 5, "images_per_class": 8},
    )
    groups = [{image.group for image in part} for part in (found.train, found.val, found.test)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert per_class(found.train) == {"a": 8, "b": 8}
    assert per_class(found.test) == {"a": 3, "b": 3}
    assert found.notes["left_out_group_in_other_split"] > 0


@settings(max_examples=60, deadline=None)
@given(
    k=st.none() | st.integers(1, 4),
    v=st.integers(0, 3),
    own_val=st.booleans(),
    given_test=st.booleans(),
    grouped=st.booleans(),
    restricted=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_available_images_are_those_that_would_train_if_all_did(
    k, v, own_val, given_test, grouped, restricted, seed
):
    rng = random.Random(seed)
    images = [
        Image(i.key, i.label, i.split, f"{rng.randrange(150):064x}", i.group)
        for i in pool_of(
            *"abc", train=40, val=12 * own_val, group=(lambda n: f"{n // 2}") if grouped else None
        )
    ]
    pools = [Pool(name, tuple(i for i in images if i.label == name)) for name in "abc"]
    options = {
        "val_per_class": v,
        "test_per_class": 3,
        "test_from": "given" if given_test else "pool",
        "on_short": "drop_class",
    }
    where = (lambda image: int(image.sha256, 16) % 3 > 0) if restricted else None
    data = DataSpec(dataset="d", images_per_class=k, **options)
    try:
        found = split_pools(pools, data, 0, where)
    except DataError:
        assume(False)
    every = split_pools(pools, DataSpec(dataset="d", **options), 0, where)
    assert found.available_images == len([i for i in every.train if i.label in found.classes])


SCRIPT = """
from bench.data.catalog import resolve
from bench.specs.data import DataSpec, RandomClasses
from pathlib import Path
import sys
data = DataSpec(dataset="wordnet-shapes", classes=RandomClasses(n=3), images_per_class=4)
found = resolve(data, 7, data_root=None, cache_dir=Path("unused"))
print(found.fingerprint, [image.key for image in found.train[:3]], found.classes)
print(sorted({"torch", "timm", "pandas", "nltk"} & set(sys.modules)))
"""


def test_splits_do_not_depend_on_the_hash_seed_and_need_no_torch():
    answers = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(answers) == 1
    answer = answers.pop()
    assert re.match(r"[0-9a-f]{64} ", answer)
    assert answer.splitlines()[1] == "[]"


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_share_of_each_class_is_held_back_for_the_test(first, second, share, draw):
    assume(min(n - round(n * share) for n in (first, second)) > 1)
    pool = images_of("a", train=first, test=0) + images_of("b", train=second, test=0)
    found = split(pool, draw=draw, test_per_class=share, val_per_class=0, images_per_class=1)
    counts = Counter(image.label for image in found.test)
    for label, images in (("a", first), ("b", second)):
        literal = max(1, math.floor(Fraction(repr(share)) * images + Fraction(1, 2)))
        assert counts[label] == literal
    assert not keys(found.test) & keys(found.train)
    again = split(pool, draw=draw + 1, test_per_class=share, val_per_class=0, images_per_class=1)
    assert keys(again.test) == keys(found.test)


def test_the_validation_images_of_a_data_set_may_be_the_test_set():
    pool = pool_of("a", "b", train=10, val=4, test=0)
    found = split(pool, draw=0, test_from="val", val_per_class=2)
    assert keys(found.test) == {image.key for image in pool if image.split == "val"}
    assert {image.split for image in found.val} == {"train"}
    with pytest.raises(DataError, match="have a test split besides"):
        split(pool_of("a", val=4), draw=0, test_from="val")
    with pytest.raises(DataError, match="come without a validation split"):
        split(pool_of("a", test=0), draw=0, test_from="val")


def test_a_share_of_validation_images_names_the_other_way():
    with pytest.raises(ValueError, match=r"val_from: budget and val_share: 0\.2"):
        DataSpec(dataset="d", val_per_class=0.2)


def test_classes_that_their_groups_leave_empty_say_so():
    pools = [Pool(who, images_of(who, train=6, test=0, group=lambda _, w=who: w)) for who in "ab"]
    for on_short, what in (("error", "too few images"), ("cap", "no image left")):
        data = DataSpec(
            dataset="x", val_per_class=0, test_per_class=2, test_from="pool", on_short=on_short
        )
        with pytest.raises(DataError, match=what) as caught:
            split_pools(pools, data, 0)
        shown = "; 8 images were left out, as their group is in another split"
        assert caught.value.message.endswith(shown)
