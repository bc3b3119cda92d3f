"""How two ways of doing one thing are compared: alternating runs, ratios pair by pair, peak memory.

A machine that other work shares is fast in one second and slow in the next. So both sides run in
turn, and only the ratio of neighbours counts. Peak memory is taken in a process of its own for each
side: `python -m benchmarks.compare MODULE CASE SIDE`.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Case", "Pair", "Row", "compare"]


@dataclass(frozen=True)
class Pair:
    """Both sides of a comparison, ready to run; set-up is done before and not counted.

    Attributes:
        ours: what this project does; its result goes to `check`.
        peer: what a named library or a plain loop does.
        check: raises AssertionError where the two results differ; None for timings alone.
        peer_scale: the peer did one part in so many of the work (a peer that takes hours does a
            sample, and its time is multiplied).
    """

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    check: Callable[[Any, Any], None] | None = None
    peer_scale: float = 1.0


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: what is done, at which size.
        peer: who else does it.
        goal: the ratio to reach, peer's time over ours.
        prepare: builds the pair.
        repeats: how often both sides run.
        note: what a reader must know.
    """

    name: str
    peer: str
    goal: float
    prepare: Callable[[], Pair]
    repeats: int = 5
    note: str = ""


@dataclass(frozen=True)
class Row:
    """What was measured: seconds, the ratio's median and range, peak memory in MiB."""

    case: Case
    ours_s: float
    peer_s: float
    ratio: float
    low: float
    high: float
    ours_mib: float | None = None
    peer_mib: float | None = None


def compare(case: Case, module: str | None = None) -> Row:
    """Runs a case; with `module`, its memory too."""
    pair = case.prepare()
    if pair.check is not None:
        pair.check(pair.ours(), pair.peer())
    ours: list[float] = []
    peer: list[float] = []
    for repeat in range(case.repeats):
        sides = [(ours, pair.ours, 1.0), (peer, pair.peer, pair.peer_scale)]
        for times, run, scale in sides if repeat % 2 == 0 else sides[::-1]:
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * scale)
    ratios = [p / o for p, o in zip(peer, ours, strict=True)]
    return Row(
        case,
        statistics.median(ours),
        statistics.median(peer),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        _memory(module, case.name, "ours") if module else None,
        _memory(module, case.name, "peer") if module else None,
    )


def _memory(module: str, case: str, side: str) -> float | None:
    """Peak resident memory above what set-up took, of one side in its own process."""
    command = [sys.executable, "-m", "benchmarks.compare", module, case, side]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        print(answer.stderr[-2000:], file=sys.stderr)
        return None
    return float(json.loads(answer.stdout.splitlines()[-1]))


def _resident_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _measure_memory(module: str, name: str, side: str) -> float:
    cases: tuple[Case, ...] = importlib.import_module(module).CASES
    (case,) = (c for c in cases if c.name == name)
    pair = case.prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident_mib("VmRSS")
    getattr(pair, side)()
    return max(0.0, _resident_mib("VmHWM") - before)


if __name__ == "__main__":
    print(json.dumps(_measure_memory(*sys.argv[1:4])))
