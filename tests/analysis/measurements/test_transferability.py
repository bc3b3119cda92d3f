"""Transferability scores against identities and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import mutual_info_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from analysis.measurements import transferability as tr
from bench.core.errors import DataError


def _data(n: int = 60, d: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    return rng.normal(size=(n, d)) + y[:, None] * rng.normal(size=d), y


def test_nce_is_mutual_information_less_entropy() -> None:
    rng = np.random.default_rng(1)
    y, z = rng.integers(4, size=100), rng.integers(6, size=100)
    entropy = stats.entropy(np.bincount(y))
    assert tr.nce(z, y) == pytest.approx(mutual_info_score(y, z) - entropy, abs=1e-12)
    assert tr.nce(y, y) == pytest.approx(0, abs=1e-12)


def _literal_leep(theta: np.ndarray, y: np.ndarray) -> float:
    n, z = theta.shape
    joint = [
        [sum(theta[i, s] for i in range(n) if y[i] == c) / n for s in range(z)] for c in set(y)
    ]
    total = 0.0
    for i in range(n):
        p = 0.0
        for s in range(z):
            mass = sum(row[s] for row in joint)
            p += theta[i, s] * joint[y[i]][s] / mass
        total += math.log(p)
    return total / n


def test_leep_is_its_definition_and_nce_when_predictions_are_certain() -> None:
    rng = np.random.default_rng(2)
    y, z = np.arange(30) % 3, rng.integers(4, size=30)
    theta = rng.dirichlet(np.ones(4), 30)
    assert tr.leep(theta, y) == pytest.approx(_literal_leep(theta, y))
    certain = np.eye(5)[z]  # the fifth source class has no mass at all
    assert tr.leep(certain, y) == pytest.approx(tr.nce(z, y), abs=1e-12)


@pytest.mark.parametrize("d", [5, 90])
def test_logme_is_the_evidence_of_scikit_learns_bayesian_ridge(d: int) -> None:
    x, y = _data(d=d)
    evidence = []
    for c in range(3):
        model = BayesianRidge(
            fit_intercept=False,
            alpha_1=0,
            alpha_2=0,
            lambda_1=0,
            lambda_2=0,
            compute_score=True,
            max_iter=3000,
            tol=1e-12,
        ).fit(x, (y == c).astype(float))
        evidence.append(model.scores_[-1] / len(x))
    assert tr.logme(x, y, 3000) == pytest.approx(np.mean(evidence), abs=1e-6 if d == 90 else 1e-10)


def test_h_score_is_pillais_trace() -> None:
    x, y = _data()
    mean = x.mean(0)
    within, between = np.zeros((5, 5)), np.zeros((5, 5))
    for c in range(3):
        rows = x[y == c]
        within += (rows - rows.mean(0)).T @ (rows - rows.mean(0))
        between += len(rows) * np.outer(rows.mean(0) - mean, rows.mean(0) - mean)
    pillai = np.trace(between @ np.linalg.inv(within + between))
    assert tr.h_score(x, y) == pytest.approx(pillai)
    # With more dimensions than images the plain score says nothing: C - 1.
    wide = np.random.default_rng(3).normal(size=(20, 50))
    assert tr.h_score(wide, np.arange(20) % 4) == pytest.approx(3)


def test_shrunk_h_score_is_the_formula_with_scikit_learns_covariance() -> None:
    x, y = _data()
    centred = x - x.mean(0)
    covariance, share = ledoit_wolf(centred, assume_centered=True)
    means = np.stack([centred[y == c].mean(0) for c in y])
    expected = (1 - share) * np.trace(np.linalg.inv(covariance) @ (means.T @ means / len(y)))
    assert tr.h_score_shrunk(x, y) == pytest.approx(expected)


def test_gbc_on_a_line_is_the_overlap_integral() -> None:
    a, b = np.array([-1.0, 1.0, 0.5, -0.5]), np.array([2.0, 4.0, 2.5, 3.1])
    x, y = np.concatenate([a, b])[:, None], np.repeat([0, 1], 4)
    p, q = stats.norm(a.mean(), a.std()), stats.norm(b.mean(), b.std())
    overlap, _ = integrate.quad(lambda t: math.sqrt(p.pdf(t) * q.pdf(t)), -20, 20)
    assert tr.gbc(x, y, floor=0) == pytest.approx(-2 * overlap, rel=1e-6)


def test_parc_is_spearman_of_the_lower_triangles() -> None:
    x, y = _data(25, 6)
    one_hot = np.eye(3)[y]
    triangle = np.tril_indices(25, -1)
    left, right = (1 - np.corrcoef(m) for m in (x, one_hot))
    # Unrounded, the equal label distances differ in their last bit and are no longer ties.
    expected = 100 * stats.spearmanr(left[triangle], right[triangle].round(9)).statistic
    assert tr.parc(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("block", [7, 1000])
def test_knn_is_scikit_learns_leave_one_out(block: int) -> None:
    x, y = _data(40, 4, 2)
    model = KNeighborsClassifier(3, metric="cosine", algorithm="brute")
    expected = cross_val_score(model, x, y, cv=LeaveOneOut()).mean()
    assert tr.knn(x, y, 3, block) == pytest.approx(expected)


def test_scores_see_a_better_network() -> None:
    rng = np.random.default_rng(4)
    y = np.arange(90) % 3
    good = np.eye(3)[y] @ rng.normal(size=(3, 8)) * 3 + rng.normal(size=(90, 8))
    bad = rng.normal(size=(90, 8))
    for score in (tr.logme, tr.h_score, tr.h_score_shrunk, tr.gbc, tr.parc, tr.knn):
        assert score(good, y) > score(bad, y), score.__name__


def test_agreement_is_scipys_and_includes_the_static_rows() -> None:
    names = ["a", "b", "c", "d"]
    accuracy = dict(zip(names, [0.5, 0.7, 0.6, 0.8], strict=True))
    static = tr.static_baselines(names, [1, 2, 3, 4], [0.6, 0.6, 0.7, 0.9])
    rows = {
        r.score: r
        for r in tr.agreement(static | {"mine": {n: -accuracy[n] for n in names}}, accuracy)
    }
    sizes = stats.weightedtau([1, 2, 3, 4], list(accuracy.values())).statistic
    assert rows["size"].weighted_tau == pytest.approx(sizes)
    assert rows["size"].regret_at_1 == 0
    assert rows["mine"].weighted_tau == pytest.approx(-1)
    assert rows["mine"].regret_at_1 == pytest.approx(0.3)
    flat = tr.agreement({"flat": dict.fromkeys(names, 1.0)}, accuracy)[0]
    assert flat.weighted_tau is None
    assert "all equal" in flat.note
    assert flat.regret_at_1 == pytest.approx(0.8 - 0.65)


@pytest.mark.parametrize(
    "score", [tr.logme, tr.h_score, tr.h_score_shrunk, tr.gbc, tr.parc, tr.knn]
)
def test_wrong_input_is_named(score: object) -> None:
    assert callable(score)
    x, y = _data(12)
    with pytest.raises(DataError, match="same features"):
        score(np.ones((12, 3)), y)
    with pytest.raises(DataError, match="two classes"):
        score(x, np.zeros(12, dtype=int))
    with pytest.raises(DataError, match="not finite"):
        score(np.full((12, 3), np.nan), y)
    with pytest.raises(DataError, match="labels have shape"):
        score(x, y[:5])


def test_probabilities_must_be_probabilities() -> None:
    with pytest.raises(DataError, match="softmax"):
        tr.leep([[2.0, 1.0], [0.5, 0.5]], [0, 1])
    with pytest.raises(DataError, match="lacks b"):
        tr.agreement({"s": {"a": 1.0}}, {"a": 0.5, "b": 0.6})
