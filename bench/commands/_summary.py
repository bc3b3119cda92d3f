"""The last lines of `bench grid` and its views: where the tables are, what was not as asked."""

from __future__ import annotations

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rich.text import Text

from bench.commands._options import GridChoice, marked
from bench.commands.record_details import omitted_by_condition
from bench.core.text import counted
from bench.grid.presets import split_presets
from bench.planning.workspace import Session
from bench.results.resolved import PRECISION
from bench.results.store import Store


def missing_lines(messages: Sequence[str]) -> list[str]:
    """What a dry run went on without: one data set in full, several by their names.

    >>> both = ["data set 'a' was not found: …", "data set 'b' was not found: …"]
    >>> missing_lines(both)[0].splitlines()[0]
    'a, b'
    """
    names = [found[1] for text in messages if (found := re.search(r"data set '([^']+)'", text))]
    if len(messages) < 2 or len(names) < len(messages):
        return list(messages)
    return [
        f"{', '.join(names)}\n  bench data list {names[0]}, for example, says where to get it and "
        "how it must lie; then --data-root FOLDER, where a folder per data set lies"
    ]


def open_or_written(
    chosen: GridChoice, folder: Literal["any", "existing"] = "existing"
) -> tuple[Session, Text | None]:
    """Opens a grid; where its images are not there, to show what was written of it last.

    Returns:
        The session, and where its ids are not the runs' because the images are not there, a line
        that says so: what is shown is then the leaderboard.

    Raises:
        MissingDataError: the images are not there, and no leaderboard either.
    """
    from bench.data.places import MissingDataError

    try:
        return chosen.open(folder), None
    except MissingDataError as error:
        session = chosen.open(folder, allow_missing=True)
        path = session.leaderboard()
        if not path.is_file():
            raise MissingDataError(
                error.message,
                place=error.place,
                hint=f"{error.hint}; without its images the ids of the grid's runs are not known, "
                f"and no leaderboard of them lies at {path}; bench show RUN works for each run in "
                f"{session.store.runs}",
            ) from None
        text = f" {error.message}; what is shown is the leaderboard that lies at {path}"
        return session, marked("images not found", "yellow", text)


def leaderboard_lines(session: Session) -> list[str]:
    """Where the tables lie, and why they are not those of the grid's name where they are not."""
    lines = [
        f"leaderboard: {session.leaderboard()}",
        f"             {session.leaderboard('-aggregated')}",
    ]
    if session.board and session.board != session.plan.name:
        plain = session.store.leaderboard(session.plan.name)
        lines.append(
            f"             (not {plain}: with {_used(session)} these are other runs than the "
            "grid's own)"
        )
    if features := sum(run.role == "extract" for run in session.wanted):
        lines.append(
            f"features:    {features} extractions, which bench findings and bench report read"
        )
    return lines


def _used(session: Session) -> str:
    """Which of --preset and --set the grid was opened with."""
    texts = [text for flag, text in itertools.pairwise(session.given) if flag == "--set"]
    presets, others = split_presets(texts)
    return " and ".join(["--preset"] * bool(presets) + ["--set"] * bool(others)) or "--set"


def ending_lines(session: Session) -> tuple[list[str | Text], int]:
    """What became of the runs that were asked for, and how many have no result."""
    states = session.states()
    found = [states[run.id] for run in session.wanted]
    lines: list[str | Text] = [
        *omission_lines(session),
        *precision_lines(session),
        *damage_lines(session),
    ]
    if diverged := found.count("diverged"):
        lines.append(f"{counted(diverged, 'run')} diverged; that is a result and has its rows")
    bad = sum(state not in ("done", "diverged") for state in found)
    if bad:
        many = counted(bad, "run has", "runs have")
        lines.append(f"{many} no result; see: {session.command('status')}")
        if "failed" in found:
            lines.append("to try failed runs again: add --retry-failed")
    elif len(found) == 1:
        lines.append("the run is done")
    else:
        lines.append(f"all {len(found)} runs are done")
    return [*lines, *cache_lines(session.store)], bad


_LARGE_CACHE_GIB = 5.0


def cache_lines(store: Store) -> list[str]:
    """How much the cache takes, where that is much, and how to free it."""
    size_gib = store.cache_bytes() / 2**30
    if size_gib < _LARGE_CACHE_GIB:
        return []
    return [
        f"the cache {store.cache} takes {size_gib:.1f} GiB; what is needed of it is made again, so "
        f"while no run goes on it may be removed: rm -r {shlex.quote(str(store.cache))}"
    ]


def omission_lines(session: Session) -> list[Text]:
    """A line for each selection of images that could not be had as it was asked for."""
    finished = []
    readings = session.records.read()
    for run in session.wanted:
        record = readings[run.id].record if run.id in readings else None
        if record is not None:  # one that is damaged has its line from `damage_lines`
            finished.append((run.spec, record))
    return [marked("note", "yellow", f" {line}") for line in omitted_by_condition(finished)]


def precision_lines(session: Session) -> list[Text]:
    """A line where `precision: auto` was not the same in all runs: these are not compared."""
    readings = session.records.read()
    found = [readings[run.id].record for run in session.wanted if run.id in readings]
    values = [record["resolved"].get(PRECISION) for record in found if record is not None]
    counts = Counter(value for value in values if value is not None)
    if len(counts) < 2:
        return []
    parts = [f"{value} in {counted(count, 'run')}" for value, count in sorted(counts.items())]
    text = (
        f" precision: auto was {' and '.join(parts)}, as their devices compute it natively; runs "
        "that computed differently are no repetitions and no pairs; to have all alike: --set "
        "train.precision=float32 --set pretrain.precision=float32"
    )
    return [marked("note", "yellow", text)]


def damage_lines(session: Session) -> list[Text]:
    """The runs whose records cannot be used: the file, what is wrong and the way out."""
    readings = session.records.read()
    errors = [readings[run.id].error for run in session.wanted if run.id in readings]
    texts = [str(error).replace("\n  ", "; ") for error in errors if error is not None]
    return [marked("damaged", "red", f" {text}") for text in texts]
