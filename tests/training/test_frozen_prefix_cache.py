"""Kept activations of frozen layers: what happens where the size of a batch decides last bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.models import layers
from bench.models.prefix import prefix_suffix
from bench.specs.run import ModelSpec, TrainSpec
from bench.training.activations import ActivationStore
from bench.training.domain import Domain, DomainBatch
from bench.training.domain_batches import Feed, FeedOptions, Shown
from bench.training.frozen_prefix_cache import FrozenPrefix, _difference

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
NET = nn.Conv2d(3, 4, 3)


def prefix(x: Tensor) -> Tensor:
    """Frozen layers whose kernels for few images give values a little larger, as on CUDA."""
    with torch.no_grad():
        y: Tensor = NET(x)
        return y * (1 + 1e-4) if len(x) == 20 else y


def tried(store: ActivationStore, tolerance: float) -> tuple[Feed, str]:
    """A feed of 80 images, trained on in batches of 20, and what came of keeping activations."""
    recipe = TrainSpec(augment="none", batch_size=20, prefix_tolerance=tolerance)
    feed = Feed(Domain("toy", IMAGES, np.zeros(80, np.int64), 1), FeedOptions(CPU), prefix)
    cut = FrozenPrefix(
        NET,
        prefix,
        nn.Identity(),
        layers=1,
        depth=2,
        share=1.0,
        identity="toy",
        recipe=recipe,
        store=store,
        set_modes=lambda: None,
        first_steps=lambda: [(DomainBatch(0, np.arange(n, n + 20)),) for n in (0, 20, 40, 60)],
    )
    cut([feed], None)
    return feed, cut.notes["prefix"]


def batch_of(feed: Feed) -> Tensor:
    return feed.training_batch(Shown.of(np.arange(3, 23), torch.zeros(20, 8), CPU))


def test_a_difference_is_refused_unless_a_tolerance_allows_it(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path)
    computed = batch_of(
        Feed(Domain("t", IMAGES, np.zeros(80, np.int64), 1), FeedOptions(CPU), prefix)
    )
    for tolerance in (0.0, 5e-5, 0.0):  # also once the store has it for another run
        feed, note = tried(store, tolerance)
        assert note == (
            "recomputed: a training batch gives other values here than all images at once, by "
            f"1.0e-04 of the largest; train.prefix_tolerance is {tolerance:g}"
        )
        assert torch.equal(batch_of(feed), computed)
    feed, note = tried(store, 2e-4)
    assert note.startswith("cached: layers 1 to 1 of 2, 100% of the forward pass, once per image")
    assert note.endswith(", within 1.0e-04 of what a training batch gives")
    kept = batch_of(feed)
    assert not torch.equal(kept, computed)
    largest = float(computed.abs().max())
    torch.testing.assert_close(kept, computed, rtol=0, atol=2e-4 * largest)


@pytest.mark.parametrize("count", [1, 5, 12, 16, 33])
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_is_kept_has_the_bits_of_a_batch_of_any_size(count: int, channels_last: bool) -> None:
    """Without filling up, 12 rows differ from 50 in the last bit on processors with AVX-512."""
    net = layers.create(ModelSpec(name="narrow8_32"), 10, seed=0, image_size=32).eval()
    net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    halves = prefix_suffix(net, 7, 32)
    assert halves is not None
    images = np.random.default_rng(1).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    feed = Feed(
        Domain("t", images, np.zeros(50, np.int64), 1),
        FeedOptions(CPU, channels_last=channels_last),
        halves[0],
    )
    feed.fills_up = True
    computed = feed.training_batch(Shown.of(np.arange(count), torch.zeros(count, 8), CPU))
    kept = feed.cache_prefix()
    assert len(computed) == count
    assert torch.equal(computed, kept.rows(torch.arange(count)))


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (torch.tensor([[3.0, -4.0]]), 0.0),
        (torch.tensor([[3.0, -3.0]]), 0.25),
        (torch.tensor([[3.0, math.nan]]), math.inf),
        (torch.tensor([[3.0, -math.inf]]), math.inf),
    ],
)
def test_the_difference_is_a_share_of_the_largest_value(kept: Tensor, expected: float) -> None:
    assert _difference(kept, torch.tensor([[3.0, -4.0]])) == expected


def test_a_batch_is_filled_up_only_where_its_activations_may_be_kept(tmp_path: Path) -> None:
    """Active dropout would draw more numbers, and what is not kept would only take longer."""
    rows: list[int] = []
    dropout = nn.Dropout(0.5)

    def frozen(x: Tensor) -> Tensor:
        rows.append(len(x))
        return dropout(x) if drops else x

    for drops, share, expected in ((False, 1.0, 16), (False, 0.5, 5), (True, 1.0, 5)):
        recipe = TrainSpec(augment="none", batch_size=5)
        feed = Feed(Domain("toy", IMAGES[:20], np.zeros(20, np.int64), 1), FeedOptions(CPU), frozen)
        cut = FrozenPrefix(
            dropout,
            frozen,
            nn.Identity(),
            layers=1,
            depth=2,
            share=share,
            identity=f"{drops} {share}",
            recipe=recipe,
            store=ActivationStore(tmp_path),
            set_modes=lambda: None,
            first_steps=lambda: [(DomainBatch(0, np.arange(n, n + 5)),) for n in (0, 5, 10, 15)],
        )
        cut([feed], None)
        rows.clear()
        shown = Shown.of(np.arange(5), torch.zeros(5, 8), CPU)
        assert len(feed.without_cache().training_batch(shown)) == 5
        assert rows == [expected], cut.notes


def test_another_memory_layout_is_no_small_difference() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert _difference(x, x.clone()) == 0.0
    assert _difference(x, x.to(memory_format=torch.channels_last)) == math.inf
    assert _difference(x, torch.zeros_like(x)) == math.inf
