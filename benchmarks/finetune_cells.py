"""What the comparisons of `benchmarks.finetune` share: divided folders, the clock, tables.

Every folder is `FOLDER/[train|val/]CLASS/image`; its images are pooled, made smaller (short side
256) and divided anew for each split: a fifth of each class tests, the rest is labelled, all of it
or some of each class.

Time is CPU time (user and system, of a whole tree of processes, one thread each), so that other
work on the machine does not count. Starting Python and importing libraries is not counted for
anyone: it is seconds whatever the budget.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SIDE = 256

BASE_S, SECONDS_OF_AN_IMAGE = 28.0, 0.05
"""The budget is so many CPU seconds, and so many more for each labelled image: 30 to 129."""


def budget_of(labelled: int) -> int:
    """CPU seconds for a folder with so many labelled images.

    >>> budget_of(40), budget_of(2022)
    (30, 129)
    """
    return round(BASE_S + labelled * SECONDS_OF_AN_IMAGE)


@dataclass(frozen=True)
class Cell:
    """A division of a folder: so many images of each class (None is all), and which draw."""

    source: Path
    per_class: int | None
    split: int

    @property
    def name(self) -> str:
        return f"{self.source.name}-{self.per_class or 'all'}-{self.split}"


def images_by_class(source: Path) -> dict[str, list[Path]]:
    """All images of a folder, those of its `train/`, `val/` and `test/` together."""
    parts = [source / name for name in ("train", "val", "test") if (source / name).is_dir()]
    found: dict[str, list[Path]] = {}
    for part in parts or [source]:
        for label in sorted(path for path in part.iterdir() if path.is_dir()):
            found.setdefault(label.name, []).extend(sorted(label.iterdir()))
    return found


def smaller(source: Path, work: Path) -> Path:
    """A copy of a folder whose images have `SIDE` pixels on their short side."""
    copy = work / "images" / source.name
    for label, paths in images_by_class(source).items():
        (copy / label).mkdir(parents=True, exist_ok=True)
        for path in paths:
            there = copy / label / f"{path.stem}.jpg"
            if not there.exists():
                image = Image.open(path).convert("RGB")
                factor = SIDE / min(image.size)
                if factor < 1:
                    sides = (round(image.width * factor), round(image.height * factor))
                    image = image.resize(sides, Image.Resampling.BICUBIC)
                image.save(there, quality=95)
    return copy


def divide(cell: Cell, work: Path) -> tuple[Path, int]:
    """The folder of a cell, `train/` and `test/` of links, and its labelled images."""
    folder, labelled = work / "splits" / cell.name, 0
    for number, (label, paths) in enumerate(sorted(images_by_class(cell.source).items())):
        order = np.random.default_rng([cell.split, number]).permutation(len(paths))
        tested = round(len(paths) / 5)
        train = (
            order[tested:] if cell.per_class is None else order[tested : tested + cell.per_class]
        )
        labelled += len(train)
        for part, chosen in (("test", order[:tested]), ("train", train)):
            (folder / part / label).mkdir(parents=True, exist_ok=True)
            for index in chosen:
                there = folder / part / label / paths[index].name
                if not there.exists():
                    os.link(paths[index], there)
    return folder, labelled


# --- the clock of the processor ---


@dataclass
class CpuClock:
    """CPU seconds of this process and all below it, less what is not counted."""

    uncounted: float = 0.0
    begun: float = field(default_factory=lambda: cpu_seconds())

    def __call__(self) -> float:
        return cpu_seconds() - self.begun - self.uncounted


def cpu_seconds() -> float:
    """CPU time of this process, its ended children, and those that live (Linux)."""
    tick, spent = os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            spent += sum(int(ticks) for ticks in fields[11:15]) / tick
    return spent


def start_seconds(work: Path) -> float:
    """CPU time of a worker until it can be given a run: Python and its libraries.

    The least that was ever measured with this `work`: more would be taken off what a race spent.
    """
    before = os.times()
    imports = "import bench.runs.build, bench.runs.execute, bench.training.process"
    subprocess.run([sys.executable, "-c", imports], check=True)
    after = os.times()
    return _least(work, "start", sum(after[2:4]) - sum(before[2:4]))


def _least(work: Path, what: str, seconds: float) -> float:
    """The least seconds that `what` ever took on this machine with this `work`."""
    kept = work / f"least-{platform.node()}.json"
    found: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    found[what] = min(seconds, found.get(what, math.inf))
    kept.write_text(json.dumps(found))
    return found[what]


@functools.cache
def forward_rate(size: int, work: Path) -> float:
    """Images that the network classifies in a CPU second, at the best that was ever measured."""
    import timm
    import torch

    torch.set_num_threads(1)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network = network.to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(images)
        begun = time.process_time()
        for _ in range(3):
            network(images)
    return 48 / _least(work, f"48 images of {size}", time.process_time() - begun)


# --- processes and tables ---


def ask(command: list[str]) -> dict[str, Any]:
    """The JSON on the last line that a contestant prints."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        env={**os.environ, **threads},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def read(path: Path) -> Iterator[dict[str, str]]:
    """Rows of the table so far."""
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
