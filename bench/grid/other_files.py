"""What is given where a grid is expected: what it is instead, and which command takes it."""

from __future__ import annotations

import itertools
import mimetypes
import os
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from bench.core.errors import GridError, nearest
from bench.core.paths import grid_file
from bench.core.tables import csv_rows, utf8_text
from bench.core.text import brief, listed

_MOST_NAMES = 500
_HEAD_BYTES = 1 << 16
_ARCHIVES = ("zip", "x-tar", "gzip", "x-bzip2", "x-xz")


def no_grid(path: Path) -> GridError | None:
    """What is wrong with a path that is no grid; None where it may be one, or is not there.

    A file that ends in .yaml or .yml is taken for a grid, and text of no known kind may be one.

    Raises:
        GridError: it is a table that cannot be read.
    """
    if path.suffix in (".yaml", ".yml"):
        return None
    found = _folder(path) if path.is_dir() else _file(path) if path.is_file() else None
    return found and GridError(f"this is {found[0]}, not a grid", place=str(path), hint=found[1])


def grids_here(asked: str = "") -> str:
    """The grids below `grids`, those with a path like `asked` first."""
    found = [str(path) for path in Path("grids").glob("**/*.yaml")]
    return f"grids here: {nearest(asked, found)}" if found else "give the path of a YAML file"


def _folder(path: Path) -> tuple[str, str]:
    """What a folder is, and what to do with it."""
    name = quote(str(path))
    inside = list(itertools.islice(_names(path), _MOST_NAMES))
    if grids := sorted(str(p) for p in inside if p.suffix in (".yaml", ".yml")):
        return "a folder", f"grids in it: {listed(grids)}"
    if (path / "record.json").is_file():
        return "the folder of a run", f"to see the run: bench show {name}"
    if (path / "runs").is_dir() or any(map(_is_leaderboard, inside)):
        return "a results folder", f"bench findings {name} takes it; {grids_here()}"
    below = itertools.chain(inside, *(_names(p) for p in inside if p.is_dir()))
    if any(_kind(p)[0] == "image" for p in itertools.islice(below, 2 * _MOST_NAMES)):
        return "a folder of images", (
            f"bench finetune {name} finds the best way to fine-tune on it, bench data check folder "
            f"{name} looks for problems; in a grid: target: {{dataset: folder, root: {path}}}"
        )
    return "a folder", grids_here()


def _names(folder: Path) -> Iterable[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in itertools.islice(entries, _MOST_NAMES))
    except OSError:
        return


def _kind(path: Path) -> tuple[str, str]:
    """Type and subtype by the name of a file; of a packed one those of what packs it."""
    guessed, packed = mimetypes.guess_type(path.name)
    first, _, second = (guessed or "").partition("/")
    return ("application", packed) if packed else (first, second)


def _is_leaderboard(path: Path) -> bool:
    try:
        return path.suffix == ".csv" and {"experiments", "run_id"} <= set(_header(path))
    except GridError:
        return False


def _header(path: Path) -> list[str]:
    """The names of a table's columns; none of a file that is empty or cannot be read.

    Raises:
        GridError: it is not text in UTF-8, or no table.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_HEAD_BYTES)
    except OSError:
        return []
    text = utf8_text(raw, str(path), GridError, whole=len(raw) < _HEAD_BYTES)
    return next((cells for _, cells in csv_rows(text, str(path), GridError)), [])


def _file(path: Path) -> tuple[str, str] | None:
    """What a file is, and what to do with it; None for text of no known kind."""
    name, (first, second) = quote(str(path)), _kind(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table(path)
    if path.name in ("record.json", "spec.json"):
        return "a file of a run", f"to see the run: bench show {quote(str(path.parent))}"
    if path.suffix in (".safetensors", ".pt", ".pth", ".ckpt"):
        return "a file of weights", f"in a grid: weights: {{file: {path}}}"
    if first == "image":
        return "an image", f"to classify it: bench predict MODEL {name}; {grids_here()}"
    if second in _ARCHIVES:
        return "an archive", f"where it holds your images: bench finetune {name}; {grids_here()}"
    try:
        with path.open("rb") as file:
            binary = b"\0" in file.read(4096)
    except OSError:
        return None
    return ("a binary file", grids_here()) if binary else None


def _table(path: Path) -> tuple[str, str]:
    """What a CSV file is, and what to do with it."""
    name, columns = quote(str(path)), set(_header(path))
    if {"experiments", "run_id"} <= columns:
        own = grid_file(path.stem)
        grid = "" if own == "GRID" else f"; its grid is {own}"
        return "a leaderboard", f"bench findings {name} and bench report {name} take it{grid}"
    if {"experiment", "condition_id"} <= columns:
        runs = path.with_name(f"{path.stem.removesuffix('-aggregated')}.csv")
        return "a table of conditions", f"bench findings {quote(str(runs))} takes its runs"
    if {"path", "label"} <= columns:
        return "a list of images", (
            f"bench finetune {name} finds the best way to fine-tune on them; in a grid: target: "
            f"{{dataset: manifest, root: {path}}}"
        )
    shown = listed([brief(name, 40) for name in sorted(columns)], 8)
    return f"a table of the columns {shown}" if columns else "an empty table", (
        "bench findings takes a leaderboard that bench grid wrote, bench finetune a CSV with the "
        "columns path and label"
    )
