"""RandAugment, TrivialAugment, random erasing, MixUp, CutMix: against torchvision and timm."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm.data.mixup
import timm.data.random_erasing
import torch
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

from bench.core.seeding import rng_from
from bench.data.transforms import erasing
from bench.data.transforms.mixing import Mix, draw_mix
from bench.data.transforms.policies import BINS, ImagePolicy, apply_policy, policy_of
from bench.specs.run import TrainSpec

GENERATOR = torch.Generator().manual_seed(0)


def _images(count: int, side: int) -> torch.Tensor:
    images = torch.randint(0, 256, (count, side, side, 3), generator=GENERATOR, dtype=torch.uint8)
    images[0], images[1] = 7, images[1] // 9  # one colour; low contrast
    return images


# --- policies ------------------------------------------------------------------------------------


def _torchvision(image: torch.Tensor, row: list[float], policy: ImagePolicy) -> torch.Tensor:
    """One image through torchvision's own operations, chosen by the same numbers."""
    side, shown = image.shape[0], image.permute(2, 0, 1)
    for start in range(0, len(row), 3):
        which, strength, sign = row[start : start + 3]
        if policy.magnitude is None:
            space, bin_ = TrivialAugmentWide()._augmentation_space(BINS), int(strength * BINS)
        else:
            space, bin_ = RandAugment()._augmentation_space(BINS, (side, side)), policy.magnitude
        name, (magnitudes, signed) = list(space.items())[int(which * len(space))]
        magnitude = float(magnitudes[bin_]) if magnitudes.ndim else 0.0
        magnitude *= -1 if signed and sign >= 0.5 else 1
        shown = _apply_op(shown, name, magnitude, InterpolationMode.NEAREST, [1.0, 2.0, 3.0])
    return shown.permute(1, 2, 0)


@pytest.mark.parametrize("side", [32, 15])
@pytest.mark.parametrize("magnitude", [None, 0, 9, 30])
def test_operations_are_torchvisions(magnitude: int | None, side: int) -> None:
    policy = ImagePolicy(1, magnitude)
    images = _images(400, side)
    noise = torch.rand(400, policy.columns, generator=GENERATOR)
    ours = apply_policy(images, noise, policy, (1, 2, 3))
    for image, row, shown in zip(images, noise.tolist(), ours, strict=True):
        difference = shown.int() - _torchvision(image, row, policy).int()
        assert difference.abs().max() <= 1  # a product on the edge between two levels


def test_several_operations_follow_one_another() -> None:
    policy, images = ImagePolicy(3, 20), _images(60, 16)
    noise = torch.rand(60, 9, generator=GENERATOR)
    steps = images
    for start in (0, 3, 6):
        steps = apply_policy(steps, noise[:, start : start + 3], ImagePolicy(1, 20))
    assert torch.equal(apply_policy(images, noise, policy), steps)


def test_what_an_image_gets_does_not_depend_on_its_batch() -> None:
    policy, images = ImagePolicy(2, None), _images(50, 16)
    noise = torch.rand(50, 6, generator=GENERATOR)
    whole = apply_policy(images, noise, policy)
    parts = [
        apply_policy(images[rows], noise[rows], policy) for rows in (slice(0, 1), slice(1, 50))
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_all_operations_come_equally_often_and_identity_is_one() -> None:
    images = _images(2, 32)[:1].repeat(1400, 1, 1, 1)
    images[:, :16] = 200
    which = (torch.arange(1400) + 0.5) / 1400
    noise = torch.stack([which, torch.zeros(1400), torch.zeros(1400)], 1)
    same = (apply_policy(images, noise, ImagePolicy(1, 0)) == images).flatten(1).all(1)
    assert same[:100].all()  # the first of 14 is the identity
    strength_zero = same.view(14, 100)
    assert strength_zero.any(1).tolist() == strength_zero.all(1).tolist()
    # all but solarize (nothing is above 255), autocontrast and equalize leave it at strength 0
    assert strength_zero.all(1).tolist() == [True] * 12 + [False] * 2


def test_the_recipe_names_the_policy() -> None:
    assert policy_of(TrainSpec()) is None
    recipe = TrainSpec(policy="randaugment", policy_ops=3, policy_magnitude=5)
    assert policy_of(recipe) == ImagePolicy(3, 5)
    assert policy_of(TrainSpec(policy="trivialaugment")) == ImagePolicy(1, None)


# --- random erasing ------------------------------------------------------------------------------


def _numbers(row: list[float]) -> Any:
    """Python's `random` as timm uses it, fed with a row of our numbers."""
    left: Iterator[float] = iter(row[1:])
    return types.SimpleNamespace(
        random=lambda: row[0],
        uniform=lambda low, high: low + (high - low) * next(left),
        randint=lambda low, high: low + int(next(left) * (high - low + 1)),
    )


@pytest.mark.parametrize(("side", "probability"), [(32, 1.0), (9, 1.0), (16, 0.4)])
def test_erased_rectangles_are_timms(
    side: int, probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(300, 3, side, side, generator=GENERATOR)
    noise = torch.rand(300, erasing.COLUMNS, generator=GENERATOR)
    theirs = timm.data.random_erasing.RandomErasing(probability, device="cpu")
    expected = images.clone()
    for image, row in zip(expected, noise.double().tolist(), strict=True):
        # timm draws the place of a rectangle that fits only
        attempts = np.array(row[1:]).reshape(-1, 4)
        used = []
        for area, aspect, top, left in attempts:
            share = (0.02 + (1 / 3 - 0.02) * area) * side * side
            ratio = np.exp(np.log(0.3) + (np.log(1 / 0.3) - np.log(0.3)) * aspect)
            fits = max(round((share * ratio) ** 0.5), round((share / ratio) ** 0.5)) < side
            used += [area, aspect, *((top, left) if fits else ())]
        monkeypatch.setattr(timm.data.random_erasing, "random", _numbers([row[0], *used]))
        theirs(image)
    assert torch.equal(erasing.erase(images.clone(), noise, probability), expected)
    erased = (expected == 0).flatten(1).any(1).float().mean()
    assert erased == pytest.approx(probability, abs=0.08)


def test_nothing_is_erased_at_probability_zero() -> None:
    images = torch.randn(50, 3, 8, 8, generator=GENERATOR)
    noise = torch.zeros(50, erasing.COLUMNS)
    assert torch.equal(erasing.erase(images.clone(), noise, 0.0), images)


# --- MixUp and CutMix ----------------------------------------------------------------------------


def _numpy_with(rng: np.random.Generator) -> Any:
    """numpy as `timm.data.mixup` uses it, drawing from a generator of ours."""
    random = types.SimpleNamespace(
        rand=rng.random, beta=rng.beta, randint=lambda low, high, size: rng.integers(low, high)
    )
    return types.SimpleNamespace(random=random, sqrt=np.sqrt, clip=np.clip)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_and_labels_are_timms(
    alphas: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainSpec(mixup=alphas[0], cutmix=alphas[1])
    theirs = timm.data.mixup.Mixup(*alphas, label_smoothing=0.1, num_classes=5)
    kinds = set()
    for step in range(30):
        rng = rng_from(f"mix|3|2|{step}")
        if not all(alphas):  # timm asks for a number to compare with `prob`, we have no `prob`
            adapted = _numpy_with(rng)
            adapted.random.rand = lambda: 0.0
        else:
            adapted, asked = _numpy_with(rng), iter([lambda: 0.0, rng.random])
            adapted.random.rand = lambda asked=asked: next(asked)()
        monkeypatch.setattr(timm.data.mixup, "np", adapted)
        images = torch.randn(6, 3, 16, 16, generator=GENERATOR)
        labels = torch.randint(0, 5, (6,), generator=GENERATOR)
        expected, targets = theirs(images.clone(), labels)
        mix = draw_mix(recipe, 16, seed=3, epoch=2, step=step)
        assert mix is not None
        kinds.add(mix.box is None)
        assert torch.equal(mix.of(images, images.flip(0)), expected)
        logits = torch.randn(6, 5, generator=GENERATOR)
        own, other = (
            torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
            for y in (labels, labels.flip(0))
        )
        soft = -(targets * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(mix.share * own + (1 - mix.share) * other, soft)
    assert kinds == ({True, False} if all(alphas) else {alphas[1] == 0})


def test_the_ends_of_a_mix_are_the_images() -> None:
    images = torch.randn(4, 3, 8, 8, generator=GENERATOR)
    others = images.flip(0)
    assert torch.equal(Mix(1.0).of(images, others), images)
    assert torch.equal(Mix(0.0).of(images, others), others)
    assert torch.equal(Mix(1.0, (3, 3, 2, 6)).of(images, others), images)
    assert torch.equal(Mix(0.0, (0, 8, 0, 8)).of(images, others), others)


def test_no_alpha_mixes_nothing_and_steps_differ() -> None:
    assert draw_mix(TrainSpec(), 8, 0, 0, 0) is None
    recipe = TrainSpec(mixup=1.0)
    shares = [draw_mix(recipe, 8, 0, epoch, step) for epoch in range(3) for step in range(3)]
    assert len({mix.share for mix in shares if mix is not None}) == 9
    assert draw_mix(recipe, 8, 0, 1, 2) == draw_mix(recipe, 8, 0, 1, 2)
