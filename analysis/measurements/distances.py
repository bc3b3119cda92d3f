"""How far is the target from the source? Every distance in one table, each with its interval.

The four distances of "Best Practices for Fine-tuning Visual Classifiers to New Domains" (§3.1,
Table 2) and later ones, at equal sample sizes: finite samples bias nearly all of them upwards, so
values are comparable only at one n. An interval says how the value would move with other images
of the same sets *at this n*: bootstrap values, shifted so that their mean is the measured value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.measurements import class_distances as classes
from analysis.measurements import set_distances as sets
from analysis.measurements.domain_classifiers import (
    Classifier,
    DomainAccuracy,
    cnn_domain_classifier,
    domain_accuracy,
    linear_svm,
    logistic,
    proxy_a_distance,
)
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
class _Pair:
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


def measure(
    source: Side, target: Side, options: DistanceOptions | None = None
) -> list[DistanceResult]:
    """Every distance; what cannot be measured has a row that says what is missing.

    Raises:
        DataError: when features are absent, not finite, constant, or of different dimensions.

    >>> rng = np.random.default_rng(0)
    >>> near, far = rng.random((40, 3)), rng.random((40, 3)) + 1
    >>> quick = DistanceOptions(resamples=20, permutations=20, slow_resamples=3)
    >>> [r.name for r in measure(Side(near), Side(far), quick)][:3]
    ['cosine', 'linear MMD', 'linear SVM accuracy']
    """
    options = options or DistanceOptions()
    x = sets.checked(source.features, "source")
    y = sets.checked(target.features, "target")
    if x.shape[1] != y.shape[1]:
        raise DataError(
            f"{x.shape[1]} source and {y.shape[1]} target dimensions",
            hint="extract the same layer of the same network for both",
        )
    if np.ptp(x, axis=0).max() == 0 and np.ptp(y, axis=0).max() == 0:
        raise DataError(
            "all images of a side have the same features", hint="take another layer of the network"
        )
    rows = equal_sizes(len(x), len(y), options.images, options.seed)
    pair = _Pair(x[rows[0]], y[rows[1]], source, target, *rows, options)
    return [
        *_by_means(pair),
        *_by_classifiers(pair),
        _by_kernel(pair),
        _by_frechet(pair),
        _by_histograms(pair),
        _by_centroids(pair),
        _by_labels(pair),
    ]


def _missing(name: str, *notes: str) -> DistanceResult:
    return DistanceResult(name, None, None, None, 0, notes)


def _around(
    name: str, value: float, draws: Array, n: int, level: float, *notes: str
) -> DistanceResult:
    """The result with its interval: bootstrap values moved to have the measured value as mean."""
    shift = value - float(draws.mean())
    low, high = np.quantile(draws + shift, [0.5 - level / 2, 0.5 + level / 2])
    said = list(notes)
    if -shift > 0.1 * abs(value):
        said.append(f"samples of {n} inflate it by about {-shift:.3g}")
    return DistanceResult(name, value, float(low), float(high), n, tuple(said))


def _resampling(n: int, side: str, resamples: int, seed: int) -> Array:
    """How often each image is drawn in each resample: (resamples, n)."""
    rng = generator("distance bootstrap", side, seed)
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n * resamples)
    return counts.reshape(resamples, n).astype(np.float64)


def _by_means(pair: _Pair) -> list[DistanceResult]:
    o, n = pair.options, pair.n
    mean_x, mean_y = pair.x.mean(axis=0, dtype=float), pair.y.mean(axis=0, dtype=float)
    draws_x = _resampling(n, "source", o.resamples, o.seed) @ pair.x / n
    draws_y = _resampling(n, "target", o.resamples, o.seed) @ pair.y / n
    signed = min(float(pair.x.min()), float(pair.y.min())) < 0
    note = ("features below 0: the scale is 0 to 2, not CHU's 0 to 1",) if signed else ()
    return [
        _around(
            "cosine",
            sets.cosine(mean_x, mean_y),
            np.array([sets.cosine(a, b) for a, b in zip(draws_x, draws_y, strict=True)]),
            n,
            o.level,
            *note,
        ),
        _around(
            "linear MMD",
            sets.linear_mmd(mean_x, mean_y),
            np.linalg.norm(draws_x - draws_y, axis=1),
            n,
            o.level,
            "not squared",
        ),
    ]


def _by_classifiers(pair: _Pair) -> list[DistanceResult]:
    o = pair.options
    unfinished: list[int] = []
    svm = domain_accuracy(pair.x, pair.y, linear_svm(o.svm_c, unfinished), o.seed)
    quick = domain_accuracy(pair.x, pair.y, logistic(1 / o.svm_c), o.seed)
    notes = [f"C = {o.svm_c:g}"]
    if unfinished:
        notes.append(f"not converged after {unfinished[0]} iterations, so a little uncertain")
    svm_row = _accuracy("linear SVM accuracy", svm, pair, *notes)
    return [
        svm_row,
        _pixels(pair),
        _accuracy("logistic accuracy", quick, pair, f"L2 = {1 / o.svm_c:g}"),
        _a_distance(svm_row),
    ]


def _accuracy(name: str, found: DomainAccuracy, pair: _Pair, *notes: str) -> DistanceResult:
    """The interval is over the tested images, given the two classifiers of the cross-fit."""
    n, o = len(found.source_right), pair.options
    rng = generator("accuracy bootstrap", name, o.seed)
    sides = [
        rng.binomial(n, r.mean(), o.resamples) for r in (found.source_right, found.target_right)
    ]
    draws = (sides[0] + sides[1]) / (2 * n)
    said = (*notes, "0.5 is indistinguishable")
    return _around(name, found.accuracy, draws, n, o.level, *said)


def _a_distance(svm: DistanceResult) -> DistanceResult:
    ends = [
        None if accuracy is None else proxy_a_distance(float(np.clip(1 - accuracy, 0, 1)))
        for accuracy in (svm.value, svm.low, svm.high)
    ]
    note = "from the linear SVM; 0 at chance, 2 when disjoint"
    below = ("below 0: the classifier is worse than chance",) if (ends[0] or 0) < 0 else ()
    return DistanceResult("proxy A-distance", ends[0], ends[1], ends[2], svm.n, (note, *below))


def _pixels(pair: _Pair) -> DistanceResult:
    name, o = "CNN accuracy", pair.options
    if pair.source.pixels is None or pair.target.pixels is None:
        return _missing(name, "needs the images of both sides at 32 x 32 pixels")
    a, b = np.asarray(pair.source.pixels), np.asarray(pair.target.pixels)
    _same_length("pixels", len(a), len(np.asarray(pair.source.features)), "source")
    _same_length("pixels", len(b), len(np.asarray(pair.target.features)), "target")
    net: Classifier = cnn_domain_classifier(o.cnn_epochs, seed=o.seed)
    found = domain_accuracy(a[pair.source_rows], b[pair.target_rows], net, o.seed)
    return _accuracy(name, found, pair, f"{o.cnn_epochs} epochs on pixels")


def _same_length(what: str, given: int, images: int, side: str) -> None:
    if given != images:
        raise DataError(f"{given} {what} for {images} {side} images")


def _by_kernel(pair: _Pair) -> DistanceResult:
    o, name = pair.options, "RBF MMD²"
    found = sets.rbf_mmd(pair.x, pair.y, None, o.permutations, o.resamples, o.seed)
    notes = ["unbiased", f"gamma {found.gamma:.3g} by the median heuristic"]
    if found.squared < 0:
        notes.append("below 0: read it as 0")
    result = _around(name, found.squared, found.bootstrap, pair.n, o.level, *notes)
    return replace(result, p_value=found.p_value)


def _slow(
    name: str, pair: _Pair, statistic: Callable[[Indices, Indices], float], *notes: str
) -> DistanceResult:
    """A distance that is computed anew for each resample; `statistic` takes rows of x and y."""
    o, n = pair.options, pair.n
    everything = np.arange(n)
    rng = generator("slow bootstrap", name, o.seed)
    draws = [
        statistic(rng.integers(n, size=n), rng.integers(n, size=n)) for _ in range(o.slow_resamples)
    ]
    said = (*notes, f"{o.slow_resamples} resamples")
    return _around(name, statistic(everything, everything), np.array(draws), n, o.level, *said)


def _by_frechet(pair: _Pair) -> DistanceResult:
    notes = ["squared, as FID"]
    if pair.n < pair.x.shape[1]:
        notes.append(f"{pair.n} images for {pair.x.shape[1]} dimensions: strongly inflated")
    return _slow("Fréchet", pair, lambda a, b: sets.frechet(pair.x[a], pair.y[b]), *notes)


def _by_histograms(pair: _Pair) -> DistanceResult:
    o = pair.options
    bins = min(o.bins, max(2, pair.n // 5))
    codes_x, codes_y = sets.histogram_codes(pair.x, pair.y, bins)
    layer = np.zeros(pair.x.shape[1], dtype=np.int64)

    def divergence(a: Indices, b: Indices) -> float:
        return sets.codes_divergence(codes_x[a], codes_y[b], bins, layer, o.histogram_epsilon)

    note = f"{bins} bins, epsilon {o.histogram_epsilon:g}"
    return _slow("histogram KL", pair, divergence, note)


def _by_centroids(pair: _Pair) -> DistanceResult:
    name, o = "EMD of class centroids", pair.options
    if pair.source.labels is None or pair.target.labels is None:
        return _missing(name, "needs the labels of both sides")
    labels_x, labels_y = np.asarray(pair.source.labels), np.asarray(pair.target.labels)
    _same_length("labels", len(labels_x), len(np.asarray(pair.source.features)), "source")
    _same_length("labels", len(labels_y), len(np.asarray(pair.target.features)), "target")
    of_x, of_y = labels_x[pair.source_rows], labels_y[pair.target_rows]

    def distance(a: Indices, b: Indices) -> float:
        # A class that a resample misses drops out of it, as it would from another sample.
        one = classes.centroids(pair.x[a], of_x[a].tolist(), o.emd_least_images)
        other = classes.centroids(pair.y[b], of_y[b].tolist(), o.emd_least_images)
        return classes.earth_movers(one, other)

    result = _slow(name, pair, distance, "Euclidean, classes weighted by size")
    similarity = classes.emd_similarity(result.value or 0.0)
    return replace(result, notes=(*result.notes, f"exp(-0.01 EMD) = {similarity:.3g}"))


def _by_labels(pair: _Pair) -> DistanceResult:
    name, o = "WordNet path", pair.options
    if pair.source.wnids is None or pair.target.wnids is None:
        return _missing(name, "needs the WordNet ids of both sides' classes")
    steps = classes.wordnet_path(pair.source.wnids, pair.target.wnids)
    counts = _resampling(len(steps), "target classes", o.resamples, o.seed)
    note = "mean steps from a target class to the nearest source class"
    return _around(
        name, float(steps.mean()), counts @ steps / len(steps), len(steps), o.level, note
    )
