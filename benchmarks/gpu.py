"""What a GPU does with this harness: whole loops, small runs at once, a whole grid.

    python -m benchmarks.gpu                     # all parts; writes benchmarks/GPU.md
    python -m benchmarks.gpu --part grid --data-root /where/data/sets/are
    python -m benchmarks.gpu --device cpu --images 256 --side 32 --network narrow8_32 --batch 32

`speed`: four ways to train one network on the same images, each for the same number of steps.

* `pure step`: forward, backward and SGD on one batch that lies on the GPU, the least a step takes;
* `resident`: this harness's loop, images on the GPU;
* `streamed`: the same loop, each batch from pinned host memory;
* `timm`: timm's loader from JPEG files and timm's optimiser, as its training script puts them
  together, with its fastest flags (channels last, bfloat16) and a loader process per core.

The goals, of `--network resnet50` at 224 pixels in bfloat16: `resident` and `streamed` at 90 % of
`pure step` or more, and at least 1.5 times `timm`. Utilisation is what `nvidia-smi` samples.

`together`: K small networks one after another, as one batched model, and as CUDA graphs
(`benchmarks/gpu_together.py`): what building either into the harness would gain.

`grid`: `grids/tiny-imagenet.yaml`, the whole of it, with one, four and as many workers to a GPU as
its memory takes; `--grid FILE` takes another. With `--device cpu`, which tries the command itself,
nothing is written and the grid is the quickstart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models import layers
from bench.models.numbering import depth
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training.domain import Domain
from bench.training.job import EpochReport, TrainingJob
from bench.training.loop import train
from bench.training.precision import autocast
from bench.training.process import prepare
from benchmarks.gpu_together import COUNTS, Small
from benchmarks.gpu_together import measured as together

CLASSES = 100
PAGE = Path(__file__).with_name("GPU.md")
KEPT = Path(__file__).with_name("gpu.json")
_EPOCHS = 4
"""The first of them, in which memory is allocated and loaders start, does not count."""


@dataclass(frozen=True)
class Asked:
    """What is trained, and where."""

    network: str
    side: int
    batch: int
    images: int
    precision: str
    device: torch.device

    @property
    def recipe(self) -> TrainSpec:
        """That of all four ways."""
        return TrainSpec.model_validate(
            {
                "epochs": _EPOCHS,
                "batch_size": self.batch,
                "precision": self.precision,
                "augment": "crop_flip",
                "select": "last",
            }
        )

    def model(self) -> nn.Module:
        """The network, at random."""
        spec = ModelSpec(name=self.network)
        made = layers.create(spec, CLASSES, seed=0, image_size=self.side)
        return made.to(device=self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


@dataclass
class Measured:
    """Images per second of each epoch but the first, and the GPU's utilisation in them."""

    images_per_s: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the epochs."""
        return statistics.median(self.images_per_s)


@contextmanager
def sampled(into: list[float]) -> Iterator[None]:
    """The utilisation in %, ten times a second, as one `nvidia-smi` prints it meanwhile.

    It is of the first card of `CUDA_VISIBLE_DEVICES`; nothing where there is no such command. No
    thread starts processes here: timm's loader forks at the same time, and each would wait for the
    other.
    """
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    command += ["--loop-ms=100"]
    if card := os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]:
        command += ["--id", card]
    with tempfile.TemporaryFile("w+") as printed:
        try:
            sampler = subprocess.Popen(command, stdout=printed, stderr=subprocess.DEVNULL)
        except OSError:
            yield
            return
        try:
            yield
        finally:
            sampler.terminate()
            sampler.wait()
        printed.seek(0)
        into.extend(float(line) for line in printed.read().split() if line.isdigit())


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(asked: Asked, epoch: Callable[[], int]) -> Measured:
    """Times `epoch`, which trains one and gives the number of its images."""
    found = Measured()
    for number in range(_EPOCHS):
        used: list[float] = []
        begun = time.monotonic()
        with sampled(used):
            images = epoch()
            wait(asked.device)
        if number:
            found.images_per_s.append(images / (time.monotonic() - begun))
            found.utilisation += used
    return found


def pure_step(asked: Asked, _: Path, __: NDArray[np.uint8]) -> Measured:
    """Forward, backward and SGD on one batch that is there already."""
    shape = (asked.batch, 3, asked.side, asked.side)
    images = torch.randn(shape, device=asked.device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(asked.batch, device=asked.device) % CLASSES
    step, steps = _step(asked), max(1, asked.images // asked.batch)

    def epoch() -> int:
        for _ in range(steps):
            step(images, labels)
        return steps * asked.batch

    return timed(asked, epoch)


def _step(asked: Asked) -> Callable[[Tensor, Tensor], None]:
    model = asked.model()
    sgd = create_optimizer_v2(model, opt="sgd", lr=0.01, weight_decay=5e-4, momentum=0.9)

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(asked.device, asked.precision):
            loss = nn.functional.cross_entropy(model(images), labels)
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()

    return step


def resident(asked: Asked, _: Path, decoded: NDArray[np.uint8]) -> Measured:
    """The loop of this harness, images on the GPU where they fit."""
    return _ours(asked, decoded, is_resident=True)


def streamed(asked: Asked, _: Path, decoded: NDArray[np.uint8]) -> Measured:
    """The loop of this harness, each batch from the host."""
    return _ours(asked, decoded, is_resident=False)


def _ours(asked: Asked, decoded: NDArray[np.uint8], *, is_resident: bool) -> Measured:
    recipe, model = asked.recipe, asked.model()
    labels = np.arange(len(decoded), dtype=np.int64) % CLASSES
    pattern = LayerPattern.parse(f"R(1-{depth(model)})")
    groups = layers.parameter_groups(model, pattern, recipe)
    method = Plain(Ingredients(Domain("speed", decoded, labels, CLASSES), recipe))
    found = Measured()

    def on_epoch(report: EpochReport) -> None:
        if report.epoch:
            found.images_per_s.append(report.images_per_s)

    job = TrainingJob(
        model,
        method,
        groups,
        recipe,
        device=asked.device,
        on_epoch=on_epoch,
        resident=is_resident,
    )
    with sampled(found.utilisation):
        train(job)
    return found


def timm_parts(asked: Asked, folder: Path, _: NDArray[np.uint8]) -> Measured:
    """timm's loader from JPEG files and timm's optimiser."""
    loader = create_loader(
        create_dataset("", root=str(folder), split="train", is_training=True),
        input_size=(3, asked.side, asked.side),
        batch_size=asked.batch,
        is_training=True,
        color_jitter=0.0,
        num_workers=len(os.sched_getaffinity(0)),
        device=asked.device,
        persistent_workers=True,
        pin_memory=asked.device.type == "cuda",
    )
    step = _step(asked)

    def epoch() -> int:
        count = 0
        for images, labels in loader:
            step(images.contiguous(memory_format=torch.channels_last), labels)
            count += len(images)
        return count

    return timed(asked, epoch)


WAYS: dict[str, Callable[[Asked, Path, NDArray[np.uint8]], Measured]] = {
    "pure step": pure_step,
    "resident": resident,
    "streamed": streamed,
    "timm": timm_parts,
}


def made_up(count: int, side: int, folder: Path) -> NDArray[np.uint8]:
    """JPEG files in a folder per class, and what is in them."""
    rng = np.random.default_rng(0)
    decoded = np.empty((count, side, side, 3), np.uint8)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        path = folder / f"class{number % CLASSES:03d}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture.save(path, quality=90)
        decoded[number] = np.asarray(Image.open(path))
    return decoded


def rows(asked: Asked) -> list[list[str]]:
    """The cells of the table for each way."""
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as home:
        decoded = made_up(asked.images, asked.side, Path(home))
        for name, way in WAYS.items():
            found[name] = way(asked, Path(home), decoded)
    least, peer = found["pure step"].median, found["timm"].median
    lines = []
    for name, one in found.items():
        used = f"{statistics.mean(one.utilisation):.0f} %" if one.utilisation else "?"
        cells = [asked.network, str(asked.side), asked.precision, name, f"{one.median:,.0f}"]
        lines.append([*cells, f"{one.median / least:.0%}", f"{one.median / peer:.2f}", used])
    return lines


GRIDS = Path(__file__).parents[1] / "grids"
WORKERS = ("1", "4", "auto")


def grid_lines(grid: Path, data_root: Path | None, workers: Sequence[str]) -> list[list[str]]:
    """A line for each number of workers per GPU: the grid from nothing to its leaderboards."""
    lines = []
    for per_gpu in workers:
        used: list[float] = []
        with tempfile.TemporaryDirectory(prefix="bench-gpu-grid-") as home:
            command = [sys.executable, "-m", "bench", "grid", str(grid), "--results", home]
            command += ["--workers-per-gpu", per_gpu] if per_gpu else []
            command += ["--data-root", str(data_root)] if data_root else []
            begun = time.monotonic()
            with sampled(used):
                status = subprocess.run(command, check=False).returncode
            took = time.monotonic() - begun
            board = Path(home, f"{grid.stem}.csv")
            runs = len(board.read_text().splitlines()) - 1 if board.exists() else 0
        if status:  # the others are worth knowing all the same
            cells = [str(runs), f"exit {status}", "", ""]
        else:
            busy = f"{statistics.mean(used):.0f} %" if used else "?"
            cells = [str(runs), f"{took:,.0f}", f"{took / runs:.1f}", busy]
        lines.append([grid.name, per_gpu, *cells])
    return lines


@dataclass(frozen=True)
class Part:
    """A table of the page: its words, its columns, the first cells of its rows."""

    title: str
    about: str
    columns: Sequence[str]
    expected: tuple[tuple[str, ...], ...]

    def text(self, measured: Mapping[str, Any]) -> str:
        """The table; a row that was not measured has empty cells."""
        shown = [list(row) for row in measured["lines"]]
        for row in self.expected:
            if not any(tuple(one[: len(row)]) == row for one in shown):
                shown.append([*row, *[""] * (len(self.columns) - len(row))])
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, *shown)]
        lines.insert(1, f"|{' --- |' * len(self.columns)}")
        about = " ".join(filter(None, (self.about, measured["where"])))
        return f"## {self.title}\n\n{about}\n\n" + "\n".join(lines) + "\n"


PARTS = {
    "speed": Part(
        "Images per second",
        "Goals for ResNet-50 in bfloat16: `resident` and `streamed` at 90 % of `pure step`, and "
        "1.5 times `timm`.",
        (
            *("network", "side", "precision", "way"),
            *("images/s", "of the pure step", "times timm", "utilisation"),
        ),
        tuple(
            (network, side, "bfloat16", way)
            for network, side in (("resnet50", "224"), ("narrow8_64", "64"))
            for way in WAYS
        ),
    ),
    "together": Part(
        "Small runs at once",
        "Images per second of K networks one after another, as one batched model, and (K = 1) as a "
        "CUDA graph. Neither is part of the harness: these rows decide whether it pays.",
        ("network", "side", "batch", "K", "apart", "batched", "gain", "graph", "gain"),
        tuple(("narrow8_32", "32", "32", str(count)) for count in COUNTS),
    ),
    "grid": Part(
        "A whole grid",
        "`grids/tiny-imagenet.yaml` from nothing to its leaderboards.",
        ("grid", "workers per GPU", "runs", "seconds", "seconds per run", "utilisation"),
        tuple(("tiny-imagenet.yaml", workers) for workers in WORKERS),
    ),
}
HEAD = """\
# What a GPU does with this harness

Written by `python -m benchmarks.gpu`; its docstring says what is measured and how.
"""
NOT_RUN = """
Not run yet: no GPU was at hand. What is tested without one is what a step costs beside its
arithmetic (`tests/fake_cuda/test_counts.py`): no wait for the GPU, no copy but a batch of the
host's images; and that batched networks take the steps of separate ones
(`tests/test_gpu_benchmark.py`).
"""


def keep(part: str, where: str, lines: list[list[str]]) -> None:
    """Puts a part into gpu.json, and writes the page of all parts."""
    found = {**kept(), part: {"where": where, "lines": lines}}
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))


def kept() -> dict[str, Any]:
    """What was measured of each part, and where."""
    found: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def page(found: Mapping[str, Any]) -> str:
    """The whole of GPU.md."""
    parts = (part.text(found.get(name, {"where": "", "lines": ()})) for name, part in PARTS.items())
    return "\n".join([HEAD + ("" if found else NOT_RUN), *parts])


def speed_lines(options: argparse.Namespace, device: torch.device) -> list[list[str]]:
    """Four lines for each network."""
    lines = []
    for network in options.network or ["resnet50", "narrow8_64"]:
        side = 64 if network == "narrow8_64" else options.side
        lines += rows(
            Asked(network, side, options.batch, options.images, options.precision, device)
        )
    return lines


def measured_parts(
    options: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, list[list[str]]]]:
    """Each part that is asked for, as soon as it is measured."""
    for part in options.part or PARTS:
        if part == "speed":
            yield part, speed_lines(options, device)
        elif part == "together":
            counts = COUNTS if device.type == "cuda" else COUNTS[:2]
            yield part, together(Small(), device, counts)
        else:
            is_gpu = device.type == "cuda"
            grid = options.grid or GRIDS / f"{'tiny-imagenet' if is_gpu else 'quickstart'}.yaml"
            yield part, grid_lines(grid, options.data_root, WORKERS if is_gpu else ("",))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="all parts by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--network", action="append", help="resnet50 and narrow8_64 by default")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--grid", type=Path, help="another one than tiny-imagenet.yaml")
    parser.add_argument("--data-root", type=Path, help="where tiny-imagenet-200 lies")
    options = parser.parse_args()
    device = torch.device(options.device)
    prepare(torch.get_num_threads())
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --device cpu tries the command itself")
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else f"a processor ({device})"
    where = f"Measured on {name}, torch {torch.__version__}."
    for part, lines in measured_parts(options, device):
        print(PARTS[part].text({"where": where, "lines": lines}), flush=True)
        if is_gpu:
            keep(part, where, lines)


if __name__ == "__main__":
    main()
