"""How long commands take around the runs: `python -m benchmarks.commands` writes COMMANDS.md.

Each is a process of its own, started five times after a first that does not count; the quickstart
grid is trained before, so that there is nothing left to do. Wants a quiet machine.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.run import processor

PAGE = Path(__file__).with_name("COMMANDS.md")
ROOT = Path(__file__).parents[1]
QUICK = str(ROOT / "grids" / "quickstart.yaml")
BOARD = str(ROOT / "results" / "tiny-imagenet.csv")
_REPEATS = 5


@dataclass(frozen=True)
class Command:
    """What is typed after `bench`, and the seconds that it may take; {home} is an empty folder."""

    what: str
    words: tuple[str, ...]
    goal_s: float


COMMANDS = (
    Command("bench --help", ("--help",), 0.15),
    Command(
        "bench grid, quickstart, all 52 runs done", ("grid", QUICK, "--results", "{home}"), 1.0
    ),
    Command(
        "bench grid --dry-run, quickstart",
        ("grid", QUICK, "--results", "{home}", "--dry-run"),
        1.0,
    ),
    Command("bench findings, 666 runs", ("findings", BOARD), 10.0),
    Command(
        "bench report, 666 runs",
        ("report", BOARD, "--out", "{home}/report"),
        30.0,
    ),
)


@dataclass(frozen=True)
class Taken:
    """Seconds of a command: by the clock, and of the processor."""

    wall_s: float
    cpu_s: float


def once(words: Sequence[str], home: str) -> Taken:
    """Runs `bench` with these words; all of its processes count."""
    given = [word.replace("{home}", home) for word in words]
    command = [sys.executable, "-m", "bench", *given]
    # Modules stay compiled between two starts, as they do where a user installs.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=env)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def line(command: Command, found: Sequence[Taken]) -> str:
    """A row of the table."""
    walls = sorted(one.wall_s for one in found)
    median = statistics.median(walls)
    return (
        f"| {command.what} | {median:.2f} ({walls[0]:.2f}–{walls[-1]:.2f}) | "
        f"{statistics.median(one.cpu_s for one in found):.2f} | {command.goal_s:g} | "
        f"{'yes' if median <= command.goal_s else 'no'} |"
    )


def page(lines: Sequence[str], load: float) -> str:
    """The whole of COMMANDS.md."""
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "pandas", "scipy"))
    return f"""# Commands around the runs

Measured on {datetime.date.today():%Y-%m-%d} by `python -m benchmarks.commands`: {processor()},
{os.cpu_count()} cores, Python {platform.python_version()}, {versions}; load average over five
minutes {load:.1f}, the benchmark's own included. Five processes after a first that does not count.

| what | seconds: median (least–greatest) | of the processor | goal | reached |
| --- | --- | --- | --- | --- |
""" + "\n".join([*lines, ""])


def main() -> None:
    """Prints each row as it comes, writes the page."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="bench-commands-") as home:
        for command in COMMANDS:
            once(command.words, home)
            lines.append(line(command, [once(command.words, home) for _ in range(_REPEATS)]))
            print(lines[-1], flush=True)
    PAGE.write_text(page(lines, os.getloadavg()[1]))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
