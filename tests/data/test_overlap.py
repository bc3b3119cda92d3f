"""Shared images are found however they were saved, and different ones are not."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from scipy import fft
from sklearn.datasets import load_sample_images

from bench.core.errors import DataError
from bench.data import catalog
from bench.data.inspection.overlap import Pictures, _above_median, find_overlap, luma
from bench.specs.data import DataSpec

UInt8 = npt.NDArray[np.uint8]


def _jpeg(picture: UInt8, quality: int) -> UInt8:
    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=quality)
    return np.asarray(Pillow.open(io.BytesIO(file.getvalue())))


def _resized(picture: UInt8, side: int) -> UInt8:
    small = Pillow.fromarray(picture).resize((side, side), Pillow.Resampling.BICUBIC)
    return np.asarray(small)


@pytest.fixture(scope="module")
def photographs() -> UInt8:
    """Patches of two real photographs that do not overlap, 64 x 64; those of plain sky left out."""
    found = []
    for whole in load_sample_images().images:
        for top in range(0, whole.shape[0] - 63, 64):
            for left in range(0, whole.shape[1] - 63, 64):
                found.append(whole[top : top + 64, left : left + 64])
    patches = np.array(found)
    return patches[luma(patches, 32).std(axis=(1, 2)) > 20]


def _side(pixels: UInt8, name: str) -> Pictures:
    keys = [f"{name}{n}" for n in range(len(pixels))]
    return Pictures(keys, keys, pixels)


# --- twins ---


def test_the_brightness_is_the_mean_over_areas() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 20, 3), dtype=np.uint8)
    small = luma(pixels, 4)
    for n in range(2):
        grey = pixels[n] @ np.array([0.299, 0.587, 0.114])
        for y in range(4):
            for x in range(4):
                patch = grey[3 * y : 3 * y + 3, 5 * x : 5 * x + 5]
                assert small[n, y, x] == pytest.approx(patch.mean(), rel=1e-5)


def test_odd_sizes_share_pixels_between_areas() -> None:
    row = np.array([0, 90, 180], dtype=np.uint8)
    pixels = np.repeat(np.repeat(row[None, None, :, None], 3, axis=1), 3, axis=3)
    assert luma(pixels, 2)[0, 0] == pytest.approx([30.0, 150.0], rel=1e-5)


def test_bits_are_those_of_the_literal_hash() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    fast = _above_median(luma(pixels, 32)) > 0
    for n in range(3):
        grey = luma(pixels[n : n + 1], 32)[0]
        low = [
            [
                sum(
                    grey[y, x]
                    * np.cos(np.pi * (2 * y + 1) * u / 64)
                    * np.cos(np.pi * (2 * x + 1) * v / 64)
                    for y in range(32)
                    for x in range(32)
                )
                for v in range(8)
            ]
            for u in range(8)
        ]
        scaled = np.array(low)
        scaled[0] /= np.sqrt(2)
        scaled[:, 0] /= np.sqrt(2)
        assert np.allclose(scaled / 16, fft.dctn(grey, norm="ortho")[:8, :8], atol=1e-2)
        assert np.array_equal(fast[n], (scaled > np.median(scaled)).ravel())


# --- planted copies ---


@pytest.mark.parametrize("change", ["jpeg 30", "jpeg 75", "half", "double", "brighter", "mirrored"])
def test_copies_are_found_and_are_the_right_ones(photographs: UInt8, change: str) -> None:
    copies = {
        "jpeg 30": [_jpeg(p, 30) for p in photographs],
        "jpeg 75": [_jpeg(p, 75) for p in photographs],
        "half": [_resized(p, 32) for p in photographs],
        "double": [_resized(p, 128) for p in photographs],
        "brighter": [np.clip(p.astype(int) * 9 // 10 + 20, 0, 255) for p in photographs],
        "mirrored": [_jpeg(p[:, ::-1], 75) for p in photographs],
    }
    pixels = np.array(copies[change], dtype=np.uint8)
    found = find_overlap(_side(pixels, "target"), _side(photographs, "source"))
    kind = "mirrored" if change == "mirrored" else "similar"
    right = sum(m.target == m.source and m.kind == kind for m in found.matches)
    assert right >= 0.97 * (len(photographs) - found.flat)
    wrong = [m for m in found.matches if m.target != m.source]
    assert len(wrong) <= 0.01 * len(photographs)


def test_photographs_are_not_taken_for_each_other(photographs: UInt8) -> None:
    half = len(photographs) // 2
    found = find_overlap(_side(photographs[:half], "a"), _side(photographs[half:], "b"))
    assert half >= 30
    assert found.matches == ()


def test_disjoint_generated_images_are_told_apart(tmp_path: Path) -> None:
    sides = []
    for side in ("target", "near"):
        data = DataSpec.model_validate(
            {
                "dataset": "wordnet-shapes",
                "classes": {
                    "recipe": "near_far",
                    "root": "mammal.n.01",
                    "side": side,
                    "target_n": 5,
                    "source_n": 10,
                },
                "images_per_class": 40,
            }
        )
        resolved = catalog.resolve(data, 0, data_root=None, cache_dir=tmp_path)
        loaded = catalog.load(resolved, data, data_root=None, cache_dir=tmp_path)
        keys = [image.key for image in resolved.images]
        hashes = [image.sha256 for image in resolved.images]
        sides.append(Pictures(keys, hashes, np.asarray(loaded.images)))
    assert find_overlap(*sides).matches == ()
    same = find_overlap(sides[0], sides[0])
    assert same.count("exact") == len(sides[0].keys)


@pytest.mark.slow
def test_disjoint_photographs_of_tiny_imagenet_are_told_apart(tmp_path: Path) -> None:
    shared = Path(os.environ.get("BENCH_TEST_SHARED", Path(__file__).parents[3] / "shared"))
    if not (shared / "data" / "tiny-imagenet-200.tar.gz").is_file():
        pytest.skip(f"no Tiny ImageNet below {shared}")
    base = {"recipe": "near_far", "root": "animal.n.01", "target_n": 20, "source_n": 60}
    places = {"data_root": shared / "data", "cache_dir": tmp_path}
    sides = []
    for side in ("target", "near"):
        data = DataSpec.model_validate(
            {
                "dataset": "tiny-imagenet",
                "classes": base | {"side": side},
                "images_per_class": 10,
                "image_size": 64,
            }
        )
        resolved = catalog.resolve(data, 0, **places)
        pixels = np.asarray(catalog.load(resolved, data, **places).images)
        hashes = [image.sha256 for image in resolved.images]
        sides.append(Pictures([image.key for image in resolved.images], hashes, pixels))
    found = find_overlap(*sides)
    assert len(sides[0].keys) >= 1000
    assert len(found.matches) <= 0.001 * len(sides[0].keys)


# --- what counts first, and edges ---


def test_the_same_bytes_count_before_the_same_picture(photographs: UInt8) -> None:
    target = Pictures(["x"], ["same"], photographs[:1])
    source = Pictures(["copy", "file"], ["other", "same"], photographs[[0, 5]])
    (match,) = find_overlap(target, source).matches
    assert (match.kind, match.source) == ("exact", 1)


def test_without_pictures_the_bytes_alone_are_compared() -> None:
    target = Pictures(["a", "b"], ["1", "2"])
    found = find_overlap(target, Pictures(["c"], ["2"], np.zeros((1, 8, 8, 3), np.uint8)))
    assert [(m.target, m.source, m.kind) for m in found.matches] == [(1, 0, "exact")]
    assert not found.pictures


def test_flat_pictures_match_by_bytes_alone_and_are_counted() -> None:
    flat = np.full((2, 16, 16, 3), 128, dtype=np.uint8)
    found = find_overlap(_side(flat, "a"), _side(flat, "b"))
    assert found.matches == ()
    assert found.flat == 2


def test_an_empty_side_shares_nothing(photographs: UInt8) -> None:
    nothing = _side(photographs[:0], "a")
    some = _side(photographs[:3], "b")
    assert find_overlap(nothing, some).matches == find_overlap(some, nothing).matches == ()


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="not one side"):
        Pictures(["a"], ["1", "2"])


@given(st.integers(0, 2**32 - 1), st.integers(16, 48), st.integers(16, 48))
def test_any_picture_is_its_own_copy(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)[0]
    whole = np.asarray(Pillow.fromarray(coarse).resize((width, height)))[None]
    found = find_overlap(_side(whole, "a"), _side(whole.copy(), "b"))
    assert [m.bits for m in found.matches] == [0]
    assert found.matches[0].correlation == pytest.approx(1, abs=1e-5)
