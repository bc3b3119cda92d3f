"""What a training step costs beside its arithmetic: no wait, no copy but the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.transforms.mixing import draw_mix
from bench.methods import Ingredients
from bench.methods.finetuning.joint import Joint, JointOptions
from bench.methods.finetuning.plain import Plain
from bench.models import layers
from bench.models.heads import MultiHead
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training import optimizers
from bench.training.activations import ActivationStore
from bench.training.domain import Domain, DomainBatch
from bench.training.domain_batches import Feed, FeedOptions, further_noise
from bench.training.evaluation import predict_feed
from bench.training.frozen_prefix_cache import frozen_prefix
from bench.training.fused import Head, train_heads
from bench.training.job import TrainingJob
from bench.training.loop import train
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


def plain(recipe: TrainSpec, folder: Path) -> TrainingJob:
    net = layers.create(ModelSpec(name="narrow8_32"), 3, seed=0)
    groups = [{"params": list(net.parameters())}]
    method = Plain(Ingredients(DATA, recipe))
    return TrainingJob(net, method, groups, recipe, validation=DATA, device=GPU)


def joint(recipe: TrainSpec, folder: Path) -> TrainingJob:
    trunk = nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(3), nn.Flatten())
    net = MultiHead(trunk, [nn.Linear(48, 3), nn.Linear(48, 3)])
    groups = [{"params": list(net.parameters())}]
    method = Joint(Ingredients(DATA, recipe, sources=(DATA,)), JointOptions())
    return TrainingJob(net, method, groups, recipe, validation=DATA, device=GPU, forward=net)


def frozen(recipe: TrainSpec, folder: Path) -> TrainingJob:
    """Five of eight layers are frozen, and what they give is kept."""
    pattern = LayerPattern.parse("F(1-5)T(6-7)R(8)")
    net, parent = (layers.create(ModelSpec(name="narrow8_32"), 3, seed=n).to(GPU) for n in (0, 1))
    layers.apply_pattern(net, pattern, parent.state_dict())
    modes, method = layers.freeze_modes(net, pattern, False), Plain(Ingredients(DATA, recipe))
    cut = frozen_prefix(
        net,
        5,
        32,
        identity="toy",
        recipe=recipe,
        store=ActivationStore(folder),
        set_modes=modes,
        first_steps=lambda: method.steps(0),
    )
    assert cut is not None

    def share(feeds: Sequence[Feed], validation: Feed | None) -> None:
        cut(feeds, validation)
        assert cut.notes["prefix"].startswith("cached")

    groups = layers.parameter_groups(net, pattern, recipe)
    job = TrainingJob(net, method, groups, recipe, validation=DATA, device=GPU, set_modes=modes)
    return replace(job, **cut.job() | {"share": share})


WHOLE = {
    "plain": (plain, {}),
    "averaged": (plain, {"ema": 0.9}),
    "mixed": (plain, {"clip_norm": 1.0, "mixup": 0.2}),
    "joint": (joint, {}),
    "frozen": (frozen, {"augment": "flip"}),
}


@pytest.mark.parametrize(("job", "changes"), WHOLE.values(), ids=WHOLE)
def test_a_training_waits_and_copies_by_the_epoch(
    gpus: Gpus, tmp_path: Path, job: Callable[..., TrainingJob], changes: dict[str, Any]
) -> None:
    """As often with 2 steps in an epoch as with 8."""
    counts = []
    for size in (12, 3):
        recipe = TrainSpec(epochs=2, batch_size=size, select="last", **changes)
        prepared = job(recipe, tmp_path)
        with counting(gpus):
            outcome = train(prepared)
        assert outcome.steps == 2 * len(DATA.labels) // size
        counts.append((gpus.counts.waits.total(), gpus.counts.copies.total()))
    assert counts[0] == counts[1], gpus.counts.table()


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
