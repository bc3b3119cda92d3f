"""Training images per second, data included, against timm's own loader, optimiser and step.

The peer is put together from timm's parts with the settings that timm's training script has by
default (four loader processes, random resized crop and mirror, colour jitter, float32, NCHW), and
once more with the flags that make it fastest on a CPU (channels last, bfloat16 where that pays).
timm does not install the script itself. Both sides read the same JPEG files of 64 pixels; ours are
decoded once into a memory map, which is not counted, as it serves all runs of a grid.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import nn

from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models import layers
from bench.models.numbering import depth
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training.domain import Domain
from bench.training.job import TrainingJob
from bench.training.loop import train
from bench.training.process import prepare
from benchmarks.compare import Case, Pair

SIDE, CLASSES, BATCH = 64, 10, 128
NETWORKS = {"narrow8_64": "bfloat16", "resnet18": "bfloat16", "mobilenetv2_100": "float32"}
"""The precision in which each is fastest on a CPU; bfloat16 slows depthwise convolutions."""


@cache
def _folder(images: int) -> tuple[tempfile.TemporaryDirectory[str], NDArray[np.uint8]]:
    """JPEG files in a folder per class, with the statistics of photographs' JPEGs, and decoded."""
    home = tempfile.TemporaryDirectory(prefix="bench-speed-")
    rng = np.random.default_rng(0)
    decoded = np.empty((images, SIDE, SIDE, 3), np.uint8)
    for number in range(images):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        noisy = picture.astype(int) + rng.integers(-20, 21, picture.shape)
        path = Path(home.name) / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        decoded[number] = np.asarray(Image.open(path))
    return home, decoded


def _make_images(count: int) -> None:
    _folder(count)


@dataclass(frozen=True)
class _Training:
    """What is trained: a network on so many images, all of one size.

    `steady` takes what is made once out of the time: the peer's loader processes have started and
    have filled their queues once.
    """

    network: str
    images: int
    epochs: int = 1
    tuned: bool = False
    steady: bool = False


def _train_ours(asked: _Training) -> float:
    _, decoded = _folder(asked.images)
    labels = np.arange(asked.images, dtype=np.int64) % CLASSES
    recipe = TrainSpec(
        epochs=asked.epochs,
        batch_size=BATCH,
        augment="crop_flip_color",
        precision=NETWORKS[asked.network],  # type: ignore[arg-type]
        select="last",
    )
    model = layers.create(ModelSpec(name=asked.network), CLASSES, seed=0, image_size=SIDE)
    data = Domain("speed", decoded, labels, CLASSES)
    pattern = LayerPattern.parse(f"R(1-{depth(model)})")
    groups = layers.parameter_groups(model, pattern, recipe)
    method = Plain(Ingredients(data, recipe))
    return train(TrainingJob(model, method, groups, recipe)).history[-1]["train_loss"] or 0.0


def _train_timm(asked: _Training) -> Callable[[], float]:
    home, _ = _folder(asked.images)
    fast = {"memory_format": torch.channels_last} if asked.tuned else {}
    half = asked.tuned and NETWORKS[asked.network] == "bfloat16"

    def new_loader() -> Any:
        return create_loader(
            create_dataset("", root=home.name, split="train", is_training=True),
            input_size=(3, SIDE, SIDE),
            batch_size=BATCH,
            is_training=True,
            color_jitter=0.4,
            num_workers=4,
            device=torch.device("cpu"),
            persistent_workers=asked.steady,
        )

    kept = new_loader() if asked.steady else None

    def run() -> float:
        loader = kept or new_loader()
        model = layers.create(ModelSpec(name=asked.network), CLASSES, seed=0, image_size=SIDE)
        model.to(**fast).train()
        optimiser = create_optimizer_v2(model, opt="sgd", lr=0.01, weight_decay=5e-4, momentum=0.9)
        loss_of = nn.CrossEntropyLoss()
        for inputs, target in (batch for _ in range(asked.epochs) for batch in loader):
            inputs = inputs.contiguous(**fast) if fast else inputs
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = loss_of(model(inputs), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss.item())

    return run


def _pure_steps(network: str, steps: int) -> Callable[[], float]:
    """Forward, backward and SGD on one batch that is there already: the least a step can take."""
    shape = (BATCH, 3, SIDE, SIDE)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % CLASSES
    half = NETWORKS[network] == "bfloat16"

    def run() -> float:
        model = layers.create(ModelSpec(name=network), CLASSES, seed=0, image_size=SIDE)
        model.to(memory_format=torch.channels_last).train()
        sgd = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(steps):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = nn.functional.cross_entropy(model(images), labels)
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
        return float(loss.item())

    return run


@cache
def _worker() -> ProcessPoolExecutor:
    """A process as the local pool has them, with all cores for itself."""
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    return ProcessPoolExecutor(1, context, initializer=prepare, initargs=(threads,))


def _against_timm(asked: _Training) -> Pair:
    _worker().submit(_make_images, asked.images).result()
    peer = _train_timm(asked)
    return Pair(lambda: _worker().submit(_train_ours, asked).result(), peer)


def _against_pure_steps(asked: _Training) -> Pair:
    prepare(torch.get_num_threads())  # both sides in this process
    return Pair(partial(_train_ours, asked), _pure_steps(asked.network, asked.images // BATCH))


def _small(workers: int) -> list[float]:
    """Two small runs' worth of steps, shared by so many processes."""
    asked = _Training("narrow8_64", 1280)
    losses: list[float] = _pool(workers).map(_train_ours, [asked] * 2, chunksize=1)
    return losses


@cache
def _pool(workers: int) -> Any:
    context = multiprocessing.get_context("spawn")
    threads = max(torch.get_num_threads() // workers, 1)
    pool = context.Pool(workers, initializer=prepare, initargs=(threads,))
    pool.map(_make_images, [1280] * workers, chunksize=1)
    return pool


def _two_workers() -> Pair:
    cores = torch.get_num_threads()
    for workers in (cores, 1):
        _pool(workers)
    return Pair(partial(_small, cores), partial(_small, 1))


def _cases() -> Iterator[Case]:
    for name, goal in {"narrow8_64": 3.2, "resnet18": 2.2, "mobilenetv2_100": 2.8}.items():
        yield Case(
            f"training {name}, 64 px, an epoch of 10 steps",
            "timm's loader and step, its script's defaults",
            goal,
            partial(_against_timm, _Training(name, 1280)),
        )
    for name, goal in {"narrow8_64": 1.4, "resnet18": 1.3, "mobilenetv2_100": 1.7}.items():
        yield Case(
            f"training {name}, 64 px, an epoch of 10 steps, tuned peer",
            "the same, channels last, bfloat16 where it pays",
            goal,
            partial(_against_timm, _Training(name, 1280, tuned=True)),
        )
    for name in NETWORKS:
        yield Case(
            f"training {name}, 64 px, steady state of 20 steps, tuned peer",
            "the same, its loader processes running",
            0.95,
            partial(_against_timm, _Training(name, 2560, tuned=True, steady=True)),
        )
    for name in NETWORKS:
        yield Case(
            f"training {name}, 64 px, 10 steps, share of the pure step",
            "forward, backward and SGD on one batch in memory",
            0.95,
            partial(_against_pure_steps, _Training(name, 1280)),
            note="1 is the limit",
        )
    yield Case(
        "two small runs: a worker of one thread per core",
        "one process with all cores",
        1.27,
        _two_workers,
        note="the pool's default",
    )


CASES = tuple(_cases())
