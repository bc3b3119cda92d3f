"""How far is the target from the source? Every distance in one table, each with its interval.

The four distances of "Best Practices for Fine-tuning Visual Classifiers to New Domains" (§3.1,
Table 2) and later ones, at equal sample sizes: finite samples bias nearly all of them upwards, so
values are comparable only at one n. An interval says how the value would move with other images
of the same sets *at this n*: bootstrap values, shifted so that their mean is the measured value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.measurements import class_distances as classes
from analysis.measurements import set_distances as sets
from analysis.measurements.distance_parts import (
    DistanceOptions,
    DistanceResult,
    Pair,
    Side,
    accuracy,
    around,
    equal_sizes,
    missing,
    resampling,
    same_length,
    slow,
)
from analysis.measurements.domain_classifiers import (
    Classifier,
    cnn_domain_classifier,
    domain_accuracy,
    linear_svm,
    logistic,
    proxy_a_distance,
)
from bench.core.errors import DataError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


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
    pair = Pair(x[rows[0]], y[rows[1]], source, target, *rows, options)
    found: list[DistanceResult] = []
    for distance in DISTANCES:
        one = distance(pair)
        found += one if isinstance(one, list) else [one]
    return found


def _by_means(pair: Pair) -> list[DistanceResult]:
    o, n = pair.options, pair.n
    mean_x, mean_y = pair.x.mean(axis=0, dtype=float), pair.y.mean(axis=0, dtype=float)
    draws_x = resampling(n, "source", o.resamples, o.seed) @ pair.x / n
    draws_y = resampling(n, "target", o.resamples, o.seed) @ pair.y / n
    signed = min(float(pair.x.min()), float(pair.y.min())) < 0
    note = ("features below 0: the scale is 0 to 2, not CHU's 0 to 1",) if signed else ()
    return [
        around(
            "cosine",
            sets.cosine(mean_x, mean_y),
            np.array([sets.cosine(a, b) for a, b in zip(draws_x, draws_y, strict=True)]),
            n,
            o.level,
            *note,
        ),
        around(
            "linear MMD",
            sets.linear_mmd(mean_x, mean_y),
            np.linalg.norm(draws_x - draws_y, axis=1),
            n,
            o.level,
            "not squared",
        ),
    ]


def _by_classifiers(pair: Pair) -> list[DistanceResult]:
    o = pair.options
    unfinished: list[int] = []
    svm = domain_accuracy(pair.x, pair.y, linear_svm(o.svm_c, unfinished), o.seed)
    quick = domain_accuracy(pair.x, pair.y, logistic(1 / o.svm_c), o.seed)
    notes = [f"C = {o.svm_c:g}"]
    if unfinished:
        notes.append(f"not converged after {unfinished[0]} iterations, so a little uncertain")
    svm_row = accuracy("linear SVM accuracy", svm, pair, *notes)
    return [
        svm_row,
        _pixels(pair),
        accuracy("logistic accuracy", quick, pair, f"L2 = {1 / o.svm_c:g}"),
        _a_distance(svm_row),
    ]


def _a_distance(svm: DistanceResult) -> DistanceResult:
    ends = [
        None if accuracy is None else proxy_a_distance(float(np.clip(1 - accuracy, 0, 1)))
        for accuracy in (svm.value, svm.low, svm.high)
    ]
    note = "from the linear SVM; 0 at chance, 2 when disjoint"
    below = ("below 0: the classifier is worse than chance",) if (ends[0] or 0) < 0 else ()
    return DistanceResult("proxy A-distance", ends[0], ends[1], ends[2], svm.n, (note, *below))


def _pixels(pair: Pair) -> DistanceResult:
    name, o = "CNN accuracy", pair.options
    if pair.source.pixels is None or pair.target.pixels is None:
        return missing(name, "needs the images of both sides at 32 x 32 pixels")
    a, b = np.asarray(pair.source.pixels), np.asarray(pair.target.pixels)
    same_length("pixels", len(a), len(np.asarray(pair.source.features)), "source")
    same_length("pixels", len(b), len(np.asarray(pair.target.features)), "target")
    net: Classifier = cnn_domain_classifier(o.cnn_epochs, seed=o.seed)
    found = domain_accuracy(a[pair.source_rows], b[pair.target_rows], net, o.seed)
    return accuracy(name, found, pair, f"{o.cnn_epochs} epochs on pixels")


def _by_kernel(pair: Pair) -> DistanceResult:
    o, name = pair.options, "RBF MMD²"
    found = sets.rbf_mmd(pair.x, pair.y, None, o.permutations, o.resamples, o.seed)
    notes = ["unbiased", f"gamma {found.gamma:.3g} by the median heuristic"]
    if found.squared < 0:
        notes.append("below 0: read it as 0")
    result = around(name, found.squared, found.bootstrap, pair.n, o.level, *notes)
    return replace(result, p_value=found.p_value)


def _by_frechet(pair: Pair) -> DistanceResult:
    notes = ["squared, as FID"]
    if pair.n < pair.x.shape[1]:
        notes.append(f"{pair.n} images for {pair.x.shape[1]} dimensions: strongly inflated")
    return slow("Fréchet", pair, lambda a, b: sets.frechet(pair.x[a], pair.y[b]), *notes)


def _by_histograms(pair: Pair) -> DistanceResult:
    o = pair.options
    bins = min(o.bins, max(2, pair.n // 5))
    codes_x, codes_y = sets.histogram_codes(pair.x, pair.y, bins)
    layer = np.zeros(pair.x.shape[1], dtype=np.int64)

    def divergence(a: Indices, b: Indices) -> float:
        return sets.codes_divergence(codes_x[a], codes_y[b], bins, layer, o.histogram_epsilon)

    note = f"{bins} bins, epsilon {o.histogram_epsilon:g}"
    return slow("histogram KL", pair, divergence, note)


def _by_centroids(pair: Pair) -> DistanceResult:
    name, o = "EMD of class centroids", pair.options
    if pair.source.labels is None or pair.target.labels is None:
        return missing(name, "needs the labels of both sides")
    labels_x, labels_y = np.asarray(pair.source.labels), np.asarray(pair.target.labels)
    same_length("labels", len(labels_x), len(np.asarray(pair.source.features)), "source")
    same_length("labels", len(labels_y), len(np.asarray(pair.target.features)), "target")
    of_x, of_y = labels_x[pair.source_rows], labels_y[pair.target_rows]

    def distance(a: Indices, b: Indices) -> float:
        # A class that a resample misses drops out of it, as it would from another sample.
        one = classes.centroids(pair.x[a], of_x[a].tolist(), o.emd_least_images)
        other = classes.centroids(pair.y[b], of_y[b].tolist(), o.emd_least_images)
        return classes.earth_movers(one, other)

    result = slow(name, pair, distance, "Euclidean, classes weighted by size")
    similarity = classes.emd_similarity(result.value or 0.0)
    return replace(result, notes=(*result.notes, f"exp(-0.01 EMD) = {similarity:.3g}"))


def _by_labels(pair: Pair) -> DistanceResult:
    name, o = "WordNet path", pair.options
    if pair.source.wnids is None or pair.target.wnids is None:
        return missing(name, "needs the WordNet ids of both sides' classes")
    steps = classes.wordnet_path(pair.source.wnids, pair.target.wnids)
    counts = resampling(len(steps), "target classes", o.resamples, o.seed)
    note = "mean steps from a target class to the nearest source class"
    return around(name, float(steps.mean()), counts @ steps / len(steps), len(steps), o.level, note)


DISTANCES: Sequence[Callable[[Pair], DistanceResult | list[DistanceResult]]] = (
    _by_means,
    _by_classifiers,
    _by_kernel,
    _by_frechet,
    _by_histograms,
    _by_centroids,
    _by_labels,
)
"""What `measure` gives, in this order; a distance is a function of a pair and a line here."""
