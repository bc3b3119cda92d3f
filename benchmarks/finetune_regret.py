"""What the race of `bench finetune` gives up: beside the whole grid of its recipes.

The whole grid has every recipe of the race: classifiers on features, and each recipe that trains
the network, at the image size of the race and on the same draws of validation images. Those train
for so many times the CPU seconds that the whole race took, in equal parts, and for no fewer epochs
than the last recipes of the race. Of all of them validation images choose one, by the rule of the
race, and it is trained on all labels, as the race's winner is.

*Regret* is the test accuracy of the grid's choice less that of the race's, on the same test images.
The *oracle* is the recipe that is best on the test images themselves, which nobody can choose; it
is the best of many on the images that name it, so it is above what its recipe is worth. It is
tested as it was validated: networks are then trained on four fifths of the labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.files import write_csv
from bench.results.mistakes import paired_interval
from benchmarks.finetune_cells import ROOT, Cell, ask, budget_of, divide, read, smaller

CSV = ROOT / "results" / "benchmarks" / "finetune-regret.csv"
TIMES = 4.0


def run(options: argparse.Namespace) -> None:
    """Measures what is missing of the table, one cell after the other.

    Raises:
        SystemExit: at the end, where a cell had no result; the others are in the table.
    """
    work: Path = options.work
    failed = 0
    work.mkdir(parents=True, exist_ok=True)
    for split in options.splits:
        for per_class in options.per_class:
            for source in options.folders:
                cell = Cell(smaller(source.resolve(), work), per_class or None, split)
                rows = list(read(options.csv))
                key = {
                    "folder": cell.source.name,
                    "per_class": str(cell.per_class or "all"),
                    "split": str(cell.split),
                }
                if any(key.items() <= row.items() for row in rows):
                    continue
                folder, labelled = divide(cell, work)
                command = [sys.executable, "-m", "benchmarks.finetune", "regret-of", str(folder)]
                command += [str(budget_of(labelled)), "--times", str(options.times)]
                try:
                    found = ask([*command, "--work", str(work)])
                except SystemExit as error:
                    failed += 1
                    print(cell.name, error, flush=True)
                    continue
                print(found["race"]["words"], found["grid"]["words"])
                options.csv.parent.mkdir(parents=True, exist_ok=True)
                write_csv(options.csv, [*rows, {**key, **_row(found)}])
                print(*key.values(), *_row(found).values(), flush=True)
    if failed:
        raise SystemExit(f"{failed} without a result; the same command tries them again")


def measure(options: argparse.Namespace) -> None:
    """One cell, as JSON; imports torch, so that the page is made without."""
    from benchmarks.finetune_race import regret

    print(json.dumps(regret(options.folder, options.seconds, options.times, options.work)))


def _row(found: Mapping[str, Any]) -> dict[str, str]:
    row = {}
    for name in ("race", "grid"):
        row[f"{name}_accuracy"] = f"{found[name]['accuracy']:.4f}"
        row[f"{name}_cpu_s"] = f"{found[name]['seconds']:.1f}"
        row[f"{name}_recipe"] = found[name]["recipe"]
    row["oracle_accuracy"] = f"{found['oracle']['accuracy']:.4f}"
    row["oracle_recipe"] = found["oracle"]["recipe"]
    counts = ("grid_epochs", "test_images", "grid_alone", "race_alone")
    return row | {name: str(found[name]) for name in counts}


def section(rows: Sequence[Mapping[str, str]]) -> str:
    """The regrets as a section of the page; empty without rows."""
    if not rows:
        return ""
    lines = [
        "",
        "## Regret",
        "",
        "Made from `results/benchmarks/finetune-regret.csv`, which `python -m benchmarks.finetune "
        "regret FOLDER …` writes. The race beside the whole grid of its recipes, see "
        "`benchmarks/finetune_regret.py`: regret is the test accuracy of the grid's choice less "
        "that of the race's, in points, with a 95 % interval over the test images (paired; Agresti "
        "and Min; images that several splits test count as several). The oracle is chosen on the "
        "test images. Other work on a machine makes CPU seconds longer, those of both alike. The "
        "grid has four times the race's time or more, so with short races its networks train for "
        "few epochs.",
        "",
        "| photographs | per class | splits | race | whole grid | regret | oracle less race | "
        "CPU s of the race | of the grid | share |",
        "| --- " * 10 + "|",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["folder"], row["per_class"]), []).append(row)
    lines += [_line(*key, group) for key, group in sorted(groups.items())]
    if len(groups) > 1:
        lines.append(_line("all", "", rows))
    return "\n".join([*lines, ""])


def _line(folder: str, per_class: str, rows: Sequence[Mapping[str, str]]) -> str:
    race, grid, oracle = (
        _mean(100 * float(row[f"{name}_accuracy"]) for row in rows)
        for name in ("race", "grid", "oracle")
    )
    race_s, grid_s = (_mean(float(row[f"{n}_cpu_s"]) for row in rows) for n in ("race", "grid"))
    cells = [folder, per_class, str(len(rows)), f"{race:.1f}", f"{grid:.1f}"]
    cells += [f"{grid - race:+.1f}{_interval(rows)}", f"{oracle - race:+.1f}"]
    cells += [f"{race_s:.0f}", f"{grid_s:.0f}", f"{100 * race_s / grid_s:.0f} %"]
    return f"| {' | '.join(cells)} |"


def _interval(rows: Sequence[Mapping[str, str]]) -> str:
    """Of splits of one folder; folders of unlike size are averaged, which no count of images is."""
    if len({row["test_images"] for row in rows}) > 1:
        return ""
    _, low, high = (100 * value for value in paired_interval(*_answers(rows)))
    return f" ({low:+.1f} to {high:+.1f})"


def _answers(rows: Sequence[Mapping[str, str]]) -> tuple[Any, Any]:
    """Whether the grid's choice, and the race's, names each test image rightly, in some order."""
    images, grid, race = (
        sum(int(row[name]) for row in rows) for name in ("test_images", "grid_alone", "race_alone")
    )
    places = np.arange(images)
    both = places >= grid + race
    return both | (places < grid), both | ((places >= grid) & (places < grid + race))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
