"""What runs of a batch share: frozen prefixes, heads on the same features, a grid's cells."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models import layers
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training.activations import ActivationStore
from bench.training.domain import Domain
from bench.training.evaluation import predict
from bench.training.frozen_prefix_cache import frozen_prefix
from bench.training.fused import Head, train_heads
from bench.training.job import TrainingJob
from bench.training.loop import train
from bench.training.process import prepare
from benchmarks.compare import Case, Pair
from benchmarks.plain import train_plain, write_folder


def pictures(count: int, side: int, classes: int, seed: int = 0) -> Domain:
    """Pictures of eight by eight coloured fields and noise; the labels go round."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = coarse.repeat(side // 8, 1).repeat(side // 8, 2)
    return Domain("speed", images, np.arange(count) % classes, classes)


@cache
def _parent(spec: ModelSpec, classes: int, side: int) -> Mapping[str, torch.Tensor]:
    """Weights in the place of those that a run reads from its parent's file."""
    return layers.create(spec, classes, seed=1, image_size=side).state_dict()


def train_cell(
    network: str,
    pattern_text: str,
    data: Domain,
    recipe: TrainSpec,
    share: bool,
    test: Domain | None = None,
) -> Any:
    """One run's training and evaluation, from random weights in the parent's place."""
    side = data.images.shape[2]
    spec = ModelSpec(name=network, drop_rate=0.0)
    parent = _parent(spec, data.num_classes, side)
    model = layers.create(spec, data.num_classes, seed=0, image_size=side)
    pattern = LayerPattern.parse(pattern_text)
    layers.apply_pattern(model, pattern, None if pattern.is_scratch else parent)
    method = Plain(Ingredients(data, recipe))
    modes = layers.freeze_modes(model, pattern, recipe.frozen_dropout)
    past, store = None, ActivationStore(Path(tempfile.gettempdir()))
    if share and pattern.frozen_prefix:
        past = frozen_prefix(
            model,
            pattern.frozen_prefix,
            side,
            identity="speed",
            recipe=recipe,
            store=store,
            set_modes=modes,
            first_steps=lambda: method.steps(0),
        )
    job = TrainingJob(
        model,
        method,
        layers.parameter_groups(model, pattern, recipe),
        recipe,
        set_modes=modes,
        **(past.job() if past is not None else {}),
    )
    outcome = train(job)
    if past is not None:
        assert past.notes["prefix"].startswith("cached"), past.notes
    if test is not None:
        model.eval()
        predict(model, test, precision=recipe.precision, channels_last=recipe.channels_last)
    return outcome


def _same_curves(ours: Any, theirs: Any) -> None:
    assert [r["train_loss"] for r in ours.history] == [r["train_loss"] for r in theirs.history]


# --- frozen layers, computed once or each epoch --------------------------------------------------


def _prefix(network: str, pattern: str, images: int, epochs: int, side: int) -> Pair:
    data = pictures(images, side, 10)
    recipe = TrainSpec(epochs=epochs, batch_size=64, augment="none", select="last")
    run = partial(train_cell, network, pattern, data, recipe)
    prepare(torch.get_num_threads())
    return Pair(lambda: run(True), lambda: run(False), _same_curves)


def _head(images: int, epochs: int) -> Pair:
    """The peer computes gradients of the whole network and steps the head alone."""
    prepare(torch.get_num_threads())
    data = pictures(images, 64, 10)
    recipe = TrainSpec(epochs=epochs, batch_size=64, augment="none", select="last")

    def peer() -> None:
        model = layers.create(ModelSpec(name="resnet18"), 10, seed=0, image_size=64)
        method = Plain(Ingredients(data, recipe))
        head = [{"params": list(model.get_submodule("fc").parameters())}]
        train(TrainingJob(model, method, head, recipe))

    return Pair(lambda: train_cell("resnet18", "F(1-9)R(10)", data, recipe, True), peer)


# --- heads on the same features ------------------------------------------------------------------


def _heads(images: int, columns: int, classes: int, heads: int, epochs: int) -> Pair:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, classes, images))
    centres = rng.normal(size=(classes, columns)).astype(np.float32)
    noise = rng.normal(size=(images, columns)).astype(np.float32)
    features = torch.from_numpy(centres[labels.numpy()] / 4 + noise)
    recipe = TrainSpec(epochs=epochs, batch_size=64, augment="none", select="last")
    start = [torch.randn(classes, columns) / columns**0.5 for _ in range(heads)]
    rates = [(0.02 * (k + 1) / heads, 5e-4) for k in range(heads)]
    steps = -(-images // 64)

    def order(k: int) -> Callable[[int], list[NDArray[np.int64]]]:
        def of_epoch(epoch: int) -> list[NDArray[np.int64]]:
            return np.array_split(np.random.default_rng([k, epoch]).permutation(images), steps)

        return of_epoch

    def ours() -> list[torch.Tensor]:
        zero = torch.zeros(classes)
        group = [Head(start[k], zero, recipe, rates[k], rates[k], order(k)) for k in range(heads)]
        return [o.weight for o in train_heads(features, labels, group) if o.weight is not None]

    def peer() -> list[torch.Tensor]:
        return [
            _one_head(features, labels, start[k], rates[k], order(k), epochs) for k in range(heads)
        ]

    def check(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
        worst = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        assert worst <= 1e-5, worst

    return Pair(ours, peer, check)


def _one_head(
    features: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    rate: tuple[float, float],
    order: Callable[[int], list[NDArray[np.int64]]],
    epochs: int,
) -> torch.Tensor:
    """nn.Linear, autograd and torch's SGD with a cosine schedule."""
    linear = torch.nn.Linear(features.shape[1], len(start))
    with torch.no_grad():
        linear.weight.copy_(start)
        linear.bias.zero_()
    sgd = torch.optim.SGD(linear.parameters(), rate[0], momentum=0.9, weight_decay=rate[1])
    for epoch in range(epochs):
        batches = order(epoch)
        for step, batch in enumerate(batches):
            done = (epoch + step / len(batches)) / epochs
            for group in sgd.param_groups:
                group["lr"] = rate[0] * 0.5 * (1 + np.cos(np.pi * done))
            index = torch.from_numpy(batch)
            loss = torch.nn.functional.cross_entropy(linear(features[index]), labels[index])
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
    return linear.weight.detach()


# --- a grid cell ---------------------------------------------------------------------------------

SIDE, CLASSES = 32, 10
FROZEN = {"T(1-7)R(8)": 0, "F(1-5)T(6-7)R(8)": 5, "F(1-7)R(8)": 7}
NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], Domain, Domain]:
    home = tempfile.TemporaryDirectory(prefix="bench-cell-")
    data, test = pictures(1000, SIDE, CLASSES), pictures(500, SIDE, CLASSES, 1)
    for name, part in (("train", data), ("test", test)):
        write_folder(Path(home.name) / name, np.asarray(part.images), part.labels)
    return home, data, test


def _cell_of_worker(pattern: str, seed: int) -> float:
    data, test = pictures(1000, SIDE, CLASSES), pictures(500, SIDE, CLASSES, 1)
    recipe = TrainSpec(
        epochs=10,
        nesterov=True,
        precision="bfloat16",
        select="last",
        augment="flip" if FROZEN[pattern] else "crop_flip",
    )
    outcome = train_cell("narrow8_32", pattern, data, recipe, True, test)
    return float(outcome.history[-1]["train_loss"]) + 0 * seed


@cache
def _workers() -> Any:
    """Two processes of one thread, as the local pool has them, with their libraries loaded."""
    context = multiprocessing.get_context("spawn")
    workers = context.Pool(2, initializer=prepare, initargs=(1,))
    workers.starmap(_cell_of_worker, [("F(1-7)R(8)", 0), ("F(1-7)R(8)", 1)], chunksize=1)
    return workers


def _cell(pattern: str) -> Pair:
    home, _, _ = _folder()
    workers = _workers()

    def ours() -> None:
        workers.starmap(_cell_of_worker, [(pattern, 0), (pattern, 1)], chunksize=1)

    def peer() -> None:
        frozen = NAMES[: FROZEN[pattern]]
        crop = not frozen
        train_plain(
            Path(home.name),
            "narrow8_32",
            epochs=10,
            batch_size=64,
            lr=0.01,
            frozen=frozen,
            crop=crop,
        )

    return Pair(ours, peer, peer_scale=2)


def _cases() -> Iterator[Case]:
    yield Case(
        "head only, 10 epochs, ResNet-18, 400 images of 64 px",
        "full forward and backward, step of the head",
        25,
        partial(_head, 400, 10),
    )
    for network, side, images, epochs in (("narrow8_32", 32, 1000, 10), ("narrow8_64", 64, 400, 6)):
        for n, goal in ((4, 1.8), (5, 3.2), (6, 4.6), (7, 4.6)):
            rest = f"T({n + 1}-7)R(8)" if n < 7 else "R(8)"
            yield Case(
                f"frozen prefix of {n} of 8, {network}, {epochs} epochs, {images} images",
                "the same loop without keeping: recomputed each epoch",
                goal,
                partial(_prefix, network, f"F(1-{n}){rest}", images, epochs, side),
                note="equal to the bit",
            )
    yield Case(
        "20 heads, 10 epochs, 5,000 x 512 features, 20 classes",
        "20 runs one after another on the same features, torch autograd",
        7,
        partial(_heads, 5000, 512, 20, 20, 10),
        note="each keeps its order; weights equal to 1e-5",
    )
    for pattern, goal in zip(FROZEN, (4.1, 13, 18), strict=True):
        yield Case(
            f"grid cell {pattern}, training and evaluation",
            "plain loop: ImageFolder, float32, two threads; one run x 2",
            goal,
            partial(_cell, pattern),
            note="two runs at once on two workers",
        )


CASES = tuple(_cases())
