"""What a training step costs beside its arithmetic: no wait, no copy but the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.transforms.mixing import draw_mix
from bench.models import layers
from bench.specs.run import ModelSpec, TrainSpec
from bench.training import optimizers
from bench.training.domain import Domain, DomainBatch
from bench.training.domain_batches import Feed, FeedOptions, further_noise
from bench.training.evaluation import predict_feed
from bench.training.fused import Head, train_heads
from bench.training.steps import Stepper, Sums, shown_in
from tests.fake_cuda.devices import Gpus

GPU = torch.device("cuda", 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
DATA = Domain("toy", IMAGES, np.arange(24) % 3, 3)
STEPS = [(DomainBatch(0, np.arange(n, n + 8)),) for n in (0, 8, 16)]
RECIPES = {
    "plain": {},
    "bfloat16": {"precision": "bfloat16"},
    "accumulated": {"accumulate": 2, "clip_norm": 1.0},
    "adamw": {"optimizer": "adamw"},
    "weighed": {"class_weights": "balanced", "label_smoothing": 0.1},
    "anchored": {"l2_sp": 0.1},
    "mixed": {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.5},
    "scaled": {"augment": "scale_flip_color"},
    "antialiased": {"augment": "scale_flip", "scale_antialias": True},
    "coloured": {"augment": "crop_color"},
    "randaugment": {"policy": "randaugment"},
    "trivialaugment": {"policy": "trivialaugment"},
}


@contextmanager
def counting(gpus: Gpus) -> Iterator[None]:
    """What is counted is that of the block alone."""
    gpus.counts.clear()
    yield


class Training:
    """A network, its images, and the steps of one epoch."""

    def __init__(self, resident: bool = True, **recipe: Any) -> None:
        self.train = TrainSpec(**{"batch_size": 8, "augment": "crop_flip", **recipe})
        self.model = layers.create(ModelSpec(name="narrow8_32"), 3, seed=0).to(GPU).train()
        options = FeedOptions(GPU, precision=self.train.precision, resident=resident)
        self.feed = Feed(DATA, options.augmented(self.train, mixes=True))
        groups = [{"params": list(self.model.parameters()), "l2_sp": self.train.l2_sp or 0.0}]
        self.stepper = Stepper(
            lambda x, parts: [self.model(x)],
            optimizers.build(groups, self.train),
            [self.feed],
            0,
            self.train,
        )
        self.images = shown_in(STEPS, 0, 0, GPU, further_noise(self.train))
        self.sums = Sums.zero(GPU)

    def step(self, number: int) -> None:
        mix = draw_mix(self.train, 32, 0, 0, number)
        self.stepper.take(STEPS[number], self.images[number], self.sums, mix)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_step_waits_for_nothing_and_copies_nothing(gpus: Gpus, recipe: dict[str, Any]) -> None:
    training = Training(**recipe)
    training.step(0)
    with counting(gpus):
        training.step(1)
    assert not gpus.counts.waits, gpus.counts.table()
    assert not gpus.counts.copies, gpus.counts.table()


@pytest.mark.parametrize("recipe", ["plain", "mixed", "randaugment"])
def test_images_of_the_host_travel_alone_and_are_not_waited_for(gpus: Gpus, recipe: str) -> None:
    training, whole = Training(resident=False, **RECIPES[recipe]), Training(**RECIPES[recipe])
    training.step(0)
    with counting(gpus):
        training.step(1)
    assert not gpus.counts.waits, gpus.counts.table()
    assert sum(gpus.counts.copies.values()) == 1, gpus.counts.table()
    for number in (0, 1):
        whole.step(number)
    training.step(2)
    whole.step(2)
    for a, b in zip(training.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_input_path_has_few_launches(gpus: Gpus) -> None:
    """Small networks are bound by launches: this step has 80 besides."""
    training = Training()
    training.step(0)
    with counting(gpus):
        training.step(1)
    of_input = ("augment.py", "domain_batches.py")
    count: Counter[bool] = Counter()
    for (_, place), launches in gpus.counts.launches.items():
        count[any(name in place for name in of_input)] += launches
    assert count[True] <= 16, gpus.counts.table()
    assert count.total() <= 96, gpus.counts.table()


def test_evaluation_waits_once(gpus: Gpus) -> None:
    training = Training()
    training.model.eval()
    predict_feed(training.model, training.feed, batch_size=8)
    with counting(gpus):
        predict_feed(training.model, training.feed, batch_size=8)
    assert sum(gpus.counts.waits.values()) == 1, gpus.counts.table()


def test_fused_classifiers_wait_by_the_epoch(gpus: Gpus) -> None:
    recipe = TrainSpec(epochs=1, augment="none", select="last", batch_size=8)
    order = [part.indices for (part,) in STEPS]
    heads = [
        Head(torch.zeros(3, 5), torch.zeros(3), recipe, (lr, 0.0), (lr, 0.0), lambda epoch: order)
        for lr in (0.1, 0.2)
    ]
    features = torch.rand(24, 5).to(GPU)
    labels = torch.from_numpy(DATA.labels).to(GPU)
    waits = []
    for times in (1, 4):
        order[:] = [part.indices for (part,) in STEPS] * times
        with counting(gpus):
            train_heads(features, labels, heads)
        waits.append(sum(gpus.counts.waits.values()))
    assert waits[0] == waits[1], gpus.counts.table()
