"""Which images are borrowed: fractions of classes and images, random subsets, overlap."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import DataError
from bench.data.borrow import borrowed_rows, resolve_borrowed, resolve_joint_fingerprint
from bench.data.catalog import resolve
from bench.data.dataset import Image
from bench.data.selection.images import Images
from bench.specs.data import Borrowed, DataSpec, ListedClasses
from bench.specs.run import ModelSpec, RunSpec, Seeds

CLASSES = tuple(f"class{n:02d}" for n in range(40))
TRAIN = Images.of(
    [
        Image(f"{name}/{n}", name, "train", hashlib.sha256(f"{name}{n}".encode()).hexdigest())
        for name in CLASSES
        for n in range(30)
    ]
)
DATA = DataSpec(dataset="digits")


def rows(draw: int = 0, **reductions: Any) -> list[int]:
    borrowed = Borrowed(data=DATA, **reductions)
    found = borrowed_rows(TRAIN, CLASSES, np.arange(len(TRAIN)), borrowed, draw)
    assert found.dtype == np.int64
    return [int(row) for row in found]


def test_without_a_reduction_all_images_are_borrowed() -> None:
    assert rows() == list(range(len(TRAIN)))


def test_a_tenth_of_the_categories_with_all_their_images() -> None:
    """SFT-4 (c)."""
    labels = Counter(TRAIN[row].label for row in rows(categories=0.1))
    assert len(labels) == 4
    assert set(labels.values()) == {30}


def test_a_tenth_of_the_images_of_each_category() -> None:
    """SFT-4 (d): the count per class is exact."""
    labels = Counter(TRAIN[row].label for row in rows(images=0.1))
    assert set(labels) == set(CLASSES)
    assert set(labels.values()) == {3}


def test_a_random_source_has_the_size_asked_for_and_is_a_subset() -> None:
    """GE-7."""
    chosen = rows(total_images=77)
    assert len(set(chosen)) == 77
    assert set(chosen) < set(range(len(TRAIN)))


def test_reductions_follow_each_other() -> None:
    chosen = rows(categories=0.5, images=0.5, total_images=10)
    assert len(chosen) == 10
    assert set(chosen) < set(rows(categories=0.5, images=0.5)) < set(rows(categories=0.5))


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 3))
def test_smaller_fractions_are_nested_in_larger_ones(a: float, b: float, draw: int) -> None:
    small, large = sorted((a, b))
    for name in ("categories", "images"):
        assert set(rows(draw, **{name: small})) <= set(rows(draw, **{name: large}))


def test_the_draw_decides() -> None:
    for reduction in ({"categories": 0.2}, {"images": 0.2}, {"total_images": 50}):
        assert rows(0, **reduction) == rows(0, **reduction) != rows(1, **reduction)


def test_the_choice_is_that_of_a_literal_twin() -> None:
    def rank(text: str) -> bytes:
        return hashlib.sha256(("borrow|" + text).encode()).digest()

    classes = sorted(CLASSES, key=lambda c: rank("categories|5|" + c))[:10]
    expected = []
    for name in classes:
        mine = [n for n, image in enumerate(TRAIN) if image.label == name]
        mine.sort(key=lambda n: rank("images|5|" + TRAIN[n].label + "|" + TRAIN[n].key))
        expected += mine[:15]
    assert rows(5, categories=0.25, images=0.5) == sorted(expected)


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match=r"total_images is 2000, and 1200[\s\S]*at most 1200"):
        rows(total_images=2000)


def run(*borrowed: Borrowed) -> RunSpec:
    target = DataSpec(
        dataset="digits",
        classes=ListedClasses(names=("0", "1")),
        images_per_class=5,
        val_per_class=5,
        test_per_class=5,
    )
    return RunSpec(
        data=target, model=ModelSpec(name="narrow8_32"), pattern="R(1-8)", borrow=borrowed
    )


def test_images_that_the_target_is_tested_on_can_be_excluded(tmp_path: Path) -> None:
    """CROSS-1: the same digits, borrowed whole."""
    data = DataSpec(
        dataset="digits", classes=ListedClasses(names=("1", "2")), val_per_class=0, test_per_class=1
    )
    places: dict[str, Any] = {"data_root": None, "cache_dir": tmp_path}
    target = resolve(run().data, 0, **places)
    held_out = {image.sha256 for image in (*target.val, *target.test)}
    with_them, without = (
        resolve_borrowed(run(Borrowed(data=data, exclude_overlap=off)), target, **places)[0]
        for off in (False, True)
    )
    assert held_out & {image.sha256 for image in with_them.images}
    assert not held_out & {image.sha256 for image in without.images}
    assert len(with_them.rows) - len(without.rows) == without.excluded > 0
    assert without.classes_used == 2


def test_nothing_left_is_an_error_before_training(tmp_path: Path) -> None:
    spec = run()
    data = spec.data.model_copy(update={"images_per_class": 2})
    places: dict[str, Any] = {"data_root": None, "cache_dir": tmp_path}
    target = resolve(spec.data, 0, **places)
    borrowed = Borrowed(data=data, exclude_overlap=True)
    own = resolve(data, 0, **places)
    everything = type(target)(**{**vars(target), "test": own.train})
    with pytest.raises(DataError, match=r"nothing is left[\s\S]*method: plain"):
        resolve_borrowed(run(borrowed), everything, **places)


def test_the_fingerprint_covers_what_is_borrowed(tmp_path: Path) -> None:
    places: dict[str, Any] = {"data_root": None, "cache_dir": tmp_path}
    one, other = (
        Borrowed(data=DataSpec(dataset="digits", images_per_class=n, test_per_class=5))
        for n in (3, 4)
    )
    alone = resolve_joint_fingerprint(run(), **places)
    assert alone == resolve(run().data, Seeds().draw, **places).fingerprint
    found = {resolve_joint_fingerprint(run(*b), **places) for b in ((), (one,), (other,))}
    assert len(found) == 3
