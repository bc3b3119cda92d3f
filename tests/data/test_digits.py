"""The slant of scanned digits, which stands in for a person's expression."""

from __future__ import annotations

from collections import Counter

import numpy as np
from sklearn.datasets import load_digits

from bench.data.synthetic.digits import Digits
from bench.data.transforms.views import allowed_by


def test_slants_are_sixths_of_each_digit_by_numpys_covariance() -> None:
    loaded = load_digits()
    digits = Digits()
    row, column = np.mgrid[:8, :8].reshape(2, -1)
    for label in digits.classes:
        slants: dict[str, list[float]] = {}
        for image in digits.images_of(label):
            scan = loaded.images[int(image.key.split("/")[1])].astype(int).ravel()
            shared = np.cov(np.stack([row, column]), fweights=scan)
            sixth = digits.columns[image.key]["group_slant"]
            slants.setdefault(sixth, []).append(shared[0, 1] / shared[0, 0])
        assert sorted(slants) == list("123456")
        for less, more in zip("12345", "23456", strict=True):
            assert max(slants[less]) <= min(slants[more]) + 1e-3  # grey levels are rounded
        sizes = Counter(
            digits.columns[image.key]["group_slant"] for image in digits.images_of(label)
        )
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_the_first_sixth_leans_to_the_right() -> None:
    """Ones that lean as / have their head further right than their foot."""
    digits = Digits()
    chosen = allowed_by(digits, (("slant", ("1",)),))
    assert chosen is not None
    images = [image for image in digits.images_of("1") if chosen(image)]
    pixels = np.stack(list(digits.read(images, 8)))[..., 0].astype(float)
    places = (pixels * np.arange(8)).sum(2) / np.maximum(pixels.sum(2), 1)
    assert places[:, 1].mean() > places[:, 6].mean() + 0.5
