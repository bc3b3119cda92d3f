"""Pixels of a domain as uint8 tensors on the training device.

On the CPU they are read in place, memory-mapped or not. A GPU holds all of them where they take
less than half of its free memory; else each batch is copied from pinned memory on a stream of its
own, so that it travels while the batch before is computed, and nobody waits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.rows import Rows

_BLOCK_BYTES = 64 << 20
"""Pinned memory through which a whole domain is moved."""


class Pixels:
    """Gives images by number.

    Args:
        images: uint8 (N, V S, S, 3).
        device: where they are wanted.
        resident: whether a GPU may hold all of them.
    """

    def __init__(
        self, images: NDArray[np.uint8] | Rows, device: torch.device, resident: bool
    ) -> None:
        self._images, self._device = images, device
        self._whole: Tensor | None = None
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda" and resident and images.nbytes <= _free_bytes(device) // 2:
            self._whole = self._moved()
        elif device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def _moved(self) -> Tensor:
        """All images on the GPU, block by block: a second copy in host memory has no room."""
        images = self._images
        whole = torch.empty(images.shape, dtype=torch.uint8, device=self._device)
        rows = max(1, _BLOCK_BYTES * len(images) // max(images.nbytes, 1))
        block = torch.empty(
            (min(rows, len(images)), *images.shape[1:]), dtype=torch.uint8, pin_memory=True
        )
        for start in range(0, len(images), rows):
            part = block[: len(images) - start]
            part.numpy()[:] = images[start : start + rows]
            whole[start : start + rows].copy_(part)
        return whole

    def rows(self, indices: NDArray[np.int64], on_device: Tensor) -> Tensor:
        """(n, V S, S, 3) of images by number; the numbers are given in both places."""
        if self._whole is not None:
            return self._whole.index_select(0, on_device)
        return self._sent(self._images[indices])

    def between(self, start: int, stop: int) -> Tensor:
        """(n, V S, S, 3) of images start..stop-1; do not write to them."""
        if self._whole is not None:
            return self._whole[start:stop]
        return self._sent(self._images[np.arange(start, min(stop, len(self._images)))])

    def _sent(self, images: NDArray[np.uint8]) -> Tensor:
        if self._copies is None:
            return torch.from_numpy(images)
        pinned = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
        pinned.numpy()[:] = images
        with torch.cuda.stream(self._copies):
            sent = pinned.to(self._device, non_blocking=True)
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._copies)
        sent.record_stream(now)
        return sent


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, with what the allocator keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
