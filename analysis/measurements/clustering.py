"""What a network sees alike: position-wise similarity of two images, and concepts never trained.

"Effective Domain Knowledge Transfer with Soft Fine-tuning", Fig. 4: the cosine similarity of the
feature vectors (conv4 there) of two images at each position. Fig. 1: features of a network fall
into groups by concepts it was never trained on; the method is not stated, here k-means with as
many clusters as there are concepts and a 2-D principal-component embedding for the picture,
judged by NMI, ARI and purity, with the ARI of shuffled concepts beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.measurements.set_distances import checked
from analysis.statistics.corrections import generator
from bench.core.errors import DataError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimilarityMap:
    """Cosine similarity at each position, in [-1, 1].

    Attributes:
        similarity: (…, H, W); 0 where undefined.
        undefined: (…, H, W) true where an image's features are all 0 (a dead ReLU): no direction.
    """

    similarity: Array
    undefined: npt.NDArray[np.bool_]

    @property
    def mean(self) -> float:
        """Mean over the positions that are defined.

        Raises:
            DataError: when none is.
        """
        if self.undefined.all():
            raise DataError("no position has features in both images", hint="take another layer")
        return float(self.similarity[~self.undefined].mean())


def position_similarity(first: npt.ArrayLike, second: npt.ArrayLike) -> SimilarityMap:
    """Cosine of the two feature vectors at each position of two maps of one layer.

    Args:
        first, second: (C, H, W), or (N, C, H, W) for N pairs.

    >>> maps = np.random.default_rng(0).random((4, 2, 3))
    >>> bool(np.allclose(position_similarity(maps, maps).similarity, 1))
    True
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (3, 4) or 0 in a.shape:
        raise DataError(
            f"maps have shapes {a.shape} and {b.shape}",
            hint="both (C, H, W) or (N, C, H, W) of the same layer",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("a feature map is not finite")
    channels = a.ndim - 3
    norms = [np.linalg.norm(m, axis=channels) for m in (a, b)]
    undefined = (norms[0] == 0) | (norms[1] == 0)
    safe = [np.where(undefined, 1.0, n) for n in norms]
    unit_a = a / np.expand_dims(safe[0], channels)
    unit_b = b / np.expand_dims(safe[1], channels)
    # 1 - ½‖u - v‖² is exactly 1 for equal vectors and never above it.
    cosine = 1 - ((unit_a - unit_b) ** 2).sum(axis=channels) / 2
    return SimilarityMap(np.where(undefined, 0.0, np.maximum(cosine, -1.0)), undefined)


@dataclass(frozen=True)
class Clustering:
    """How well clusters of features agree with concepts the network was never trained on.

    Attributes:
        embedding: (N, 2) first two principal components, for the picture only.
        clusters: (N,) cluster numbers.
        nmi, ari, purity: agreement with the concepts; ARI is 0 on average by chance.
        ari_p_value: share of shufflings of the concepts that agree as well.
    """

    embedding: Array
    clusters: npt.NDArray[np.int64]
    nmi: float
    ari: float
    purity: float
    ari_p_value: float
    n: int


def purity(clusters: npt.ArrayLike, concepts: npt.ArrayLike) -> float:
    """Share of images whose concept is the commonest of their cluster.

    >>> purity([0, 0, 0, 1], ["a", "a", "b", "b"])
    0.75
    """
    c, concept = np.asarray(clusters), np.asarray(concepts)
    if c.shape != concept.shape or c.size == 0:
        raise DataError(f"{c.size} clusters and {concept.size} concepts")
    common = [int(np.unique(concept[c == k], return_counts=True)[1].max()) for k in np.unique(c)]
    return sum(common) / c.size


def cluster_concepts(
    features: npt.ArrayLike,
    concepts: npt.ArrayLike,
    normalise: bool = True,
    components: int = 50,
    permutations: int = 200,
    seed: int = 0,
) -> Clustering:
    """Clusters features without labels and compares with the concepts (SFT Fig. 1).

    Args:
        features: (N, D).
        concepts: (N,) for example gender or race of faces, for a network trained on objects.
        normalise: scale every image's features to length 1 first.
        components: principal components that k-means sees, at most.

    Raises:
        DataError: with one concept only, constant features, or as many concepts as images.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    x = checked(features, "clustered").astype(np.float64)
    names, truth = np.unique(np.asarray(concepts), return_inverse=True)
    if truth.shape != (len(x),):
        raise DataError(f"{truth.size} concepts for {len(x)} images")
    if not 2 <= names.size < len(x):
        raise DataError(
            f"{names.size} concepts among {len(x)} images", hint="two or more, repeated"
        )
    if normalise:
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        if (lengths == 0).any():
            raise DataError(f"{int((lengths == 0).sum())} images have only zeros as features")
        x = x / lengths
    projected = _principal(x, components)
    means = KMeans(
        names.size, n_init=10, random_state=int(generator("k-means", seed).integers(2**31))
    )
    found = means.fit_predict(projected).astype(np.int64)
    ari = float(adjusted_rand_score(truth, found))
    rng = generator("shuffled concepts", seed)
    shuffled = [adjusted_rand_score(rng.permutation(truth), found) for _ in range(permutations)]
    as_good = sum(score >= ari for score in shuffled)
    embedding = np.zeros((len(x), 2))
    embedding[:, : projected.shape[1]] = projected[:, :2]
    return Clustering(
        embedding,
        found,
        float(normalized_mutual_info_score(truth, found)),
        ari,
        purity(found, truth),
        (1 + as_good) / (1 + permutations),
        len(x),
    )


def _principal(x: Array, components: int) -> Array:
    """Principal components with their sign settled: the largest loading is positive."""
    centred = x - x.mean(axis=0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    kept = min(components, int((s > s[0] * 1e-10).sum())) if s[0] > 0 else 0
    if kept == 0:
        raise DataError("every image has the same features", hint="take another layer")
    largest = np.abs(v[:kept]).argmax(axis=1)
    signs = np.sign(v[np.arange(kept), largest])
    projected: Array = u[:, :kept] * s[:kept] * signs
    return projected
