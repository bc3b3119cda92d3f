"""Distances against scipy, scikit-learn, closed forms and literal loops."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, optimize, spatial, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import LinearSVC

from analysis.measurements import class_distances as by_class
from analysis.measurements import set_distances as sets
from analysis.measurements.distance_parts import DistanceOptions, DistanceResult, Side, equal_sizes
from analysis.measurements.distances import measure
from analysis.measurements.domain_classifiers import (
    cnn_domain_classifier,
    domain_accuracy,
    fit_logistic,
    linear_svm,
    logistic,
    proxy_a_distance,
)
from analysis.papers import published
from analysis.statistics.corrections import generator
from bench.core.errors import DataError
from bench.data.wordnet.hierarchy import taxonomy

QUICK = DistanceOptions(resamples=60, permutations=40, slow_resamples=6)


def _sets(n: int = 60, d: int = 8, shift: float = 0.5, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(n, d)), 0), np.maximum(rng.normal(shift, 1, (n, d)), 0)


# --- cosine and linear MMD ---


def test_cosine_is_scipys_and_does_not_see_scale() -> None:
    x, y = _sets()
    s, t = x.mean(0), y.mean(0)
    assert sets.cosine(s, t) == pytest.approx(spatial.distance.cosine(s, t), abs=1e-14)
    assert sets.cosine(7 * s, 0.1 * t) == pytest.approx(sets.cosine(s, t), abs=1e-14)
    assert sets.cosine(s, 3 * s) == pytest.approx(0, abs=1e-15)
    assert sets.linear_mmd(s, t) == pytest.approx(np.linalg.norm(s - t))


def test_the_printed_formula_depends_on_scale() -> None:
    s, t = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    assert sets.cosine(s, t, "printed") == pytest.approx(1 - 24 / (25 * 25))
    assert sets.cosine(s, t, "printed") != pytest.approx(sets.cosine(2 * s, t, "printed"))


def test_published_cosine_and_mmd_columns_fit_norms_and_no_square() -> None:
    # With ‖μs‖ = ‖μt‖ = n, MMD² = 2 n² cos: the norms come out near 30 to 44 in every row.
    table = published.table("chu-2016", "Table 2").astype(float)
    norms = table["MMD"] / np.sqrt(2 * table["Cosine distance"])
    assert norms.round(1).tolist() == [29.7, 28.1, 28.6, 30.5, 44.0, 40.6, 37.8]
    # At such norms the printed formula would give nearly 1 for every row.
    assert 1 - 1 / 28.0**2 > 0.998


def test_published_orderings() -> None:
    table = published.table("chu-2016", "Table 2").astype(float)
    rho = [
        stats.spearmanr(table["Cosine distance"], table[c]).statistic
        for c in ("MMD", "Linear SVM", "CNN")
    ]
    assert rho == pytest.approx([1, 27 / 28, 1])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_cosine_stays_in_its_range(values: list[float]) -> None:
    s, t = np.array(values[:3]), np.array(values[3:])
    if np.linalg.norm(s) > 1e-6 and np.linalg.norm(t) > 1e-6:
        assert 0 <= sets.cosine(s, t) <= 2 + 1e-12


# --- RBF MMD ---


def _literal_mmd(x: np.ndarray, y: np.ndarray, gamma: float) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-gamma * float(((a - b) ** 2).sum()))

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


@pytest.mark.parametrize("block", [5, 16, 4096])
def test_rbf_mmd_is_the_double_loop_and_scikit_learns_kernel(block: int) -> None:
    x, y = _sets(17, 4)
    y = y[:13]
    found = sets.rbf_mmd(x, y, 0.3, permutations=0, block=block)
    kxx, kyy, kxy = rbf_kernel(x, x, 0.3), rbf_kernel(y, y, 0.3), rbf_kernel(x, y, 0.3)
    oracle = (kxx.sum() - 17) / (17 * 16) + (kyy.sum() - 13) / (13 * 12) - 2 * kxy.mean()
    assert found.squared == pytest.approx(oracle, abs=1e-12)
    assert found.squared == pytest.approx(_literal_mmd(x, y, 0.3), abs=1e-12)
    assert found.p_value is None


def test_shuffled_and_resampled_values_are_the_literal_ones() -> None:
    x, y = _sets(9, 3)
    found = sets.rbf_mmd(x, y, 0.4, permutations=19, resamples=4, seed=3, block=4)
    z, rng = np.concatenate([x, y]), generator("mmd permutation", 3)
    shuffled = []
    for _ in range(19):
        order = rng.permutation(18)
        shuffled.append(_literal_mmd(z[order[:9]], z[order[9:]], 0.4))
    p = (1 + sum(s >= found.squared - 1e-12 for s in shuffled)) / 20
    assert found.p_value == pytest.approx(p)
    assert found.bootstrap.shape == (4,)
    assert np.isfinite(found.bootstrap).all()


def test_float32_blocks_lose_little_far_from_the_origin() -> None:
    x, y = _sets(50, 6)
    exact = sets.rbf_mmd(x, y, permutations=0).squared
    shifted = sets.rbf_mmd(
        (x + 1000).astype(np.float32), (y + 1000).astype(np.float32), permutations=0
    )
    assert shifted.squared == pytest.approx(exact, rel=1e-2)


def test_permutation_p_value_is_level_under_equality_and_small_under_shift() -> None:
    rng = np.random.default_rng(0)
    p = [
        sets.rbf_mmd(
            rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), seed=i, permutations=39
        ).p_value
        for i in range(60)
    ]
    assert 0.35 < np.mean([v for v in p if v is not None]) < 0.65
    x, y = _sets(40, 4, 1.5)
    assert sets.rbf_mmd(x, y, permutations=99).p_value == 0.01


# --- domain classifiers ---


def test_logistic_is_scikit_learns() -> None:
    x, y = _sets(80, 5)
    z, target = np.concatenate([x, y]), np.arange(160) >= 80
    w, b = fit_logistic(z, target, l2=1.0)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(z, target)
    assert w == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert b == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_accuracy_of_two_gaussians_is_phi_of_half_their_distance() -> None:
    rng = np.random.default_rng(1)
    shift = np.zeros(4)
    shift[0] = 2.0
    x, y = rng.normal(size=(800, 4)), rng.normal(size=(800, 4)) + shift
    for classifier in (linear_svm(), logistic()):
        found = domain_accuracy(x, y, classifier).accuracy
        assert found == pytest.approx(stats.norm.cdf(1.0), abs=0.03)
    same = domain_accuracy(x, rng.normal(size=(800, 4)), logistic()).accuracy
    assert abs(same - 0.5) < 3 * math.sqrt(0.25 / 1600)


def test_each_half_is_tested_by_the_other_with_linear_svc() -> None:
    x, y = _sets(20, 3)
    found = domain_accuracy(x, y, linear_svm(0.5), seed=4)
    a, b = (generator("domain split", s, 4).permutation(20) for s in ("s", "t"))
    fit = np.concatenate([x[a[:10]], y[b[:10]]])
    model = LinearSVC(C=0.5, random_state=0, max_iter=20_000).fit(fit, [0] * 10 + [1] * 10)
    assert np.array_equal(found.source_right[a[10:]], model.predict(x[a[10:]]) == 0)
    assert np.array_equal(found.target_right[b[10:]], model.predict(y[b[10:]]) == 1)


def test_proxy_a_distance_of_disjoint_sets_is_two() -> None:
    x, y = _sets(30, 3)
    accuracy = domain_accuracy(x, y + 100, linear_svm()).accuracy
    assert proxy_a_distance(1 - accuracy) == 2
    with pytest.raises(DataError):
        proxy_a_distance(1.5)


def test_small_network_tells_dark_from_light_and_repeats_itself() -> None:
    rng = np.random.default_rng(2)
    dark = rng.integers(0, 120, (24, 3, 32, 32)).astype(np.uint8)
    light = rng.integers(60, 255, (24, 3, 32, 32)).astype(np.uint8)
    net = cnn_domain_classifier(epochs=6, batch_size=12)
    images, is_light = np.concatenate([dark, light]), np.arange(48) >= 24
    fit = np.arange(48) % 2 == 0
    told = [net(images[fit], is_light[fit], images[~fit]) for _ in range(2)]
    assert (told[0] == is_light[~fit]).mean() > 0.9
    assert np.array_equal(told[0], told[1])
    with pytest.raises(DataError, match="32, 32"):
        domain_accuracy(dark[:, :, :16], light[:, :, :16], net)


# --- classes ---


def test_emd_is_assignment_linear_programme_and_wasserstein() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    equal = np.full(5, 0.2)
    cost = spatial.distance.cdist(x, y)
    a, b = optimize.linear_sum_assignment(cost)
    found = by_class.earth_movers(by_class.Centroids(x, equal), by_class.Centroids(y, equal))
    assert found == pytest.approx(cost[a, b].mean())
    assert by_class._transport(cost, equal, equal) == pytest.approx(found, abs=1e-9)
    u, v = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(4))
    line = by_class.earth_movers(by_class.Centroids(x[:, :1], u), by_class.Centroids(y[:4, :1], v))
    assert line == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:4, 0], u, v), abs=1e-9)


def test_centroids_weigh_by_size_and_drop_small_classes() -> None:
    x = np.array([[0.0], [2.0], [10.0], [5.0]])
    found = by_class.centroids(x, [0, 0, 1, 2])
    assert found.means[:, 0].tolist() == [1, 10, 5]
    assert found.weights.tolist() == [0.5, 0.25, 0.25]
    assert by_class.centroids(x, [0, 0, 1, 2], least_images=2).means.tolist() == [[1.0]]
    with pytest.raises(DataError, match="no class has 3"):
        by_class.centroids(x, [0, 0, 1, 2], least_images=3)


def test_wordnet_path_is_the_taxonomys() -> None:
    tree = taxonomy()
    source, target = tree.classes[100:104], tree.classes[150:153]
    up = {wnid: tree.distances_up(wnid) for wnid in (*source, *target)}
    literal = [
        min(up[t][w] + up[s][w] for s in source for w in up[t].keys() & up[s].keys())
        for t in target
    ]
    assert by_class.wordnet_path(source, target).tolist() == literal
    assert by_class.wordnet_path(source, source).tolist() == [0] * 4


# --- Fréchet and histograms ---


@pytest.mark.parametrize(("n", "d"), [(40, 5), (6, 9)])
def test_frechet_is_the_matrix_square_root_form(n: int, d: int) -> None:
    x, y = _sets(n, d)
    y = y[: n - 1]
    c, e = np.cov(x.T), np.cov(y.T)
    # The eigenvalues of a product of covariances are real and not negative.
    roots = np.sqrt(np.maximum(linalg.eigvals(c @ e).real, 0)).sum()
    oracle = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + e) - 2 * roots
    assert sets.frechet(x, y) == pytest.approx(oracle, rel=1e-6)
    assert sets.frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_of_two_gaussians_on_a_line() -> None:
    x = np.array([[-1.0], [1.0]])  # variance 2
    y = np.array([[1.0], [5.0]])  # mean 3, variance 8
    assert sets.frechet(x, y) == pytest.approx(9 + (math.sqrt(8) - math.sqrt(2)) ** 2)


def test_symmetric_kl_is_scipys_where_it_is_finite() -> None:
    rng = np.random.default_rng(4)
    p, q = rng.dirichlet(np.ones(6), 3), rng.dirichlet(np.ones(6), 3)
    w = np.array([0.5, 0.25, 0.25])
    oracle = sum(w[h] * (stats.entropy(p[h], q[h]) + stats.entropy(q[h], p[h])) for h in range(3))
    assert sets.symmetric_kl(p, q, w) == pytest.approx(oracle, abs=1e-12)
    assert sets.symmetric_kl(p, q, w) == pytest.approx(sets.symmetric_kl(q, p, w))
    assert sets.symmetric_kl(p, p, w) == 0


def _literal_divergence(x: np.ndarray, y: np.ndarray, groups: list[int], bins: int) -> float:
    total = 0.0
    for f in range(x.shape[1]):
        inner = np.unique(
            np.quantile(y[:, f], np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
        )
        edges = [-np.inf, *inner, np.inf]
        p = np.histogram(y[:, f], edges)[0] / len(y) + 0.0
        q = np.histogram(x[:, f], edges)[0] / len(x)
        ratio = np.log((p + 1e-6) / (q + 1e-6))
        total += float(((p - q) * ratio).sum()) / groups.count(groups[f])
    return total


# --- all together ---


def test_one_table_with_every_distance() -> None:
    x, y = _sets(40, 6)
    tree = taxonomy()
    labels = [i % 4 for i in range(40)]
    source = Side(x, labels, wnids=tree.classes[:4])
    found = {r.name: r for r in measure(source, Side(y, labels, wnids=tree.classes[4:8]), QUICK)}
    assert list(found) == [
        "cosine",
        "linear MMD",
        "linear SVM accuracy",
        "CNN accuracy",
        "logistic accuracy",
        "proxy A-distance",
        "RBF MMD²",
        "Fréchet",
        "histogram KL",
        "EMD of class centroids",
        "WordNet path",
    ]
    absent = found.pop("CNN accuracy")
    assert (absent.value, absent.n) == (None, 0)
    assert "32 x 32" in absent.notes[0]
    for result in found.values():
        assert result.value is not None
        assert result.low is not None
        assert result.high is not None
        assert result.low <= result.value <= result.high
    assert found["cosine"].value == pytest.approx(
        spatial.distance.cosine(x.mean(0), y.mean(0)), abs=1e-12
    )
    assert found["RBF MMD²"].p_value is not None


def test_distances_grow_as_a_target_moves_away() -> None:
    x, _ = _sets(80, 6)
    rng = np.random.default_rng(9)
    names: dict[str, list[float]] = {}
    for shift in (0.0, 1.0, 3.0):
        y = np.maximum(rng.normal(size=(80, 6)), 0)
        y[:, :3] += shift
        for r in measure(Side(x), Side(y), QUICK):
            if r.value is not None:
                names.setdefault(r.name, []).append(r.value)
    for name, values in names.items():
        assert all(a <= b + 1e-9 for a, b in pairwise(values)), name


def test_measurements_repeat_themselves_at_equal_sizes() -> None:
    x, y = _sets(40, 4)
    first: list[DistanceResult] = measure(Side(x), Side(y[:25]), QUICK)
    assert first == measure(Side(x), Side(y[:25]), QUICK)
    assert {r.n for r in first if r.value is not None} == {25}
    a, b = equal_sizes(40, 25, 10)
    assert (len(a), len(b)) == (10, 10)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.ones((9, 2)), np.ones((9, 2)), "same features"),
        (np.zeros((0, 2)), np.ones((9, 2)), "source features have shape"),
        (np.ones((9, 2)), np.full((9, 2), np.nan), "target features are not finite"),
        (np.eye(9), np.eye(9)[:, :4], "9 source and 4 target dimensions"),
        (np.eye(9), np.eye(9)[:3], "9 source and 3 target images"),
        (np.zeros((9, 2)), np.eye(9)[:, :2] + 1, "zero vector"),
    ],
)
def test_wrong_input_is_named(x: np.ndarray, y: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        measure(Side(x), Side(y), QUICK)


def test_labels_must_fit() -> None:
    x, y = _sets(10, 3)
    with pytest.raises(DataError, match="3 labels for 10 source images"):
        measure(Side(x, [0, 1, 2]), Side(y, [0] * 10), QUICK)


def test_an_svm_that_does_not_converge_says_so_in_its_row_and_warns_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sklearn import svm

    real = svm.LinearSVC
    monkeypatch.setattr(svm, "LinearSVC", lambda **given: real(**given | {"max_iter": 1}))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 8))
    unfinished: list[int] = []
    domain_accuracy(x, y, linear_svm(1.0, unfinished))
    assert unfinished == [1, 1]
