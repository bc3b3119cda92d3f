"""How many neighbours each target image gets (Ge & Yu, CVPR 2017, §3.2, Eqs. 2, 3).

An image that the network gets wrong, or right without being sure, is given more source images in
the next round. "Iteration" in the paper is a round of training, not a step: five rounds have four
updates, so K grows to at most (1 + 4 x 4) K0. "Eq. (3.2)" in its text is Eq. 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.methods.retrieval.search import Int64, Neighbours

DELTA = 0.1
"""Entropy in nats from which on a right prediction counts as unsure."""


def prediction_entropy(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """H_i = - sum_c p_ic log p_ic of the softmax, in nats: 0 to log C (Eq. 2).

    >>> prediction_entropy(np.array([[0.0, 0.0]])).round(4).tolist()
    [0.6931]
    """
    scores = np.asarray(logits, np.float64)
    scores = scores - scores.max(1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    entropy: NDArray[np.float64] = -(np.exp(logs) * logs).sum(1)
    return np.maximum(entropy, 0.0)


def grow(
    k: Int64,
    wrong: NDArray[np.bool_],
    entropy: NDArray[np.float64],
    *,
    k0: int,
    cap: int,
    delta: float = DELTA,
    wrong_factor: int = 4,
    unsure_factor: int = 2,
) -> Int64:
    """K of the next round (Eq. 3), never less than before.

        K + wrong_factor K0    where the prediction is wrong
        K + unsure_factor K0   where it is right and its entropy is at least delta
        K                      where it is right and sure

    Args:
        k: int64 (targets,).
        wrong, entropy: of the network's predictions, (targets,).
        k0: neighbours of the first round.
        cap: neighbours that are stored; K does not exceed it.

    >>> sure, unsure = 0.0, 0.1
    >>> grow(np.array([5, 5, 5]), np.array([True, False, False]), np.array([sure, unsure, sure]),
    ...      k0=5, cap=100).tolist()
    [25, 15, 5]
    """
    more = np.where(wrong, wrong_factor, np.where(entropy >= delta, unsure_factor, 0)) * k0
    grown: Int64 = np.maximum(k, np.minimum(k + more, cap)).astype(np.int64)
    return grown


def union_sizes(neighbours: Neighbours) -> Int64:
    """How many source images are among the first K neighbours of any target image, for K = 1 …

    >>> near = Neighbours(np.array([[0, 1], [0, 2]]), np.zeros((2, 2), np.float32), 4)
    >>> union_sizes(near).tolist()
    [1, 3]
    """
    best = np.full(neighbours.source_size, neighbours.stored, np.int64)
    ranks = np.broadcast_to(np.arange(neighbours.stored), neighbours.indices.shape)
    np.minimum.at(best, neighbours.indices.ravel(), ranks.ravel())
    return np.bincount(best, minlength=neighbours.stored + 1)[: neighbours.stored].cumsum()


def auto_k0(neighbours: Neighbours, min_source: int) -> int | None:
    """The smallest K whose union has `min_source` images; None if more neighbours are needed."""
    if not 1 <= min_source <= neighbours.source_size:
        raise DataError(
            f"{min_source} source images are asked for, but the source has "
            f"{neighbours.source_size}",
            hint="lower min_source, or give k0",
        )
    enough = np.flatnonzero(union_sizes(neighbours) >= min_source)
    return int(enough[0]) + 1 if len(enough) else None


def chosen(neighbours: Neighbours, k: Int64) -> Int64:
    """The source images that are among the first K_i neighbours of some target image i, ascending.

    `k` is int64 (targets,), each at most `neighbours.stored`.
    """
    within = np.arange(neighbours.stored) < k[:, None]
    return np.unique(neighbours.indices[within])
