"""What distances are made of: both sides at equal size, results, intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.measurements import set_distances as sets
from analysis.measurements.domain_classifiers import DomainAccuracy
from analysis.statistics.corrections import generator
from bench.core.errors import DataError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DistanceResult:
    """One distance. `value` is None where it could not be measured; `notes` say why.

    Larger is farther. `n` counts the images of each side, or the target classes.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    notes: tuple[str, ...] = ()
    p_value: float | None = None


@dataclass(frozen=True)
class Side:
    """What is known of the source or the target.

    Attributes:
        features: (n, D), such as fc7 after ReLU of the network trained on the source.
        labels: (n,) class numbers, for the EMD between class centroids.
        pixels: (n, 3, 32, 32), for the convolutional domain classifier.
        wnids: the classes' WordNet ids, for the distance of the label sets.
    """

    features: npt.ArrayLike
    labels: Sequence[int] | None = None
    pixels: npt.ArrayLike | None = None
    wnids: Sequence[str] | None = None


@dataclass(frozen=True)
class DistanceOptions:
    """Sizes and seeds. `images` are drawn of each side; `slow_resamples` is for EMD and Fréchet."""

    images: int = 1000
    resamples: int = 200
    slow_resamples: int = 30
    permutations: int = 200
    svm_c: float = 1.0
    bins: int = 100
    histogram_epsilon: float = 1e-6
    emd_least_images: int = 1
    cnn_epochs: int = 8
    level: float = 0.95
    seed: int = 0


def equal_sizes(
    n_source: int, n_target: int, limit: int | None = None, seed: int = 0
) -> tuple[Indices, Indices]:
    """Places of as many source as target images: the smaller set's size, at most `limit`.

    >>> a, b = equal_sizes(10, 4)
    >>> len(a), sorted(b.tolist())
    (4, [0, 1, 2, 3])
    """
    n = min(n_source, n_target, limit or n_source)
    if n < 4:
        raise DataError(
            f"{n_source} source and {n_target} target images",
            hint="four of each are the least, a hundred give a usable interval",
        )
    sides = (("source", n_source), ("target", n_target))
    drawn = [generator("distance images", s, seed).permutation(size)[:n] for s, size in sides]
    return np.sort(drawn[0]), np.sort(drawn[1])


@dataclass(frozen=True)
class Pair:
    """Both sides at equal size."""

    x: sets.Numbers
    y: sets.Numbers
    source: Side
    target: Side
    source_rows: Indices
    target_rows: Indices
    options: DistanceOptions

    @property
    def n(self) -> int:
        return len(self.x)


def missing(name: str, *notes: str) -> DistanceResult:
    return DistanceResult(name, None, None, None, 0, notes)


def around(
    name: str, value: float, draws: Array, n: int, level: float, *notes: str
) -> DistanceResult:
    """The result with its interval: bootstrap values moved to have the measured value as mean."""
    shift = value - float(draws.mean())
    low, high = np.quantile(draws + shift, [0.5 - level / 2, 0.5 + level / 2])
    said = list(notes)
    if -shift > 0.1 * abs(value):
        said.append(f"samples of {n} inflate it by about {-shift:.3g}")
    return DistanceResult(name, value, float(low), float(high), n, tuple(said))


def resampling(n: int, side: str, resamples: int, seed: int) -> Array:
    """How often each image is drawn in each resample: (resamples, n)."""
    rng = generator("distance bootstrap", side, seed)
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n * resamples)
    return counts.reshape(resamples, n).astype(np.float64)


def slow(
    name: str, pair: Pair, statistic: Callable[[Indices, Indices], float], *notes: str
) -> DistanceResult:
    """A distance that is computed anew for each resample; `statistic` takes rows of x and y."""
    o, n = pair.options, pair.n
    everything = np.arange(n)
    rng = generator("slow bootstrap", name, o.seed)
    draws = [
        statistic(rng.integers(n, size=n), rng.integers(n, size=n)) for _ in range(o.slow_resamples)
    ]
    said = (*notes, f"{o.slow_resamples} resamples")
    return around(name, statistic(everything, everything), np.array(draws), n, o.level, *said)


def accuracy(name: str, found: DomainAccuracy, pair: Pair, *notes: str) -> DistanceResult:
    """The interval is over the tested images, given the two classifiers of the cross-fit."""
    n, o = len(found.source_right), pair.options
    rng = generator("accuracy bootstrap", name, o.seed)
    sides = [
        rng.binomial(n, r.mean(), o.resamples) for r in (found.source_right, found.target_right)
    ]
    draws = (sides[0] + sides[1]) / (2 * n)
    said = (*notes, "0.5 is indistinguishable")
    return around(name, found.accuracy, draws, n, o.level, *said)


def same_length(what: str, given: int, images: int, side: str) -> None:
    if given != images:
        raise DataError(f"{given} {what} for {images} {side} images")
