"""Print the tables of the README from the committed leaderboards.

    python scripts/readme_tables.py

The first is what `bench leaderboard grids/tiny-imagenet.yaml --only near-far --choose lr` prints
where the runs lie; the others are differences paired by task and seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import pair
from analysis.comparisons.units import summarise
from analysis.findings.evaluate import examine
from analysis.leaderboard.read import COPIED, PATTERN, SOURCE, read
from bench.commands._tables import experiment_table
from bench.results.aggregate import best_of, conditions, of_experiment
from bench.results.intervals import Estimate
from bench.results.records import COLUMNS

ROOT = Path(__file__).parents[1]
TINY, BORROWING = (ROOT / f"results/{n}.csv" for n in ("tiny-imagenet", "borrowing-tiny-imagenet"))
_TEXT = {c.name for c in COLUMNS if c.kind == "identity"} | {"method_options"}


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a leaderboard with numbers as numbers."""

    def typed(name: str, text: str) -> Any:
        if text == "":
            return None
        if name in _TEXT:
            return text
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    with path.open(newline="") as file:
        return [{k: typed(k, v) for k, v in row.items()} for row in csv.DictReader(file)]


def near_far() -> list[dict[str, Any]]:
    """The conditions of the near/far experiment at the rate that validation chose."""
    return best_of(conditions(of_experiment(rows(TINY), "near-far")), ["lr"])


def difference(
    board: pd.DataFrame, left: pd.Series[bool], right: pd.Series[bool], vary: tuple[str, ...]
) -> Estimate:
    """Points of two arms of the near/far experiment, each at its best rate by validation."""
    frame = pair(board, left, right, vary, lr="best").frame
    points = frame.assign(points=100 * frame["difference"])
    return summarise(points, "points", "difference", "difference", 100.0)


def differences() -> Iterator[tuple[str, int, Estimate]]:
    """The differences that the README's text names, by images per class."""
    board = read(TINY)
    board = board[[("near-far" in str(e).split(";")) for e in board["experiments"]]]
    near, far, none = (board["source"] == name for name in ("near", "far", "none"))
    tuned, frozen = (board["treatment"] == name for name in ("tune", "freeze"))
    nothing = (*SOURCE, *PATTERN, *COPIED)
    for name, left, right, vary in (
        ("near over far, tuned", near & tuned, far & tuned, SOURCE),
        ("near over far, frozen", near & frozen, far & frozen, SOURCE),
        ("frozen over tuned, near", near & frozen, near & tuned, PATTERN),
        ("near tuned over scratch", near & tuned, none, nothing),
        ("far frozen over scratch", far & frozen, none, nothing),
    ):
        for n in (5, 20, 100):
            size = board["n_per_class"] == n
            yield name, n, difference(board, left & size, right & size, vary)


def borrowing() -> pd.DataFrame:
    """Methods against plain tuning: label, images per class, gain, interval, units, verdict."""
    gains = examine(Evidence(read(BORROWING))).gains
    return gains[gains["question"] == "method"]


def main() -> None:
    """Print everything."""
    console = Console(width=120)
    about = "LI §4.3 and CHU Fig. 2, animals; source, tuning or freezing, images per class"
    experiment_table("near-far", about, near_far(), ["lr"]).show(console)
    for name, n, e in differences():
        half = (e.high or 0) - e.value
        print(f"{name} at {n}: {e.value:+.2f} ± {half:.2f} ({e.n} {e.unit}s), p {e.p:.4f}")
        if e.here is not None:
            print(f"    on these tasks alone ({e.here.low:+.2f} to {e.here.high:+.2f})")
    columns = ["left_name", "n_per_class", "gain_points", "low", "high", "here_low", "here_high"]
    with pd.option_context("display.width", 220, "display.max_rows", 99, "display.max_columns", 20):
        print(borrowing()[[*columns, "n", "unit", "p_holm", "verdict", "scope"]].round(2))


if __name__ == "__main__":
    main()
