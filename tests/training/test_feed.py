"""Batches on the device: the same images whether in memory, mapped or behind a cached prefix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import BenchError
from bench.data.rows import Rows
from bench.data.transforms.augment import draw_noise
from bench.data.transforms.mixing import Mix
from bench.specs.run import TrainSpec
from bench.training.domain import Domain, DomainBatch
from bench.training.domain_batches import Feed, FeedOptions, Shown, further_noise
from bench.training.evaluation import predict_feed
from bench.training.steps import shown_in

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 6, 6, 3), dtype=np.uint8)
DATA = Domain("toy", IMAGES, np.arange(9) % 3, 3)
INDICES = np.array([8, 0, 3, 3])


def _shown(indices: np.ndarray, noise: torch.Tensor) -> Shown:
    return Shown.of(indices, noise, CPU)


def _prefix() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval()


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_cached_activations_equal_computed_ones(augment: str) -> None:
    options = FeedOptions(CPU, augment=augment)
    computed, cached = (Feed(DATA, options, _prefix()) for _ in range(2))
    cached.cache_prefix(batch_size=4)
    noise = draw_noise(4, 0, 0)
    expected = computed.training_batch(_shown(INDICES, noise))
    torch.testing.assert_close(cached.training_batch(_shown(INDICES, noise)), expected)
    torch.testing.assert_close(cached.plain_batch(6, 20), computed.plain_batch(6, 20))
    assert predict_feed(lambda x: x.flatten(1), cached).shape == (9, 32)
    assert not expected.requires_grad


CHANGES = {
    "crop_flip": {"augment": "crop_flip", "crop_pad": 1},
    "scale_flip": {"augment": "scale_flip"},
    "all": {"augment": "crop_flip_color", "policy": "randaugment", "random_erasing": 0.5},
}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", CHANGES)
def test_kept_views_are_those_of_augmenting_so_often(name: str, views: int) -> None:
    labels = DATA.labels
    data = Domain("toy", np.concatenate([IMAGES[:, ::-1]] * views, axis=1), labels, 3, views=views)
    train = TrainSpec.model_validate(CHANGES[name] | {"cached_views": 3})
    options = FeedOptions(CPU).augmented(train, mixes=False, seed=7)
    kept, computed = (Feed(data, options, _prefix()) for _ in range(2))
    assert len(kept.cache_prefix(batch_size=4).data) == kept.cached_rows == 27 * views
    anew = train.model_copy(update={"cached_views": None})
    literal = Feed(data, FeedOptions(CPU).augmented(anew, mixes=False), _prefix())
    step = (DomainBatch(0, INDICES, 1.0),)
    seen = []
    for epoch in range(5):
        noise = draw_noise(9, 7, epoch % 3, further=further_noise(anew))
        expected = literal.training_batch(_shown(INDICES, noise[INDICES]))
        ((shown,),) = shown_in([step], 7, epoch, CPU, further_noise(train), [kept])
        torch.testing.assert_close(kept.training_batch(shown), expected)
        assert torch.equal(computed.training_batch(shown), expected)
        seen.append(expected)
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(kept.plain_batch(0, 9), literal.plain_batch(0, 9))


def test_a_memory_map_gives_the_same_batches_and_is_not_read_as_a_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = Domain("mapped", mapped, DATA.labels, 3)
    assert data.images is mapped
    noise = draw_noise(4, 1, 0)
    batches = [
        Feed(d, FeedOptions(CPU, augment="crop_flip")).training_batch(_shown(INDICES, noise))
        for d in (DATA, data)
    ]
    assert torch.equal(*batches)


def test_pixels_are_read_once_for_their_digest() -> None:
    """Three readings of a large set took longer than its frozen layers."""
    reads: list[slice] = []

    class Counted(Rows):
        def __getitem__(self, which):  # type: ignore[no-untyped-def]
            reads.append(which)
            return super().__getitem__(which)

    def data(order: np.ndarray) -> Domain:
        return Domain("d", Counted(IMAGES, order), DATA.labels, 3)

    one, same, other = data(np.arange(9)), data(np.arange(9)), data(np.arange(9)[::-1].copy())
    assert one.images_sha256 == one.images_sha256 == same.images_sha256 != other.images_sha256
    assert len(reads) == 3


def test_padding_is_the_mean_colour() -> None:
    """So that a crop's border is nothing but zero (to a grey level) once normalised."""
    white = Domain("white", np.full((40, 4, 4, 3), 255, np.uint8), np.zeros(40, np.int64), 1)
    feed = Feed(white, FeedOptions(CPU, augment="crop_flip", crop_pad=2))
    x = feed.training_batch(_shown(np.arange(40), draw_noise(40, 0, 0)))
    border = x[x < 1]
    assert len(border)
    assert border.abs().max() < 0.02


def test_labels_follow_the_indices() -> None:
    assert Feed(DATA, FeedOptions(CPU)).labels_of(
        _shown(INDICES, draw_noise(4, 0, 0))
    ).tolist() == [2, 0, 0, 0]


def test_nothing_to_cache_is_an_error() -> None:
    with pytest.raises(BenchError, match="there is no frozen prefix"):
        Feed(DATA, FeedOptions(CPU)).cache_prefix()
    with pytest.raises(BenchError, match="augment crop_flip never repeats"):
        Feed(DATA, FeedOptions(CPU, augment="crop_flip"), _prefix()).cache_prefix()


def test_samples_of_several_views_are_mixed_as_wholes() -> None:
    """Each view with the same view of the other sample, by one share or box."""
    rng = np.random.default_rng(3)
    views = [rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8) for _ in range(2)]
    labels = np.arange(6) % 2
    both = Domain("two", np.concatenate(views, axis=1), labels, 2, views=2)
    chosen = _shown(np.array([4, 0, 3]), draw_noise(3, 0, 0))
    for mix in (Mix(0.3), Mix(0.25, (0, 4, 0, 8))):
        options = FeedOptions(CPU, augment="crop_flip", crop_pad=1, mixes=True)
        found = Feed(both, options).training_batch(chosen, mix)
        for number, images in enumerate(views):
            alone = Feed(Domain("one", images, labels, 2), options)
            assert torch.equal(found[number::2], alone.training_batch(chosen, mix))
        assert torch.equal(
            found, Feed(both, options).training_batch(chosen, mix, chosen.reversed())
        )
