"""Distances between two sets of features, each a plain number; intervals are `distances.py`'s.

Cosine and linear MMD: "Best Practices for Fine-tuning Visual Classifiers to New Domains", §3.1.
The paper's cosine formula lacks the square roots of the norms and is not scale-invariant; its own
table shows that the norms were used and that its MMD column is the unsquared norm. EMD between
class centroids: Cui et al., "Large Scale Fine-Grained Categorization and Domain-Specific Transfer
Learning" (2018). RBF MMD: Gretton et al. (2012). Histogram divergence: Eq. 1 of "Borrowing
Treasures from the Wealthy", averaged over each set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis.statistics.corrections import generator
from bench.core.errors import DataError

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating]
Codes = npt.NDArray[np.int64]


def checked(features: npt.ArrayLike, side: str, least: int = 2) -> Numbers:
    """(n, D) features, finite, at least `least` rows; float32 stays float32."""
    array = np.asarray(features)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if array.ndim != 2 or array.shape[0] < least or array.shape[1] == 0:
        raise DataError(
            f"{side} features have shape {array.shape}",
            hint=f"(images, dimensions) with {least} images or more",
        )
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(f"{bad} of {array.size} {side} features are not finite")
    return array


def cosine(
    mean_source: npt.ArrayLike,
    mean_target: npt.ArrayLike,
    formula: Literal["norms", "printed"] = "norms",
) -> float:
    """Cosine distance 1 - μs·μt / (‖μs‖ ‖μt‖) of two mean feature vectors; in [0, 2].

    `printed` divides by ‖μs‖² ‖μt‖² as the paper prints it; it depends on the features' scale and
    is here for documentation.

    Raises:
        DataError: when a mean is the zero vector, which has no direction.

    >>> cosine([1.0, 0.0], [0.0, 2.0])
    1.0
    """
    s = np.asarray(mean_source, dtype=np.float64)
    t = np.asarray(mean_target, dtype=np.float64)
    norm_s, norm_t = float(np.linalg.norm(s)), float(np.linalg.norm(t))
    if norm_s == 0 or norm_t == 0:
        side = "source" if norm_s == 0 else "target"
        raise DataError(
            f"the mean of the {side} features is the zero vector: no cosine distance",
            hint="take another layer; after a dead ReLU all features are 0",
        )
    if formula == "printed":
        return float(1 - s @ t / (norm_s**2 * norm_t**2))
    # ½‖u - v‖² = 1 - u·v for unit vectors, without cancellation and never below zero.
    difference = s / norm_s - t / norm_t
    return float(difference @ difference) / 2


def linear_mmd(mean_source: npt.ArrayLike, mean_target: npt.ArrayLike) -> float:
    """‖μs - μt‖₂, the MMD with a linear kernel, not squared.

    >>> linear_mmd([3.0, 0.0], [0.0, 4.0])
    5.0
    """
    s, t = np.asarray(mean_source, dtype=float), np.asarray(mean_target, dtype=float)
    return float(np.linalg.norm(s - t))


def median_gamma(source: npt.ArrayLike, target: npt.ArrayLike, limit: int = 1000) -> float:
    """γ = 1 / (2 σ²), σ the median distance between two images of the pooled sets.

    At most `limit` images of each side, drawn, are looked at.

    Raises:
        DataError: when most images have equal features: there is no scale.
    """
    from scipy.spatial.distance import pdist

    parts = [checked(source, "source"), checked(target, "target")]
    drawn = [
        p if len(p) <= limit else p[generator("median", i).permutation(len(p))[:limit]]
        for i, p in enumerate(parts)
    ]
    middle = float(np.median(pdist(np.concatenate(drawn).astype(np.float64))))
    if middle == 0:
        raise DataError(
            "the median distance between images is 0: features are (nearly) constant",
            hint="take another layer, or give gamma",
        )
    return 1 / (2 * middle**2)


@dataclass(frozen=True)
class KernelMmd:
    """Unbiased squared RBF MMD (may be below 0), its permutation p-value, bootstrap values."""

    squared: float
    p_value: float | None
    gamma: float
    bootstrap: Array


def rbf_mmd(
    source: npt.ArrayLike,
    target: npt.ArrayLike,
    gamma: float | None = None,
    permutations: int = 200,
    resamples: int = 0,
    seed: int = 0,
    block: int = 2048,
) -> KernelMmd:
    """Unbiased MMD² with kernel exp(-γ‖x - y‖²); permutations and bootstrap in the same pass.

    Args:
        source, target: (m, D) and (n, D). float32 features are multiplied in float32.
        gamma: by default the median heuristic.
        permutations: how often source and target are shuffled for the p-value (0: none).
        resamples: bootstrap resamples; a pair of copies of one image never counts as a pair.
        block: memory is about 8 · block² bytes, whatever m and n; the kernel is never held.

    Every statistic wanted is a quadratic form in the kernel without its diagonal, so each block
    of the kernel is computed once and multiplied with all weight vectors together.
    """
    x, y = checked(source, "source"), checked(target, "target")
    if x.shape[1] != y.shape[1]:
        raise DataError(f"features of {x.shape[1]} and {y.shape[1]} dimensions")
    width = median_gamma(x, y) if gamma is None else gamma
    if not width > 0:
        raise DataError(f"gamma is {width}", hint="give a positive number")
    m, n = len(x), len(y)
    a, b = _weights(m, n, permutations, resamples, seed)
    aa, bb, ab = _quadratic_forms(np.concatenate([x, y]), width, a, b, block)
    pairs_a = a.sum(0) ** 2 - (a**2).sum(0)
    pairs_b = b.sum(0) ** 2 - (b**2).sum(0)
    values = aa / pairs_a + bb / pairs_b - 2 * ab / (a.sum(0) * b.sum(0))
    shuffled = values[1 : 1 + permutations]
    p = (1 + float((shuffled >= values[0]).sum())) / (1 + permutations) if permutations else None
    return KernelMmd(float(values[0]), p, width, values[1 + permutations :])


def _weights(m: int, n: int, permutations: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """Columns: as observed, shuffled, resampled. Rows: source images, then target images."""
    a = np.zeros((m + n, 1 + permutations + resamples))
    b = np.zeros_like(a)
    a[:m, 0] = b[m:, 0] = 1
    shuffle = generator("mmd permutation", seed)
    for column in range(1, 1 + permutations):
        order = shuffle.permutation(m + n)
        a[order[:m], column] = b[order[m:], column] = 1
    resample = generator("mmd bootstrap", seed)
    for column in range(1 + permutations, a.shape[1]):
        a[:m, column] = np.bincount(resample.integers(m, size=m), minlength=m)
        b[m:, column] = np.bincount(resample.integers(n, size=n), minlength=n)
    return a, b


def _quadratic_forms(
    z: Numbers, gamma: float, a: Array, b: Array, block: int
) -> tuple[Array, Array, Array]:
    """aᵀK₀a, bᵀK₀b and aᵀK₀b per column, K₀ the kernel with a zero diagonal; block by block."""
    z = z - z.mean(axis=0)  # distances stay; squared norms shrink, so less is cancelled
    squares = np.einsum("ij,ij->i", z, z)
    both = np.concatenate([a, b], axis=1).astype(z.dtype)
    columns = a.shape[1]
    aa, bb, ab = np.zeros(columns), np.zeros(columns), np.zeros(columns)
    for i in range(0, len(z), block):
        for j in range(i, len(z), block):
            rows, cols = slice(i, i + block), slice(j, j + block)
            kernel = z[rows] @ z[cols].T
            kernel *= -2
            kernel += squares[rows, None]
            kernel += squares[None, cols]
            np.maximum(kernel, 0, out=kernel)
            kernel *= -gamma
            np.exp(kernel, out=kernel)
            if i == j:
                np.fill_diagonal(kernel, 0)
            right = (kernel @ both[cols]).astype(np.float64)
            right_a, right_b = right[:, :columns], right[:, columns:]
            twice = 1 if i == j else 2
            aa += twice * np.einsum("ij,ij->j", a[rows], right_a)
            bb += twice * np.einsum("ij,ij->j", b[rows], right_b)
            ab += np.einsum("ij,ij->j", a[rows], right_b)
            if i != j:
                ab += np.einsum("ij,ij->j", b[rows], right_a)
    return aa, bb, ab


def frechet(source: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Squared Fréchet distance of two Gaussians with the sets' means and covariances (FID).

    ‖μs - μt‖² + tr Σs + tr Σt - 2 tr (Σs Σt)^½. With centred X, Y of m and n rows the last trace
    is the sum of the singular values of X Yᵀ / √((m-1)(n-1)): no square root of a matrix.
    """
    x, y = checked(source, "source"), checked(target, "target")
    mean_x, mean_y = x.mean(axis=0, dtype=float), y.mean(axis=0, dtype=float)
    a = (x - mean_x) / np.sqrt(len(x) - 1)
    b = (y - mean_y) / np.sqrt(len(y) - 1)
    # Triangular factors keep the product D x D where there are more images than dimensions.
    small_a, small_b = _triangular(a), _triangular(b)
    cross = float(np.linalg.norm(small_a @ small_b.T, ord="nuc"))
    apart = mean_x - mean_y
    value = float(apart @ apart + (a**2).sum() + (b**2).sum() - 2 * cross)
    return max(value, 0.0)  # equal sets give rounding of either sign


def _triangular(rows: Array) -> Array:
    if len(rows) <= rows.shape[1]:
        return rows
    factor: Array = np.asarray(np.linalg.qr(rows, mode="r"))
    return factor


def symmetric_kl(
    p: npt.ArrayLike, q: npt.ArrayLike, weights: npt.ArrayLike, epsilon: float = 2.2204e-16
) -> float:
    """Σ_h w_h [KL(p_h ‖ q_h) + KL(q_h ‖ p_h)] of histograms (H, B), natural logarithm (GE Eq. 1).

    `epsilon` is added inside the logarithm's ratio; the paper is silent on empty bins.
    """
    a, b = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    w = np.asarray(weights, dtype=float)
    if a.shape != b.shape or a.ndim != 2 or w.shape != (len(a),):
        raise DataError(f"histograms {a.shape} and {b.shape}, weights {w.shape}")
    ratio = np.log((a + epsilon) / (b + epsilon))
    return float(w @ ((a - b) * ratio).sum(axis=1))


def histogram_codes(source: Numbers, target: Numbers, bins: int) -> tuple[Codes, Codes]:
    """The bin of every response, (n, F) each, by edges of equal mass in the target."""
    if bins < 2:
        raise DataError(f"{bins} bins", hint="two or more")
    # Edges that are responses themselves: a monotone change of a filter changes nothing.
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    inner = np.quantile(target, shares, axis=0, method="inverted_cdf")
    codes = [np.empty(side.shape, dtype=np.int64) for side in (source, target)]
    for f in range(target.shape[1]):
        # Equal edges leave bins between them empty on both sides: they add nothing.
        for code, side in zip(codes, (source, target), strict=True):
            code[:, f] = np.searchsorted(inner[:, f], side[:, f], side="right")
    return codes[0], codes[1]


def codes_divergence(
    source: Codes,
    target: Codes,
    bins: int,
    layer: npt.NDArray[np.integer],
    epsilon: float,
    source_weights: Array | None = None,
    target_weights: Array | None = None,
) -> float:
    """The symmetric Kullback-Leibler divergence of histograms, from bin numbers; images may be
    weighted, for resampling.
    """
    p = _histograms(target, bins, target_weights)
    q = _histograms(source, bins, source_weights)
    _, place, sizes = np.unique(layer, return_inverse=True, return_counts=True)
    return symmetric_kl(p, q, 1 / sizes[place], epsilon)


def _histograms(codes: Codes, bins: int, weights: Array | None) -> Array:
    n, filters = codes.shape
    share = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    flat = (codes + np.arange(filters) * bins).ravel()
    counts = np.bincount(flat, weights=np.repeat(share, filters), minlength=filters * bins)
    shaped: Array = counts.astype(np.float64).reshape(filters, bins)
    return shaped
