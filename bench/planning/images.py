"""A user's own images are looked over before a grid is spent on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from bench.core.errors import DataError
from bench.core.paths import Places
from bench.core.text import counted
from bench.planning.workspace import Session
from bench.specs.data import DataSpec

if TYPE_CHECKING:
    from bench.data.inspection.check import Problem, Report

OWN = ("folder", "manifest")
"""Formats of images that nobody has looked over; the faults of published sets are known."""


MOST_PAIRS = 2e7
"""Of a training and a test image that are compared by what they show: some seconds."""

MOST_IN_DRY_RUN = 10_000
"""Images that a dry run decodes to see whether the grid would be refused: about a minute."""


def check_images(session: Session) -> list[str]:
    """Refuses what `bench data check` calls a problem, unless the grid says what to do about it.

    Images in two classes or in two splits would be left out of one of them without anybody having
    decided which.

    Returns:
        What was not looked at, in sentences: pairs of images are compared up to `MOST_PAIRS`.

    Raises:
        DataError: with each problem and its cure.
    """
    notes = []
    for data in _own_images(session):
        report, left = _looked_over(session, data)
        if left:
            raise DataError(
                f"{counted(len(left), 'problem')} of the images: {' '.join(map(str, left))}",
                place=str(report.place or data.root),
                hint=f"{_command(data)} shows them; {_ACCEPT}",
            )
        notes += _not_compared(report, data)
    return notes


def foreseen(session: Session) -> tuple[list[str], list[str]]:
    """What `check_images` would refuse, for a dry run, and what it or this did not look at.

    What was decoded for it is kept, so that the run does not do it again.
    """
    refused, notes = [], []
    for data in _own_images(session):
        place, command = data.root, _command(data)
        images = _images_of(session, data)
        if images > MOST_IN_DRY_RUN:
            notes.append(
                f"the {images:,} images of {place} are looked over when the grid is run, and not "
                f"in a dry run; {command} does it now"
            )
            continue
        report, left = _looked_over(session, data)
        refused += [f"{report.place or place}: {problem}" for problem in left]
        if left:
            refused.append(f"bench grid refuses to run with this; {command} shows it; {_ACCEPT}")
        notes += _not_compared(report, data)
    return refused, notes


_ACCEPT = "--accept-problems runs with the rules of the splits"


def _own_images(session: Session) -> Iterator[DataSpec]:
    """A selection of each of the user's own data sets that is there."""
    seen = set()
    for run in session.wanted:
        data = run.spec.data
        key = (data.dataset, data.root, data.options)
        if data.dataset in OWN and key not in seen and not run.facts.missing:
            seen.add(key)
            yield data


def _images_of(session: Session, data: DataSpec) -> int:
    from bench.data.catalog import open_dataset

    places: Places = {"data_root": session.data_root, "cache_dir": session.store.cache}
    dataset = open_dataset(data.dataset, data.root, **places, options=data.options)
    return sum(len(dataset.images_of(label)) for label in dataset.classes)


def _looked_over(session: Session, data: DataSpec) -> tuple[Report, list[Problem]]:
    """What `bench data check` finds, and the problems that the grid does not settle."""
    from bench.data.inspection.check import check  # takes half a second, for few grids

    report = check(
        data.dataset,
        data.root,
        data_root=session.data_root,
        cache_dir=session.store.cache,
        options=data.options,
        most_pairs=MOST_PAIRS,
    )
    return report, [problem for problem in report.problems if not problem.is_settled(data)]


def _not_compared(report: Report, data: DataSpec) -> list[str]:
    """That images were compared by their bytes alone, where they are too many."""
    training = report.splits["train"].images if "train" in report.splits else 0
    held = sum(count.images for count in report.splits.values()) - training
    if held * training <= MOST_PAIRS:
        return []
    return [
        f"no image of {report.place or data.root} was compared with others by what it shows "
        f"({training:,} x {held:,} pairs); {_command(data)} does that"
    ]


def _command(data: DataSpec) -> str:
    options = [f"--option {quote(f'{name}={json.dumps(value)}')}" for name, value in data.options]
    return " ".join(["bench data check", data.dataset, quote(str(data.root)), *options])
