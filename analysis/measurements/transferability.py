"""Which pretrained network to start from, guessed without training; and how good the guess was.

LEEP (Nguyen et al. 2020), NCE (Tran et al. 2019), LogME (You et al. 2021), H-score (Bao et al.
2019) and its Ledoit-Wolf form (Ibrahim et al. 2021), GBC (Pándy et al. 2022), PARC (Bolya et al.
2021) and k-NN. Larger is better for every score. A ranking table without the static baselines
misleads: sorting by model size or by source accuracy often does as well, and sees no target data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.statistics.corrections import finite, generator
from bench.core.errors import DataError

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _labels(labels: npt.ArrayLike, n: int, least_classes: int = 2) -> tuple[Ints, int]:
    """Labels as 0 … C-1 in sorted order, and C."""
    given = np.asarray(labels)
    if given.shape != (n,) or n == 0:
        raise DataError(f"labels have shape {given.shape} for {n} images")
    classes, codes = np.unique(given, return_inverse=True)
    if classes.size < least_classes:
        raise DataError(
            f"{classes.size} class among the labels", hint="a score needs two classes or more"
        )
    return codes.astype(np.int64), classes.size


def _features(features: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, Ints, int]:
    """Finite features that are not all the same, and labels."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"features have shape {x.shape}", hint="(images, dimensions)")
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise DataError(f"{bad} of {x.size} features are not finite")
    if float(np.ptp(x, axis=0).max()) == 0:
        raise DataError("every image has the same features", hint="take another layer")
    codes, classes = _labels(labels, len(x))
    return x, codes, classes


def leep(source_probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """LEEP: mean log-likelihood of the labels under the empirical predictor of source classes.

    Args:
        source_probabilities: (N, Z) softmax output of the source's own classifier on target images.
        labels: (N,).

    Source classes without any mass predict nothing and are left out.

    >>> round(leep([[1.0, 0.0], [0.0, 1.0]], [0, 1]), 6)
    0.0
    """
    theta = np.asarray(source_probabilities, dtype=np.float64)
    if theta.ndim != 2 or not np.isfinite(theta).all() or (theta < 0).any():
        raise DataError("source probabilities must be a table of numbers of 0 or more")
    if np.abs(theta.sum(axis=1) - 1).max() > 1e-3:
        raise DataError("source probabilities of an image do not add to 1", hint="apply softmax")
    y, classes = _labels(labels, len(theta))
    joint = np.zeros((classes, theta.shape[1]))
    np.add.at(joint, y, theta)
    mass = joint.sum(axis=0)
    conditional = joint[:, mass > 0] / mass[mass > 0]
    likelihood = (theta[:, mass > 0] * conditional[y]).sum(axis=1)
    return float(np.log(likelihood).mean())


def nce(source_labels: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Negative conditional entropy -H(Y | Z) of target labels given source labels, in nats.

    `source_labels` are the source classes that the source's classifier names for target images.

    >>> nce([0, 1, 0, 1], [5, 6, 5, 6]) == 0
    True
    """
    y, classes = _labels(labels, np.asarray(labels).size)
    z, z_classes = _labels(source_labels, y.size, 1)
    joint = np.bincount(y * z_classes + z, minlength=classes * z_classes).astype(np.float64)
    joint = joint.reshape(classes, z_classes) / y.size
    mass = np.broadcast_to(joint.sum(axis=0), joint.shape)
    present = joint > 0
    return float((joint[present] * np.log(joint[present] / mass[present])).sum())


def logme(features: npt.ArrayLike, labels: npt.ArrayLike, iterations: int = 500) -> float:
    """LogME: largest log evidence per image of a Bayesian linear model, mean over the classes.

    Fixed-point iteration of the precisions α (weights) and β (noise) for each one-hot target; one
    singular value decomposition serves all classes.
    """
    x, y, classes = _features(features, labels)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return float(np.mean([_evidence(u, s**2, y == c, x.shape, iterations) for c in range(classes)]))


def _evidence(
    u: Array,
    squares: Array,
    target: npt.NDArray[np.bool_],
    shape: tuple[int, ...],
    iterations: int,
) -> float:
    n, d = shape
    t = target.astype(np.float64)
    projected = (u.T @ t) ** 2
    outside = max(float(t @ t) - float(projected.sum()), 0.0)
    alpha, beta = 1.0, 1.0 / max(float(t.var()), 1e-12)
    for _ in range(iterations):
        shrink = alpha + beta * squares
        effective = float((beta * squares / shrink).sum())
        weights = float((beta**2 * squares * projected / shrink**2).sum())
        residual = float((projected * (alpha / shrink) ** 2).sum()) + outside
        before = alpha, beta
        alpha = effective / max(weights, 1e-300)
        beta = max(n - effective, 1e-12) / max(residual, 1e-12)
        moved = max(abs(alpha / before[0] - 1), abs(beta / before[1] - 1))
        if moved < 1e-12:
            break
    shrink = alpha + beta * squares
    weights = float((beta**2 * squares * projected / shrink**2).sum())
    residual = float((projected * (alpha / shrink) ** 2).sum()) + outside
    log_determinant = float(np.log(shrink).sum()) + (d - squares.size) * np.log(alpha)
    evidence = d * np.log(alpha) + n * np.log(beta) - beta * residual - alpha * weights
    return float((evidence - log_determinant - n * np.log(2 * np.pi)) / 2 / n)


def _class_means(x: Array, y: Ints, classes: int) -> Array:
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, y, x)
    means: Array = sums / np.bincount(y, minlength=classes)[:, None]
    return means


def h_score(features: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """H-score: tr(Σ_f⁺ Σ_between), covariances over images with divisor N; Pillai's trace.

    Directions without variance are left out (pseudo-inverse).
    """
    x, y, classes = _features(features, labels)
    x = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    u = u[:, s > s[0] * max(x.shape) * np.finfo(float).eps]
    # Between-class scatter in whitened coordinates: Σ_c n_c ‖mean_c(u)‖².
    means = _class_means(u, y, classes)
    return float(np.bincount(y) @ (means**2).sum(axis=1))


def h_score_shrunk(features: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """H-score with Ledoit and Wolf's shrunk covariance; the class means shrink by the same share.

    (1 - λ) tr(Σ_λ⁻¹ Σ_between), after Ibrahim et al. (2021): usable with more dimensions than
    images, where the plain score is always C - 1.
    """
    from sklearn.covariance import ledoit_wolf

    x, y, classes = _features(features, labels)
    x = x - x.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(x, assume_centered=True)
    means = _class_means(x, y, classes)
    weighted = means.T @ (np.bincount(y)[:, None] / len(y) * means)
    trace = float(np.trace(np.linalg.solve(covariance, weighted)))
    return (1 - float(shrinkage)) * trace


def gbc(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    dimensions: int = 64,
    floor: float = 1e-6,
) -> float:
    """GBC: -Σ_{i≠j} exp(-D_B(i, j)), D_B Bhattacharyya's distance of class Gaussians after PCA,
    with diagonal covariances.

    Args:
        dimensions: kept by the PCA, at most what the data have.
        floor: share of the mean variance that is added to every variance, so that a class that
            is constant in a direction has a Gaussian.
    """
    x, y, classes = _features(features, labels)
    x = x - x.mean(axis=0)
    _, s, directions = np.linalg.svd(x, full_matrices=False)
    kept = min(dimensions, int((s > s[0] * 1e-10).sum()))
    x = x @ directions[:kept].T
    means = _class_means(x, y, classes)
    variances = _class_means(x**2, y, classes) - means**2
    variances = np.maximum(variances, 0) + floor * float(x.var(axis=0).mean())
    total = 0.0
    for i in range(classes):
        middle = (variances[i] + variances) / 2
        apart = ((means[i] - means) ** 2 / middle).sum(axis=1) / 8
        spread = np.log(middle / np.sqrt(variances[i] * variances)).sum(axis=1) / 2
        total += float(np.exp(-(apart + spread)).sum()) - 1.0
    return -total


def parc(
    features: npt.ArrayLike, labels: npt.ArrayLike, limit: int | None = 2000, seed: int = 0
) -> float:
    """PARC: Spearman correlation, times 100, of 1 - corr(features) and 1 - corr(one-hot labels).

    Pairs of images, each once. At most `limit` images, drawn. PARC's bonus for depth is left out:
    it is a static baseline in disguise.
    """
    from scipy.stats import rankdata

    x, y, _ = _features(features, labels)
    if limit is not None and len(x) > limit:
        rows = np.sort(generator("parc", seed).permutation(len(x))[:limit])
        x, y = x[rows], y[rows]
    if (np.ptp(x, axis=1) == 0).any():
        raise DataError("an image has the same value in every feature: no correlation")
    lower = np.tril_indices(len(x), -1)
    between = (1 - np.asarray(np.corrcoef(x)))[lower]
    del x
    same = (y[:, None] == y[None, :])[lower]
    if same.all() or not same.any():
        raise DataError("PARC needs pairs of the same class and pairs of different classes")
    # Spearman against a two-valued variable is Pearson with the ranks.
    return float(100 * np.corrcoef(rankdata(between), np.where(same, 0.0, 1.0))[0, 1])


def knn(features: npt.ArrayLike, labels: npt.ArrayLike, k: int = 5, block: int = 1024) -> float:
    """Leave-one-out accuracy of the k nearest neighbours by cosine; equal votes: lowest class.

    `block` bounds the memory: similarities are computed for so many images at a time.
    """
    x, y, classes = _features(features, labels)
    if not 1 <= k < len(x):
        raise DataError(f"k = {k} with {len(x)} images", hint="from 1 to the images less one")
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if (norms == 0).any():
        raise DataError(f"{int((norms == 0).sum())} images have only zeros: no cosine")
    x = x / norms
    right = 0
    for start in range(0, len(x), block):
        similarity = x[start : start + block] @ x.T
        own = np.arange(len(similarity))
        similarity[own, own + start] = -np.inf
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        votes = np.zeros((len(similarity), classes))
        np.add.at(votes, (own[:, None], y[nearest]), 1)
        right += int((votes.argmax(axis=1) == y[start : start + block]).sum())
    return right / len(x)


def static_baselines(
    names: Sequence[str], parameters: Sequence[float], source_accuracy: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Scores of each network that look at no target data: size, source accuracy, and chance.

    >>> sorted(static_baselines(["a", "b"], [1e6, 2e6], [0.7, 0.6]))
    ['random', 'size', 'source accuracy']
    """
    if not len(names) == len(parameters) == len(source_accuracy) or not names:
        raise DataError("names, parameters and source_accuracy must be as long, and not empty")
    chance = {name: float(generator("random score", name).random()) for name in names}
    return {
        "size": dict(zip(names, map(float, parameters), strict=True)),
        "source accuracy": dict(zip(names, map(float, source_accuracy), strict=True)),
        "random": chance,
    }


def regret(scores: npt.ArrayLike, accuracies: npt.ArrayLike) -> float:
    """What following a score costs: best accuracy less that of the network with the top score.

    Among equal scores the choice is by lot: the mean over the tied ones.

    >>> round(regret([1, 3, 2], [0.9, 0.7, 0.8]), 6)
    0.2
    """
    s, a = finite(scores, "scores"), finite(accuracies, "accuracies")
    if s.size != a.size:
        raise DataError(f"{s.size} scores, {a.size} accuracies")
    return float(a.max() - a[s == s.max()].mean())


@dataclass(frozen=True)
class Agreement:
    """How well a score ranks networks by the accuracy that the grid found."""

    score: str
    weighted_tau: float | None
    spearman: float | None
    regret_at_1: float
    n: int
    note: str = ""


def agreement(
    scores: Mapping[str, Mapping[str, float]], accuracies: Mapping[str, float]
) -> list[Agreement]:
    """A row per score: weighted Kendall tau, Spearman and regret at 1 over the same networks.

    Args:
        scores: score name → network → value; put `static_baselines` among them.
        accuracies: network → accuracy after fine-tuning.

    Raises:
        DataError: when a score lacks a network that was trained.
    """
    from scipy.stats import spearmanr, weightedtau

    names = sorted(accuracies)
    if not names:
        raise DataError("no fine-tuned network", hint="run a grid with several models first")
    truth = finite([accuracies[n] for n in names], "accuracies")
    rows = []
    for score, values in scores.items():
        absent = [n for n in names if n not in values]
        if absent:
            raise DataError(f"score {score!r} lacks {', '.join(absent)}")
        guess = finite([values[n] for n in names], score)
        lost = regret(guess, truth)
        if len(names) < 3 or np.ptp(guess) == 0 or np.ptp(truth) == 0:
            why = "fewer than three networks" if len(names) < 3 else "all equal"
            rows.append(Agreement(score, None, None, lost, len(names), f"{why}: no correlation"))
            continue
        tau = float(weightedtau(guess, truth).statistic)
        rho = float(spearmanr(guess, truth).statistic)
        rows.append(Agreement(score, tau, rho, lost, len(names)))
    return rows
