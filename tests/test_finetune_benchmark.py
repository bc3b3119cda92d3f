"""The comparison with other tools: its splits, its clock, its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.finetune import Cell, CpuClock, divide, images_by_class, page, paired, smaller


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
