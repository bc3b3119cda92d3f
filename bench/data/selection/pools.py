"""The images of each class in drawn order, and the draws from them, one split after the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import count as counting
from itertools import islice
from typing import Literal

from bench.data.dataset import Image, Split, rank
from bench.specs.data import validation_images

Images = tuple[Image, ...]
Use = Literal["train", "val"]


@dataclass(frozen=True, eq=False)
class Pool:
    """All images of one class, ready to be split again and again (orders are remembered)."""

    label: str
    images: Images
    _orders: dict[tuple[str, tuple[Split, ...]], Images] = field(default_factory=dict, init=False)
    _keys: dict[Split, frozenset[str]] = field(default_factory=dict, init=False)

    def ordered(self, salt: str, *parts: Split) -> Images:
        """The images that the data set puts into `parts`, ordered by SHA-256 of (salt, key).

        Images of a group stand together.
        """
        key = (salt, parts)
        if key not in self._orders:
            images = [image for image in self.images if image.split in parts]
            self._orders[key] = tuple(sorted(images, key=lambda image: _rank(salt, image)))
        return self._orders[key]

    def keys(self, part: Split) -> frozenset[str]:
        """Keys of the images that the data set puts into `part`."""
        if part not in self._keys:
            found = frozenset(image.key for image in self.images if image.split == part)
            self._keys[part] = found
        return self._keys[part]

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Content hashes of all images."""
        return frozenset(image.sha256 for image in self.images)

    @cached_property
    def parts(self) -> frozenset[Split]:
        """The splits that the data set itself divides the class into."""
        return frozenset(image.split for image in self.images)


def _rank(salt: str, image: Image) -> tuple[bytes, bytes]:
    own = rank(f"{salt}|{image.key}")
    return (own if image.group is None else rank(f"{salt}|group|{image.group}"), own)


def _counts(count: int | float | None, left: Sequence[int]) -> list[int | None]:
    """How many images of every class: `count`, or that share of the images that are left."""
    if not isinstance(count, float):
        return [count] * len(left)
    halves = [Fraction(repr(count)) * number + Fraction(1, 2) for number in left]
    return [max(1, math.floor(half)) for half in halves]


class Taker:
    """Takes images split by split; what a split has taken, and its groups, no later one gets.

    Args:
        pools: one per class.
        kept: keys of the images that may be taken; None is all.

    Attributes:
        left_out: keys of images passed over because their group is in another split.
        only: which images may be taken; None is all.
    """

    def __init__(self, pools: Sequence[Pool], kept: frozenset[str] | None) -> None:
        self._pools, self._kept = pools, kept
        self._taken = [set[str]() for _ in pools]
        self._closed_groups = set[str]()
        self.left_out = set[str]()
        self.only: Callable[[Image], bool] | None = None

    def given(self, count: int | float | None) -> list[Images]:
        """The data set's own test images, as they are; `count` of each class, see `take`."""
        orders = [pool.ordered("test", "test") for pool in self._pools]
        counts = _counts(count, [len(order) for order in orders])
        picked = [order[:most] for order, most in zip(orders, counts, strict=True)]
        self._close_groups(picked)
        return picked

    def take(self, salt: str, part: Split, count: int | float | None) -> list[Images]:
        """`count` images of every class in the order of `salt`; None takes all.

        A count below 1 is a share of the images that a class has left: the nearest number, halves
        upwards, and one at the least.
        """
        left = self.available(part) if isinstance(count, float) else [0] * len(self._pools)
        picked = [
            tuple(islice(self._free(pool.ordered(salt, part), taken), most))
            for pool, taken, most in zip(
                self._pools, self._taken, _counts(count, left), strict=True
            )
        ]
        for images, taken in zip(picked, self._taken, strict=True):
            taken.update(image.key for image in images)
        self._close_groups(picked)
        return picked

    def take_budget(
        self, salt: str, count: int | None, share: float
    ) -> tuple[list[Images], list[Images]]:
        """`count` images of every class, divided into training and validation images.

        Whether the n-th image of a class trains or validates depends on n alone, see
        `validation_images`: both sets are nested in `count`. A group belongs to whichever use has
        its first image, over all classes; where the next image is of the other use's group, the
        first one after it that is not is taken. The classes take turns, so that this too is nested.

        Args:
            salt: the order.
            count: None takes all; the share is then as near as the groups allow.
            share: of the images that validate.

        Returns:
            Training images and validation images, both by class.
        """
        owners: dict[str, Use] = {}
        lines = [
            _Line(self._free(pool.ordered(salt, "train", "val"), taken), owners)
            for pool, taken in zip(self._pools, self._taken, strict=True)
        ]
        unfinished = list(lines)
        so_far = 0
        for place in range(1, count + 1) if count is not None else counting(1):
            before, so_far = so_far, validation_images(place, share)
            uses: tuple[Use, Use] = ("val", "train") if so_far > before else ("train", "val")
            for line in unfinished:
                if not line.take(uses[0]) and count is None:
                    line.take(uses[1])
            unfinished = [line for line in unfinished if not line.empty]
            if not unfinished:
                break
        for line, taken in zip(lines, self._taken, strict=True):
            taken.update(image.key for images in line.taken.values() for image in images)
            self.left_out |= {image.key for images in line.passed.values() for image in images}
        drawn = [[tuple(line.taken[use]) for line in lines] for use in ("train", "val")]
        for picked in drawn:
            self._close_groups(picked)
        return drawn[0], drawn[1]

    def available(self, *parts: Split) -> list[int]:
        """How many images of every class could still be taken; nothing is taken or noted."""
        counts = []
        for pool, taken in zip(self._pools, self._taken, strict=True):
            keys = frozenset[str]().union(*(pool.keys(part) for part in parts))
            keys = keys if self._kept is None else keys & self._kept
            if self.only is None and not self._closed_groups:
                counts.append(len(keys - taken))
                continue
            free = [image for image in pool.images if image.key in keys and image.key not in taken]
            counts.append(sum(self._may_have(image) for image in free))
        return counts

    def _may_have(self, image: Image) -> bool:
        allowed = self.only is None or self.only(image)
        return allowed and image.group not in self._closed_groups

    def _free(self, images: Iterable[Image], taken: set[str]) -> Iterator[Image]:
        """Lazily, because resolving a large data set must not look at every image each time."""
        for image in images:
            if image.key in taken or (self._kept is not None and image.key not in self._kept):
                continue
            if self.only is not None and not self.only(image):
                continue
            if image.group in self._closed_groups:
                self.left_out.add(image.key)
                continue
            yield image

    def _close_groups(self, picked: Iterable[Images]) -> None:
        groups = {image.group for images in picked for image in images}
        self._closed_groups.update(group for group in groups if group is not None)


class _Line:
    """The free images of one class in drawn order, each for the first use that may have it.

    Args:
        images: in order.
        owners: the use of each group met so far, shared by all classes.

    Attributes:
        taken: images by use.
        passed: images that were met when the other use was served, still to be had by theirs.
        empty: nothing is left.
    """

    def __init__(self, images: Iterator[Image], owners: dict[str, Use]) -> None:
        self._images, self._owners = images, owners
        self.taken: dict[Use, list[Image]] = {"train": [], "val": []}
        self.passed: dict[Use, deque[Image]] = {"train": deque(), "val": deque()}
        self._read = False

    def take(self, use: Use) -> bool:
        """Takes the next image for a use; whether there was one."""
        found = self._next(use)
        if found is not None:
            self.taken[use].append(found)
        return found is not None

    def _next(self, use: Use) -> Image | None:
        if self.passed[use]:
            return self.passed[use].popleft()
        for image in self._images:
            owner = use if image.group is None else self._owners.setdefault(image.group, use)
            if owner == use:
                return image
            self.passed[owner].append(image)
        self._read = True
        return None

    @property
    def empty(self) -> bool:
        """Whether no image is left for any use."""
        return self._read and not any(self.passed.values())
