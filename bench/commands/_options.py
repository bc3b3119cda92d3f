"""Options that several commands share, and the terminal they print to."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import functools
import inspect
import io
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, get_type_hints

import typer

from bench.core.paths import user_path
from bench.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from analysis.comparisons.evidence import Evidence
    from bench.planning.workspace import Session


def as_path(value: str | Path) -> Path:
    """Parser of an option that is a path: `~` and `~user` become home folders.

    Raises:
        BenchError: there is no such user, or the path is empty.
    """
    return user_path(value)


as_path.__name__ = "path"  # what the help calls its values

GridFile = Annotated[
    Path, typer.Argument(metavar="GRID", help="a YAML file, see grids/", parser=as_path)
]
Results = Annotated[Path, typer.Option(help="where runs and leaderboards lie", parser=as_path)]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="where data sets lie; else root: in the grid, else BENCH_DATA",
        parser=as_path,
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
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="write event files, in RESULTS/tensorboard")
]
RetryFailed = Annotated[bool, typer.Option(help="run failed runs again")]


@dataclass(frozen=True)
class GridChoice:
    """The runs of a command: a grid, some of its experiments, and where they lie."""

    grid: GridFile
    results: Results = Path("results")
    data_root: DataRoot = None
    only: Only = None
    set_: Set = None

    def open(
        self,
        folder: Literal["any", "existing", "writable"] = "existing",
        *,
        allow_missing: bool = False,
    ) -> Session:
        """Opens the grid, see `bench.planning.workspace.open_session`."""
        from bench.planning.workspace import open_session

        with doing(f"planning the runs of {self.grid}, which looks at their images"):
            return open_session(
                self.grid,
                results=self.results,
                data_root=self.data_root,
                only=self.only or (),
                overrides=self.set_ or (),
                allow_missing=allow_missing,
                folder=folder,
            )


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command for typer: a parameter that is a dataclass stands for an option per field."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if not dataclasses.is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        groups[name] = hints[name]
        options = inspect.signature(hints[name]).parameters.values()
        types = get_type_hints(hints[name], include_extras=True)
        parameters += [option.replace(annotation=types[option.name]) for option in options]

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        for name, group in groups.items():
            own = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**own)
        command(**values)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    flat.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in keyword_only}
    return flat


@dataclass(frozen=True)
class VerdictRules:
    """What a verdict needs."""

    smallest_effect: Annotated[
        float, typer.Option(min=0, help="points of accuracy; a smaller estimate decides nothing")
    ] = 1.0
    least_tasks: Annotated[
        int, typer.Option(min=2, help="tasks that a statement about tasks of a kind needs")
    ] = 3
    least_seeds: Annotated[
        int, typer.Option(min=2, help="seeds that a statement about these tasks needs")
    ] = 3
    margin: Annotated[
        float, typer.Option(min=0.01, help="points within which two arms are called about equal")
    ] = 1.0

    def applied_to(self, evidence: Evidence) -> Evidence:
        """The evidence, to be judged by these rules."""
        from analysis.statistics.decisions import UNIT_INTEREST, Rules

        interest = {**UNIT_INTEREST, "points": self.smallest_effect}
        looks = evidence.rules.looks
        rules = Rules(self.least_tasks, self.least_seeds, interest, self.margin, looks=looks)
        return replace(evidence, rules=rules)


# --- what is printed ---


def console() -> Console:
    """The terminal, or lines of 170 characters where there is none.

    Text is never markup, and shown as `bench.core.text.printable` gives it: names of experiments,
    classes and files come from outside.
    """
    from rich.console import Console

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            # A table that has tabs and wide characters to lay out cuts lines off.
            return super().render_str(printable(text).expandtabs(), **options)

    plain: dict[str, Any] = {"markup": False, "emoji": False}
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Terminal(**plain) if terminal else Terminal(width=170, soft_wrap=True, **plain)


def marked(word: str, style: str, rest: str = "") -> Text:
    """A line that begins with a word in a colour."""
    from rich.text import Text

    return Text.assemble((printable(word), style), printable(rest))


def say(line: object, *, err: bool = False) -> None:
    """Prints a line as it is, however long; with `err` beside the output."""
    typer.echo(printable(str(line)), err=err)


_SILENT_S = 2.0


@contextlib.contextmanager
def doing(what: str, silent_s: float = _SILENT_S) -> Iterator[None]:
    """Prints on a terminal what takes longer than a moment, as "measuring distances …"."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(silent_s, say, (f"{what} …",), {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Shown:
    """A stream that shows what is written to it as `printable` gives it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        # click finds out by bytes which kind of stream it is
        return self.stream.write(printable(text) if isinstance(text, str) else text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


# --- terminals without some letters ---

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
