"""Where the files of a data set lie, and what is said when they are not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.core.errors import BenchError, DataError, nearest
from bench.core.paths import user_path
from bench.core.text import some
from bench.data.dataset import Dataset
from bench.data.datasets import DATASETS
from bench.data.formats.contract import Format


class MissingDataError(DataError):
    """The files of a data set are not where they were looked for."""


def resolve_root(name: str, root: str | None, data_root: Path | None) -> Path | None:
    """Where a data set lies; None for those that have no files.

    `root` itself is tried first (relative to the current folder, then to the data folders); else
    the data folders: `data_root`, then the environment's BENCH_DATA. At each place the data set
    may be the place itself or have one of its usual names below it.

    Raises:
        DataError: for an unknown data set, or a root given to one that has no files.
        MissingDataError: saying what was expected, where, what is there, and how to give it.
    """
    entry = _entry(name)
    if not isinstance(entry, Format):
        if root is not None:
            raise DataError(
                f"data set {name!r} has no files, but root is {root!r}",
                hint="remove root:, or name another data set "
                "(dataset: folder reads a folder per class)",
            )
        return None
    environment = os.environ.get("BENCH_DATA")
    given_places = (data_root, user_path(environment, "BENCH_DATA") if environment else None)
    folders = list(dict.fromkeys(path for path in given_places if path))
    if root is not None:
        given = _home(root)
        places = [given, *(folder / given for folder in folders if not given.is_absolute())]
    else:
        places = folders
    for place in places:
        for candidate in (place, *(place / guess for guess in entry.guesses)):
            if _lies_at(entry, candidate):
                return candidate.resolve()
    raise _missing(name, entry, places, root)


def _lies_at(entry: Format, place: Path) -> bool:
    try:
        return entry.fits(place)
    except OSError as error:
        raise DataError(
            f"it cannot be seen what lies here ({error.strerror})",
            place=str(place),
            hint="let yourself read this folder and those above it, or give another root",
        ) from None


def _home(root: str) -> Path:
    try:
        return user_path(root)
    except BenchError as error:
        raise DataError(f"root: {error.message}", hint=error.hint) from None


def _entry(name: str) -> Callable[[], Dataset] | Format:
    if name not in DATASETS:
        raise DataError(
            f"data set {name!r} is not known",
            hint=f"data sets: {nearest(name, DATASETS)}; your own images: folder or manifest",
            value=name,
        )
    return DATASETS[name]


def _missing(
    name: str, entry: Format, places: Sequence[Path], root: str | None
) -> MissingDataError:
    found = "; ".join(f"{place} {_contents(place)}" for place in places)
    if root is not None and _home(root).is_absolute():
        how = "check the path"
    else:
        how = (
            "say where it lies with root: in the grid, --data-root FOLDER or the environment "
            "variable BENCH_DATA (nothing is downloaded)"
        )
    return MissingDataError(
        f"data set {name!r} was not found: {found or 'no place to look for it is given'}",
        hint=f"{entry.hint}; {how}",
        value=root or name,
    )


def _contents(place: Path) -> str:
    if place.is_dir():
        try:
            names = sorted(path.name for path in place.iterdir())
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return f"has {some(names) or 'nothing in it'}"
    return "is a file of another kind" if place.exists() else "does not exist"
