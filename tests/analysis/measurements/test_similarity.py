"""Position-wise similarity against the double loop; clustering against planted concepts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from analysis.measurements.clustering import cluster_concepts, position_similarity, purity
from bench.core.errors import DataError


def test_similarity_is_the_double_loop_over_positions() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3, 4))
    found = position_similarity(a, b)
    for i in range(3):
        for j in range(4):
            u, v = a[:, i, j], b[:, i, j]
            literal = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
            assert found.similarity[i, j] == pytest.approx(literal, abs=1e-12)
    stacked = position_similarity(np.stack([a, b]), np.stack([b, b]))
    assert np.allclose(stacked.similarity[0], found.similarity)
    assert np.allclose(stacked.similarity[1], 1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 500), st.floats(0.1, 50))
def test_range_identity_and_scale(seed: int, scale: float) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 3, 2, 2))
    found = position_similarity(a, b).similarity
    assert (np.abs(found) <= 1).all()
    assert position_similarity(a, scale * a).similarity == pytest.approx(np.ones((2, 2)))
    assert position_similarity(a, -a).similarity == pytest.approx(-np.ones((2, 2)))


def test_dead_positions_are_marked_and_not_counted() -> None:
    a = np.ones((2, 1, 2))
    b = a.copy()
    b[:, 0, 1] = 0
    found = position_similarity(a, b)
    assert found.undefined.tolist() == [[False, True]]
    assert found.mean == pytest.approx(1)
    with pytest.raises(DataError, match="no position"):
        _ = position_similarity(a * 0, b).mean
    with pytest.raises(DataError, match="shapes"):
        position_similarity(a, b[0])


def _planted(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    concept = np.arange(n) % 2
    return rng.normal(size=(n, 10)) + 4 * np.outer(concept, np.ones(10)), concept


def test_planted_concepts_are_found_and_judged_as_scikit_learn_does() -> None:
    x, concept = _planted()
    found = cluster_concepts(x, concept, normalise=False)
    assert (found.nmi, found.ari, found.purity) == (1, 1, 1)
    assert found.ari_p_value == pytest.approx(1 / 201)
    assert found.embedding.shape == (60, 2)
    noise = cluster_concepts(np.random.default_rng(2).normal(size=(60, 10)), concept)
    assert noise.ari == pytest.approx(adjusted_rand_score(concept, noise.clusters))
    assert noise.nmi == pytest.approx(normalized_mutual_info_score(concept, noise.clusters))
    assert noise.ari_p_value > 0.02


def test_order_and_names_of_concepts_do_not_matter() -> None:
    x, concept = _planted()
    order = np.random.default_rng(3).permutation(60)
    words = np.array(["b", "a"])[concept]
    shuffled = cluster_concepts(x[order], words[order], normalise=False)
    plain = cluster_concepts(x, concept, normalise=False)
    assert (shuffled.nmi, shuffled.ari, shuffled.purity) == (plain.nmi, plain.ari, plain.purity)


def test_purity_is_the_commonest_share() -> None:
    assert purity([0, 0, 0, 1, 1], ["x", "x", "y", "y", "y"]) == 0.8


@pytest.mark.parametrize(
    ("x", "concepts", "said"),
    [
        (np.eye(4), [0, 0, 0, 0], "1 concepts"),
        (np.eye(4), [0, 1], "2 concepts for 4"),
        (np.ones((4, 2)), [0, 1, 0, 1], "same features"),
        (np.zeros((4, 2)), [0, 1, 0, 1], "only zeros"),
    ],
)
def test_wrong_input_is_named(x: np.ndarray, concepts: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        cluster_concepts(x, concepts)
