"""On-line augmentation: against an image-by-image twin and torchvision's colour functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as tv

from bench.core.seeding import seed_from
from bench.data.transforms.augment import COLOR_STRENGTH, Scale, augment, draw_noise, normalise


def _images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(values)


def _slow_crop_flip(
    images: torch.Tensor, noise: torch.Tensor, pad: int, fill: tuple, size: int | None = None
) -> np.ndarray:
    """One image at a time: paste on a canvas, cut the window out, mirror it."""
    out = []
    for image, row in zip(images.numpy(), noise.numpy(), strict=True):
        side = image.shape[0]
        canvas = np.empty((side + 2 * pad, side + 2 * pad, 3), np.uint8)
        canvas[:] = fill
        canvas[pad : pad + side, pad : pad + side] = image
        shown = size or side
        places = side + 2 * pad - shown + 1
        top, left = (int(np.float32(u) * np.float32(places)) for u in row[:2])
        window = canvas[top : top + shown, left : left + shown]
        out.append(window[:, ::-1] if row[2] < 0.5 else window)
    return np.stack(out)


@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_crop_and_flip_equal_the_slow_twin(count: int, side: int, pad: int, seed: int) -> None:
    images, noise = _images(count, side, seed), draw_noise(count, seed, 0)
    fill = (1, 2, 3)
    fast = augment(images, noise, "crop_flip", crop_pad=pad, fill=fill)
    assert np.array_equal(fast.numpy(), _slow_crop_flip(images, noise, pad, fill))


@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 2), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_parts_of_larger_images_equal_the_slow_twin(
    size: int, more: int, pad: int, seed: int
) -> None:
    images, noise = _images(5, size + more, seed), draw_noise(5, seed, 0)
    fast = augment(images, noise, "crop_flip", crop_pad=pad, size=size)
    assert np.array_equal(fast.numpy(), _slow_crop_flip(images, noise, pad, (0, 0, 0), size))
    plain = augment(images, noise, "none", size=size)
    assert torch.equal(plain, images[:, more // 2 : more // 2 + size, more // 2 : more // 2 + size])


def test_all_windows_and_both_mirrorings_occur() -> None:
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3, 1).repeat(1, 1, 1, 3) + 1
    many = augment(image.repeat(2000, 1, 1, 1), draw_noise(2000, 0, 0), "crop_flip", crop_pad=1)
    assert len({tuple(one.flatten().tolist()) for one in many}) == 9 * 2


def test_flip_alone_mirrors_the_images_that_crop_flip_mirrors() -> None:
    images, noise = _images(50, 6), draw_noise(50, 3, 1)
    flipped = augment(images, noise, "flip")
    assert torch.equal(flipped, augment(images, noise, "crop_flip", crop_pad=0))
    mirrored = [torch.equal(a, b.flip(1)) for a, b in zip(flipped, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 40


def test_none_gives_the_images_back() -> None:
    images = _images(3, 5)
    assert augment(images, draw_noise(3, 0, 0), "none") is images


def test_color_jitter_agrees_with_torchvision() -> None:
    images, noise = _images(20, 8), draw_noise(20, 0, 0)
    noise[:, 2] = 0.9  # no mirroring
    jittered = augment(images, noise, "crop_flip_color", crop_pad=0)
    factors = (1 + COLOR_STRENGTH * (2 * noise[:, 3:6] - 1)).tolist()
    for ours, image, (brightness, contrast, saturation) in zip(
        jittered, images, factors, strict=True
    ):
        x = image.permute(2, 0, 1).float() / 255
        x = tv.adjust_brightness(x, brightness)
        x = tv.adjust_saturation(tv.adjust_contrast(x, contrast), saturation)
        assert (ours.permute(2, 0, 1).float() - x * 255).abs().max() < 1.0


def _slow_jitter(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The formulas as they are written, on (B, S, S, 3)."""
    luma = torch.tensor((0.299, 0.587, 0.114))
    brightness, contrast, saturation = (f[:, None, None, None] for f in factors.unbind(1))
    x = (images.float() * brightness).clamp(0, 255)
    mean_grey = (x * luma).sum(3, keepdim=True).mean((1, 2), keepdim=True)
    x = (mean_grey + (x - mean_grey) * contrast).clamp(0, 255)
    grey = (x * luma).sum(3, keepdim=True)
    return (grey + (x - grey) * saturation).clamp(0, 255).round().to(torch.uint8)


@given(st.integers(1, 9), st.integers(1, 33), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_color_jitter_equals_the_formulas_to_the_bit(count: int, side: int, seed: int) -> None:
    images, noise = _images(count, side, seed), draw_noise(count, seed, 0)
    noise[:, 2] = 0.9
    fast = augment(images, noise, "crop_flip_color", crop_pad=0)
    slow = _slow_jitter(images, 1 + COLOR_STRENGTH * (2 * noise[:, 3:6] - 1))
    assert torch.equal(fast, slow)
    assert fast.is_contiguous()


@given(st.integers(1, 5), st.integers(1, 17), st.booleans())
def test_normalise_equals_the_formula_to_the_bit(count: int, side: int, whole: bool) -> None:
    images = _images(count, side + 2)
    images = images if whole else images[:, 1:-1, 1:-1]
    before = images.clone()
    mean, std = torch.tensor((0.485, 0.456, 0.406)) * 255, torch.tensor((0.229, 0.224, 0.225)) * 255
    expected = (images.float() - mean) * (1 / std)
    ours = normalise(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(ours.permute(0, 2, 3, 1), expected)
    assert torch.equal(images, before)


def test_normalise_agrees_with_torchvision() -> None:
    images, mean, std = _images(4, 5), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    expected = tv.normalize(images.permute(0, 3, 1, 2).float() / 255, list(mean), list(std))
    for channels_last in (True, False):
        ours = normalise(images, mean, std, channels_last=channels_last)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("other", [(1, 0), (0, 1), (0, 0, 1)])
def test_noise_is_a_function_of_seed_epoch_and_domain(other: tuple[int, ...]) -> None:
    assert torch.equal(draw_noise(9, 0, 0), draw_noise(9, 0, 0))
    assert not torch.equal(draw_noise(9, 0, 0), draw_noise(9, *other))
    assert torch.equal(draw_noise(9, 0, 0)[:4], draw_noise(4, 0, 0))


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw_noise(100, 0, 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", ["crop", "crop_color"])
def test_crops_without_mirroring_are_those_of_images_that_are_not_mirrored(kind: str) -> None:
    """SFT crops at random and names no mirroring."""
    images, noise = _images(9, 12), draw_noise(9, 3, 0)
    upright = noise.clone()
    upright[:, 2] = 0.9
    with_flip = kind.replace("crop", "crop_flip")
    expected = augment(images, upright, with_flip, crop_pad=2)  # type: ignore[arg-type]
    assert torch.equal(augment(images, noise, kind, crop_pad=2), expected)  # type: ignore[arg-type]
    assert not torch.equal(augment(images, noise, with_flip, crop_pad=2), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "size"), [("scale", 24), ("scale_flip", None), ("scale", 48)])
def test_scale_and_aspect_jitter_is_torchvisions_resized_crop(kind: str, size: int | None) -> None:
    """SFT §4.1, Aircraft; oracle: torchvision, from the rectangle that the numbers stand for."""
    side = 32
    images, noise = _images(40, side), draw_noise(40, 1, 2)
    found = augment(images, noise, kind, size=size)  # type: ignore[arg-type]
    assert found.shape == (40, size or side, size or side, 3)
    for image, row, shown in zip(images, noise.double(), found, strict=True):
        dy, dx, flip, *_, area, aspect = (float(value) for value in row)
        share, ratio = 0.08 + 0.92 * area, (4 / 3) ** (2 * aspect - 1)
        high, wide = (
            min(side, max(1, round(side * v**0.5))) for v in (share / ratio, share * ratio)
        )
        top, left = int(dy * (side - high + 1)), int(dx * (side - wide + 1))
        planes = image.permute(2, 0, 1).float()
        out = [size or side] * 2
        expected = tv.resized_crop(planes, top, left, high, wide, out, antialias=False)
        if "flip" in kind and flip < 0.5:
            expected = expected.flip(2)
        assert (expected.permute(1, 2, 0) - shown.float()).abs().max() <= 0.51


def test_areas_and_ratios_cover_their_ranges_and_older_kinds_keep_their_numbers() -> None:
    noise = draw_noise(5000, 0, 0)
    assert noise.shape == (5000, 8)
    assert noise.amin(0).max() < 0.001
    assert noise.amax(0).min() > 0.999
    assert np.abs(np.corrcoef(noise.numpy().T) - np.eye(8)).max() < 0.06
    generator = torch.Generator().manual_seed(seed_from("augment|3|1|0"))
    assert torch.equal(draw_noise(7, 3, 1)[:, :6], torch.rand(7, 6, generator=generator))


@pytest.mark.parametrize("size", [12, 32, 48])
def test_antialiased_parts_are_torchs(size: int) -> None:
    """Oracle: torch's own antialiased interpolation of the rectangle that the numbers stand for."""
    side, scale = 32, Scale(least_area=0.3, most_aspect=2.0, antialias=True)
    images, noise = _images(40, side), draw_noise(40, 1, 2)
    found = augment(images, noise, "scale_flip", size=size, scale=scale)
    for image, row, shown in zip(images, noise.double(), found, strict=True):
        dy, dx, flip, *_, area, aspect = (float(value) for value in row)
        share, ratio = 0.3 + 0.7 * area, 2.0 ** (2 * aspect - 1)
        high, wide = (
            min(side, max(1, round(side * v**0.5))) for v in (share / ratio, share * ratio)
        )
        top, left = int(dy * (side - high + 1)), int(dx * (side - wide + 1))
        part = image[top : top + high, left : left + wide].permute(2, 0, 1).float()
        expected = torch.nn.functional.interpolate(
            part[None], (size, size), mode="bilinear", antialias=True
        )[0]
        expected = expected.flip(2) if flip < 0.5 else expected
        assert (expected.permute(1, 2, 0) - shown.float()).abs().max() <= 0.51


@pytest.mark.parametrize("antialias", [False, True])
def test_the_whole_image_at_its_size_stays_as_it_is(antialias: bool) -> None:
    images, noise = _images(9, 17), draw_noise(9, 0, 0)
    scale = Scale(least_area=1.0, most_aspect=1.0, antialias=antialias)
    assert torch.equal(augment(images, noise, "scale", scale=scale), images)


def test_further_numbers_leave_the_usual_ones_alone() -> None:
    more = draw_noise(7, 3, 1, further={"policy": 6, "erasing": 2})
    assert more.shape == (7, 16)
    assert torch.equal(more[:, :8], draw_noise(7, 3, 1))
    assert torch.equal(draw_noise(7, 3, 1, further={"erasing": 2})[:, 8:], more[:, 14:])
