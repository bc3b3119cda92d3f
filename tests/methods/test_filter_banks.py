"""Gabor filters against scikit-image and their identities; kernels against hooks (GE-1)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from bench.core.errors import DataError, ModelError
from bench.data.transforms.augment import normalise
from bench.methods.retrieval.filter_banks import (
    GaborBank,
    GaborPlan,
    KernelBank,
    cropped_side,
    gabor_kernel,
    zero_mean,
)
from bench.models import layers
from bench.specs.run import ModelSpec
from bench.training.domain import Domain
from bench.training.features import LayerTap, extract

PLAN = GaborPlan()
RNG = np.random.default_rng(0)
PAIRS = [(m, n) for m in range(4) for n in range(6)]


def _domain(images: np.ndarray) -> Domain:
    return Domain("toy", images, np.zeros(len(images), np.int64), 1)


def _noise(count: int = 3, side: int = 24) -> Domain:
    return _domain(RNG.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


# --- Gabor ------------------------------------------------------------------------------------


def test_widths_are_those_of_manjunath_and_ma() -> None:
    assert PLAN.ratio == 2.0
    assert PLAN.sigma_u == pytest.approx(0.113243, abs=1e-6)
    assert PLAN.sigma_v == pytest.approx(0.085824, abs=1e-6)
    assert PLAN.sigma_x == pytest.approx(1.405430, abs=1e-6)
    assert PLAN.sigma_y == pytest.approx(1.854435, abs=1e-6)


def test_the_long_form_of_sigma_v_is_the_short_one() -> None:
    two_ln2, u, h = 2 * math.log(2), PLAN.sigma_u, PLAN.highest
    long = math.tan(math.pi / 12) * (h - two_ln2 * u**2 / h)
    long *= (two_ln2 - two_ln2**2 * u**2 / h**2) ** -0.5
    assert PLAN.sigma_v == pytest.approx(long, rel=1e-12)


@pytest.mark.parametrize(("scale", "orientation"), PAIRS)
def test_kernels_equal_scikit_images(scale: int, orientation: int) -> None:
    """48 kernels: 24 real and 24 imaginary parts."""
    from skimage.filters import gabor_kernel as theirs

    a = PLAN.ratio
    expected = a**scale * theirs(
        PLAN.highest / a**scale,
        theta=orientation * math.pi / 6,
        sigma_x=a**scale * PLAN.sigma_x,
        sigma_y=a**scale * PLAN.sigma_y,
        n_stds=4,
    )
    found = gabor_kernel(PLAN, scale, orientation)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-15


def test_neighbouring_filters_touch_at_half_their_peak() -> None:
    reach = math.sqrt(2 * math.log(2)) * PLAN.sigma_u
    assert PLAN.highest - reach == pytest.approx((PLAN.highest + reach) / PLAN.ratio, rel=1e-12)
    assert PLAN.highest - reach == pytest.approx(0.26667, abs=1e-5)


def test_neighbouring_orientations_touch() -> None:
    """The half-peak ellipse has the line v = u tan(pi / 2K) as tangent: discriminant 0."""
    r2, slope = 2 * math.log(2), math.tan(math.pi / 12)
    a = 1 / PLAN.sigma_u**2 + slope**2 / PLAN.sigma_v**2
    b = -2 * PLAN.highest / PLAN.sigma_u**2
    c = PLAN.highest**2 / PLAN.sigma_u**2 - r2
    assert (b * b - 4 * a * c) / (b * b) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("scale", "orientation"), PAIRS)
def test_the_bias_takes_the_dc_component_away(scale: int, orientation: int) -> None:
    kernel = gabor_kernel(PLAN, scale, orientation)
    weight = np.abs(kernel).sum()
    assert kernel.real.sum() / weight == pytest.approx(0.00195, abs=1.5e-4)
    assert abs(zero_mean(kernel).sum()) / weight < 1e-12
    assert np.array_equal(zero_mean(kernel).imag, kernel.imag)


def test_centre_frequencies_halve_from_scale_to_scale() -> None:
    for scale, frequency in enumerate((0.4, 0.2, 0.1, 0.05)):
        spectrum = np.abs(np.fft.fft2(gabor_kernel(PLAN, scale, 0), (1000, 1000)))
        row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
        assert (row, column / 1000) == (0, pytest.approx(frequency, abs=2e-3))


@pytest.mark.parametrize("orientation", range(6))
def test_a_grating_answers_in_its_own_filter(orientation: int) -> None:
    y, x = np.mgrid[:96, :96]
    angle = orientation * math.pi / 6
    wave = np.cos(2 * math.pi * 0.1 * (x * math.cos(angle) + y * math.sin(angle)))
    images = np.repeat((127.5 + 100 * wave)[None, :, :, None], 3, 3).round().astype(np.uint8)
    maps = GaborBank(96, crop=1.0).responses(_domain(images), 0, 1)[0][0]
    energy = maps.view(4, 6, 2, 96, 96).square().sum(2)[..., 30:66, 30:66].mean((2, 3))
    assert np.unravel_index(int(energy.argmax()), (4, 6)) == (2, orientation)


def test_responses_are_those_of_scipy_with_reflected_borders() -> None:
    data = _noise(2, 20)
    found = GaborBank(20, crop=1.0).responses(data, 0, 2)[0].view(2, 24, 2, 20, 20).numpy()
    grey = (data.images / 255.0) @ np.array([0.299, 0.587, 0.114])
    for number, (scale, orientation) in enumerate(PAIRS):
        kernel = zero_mean(gabor_kernel(PLAN, scale, orientation))
        for part, values in enumerate((kernel.real, kernel.imag)):
            expected = ndimage.convolve(grey[1], values, mode="mirror")
            assert np.abs(found[1, number, part] - expected).max() < 1e-6


def test_colour_filters_each_channel() -> None:
    data = _noise(1, 16)
    grey = _domain(np.repeat(data.images[..., 1:2], 3, 3))
    colour = GaborBank(16, crop=1.0, colour=True)
    assert colour.groups[0].filters == 144
    found = colour.responses(data, 0, 1)[0].view(4, 3, 12, -1)[:, 1]
    expected = GaborBank(16, crop=1.0).responses(grey, 0, 1)[0].view(4, 12, -1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_only_the_centre_is_looked_at() -> None:
    data = _noise(1, 32)
    framed = data.images.copy()
    framed[:, :2], framed[:, -2:], framed[:, :, :2], framed[:, :, -2:] = 0, 0, 0, 0
    bank = GaborBank(32)
    assert bank.side == cropped_side(32, 0.875) == 28
    for ours, theirs in zip(
        bank.responses(data, 0, 1), bank.responses(_domain(framed), 0, 1), strict=True
    ):
        assert torch.equal(ours, theirs)


# --- kernels of a network ---------------------------------------------------------------------


def _net() -> nn.Module:
    return layers.create(ModelSpec(name="narrow8_32"), 5, seed=0)


@pytest.mark.parametrize("stage", ["pre", "post"])
def test_kernel_responses_are_the_layers_features(stage: str) -> None:
    net, data = _net(), _noise(4, 32)
    bank = KernelBank(net, [1, "conv2"], 32, stage=stage, crop=1.0)  # type: ignore[arg-type]
    assert [(g.name, g.filters) for g in bank.groups] == [("1", 32), ("conv2", 48)]
    found = bank.responses(data, 1, 4)
    for layer, maps in zip((1, 2), found, strict=True):
        expected = extract(net, layer, data, stage=stage)  # type: ignore[arg-type]
        assert np.abs(maps.numpy() - expected.reshape(4, -1, maps.shape[2])[1:]).max() < 1e-5
    assert (found[0].min() >= 0) == (stage == "post")


def test_kernels_see_the_normalised_central_crop() -> None:
    net, data = _net(), _noise(2, 32)
    bank = KernelBank(net, [1], 32)
    x = normalise(torch.from_numpy(data.images), data.mean, data.std)[:, :, 2:30, 2:30]
    net.eval()
    with torch.inference_mode():
        expected = LayerTap(net, [1], "pre", x)(x)[0].flatten(2)
    assert torch.allclose(bank.responses(data, 0, 2)[0], expected, atol=1e-6)


def test_a_bank_says_what_its_responses_depend_on() -> None:
    net, same, other = _net(), _net(), layers.create(ModelSpec(name="narrow8_32"), 5, seed=1)
    bank = KernelBank(net, [1, 2], 32)
    assert bank.identity == KernelBank(same, [1, 2], 32).identity
    assert bank.identity != KernelBank(other, [1, 2], 32).identity
    assert bank.identity != KernelBank(net, [1, 2], 32, stage="post").identity
    assert bank.identity != KernelBank(net, [1, 2], 32, crop=1.0).identity
    with torch.no_grad():  # behind the bank's layers: of no account
        same.get_submodule("conv5").get_parameter("conv.weight").zero_()
    assert bank.identity == KernelBank(same, [1, 2], 32).identity


def test_modes_and_weights_of_the_network_stay() -> None:
    net = _net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    KernelBank(net, [1], 32).responses(_noise(2, 32), 0, 2)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_wrong_layers_are_errors_with_the_alternatives() -> None:
    with pytest.raises(ModelError, match=r"no layer 'conv9'[\s\S]*conv"):
        KernelBank(_net(), ["conv9"], 32)
    with pytest.raises(ModelError, match=r"no layer 12[\s\S]*1 to 8"):
        KernelBank(_net(), [12], 32)
    with pytest.raises(ModelError, match="no map"):
        KernelBank(_net(), [7], 32)
    with pytest.raises(ModelError, match="twice"):
        KernelBank(_net(), [1, 1], 32)
    with pytest.raises(ModelError, match="without a layer"):
        KernelBank(_net(), [], 32)


def test_images_smaller_than_the_bank_are_an_error() -> None:
    with pytest.raises(DataError, match="looks at 28x28"):
        GaborBank(32).responses(_noise(1, 24), 0, 1)
    with pytest.raises(DataError, match="crop is 0"):
        GaborBank(32, crop=0.0)
