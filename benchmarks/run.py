"""Runs benchmarks and writes RESULTS.md: `python -m benchmarks.run [NAME …]`.

`--only=TEXT` runs the cases with that text in their names, `--no-memory` leaves memory out. Every
row is kept in results.json as soon as it is measured, and the table is made of that, so a part can
be measured again alone.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.compare import Case, Row, compare

MODULES = ("training", "sharing", "measurements", "harness", "quickstart")
OUT = Path(__file__).with_name("RESULTS.md")
KEPT = Path(__file__).with_name("results.json")


def main(arguments: list[str]) -> int:
    """Measures, prints each row as it comes, writes the table."""
    memory = "--no-memory" not in arguments
    only = next((a.partition("=")[2] for a in arguments if a.startswith("--only=")), "")
    for name in [a for a in arguments if not a.startswith("--")] or MODULES:
        module = f"benchmarks.{name}"
        for case in importlib.import_module(module).CASES:
            if only not in case.name:
                continue
            row = compare(case, module, memory)
            print(line(row), flush=True)
            keep(row)
    OUT.write_text(page())
    print(f"written: {OUT}")
    return 0


def keep(row: Row) -> None:
    """Puts what was measured into results.json, by the case's name."""
    found = kept()
    figures = asdict(replace(row, case=None))  # type: ignore[arg-type]
    figures.pop("case")
    figures |= {"date": f"{datetime.date.today():%Y-%m-%d}", "load": os.getloadavg()[2]}
    found[row.case.name] = figures
    KEPT.write_text(json.dumps(found, indent=1) + "\n")


def kept() -> dict[str, dict[str, Any]]:
    """The figures of each case that was measured on this machine."""
    found: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def rows() -> list[Row]:
    """What was measured of the present cases, in their order."""
    figures = kept()
    cases: list[Case] = [
        case for name in MODULES for case in importlib.import_module(f"benchmarks.{name}").CASES
    ]
    named = [(case, dict(figures[case.name])) for case in cases if case.name in figures]
    for _, values in named:
        values.pop("date"), values.pop("load")
    return [Row(case, **values) for case, values in named]


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


def page() -> str:
    """The whole of RESULTS.md."""
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "timm", "scikit-learn"))
    figures = kept().values()
    dates = sorted({str(f["date"]) for f in figures})
    loads = sorted(float(f["load"]) for f in figures)
    head = f"""# Speed against named peers

Measured on {" and ".join(dates)}, by `make bench` or in parts (`benchmarks/run.py`): {processor()},
{os.cpu_count()} cores, Python {platform.python_version()}, {versions}; load average over a quarter
of an hour {loads[0]:.1f} to {loads[-1]:.1f}, the benchmark's own included.

Both sides run in turn, at least five times after a first that does not count, unless the note says
otherwise; the ratio is the peer's time over ours, pair by pair: median (least–greatest). Times are
medians in seconds; a peer that does a sample of the work has its time multiplied, as its name says.
Memory is the peak above what the data take, worker processes included, in MiB, ours/peer's. Why a
goal was not reached, and what was tried, is in [NOTES.md](NOTES.md).

| what | peer | ours, s | peer, s | ratio | goal | reached | memory | note |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
    return head + "\n".join(line(row) for row in rows()) + "\n"


def processor() -> str:
    """The processor's name."""
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
