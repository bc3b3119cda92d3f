"""The peer of grid cells: fine-tuning as people write it, one script, no library of ours.

ImageFolder, a transform per image, float32, frozen layers with `requires_grad = False`, evaluation
each epoch. `python -m benchmarks.plain JOB.json` trains one chain of runs: its source first, then
the target.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bench.models.layers import register_networks

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_folder(root: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """JPEG files in a folder per class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / f"{int(label):04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(path, quality=95)


def train_plain(
    folder: Path,
    network: str,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    frozen: Sequence[str] = (),
    start: Mapping[str, torch.Tensor] | None = None,
    crop: bool = True,
    evaluate_every: int = 1,
) -> dict[str, torch.Tensor]:
    """Trains on `folder/train`, evaluates on `folder/val` now and then and on `folder/test` last.

    Args:
        folder: with train and test, and perhaps val; a folder per class in each.
        network: a name that timm knows.
        epochs, batch_size, lr: SGD with Nesterov momentum and a cosine schedule.
        frozen: names that the names of frozen parameters begin with.
        start: weights to copy; those that do not fit (the classifier) stay random.
        crop: random crops beside mirroring.
        evaluate_every: epochs between evaluations.
    """
    side = Image.open(next((folder / "train").glob("*/*"))).size[0]
    last = [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    cropped = [transforms.RandomCrop(side, 4)] if crop else []
    noisy = transforms.Compose([*cropped, transforms.RandomHorizontalFlip(), *last])
    still = transforms.Compose(last)
    sets = {"train": ImageFolder(str(folder / "train"), noisy)}
    for name in ("val", "test"):
        if (folder / name).is_dir():
            sets[name] = ImageFolder(str(folder / name), still)
    loaders = {
        name: torch.utils.data.DataLoader(data, batch_size, shuffle=name == "train")
        for name, data in sets.items()
    }
    register_networks()
    model = timm.create_model(network, num_classes=len(sets["train"].classes))
    if start is not None:
        own = model.state_dict()
        fitting = {k: v for k, v in start.items() if own[k].shape == v.shape}
        model.load_state_dict(fitting, strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not any(name.startswith(prefix) for prefix in frozen)
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs * len(loaders["train"]))
    loss_of = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.train()
        for images, labels in loaders["train"]:
            loss = loss_of(model(images), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
        if "val" in loaders and (epoch + 1) % evaluate_every == 0:
            _accuracy(model, loaders["val"])
    _accuracy(model, loaders["test"])
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def _accuracy(model: nn.Module, loader: Any) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def main(path: str) -> int:
    """Trains a chain of runs: `[{folder, network, epochs, …}, …]`."""
    state = None
    for job in json.loads(Path(path).read_text()):
        state = train_plain(Path(job.pop("folder")), job.pop("network"), start=state, **job)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
