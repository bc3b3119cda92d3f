"""Measures against scikit-learn and torch."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from torch import nn

from bench.core.errors import DataError
from bench.training import evaluation as evaluate
from bench.training.domain import Domain


def _case(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(images, classes)).astype(np.float32), rng.integers(0, classes, images)


@given(st.integers(1, 60), st.integers(2, 8), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_measures_agree_with_sklearn(images: int, classes: int, seed: int) -> None:
    logits, labels = _case(images, classes, seed)
    predicted = logits.argmax(1)
    assert evaluate.top1_accuracy(logits, labels) == pytest.approx(
        accuracy_score(labels, predicted)
    )
    with warnings.catch_warnings():  # sklearn remarks on classes that are predicted but absent
        warnings.simplefilter("ignore", UserWarning)
        balanced = balanced_accuracy_score(labels, predicted)
    assert evaluate.mean_class_accuracy(logits, labels) == pytest.approx(balanced)
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(1).numpy()
    theirs = log_loss(labels, probabilities, labels=np.arange(classes))
    assert evaluate.cross_entropy(logits, labels) == pytest.approx(theirs, rel=1e-6)


def test_cross_entropy_survives_large_scores_and_shows_broken_ones() -> None:
    huge = np.array([[1e30, 0.0]], np.float32)
    assert evaluate.cross_entropy(huge, np.array([0])) == 0.0
    for bad in (np.nan, np.inf):
        assert not np.isfinite(
            evaluate.cross_entropy(np.array([[bad, 0]], np.float32), np.array([1]))
        )


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12), st.floats(0.01, 1))
def test_epochs_to_threshold_is_the_first_crossing(values: list, threshold: float) -> None:
    history = [{"train_top1_accuracy": value} for value in values]
    reached = [n for n, v in enumerate(values, 1) if v is not None and v >= threshold]
    assert evaluate.epochs_to_threshold(history, threshold) == (min(reached) if reached else None)


def test_epochs_to_threshold_of_another_column() -> None:
    history = [{"val_top1_accuracy": None}, {"val_top1_accuracy": 0.7}]
    assert evaluate.epochs_to_threshold(history, 0.7, "val_top1_accuracy") == 2


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12))
def test_epochs_to_converge_go_by_the_runs_own_last_accuracy(values: list) -> None:
    found = evaluate.epochs_to_converge([{"train_top1_accuracy": value} for value in values])
    if not values or values[-1] is None:
        assert found is None
        return
    near = [n for n, v in enumerate(values, 1) if v is not None and v >= 0.95 * values[-1]]
    assert found == min(near)


def test_predict_equals_one_pass_by_hand_and_can_be_saved() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 6, 6, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    data = Domain("d", images, np.zeros(11, np.int64), 4, mean, std)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 4))
    x = torch.from_numpy((images / 255 - mean) / std).float().permute(0, 3, 1, 2)
    expected = net(x).detach().numpy()
    for batch_size in (1, 4, 11, 256):
        logits = evaluate.predict(net, data, batch_size=batch_size)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    file = io.BytesIO()
    np.savez(file, logits=logits)
    file.seek(0)
    assert np.array_equal(np.load(file, allow_pickle=False)["logits"], logits)


def test_predict_reads_a_memory_map_without_complaint(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    results = [
        evaluate.predict(net, Domain("d", x, np.zeros(5, np.int64), 2)) for x in (images, mapped)
    ]
    assert np.array_equal(*results)


def test_bfloat16_is_near_float32_and_stays_float32_in_type() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    data = Domain("d", images, np.zeros(8, np.int64), 3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 3))
    exact, rough = (evaluate.predict(net, data, precision=p) for p in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(rough, exact, atol=0.05)


def test_no_image_is_an_error() -> None:
    empty = Domain("void", np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int64), 2)
    with pytest.raises(DataError, match="void"):
        evaluate.predict(nn.Flatten(), empty)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, int), "float32"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, int), r"\(2, 3, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, int), "2 images"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 2]), "from 0 to 2"),
    ],
)
def test_a_domain_names_what_does_not_fit(
    images: np.ndarray, labels: np.ndarray, match: str
) -> None:
    with pytest.raises(DataError, match=match):
        Domain("d", images, labels, 2)


def test_large_images_pass_in_smaller_batches_with_the_same_predictions() -> None:
    seen: list[int] = []
    pixels = np.random.default_rng(0).integers(0, 255, (100, 224, 224, 3), np.uint8)

    def means(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.mean((2, 3))

    large = Domain("large", pixels, np.zeros(100, np.int64), 1)
    found = evaluate.predict(means, large)
    assert seen == [16, 16, 16, 16, 16, 16, 4]
    np.testing.assert_allclose(found, evaluate.predict(means, large, batch_size=100), rtol=1e-5)
