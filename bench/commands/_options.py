"""Options that several commands share, and the terminal they print to."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.core.paths import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.comparisons.evidence import Evidence


def as_path(value: Path | None) -> Path | None:
    """Callback of an option that is a path: `~` and `~user` become home folders.

    Raises:
        BenchError: there is no such user.
    """
    return None if value is None else user_path(value)


GridFile = Annotated[
    Path, typer.Argument(metavar="GRID", help="a YAML file, see grids/", callback=as_path)
]
Results = Annotated[Path, typer.Option(help="where runs and leaderboards lie", callback=as_path)]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="where data sets lie; else root: in the grid, else BENCH_DATA", callback=as_path
    ),
]
Only = Annotated[list[str] | None, typer.Option(help="an experiment's name; may be repeated")]


def as_overrides(values: list[str] | None) -> list[str] | None:
    """Callback of `--set` and `--preset`: a bare name is a preset.

    >>> as_overrides(["train.lr=0.1", "miniature"])
    ['train.lr=0.1', 'preset=miniature']
    """
    if values is None:
        return None
    return [v if "=" in v or "." in v else f"preset={v}" for v in values]


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "--preset",
        help="KEY=VALUE laid over every run (source, parent and weights not over those from "
        "scratch); or the name of a preset of the grid; may be repeated",
        callback=as_overrides,
    ),
]
SmallestEffect = Annotated[
    float, typer.Option(min=0, help="points of accuracy; a smaller estimate decides nothing")
]
LeastTasks = Annotated[
    int, typer.Option(min=2, help="tasks that a statement about tasks of a kind needs")
]
LeastSeeds = Annotated[
    int, typer.Option(min=2, help="seeds that a statement about these tasks needs")
]
Margin = Annotated[
    float, typer.Option(min=0.01, help="points within which two arms are called about equal")
]


def with_rules(
    evidence: Evidence, smallest_effect: float, least_tasks: int, least_seeds: int, margin: float
) -> Evidence:
    """The evidence with what a verdict needs, as the options above say it."""
    from analysis.statistics.decisions import UNIT_INTEREST, Rules

    interest = {**UNIT_INTEREST, "points": smallest_effect}
    return replace(evidence, rules=Rules(least_tasks, least_seeds, interest, margin))


RetryFailed = Annotated[bool, typer.Option(help="run failed runs again")]


def console() -> Console:
    """The terminal, or lines of 170 characters where there is none."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=170, soft_wrap=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of one kind to a file, with the first row's columns."""
    import csv

    from bench.core.files import write_atomic

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


# --- terminals that do not know every letter ---

_SPELT = {
    **dict.fromkeys("–—−", "-"),
    **dict.fromkeys("‘’", "'"),
    "§": "section ",
    "…": "...",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
    "→": "->",
    "α": "alpha",
    "σ": "sigma",
    "°": " deg",
}


def spelt(text: str) -> str:
    """The text in ASCII: letters without their accents, signs in words, `?` for what is left.

    >>> spelt("LI §4.3: 41 – 45 %, naïve, 猫")
    'LI section 4.3: 41 - 45 %, naive, ?'
    """
    plain = "".join(_SPELT.get(letter, letter) for letter in text)
    parts = (c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in parts)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelt(error.object[error.start : error.end]), error.end


def any_terminal() -> None:
    """From now on, what the terminal's encoding does not have is spelt out, never an error."""
    codecs.register_error("bench.spelt", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="bench.spelt")
