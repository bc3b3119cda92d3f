"""A user's own images are looked over before a grid is spent on them."""

from __future__ import annotations

from bench.core.errors import DataError
from bench.core.text import counted
from bench.planning.workspace import Session

OWN = ("folder", "manifest")
"""Formats of images that nobody has looked over; the faults of published sets are known."""


def check_images(session: Session) -> None:
    """Refuses what `bench data check` calls a problem, unless the grid says what to do about it.

    Images in two classes or in two splits would be left out of one of them without anybody having
    decided which. Pictures that are merely alike are looked for by `bench data check` alone.

    Raises:
        DataError: with each problem and its cure.
    """
    seen = set()
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
            pictures=False,
        )
        left = [problem for problem in report.problems if not problem.is_settled(data)]
        if left:
            raise DataError(
                f"{counted(len(left), 'problem')} of the images: {' '.join(map(str, left))}",
                place=str(report.place or data.root),
                hint=f"bench data check {data.dataset} {data.root} shows them; --accept-problems "
                "runs with the rules of the splits",
            )
