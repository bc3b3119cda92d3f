"""Distances between the classes of two sets: between their centroids, and between their names.

Earth mover's distance between class centroids: Cui et al., "Large Scale Fine-Grained
Categorization and Domain-Specific Transfer Learning" (2018). The path distance in WordNet needs
no images at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.measurements.set_distances import checked
from bench.core.errors import DataError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Centroids:
    """Mean features of each class (C, D) and the share of images it has (C,), adding to 1."""

    means: Array
    weights: Array


def centroids(features: npt.ArrayLike, labels: Sequence[int], least_images: int = 1) -> Centroids:
    """Class means weighted by class size; classes with fewer images than `least_images` drop out.

    Cui et al. drop source classes below 200 images.
    """
    x, y = checked(features, "class", 1), np.asarray(labels)
    if y.shape != (len(x),):
        raise DataError(f"{y.size} labels for {len(x)} images")
    classes, counts = np.unique(y, return_counts=True)
    kept = classes[counts >= least_images]
    if kept.size == 0:
        raise DataError(f"no class has {least_images} images", hint="lower least_images")
    means = np.stack([x[y == c].mean(axis=0, dtype=np.float64) for c in kept])
    sizes = counts[counts >= least_images].astype(np.float64)
    return Centroids(means, sizes / sizes.sum())


def earth_movers(source: Centroids, target: Centroids) -> float:
    """Earth mover's distance between class centroids, Euclidean ground distance.

    An assignment where both sides have as many classes of equal weight, else a linear programme.

    >>> one = Centroids(np.array([[0.0], [1.0]]), np.array([0.5, 0.5]))
    >>> earth_movers(one, Centroids(one.means + 2, one.weights))
    2.0
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(source.means, target.means)
    uniform = np.ptp(source.weights) + np.ptp(target.weights) < 1e-12
    if cost.shape[0] == cost.shape[1] and uniform:
        rows, columns = linear_sum_assignment(cost)
        return float(cost[rows, columns].mean())
    return _transport(cost, source.weights, target.weights)


def _transport(cost: Array, supply: Array, demand: Array) -> float:
    from scipy.optimize import linprog
    from scipy.sparse import identity, kron, vstack

    s, t = cost.shape
    rows = kron(identity(s), np.ones((1, t)))
    columns = kron(np.ones((1, s)), identity(t))
    # One constraint follows from the others; leaving it out keeps rounding from contradicting it.
    balance = vstack([rows, columns]).tocsr()[:-1]
    amounts = np.concatenate([supply, demand])[:-1]
    found = linprog(cost.ravel(), A_eq=balance, b_eq=amounts, bounds=(0, None), method="highs")
    if not found.success:
        raise DataError(f"the transport problem was not solved: {found.message}")
    return float(found.fun)


def emd_similarity(distance: float, gamma: float = 0.01) -> float:
    """exp(-γ · EMD); γ = 0.01 belongs to unnormalised features of the scale of Cui et al."""
    return float(np.exp(-gamma * distance))


def wordnet_path(source: Sequence[str], target: Sequence[str]) -> Array:
    """For each target class the steps to the nearest source class in WordNet: (target classes,).

    Args:
        source, target: wnids or synset names; no images are needed.

    >>> wordnet_path(["n02088364"], ["n02088364", "n02088238"])
    array([0., 2.])
    """
    from bench.data.wordnet.hierarchy import taxonomy

    if not source or not target:
        raise DataError("no class labels to compare", hint="give wnids of both sides")
    tree = taxonomy()
    nearest_above: dict[str, int] = {}
    for wnid in dict.fromkeys(source):
        for above, steps in tree.distances_up(wnid).items():
            nearest_above[above] = min(steps, nearest_above.get(above, steps))
    found = [
        min(
            steps + nearest_above[a]
            for a, steps in tree.distances_up(w).items()
            if a in nearest_above
        )
        for w in target
    ]
    return np.array(found, dtype=np.float64)
