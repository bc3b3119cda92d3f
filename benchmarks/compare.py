"""How two ways of doing one thing are compared: alternating runs, ratios pair by pair, peak memory.

A machine that other work shares is fast in one second and slow in the next. So both sides run in
turn, and only the ratio of neighbours counts. Each case has a process of its own, and so has each
side whose memory is measured: what one leaves behind in the allocator does not touch the next.
`python -m benchmarks.compare MODULE CASE time|ours|peer` is such a process.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SAMPLE_S = 0.05


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
        warm: whether both sides run once before times are taken.
    """

    name: str
    peer: str
    goal: float
    prepare: Callable[[], Pair]
    repeats: int = 5
    note: str = ""
    warm: bool = True


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


def compare(case: Case, module: str, memory: bool = True) -> Row:
    """Runs a case of a module in processes of their own: its times, and its memory if asked.

    Raises:
        RuntimeError: one of them failed; its last words are in the message.
    """
    times = _process(module, case.name, "time")
    ours, peer = times["ours"], times["peer"]
    ratios = [p / o for p, o in zip(peer, ours, strict=True)]
    return Row(
        case,
        statistics.median(ours),
        statistics.median(peer),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        _process(module, case.name, "ours") if memory else None,
        _process(module, case.name, "peer") if memory else None,
    )


def _process(module: str, case: str, what: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.compare", module, case, what]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{case}, {what}: {answer.stderr[-2000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


# --- in the process of a case --------------------------------------------------------------------


def _times(case: Case, pair: Pair) -> dict[str, list[float]]:
    """Seconds of both sides, in turn."""
    if case.warm:
        found, theirs = pair.ours(), pair.peer()
        if pair.check is not None:
            pair.check(found, theirs)
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(case.repeats):
        sides = [("ours", pair.ours, 1.0), ("peer", pair.peer, pair.peer_scale)]
        for name, run, scale in sides if repeat % 2 == 0 else sides[::-1]:
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * scale)
    return times


def _memory(run: Callable[[], Any]) -> float:
    """Peak memory above what set-up took, in MiB, of this process and those it has started.

    The peak of this process alone is exact; with others, sums are taken every 50 ms, and a page
    that several share is counted once (proportional set size).
    """
    Path("/proc/self/clear_refs").write_text("5")  # the exact peak counts from here
    own, all_ = _resident_mib("VmRSS"), _tree_mib()
    peak, ended = [all_], threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_S):
            peak.append(_tree_mib())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()
    return max(0.0, _resident_mib("VmHWM") - own, max(peak) - all_)


def _resident_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _tree_mib() -> float:
    """Proportional set size of this process and all below it."""
    total, todo = 0.0, [Path("/proc/self")]
    while todo:
        process = todo.pop()
        try:
            rollup = (process / "smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024
            for task in (process / "task").iterdir():
                children = (task / "children").read_text().split()
                todo += [Path("/proc") / child for child in children]
        except (OSError, StopIteration):  # it has ended
            continue
    return total


def main(module: str, name: str, what: str) -> int:
    """Prints the times of a case, or the memory of one side, as JSON."""
    cases: tuple[Case, ...] = importlib.import_module(module).CASES
    (case,) = (c for c in cases if c.name == name)
    pair = case.prepare()
    found = _times(case, pair) if what == "time" else _memory(getattr(pair, what))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
