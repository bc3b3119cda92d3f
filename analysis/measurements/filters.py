"""How well single filters detect classes: tie-aware average precision and what follows from it.

"A Multifaceted Analysis of Fine-tuning in Deep Model for Visual Recognition", §4.3.1, Figs. 8, 9.
The score of a filter on an image is its largest response (conv5 after ReLU and pooling, 256 x 6 x 6
there). AP = Σ (R_n - R_{n-1}) P_n over the distinct scores, no interpolation. After a ReLU most
scores are exactly 0; an AP that breaks such ties by file order can be off by a factor of two, so
images with equal scores enter together. Deviations: none; the paper does not define AP, and the
choice of filters on other images is an option.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _checked_scores(scores: npt.ArrayLike, n: int) -> npt.NDArray[np.floating]:
    array = np.asarray(scores)
    if array.ndim != 2 or array.shape[0] != n or 0 in array.shape:
        raise DataError(
            f"scores have shape {array.shape} for {n} labels",
            hint="one row per image, one column per filter",
        )
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(f"{bad} of {array.size} filter scores are not finite")
    return array


def average_precision(
    scores: npt.ArrayLike, labels: npt.ArrayLike, n_classes: int | None = None
) -> Array:
    """AP of every filter as a detector of every class, where each image has one class.

    Args:
        scores: (N images, F filters).
        labels: (N,) class numbers from 0.
        n_classes: C; by default the largest label plus one.

    Returns:
        (F, C) average precision in [0, 1].

    Raises:
        DataError: on scores that are not finite, or a class without an image.

    One sort per filter and O(N) for all classes together: a positive's contribution is its
    class's count up to the end of its group of ties, over the number of images up to there.

    >>> average_precision([[0.9], [0.5], [0.1]], [0, 1, 0]).round(4)
    array([[0.8333, 0.5   ]])
    """
    truth = np.asarray(labels)
    if truth.ndim != 1 or truth.size == 0 or not np.issubdtype(truth.dtype, np.integer):
        raise DataError("labels must be one whole number per image, and not empty")
    if truth.min() < 0:
        raise DataError(f"label {int(truth.min())} is below 0")
    n = truth.size
    array = _checked_scores(scores, n)
    classes = int(truth.max()) + 1 if n_classes is None else n_classes
    if int(truth.max()) >= classes:
        raise DataError(f"label {int(truth.max())} with {classes} classes")
    positives = np.bincount(truth, minlength=classes)
    _require_positives(positives)
    # A stable sort of 16-bit numbers is a radix sort: O(N).
    compact: npt.NDArray[np.integer] = truth.astype(np.uint16 if classes <= 2**16 else np.int64)
    first_place = np.concatenate(([0], np.cumsum(positives)[:-1]))
    rank_in_class = np.arange(1, n + 1) - np.repeat(first_place, positives)
    result = np.empty((array.shape[1], classes))
    columns = np.ascontiguousarray(array.T)
    for f, column in enumerate(columns):
        result[f] = _one_filter(column, compact, rank_in_class, classes)
    precise: Array = result / positives
    return precise


def _require_positives(positives: npt.NDArray[np.integer]) -> None:
    missing = np.flatnonzero(positives == 0)
    if missing.size:
        shown = ", ".join(map(str, missing[:8])) + (" …" if missing.size > 8 else "")
        raise DataError(
            f"{missing.size} of {positives.size} classes have no image: {shown}",
            hint="average precision needs a positive of every class: leave such classes out",
        )


def _one_filter(
    column: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    rank_in_class: Ints,
    classes: int,
) -> Array:
    """Sum over each class's positives of the precision at the end of their group of ties: (C,)."""
    n = column.size
    order = np.argsort(column)[::-1]
    ordered = column[order]
    last_of_group = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    group = np.zeros(n, dtype=np.int64)
    group[last_of_group[:-1] + 1] = 1
    group = np.cumsum(group)
    in_order = labels[order]
    by_class = np.argsort(in_order, kind="stable")
    label, group = in_order[by_class], group[by_class]
    # Class by class, best first: the last positive of a group of ties holds the count for all.
    run_end = np.flatnonzero(np.append((label[1:] != label[:-1]) | (group[1:] != group[:-1]), True))
    run_length = np.diff(run_end, prepend=-1)
    precision = rank_in_class[run_end] / (last_of_group[group[run_end]] + 1.0)
    weights = (precision * run_length).astype(np.float64)
    total: Array = np.bincount(label[run_end], weights=weights, minlength=classes).astype(float)
    return total


@dataclass(frozen=True)
class PrecisionRecall:
    """Points of a precision-recall curve, from the highest threshold to the lowest."""

    thresholds: Array
    precision: Array
    recall: Array
    average_precision: float


def precision_recall(scores: npt.ArrayLike, positives: npt.ArrayLike) -> PrecisionRecall:
    """The curve of one filter and one class (LI Fig. 8): one point per distinct score.

    Args:
        scores: (N,) larger means the class is more likely.
        positives: (N,) true where the image is of the class.
    """
    truth = np.asarray(positives, dtype=bool).ravel()
    array = _checked_scores(np.asarray(scores).reshape(-1, 1), truth.size)[:, 0]
    _require_positives(np.array([truth.sum()]))
    order = np.argsort(array)[::-1]
    ends = np.flatnonzero(np.append(np.diff(array[order]) != 0, True))
    found = np.cumsum(truth[order])[ends]
    precision, recall = found / (ends + 1.0), found / truth.sum()
    area = float((np.diff(recall, prepend=0.0) * precision).sum())
    return PrecisionRecall(array[order][ends].astype(np.float64), precision, recall, area)


@dataclass(frozen=True)
class TopFilters:
    """The best filters of each class and their mean AP, the model's sensitivity to the class.

    Attributes:
        filters: (k, C) filter numbers, the best first.
        mean_ap: (C,).
    """

    filters: Ints
    mean_ap: Array


def top_filters(
    ap: npt.ArrayLike, k: int = 5, chosen_by: npt.ArrayLike | None = None
) -> TopFilters:
    """The k filters with the largest AP for each class, equal ones by number.

    Args:
        ap: (F, C) average precision on the images to be reported.
        chosen_by: (F, C) on other images, such as the training set: choosing and reporting on
            the same images, as the paper does, is optimistic.

    >>> top_filters([[0.2], [0.8], [0.5]], k=2).mean_ap
    array([0.65])
    """
    values = np.asarray(ap, dtype=np.float64)
    guide = values if chosen_by is None else np.asarray(chosen_by, dtype=np.float64)
    if values.ndim != 2 or guide.shape != values.shape:
        raise DataError(f"AP has shape {values.shape}, the choice {guide.shape}", hint="(F, C)")
    if not 1 <= k <= values.shape[0]:
        raise DataError(f"top {k} of {values.shape[0]} filters", hint="choose a smaller k")
    if not (np.isfinite(values).all() and np.isfinite(guide).all()):
        raise DataError("average precision is not finite")
    best = np.argsort(-guide, axis=0, kind="stable")[:k]
    return TopFilters(best, np.take_along_axis(values, best, axis=0).mean(axis=0))


@dataclass(frozen=True)
class Sensitivity:
    """Of how many classes in a hundred A's filters are better than B's, worse, or equal."""

    percentage: float
    reverse_percentage: float
    ties_percentage: float
    n_classes: int


def sensitivity(a: npt.ArrayLike, b: npt.ArrayLike) -> Sensitivity:
    """Sensitivity percentage of model A against B: 100 · #{c: mAP5_A(c) > mAP5_B(c)} / C (Fig. 9).

    Args:
        a, b: (C,) mean AP of each model's top filters, the classes in the same order.

    >>> sensitivity([0.3, 0.2, 0.1, 0.4], [0.1, 0.2, 0.2, 0.1])
    Sensitivity(percentage=50.0, reverse_percentage=25.0, ties_percentage=25.0, n_classes=4)
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape or left.size == 0:
        raise DataError(f"mean APs have shapes {left.shape} and {right.shape}", hint="(C,) both")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise DataError("mean average precision is not finite")
    c = left.size
    above, below = int((left > right).sum()), int((left < right).sum())
    return Sensitivity(100 * above / c, 100 * below / c, 100 * (c - above - below) / c, c)
