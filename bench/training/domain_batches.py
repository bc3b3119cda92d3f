"""Batches of a domain on the training device: pixels, or activations at the freeze boundary.

Pixels stay uint8 until they are on the device. On a GPU a domain is moved once when it takes less
than half of the free memory; on the CPU it is read in place, memory-mapped or not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import BenchError
from bench.data.transforms import erasing
from bench.data.transforms.augment import FLIP, GOOGLENET, Scale, augment, central, normalise
from bench.data.transforms.mixing import Mix
from bench.data.transforms.policies import ImagePolicy, apply_policy, policy_of
from bench.specs.run import Augment, TrainSpec
from bench.training.activations import Activations, Room, in_memory
from bench.training.domain import Domain
from bench.training.precision import autocast

Prefix = Callable[[Tensor], Tensor]
Partner = tuple[NDArray[np.int64], Tensor]
"""The images that those of a batch are mixed with, and their noise."""

_BASE = 8
"""Columns of noise of every augmentation."""


@dataclass(frozen=True)
class FeedOptions:
    """Where and how batches are made; `mixes` is whether images of a step are mixed."""

    device: torch.device
    channels_last: bool = True
    precision: str = "float32"
    augment: Augment = "none"
    crop_pad: int = 4
    scale: Scale = GOOGLENET
    policy: ImagePolicy | None = None
    erasing: float = 0.0
    mixes: bool = False

    def augmented(self, train: TrainSpec, *, mixes: bool) -> FeedOptions:
        """The same with a recipe's augmentation; `mixes` is whether the domain's images may mix."""
        return replace(
            self,
            augment=train.augment,
            crop_pad=train.crop_pad,
            scale=Scale(train.scale_least_area, train.scale_most_aspect, train.scale_antialias),
            policy=policy_of(train),
            erasing=train.random_erasing,
            mixes=mixes and bool(train.mixup or train.cutmix),
        )

    @property
    def ever_new(self) -> str | None:
        """What makes of an image another one each time; None where it is shown as it is, or
        mirrored."""
        present = {
            f"augment {self.augment}": self.augment not in ("none", "flip"),
            "train.policy": self.policy is not None,
            "train.random_erasing": self.erasing > 0,
            "mixing of images": self.mixes,
        }
        return next((what for what, is_there in present.items() if is_there), None)


def further_noise(train: TrainSpec) -> dict[str, int]:
    """Names and columns of the random numbers that a recipe needs beside the usual ones.

    >>> further_noise(TrainSpec()), further_noise(TrainSpec(policy="trivialaugment"))
    ({}, {'policy': 3})
    """
    policy = policy_of(train)
    further = {} if policy is None else {"policy": policy.columns}
    return further | ({"erasing": erasing.COLUMNS} if train.random_erasing else {})


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
        return self._past_prefix(self._normalised(pixels))

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = self.domain.mean, self.domain.std
        return normalise(pixels, mean, std, channels_last=self.options.channels_last)

    def _past_prefix(self, x: Tensor) -> Tensor:
        if self.prefix is None:
            return x
        with torch.no_grad(), autocast(self.options.device, self.options.precision):
            return self.prefix(x)

    def labels_of(self, indices: NDArray[np.int64]) -> Tensor:
        """int64 (n,) on the device."""
        return self.labels[torch.from_numpy(indices).to(self.options.device)]

    def training_batch(
        self,
        indices: NDArray[np.int64],
        noise: Tensor,
        mix: Mix | None = None,
        partner: Partner | None = None,
    ) -> Tensor:
        """Network inputs (n V, ...) for `indices`, augmented with rows `noise` (n, 8 or more).

        The views of a sample are augmented alike. With `mix` each image is mixed with one of
        `partner`; None are those of the batch, the last first.
        """
        if self._cached is not None:
            rows = torch.from_numpy(indices).to(self.options.device)
            if self.options.augment == "flip":
                rows = rows + self.domain.size * (noise[:, FLIP] < 0.5)
            return self._rows(self._cached, rows)
        x = self._augmented(indices, noise)
        if mix is not None:
            if partner is None:
                views = self.domain.views
                order = torch.arange(len(x), device=x.device).view(-1, views).flip(0).flatten()
                others = x.flip(0) if views == 1 else x[order]
            else:
                others = self._augmented(*partner)
            x = mix.of(x, others)
        return self._past_prefix(x)

    def _augmented(self, indices: NDArray[np.int64], noise: Tensor) -> Tensor:
        """Normalised images (n V, 3, S, S), augmented."""
        options = self.options
        if self.domain.views > 1:
            noise = noise.repeat_interleave(self.domain.views, 0)
        fill = (self._fill[0], self._fill[1], self._fill[2])
        pixels = augment(
            self._pixels(indices),
            noise,
            options.augment,
            crop_pad=options.crop_pad,
            fill=fill,
            size=self.domain.crop,
            scale=options.scale,
        )
        used = _BASE
        if options.policy is not None:
            numbers = noise[:, used : used + options.policy.columns]
            pixels = apply_policy(pixels, numbers, options.policy, fill)
            used += options.policy.columns
        x = self._normalised(pixels)
        return erasing.erase(x, noise[:, used:], options.erasing) if options.erasing else x

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
        new = self.options.ever_new
        if self.prefix is None or new is not None:
            why = "there is no frozen prefix" if self.prefix is None else f"{new} never repeats"
            raise BenchError(
                f"activations cannot be cached: {why}",
                hint="cache only frozen first layers, with augment none or flip and no other "
                "change of the images",
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
