"""Average precision against scikit-learn, ties included; sensitivity percentages."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from analysis.measurements.filters import (
    average_precision,
    precision_recall,
    sensitivity,
    top_filters,
)
from bench.core.errors import DataError


def _literal(scores: np.ndarray, positive: np.ndarray) -> float:
    """Σ (R_n - R_{n-1}) P_n over the distinct scores, from the highest."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        named = scores >= threshold
        found = (named & positive).sum()
        recall, precision = found / positive.sum(), found / named.sum()
        total += (recall - recall_before) * precision
        recall_before = recall
    return float(total)


@st.composite
def detections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties and labels in which every class occurs."""
    classes = draw(st.integers(1, 4))
    n = draw(st.integers(classes, 14))
    rest = draw(st.lists(st.integers(0, classes - 1), min_size=n - classes, max_size=n - classes))
    labels = np.array([*range(classes), *rest])
    levels = st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5])
    scores = draw(st.lists(levels, min_size=2 * n, max_size=2 * n))
    return np.array(scores).reshape(n, 2), labels


@settings(deadline=None, max_examples=40)
@given(detections())
def test_equals_the_literal_sum_and_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = case
    fast = average_precision(scores, labels)
    for f in range(2):
        for c in range(fast.shape[1]):
            positive = labels == c
            theirs = average_precision_score(positive, scores[:, f])
            assert fast[f, c] == pytest.approx(theirs, abs=1e-12)
            assert fast[f, c] == pytest.approx(_literal(scores[:, f], positive), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(detections(), st.randoms(use_true_random=False))
def test_order_of_images_and_monotone_transforms_change_nothing(
    case: tuple[np.ndarray, np.ndarray], random: object
) -> None:
    scores, labels = case
    order = np.argsort([random.random() for _ in labels])  # type: ignore[attr-defined]
    expected = average_precision(scores, labels)
    assert np.array_equal(average_precision(scores[order], labels[order]), expected)
    assert np.array_equal(average_precision(np.exp(scores) * 3 - 7, labels), expected)


def test_a_constant_filter_has_the_prevalence_and_a_perfect_one_has_one() -> None:
    labels = np.repeat(np.arange(100), 5)
    scores = np.stack([np.zeros(500), (labels == 3).astype(float)], axis=1)
    found = average_precision(scores, labels)
    assert found[0] == pytest.approx(np.full(100, 0.01), abs=1e-15)
    assert found[1, 3] == 1.0


def test_ties_broken_by_file_order_would_be_wrong() -> None:
    # The mistake that this measure avoids: the same data, positives first or last.
    labels = np.array([1] * 3 + [0] * 97)
    zeros = np.zeros((100, 1))
    assert average_precision(zeros, labels)[0, 1] == average_precision(zeros, labels[::-1])[0, 1]


def test_the_papers_size_in_about_a_second_on_one_core() -> None:
    rng = np.random.default_rng(0)
    scores = np.maximum(rng.normal(size=(5000, 256)), 0).astype(np.float32)
    labels = np.repeat(np.arange(100), 50)
    times = []
    for _ in range(3):
        start = time.process_time()
        found = average_precision(scores, labels)
        times.append(time.process_time() - start)
    assert min(times) < 1.0  # seconds of one core, however many others share it; 0.13 when idle
    for f, c in ((0, 0), (100, 50), (255, 99)):
        assert found[f, c] == pytest.approx(
            average_precision_score(labels == c, scores[:, f]), abs=1e-12
        )


def test_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    scores, positive = rng.random(60).round(1), rng.random(60) < 0.3
    ours = precision_recall(scores, positive)
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    assert np.allclose(ours.precision, precision[:-1][::-1])
    assert np.allclose(ours.recall, recall[:-1][::-1])
    assert np.allclose(ours.thresholds, thresholds[::-1])
    assert ours.average_precision == pytest.approx(average_precision_score(positive, scores))


def test_top_filters_choose_by_other_images() -> None:
    shown, elsewhere = np.array([[0.9], [0.1], [0.5]]), np.array([[0.2], [0.8], [0.7]])
    assert top_filters(shown, 2).filters[:, 0].tolist() == [0, 2]
    honest = top_filters(shown, 2, chosen_by=elsewhere)
    assert honest.filters[:, 0].tolist() == [1, 2]
    assert honest.mean_ap[0] == pytest.approx(0.3)
    with pytest.raises(DataError, match="top 5 of 3"):
        top_filters(shown)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_sensitivities_and_ties_add_to_a_hundred(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found, back, own = sensitivity(a, b), sensitivity(b, a), sensitivity(a, a)
    assert found.percentage + found.reverse_percentage + found.ties_percentage == pytest.approx(100)
    assert found.percentage == back.reverse_percentage
    assert (own.percentage, own.ties_percentage) == (0, 100)
    literal = 100 * sum(x > y for x, y in pairs) / len(pairs)
    assert found.percentage == pytest.approx(literal)


@pytest.mark.parametrize(
    ("scores", "labels", "classes", "said"),
    [
        ([[0.1], [0.2]], [0, 2], 3, "1 of 3 classes have no image: 1"),
        ([[0.1], [float("nan")]], [0, 1], None, "not finite"),
        ([[0.1]], [0, 1], None, "shape"),
        ([[0.1], [0.2]], [0, 5], 3, "label 5 with 3 classes"),
        ([[0.1], [0.2]], [0.0, 1.0], None, "whole number"),
        ([], [], None, "not empty"),
    ],
)
def test_wrong_input_is_named(
    scores: list[list[float]], labels: list[int], classes: int | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        average_precision(np.array(scores), np.array(labels), classes)
