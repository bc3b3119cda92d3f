"""On-line augmentation: batched random crop, mirror and colour jitter, on any device.

All randomness of an epoch is drawn at once, on the CPU, as a table of uniform numbers with a row
per image shown. The same numbers serve the CPU and a GPU, do not depend on how a step is cut into
batches, and are a function of (order seed, epoch, domain) alone, so a resumed epoch repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from bench.core.seeding import seed_from
from bench.data.transforms.constants import Constants
from bench.specs.run import Augment

COLOR_STRENGTH = 0.4
"""Brightness, contrast and saturation are each scaled by a factor from 1 - 0.4 to 1 + 0.4."""


@dataclass(frozen=True)
class Scale:
    """Parts that `scale` shows: 8 to 100 % of the image's area, 3:4 to 4:3, as GoogLeNet's training
    did (Szegedy et al. 2015); SFT §4.1 names scale and aspect ratio variation and no numbers.

    `antialias` filters parts that are made smaller by a triangle as wide as two of their pixels.
    """

    least_area: float = 0.08
    most_aspect: float = 4 / 3
    antialias: bool = False


GOOGLENET = Scale()

_DY, _DX, FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION, _COLUMNS = range(7)
_AREA, _ASPECT = _COLUMNS, _COLUMNS + 1
_LUMA = (0.299, 0.587, 0.114)


def draw_noise(
    images: int, seed: int, epoch: int, domain: int = 0, *, further: Mapping[str, int] | None = None
) -> Tensor:
    """The random numbers of one epoch: float32 (images, 8), uniform in [0, 1), on the CPU.

    Every kind of augmentation draws all columns, so `flip` and `crop_flip` mirror the same images;
    each domain has its own, so that adding a source leaves the target's augmentation as it was.
    `further` names what else needs numbers, and how many columns; they stand behind, in its order.

    >>> tuple(draw_noise(3, seed=0, epoch=1).shape)
    (3, 8)
    """
    drawn = []  # each width on its own: the first six are what they were before there were eight
    for name, columns in {"augment": _COLUMNS, "scale": 2, **(further or {})}.items():
        generator = torch.Generator().manual_seed(seed_from(f"{name}|{seed}|{epoch}|{domain}"))
        drawn.append(torch.rand(images, columns, generator=generator))
    return torch.cat(drawn, 1)


def augment(
    images: Tensor,
    noise: Tensor,
    kind: Augment,
    *,
    crop_pad: int = 4,
    fill: tuple[int, int, int] = (0, 0, 0),
    size: int | None = None,
    scale: Scale = GOOGLENET,
    constants: Constants | None = None,
) -> Tensor:
    """Crops (after padding by `crop_pad` pixels of colour `fill`), mirrors, jitters the colours.

    With `size` a part of that side is shown: a random one where `kind` crops, else the central.
    `scale` shows a part of random area and aspect ratio instead, at the size of the others.

    Args:
        images: uint8 (B, S, S, 3).
        noise: float32 (B, 8) in [0, 1), rows of `draw_noise`, on the same device.
        kind: how much of it is done.
        constants: kept from batch to batch.

    Returns:
        uint8 (B, S, S, 3), or (B, size, size, 3).

    >>> batch = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    >>> augment(batch, draw_noise(2, 0, 0), "crop_flip").shape
    torch.Size([2, 8, 8, 3])
    """
    if kind in ("none", "flip") and size is not None:
        images = central(images, size)
    if kind == "none":
        return images
    done = kind.split("_")
    crops = "crop" in done
    if "flip" not in done:  # the numbers of images that are not mirrored
        noise = noise.clone()
        noise[:, FLIP].fill_(1.0)
    if "scale" in done:
        images = _scale_and_flip(images, noise, size or images.shape[1], scale)
    else:
        pad, part = (crop_pad, size) if crops else (0, None)
        images = _crop_and_flip(images, noise, pad, fill, part, constants or Constants())
    return _jitter(images, noise) if "color" in done else images


def central(images: Tensor, size: int) -> Tensor:
    """The central part of side `size`; of an odd remainder the larger half is below and right.

    >>> central(torch.zeros(2, 9, 9, 3), 4).shape
    torch.Size([2, 4, 4, 3])
    """
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _crop_and_flip(
    images: Tensor,
    noise: Tensor,
    pad: int,
    fill: tuple[int, int, int],
    size: int | None,
    constants: Constants,
) -> Tensor:
    """One gather of pixels: each image's window into its padded self, columns reversed or not."""
    count, height, width, channels = images.shape
    high, wide = height + 2 * pad, width + 2 * pad
    if pad:
        padded = constants(colour, fill, images.device).expand(count, high, wide, channels)
        padded = padded.contiguous()
        padded[:, pad : pad + height, pad : pad + width] = images
    else:
        padded = images.contiguous()
    tall, broad = size or height, size or width
    spans, steps, rows, order = constants(_windows, count, high, wide, tall, broad, images.device)
    corner = (noise[:, : _DX + 1] * spans).long() * steps  # its row's first pixel, and its column
    mirrored = (noise[:, FLIP] < 0.5)[:, None]
    columns = torch.where(mirrored, *order) + corner[:, 1:]
    pixel = (rows + corner[:, :1])[:, :, None] + columns[:, None, :]
    shown = padded.view(-1, channels).index_select(0, pixel.view(-1))
    return shown.view(count, tall, broad, channels)


def colour(fill: tuple[int, int, int], device: torch.device) -> Tensor:
    """A colour as a tensor, uint8 (3,)."""
    return torch.tensor(fill, dtype=torch.uint8).to(device)


def _windows(
    count: int, high: int, wide: int, tall: int, broad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Of windows of `count` images: how many corners there are down and across; pixels from row to
    row and column to column; the first pixel of each row of each image; columns, mirrored or not.
    """
    spans = torch.tensor([high - tall + 1, wide - broad + 1], dtype=torch.float32)
    rows = torch.arange(count)[:, None] * high + torch.arange(tall)
    column = torch.arange(broad)
    return (
        spans.to(device),
        torch.tensor([wide, 1]).to(device),
        (rows * wide).to(device),
        (column.flip(0).to(device), column.to(device)),
    )


def _scale_and_flip(images: Tensor, noise: Tensor, size: int, scale: Scale) -> Tensor:
    """Rectangles of whole pixels, of random area and aspect ratio, resized to `size`, bilinear."""
    height, width = images.shape[1:3]
    area = scale.least_area + (1 - scale.least_area) * noise[:, _AREA]
    ratio = scale.most_aspect ** (2 * noise[:, _ASPECT] - 1)
    across, down = (area * ratio).sqrt(), (area / ratio).sqrt()
    mirrored = noise[:, FLIP] < 0.5
    planes = images.permute(0, 3, 1, 2).float()
    if scale.antialias:
        rows = _weights(height, down, noise[:, _DY], size)
        columns = _weights(width, across, noise[:, _DX], size)
        columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
        shown = rows[:, None] @ planes @ columns[:, None].mT
    else:
        line = ((torch.arange(size, device=images.device) + 0.5) / size).expand(len(images), -1)
        x = _window(torch.where(mirrored[:, None], 1 - line, line), width, across, noise[:, _DX])
        y = _window(line, height, down, noise[:, _DY])
        grid = torch.stack(
            [x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3
        )
        shown = grid_sample(
            planes, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    return shown.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _span(side: int, share: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Length and start (B, 1) in whole pixels of a window of each image."""
    length = (side * share).round().clamp(1, side)[:, None]
    return length, (where[:, None] * (side - length + 1)).floor()


def _weights(side: int, share: Tensor, where: Tensor, size: int) -> Tensor:
    """(B, size, side): what each pixel of a window weighs in each of `size` pixels."""
    length, start = (value[..., None] for value in _span(side, share, where))
    step = length / size
    reach = step.clamp(min=1)
    pixel = torch.arange(side, device=share.device) + 0.5
    centre = start + (torch.arange(size, device=share.device)[:, None] + 0.5) * step
    weights = (1 - (pixel - centre).abs() / reach).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    return weights / weights.sum(2, keepdim=True)


def _window(along: Tensor, side: int, share: Tensor, where: Tensor) -> Tensor:
    """Where `along` (B, size) in 0 to 1 lies in a window of each image, as `grid_sample` counts."""
    length, start = _span(side, share, where)
    inside = torch.clamp(along * length, min=torch.full_like(length, 0.5), max=length - 0.5)
    return (start + inside) * (2 / side) - 1


def _jitter(images: Tensor, noise: Tensor) -> Tensor:
    """Brightness, then contrast about the image's mean grey, then saturation about each grey.

    One colour plane lies behind the other meanwhile, so that every loop runs along whole rows.
    """
    factors = 1 + COLOR_STRENGTH * (2 * noise[:, _BRIGHTNESS : _SATURATION + 1] - 1)
    brightness, contrast, saturation = (f[:, None, None] for f in factors.unbind(1))
    planes = images.permute(3, 0, 1, 2).float().contiguous()
    planes.mul_(brightness).clamp_(0, 255)
    mean_grey = _grey(planes).mean((1, 2), keepdim=True)
    planes.sub_(mean_grey).mul_(contrast).add_(mean_grey).clamp_(0, 255)
    grey = _grey(planes)
    planes.sub_(grey).mul_(saturation).add_(grey).clamp_(0, 255).round_()
    return planes.to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _grey(planes: Tensor) -> Tensor:
    """(3, B, S, S) to (B, S, S)."""
    red, green, blue = planes.unbind(0)
    return red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]


def normalise(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    channels_last: bool = True,
    constants: Constants | None = None,
) -> Tensor:
    """(images / 255 - mean) / std as float32 (B, 3, S, S), from uint8 (B, S, S, 3).

    `constants` are kept from batch to batch.

    >>> white = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    >>> float(normalise(white, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).max())
    2.0
    """
    count, height, width, channels = images.shape
    center, scale = (constants or Constants())(_moments, mean, std, width, images.device)
    rows = images.reshape(count, height, width * channels).to(torch.float32, copy=True)
    rows.sub_(center).mul_(scale)
    x = rows.view(count, height, width, channels).permute(0, 3, 1, 2)
    return x if channels_last else x.contiguous()


def _moments(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What is subtracted from a row of `width` pixels, and what it is then multiplied by."""
    center, scale = torch.tensor(mean) * 255, 1 / (torch.tensor(std) * 255)
    return center.repeat(width).to(device), scale.repeat(width).to(device)
