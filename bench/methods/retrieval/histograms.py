"""Images as histograms of filter responses, in bins of equal mass (Ge & Yu, CVPR 2017, §3.2).

Each filter has its own bins. Their edges come from the target alone, so that each bin holds about
an equal share of the target's responses; source images are counted in the same bins, what lies
outside in the end bins. The paper does not give the number of bins; the released code has 100.

Counts are kept as small integers: exact, and half the size of float32 or less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import DataError
from bench.methods.retrieval.filter_banks import Bank, Group
from bench.training.domain import Domain
from bench.training.domain_batches import BATCH_SIZE as USUAL_IMAGES
from bench.training.domain_batches import images_at_most

BINS = 100
SKETCH_POINTS = 8192
BATCH_SIZE = 32
"""Images per pass of a bank; one size for all, since it can move the last bit of a response.

Only a run that is short of GPU memory has fewer, see `images_of_a_pass`."""

Float32 = NDArray[np.float32]
Counts = NDArray[np.uint16] | NDArray[np.uint32]
Edges = Float32
"""float32 (filters of all groups, bins + 1), ascending along each row; equal neighbours are bins
of width 0, which stay empty and cost nothing in the distance."""


def equal_mass_edges(pool: NDArray[np.floating], bins: int = BINS) -> Edges:
    """Exact quantiles of each filter's responses.

    From (filters, responses); the first and last edges are the minimum and the maximum.

    >>> equal_mass_edges(np.array([[0.0, 1.0, 2.0, 3.0]]), bins=3).tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    """
    found = np.quantile(pool, np.linspace(0, 1, bins + 1), axis=1).T
    return np.maximum.accumulate(found, 1).astype(np.float32)


@dataclass
class _Summary:
    """`points` (filters, m), ascending, that stand for `weight` responses each."""

    points: Tensor
    weight: float
    level: int


@dataclass
class QuantileSketch:
    """Quantiles of responses that come in portions, in bounded memory.

    Every portion is sorted and thinned to `points` middle ranks; summaries of the same level are
    merged in pairs and thinned again (as in Manku, Rajagopalan & Lindsay 1998). A quantile's rank
    is off by at most (levels + 1) / (2 `points`) of all responses, levels = log2(portions); it is
    exact while all responses fit in `points`. Memory: filters x points x levels x 4 bytes.
    """

    points: int = SKETCH_POINTS
    low: Tensor | None = None
    high: Tensor | None = None
    _kept: list[_Summary] = field(default_factory=list)

    def add(self, values: Tensor) -> None:
        """Takes in a portion, (filters, responses)."""
        low, high = values.amin(1), values.amax(1)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        count = values.shape[1]
        ordered = values.sort(dim=1).values
        if count > self.points:
            ranks = (torch.arange(self.points, dtype=torch.float64) + 0.5) * count / self.points
            ordered = ordered[:, ranks.long().to(values.device)]
        self._push(_Summary(ordered, count / ordered.shape[1], 0))

    def _push(self, summary: _Summary) -> None:
        while self._kept and self._kept[-1].level == summary.level:
            summary = _merge(self._kept.pop(), summary, self.points)
        self._kept.append(summary)

    def edges(self, bins: int = BINS) -> Edges:
        """As `equal_mass_edges`, of everything that was added.

        Raises:
            DataError: nothing was added.
        """
        if self.low is None or self.high is None:
            raise DataError("no response to take quantiles of")
        points, weights = _together(self._kept)
        middle = weights.cumsum(1) - weights / 2
        total = float(weights[0].sum())
        inner = []
        for share in np.linspace(0, 1, bins + 1)[1:-1]:
            inner.append(_interpolated(points, middle, share * (total - 1) + 0.5))
        found = torch.stack([self.low, *inner, self.high], 1).cpu().numpy().astype(np.float32)
        return np.maximum.accumulate(found, 1)


def _together(summaries: Sequence[_Summary]) -> tuple[Tensor, Tensor]:
    """All points of the summaries, ascending, and their weights; (filters, points) float64 both."""
    points = torch.cat([s.points for s in summaries], 1)
    each = [torch.full((s.points.shape[1],), s.weight, dtype=torch.float64) for s in summaries]
    weights = torch.cat(each).to(points.device)
    ordered, order = points.double().sort(dim=1)
    return ordered, weights[order]


def _interpolated(points: Tensor, middle: Tensor, rank: float) -> Tensor:
    """Each filter's value at a rank, linear between the points' middle ranks."""
    wanted = torch.full((len(points), 1), rank, dtype=torch.float64, device=points.device)
    above = torch.searchsorted(middle.contiguous(), wanted).clamp(1, points.shape[1] - 1)
    if points.shape[1] == 1:
        return points[:, 0]
    left, right = middle.gather(1, above - 1), middle.gather(1, above)
    share = ((wanted - left) / (right - left)).clamp(0, 1)
    a, b = points.gather(1, above - 1), points.gather(1, above)
    return (a + share * (b - a))[:, 0]


def _merge(one: _Summary, other: _Summary, most: int) -> _Summary:
    points, weights = _together([one, other])
    if points.shape[1] <= most and one.weight == other.weight:
        return _Summary(points.to(one.points.dtype), one.weight, one.level + 1)
    kept = min(most, points.shape[1])
    total = float(weights[0].sum())
    ends = weights.cumsum(1)
    ranks = (torch.arange(kept, dtype=torch.float64, device=points.device) + 0.5) * total / kept
    places = torch.searchsorted(ends, ranks.expand(len(ends), -1).contiguous())
    chosen = points.gather(1, places.clamp(max=points.shape[1] - 1)).to(one.points.dtype)
    return _Summary(chosen, total / kept, one.level + 1)


# --- from images -------------------------------------------------------------------------------


def learn_edges(
    bank: Bank, target: Domain, bins: int = BINS, *, memory_mib: int = 1024
) -> tuple[Edges, str]:
    """Bin edges of every filter of a bank, from the target's images.

    Exact quantiles when all responses of a group fit in half of `memory_mib`, else a sketch.

    Which of the two is the second result: `exact quantiles` or `sketch …`.

    Raises:
        DataError: no image, fewer than 2 bins, or a response that is not finite.
    """
    if bins < 2:
        raise DataError(f"{bins} bins describe nothing", hint="the released code of GE has 100")
    if not target.size:
        raise DataError(f"domain {target.name!r} has no image to take bin edges from")
    largest = max(group.responses for group in bank.groups)
    total = sum(group.responses for group in bank.groups) * 4 * target.size
    if total <= memory_mib * 2**20 // 2:
        seen = [
            [part.movedim(0, 1).flatten(1).cpu() for part in maps]
            for _, maps in responses_of(bank, target)
        ]
        pools = [torch.cat(parts, 1).numpy() for parts in zip(*seen, strict=True)]
        return np.concatenate([equal_mass_edges(pool, bins) for pool in pools]), "exact quantiles"
    portion = max(1, min(BATCH_SIZE * 8, memory_mib * 2**20 // (largest * 32)))
    sketches = [QuantileSketch() for _ in bank.groups]
    for _, maps in responses_of(bank, target, portion):
        for sketch, part in zip(sketches, maps, strict=True):
            sketch.add(part.movedim(0, 1).flatten(1))
    found = np.concatenate([sketch.edges(bins) for sketch in sketches])
    return found, f"sketch of {SKETCH_POINTS} points"


def images_of_a_pass() -> int:
    """Images per pass of a bank: fewer in proportion where forward passes have fewer.

    >>> images_of_a_pass()
    32
    >>> from bench.training.domain_batches import most_images_per_pass
    >>> with most_images_per_pass(64):
    ...     images_of_a_pass()
    8
    """
    return max(1, min(BATCH_SIZE, BATCH_SIZE * images_at_most() // USUAL_IMAGES))


def responses_of(
    bank: Bank, data: Domain, portion: int | None = None
) -> Iterator[tuple[int, list[Tensor]]]:
    """(first image, responses per group) of consecutive images, checked to be finite.

    Args:
        portion: images that come together, in host memory where passes are small for want of that
            of a GPU; None is those of a pass, where they are.
    """
    size = images_of_a_pass()
    leaves = size < BATCH_SIZE and portion is not None
    portion = portion or size
    for start in range(0, data.size, portion):
        stop = min(start + portion, data.size)
        batches = []
        for at in range(start, stop, size):
            found = bank.responses(data, at, min(at + size, stop))
            batches.append([part.cpu() for part in found] if leaves else found)
        maps = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        for group, part in zip(bank.groups, maps, strict=True):
            if not bool(part.isfinite().all()):
                raise DataError(
                    f"filters of {group.name} give values that are not finite "
                    f"on images {start} to {stop - 1} of {data.name!r}",
                    hint="the network of the bank went wrong in training",
                )
        yield start, maps


def count_responses(responses: Tensor, edges: Tensor) -> Tensor:
    """How many responses of each map lie in each bin.

    Bins are [e_i, e_i+1), the last one closed, as in `numpy.histogram`; what lies outside counts in
    the end bins, so every map's counts add up to its number of places.

    From float32 (n, filters, places) and (filters, bins + 1) to int64 (n, filters, bins).

    >>> count_responses(torch.tensor([[[0.0, 0.5, 1.0, 9.0]]]), torch.tensor([[0.0, 1.0, 2.0]]))
    tensor([[[2, 2]]])
    """
    images, filters, places = responses.shape
    bins = edges.shape[1] - 1
    values = responses.movedim(0, 1).reshape(filters, images * places)
    inner = edges[:, 1:-1].contiguous()
    place = torch.searchsorted(inner, values.contiguous(), right=True)
    place = place.view(filters, images, places).movedim(0, 1)
    counts = torch.zeros(images, filters, bins, dtype=torch.int64, device=responses.device)
    return counts.scatter_add_(2, place, torch.ones_like(place))


def counts_dtype(groups: Sequence[Group]) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The smallest type that holds the counts of all groups."""
    most = max(group.places for group in groups)
    return np.dtype(np.uint16) if most < 2**16 else np.dtype(np.uint32)


def edges_of_groups(groups: Sequence[Group], edges: Edges) -> list[Tensor]:
    """The rows of `edges` that belong to each group.

    Raises:
        DataError: edges of another bank.
    """
    ends = np.cumsum([group.filters for group in groups])
    if len(edges) != ends[-1]:
        raise DataError(f"edges of {len(edges)} filters, but the bank has {ends[-1]}")
    return [torch.from_numpy(part) for part in np.split(edges, ends[:-1])]


def describe_blocks(bank: Bank, data: Domain, edges: Edges) -> Iterator[tuple[int, Counts]]:
    """(first image, counts (n, filters x bins)) of consecutive images.

    Divided by its group's `places`, each filter's part sums to 1: the descriptor of the paper.
    """
    parts, kind = edges_of_groups(bank.groups, edges), counts_dtype(bank.groups)
    for start, maps in responses_of(bank, data):
        counts = [
            count_responses(responses, part.to(responses.device)).flatten(1)
            for responses, part in zip(maps, parts, strict=True)
        ]
        yield start, cast(Counts, torch.cat(counts, 1).cpu().numpy().astype(kind))
