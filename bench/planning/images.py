"""A user's own images are looked over before a grid is spent on them."""

from __future__ import annotations

import json
from shlex import quote

from bench.core.errors import DataError
from bench.core.text import counted
from bench.planning.workspace import Session
from bench.specs.data import DataSpec

OWN = ("folder", "manifest")
"""Formats of images that nobody has looked over; the faults of published sets are known."""


MOST_PAIRS = 2e7
"""Of a training and a test image that are compared by what they show: some seconds."""


def check_images(session: Session) -> list[str]:
    """Refuses what `bench data check` calls a problem, unless the grid says what to do about it.

    Images in two classes or in two splits would be left out of one of them without anybody having
    decided which.

    Returns:
        What was not looked at, in sentences: pairs of images are compared up to `MOST_PAIRS`.

    Raises:
        DataError: with each problem and its cure.
    """
    seen = set()
    notes = []
    for run in session.wanted:
        data = run.spec.data
        key = (data.dataset, data.root, data.options)
        if data.dataset not in OWN or key in seen:
            continue
        seen.add(key)
        from bench.data.inspection.check import check  # takes half a second, for few grids

        report = check(
            data.dataset,
            data.root,
            data_root=session.data_root,
            cache_dir=session.store.cache,
            options=data.options,
            most_pairs=MOST_PAIRS,
        )
        command = _command(data)
        left = [problem for problem in report.problems if not problem.is_settled(data)]
        if left:
            raise DataError(
                f"{counted(len(left), 'problem')} of the images: {' '.join(map(str, left))}",
                place=str(report.place or data.root),
                hint=f"{command} shows them; --accept-problems runs with the rules of the splits",
            )
        training = report.splits["train"].images if "train" in report.splits else 0
        held = sum(count.images for count in report.splits.values()) - training
        if held * training > MOST_PAIRS:
            notes.append(
                f"no image of {report.place or data.root} was compared with others by what it "
                f"shows ({training:,} x {held:,} pairs); {command} does that"
            )
    return notes


def _command(data: DataSpec) -> str:
    options = [f"--option {quote(f'{name}={json.dumps(value)}')}" for name, value in data.options]
    return " ".join(["bench data check", data.dataset, quote(str(data.root)), *options])
