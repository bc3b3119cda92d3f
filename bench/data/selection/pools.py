"""The images of each class in drawn order, and the draws from them, one split after the other."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import count as counting
from itertools import islice
from typing import Literal

import numpy as np

from bench.data.dataset import Image, Split, rank
from bench.data.selection.images import SPLITS, Images, Mask, Places
from bench.specs.data import validation_images

Use = Literal["train", "val"]


class Pool:
    """All images of one class, ready to be split again and again (orders are remembered).

    Images are named by their places in `images`.
    """

    def __init__(self, label: str, images: Sequence[Image]) -> None:
        self.label, self.images = label, Images.of(images)
        self._orders: dict[tuple[str, tuple[Split, ...]], Places] = {}

    def ordered(self, salt: str, *parts: Split) -> Places:
        """The images that the data set puts into `parts`, ordered by SHA-256 of (salt, key).

        Images of a group stand together.
        """
        key = (salt, parts)
        if key not in self._orders:
            places = np.flatnonzero(self.within(*parts)).astype(np.int32)
            self._orders[key] = places[_order(salt, self.images[places])]
        return self._orders[key]

    def within(self, *parts: Split) -> Mask:
        """Which images the data set puts into `parts`."""
        return np.isin(self.images.split, [SPLITS.index(part) for part in parts])

    @cached_property
    def parts(self) -> frozenset[Split]:
        """The splits that the data set itself divides the class into."""
        return frozenset(SPLITS[code] for code in np.unique(self.images.split).tolist())

    @cached_property
    def groups(self) -> Sequence[str | None] | None:
        """The group of each image; None where no image has one."""
        return None if self.images.columns.group is None else self.images.groups


def _order(salt: str, images: Images) -> list[int]:
    start = f"{salt}|".encode()
    own = [hashlib.sha256(start + key).digest() for key in images.raw_keys]
    if images.columns.group is None:
        return sorted(range(len(own)), key=own.__getitem__)
    of_group = {name: rank(f"{salt}|group|{name}") for name in set(images.groups)}
    of_group.pop(None, None)
    both = [(of_group.get(group, one), one) for group, one in zip(images.groups, own, strict=True)]
    return sorted(range(len(own)), key=both.__getitem__)


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
        dropped: places of images that may not be taken, by the number of their pool.

    Attributes:
        left_out: images passed over because their group is in another split, as (pool, place).
    """

    def __init__(self, pools: Sequence[Pool], dropped: Mapping[int, Sequence[int]]) -> None:
        self._pools = pools
        self._free = [np.ones(len(pool.images), dtype=np.bool_) for pool in pools]
        for number, places in dropped.items():
            self._free[number][places] = False
        self._closed_groups = set[str]()
        self.left_out = set[tuple[int, int]]()

    def restrict(self, allowed: Callable[[Image], bool]) -> None:
        """From now on takes only what is allowed."""
        for pool, free in zip(self._pools, self._free, strict=True):
            free &= np.fromiter(map(allowed, pool.images), np.bool_, len(free))

    def take(self, salt: str, part: Split, count: int | float | None) -> list[Places]:
        """`count` images of every class in the order of `salt`; None takes all.

        A count below 1 is a share of the images that a class has left: the nearest number, halves
        upwards, and one at the least.
        """
        left = self.available(part) if isinstance(count, float) else [0] * len(self._pools)
        picked = []
        for number, most in enumerate(_counts(count, left)):
            if self._pools[number].groups is None:
                picked.append(self._left(number, salt, part)[:most])
            else:
                few = islice(self._open(number, salt, part), most)
                picked.append(np.fromiter(few, np.int32))
        self._close(picked)
        return picked

    def take_budget(
        self, salt: str, count: int | None, share: float
    ) -> tuple[list[Places], list[Places]]:
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
            _Line(self._open(number, salt, "train", "val"), pool.groups, owners)
            for number, pool in enumerate(self._pools)
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
        for number, line in enumerate(lines):
            self.left_out |= {(number, place) for use in line.passed.values() for place in use}
        train = [np.array(line.taken["train"], dtype=np.int32) for line in lines]
        val = [np.array(line.taken["val"], dtype=np.int32) for line in lines]
        self._close(train)
        self._close(val)
        return train, val

    def available(self, *parts: Split) -> list[int]:
        """How many images of every class could still be taken; nothing is taken or noted."""
        counts = []
        for pool, free in zip(self._pools, self._free, strict=True):
            places = np.flatnonzero(free & pool.within(*parts))
            groups = [] if pool.groups is None else [pool.groups[at] for at in places.tolist()]
            counts.append(len(places) - sum(group in self._closed_groups for group in groups))
        return counts

    def _left(self, number: int, salt: str, *parts: Split) -> Places:
        """In order what of a class is not taken, whatever its group."""
        order = self._pools[number].ordered(salt, *parts)
        return order[self._free[number][order]]

    def _open(self, number: int, salt: str, *parts: Split) -> Iterator[int]:
        """Those of `_left` that may be had: lazily, as what is passed over on the way is noted."""
        groups = self._pools[number].groups
        for place in self._left(number, salt, *parts).tolist():
            if groups is not None and groups[place] in self._closed_groups:
                self.left_out.add((number, place))
            else:
                yield place

    def _close(self, picked: Sequence[Places]) -> None:
        """Notes that these are taken, and their groups with them."""
        for pool, free, places in zip(self._pools, self._free, picked, strict=True):
            free[places] = False
            if pool.groups is not None:
                self._closed_groups.update(
                    group for place in places if (group := pool.groups[place]) is not None
                )


class _Line:
    """The free images of one class in drawn order, each for the first use that may have it.

    Args:
        places: of the images, in order.
        groups: the group of each place; None where no image has one.
        owners: the use of each group met so far, shared by all classes.

    Attributes:
        taken: places by use.
        passed: those that were met when the other use was served, still to be had by theirs.
        empty: nothing is left.
    """

    def __init__(
        self,
        places: Iterator[int],
        groups: Sequence[str | None] | None,
        owners: dict[str, Use],
    ) -> None:
        self._places, self._groups, self._owners = places, groups, owners
        self.taken: dict[Use, list[int]] = {"train": [], "val": []}
        self.passed: dict[Use, deque[int]] = {"train": deque(), "val": deque()}
        self._read = False

    def take(self, use: Use) -> bool:
        """Takes the next image for a use; whether there was one."""
        found = self._next(use)
        if found is not None:
            self.taken[use].append(found)
        return found is not None

    def _next(self, use: Use) -> int | None:
        if self.passed[use]:
            return self.passed[use].popleft()
        for place in self._places:
            group = None if self._groups is None else self._groups[place]
            owner = use if group is None else self._owners.setdefault(group, use)
            if owner == use:
                return place
            self.passed[owner].append(place)
        self._read = True
        return None

    @property
    def empty(self) -> bool:
        """Whether no image is left for any use."""
        return self._read and not any(self.passed.values())
