"""What people use in place of `bench finetune`, each as a process: fastai, timm, scikit-learn.

    python -m benchmarks.finetune_peers NAME FOLDER SECONDS SIZE WEIGHTS

trains on FOLDER/train/CLASS, tests on FOLDER/test/CLASS, and prints one line of JSON. It needs timm
and scikit-learn, and `pip install fastai` for that one; nothing of `bench`.

The clock is the CPU time of this process with one thread. Not counted, for any contestant: starting
Python and importing libraries, the search for a learning rate, measuring the speed, and the test.
Epochs are as many as fit into SECONDS at the measured speed, at least two. All labelled images
train; nothing is chosen.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn

NETWORK = "tf_efficientnet_lite0"
CROP = 0.875
MEAN = STD = (0.5, 0.5, 0.5)
FULL_SIZE = 224


@dataclass(frozen=True)
class Job:
    """A folder, CPU seconds for it, the side of the images, and weights under timm's names."""

    folder: Path
    seconds: float
    size: int
    weights: Path

    def files(self, part: str) -> tuple[list[Path], np.ndarray[Any, Any]]:
        """Images of `train` or `test`, and the numbers of their classes."""
        classes = sorted(path.name for path in (self.folder / "train").iterdir())
        found = [
            (path, number)
            for number, label in enumerate(classes)
            for path in sorted((self.folder / part / label).iterdir())
        ]
        return [path for path, _ in found], np.array([number for _, number in found])

    @property
    def batch(self) -> int:
        """As many as the race takes."""
        return 16 if len(self.files("train")[0]) < 1000 else 32


def epochs_in(seconds: float, images: int, batch: int, step: Callable[[], object]) -> int:
    """Epochs that fit, by the speed of four steps after a first one; at least two."""
    step()
    begun = time.process_time()
    for _ in range(4):
        step()
    of_step = (time.process_time() - begun) / 4
    return max(2, math.floor(seconds / (of_step * images / batch)))


def accuracy(network: nn.Module, job: Job, size: int) -> float:
    """Top-1 on the test images, as the weights want them shown."""
    show = create_transform(size, crop_pct=CROP, interpolation="bicubic", mean=MEAN, std=STD)
    paths, labels = job.files("test")
    network.eval()
    named: list[int] = []
    with torch.inference_mode():
        for at in range(0, len(paths), 64):
            images = [show(Image.open(path).convert("RGB")) for path in paths[at : at + 64]]
            named += network(torch.stack(images)).argmax(1).tolist()
    return float((np.array(named) == labels).mean())


def logistic(job: Job) -> dict[str, Any]:
    """scikit-learn's LogisticRegression as it is, on features at the weights' own size."""
    from sklearn.linear_model import LogisticRegression

    network = timm.create_model(NETWORK, num_classes=0)
    network.load_state_dict(torch.load(job.weights, weights_only=True), strict=False)
    network.eval()
    show = create_transform(FULL_SIZE, crop_pct=CROP, interpolation="bicubic", mean=MEAN, std=STD)

    def features(part: str) -> tuple[Any, Any]:
        paths, labels = job.files(part)
        with torch.inference_mode():
            parts = [network(show(Image.open(path).convert("RGB"))[None]) for path in paths]
        return torch.cat(parts).numpy(), labels

    begun = time.process_time()
    x, labels = features("train")
    classifier = LogisticRegression(max_iter=10_000).fit(x, labels)
    seconds = time.process_time() - begun
    x, labels = features("test")
    return {"accuracy": float(classifier.score(x, labels)), "seconds": seconds, "epochs": 0}


def fastai(job: Job) -> dict[str, Any]:
    """`vision_learner`, `lr_find` (valley) and `fine_tune` with their defaults.

    Images and batches as its tutorials have them: `Resize`, `aug_transforms`, normalised as the
    weights were.
    """
    from fastai.vision import all as fast

    paths, labels = job.files("train")
    of = dict(zip(paths, labels.tolist(), strict=True))

    def learner() -> Any:
        block = fast.DataBlock(
            blocks=(fast.ImageBlock, fast.CategoryBlock),
            splitter=lambda items: (
                range(len(items)),
                [0],
            ),  # all train; fastai insists on a second part
            get_y=lambda path: of[path],
            item_tfms=fast.Resize(round(job.size / CROP)),
            batch_tfms=fast.aug_transforms(size=job.size, min_scale=0.75),
        )
        loaders = block.dataloaders(paths, bs=job.batch, num_workers=0)
        file = {"file": str(job.weights)}
        return fast.vision_learner(loaders, NETWORK, metrics=[], pretrained_cfg_overlay=file)

    found = learner()
    rate = found.lr_find(show_plot=False).valley
    trial = learner()
    trial.unfreeze()
    trial.model.train()
    batches = iter(trial.dls.train)

    def step() -> None:
        nonlocal batches
        try:
            images, labels = next(batches)
        except StopIteration:
            batches = iter(trial.dls.train)
            images, labels = next(batches)
        trial.loss_func(trial.model(images), labels).backward()

    epochs = epochs_in(job.seconds, len(paths), job.batch, step)
    found = learner()
    begun = time.process_time()
    with found.no_bar(), found.no_logging():
        found.fine_tune(max(1, epochs - 1), rate)  # and one epoch with the trunk frozen
    seconds = time.process_time() - begun
    paths, labels = job.files("test")
    with found.no_bar():
        scores, _ = found.get_preds(dl=found.dls.test_dl(paths, bs=64))
    right = float((scores.argmax(1).numpy() == labels).mean())
    return {"accuracy": right, "seconds": seconds, "epochs": epochs, "lr": float(rate)}


def timm_script(job: Job) -> dict[str, Any]:
    """The defaults of timm's `train.py` with `--pretrained`: SGD, rate 0.1 per 256 images, cosine.

    Random resized crops (8 to 100 %), colour jitter 0.4, mirroring, label smoothing 0.1, weight
    decay 2e-5, momentum 0.9; its warm-up of 5 of 300 epochs is cut to one epoch here.
    """
    from timm.optim import create_optimizer_v2

    paths, labels = job.files("train")
    show = create_transform(job.size, is_training=True, color_jitter=0.4, mean=MEAN, std=STD)
    network = timm.create_model(
        NETWORK,
        pretrained=True,
        num_classes=int(labels.max()) + 1,
        pretrained_cfg_overlay={"file": str(job.weights)},
    ).to(memory_format=torch.channels_last)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    rate = 0.1 * job.batch / 256
    optimizer = create_optimizer_v2(network, "sgd", lr=rate, weight_decay=2e-5, momentum=0.9)
    order = np.random.default_rng(0)

    def batches() -> Iterable[np.ndarray[Any, Any]]:
        mixed = order.permutation(len(paths))
        return np.array_split(mixed, max(1, len(mixed) // job.batch))

    def step(chosen: Any) -> None:
        images = torch.stack([show(Image.open(paths[i]).convert("RGB")) for i in chosen])
        optimizer.zero_grad()
        loss_of(
            network(images.contiguous(memory_format=torch.channels_last)),
            torch.from_numpy(labels[chosen]),
        ).backward()
        optimizer.step()

    network.train()
    some = np.arange(min(job.batch, len(paths)))
    epochs = epochs_in(job.seconds, len(paths), job.batch, lambda: step(some))
    network.load_state_dict(start)
    optimizer.state.clear()
    begun, steps, at = time.process_time(), epochs * len(list(batches())), 0
    warm = steps // epochs
    for _ in range(epochs):
        for chosen in batches():
            share = (at - warm) / max(1, steps - warm)
            now = (
                rate * (at + 1) / warm if at < warm else rate * (1 + math.cos(math.pi * share)) / 2
            )
            for group in optimizer.param_groups:
                group["lr"] = now
            step(chosen)
            at += 1
    seconds = time.process_time() - begun
    return {
        "accuracy": accuracy(network, job, job.size),
        "seconds": seconds,
        "epochs": epochs,
        "lr": rate,
    }


PEERS = {"fastai": fastai, "timm": timm_script, "logistic": logistic}


def main() -> None:
    """Runs one of them."""
    name, folder, seconds, size, weights = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    if name == "fastai":
        import fastai.vision.all  # noqa: F401  # importing is not counted
    job = Job(Path(folder), float(seconds), int(size), Path(weights))
    print("\n" + json.dumps(PEERS[name](job)), flush=True)  # after what bars of progress have left


if __name__ == "__main__":
    main()
