"""RandAugment and TrivialAugment on batches: random operations, some for each image.

Cubuk, Zoph, Shlens, Le (2020), "RandAugment"; Müller, Hutter (2021), "TrivialAugment", the wide
space. Operations, their ranges and their arithmetic are torchvision's, image for image; there one
draw serves a whole batch, here each image has its own, and images of one operation go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample

from bench.data.transforms.augment import colour
from bench.data.transforms.constants import Constants
from bench.specs.run import TrainSpec

BINS = 31
_DRAWN = 3
"""Numbers for each operation: which it is, its magnitude, its sign."""


@dataclass(frozen=True)
class ImagePolicy:
    """How many operations an image gets, and how strong they are.

    Attributes:
        ops: in a row.
        magnitude: 0 to 30, of RandAugment; None draws it for each image, from TrivialAugment's
            wider ranges.
    """

    ops: int
    magnitude: int | None

    @property
    def columns(self) -> int:
        """Random numbers for each image."""
        return _DRAWN * self.ops


def policy_of(train: TrainSpec) -> ImagePolicy | None:
    """What a recipe asks for.

    >>> policy_of(TrainSpec(policy="randaugment"))
    ImagePolicy(ops=2, magnitude=9)
    """
    if train.policy == "none":
        return None
    if train.policy == "trivialaugment":
        return ImagePolicy(1, None)
    return ImagePolicy(train.policy_ops, train.policy_magnitude)


def apply_policy(
    images: Tensor,
    noise: Tensor,
    policy: ImagePolicy,
    fill: tuple[int, int, int] = (0, 0, 0),
    *,
    on_host: Tensor | None = None,
    constants: Constants | None = None,
) -> Tensor:
    """Random operations on each image.

    Args:
        images: uint8 (B, H, W, 3).
        noise: (B, policy.columns) in [0, 1), on the same device.
        policy: how many operations, and how strong.
        fill: colour of what comes in from beyond the border.
        on_host: `noise` on the CPU; without it a GPU is waited for.
        constants: kept from batch to batch.

    Returns:
        uint8 (B, H, W, 3), a new tensor.

    >>> batch = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    >>> apply_policy(batch, torch.rand(2, 3), ImagePolicy(1, None)).shape
    torch.Size([2, 8, 8, 3])
    """
    constants, host = constants or Constants(), noise.cpu() if on_host is None else on_host
    planes = images.permute(0, 3, 1, 2).contiguous()
    wide = policy.magnitude is None
    ranges = constants(_ranges, planes.shape[2], planes.shape[3], wide, images.device)
    beyond = constants(colour, fill, images.device).view(1, 3, 1, 1)
    for start in range(0, policy.columns, _DRAWN):
        which, strength, sign = noise[:, start : start + _DRAWN].unbind(1)
        drawn = (strength * BINS).long()
        bins = drawn if policy.magnitude is None else drawn.fill_(policy.magnitude)
        # Images of one operation stand together; how many they are the host finds out by itself.
        order = (which * len(ranges)).long().argsort(stable=True)
        counts = (host[:, start] * len(ranges)).long().bincount(minlength=len(ranges)).tolist()
        changed = planes.clone()
        for (operation, magnitudes, signed), rows in zip(
            ranges, torch.split(order, counts), strict=True
        ):
            if not len(rows):
                continue
            values = magnitudes[bins[rows]]
            if signed:
                values = torch.where(sign[rows] < 0.5, values, -values)
            changed[rows] = operation(planes[rows], values, beyond)
        planes = changed
    return planes.permute(0, 2, 3, 1).contiguous()


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(uint8 (n, 3, H, W), magnitudes (n,), colour (1, 3, 1, 1)) -> uint8 (n, 3, H, W)."""


def _ranges(
    height: int, width: int, wide: bool, device: torch.device
) -> list[tuple[Operation, Tensor, bool]]:
    """Each operation with its magnitudes (BINS,), and whether they have a sign."""
    return [(of, values.to(device), sign) for of, values, sign in _on_cpu(height, width, wide)]


def _on_cpu(height: int, width: int, wide: bool) -> list[tuple[Operation, Tensor, bool]]:
    def up_to(most: float) -> Tensor:
        return torch.linspace(0.0, most, BINS)

    shear, turn, blend = (0.99, 135.0, 0.99) if wide else (0.3, 30.0, 0.9)
    shift = [32.0, 32.0] if wide else [150.0 / 331.0 * side for side in (width, height)]
    lost_bits = (torch.arange(BINS) / ((BINS - 1) / (6 if wide else 4))).round()
    nothing = torch.zeros(BINS)
    return [
        (lambda x, m, fill: x, nothing, False),
        (_shear_x, up_to(shear), True),
        (_shear_y, up_to(shear), True),
        (_translate_x, up_to(shift[0]), True),
        (_translate_y, up_to(shift[1]), True),
        (_rotate, up_to(turn), True),
        (_brightness, up_to(blend), True),
        (_saturation, up_to(blend), True),
        (_contrast, up_to(blend), True),
        (_sharpness, up_to(blend), True),
        (_posterize, 8 - lost_bits, False),
        (_solarize, torch.linspace(255.0, 0.0, BINS), False),
        (_autocontrast, nothing, False),
        (_equalize, nothing, False),
    ]


# --- places --------------------------------------------------------------------------------------


def _warp(x: Tensor, rows: list[list[Tensor]], fill: Tensor) -> Tensor:
    """The nearest pixel at the place that a matrix gives for each pixel, counted from the centre.

    Args:
        x: uint8 (n, 3, H, W).
        rows: two of three numbers (n,) each: (x, y, 1) of a result to x, y of what is shown there.
        fill: colour beyond the border.
    """
    height, width = x.shape[2:]
    halves = (0.5 * width, 0.5 * height)
    scaled = [torch.stack(row, 1) / half for row, half in zip(rows, halves, strict=True)]
    theta = torch.stack(scaled, 1)
    across, down = (
        torch.linspace(0.5 - 0.5 * n, 0.5 * n - 0.5, n, device=x.device) for n in (width, height)
    )
    place = torch.stack(
        [
            across.expand(height, width),
            down[:, None].expand(height, width),
            torch.ones(height, width, device=x.device),
        ],
        dim=2,
    ).view(1, -1, 3)
    grid = (place @ theta.mT).view(-1, height, width, 2)
    inside = torch.ones_like(x[:, :1], dtype=torch.float32)
    values = torch.cat([x.float(), inside], 1)
    shown = grid_sample(values, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return torch.where(shown[:, 3:] < 0.5, fill.float(), shown[:, :3]).round().to(torch.uint8)


def _shear_x(x: Tensor, m: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _warp(x, [[one, m, m * (0.5 * x.shape[2])], [zero, one, zero]], fill)


def _shear_y(x: Tensor, m: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _warp(x, [[one, zero, zero], [m, one, m * (0.5 * x.shape[3])]], fill)


def _translate_x(x: Tensor, m: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _warp(x, [[one, zero, -m.trunc()], [zero, one, zero]], fill)


def _translate_y(x: Tensor, m: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    return _warp(x, [[one, zero, zero], [zero, one, -m.trunc()]], fill)


def _rotate(x: Tensor, m: Tensor, fill: Tensor) -> Tensor:
    angle, zero = m.double() * (math.pi / 180), torch.zeros_like(m)
    cos, sin = angle.cos().to(m), angle.sin().to(m)
    return _warp(x, [[cos, -sin, zero], [sin, cos, zero]], fill)


# --- colours -------------------------------------------------------------------------------------


def _blend(x: Tensor, other: Tensor, m: Tensor) -> Tensor:
    """Away from `other` by 1 + m times the distance, cut to whole levels."""
    factor = (1 + m)[:, None, None, None]
    return (x * factor + other * (1 - factor)).clamp(0, 255).to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.float().unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()[:, None]


def _brightness(x: Tensor, m: Tensor, fill: object) -> Tensor:
    return _blend(x, torch.zeros_like(x), m)


def _saturation(x: Tensor, m: Tensor, fill: object) -> Tensor:
    return _blend(x, _grey(x), m)


def _contrast(x: Tensor, m: Tensor, fill: object) -> Tensor:
    return _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), m)


def _sharpness(x: Tensor, m: Tensor, fill: object) -> Tensor:
    if min(x.shape[2:]) <= 2:
        return x
    kernel = torch.ones(3, 3, device=x.device)
    kernel[1, 1].fill_(5)
    kernel = (kernel / kernel.sum()).expand(3, 1, 3, 3)
    smooth = x.float()
    smooth[:, :, 1:-1, 1:-1] = conv2d(smooth, kernel, groups=3).round()
    return _blend(x, smooth, m)


def _posterize(x: Tensor, m: Tensor, fill: object) -> Tensor:
    kept = 256 - 2 ** (8 - m.long())
    return x & kept.to(torch.uint8)[:, None, None, None]


def _solarize(x: Tensor, m: Tensor, fill: object) -> Tensor:
    return torch.where(x >= m[:, None, None, None], 255 - x, x)


def _autocontrast(x: Tensor, m: Tensor, fill: object) -> Tensor:
    values = x.float()
    least, most = (v(values, (2, 3), keepdim=True) for v in (torch.amin, torch.amax))
    scale, flat = 255.0 / (most - least), most == least
    least, scale = least.masked_fill(flat, 0.0), scale.masked_fill(flat, 1.0)
    return ((values - least) * scale).clamp(0, 255).to(torch.uint8)


def _equalize(x: Tensor, m: Tensor, fill: object) -> Tensor:
    """PIL's: the share of darker pixels is the new level, by channel."""
    flat = x.flatten(2).flatten(0, 1).long()
    counts = torch.zeros(len(flat), 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    brightest = flat.amax(1, keepdim=True)
    step = ((flat.shape[1] - counts.gather(1, brightest)) // 255).clamp(min=0)
    table = (counts.cumsum(1) + step // 2) // step.clamp(min=1)
    table = torch.cat([torch.zeros_like(table[:, :1]), table[:, :-1]], 1).clamp(0, 255)
    levels = torch.where(step > 0, table.gather(1, flat), flat)
    return levels.to(torch.uint8).view(x.shape)
