"""Nearest source images by layer-weighted symmetric KL (Ge & Yu, CVPR 2017, §3.2, Eq. 1).

    H(t, s) = sum_h w_h [ KL(t_h || s_h) + KL(s_h || t_h) ],   w_h = 1 / filters of h's layer

so that every layer weighs the same. Two matrix products give it for all pairs:

    H = sum w t log t + sum w s log s - (w t) (log s)' - (w log t) (s)'

The paper is silent on empty bins, of which the divergence is infinite; as in the released code
log p is log(p + epsilon), epsilon = 2.2204e-16. (It also halves the sum, which changes no rank.)
Both factors of each product are centred on an even histogram, which changes nothing, as every
filter's shares sum to 1, but keeps float32 accurate: distances agree with float64 to about 1e-5 of
their size, and pairs nearer than that can show are computed again in float64, so that a duplicate
has distance 0.

Both sides are streamed in blocks, so that memory is bounded by an option whatever their number.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import DataError
from bench.methods.retrieval.descriptors import Descriptors, hash_of, read_arrays, write_arrays
from bench.training.domain_batches import BATCH_SIZE as USUAL_IMAGES
from bench.training.domain_batches import images_at_most

EPSILON = 2.2204e-16
_LEAST_MIB = 64
"""Of a search where GPU memory is short, unless `memory_mib` is less."""
EXACT_BELOW = 1e-3
"""Distances per layer below which a pair is computed again in float64."""

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
_ALIGNED = 16
_ROWS_IN_CACHE = 8
_ROWS_ON_DEVICE = 512


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest source images of each target image, nearest first, equals by index.

    Attributes:
        indices: int64 (targets, K) into the source.
        distances: float32 (targets, K).
        source_size: images of the source.
    """

    indices: Int64
    distances: NDArray[np.float32]
    source_size: int

    @property
    def stored(self) -> int:
        """K, the most neighbours that a target image can be given."""
        return int(self.indices.shape[1])


class Blocks(NamedTuple):
    """Rows of a block of each side."""

    target: int
    source: int


def plan_blocks(columns: int, k: int, targets: int, sources: int, memory_mib: int) -> Blocks:
    """Blocks that keep a search within `memory_mib`, the target's as large as can be.

    The source is passed over once per block of the target. Half of the memory is for the target's
    block, a quarter for the source's, a quarter for their distances. Blocks of the source are a
    multiple of 16 images: with 3,971 the matrix product takes 1.4 times as long as with 3,968.

    Raises:
        DataError: when not even one image of each side fits.

    >>> plan_blocks(35_200, 1700, 12_000, 1_281_167, 1024)
    Blocks(target=1478, source=624)
    """
    budget = memory_mib * 2**20
    target = min(targets, budget // 2 // (8 * columns + 48 * k))
    source = min(sources, 4096, budget // 4 // (12 * columns))
    if target < 1 or source < 1:
        need = 2 * max(8 * columns + 48 * k, 2 * 12 * columns) / 2**20
        raise DataError(
            f"{memory_mib} MiB hold no image of {columns} columns with {k} neighbours",
            hint=f"give at least {int(need) + 1} MiB, or fewer layers, bins or neighbours",
        )
    source = max(1, min(source, budget // 4 // (16 * target)))
    aligned = source - source % _ALIGNED if source < sources else source
    return Blocks(target, aligned or source)


def nearest_sources(
    target: Descriptors,
    source: Descriptors,
    k: int,
    *,
    epsilon: float = EPSILON,
    memory_mib: int = 1024,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> Neighbours:
    """The `k` nearest images of `source` for each image of `target`.

    Args:
        target, source: descriptors under the same bank and edges.
        k: neighbours to keep.
        epsilon: added to every share before its logarithm.
        memory_mib: bound on the memory of a search; where forward passes have fewer images for want
            of GPU memory, a search has less in proportion.
        device: where the matrix products run.
        cache: folder in which results are kept; an entry with more neighbours serves fewer.

    Raises:
        DataError: descriptors that do not fit, or k outside 1..source size.
    """
    if (target.groups, target.bins) != (source.groups, source.bins):
        raise DataError(
            "source and target are described by different filters or bins",
            hint="describe both by the same bank and the target's edges, at the same image size",
        )
    if not 1 <= k <= source.size:
        raise DataError(
            f"{k} neighbours of each image are asked for, but the source has {source.size} images",
            hint=f"give 1 to {source.size}",
        )
    path = cache and cache / f"neighbours-{hash_of(target.key, source.key, repr(epsilon))}.npz"
    kept = _read(path, target.size, source.size, k) if path else None
    if kept is not None:
        return kept
    found = _search(target, source, k, epsilon, memory_mib, torch.device(device))
    if path is not None:
        write_arrays(path, indices=found.indices.astype(np.int32), distances=found.distances)
    return found


def _read(path: Path, targets: int, sources: int, k: int) -> Neighbours | None:
    found = read_arrays(path, "indices", "distances")
    if found is None:
        return None
    indices, distances = found["indices"].astype(np.int64), found["distances"]
    whole = indices.shape == distances.shape and len(indices) == targets and indices.shape[1] >= k
    if not whole or not (indices.min() >= 0 and indices.max() < sources):
        return None
    return Neighbours(indices[:, :k], distances[:, :k], sources)


# --- the search -----------------------------------------------------------------------------------


class _Side:
    """Rows of one side as a factor of the joined product, and their terms of their own.

    Both are in units of an even share: x = bins p, so that centring is x - 1 and log x. The
    weights, and what the units cost, are in the target's factor.
    """

    def __init__(self, data: Descriptors, epsilon: float, device: torch.device) -> None:
        self.data, self.device = data, device
        self.epsilon = np.float32(epsilon * data.bins)
        self.weights = data.per_filter(lambda g: 1 / (g.filters * data.bins)).astype(np.float32)
        self.scale = data.per_filter(lambda g: data.bins / g.places).astype(np.float32)

    def rows(
        self, start: int, stop: int, logs_first: bool, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(n, 2 x columns) factors and float32 (n,) sums of w p log p, centred both.

        The target's factor is [w p, w log p], the source's [log q, q].
        """
        columns = self.data.counts.shape[1]
        joined = torch.empty(stop - start, 2 * columns, device=self.device) if out is None else out
        joined = joined[: stop - start]
        own = torch.empty(stop - start, device=self.device)
        first, second = joined[:, :columns], joined[:, columns:]
        logs, shares = (first, second) if logs_first else (second, first)
        if self.device.type == "cpu":
            self._fill(start, logs.numpy(), shares.numpy(), own.numpy())
        else:
            self._fill_on_device(start, logs, shares, own)
        if not logs_first:
            for part in (first, second):
                part *= torch.from_numpy(self.weights).to(self.device)
        return joined, own

    def _fill(self, start: int, logs: Float32, shares: Float32, own: Float32) -> None:
        """A few rows at a time, which stay in the processor's cache; a thread for each core.

        numpy and not torch: its operations are too small to be worth sharing between threads.
        """

        def fill(first: int, last: int) -> None:
            for at in range(first, last, _ROWS_IN_CACHE):
                here = slice(at, min(at + _ROWS_IN_CACHE, last))
                counts = self.data.counts[start + at : start + here.stop].astype(np.float32)
                np.multiply(counts, self.scale, out=shares[here])
                np.add(shares[here], self.epsilon, out=logs[here])
                np.log(logs[here], out=logs[here])
                np.subtract(shares[here], np.float32(1), out=shares[here])
                np.multiply(logs[here], shares[here], out=counts)
                own[here] = counts @ self.weights

        workers = torch.get_num_threads()
        ends = np.linspace(0, len(own), workers + 1).astype(int).tolist()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, ends[:-1], ends[1:]))

    def _fill_on_device(self, start: int, logs: Tensor, shares: Tensor, own: Tensor) -> None:
        weights, scale = (torch.from_numpy(x).to(self.device) for x in (self.weights, self.scale))
        for at in range(0, len(own), _ROWS_ON_DEVICE):
            here = slice(at, min(at + _ROWS_ON_DEVICE, len(own)))
            counts = np.array(self.data.counts[start + at : start + here.stop])
            torch.mul(torch.from_numpy(counts).to(self.device).float(), scale, out=shares[here])
            torch.add(shares[here], float(self.epsilon), out=logs[here])
            logs[here].log_()
            shares[here] -= 1
            own[here] = (logs[here] * shares[here]) @ weights


def _search(
    target: Descriptors,
    source: Descriptors,
    k: int,
    epsilon: float,
    memory_mib: int,
    device: torch.device,
) -> Neighbours:
    if (most := images_at_most()) < USUAL_IMAGES:
        memory_mib = min(memory_mib, max(_LEAST_MIB, memory_mib * most // USUAL_IMAGES))
    blocks = plan_blocks(target.counts.shape[1], k, target.size, source.size, memory_mib)
    left, right = _Side(target, epsilon, device), _Side(source, epsilon, device)
    indices = np.empty((target.size, k), np.int64)
    distances = np.empty((target.size, k), np.float32)
    buffer = torch.empty(blocks.source, 2 * target.counts.shape[1], device=device)
    for first in range(0, target.size, blocks.target):
        last = min(first + blocks.target, target.size)
        factor, own = left.rows(first, last, logs_first=False)
        best = _Best(last - first, k, device)
        for start in range(0, source.size, blocks.source):
            stop = min(start + blocks.source, source.size)
            other, theirs = right.rows(start, stop, logs_first=True, out=buffer)
            # Each row's own term is left out until the end: it does not change the order.
            best.add(torch.addmm(theirs, factor, other.T, alpha=-1), start)
        indices[first:last] = best.indices.cpu().numpy()
        distances[first:last] = (best.values + own[:, None]).cpu().numpy()
    found = Neighbours(indices, distances, source.size)
    _refine(found, target, source, epsilon)
    return found


class _Best:
    """The k smallest values of each row so far; of equal ones those with the lowest index."""

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.k = k
        self.values = torch.full((rows, 0), torch.inf, device=device)
        self.indices = torch.zeros((rows, 0), dtype=torch.int64, device=device)

    def add(self, block: Tensor, offset: int) -> None:
        """Takes in the values of the source images `offset`, `offset` + 1, …"""
        if self.values.shape[1] == self.k:
            most = int((block < self.values[:, -1:]).sum(1).max())
            if most == 0:
                return
        else:
            most = block.shape[1]
        values, places = _smallest(block, min(self.k, most))
        # Both sorts are stable and the new indices are higher, so equal values stay in their order.
        values = torch.cat([self.values, values], 1)
        indices = torch.cat([self.indices, places + offset], 1)
        values, order = values.sort(dim=1, stable=True)
        self.values = values[:, : self.k].contiguous()
        self.indices = indices.gather(1, order[:, : self.k])


def _smallest(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row, in the order of their places; ties go to the lower place."""
    values, places = block.topk(k, dim=1, largest=False, sorted=False)
    tied = ((block <= values.amax(1, keepdim=True)).sum(1) > k).nonzero()[:, 0]
    if len(tied):  # topk takes any of those that are equal to the last
        places[tied] = block[tied].sort(dim=1, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    return block.gather(1, places), places


def _refine(found: Neighbours, target: Descriptors, source: Descriptors, epsilon: float) -> None:
    """Computes the smallest distances again in float64, and puts their rows in order."""
    near = found.distances < EXACT_BELOW * len(target.groups)
    for row in np.flatnonzero(near.any(1)):
        for chunk in np.array_split(np.flatnonzero(near[row]), 1 + near[row].sum() // 64):
            pairs = pair_distances(
                target, source, np.full(len(chunk), row), found.indices[row, chunk], epsilon
            )
            found.distances[row, chunk] = pairs
        order = np.lexsort((found.indices[row], found.distances[row]))
        found.distances[row] = found.distances[row, order]
        found.indices[row] = found.indices[row, order]


def pair_distances(
    target: Descriptors,
    source: Descriptors,
    target_rows: Int64,
    source_rows: Int64,
    epsilon: float = EPSILON,
) -> NDArray[np.float64]:
    """H of single pairs in float64: sum over filters and bins of w (p - q) (log p - log q)."""
    p, q = target.histograms(target_rows), source.histograms(source_rows)
    weights = target.per_filter(lambda group: 1 / group.filters)
    terms = weights * (p - q) * (np.log(p + epsilon) - np.log(q + epsilon))
    summed: NDArray[np.float64] = terms.sum(1)
    return summed
