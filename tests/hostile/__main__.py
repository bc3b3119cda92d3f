"""Run hostile inputs and print those that were not handled: `python -m tests.hostile [KIND …]`.

With `--every 12 --from 0` it runs each twelfth input. The table of counts is written to
`tests/hostile/COUNTS.md` when all inputs were run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

from tests.hostile.harness import Outcome, run
from tests.hostile.inputs import every

HEAD = """\
# Hostile and broken inputs

Written by `python -m tests.hostile`. Each input ends within 20 s and 1 GiB in a result, or in an error that is no
traceback, names its place and says what to do.

| kind | inputs | result | error | not handled |
| --- | --- | --- | --- | --- |
"""


def preload() -> None:
    """Import what the commands use, once, so that a case costs milliseconds."""
    import rich.console  # noqa: F401
    import timm  # noqa: F401
    import torch

    import analysis.findings.evaluate  # noqa: F401
    import analysis.leaderboard.read  # noqa: F401
    import bench.commands.app  # noqa: F401
    import bench.data.inspection.check  # noqa: F401
    import bench.planning.workspace  # noqa: F401

    torch.set_num_threads(1)


def table(outcomes: list[Outcome]) -> str:
    """A row for each family of inputs, and a sum."""
    rows: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        row = rows.setdefault(outcome.case.name.partition("-")[0], Counter())
        row["inputs"] += 1
        row["not handled"] += not outcome.handled
        row["error" if outcome.status == 2 else "result"] += outcome.handled
    total = sum(rows.values(), Counter())
    lines = [f"| {kind} | " + " | ".join(str(row[key]) for key in ("inputs", "result", "error", "not handled")) + " |" for kind, row in [*rows.items(), ("all", total)]]  # fmt: skip
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    """Status 1 if an input was not handled."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument(
        "kinds", nargs="*", help="the beginnings of cases' names, such as grid or image-png"
    )
    parser.add_argument("--every", type=int, default=1, help="run each N-th input of those")
    parser.add_argument("--from", type=int, default=0, dest="first", help="start at this one")
    options = parser.parse_args()
    preload()
    work = Path(tempfile.mkdtemp(prefix="hostile-"))
    outcomes = []
    try:
        chosen = every(work / "sound", tuple(options.kinds))
        for case in islice(chosen, options.first, None, options.every):
            folder = work / "case"
            outcome = run(case, folder)
            outcomes.append(outcome)
            if not outcome.handled:
                print(
                    case.name,
                    " ".join(map(repr, case.arguments)),
                    *(f"\n    {fault}" for fault in outcome.faults),
                )
                sys.stdout.flush()
            subprocess.run(["rm", "-rf", folder], check=True)  # deeper than Python recurses
    finally:
        subprocess.run(["rm", "-rf", work], check=True)
    print(table(outcomes))
    if not options.kinds and options.every == 1:
        (Path(__file__).parent / "COUNTS.md").write_text(table(outcomes))
    return int(any(not outcome.handled for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
