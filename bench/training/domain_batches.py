"""Batches of a domain on the training device: pixels, or activations at the freeze boundary.

Pixels stay uint8 until they are on the device. On a GPU a domain is moved once when it takes less
than half of the free memory; on the CPU it is read in place, memory-mapped or not.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import BenchError
from bench.data.transforms.augment import FLIP, augment, central, normalise
from bench.specs.run import Augment
from bench.training.activations import Activations, Room, in_memory
from bench.training.domain import Domain

Prefix = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FeedOptions:
    """Where and how batches are made."""

    device: torch.device
    channels_last: bool = True
    precision: str = "float32"
    augment: Augment = "none"
    crop_pad: int = 4


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 arithmetic where it is safe, or nothing for `float32`."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class Feed:
    """Gives batches of one domain, for training (augmented) and for evaluation (as they are).

    Args:
        domain: the images.
        options: device, layout and augmentation.
        prefix: forward pass of the frozen layers; run without gradients.
    """

    def __init__(self, domain: Domain, options: FeedOptions, prefix: Prefix | None = None) -> None:
        self.domain, self.options, self.prefix = domain, options, prefix
        self.labels = torch.from_numpy(domain.labels).to(options.device)
        self._resident = self._move() if options.device.type == "cuda" else None
        self._cached: Activations | None = None
        self._fill = tuple(round(255 * m) for m in domain.mean)

    def _move(self) -> Tensor | None:
        free, _ = torch.cuda.mem_get_info(self.options.device)
        if self.domain.images.nbytes > free // 2:
            return None
        return torch.from_numpy(np.array(self.domain.images)).to(self.options.device)

    def _pixels(self, indices: NDArray[np.int64]) -> Tensor:
        """uint8 (n V, S, S, 3) on the device."""
        if self._resident is not None:
            found = self._resident[torch.from_numpy(indices).to(self.options.device)]
        else:
            found = torch.from_numpy(self.domain.images[indices]).to(self.options.device)
        views, (rows, columns) = self.domain.views, found.shape[1:3]
        return found if views == 1 else found.reshape(-1, rows // views, columns, 3)

    def _shown(self, indices: NDArray[np.int64]) -> Tensor:
        """The pixels that the network is shown outside training: all, or the central part."""
        pixels, crop = self._pixels(indices), self.domain.crop
        return pixels if crop is None else central(pixels, crop)

    def _inputs(self, pixels: Tensor) -> Tensor:
        """Normalised float32 (n, 3, S, S), or what the frozen prefix makes of it."""
        x = normalise(
            pixels, self.domain.mean, self.domain.std, channels_last=self.options.channels_last
        )
        if self.prefix is None:
            return x
        with torch.no_grad(), autocast(self.options.device, self.options.precision):
            return self.prefix(x)

    def labels_of(self, indices: NDArray[np.int64]) -> Tensor:
        """int64 (n,) on the device."""
        return self.labels[torch.from_numpy(indices).to(self.options.device)]

    def training_batch(self, indices: NDArray[np.int64], noise: Tensor) -> Tensor:
        """Network inputs (n V, ...) for `indices`, augmented with rows `noise` (n, 8).

        The views of a sample are augmented alike.
        """
        if self._cached is not None:
            rows = torch.from_numpy(indices).to(self.options.device)
            if self.options.augment == "flip":
                rows = rows + self.domain.size * (noise[:, FLIP] < 0.5)
            return self._rows(self._cached, rows)
        if self.domain.views > 1:
            noise = noise.repeat_interleave(self.domain.views, 0)
        pixels = augment(
            self._pixels(indices),
            noise,
            self.options.augment,
            crop_pad=self.options.crop_pad,
            fill=(self._fill[0], self._fill[1], self._fill[2]),
            size=self.domain.crop,
        )
        return self._inputs(pixels)

    def plain_batch(self, start: int, stop: int) -> Tensor:
        """Network inputs of the images start..stop-1, all views of each, not augmented."""
        stop = min(stop, self.domain.size)
        if self._cached is not None:
            views = self.domain.views
            return self._cached.rows(slice(start * views, stop * views)).to(self.options.device)
        return self._inputs(self._shown(np.arange(start, stop)))

    def _rows(self, kept: Activations, images: Tensor) -> Tensor:
        """The views of each image together."""
        views = self.domain.views
        if views > 1:
            images = (images[:, None] * views + torch.arange(views, device=images.device)).flatten()
        return kept.rows(images.to(kept.data.device)).to(self.options.device)

    def boundary(self, start: int, stop: int, mirrored: bool = False) -> Tensor:
        """What the frozen prefix makes of images start..stop-1, all views, mirrored or not."""
        pixels = self._shown(np.arange(start, min(stop, self.domain.size)))
        return self._inputs(pixels.flip(2) if mirrored else pixels)

    def use(self, kept: Activations) -> None:
        """Takes batches from activations that `cache_prefix` made for the same images."""
        self._cached = kept

    def forget(self) -> None:
        """Computes from the images again."""
        self._cached = None

    def without_cache(self) -> Feed:
        """The same feed, computing from the images."""
        other = copy.copy(self)
        other.forget()
        return other

    @property
    def cached_rows(self) -> int:
        """Rows that activations of this feed have: images x views, twice that with mirroring."""
        return self.domain.size * self.domain.views * (2 if self.options.augment == "flip" else 1)

    def cache_prefix(self, batch_size: int = 256, room: Room = in_memory) -> Activations:
        """Runs the frozen prefix once per image (twice with mirroring) and keeps what it gives.

        Only right when the prefix is a fixed function: the caller puts it into evaluation mode, so
        dropout in frozen layers is off. Pays from about four frozen layers on.

        Args:
            batch_size: images per forward pass.
            room: where they are kept.

        Raises:
            BenchError: without a prefix, or when augmentation gives ever new images.
        """
        if self.prefix is None or self.options.augment not in ("none", "flip"):
            raise BenchError(
                f"activations cannot be cached: augment is {self.options.augment!r} and "
                f"{'there is no frozen prefix' if self.prefix is None else 'it never repeats'}",
                hint="cache only frozen first layers, with augment none or flip",
            )
        mirrors = (False, True) if self.options.augment == "flip" else (False,)
        kept, written = None, 0
        for mirrored in mirrors:
            for start in range(0, self.domain.size, batch_size):
                chunk = self.boundary(start, start + batch_size, mirrored)
                kept = kept or Activations.like(chunk, self.cached_rows, room)
                kept.write(written, chunk)
                written += len(chunk)
        assert kept is not None
        self.use(kept)
        return kept
