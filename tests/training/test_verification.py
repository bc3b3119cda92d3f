"""TAR at FAR against scikit-learn, loops and the closed form; mAP; identity splits (X-5, SFT-6)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_curve

from bench.core.errors import DataError
from bench.training import evaluation as evaluate
from bench.training.verification import FARS, tar_at_far, verify

RNG = np.random.default_rng(0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 200), st.integers(2, 40))
@settings(deadline=None, max_examples=60)
def test_rates_are_the_last_point_of_the_roc_curve(
    seed: int, genuine: int, impostor: int, levels: int
) -> None:
    """With many ties: scores have few levels."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, levels, genuine) / levels, rng.integers(0, levels, impostor) / levels
    fars = [0.001, 0.01, 0.05, 0.1, 0.3, 0.5]
    found = tar_at_far(a, b, fars)
    labels = np.repeat([1, 0], [genuine, impostor])
    fpr, tpr, _ = roc_curve(labels, np.concatenate([a, b]), drop_intermediate=False)
    for far in fars:
        assert found.tar[far] == tpr[fpr <= far][-1]


def test_pairs_are_those_of_a_double_loop() -> None:
    features = RNG.normal(size=(70, 6)).astype(np.float32)
    who = RNG.integers(0, 8, 70)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    genuine, impostor = [], []
    for i, j in itertools.combinations(range(70), 2):
        (genuine if who[i] == who[j] else impostor).append(float(unit[i] @ unit[j]))
    fars = (0.3, 0.1, 0.01, 0.002)
    expected = tar_at_far(np.array(genuine), np.array(impostor), fars)
    found = verify(features, who, fars)
    assert (found.genuine_pairs, found.impostor_pairs) == (len(genuine), len(impostor))
    for far in fars:
        assert found.tar[far] == pytest.approx(expected.tar[far], abs=1.5 / len(genuine))
        assert found.threshold[far] == pytest.approx(expected.threshold[far], abs=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, who = RNG.normal(size=(90, 5)).astype(np.float32), RNG.integers(0, 9, 90)
    whole = verify(features, who, (0.1, 0.01))
    monkeypatch.setattr("bench.training.verification._BLOCK_ROWS", 7)
    parts = verify(features, who, (0.1, 0.01))
    for far in (0.1, 0.01):
        assert parts.tar[far] == pytest.approx(whole.tar[far], abs=2 / whole.genuine_pairs)
        assert parts.threshold[far] == pytest.approx(whole.threshold[far], abs=1e-6)


def test_gaussian_scores_have_a_closed_form() -> None:
    """TAR at FAR = 1 - Phi(z_(1 - FAR) - d')."""
    genuine, impostor = RNG.normal(2.5, 1, 100_000), RNG.normal(0, 1, 2_000_000)
    found = tar_at_far(genuine, impostor)
    for far in FARS:
        expected = 1 - norm.cdf(norm.ppf(1 - far) - 2.5)
        assert found.tar[far] == pytest.approx(expected, abs=0.03 if far < 1e-4 else 0.01)
    assert found.warnings == ()


def test_too_few_impostors_are_warned_of() -> None:
    found = tar_at_far(RNG.normal(1, 1, 50), RNG.normal(0, 1, 5000))
    assert [w.split(":")[0] for w in found.warnings] == ["FAR 0.001", "FAR 0.0001", "FAR 1e-05"]
    assert "5000 impostor pairs accept 5.0 at most; 10 are needed" in found.warnings[0]


def test_the_papers_numbers_of_pairs_are_enough_for_its_lowest_rate() -> None:
    """3840 images of 20 identities: 7,004,160 impostor pairs, 70 accepted at 1e-5 (X-5)."""
    genuine = 20 * 192 * 191 // 2
    impostors = 3840 * 3839 // 2 - genuine
    assert impostors == 7_004_160
    assert int(impostors * 1e-5) == 70


def test_what_cannot_be_verified_is_an_error() -> None:
    with pytest.raises(DataError, match="no impostor pair"):
        tar_at_far(np.ones(3), np.empty(0))
    with pytest.raises(DataError, match="no genuine pair"):
        tar_at_far(np.empty(0), np.ones(3))
    with pytest.raises(DataError, match="no impostor pair"):
        verify(np.ones((4, 2), np.float32), np.zeros(4, np.int64))
    with pytest.raises(DataError, match="rate is 1"):
        tar_at_far(np.ones(3), np.zeros(3), [1.0])
    with pytest.raises(DataError, match="length 0"):
        verify(np.zeros((4, 2), np.float32), np.arange(4))


# --- splits -----------------------------------------------------------------------------------

ROWS = [
    {"path": f"{who}-{look}-{i}.png", "group": who, "expression": look}
    for who in (f"P{n:03d}" for n in range(1, 13))
    for look in ("anger", "sadness", "surprise")
    for i in range(2)
]


# --- mAP and mean class accuracy ------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 12))
@settings(deadline=None, max_examples=40)
def test_map_and_mean_class_accuracy_are_scikit_learns(
    seed: int, classes: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 40)])
    scores = rng.integers(0, levels, (len(labels), classes)).astype(np.float32)
    expected = average_precision_score(np.arange(classes) == labels[:, None], scores)
    assert evaluate.mean_average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)
    each = average_precision_score(np.arange(classes) == labels[:, None], scores, average=None)
    found = evaluate.average_precisions(scores, labels)
    assert list(found.values()) == pytest.approx(each.tolist(), abs=1e-12)
    some = labels != 1  # a class without an image has none
    assert 1 not in evaluate.average_precisions(scores[some], labels[some])
    balanced = balanced_accuracy_score(labels, scores.argmax(1))
    assert evaluate.mean_class_accuracy(scores, labels) == pytest.approx(balanced, abs=1e-12)
