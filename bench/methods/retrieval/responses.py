"""Filter responses of a source, sorted and kept on disk, so that every target can bin them anew.

The bins come from the target (GE-2), so a source's histograms are another target's no use; the
responses are. Sorted within each map they give any histogram by as many binary searches as there
are edges: the same counts as `count_responses`, bit for bit, in a fraction of the time. They take
4 bytes per place, filter and image, which is why they are bounded: those of one source by
`responses_mib`, all in a cache, with the descriptors beside them, by the environment variable
BENCH_RESPONSES_GIB, for which those that were not used for the longest time are removed.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import BenchError
from bench.methods.retrieval.filter_banks import Bank, Group
from bench.methods.retrieval.histograms import (
    BATCH_SIZE,
    Counts,
    Edges,
    counts_dtype,
    edges_of_groups,
    responses_of,
)
from bench.training.domain import Domain

_CHECKED_ROWS = 32

Sorted = NDArray[np.float32]

KEPT_GIB = 10.0
"""What responses and descriptors in a cache may take where the environment says nothing else."""

_MAPPED_S = 86_400.0
"""For so long after its last use a file of descriptors may be mapped by a run."""


def most_bytes() -> int:
    """What responses and descriptors in a cache may take, and what features may.

    Raises:
        BenchError: the environment variable BENCH_RESPONSES_GIB is no size.
    """
    text = os.environ.get("BENCH_RESPONSES_GIB", str(KEPT_GIB))
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 <= size < 2**20:
        raise BenchError(
            f"the environment variable BENCH_RESPONSES_GIB is {text!r}",
            hint="write the GiB that filter responses and descriptors of images may take in the "
            "cache, and features too, such as 10; 0 keeps none",
        )
    return int(size * 2**30)


def make_room(folder: Path, wanted: int, most: int) -> None:
    """Removes what is longest unused until `wanted` more bytes are within `most`.

    A process that reads responses meanwhile goes on without, see `describe_sorted`. Descriptors are
    mapped, and a map of a file that another machine removes ends the process: those that were
    used within a day stay, and count.
    """
    found = []
    kept = [*folder.glob("responses-*.npy"), *folder.glob("descriptors-*.npy")]
    for path in (*kept, *folder.glob("features-*.f32")):
        with contextlib.suppress(OSError):
            info = path.stat()
            found.append((info.st_mtime, path, info.st_size))
    total, now = wanted + sum(size for *_, size in found), time.time()
    for used, path, size in sorted(found):
        if total <= most:
            break
        if path.name.startswith("descriptors-") and now - used < _MAPPED_S:
            continue
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def sorted_mib(bank: Bank, data: Domain) -> float:
    """What the responses of a domain take on disk."""
    return 4 * sum(group.responses for group in bank.groups) * data.size / 2**20


def fill_sorted(found: Sorted, bank: Bank, data: Domain) -> None:
    """Fills float32 (images, sum of filters x places): maps one after the other, each ascending."""
    for start, maps in responses_of(bank, data):
        flat = torch.cat([part.sort(dim=2).values.flatten(1) for part in maps], 1)
        found[start : start + len(flat)] = flat.cpu().numpy()


def are_sorted(path: Path, bank: Bank, data: Domain) -> bool:
    """Whether the file is whole: shape, type, and the order within some rows."""
    widths = [group.responses for group in bank.groups]
    found = open_mapped(path, (data.size, sum(widths)), np.dtype(np.float32))
    if found is None:
        return False
    rows = np.unique(np.linspace(0, data.size - 1, _CHECKED_ROWS).astype(int))
    ends = np.cumsum(widths)[:-1]
    for group, part in zip(bank.groups, np.split(found[rows], ends, 1), strict=True):
        maps = part.reshape(-1, group.places)
        if not bool((maps[:, :-1] <= maps[:, 1:]).all()):
            return False
    return True


def open_mapped(path: Path, shape: tuple[int, int], kind: np.dtype[Any]) -> NDArray[Any] | None:
    """A memory map of the array in the file, when it has this shape and type."""
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == kind else None


def count_sorted(responses: Tensor, edges: Tensor) -> Tensor:
    """As `count_responses`, from maps whose responses ascend.

    Bin i ends before the first response that is not below edge i + 1.

    >>> count_sorted(torch.tensor([[[0.0, 0.5, 1.0, 9.0]]]), torch.tensor([[0.0, 1.0, 2.0]]))
    tensor([[[2, 2]]])
    """
    images, filters, places = responses.shape
    inner = edges[:, 1:-1].expand(images, -1, -1).contiguous()
    below = torch.searchsorted(responses.contiguous(), inner, right=False)
    ends = torch.full((images, filters, 1), places, dtype=torch.int64)
    return torch.cat([below, ends], 2).diff(dim=2, prepend=torch.zeros_like(ends))


def describe_sorted(
    groups: Sequence[Group], path: Path, size: int, edges: Edges
) -> Iterator[tuple[int, Counts]]:
    """As `describe_blocks`, from a file of responses that `fill_sorted` made.

    It is read and not mapped: a map of a file that another machine removes ends the process.

    Raises:
        OSError: the file was removed or cut meanwhile.
    """
    parts, kind = edges_of_groups(groups, edges), counts_dtype(groups)
    widths = [group.responses for group in groups]
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        for start in range(0, size, BATCH_SIZE):
            shape = (min(BATCH_SIZE, size - start), sum(widths))
            read = np.fromfile(file, np.float32, math.prod(shape))
            if read.size < math.prod(shape):
                raise OSError(errno.ESTALE, "the file was cut or removed", str(path))
            maps_of_groups = torch.split(torch.from_numpy(read.reshape(shape)), widths, 1)
            counts = [
                count_sorted(maps.reshape(-1, group.filters, group.places), own).flatten(1)
                for maps, group, own in zip(maps_of_groups, groups, parts, strict=True)
            ]
            yield start, cast(Counts, torch.cat(counts, 1).numpy().astype(kind))
