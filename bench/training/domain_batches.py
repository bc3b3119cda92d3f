"""Batches of a domain on the training device: pixels, or activations at the freeze boundary.

Pixels stay uint8 until they are on the device. What names the images of an epoch is there before
its first step, so that no step waits for anything.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.core.errors import BenchError
from bench.data.rows import Rows
from bench.data.transforms import erasing
from bench.data.transforms.augment import (
    FLIP,
    GOOGLENET,
    Scale,
    augment,
    central,
    draw_noise,
    normalise,
)
from bench.data.transforms.constants import Constants
from bench.data.transforms.mixing import Mix
from bench.data.transforms.policies import ImagePolicy, apply_policy, policy_of
from bench.specs.run import Augment, TrainSpec
from bench.training.activations import Activations, Room, memory_of
from bench.training.domain import Domain
from bench.training.precision import autocast
from bench.training.process import free_gpu_bytes

Prefix = Callable[[Tensor], Tensor]

BASE_COLUMNS = 8
"""Columns of noise of every augmentation."""

BATCH_SIZE = 256
"""Images of a forward pass without gradients, at most; it can move the last bit of a result."""

_most_images = ContextVar("most images of a forward pass without gradients", default=BATCH_SIZE)

_PASS_PIXELS = 64 * 96 * 96
"""Of such a pass on a processor, at most: more are not faster there, and take more memory."""

_FEWEST = 16
"""Of such a pass: products of fewer rows add in another order on some processors."""

_BLOCK_BYTES = 64 << 20
"""Pinned memory through which a whole domain is moved."""


@dataclass(frozen=True)
class FixedViews:
    """So many augmented views of each image, one after the other, in place of ever new ones.

    Attributes:
        count: of views; an epoch shows that of its number, counted round.
        seed: of the random numbers.
        further: what else needs numbers, see `further_noise`.
    """

    count: int
    seed: int
    further: tuple[tuple[str, int], ...] = ()

    def noise(self, images: int, view: int) -> Tensor:
        """The numbers of one view, a row for each image: those of the epoch of that number."""
        return draw_noise(images, self.seed, view, further=dict(self.further))


@dataclass(frozen=True)
class FeedOptions:
    """Where and how batches are made; `mixes` is whether images of a step are mixed, `resident`
    whether a GPU may hold all of them."""

    device: torch.device
    channels_last: bool = True
    precision: str = "float32"
    augment: Augment = "none"
    crop_pad: int = 4
    scale: Scale = GOOGLENET
    policy: ImagePolicy | None = None
    erasing: float = 0.0
    mixes: bool = False
    resident: bool = True
    fixed: FixedViews | None = None

    def augmented(self, train: TrainSpec, *, mixes: bool, seed: int = 0) -> FeedOptions:
        """The same with a recipe's augmentation; `mixes` is whether the domain's images may mix,
        `seed` that of `train.cached_views`."""
        count, further = train.cached_views, tuple(further_noise(train).items())
        return replace(
            self,
            augment=train.augment,
            crop_pad=train.crop_pad,
            scale=Scale(train.scale_least_area, train.scale_most_aspect, train.scale_antialias),
            policy=policy_of(train),
            erasing=train.random_erasing,
            mixes=mixes and bool(train.mixup or train.cutmix),
            fixed=None if count is None else FixedViews(min(count, train.epochs), seed, further),
        )

    @property
    def ever_new(self) -> str | None:
        """What makes of an image another one each time; None where it is shown as it is, mirrored,
        or in fixed views."""
        new = self.fixed is None
        present = {
            f"augment {self.augment}": new and self.augment not in ("none", "flip"),
            "train.policy": new and self.policy is not None,
            "train.random_erasing": new and self.erasing > 0,
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


@contextlib.contextmanager
def most_images_per_pass(count: int) -> Iterator[None]:
    """Inside, a forward pass without gradients has at most so many images."""
    before = _most_images.set(count)
    try:
        yield
    finally:
        _most_images.reset(before)


def images_at_most() -> int:
    """Images of a forward pass without gradients, as `most_images_per_pass` says."""
    return _most_images.get()


def images_per_pass(height: int, width: int, device: torch.device) -> int:
    """Images of a forward pass without gradients.

    >>> [images_per_pass(side, side, torch.device("cpu")) for side in (32, 96, 224)]
    [256, 64, 16]
    >>> images_per_pass(224, 224, torch.device("cuda"))
    256
    >>> with most_images_per_pass(64):
    ...     images_per_pass(224, 224, torch.device("cuda"))
    64
    """
    most = images_at_most()
    if device.type != "cpu":
        return most
    return min(most, max(_FEWEST, _PASS_PIXELS // (height * width)))


def even_passes(images: int, most: int) -> list[int]:
    """Where forward passes begin and end: even, of `most` images or fewer.

    Only where they would have fewer than 16 they are larger, at most twice as large.

    >>> even_passes(600, 256), even_passes(40, 16), even_passes(5, 16)
    ([0, 200, 400, 600], [0, 20, 40], [0, 5])
    """
    passes, fewest = max(1, -(-images // most)), min(_FEWEST, most)
    if images // passes < fewest:
        passes = max(1, images // fewest)
    return [images * number // passes for number in range(passes + 1)]


@dataclass(frozen=True, eq=False)
class Shown:
    """Samples that are shown, by number, and the random numbers of their augmentation.

    Attributes:
        indices: int64 (n,), on the host.
        rows: the same on the device.
        noise: float32 (n, 8 or more) on the device, rows of `draw_noise`.
        drawn: the same on the host.
        view: number of the fixed view whose numbers these are, see `FixedViews`.
    """

    indices: NDArray[np.int64]
    rows: Tensor
    noise: Tensor
    drawn: Tensor
    view: int = 0

    @classmethod
    def of(
        cls, indices: NDArray[np.int64], drawn: Tensor, device: torch.device, view: int = 0
    ) -> Shown:
        """From what lies on the host."""
        return cls(indices, torch.from_numpy(indices).to(device), drawn.to(device), drawn, view)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, own: slice) -> Shown:
        """Some of them; shares memory."""
        indices, rows = self.indices[own], self.rows[own]
        return Shown(indices, rows, self.noise[own], self.drawn[own], self.view)

    def reversed(self) -> Shown:
        """The last first."""
        indices = self.indices[::-1].copy()
        return Shown(indices, self.rows.flip(0), self.noise.flip(0), self.drawn.flip(0), self.view)


class DeviceRows:
    """Gives rows of an array by number, images or features, as tensors on the device.

    On the CPU they are read in place, memory-mapped or not. A GPU holds all of them where they take
    less than half of its free memory; else each batch is copied from pinned memory on a stream of
    its own, so that it travels while the batch before is computed, and nobody waits.

    Args:
        rows: (N, ...); images are uint8 (N, V S, S, 3).
        device: where they are wanted.
        resident: whether a GPU may hold all of them.
        besides: bytes of its memory that something else will take.
    """

    def __init__(
        self,
        rows: NDArray[Any] | Rows,
        device: torch.device,
        resident: bool,
        besides: int = 0,
    ) -> None:
        self._rows, self._device = rows, device
        self._dtype = torch.from_numpy(np.empty(0, rows.dtype)).dtype
        self._whole: Tensor | None = None
        self._copies: torch.cuda.Stream | None = None
        on_gpu = device.type == "cuda"
        if on_gpu and resident and rows.nbytes <= (free_gpu_bytes(device) - besides) // 2:
            self._whole = self._moved()
        elif on_gpu:
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def _moved(self) -> Tensor:
        """All rows on the GPU, block by block: a second copy in host memory has no room."""
        rows = self._rows
        whole = torch.empty(rows.shape, dtype=self._dtype, device=self._device)
        count = max(1, _BLOCK_BYTES * len(rows) // max(rows.nbytes, 1))
        block = pinned((min(count, len(rows)), *rows.shape[1:]), self._dtype)
        for start in range(0, len(rows), count):
            part = block[: len(rows) - start]
            part.numpy()[:] = rows[start : start + count]
            whole[start : start + count].copy_(part)
        return whole

    def rows(self, indices: NDArray[np.int64], on_device: Tensor) -> Tensor:
        """(n, ...) by number; the numbers are given in both places."""
        if self._whole is not None:
            return self._whole.index_select(0, on_device)
        return self._sent(self._rows[indices])

    def between(self, start: int, stop: int) -> Tensor:
        """(n, ...) of rows start..stop-1; do not write to them."""
        if self._whole is not None:
            return self._whole[start:stop]
        part = self._rows[start:stop]
        return self._sent(part if part.flags.writeable else part.copy())

    def _sent(self, rows: NDArray[Any]) -> Tensor:
        if self._copies is None:
            return torch.from_numpy(rows)
        block = pinned(rows.shape, self._dtype)
        block.numpy()[:] = rows
        with torch.cuda.stream(self._copies):
            sent = block.to(self._device, non_blocking=True)
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._copies)
        sent.record_stream(now)
        return sent


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Host memory that stays in its place: copies from it to a GPU need no waiting.

    Raises:
        MemoryError: the host has too little; torch's own error is that of a full GPU.
    """
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        mib = torch.Size(shape).numel() * dtype.itemsize / 2**20
        raise MemoryError(f"the host has no {mib:.0f} MiB of memory to pin for a GPU") from error


class Feed:
    """Gives batches of one domain, for training (augmented) and for evaluation (as they are).

    Args:
        domain: the images.
        options: device, layout and augmentation.
        prefix: forward pass of the frozen layers; run without gradients.

    Attributes:
        fills_up: whether a batch of fewer than 16 images is filled up with zeros on its way through
            `prefix` on a processor, so that its bits are those that more images at once have.
    """

    def __init__(self, domain: Domain, options: FeedOptions, prefix: Prefix | None = None) -> None:
        self.domain, self.options, self.prefix = domain, options, prefix
        self.fills_up = False
        self.labels = torch.from_numpy(domain.labels).to(options.device)
        self._images = DeviceRows(domain.images, options.device, options.resident)
        self._constants = Constants()
        self._cached: Activations | None = None
        red, green, blue = (round(255 * m) for m in domain.mean)
        self._fill = (red, green, blue)

    def _by_view(self, samples: Tensor) -> Tensor:
        """(n, V S, S, 3) to (n V, S, S, 3)."""
        views, (rows, columns) = self.domain.views, samples.shape[1:3]
        return samples if views == 1 else samples.reshape(-1, rows // views, columns, 3)

    def _plain(self, start: int, stop: int) -> Tensor:
        """The pixels that the network is shown outside training: all, or the central part."""
        pixels, crop = self._by_view(self._images.between(start, stop)), self.domain.crop
        return pixels if crop is None else central(pixels, crop)

    def _inputs(self, pixels: Tensor) -> Tensor:
        """Normalised float32 (n, 3, S, S), or what the frozen prefix makes of it."""
        return self._past_prefix(self._normalised(pixels))

    def _normalised(self, pixels: Tensor) -> Tensor:
        last, constants = self.options.channels_last, self._constants
        mean, std = self.domain.mean, self.domain.std
        return normalise(pixels, mean, std, channels_last=last, constants=constants)

    def _past_prefix(self, x: Tensor) -> Tensor:
        if self.prefix is None:
            return x
        count, more = len(x), _FEWEST - len(x)
        if more > 0 and self.fills_up and self.options.device.type == "cpu":
            x = functional.pad(x, (0, 0) * (x.ndim - 1) + (0, more))
        with torch.no_grad(), autocast(self.options.device, self.options.precision):
            return self.prefix(x)[:count]

    def labels_of(self, shown: Shown) -> Tensor:
        """int64 (n,) on the device."""
        return self.labels.index_select(0, shown.rows)

    def training_batch(
        self, shown: Shown, mix: Mix | None = None, partner: Shown | None = None
    ) -> Tensor:
        """Network inputs (n V, ...) for the samples `shown`, augmented.

        The views of a sample are augmented alike. With `mix` each image is mixed with one of
        `partner`; None are those of the batch, the last first.
        """
        if self._cached is not None:
            rows = shown.rows
            if self.options.fixed is not None:
                rows = rows + self.domain.size * shown.view
            elif self.options.augment == "flip":
                rows = rows + self.domain.size * (shown.noise[:, FLIP] < 0.5)
            return self._rows(self._cached, rows)
        x = self._augmented(shown)
        if mix is not None:
            if partner is None:
                views = self.domain.views
                order = torch.arange(len(x), device=x.device).view(-1, views).flip(0).flatten()
                others = x.flip(0) if views == 1 else x[order]
            else:
                others = self._augmented(partner)
            x = mix.of(x, others)
        return self._past_prefix(x)

    def _augmented(self, shown: Shown) -> Tensor:
        """Normalised images (n V, 3, S, S), augmented."""
        options, noise, drawn = self.options, shown.noise, shown.drawn
        if self.domain.views > 1:
            noise, drawn = (x.repeat_interleave(self.domain.views, 0) for x in (noise, drawn))
        pixels = augment(
            self._by_view(self._images.rows(shown.indices, shown.rows)),
            noise,
            options.augment,
            crop_pad=options.crop_pad,
            fill=self._fill,
            size=self.domain.crop,
            scale=options.scale,
            constants=self._constants,
        )
        used = BASE_COLUMNS
        if options.policy is not None:
            columns = slice(used, used + options.policy.columns)
            pixels = apply_policy(
                pixels,
                noise[:, columns],
                options.policy,
                self._fill,
                on_host=drawn[:, columns],
                constants=self._constants,
            )
            used += options.policy.columns
        x = self._normalised(pixels)
        return erasing.erase(x, noise[:, used:], options.erasing) if options.erasing else x

    def plain_batch(self, start: int, stop: int) -> Tensor:
        """Network inputs of the images start..stop-1, all views of each, not augmented."""
        stop = min(stop, self.domain.size)
        if self._cached is not None and self.options.fixed is None:  # those kept are augmented
            views = self.domain.views
            return self._cached.rows(slice(start * views, stop * views)).to(self.options.device)
        return self._inputs(self._plain(start, stop))

    def _rows(self, kept: Activations, images: Tensor) -> Tensor:
        """The views of each image together."""
        views = self.domain.views
        if views > 1:
            images = (images[:, None] * views + torch.arange(views, device=images.device)).flatten()
        return kept.rows(images.to(kept.data.device)).to(self.options.device)

    def boundary(self, start: int, stop: int, mirrored: bool = False) -> Tensor:
        """What the frozen prefix makes of images start..stop-1, all views, mirrored or not."""
        pixels = self._plain(start, stop)
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
        """Rows that activations of this feed have: images x views, twice that with mirroring, with
        fixed views so many times that."""
        times = 2 if self.options.augment == "flip" else 1
        if self.options.fixed is not None:
            times = self.options.fixed.count
        return self.domain.size * self.domain.views * times

    @property
    def images_per_pass(self) -> int:
        """Images of a forward pass without gradients, see `images_per_pass`."""
        _, height, width = self.domain.images.shape[:3]
        return images_per_pass(height, width, self.options.device)

    def cache_prefix(self, batch_size: int | None = None, room: Room | None = None) -> Activations:
        """Runs the frozen prefix once per image (twice with mirroring, once for each of its fixed
        views) and keeps what it gives.

        Only right when the prefix is a fixed function: the caller puts it into evaluation mode, so
        dropout in frozen layers is off. Pays from about four frozen layers on.

        Args:
            batch_size: images per forward pass, see `even_passes`; else `images_per_pass`.
            room: where they are kept; else in the memory of the device.

        Raises:
            BenchError: without a prefix, or when augmentation gives ever new images.
        """
        new = self.options.ever_new
        if self.prefix is None or new is not None:
            why = "there is no frozen prefix" if self.prefix is None else f"{new} never repeats"
            raise BenchError(
                f"activations cannot be cached: {why}",
                hint="cache only frozen first layers, with augment none or flip and no other "
                "change of the images, or with train.cached_views",
            )
        room, kept, written = room or memory_of(self.options.device), None, 0
        for chunk in self._boundaries(batch_size or self.images_per_pass):
            kept = kept or Activations.like(chunk, self.cached_rows, room)
            kept.write(written, chunk)
            written += len(chunk)
        assert kept is not None
        self.use(kept)
        return kept

    def _boundaries(self, batch_size: int) -> Iterator[Tensor]:
        """What the frozen prefix makes of all that may be shown, in the order of the rows."""
        size, fixed = self.domain.size, self.options.fixed
        ends = even_passes(size, batch_size)
        if fixed is None:
            mirrors = (False, True) if self.options.augment == "flip" else (False,)
            for mirrored in mirrors:
                for start, stop in itertools.pairwise(ends):
                    yield self.boundary(start, stop, mirrored)
            return
        for view in range(fixed.count):
            drawn = fixed.noise(size, view)
            whole = Shown.of(np.arange(size), drawn, self.options.device, view)
            for start, stop in itertools.pairwise(ends):
                shown = whole[start:stop]
                yield self._past_prefix(self._augmented(shown))
