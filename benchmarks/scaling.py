"""How cost grows: `python -m benchmarks.scaling` prints a table with the exponent of each curve.

The exponent b is that of cost = a * size^b, fitted by least squares to the logarithms: 1 is linear.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measurements.filters import average_precision
from bench.methods.retrieval.descriptors import Descriptors
from bench.methods.retrieval.filter_banks import Group
from bench.methods.retrieval.search import nearest_sources
from bench.specs.run import TrainSpec
from benchmarks.harness import planned
from benchmarks.sharing import pictures, train_cell


@dataclass(frozen=True)
class Curve:
    """One curve: what grows, its sizes, and what is timed at a size (set-up, then the run)."""

    name: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Callable[[], object]]
    why: str = ""


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def measure(curve: Curve, repeats: int = 3) -> list[float]:
    """Seconds at each size, the least of `repeats`: what else runs only ever adds."""
    found = []
    for size in curve.sizes:
        run = curve.prepare(size)
        times = []
        for _ in range(repeats):
            gc.collect()
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        found.append(min(times))
    return found


def _plan(cells: int) -> Callable[[], object]:
    return lambda: planned(cells)


def _train(count: int) -> Callable[[], object]:
    data = pictures(count, 32, 10)
    recipe = TrainSpec(epochs=2, batch_size=64, select="last")
    return lambda: train_cell("narrow8_32", "R(1-8)", data, recipe, share=False)


def _ap_images(count: int) -> Callable[[], object]:
    return _ap(count, 64)


def _ap_filters(count: int) -> Callable[[], object]:
    return _ap(5000, count)


def _ap(count: int, filters: int) -> Callable[[], object]:
    scores = np.random.default_rng(0).normal(size=(count, filters)).astype(np.float32)
    labels = np.arange(count) % 50
    return lambda: average_precision(scores, labels)


def _retrieve(sources: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    bins, group = 16, (Group("conv1", 96, 27 * 27),)

    def draw(count: int) -> Descriptors:
        shares = rng.dirichlet(np.ones(bins), size=(count, 96))
        counts = rng.multinomial(27 * 27, shares).astype(np.uint16)
        return Descriptors(counts.reshape(count, -1), group, bins, str(count))

    target, source = draw(500), draw(sources)
    return lambda: nearest_sources(target, source, 100)


CURVES = (
    Curve("runs planned (expand, validate, hash)", (10_000, 50_000, 100_000), _plan,
          "conditions are read once; cells that repeat them with other seeds cost less"),
    Curve("training images", (500, 1000, 2000), _train),
    Curve("images ranked by filter AP", (2000, 5000, 10_000, 20_000), _ap_images,
          "a sort: n log n"),
    Curve("filters ranked by AP", (32, 64, 128, 256), _ap_filters),
    Curve("source images searched", (2000, 5000, 10_000, 20_000), _retrieve),
)  # fmt: skip


def main() -> int:
    """Prints the table, a row as it is measured."""
    print("| what grows | sizes | seconds | exponent | why |\n| --- | --- | --- | --- | --- |")
    for curve in CURVES:
        seconds = measure(curve)
        sizes = ", ".join(f"{size:,}" for size in curve.sizes)
        times = ", ".join(f"{value:.3g}" for value in seconds)
        slope = exponent(curve.sizes, seconds)
        print(f"| {curve.name} | {sizes} | {times} | {slope:.2f} | {curve.why} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
