"""Filter AP, retrieval and set distances against scikit-learn and plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import LinearSVC

from analysis.measurements.domain_classifiers import logistic
from analysis.measurements.filters import average_precision
from analysis.measurements.set_distances import rbf_mmd
from bench.methods.retrieval.descriptors import Descriptors
from bench.methods.retrieval.filter_banks import Group
from bench.methods.retrieval.search import nearest_sources
from benchmarks.compare import Case, Pair


def _filter_ap() -> Pair:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5000, 256)).astype(np.float32)
    scores[:, ::2] = np.maximum(scores[:, ::2], 0)  # half of them with many ties, as after a ReLU
    labels = np.repeat(np.arange(100), 50)
    sample = (0, 1)

    def peer() -> NDArray[np.float64]:
        truth = [labels == c for c in range(100)]
        return np.array([[average_precision_score(t, scores[:, f]) for t in truth] for f in sample])

    def check(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
        np.testing.assert_allclose(ours[list(sample)], theirs, atol=1e-12)

    return Pair(lambda: average_precision(scores, labels), peer, check, 256 / len(sample))


@dataclass(frozen=True)
class _Search:
    ours: Callable[[], Any]
    peer: Callable[[], NDArray[np.int64]]
    check: Callable[[Any, NDArray[np.int64]], None]


def _search() -> _Search:
    groups, bins, places = (
        (Group("conv1", 96, 27 * 27), Group("conv2", 256, 13 * 13)),
        16,
        (27 * 27, 13 * 13),
    )
    rng = np.random.default_rng(0)
    centres = rng.dirichlet(np.ones(bins), size=352)

    def draw(images: int) -> Descriptors:
        counts = np.empty((images, 352, bins), np.uint16)
        for f in range(352):
            total = places[0] if f < 96 else places[1]
            shares = rng.dirichlet(20 * centres[f] + 0.5, size=images)
            counts[:, f] = rng.multinomial(total, shares)
        return Descriptors(counts.reshape(images, -1), groups, bins, str(images))

    target, source = draw(2000), draw(20_000)
    epsilon = 2.2204e-16
    weights = np.repeat([1 / 96, 1 / 256], [96 * bins, 256 * bins]).astype(np.float32)

    def shares(side: Descriptors, rows: slice) -> NDArray[np.float32]:
        block = side.counts[rows].reshape(-1, 352, bins).astype(np.float32)
        flat = (block / block.sum(2, keepdims=True)).reshape(len(block), -1)
        return np.asarray(flat + np.float32(epsilon), np.float32)

    q = shares(source, slice(None))
    log_q = np.log(q)

    def peer() -> NDArray[np.int64]:
        nearest = []
        for p in shares(target, slice(0, 2)):
            distance = ((p - q) * (np.log(p) - log_q) * weights).sum(1)
            nearest.append(np.argsort(distance, kind="stable")[:100])
        return np.array(nearest)

    def check(ours: Any, theirs: NDArray[np.int64]) -> None:
        shared = [
            len(set(a.tolist()) & set(b.tolist()))
            for a, b in zip(ours.indices, theirs, strict=False)
        ]
        assert min(shared) >= 98, shared

    return _Search(partial(nearest_sources, target, source, 100), peer, check)


def _against_broadcast() -> Pair:
    search = _search()
    return Pair(search.ours, search.peer, search.check, 1000)


def _against_product() -> Pair:
    """The matrix product that finds all distances, and nothing else."""
    rng = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, 2 * 5632, generator=rng) for n in (2000, 20_000))
    return Pair(_search().ours, lambda: left @ right.T)


def _features(images: int, columns: int, shift: float) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2 * images, columns), dtype=np.float32)
    draws[images:] += np.float32(shift / np.sqrt(columns))
    return draws[:images], draws[images:]


def _kernel_mmd() -> Pair:
    x, y = _features(10_000, 4096, 1.0)
    gamma = 1 / (2 * 4096)

    def peer() -> float:
        n = len(x)
        within = [(rbf_kernel(side, gamma=gamma).sum() - n) / (n * (n - 1)) for side in (x, y)]
        return float(sum(within) - 2 * rbf_kernel(x, y, gamma=gamma).mean())

    def check(ours: Any, theirs: float) -> None:
        np.testing.assert_allclose(ours.squared, theirs, rtol=5e-3, atol=1e-6)

    return Pair(lambda: rbf_mmd(x, y, gamma, permutations=0), peer, check)


def _domain_classifier() -> Pair:
    x, y = _features(10_000, 4096, 1.2)
    train, test = np.concatenate([x[::2], y[::2]]), np.concatenate([x[1::2], y[1::2]])
    target = np.repeat([False, True], 5000)

    def ours() -> float:
        return float((logistic(1e4, 30)(train, target, test) == target).mean())

    def peer() -> float:
        return float((LinearSVC(C=1e-4).fit(train, target).predict(test) == target).mean())

    def check(ours: float, theirs: float) -> None:
        assert ours > theirs - 0.02, (ours, theirs)

    return Pair(ours, peer, check)


CASES = (
    Case(
        "AP of 256 filters x 100 classes x 5,000 images",
        "scikit-learn average_precision_score, 2 filters x 128",
        260,
        _filter_ap,
    ),
    Case(
        "symmetric KL, 2,000 x 20,000, D = 5,632, top 100",
        "NumPy broadcast over one target image at a time, 2 x 1,000",
        40,
        _against_broadcast,
    ),
    Case(
        "the same, share of the matrix product's speed",
        "torch: one product of 2,000 x 11,264 and 11,264 x 20,000",
        0.85,
        _against_product,
        note="1 is the limit",
    ),
    Case(
        "RBF MMD, 2 x 10,000 x 4,096, float32",
        "scikit-learn rbf_kernel, three whole matrices",
        1.8,
        _kernel_mmd,
    ),
    Case(
        "domain classifier, 2 x 5,000 x 4,096",
        "scikit-learn LinearSVC, C = 1e-4",
        4,
        _domain_classifier,
        note="logistic regression by L-BFGS, 30 iterations, accuracy at least equal",
    ),
)
