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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import DataError
from bench.data.catalog import Resolved, resolve
from bench.data.dataset import Int64, rank
from bench.data.identities import with_identities
from bench.data.selection.images import Images
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
    def images(self) -> Images:
        """The images used."""
        return self.resolved.train[self.rows]


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
    held_out = target.val + target.test
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


def _one(borrowed: Borrowed, resolved: Resolved, draw: int, held_out: Images) -> BorrowedImages:
    train = resolved.train
    kept = np.arange(len(train))
    if borrowed.exclude_overlap:
        kept = kept[~train.shared_with(held_out)]
    rows = borrowed_rows(train, resolved.classes, kept, borrowed, draw)
    if not len(rows):
        raise DataError(
            f"borrow: nothing is left of the {len(train)} training images of "
            f"{borrowed.data.dataset!r}",
            hint="a run that borrows needs images to borrow: choose another selection, or leave "
            "out borrow: and set method: plain",
        )
    used = np.unique(train[rows].labels_in(resolved.classes))
    return BorrowedImages(resolved, rows, len(used), len(train) - len(kept))


def borrowed_rows(
    train: Images,
    classes: Sequence[str],
    rows: Int64,
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
        drawn = sorted(classes, key=lambda name: rank(f"borrow|categories|{draw}|{name}"))
        rows = rows[train[rows].labels_in(drawn[:count]) >= 0]
    if borrowed.images is not None:
        labels = train[rows].labels_in(classes)
        order = np.argsort(labels, kind="stable")
        of_class = np.split(rows[order], np.flatnonzero(np.diff(labels[order])) + 1)
        rows = np.concatenate(
            [_drawn(one, train, draw, _share(borrowed.images, len(one))) for one in of_class]
        )
    if borrowed.total_images is not None:
        if borrowed.total_images > len(rows):
            raise DataError(
                f"borrow: total_images is {borrowed.total_images}, and {len(rows)} images are "
                "there to borrow",
                hint=f"ask for at most {len(rows)}, or borrow a larger selection",
            )
        rows = _drawn(rows, train, draw, borrowed.total_images)
    return np.sort(rows)


def _share(fraction: float, of: int) -> int:
    """The nearest whole number, halves upwards, at least one."""
    return min(of, max(1, math.floor(fraction * of + 0.5)))


def _drawn(rows: Int64, train: Images, draw: int, count: int) -> Int64:
    of = zip(train[rows].labels, train[rows].keys, strict=True)
    ranks = [rank(f"borrow|images|{draw}|{label}|{key}") for label, key in of]
    return rows[sorted(range(len(ranks)), key=ranks.__getitem__)[:count]]
