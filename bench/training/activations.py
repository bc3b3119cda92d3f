"""Activations at a freeze boundary: computed once, kept between the runs of a batch.

Frozen first layers give the same numbers for the same image in every epoch and in every run that
freezes them alike. What they give is kept in the type of the run (bfloat16 takes half), in memory
within a budget, larger ones in a file of the cache folder that vanishes with the process. A GPU
keeps them in its own memory; what does not fit there is computed anew, as no step may wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.core.files import reserve, temporary_beside
from bench.training.process import free_gpu_bytes

Room = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""(shape, type) -> a tensor to write into."""


def memory_of(device: torch.device) -> Room:
    """Room in the memory of a device.

    >>> memory_of(torch.device("cpu"))((2, 3), torch.bfloat16).shape
    torch.Size([2, 3])
    """
    return lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class Activations:
    """Rows of activations, in the memory layout that the next layer was handed.

    Attributes:
        data: contiguous; (rows, ...), or (rows, H, W, C) when `channels_last`.
        channels_last: whether rows are to be handed on as (rows, C, H, W) in that layout. The
            layout picks the kernel of the next layer, and so the last bits of its result.
    """

    data: Tensor
    channels_last: bool

    @classmethod
    def like(cls, chunk: Tensor, rows: int, room: Room) -> Activations:
        """Room for `rows` rows of what `chunk` is the first of.

        >>> room = memory_of(torch.device("cpu"))
        >>> Activations.like(torch.zeros(2, 3), 10, room).rows(slice(0, 4)).shape
        torch.Size([4, 3])
        """
        last = _is_channels_last(chunk)
        shape = chunk.permute(0, 2, 3, 1).shape[1:] if last else chunk.shape[1:]
        return cls(room((rows, *shape), chunk.dtype), last)

    def write(self, start: int, chunk: Tensor) -> None:
        """Puts rows start … in their place."""
        rows = chunk.permute(0, 2, 3, 1) if self.channels_last else chunk
        self.data[start : start + len(chunk)] = rows

    def rows(self, which: Tensor | slice) -> Tensor:
        """Some rows; a slice of them shares memory, numbers are copied."""
        found = self.data[which]
        return found.permute(0, 3, 1, 2) if self.channels_last else found

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return self.data.numel() * self.data.element_size()


def _is_channels_last(chunk: Tensor) -> bool:
    return (
        chunk.ndim == 4
        and chunk.is_contiguous(memory_format=torch.channels_last)
        and not chunk.is_contiguous()
    )


class ActivationStore:
    """Keeps activations by key, the least recently used leave first.

    Args:
        folder: for those that do not fit in memory; they lie in files without a name, which are
            gone when the process is.
        memory_bytes: most that is kept in memory.
        disk_bytes: most that is kept in files. A GPU keeps as much as both together, within half of
            the memory that nothing else takes there.
    """

    def __init__(self, folder: Path, memory_bytes: int = 1 << 30, disk_bytes: int = 8 << 30):
        self.folder = folder
        self.budget = {
            "memory": memory_bytes,
            "disk": disk_bytes,
            "gpu": memory_bytes + disk_bytes,
        }
        self._kept: dict[str, OrderedDict[str, Activations]] = {
            place: OrderedDict() for place in self.budget
        }
        self.differences: dict[tuple[str, int], float] = {}
        """How far kept rows are from computed ones, by key and images of a batch, see
        `bench.training.frozen_prefix_cache`; 0 is equal to the last bit."""

    def get(self, key: str) -> Activations | None:
        """What an earlier run kept."""
        for kept in self._kept.values():
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        return None

    def room_for(self, size_bytes: int, device: torch.device) -> Room | None:
        """Where so much can be written; None where no place for it has room."""
        place = self._place(size_bytes, device)
        if place is None:
            return None
        kept = self._kept[place]
        while kept and self._taken(place) + size_bytes > self._most(place, device):
            kept.popitem(last=False)
        if size_bytes > self._most(place, device):  # what has left is still in use
            return None
        return self._mapped if place == "disk" else memory_of(device)

    def put(self, key: str, made: Activations) -> None:
        """Keeps what was written into a room."""
        place = "disk" if made.size_bytes > self.budget["memory"] else "memory"
        self._kept["gpu" if made.data.is_cuda else place][key] = made

    def _place(self, size_bytes: int, device: torch.device) -> str | None:
        places = ("gpu",) if device.type == "cuda" else ("memory", "disk")
        return next((p for p in places if size_bytes <= self._most(p, device)), None)

    def _taken(self, place: str) -> int:
        return sum(kept.size_bytes for kept in self._kept[place].values())

    def _most(self, place: str, device: torch.device) -> int:
        """Bytes that a place may keep in all."""
        if place != "gpu":
            return self.budget[place]
        return min(self.budget[place], (free_gpu_bytes(device) + self._taken(place)) // 2)

    def emptied(self) -> ActivationStore:
        """Forgets everything; a store without room, for a run that memory is short for."""
        for kept in self._kept.values():
            kept.clear()
        return ActivationStore(self.folder, 0, 0)

    def drop(self, key: str) -> None:
        """Forgets what is kept under a key."""
        for kept in self._kept.values():
            kept.pop(key, None)

    def _mapped(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = torch.Size(shape).numel()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = temporary_beside(self.folder / "activations")
        try:
            path.touch()
            reserve(path, count * dtype.itemsize)
            mapped = torch.from_file(str(path), shared=True, size=count, dtype=dtype)
        finally:
            path.unlink(missing_ok=True)
        return mapped.view(shape)
