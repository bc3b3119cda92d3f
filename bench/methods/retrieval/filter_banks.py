"""Filter banks whose responses describe the texture of an image (Ge & Yu, CVPR 2017, §3.2).

Two banks: Gabor filters with the parameters of Manjunath & Ma (PAMI 1996), and the kernels of any
layers of any network, before or after their activation. The paper names "kernels and their
following nonlinear activation", its released configuration reads the maps before the activation
(half of all values behind a ReLU are 0, and bins of equal mass cannot be made of them): `pre` is
the default. The released configuration crops and mirrors at random; here the crop is
the central one and nothing is mirrored, so that a description is a function of the image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.core.errors import DataError, ModelError
from bench.models.inputs import attached
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions
from bench.training.features import LayerTap

Complex = NDArray[np.complex128]
LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue."""


@dataclass(frozen=True)
class Group:
    """Filters that weigh as one layer: `filters` maps of `places` responses each."""

    name: str
    filters: int
    places: int

    @property
    def responses(self) -> int:
        """How many an image has."""
        return self.filters * self.places


class Bank(Protocol):
    """Filters, in groups, for images of one size."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The filters in their order."""

    @property
    def identity(self) -> str:
        """What the responses depend on besides the images: equal text, equal responses."""

    def responses(self, data: Domain, start: int, stop: int) -> list[Tensor]:
        """Per group float32 (n, filters, places) of the images start..stop-1."""


# --- Gabor ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GaborPlan:
    """Centre frequencies from `lowest` to `highest` cycles per pixel, so that neighbouring filters
    touch where they have half their peak (Manjunath & Ma, eqs. in the appendix).

    >>> plan = GaborPlan()
    >>> plan.ratio, round(plan.sigma_x, 6), round(plan.sigma_y, 6)
    (2.0, 1.40543, 1.854435)
    """

    lowest: float = 0.05
    highest: float = 0.4
    scales: int = 4
    orientations: int = 6

    @property
    def ratio(self) -> float:
        """a, between neighbouring frequencies."""
        return float(round((self.highest / self.lowest) ** (1 / (self.scales - 1)), 12))

    @property
    def sigma_u(self) -> float:
        """Width along the frequency axis, cycles per pixel."""
        a = self.ratio
        return (a - 1) * self.highest / ((a + 1) * math.sqrt(2 * math.log(2)))

    @property
    def sigma_v(self) -> float:
        """Width across it."""
        slope = math.tan(math.pi / (2 * self.orientations))
        return slope * math.sqrt(self.highest**2 / (2 * math.log(2)) - self.sigma_u**2)

    @property
    def sigma_x(self) -> float:
        """Width along the wave at the highest frequency, pixels."""
        return 1 / (2 * math.pi * self.sigma_u)

    @property
    def sigma_y(self) -> float:
        """Width across it, pixels."""
        return 1 / (2 * math.pi * self.sigma_v)


def gabor_kernel(plan: GaborPlan, scale: int, orientation: int, n_stds: float = 4.0) -> Complex:
    """g_mn of Manjunath & Ma as an array (rows y, columns x), its DC component still in it.

        g_mn(x, y) = a^-m (2 pi sx sy)^-1 exp(-(x'^2/sx^2 + y'^2/sy^2)/2 + 2 pi j U_h x')
        x' = a^-m (x cos t + y sin t),  y' = a^-m (-x sin t + y cos t),  t = n pi / K

    `scale` is m from 0 (highest frequency), `orientation` n from 0, `n_stds` half the support in
    standard deviations.

    >>> gabor_kernel(GaborPlan(), 0, 0).shape
    (17, 13)
    """
    shrink, angle = plan.ratio**-scale, orientation * math.pi / plan.orientations
    wide, high = plan.sigma_x / shrink, plan.sigma_y / shrink
    cos, sin = math.cos(angle), math.sin(angle)
    half_x = math.ceil(max(abs(n_stds * wide * cos), abs(n_stds * high * sin), 1))
    half_y = math.ceil(max(abs(n_stds * high * cos), abs(n_stds * wide * sin), 1))
    y, x = np.mgrid[-half_y : half_y + 1, -half_x : half_x + 1]
    along, across = shrink * (x * cos + y * sin), shrink * (-x * sin + y * cos)
    envelope = np.exp(-0.5 * (along**2 / plan.sigma_x**2 + across**2 / plan.sigma_y**2))
    wave = np.exp(2j * math.pi * plan.highest * along)
    kernel: Complex = shrink / (2 * math.pi * plan.sigma_x * plan.sigma_y) * envelope * wave
    return kernel


def zero_mean(kernel: Complex) -> Complex:
    """The kernel with its real part biased to sum to 0: it ignores the brightness of an image."""
    biased: Complex = kernel - kernel.real.mean()
    return biased


class GaborBank:
    """Real and imaginary responses of 4 x 6 Gabor filters: one group of 48.

    Luminance in [0, 1], borders reflected, as many responses as the (cropped) image has pixels.

    Args:
        image_size: side of the images in pixels.
        plan: frequencies and widths.
        crop: side of the central square looked at, as a fraction of the image's.
        colour: filter red, green and blue instead of the luminance: 144 filters.
        device: where to compute.

    >>> data = Domain("toy", np.zeros((2, 16, 16, 3), np.uint8), np.zeros(2, np.int64), 1)
    >>> GaborBank(16, crop=0.5).responses(data, 0, 2)[0].shape
    torch.Size([2, 48, 64])
    """

    def __init__(
        self,
        image_size: int,
        *,
        plan: GaborPlan | None = None,
        crop: float = 0.875,
        colour: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        plan = plan or GaborPlan()
        self.side = cropped_side(image_size, crop)
        self.colour, self.device = colour, torch.device(device)
        filters = 2 * plan.scales * plan.orientations * (3 if colour else 1)
        self.groups = (Group("gabor", filters, self.side**2),)
        self.identity = f"gabor 2|{plan}|{self.side} of {image_size}|{'rgb' if colour else 'y'}"
        self._scales = [self._spectra(plan, scale) for scale in range(plan.scales)]

    def _spectra(self, plan: GaborPlan, scale: int) -> tuple[NDArray[np.int64], Tensor]:
        """Rows of the reflected image, and the spectra of a scale's kernels on its grid.

        A reflected image repeats after 2 (side - 1) pixels. So a grid of one period is all that a
        kernel can see, however wide: what reaches beyond is added where it comes round again.
        """
        kernels = [zero_mean(gabor_kernel(plan, scale, n)) for n in range(plan.orientations)]
        pad = max(max(kernel.shape) // 2 for kernel in kernels)
        period = max(1, 2 * (self.side - 1))
        if self.side + 2 * pad <= period:
            first, grid = -pad, self.side + 2 * pad
        else:
            first, grid = 0, period
        spectra = []
        for kernel in kernels:
            placed = np.zeros((grid, grid), np.complex128)
            rows, columns = (np.arange(n) - n // 2 for n in kernel.shape)  # its centre at 0
            np.add.at(placed, np.ix_(rows % grid, columns % grid), kernel)
            spectra += [np.fft.rfft2(placed.real), np.fft.rfft2(placed.imag)]
        stacked = torch.from_numpy(np.stack(spectra).astype(np.complex64)).to(self.device)
        return _reflected(self.side, first, grid), stacked

    def responses(self, data: Domain, start: int, stop: int) -> list[Tensor]:
        """See `Bank`; convolution, not correlation."""
        pixels = np.asarray(data.images[start:stop])
        x = torch.from_numpy(_central(pixels, self.side)).to(self.device).float() / 255
        planes = x.movedim(3, 1)
        if not self.colour:
            weights = torch.tensor(LUMINANCE, device=self.device)
            planes = (planes * weights[:, None, None]).sum(1, keepdim=True)
        parts = []
        for rows, spectra in self._scales:
            index = torch.from_numpy(rows).to(self.device)
            pad = int(np.flatnonzero(rows == 0)[0])
            wide = planes[:, :, index][:, :, :, index]
            spectrum = torch.fft.rfft2(wide)[:, :, None] * spectra
            back = torch.fft.irfft2(spectrum, s=wide.shape[-2:])
            kept = back[..., pad : pad + self.side, pad : pad + self.side]
            parts.append(kept.flatten(3).flatten(1, 2))
        return [torch.cat(parts, 1)]


def _reflected(size: int, first: int, count: int) -> NDArray[np.int64]:
    """Indices `first`, `first` + 1, … of a row that is reflected at its ends again and again."""
    if size == 1:
        return np.zeros(count, np.int64)
    period = 2 * (size - 1)
    place = np.arange(first, first + count) % period
    return np.minimum(place, period - place).astype(np.int64)


# --- kernels of a network -----------------------------------------------------------------------


class KernelBank:
    """The kernels of layers of a network; each layer is a group.

    Args:
        model: as it is now; later training of it does not reach the bank's identity.
        layers: numbers (from 1) or module names.
        image_size: side of the images in pixels.
        stage: `pre` or `post`, before or after the activation that follows the layer.
        crop: side of the central square looked at, as a fraction of the image's.
        device: where to compute; the model is moved there.

    Raises:
        ModelError: no such layer, or a layer that gives no map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> KernelBank(net, ["0"], 16, crop=1.0).groups
    (Group(name='0', filters=4, places=196),)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str | int],
        image_size: int,
        *,
        stage: Literal["pre", "post"] = "pre",
        crop: float = 0.875,
        device: torch.device | str = "cpu",
    ) -> None:
        if not layers:
            raise ModelError("a filter bank without a layer", hint="for example layers: '1,2'")
        if len(set(layers)) < len(layers):
            raise ModelError(f"a filter bank names a layer twice: {list(layers)}")
        self.device = torch.device(device)
        self.side = cropped_side(image_size, crop)
        model.to(self.device)
        sample = torch.zeros(1, 3, self.side, self.side, device=self.device)
        self._tap = LayerTap(model, layers, stage, sample)
        names = [str(layer) for layer in layers]
        self.groups = tuple(
            Group(name, *_maps(out, name).shape[1:])
            for name, out in zip(names, self._tap(sample), strict=True)
        )
        self._inputs = attached(model)
        self.identity = "|".join(
            (
                f"kernels 2|{stage}|{self.side} of {image_size}|{self._inputs}",
                *names,
                _weights_digest(self._tap),
            )
        )

    def responses(self, data: Domain, start: int, stop: int) -> list[Tensor]:
        """See `Bank`; images are normalised as the bank's own network takes them."""
        pixels = np.ascontiguousarray(_central(np.asarray(data.images[start:stop]), self.side))
        labels = np.zeros(len(pixels), np.int64)
        part = Domain(data.name, pixels, labels, 1, self._inputs.mean, self._inputs.std)
        inputs = Feed(part, FeedOptions(self.device, channels_last=False)).plain_batch(
            0, len(pixels)
        )
        outputs = self._tap(inputs)
        return [
            _maps(out, group.name).float() for out, group in zip(outputs, self.groups, strict=True)
        ]


def _maps(output: Tensor, name: str) -> Tensor:
    """(n, filters, places) of a layer's output: maps (n, C, H, W) or tokens (n, T, C)."""
    if output.ndim == 4:
        return output.flatten(2)
    if output.ndim == 3:
        return output.transpose(1, 2)
    raise ModelError(
        f"layer {name} gives {tuple(output.shape[1:])} per image, which is no map",
        hint="a filter bank is made of convolutions; name earlier layers",
    )


def _weights_digest(tap: LayerTap) -> str:
    """SHA-256 over the parameters and buffers of the modules that the bank runs."""
    digest = hashlib.sha256()
    for name in tap.used:
        module = tap.model.get_submodule(name)
        digest.update(f"{name}|{module.extra_repr()}|".encode())
        state = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in sorted(state, key=lambda item: item[0]):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{key}|{plain.dtype}|{tuple(plain.shape)}|".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- the part of the image looked at --------------------------------------------------------------


def cropped_side(image_size: int, crop: float) -> int:
    """Pixels along the side of the central square that is a fraction `crop` of the image's.

    >>> cropped_side(256, 0.875)
    224
    """
    if not 0 < crop <= 1:
        raise DataError(f"crop is {crop}", hint="a fraction of the side, more than 0 and at most 1")
    return max(1, round(image_size * crop))


def _central(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[1:3]
    if min(height, width) < side:
        raise DataError(
            f"images of {height}x{width} pixels, but the filter bank looks at {side}x{side}",
            hint="source and target must have the same image_size",
        )
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]
