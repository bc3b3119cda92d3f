"""Do runs that share give the same leaderboard? `python -m benchmarks.equal [GRID] [KEY=VALUE …]`.

Trains a grid (the quickstart grid) twice in float32, run by run in one process of one thread: once
sharing activations and fusing classifiers as always, once with all of that off; and compares every
deterministic column of the two leaderboards. Five minutes on two cores.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.planning.plan import batches
from bench.planning.workspace import open_session
from bench.results.leaderboard import rows
from bench.results.records import DETERMINISTIC_COLUMNS
from bench.results.store import Store
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.training.process import prepare
from benchmarks.limit import FLOAT32

GRID = Path(__file__).parents[1] / "grids" / "quickstart.yaml"
TOLERANCE = 1e-5
"""Absolute: what fused classifiers may differ by in a loss; accuracies and counts are equal."""

Board = list[dict[str, Any]]


def differences(ours: Board, theirs: Board) -> dict[str, float]:
    """The largest difference of each deterministic column that differs; inf for text."""
    largest: dict[str, float] = {}
    for mine, its in zip(ours, theirs, strict=True):
        for name in DETERMINISTIC_COLUMNS:
            a, b = mine.get(name), its.get(name)
            if a == b or (a != a and b != b):
                continue
            apart = math.inf
            if isinstance(a, int | float) and isinstance(b, int | float):
                apart = abs(a - b)
            largest[name] = max(largest.get(name, 0.0), apart)
    return largest


def _train(grid: str, settings: Sequence[str], results: str, share: bool) -> None:
    prepare(1)
    session = open_session(Path(grid), results=Path(results), overrides=settings)
    runs = sorted(session.plan.runs.values(), key=lambda run: run.role != "source")
    context = Context(results, share=share)
    for batch in batches(runs, cost_s=lambda run: 1.0, limit_s=math.inf):
        execute_batch(
            [(run.id, run.spec) for run in batch.runs],
            context,
            report=lambda event: None,
            should_stop=lambda: False,
        )


def _board(grid: Path, settings: Sequence[str], results: str) -> Board:
    session = open_session(grid, results=Path(results), overrides=settings)
    return rows(session.plan, Store(Path(results)))


def _shared(results: str) -> Counter[str]:
    """How many runs' records say what was shared, by the first word of it."""
    found = Counter[str]()
    for path in Store(Path(results)).runs.glob("*/record.json"):
        notes = json.loads(path.read_text())["notes"].get("sharing", {})
        found.update(f"{name} {text.split(':')[0].split()[0]}" for name, text in notes.items())
    return found


def main(arguments: Sequence[str]) -> int:
    """Prints what differs; 1 when that is more than the tolerance."""
    settings = [*FLOAT32, *(text for text in arguments if "=" in text)]
    grid = next((Path(text) for text in arguments if "=" not in text), GRID)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as on, tempfile.TemporaryDirectory() as off:
        both = [
            spawn.Process(target=_train, args=(str(grid), settings, results, share))
            for results, share in ((on, True), (off, False))
        ]
        for process in both:
            process.start()
        for process in both:
            process.join()
        ours, theirs = _board(grid, settings, on), _board(grid, settings, off)
        done = Counter(str(row["status"]) for row in (*ours, *theirs))
        print(f"{grid.name} {' '.join(settings)}: {len(ours)} runs, twice: {dict(done)}")
        print(f"shared: {dict(_shared(on))}; with sharing off: {dict(_shared(off))}")
        found = differences(ours, theirs)
    for name, apart in sorted(found.items()):
        print(f"  {name} differs by at most {apart:.2g}")
    if not found:
        print("every deterministic column is equal")
    return int(set(done) != {"done"} or any(apart > TOLERANCE for apart in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
