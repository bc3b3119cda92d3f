"""Which images of a further selection a run borrows.

"Effective Domain Knowledge Transfer with Soft Fine-tuning", Table 3: a random tenth of the source's
categories with all their images, or a tenth of the images of each category. Ge & Yu, "Borrowing
Treasures from the Wealthy", Table 2: a random source of a given size. The papers drew once; here
the draw is the run's own `seeds.draw`, so it is repeated with the seeds.

What stays is the first in the order of SHA-256 of a readable text, so smaller fractions are nested
in larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import DataError
from bench.data.catalog import Resolved, resolve
from bench.data.dataset import Image, Int64, rank
from bench.data.identities import with_identities
from bench.specs.data import Borrowed
from bench.specs.run import RunSpec, joint_fingerprint


@dataclass(frozen=True, eq=False)
class BorrowedImages:
    """A borrowed selection, and which of its training images are used.

    Attributes:
        resolved: the whole selection; its classes are the label space.
        rows: (n,) ascending places in `resolved.train`.
        classes_used: how many classes have an image among them.
        excluded: images left out because the target is validated or tested on them.
    """

    resolved: Resolved
    rows: Int64
    classes_used: int
    excluded: int

    @property
    def images(self) -> tuple[Image, ...]:
        """The images used."""
        return tuple(self.resolved.train[row] for row in self.rows)


def resolve_borrowed(
    spec: RunSpec, target: Resolved, *, data_root: Path | None, cache_dir: Path
) -> tuple[BorrowedImages, ...]:
    """What `spec` borrows, in the order of `spec.borrow`; nothing is decoded.

    Args:
        spec: the run.
        target: its own images.
        data_root, cache_dir: see `bench.data.catalog.resolve`.

    Raises:
        DataError: when the data are not there, or nothing of them is left.
    """
    held_out = {image.sha256 for image in (*target.val, *target.test)}
    return tuple(
        _one(
            borrowed,
            resolve(borrowed.data, borrowed.draw, data_root=data_root, cache_dir=cache_dir),
            spec.seeds.draw,
            held_out,
        )
        for borrowed in spec.borrow
    )


def resolve_joint_fingerprint(spec: RunSpec, *, data_root: Path | None, cache_dir: Path) -> str:
    """Of all images that a run's id covers: its own, borrowed ones, and those it is verified on."""
    places = {"data_root": data_root, "cache_dir": cache_dir}
    own = resolve(spec.data, spec.seeds.draw, **places).fingerprint  # type: ignore[arg-type]
    joint = joint_fingerprint(
        own,
        [resolve(b.data, b.draw, **places).fingerprint for b in spec.borrow],  # type: ignore[arg-type]
    )
    return with_identities(spec, joint, **places)  # type: ignore[arg-type]


def _one(
    borrowed: Borrowed, resolved: Resolved, draw: int, held_out: Collection[str]
) -> BorrowedImages:
    kept = [
        row
        for row, image in enumerate(resolved.train)
        if not (borrowed.exclude_overlap and image.sha256 in held_out)
    ]
    rows = borrowed_rows(resolved.train, resolved.classes, kept, borrowed, draw)
    if not len(rows):
        raise DataError(
            f"borrow: nothing is left of the {len(resolved.train)} training images of "
            f"{borrowed.data.dataset!r}",
            hint="a run that borrows needs images to borrow: choose another selection, or leave "
            "out borrow: and set method: plain",
        )
    used = {resolved.train[row].label for row in rows}
    return BorrowedImages(resolved, rows, len(used), len(resolved.train) - len(kept))


def borrowed_rows(
    train: Sequence[Image],
    classes: Sequence[str],
    rows: Sequence[int],
    borrowed: Borrowed,
    draw: int,
) -> Int64:
    """The places of the images that stay: (n,) int64, ascending.

    Args:
        train: training images of the selection.
        classes: its classes.
        rows: places in `train` to choose from.
        borrowed: the reductions.
        draw: seed of the random choice.

    Raises:
        DataError: when `total_images` are more than there are.
    """
    if borrowed.categories is not None:
        count = _share(borrowed.categories, len(classes))
        chosen = set(
            sorted(classes, key=lambda name: rank(f"borrow|categories|{draw}|{name}"))[:count]
        )
        rows = [row for row in rows if train[row].label in chosen]
    if borrowed.images is not None:
        of_class: dict[str, list[int]] = {}
        for row in rows:
            of_class.setdefault(train[row].label, []).append(row)
        rows = [
            row
            for members in of_class.values()
            for row in _drawn(members, train, draw, _share(borrowed.images, len(members)))
        ]
    if borrowed.total_images is not None:
        if borrowed.total_images > len(rows):
            raise DataError(
                f"borrow: total_images is {borrowed.total_images}, and {len(rows)} images are "
                "there to borrow",
                hint=f"ask for at most {len(rows)}, or borrow a larger selection",
            )
        rows = _drawn(rows, train, draw, borrowed.total_images)
    return np.array(sorted(rows), dtype=np.int64)


def _share(fraction: float, of: int) -> int:
    """The nearest whole number, halves upwards, at least one."""
    return min(of, max(1, math.floor(fraction * of + 0.5)))


def _drawn(rows: Sequence[int], train: Sequence[Image], draw: int, count: int) -> list[int]:
    key = {row: rank(f"borrow|images|{draw}|{train[row].label}|{train[row].key}") for row in rows}
    return sorted(rows, key=key.__getitem__)[:count]
