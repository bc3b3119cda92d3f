"""Runs every benchmark and writes RESULTS.md: `python -m benchmarks.run [NAME …] [--no-memory]`."""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.compare import Row, compare

MODULES = ("training", "sharing", "measurements", "harness")
OUT = Path(__file__).with_name("RESULTS.md")


def main(arguments: list[str]) -> int:
    """Measures, prints each row as it comes, writes the table."""
    memory = "--no-memory" not in arguments
    names = [a for a in arguments if not a.startswith("--")] or list(MODULES)
    rows: list[Row] = []
    for name in names:
        module = f"benchmarks.{name}"
        for case in importlib.import_module(module).CASES:
            row = compare(case, module, memory)
            print(line(row), flush=True)
            rows.append(row)
    if set(names) == set(MODULES):
        OUT.write_text(page(rows))
        print(f"written: {OUT}")
    return 0


def line(row: Row) -> str:
    """One row of the Markdown table."""
    case = row.case
    memory = "/".join("–" if m is None else f"{m:,.0f}" for m in (row.ours_mib, row.peer_mib))
    reached = "yes" if row.ratio >= case.goal else "no"
    return (
        f"| {case.name} | {case.peer} | {row.ours_s:.3g} | {row.peer_s:.3g} | "
        f"{row.ratio:.2f} ({row.low:.2f}–{row.high:.2f}) | {case.goal:g} | {reached} | "
        f"{memory} | {case.note} |"
    )


def page(rows: list[Row]) -> str:
    """The whole of RESULTS.md."""
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "timm", "scikit-learn"))
    head = f"""# Speed against named peers

Written by `make bench` on {datetime.date.today():%Y-%m-%d}: {processor()}, {os.cpu_count()} cores,
Python {platform.python_version()}, {versions}; load average {os.getloadavg()[2]:.1f} over the last
quarter of an hour.

Both sides run in turn, at least five times after a first that does not count; the ratio is the
peer's time over ours, pair by pair: median (least–greatest). Times are medians in seconds; a peer
that does a sample of the work has its time multiplied, as its name says. Memory is the peak above
what the data take, worker processes included, in MiB, ours/peer's. Why a goal was not reached, and
what was tried, is in [NOTES.md](NOTES.md).

| what | peer | ours, s | peer, s | ratio | goal | reached | memory | note |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
    return head + "\n".join(line(row) for row in rows) + "\n"


def processor() -> str:
    """The processor's name."""
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
