"""Offline expansion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import DataError
from bench.core.seeding import rng_from
from bench.data.transforms.expand import Ranges, expand, plan, transformed

STILL = Ranges(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None)


def _set(counts: list[int], side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return rng.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8), labels


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_every_class_has_max_n_to_images_and_originals_are_kept(
    counts: list[int], to: int, seed: int
) -> None:
    images, labels = _set(counts)
    grown, grown_labels = expand(images, labels, to=to, seed=seed)
    assert Counter(grown_labels.tolist()) == {c: max(n, to) for c, n in enumerate(counts)}
    assert np.array_equal(grown[: len(images)], images)
    assert np.array_equal(grown_labels[: len(images)], labels)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 20))
def test_images_of_a_class_take_turns(labels: list[int], to: int) -> None:
    y = np.array(labels)
    copies = plan(y, to)
    made = Counter(copies.tolist())
    for label in set(labels):
        turns = [made.get(i, 0) for i in np.flatnonzero(y == label)]
        assert sum(turns) == max(0, to - len(turns))
        assert max(turns) - min(turns) <= 1


def test_a_set_that_is_large_enough_comes_back_unchanged() -> None:
    images, labels = _set([4, 6])
    grown, grown_labels = expand(images, labels, to=4, seed=0)
    assert np.array_equal(grown, images)
    assert np.array_equal(grown_labels, labels)


def test_copies_differ_from_the_original_and_from_each_other() -> None:
    images, labels = _set([1], side=16)
    grown, _ = expand(images, labels, to=12, seed=0)
    assert len({image.tobytes() for image in grown}) == 12


def test_a_larger_expansion_begins_with_the_smaller_one() -> None:
    images, labels = _set([2])
    small, _ = expand(images, labels, to=5, seed=1)
    large, _ = expand(images, labels, to=9, seed=1)
    assert np.array_equal(large[:5], small)


def test_seeds_differ_and_hash_seed_does_not_matter() -> None:
    images, labels = _set([3])
    assert not np.array_equal(*(expand(images, labels, to=6, seed=s)[0] for s in (0, 1)))
    code = (
        "import sys,hashlib,numpy as np; from bench.data.transforms.expand import expand;"
        "x=np.arange(2*8*8*3,dtype=np.uint8).reshape(2,8,8,3);"
        "g,_=expand(x,np.array([0,1]),to=4,seed=0);"
        "print(hashlib.sha256(g.tobytes()).hexdigest(), 'torch' in sys.modules)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "7")
    }
    assert len(seen) == 1
    assert seen.pop().endswith("False\n")


def test_no_change_is_the_identity() -> None:
    image = _set([1], side=9)[0][0]
    assert np.array_equal(transformed(image, rng_from("a"), STILL), image)


def test_mirroring_is_exact() -> None:
    image = _set([1], side=9)[0][0]
    mirrored = transformed(image, rng_from("a"), Ranges(1.0, 0, 0, 0, 0, 0, None))
    assert np.array_equal(mirrored, image[:, ::-1])


@pytest.mark.parametrize("name", ["log2_scale", "shift", "degrees", "perspective", "color"])
def test_each_range_changes_the_image_and_keeps_its_mean_colour_near(name: str) -> None:
    ramp = np.linspace(60, 190, 32)
    image = np.stack(
        [
            ramp[None] + 0 * ramp[:, None],
            ramp[:, None] + 0 * ramp,
            0 * ramp + 0 * ramp[:, None] + 120,
        ],
        2,
    )
    image = image.astype(np.uint8)
    values = dict.fromkeys(("flip", "log2_scale", "shift", "degrees", "perspective", "color"), 0.0)
    ranges = Ranges(**values | {name: getattr(Ranges(), name)}, jpeg_quality=None)
    copy = transformed(image, rng_from("b"), ranges)
    assert not np.array_equal(copy, image)
    assert np.abs(copy.mean((0, 1)) - image.mean((0, 1))).max() < 30


def test_a_quarter_turn_is_numpys() -> None:
    """Against np.rot90: the only free amount is the rotation, drawn to its limit."""

    class Limit:
        def random(self) -> float:
            return 0.9

        def uniform(self, low: float, high: float, size: int) -> np.ndarray:
            return np.ones(size)

    image = _set([1], side=8)[0][0]
    turned = transformed(image, Limit(), Ranges(0, 0, 0, 90.0, 0, 0, None))
    assert any(np.array_equal(turned, np.rot90(image, k)) for k in (1, 3))


def test_bad_arguments_are_named() -> None:
    images, labels = _set([2])
    with pytest.raises(DataError, match="2 images, but 1 labels"):
        expand(images, labels[:1], to=3, seed=0)
    with pytest.raises(DataError, match="expand to 0"):
        expand(images, labels, to=0, seed=0)
