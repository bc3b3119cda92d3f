"""Images kept larger than what the network is shown."""

from __future__ import annotations

import numpy as np
import torch

from bench.specs.data import DataSpec
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions, Shown


def _domain(crop: int | None) -> Domain:
    images = np.random.default_rng(0).integers(0, 256, (6, 10, 10, 3), dtype=np.uint8)
    return Domain("d", images, np.zeros(6, np.int64), 1, crop=crop)


def test_evaluation_sees_the_central_part_and_training_others_too() -> None:
    options = FeedOptions(torch.device("cpu"), augment="crop_flip", crop_pad=0)
    feed, whole = Feed(_domain(6), options), Feed(_domain(None), options)
    plain = whole.plain_batch(0, 6)
    assert torch.equal(feed.plain_batch(0, 6), plain[:, :, 2:8, 2:8])
    noise = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    shown = feed.training_batch(Shown.of(np.arange(6), noise, torch.device("cpu")))
    assert shown.shape == (6, 3, 6, 6)
    windows = [plain[:, :, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    windows += [w.flip(3) for w in windows]
    for n in range(6):
        assert any(torch.equal(shown[n], w[n]) for w in windows)


def test_resize_is_part_of_the_identity_only_where_it_is_used() -> None:
    plain = DataSpec(dataset="digits")
    assert "resize" not in plain.identity()
    larger = DataSpec(dataset="digits", resize=40)
    assert larger.identity()["resize"] == 40
    assert (plain.kept_size, larger.kept_size) == (32, 40)
