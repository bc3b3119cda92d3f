"""Training images per second, data included, against timm's own loader, optimiser and step.

The peer is put together from timm's parts with the settings that timm's training script has by
default (four loader processes, random resized crop and mirror, colour jitter, float32, NCHW), and
once more with the flags that make it fastest on a CPU (channels last, bfloat16 where that pays).
timm does not install the script itself. Both sides read the same JPEG files of 64 pixels; ours are
decoded once into a memory map, which is not counted, as it serves all runs of a grid.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
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
from bench.methods.plain import Plain
from bench.models import layers
from bench.spec import LayerPattern, ModelSpec, TrainSpec
from bench.training.domain import Domain
from bench.training.job import TrainingJob
from bench.training.loop import train
from benchmarks.compare import Case, Pair

__all__ = ["CASES"]

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


def _ours(name: str, images: int, epochs: int) -> Callable[[], float]:
    _, decoded = _folder(images)
    labels = np.arange(images, dtype=np.int64) % CLASSES
    recipe = TrainSpec(
        epochs=epochs,
        batch_size=BATCH,
        augment="crop_flip_color",
        precision=NETWORKS[name],  # type: ignore[arg-type]
        select="last",
    )

    def run() -> float:
        model = layers.create(ModelSpec(name=name), CLASSES, seed=0, image_size=SIDE)
        data = Domain("speed", decoded, labels, CLASSES)
        pattern = LayerPattern.parse(f"R(1-{layers.depth(model)})")
        groups = layers.parameter_groups(model, pattern, recipe)
        method = Plain(Ingredients(data, recipe))
        return train(TrainingJob(model, method, groups, recipe)).history[-1]["train_loss"] or 0.0

    return run


def _timm(name: str, images: int, epochs: int, tuned: bool, steady: bool) -> Callable[[], float]:
    home, _ = _folder(images)
    fast = {"memory_format": torch.channels_last} if tuned else {}
    half = tuned and NETWORKS[name] == "bfloat16"

    def batches(loader: Any) -> Iterator[Any]:
        for _ in range(epochs):
            yield from loader

    def run() -> float:
        dataset = create_dataset("", root=home.name, split="train", is_training=True)
        loader = create_loader(
            dataset,
            input_size=(3, SIDE, SIDE),
            batch_size=BATCH,
            is_training=True,
            color_jitter=0.4,
            num_workers=4,
            device=torch.device("cpu"),
            persistent_workers=steady,
        )
        model = layers.create(ModelSpec(name=name), CLASSES, seed=0, image_size=SIDE).to(**fast)
        optimiser = create_optimizer_v2(model, opt="sgd", lr=0.01, weight_decay=5e-4, momentum=0.9)
        loss_of = nn.CrossEntropyLoss()
        model.train()
        for inputs, target in batches(loader):
            inputs = inputs.contiguous(**fast) if fast else inputs
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = loss_of(model(inputs), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss.item())

    return run


def _pair(name: str, images: int, epochs: int, tuned: bool, steady: bool = False) -> Pair:
    return Pair(_ours(name, images, epochs), _timm(name, images, epochs, tuned, steady))


def _cases() -> Iterator[Case]:
    whole = {"narrow8_64": 3.2, "resnet18": 2.2, "mobilenetv2_100": 2.8}
    best = {"narrow8_64": 1.4, "resnet18": 1.3, "mobilenetv2_100": 1.7}
    for name, goal in whole.items():
        yield Case(
            f"training {name}, 64 px, 2 epochs of 10 steps",
            "timm's loader and step, its script's defaults",
            goal,
            partial(_pair, name, 1280, 2, False),
        )
    for name, goal in best.items():
        yield Case(
            f"training {name}, 64 px, 2 epochs of 10 steps, tuned peer",
            "the same, channels last, bfloat16 where it pays",
            goal,
            partial(_pair, name, 1280, 2, True),
        )
    for name in best:
        yield Case(
            f"training {name}, 64 px, one epoch of 60 steps, tuned peer",
            "the same, one long epoch: steady state",
            0.95,
            partial(_pair, name, 7680, 1, True, True),
            repeats=3,
        )


CASES = tuple(_cases())


if __name__ == "__main__":  # images per second of one network, by hand
    import sys

    started = time.perf_counter()
    _ours(sys.argv[1], 1280, 2)()
    print(f"{2560 / (time.perf_counter() - started):.0f} images/s")
