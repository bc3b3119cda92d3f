"""Train, validation and test images of a selection: stratified, exact and repeatable.

Ledger X-4. Within a class the order of the images is that of SHA-256 over (draw, key); the
validation images come first in it, then the training images, so training sets are nested in
`images_per_class` and the validation set does not depend on it. Test images are given by the data
set or cut from the pool in an order without the draw, so they are the same for every draw and k.
The splits are disjoint by key, by content hash and, where images have one, by group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Literal

from bench.data.formats.base import Image, Notes, Split
from bench.errors import DataError, counted

__all__ = ["Pool", "Splits", "kept_keys", "some", "split", "split_pools"]

Images = tuple[Image, ...]
TestFrom = Literal["auto", "given", "pool"]
OnShort = Literal["error", "cap", "drop_class"]


@dataclass(frozen=True)
class Splits:
    """Disjoint image lists; class by class in the order of `classes`, within one in drawn order.

    `available_images` is how many images training images could be drawn from, summed over
    `classes`: of the training pool what is left by the test and the validation images, by
    duplicates of other images, by `train_where` and by groups that are tested or validated on.
    """

    classes: tuple[str, ...]
    train: tuple[Image, ...]
    val: tuple[Image, ...]
    test: tuple[Image, ...]
    notes: Notes
    available_images: int = 0


@dataclass(frozen=True, eq=False)
class Pool:
    """All images of one class, ready to be split again and again (orders are remembered)."""

    label: str
    images: tuple[Image, ...]
    _orders: dict[tuple[str, Split], tuple[Image, ...]] = field(default_factory=dict, init=False)
    _keys: dict[Split, frozenset[str]] = field(default_factory=dict, init=False)

    def ordered(self, salt: str, part: Split) -> tuple[Image, ...]:
        """The images that the data set puts into `part`, ordered by SHA-256 of (salt, key).

        Images of a group stand together.
        """
        key = (salt, part)
        if key not in self._orders:
            images = [image for image in self.images if image.split == part]
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


def _digest(salt: str, text: str) -> bytes:
    return hashlib.sha256(f"{salt}|{text}".encode()).digest()


def _rank(salt: str, image: Image) -> tuple[bytes, bytes]:
    own = _digest(salt, image.key)
    return (own if image.group is None else _digest(salt, f"group|{image.group}"), own)


def split(
    images: Iterable[Image],
    *,
    images_per_class: int | None,
    val_per_class: int,
    test_per_class: int | None,
    test_from: TestFrom,
    draw: int,
    on_short: OnShort,
) -> Splits:
    """Splits `images`; classes in sorted order. See `split_pools`."""
    by_label: dict[str, list[Image]] = {}
    for image in images:
        by_label.setdefault(image.label, []).append(image)
    return split_pools(
        [Pool(label, tuple(by_label[label])) for label in sorted(by_label)],
        images_per_class=images_per_class,
        val_per_class=val_per_class,
        test_per_class=test_per_class,
        test_from=test_from,
        draw=draw,
        on_short=on_short,
    )


def split_pools(
    pools: Sequence[Pool],
    *,
    images_per_class: int | None,
    val_per_class: int,
    test_per_class: int | None,
    test_from: TestFrom,
    draw: int,
    on_short: OnShort,
    train_where: Callable[[Image], bool] | None = None,
) -> Splits:
    """Exactly `images_per_class` training and `val_per_class` validation images of every class.

    Where the data set has validation images of its own, validation is drawn from them; else from
    the training pool. Dropped, and counted in the notes, are: training and validation images with
    the bytes of a test image, all but one of several pool images with the same bytes, and images
    whose group is in a split that was filled before (test, validation, training). A given test
    set is left as it is.

    Args:
        pools: one per class, in the order in which classes are numbered.
        images_per_class: None takes all that remain.
        test_per_class: None takes all given test images.
        test_from: `given`, `pool` (given test images are then left out), or `auto`.
        on_short: what happens to a class with too few images: `error`, `cap` (use what there is,
            at least one training and one test image) or `drop_class`; the notes name them.
        train_where: which images may be for training and validation; None is all.

    Raises:
        DataError: naming the classes, the counts needed and available, and the ways out.
    """
    has_test = any("test" in pool.parts for pool in pools)
    given_test = _given_test(test_from, has_test, test_per_class)
    val_part: Split = "val" if any("val" in pool.parts for pool in pools) else "train"
    kept, dropped = kept_keys(tuple(pools), given_test)
    notes: Notes = dict(dropped)
    taker = _Taker(pools, kept)
    if given_test:
        test = taker.given(test_per_class)
    else:
        test = taker.take("test", "train", test_per_class)
    taker.only = train_where
    val = taker.take(f"images|{draw}", val_part, val_per_class)
    available = taker.available("train")
    train = taker.take(f"images|{draw}", "train", images_per_class)
    if taker.left_out:
        notes["left_out_group_in_other_split"] = len(taker.left_out)
    if on_short == "error":
        _check_same_classes(pools, given_test, val_part == "val" and val_per_class > 0)
    wanted = {"train": images_per_class, "validation": val_per_class, "test": test_per_class}
    picks = [
        _Pick(pool.label, {"train": a, "validation": b, "test": c})
        for pool, a, b, c in zip(pools, train, val, test, strict=True)
    ]
    picks = _settle(picks, wanted, on_short, notes)
    settled = {pick.label for pick in picks}
    return Splits(
        tuple(pick.label for pick in picks),
        tuple(image for pick in picks for image in pick.parts["train"]),
        tuple(image for pick in picks for image in pick.parts["validation"]),
        tuple(image for pick in picks for image in pick.parts["test"]),
        notes,
        sum(n for pool, n in zip(pools, available, strict=True) if pool.label in settled),
    )


def _check_same_classes(pools: Sequence[Pool], given_test: bool, own_val: bool) -> None:
    """Classes that the data set has in one of its splits alone, most often a slip of spelling."""
    lines = []
    used: list[Split] = ["train", *(["val"] * own_val), *(["test"] * given_test)]  # type: ignore[list-item]
    for part in used:
        without = [pool.label for pool in pools if part not in pool.parts]
        if without:
            lines.append(f"not in {part}: {some(without)}")
    if lines:
        raise DataError(
            f"the splits {', '.join(used)} of the data set have different classes: "
            + "; ".join(lines),
            hint="give the folders of a class the same name in every split (upper and lower case "
            "differ), add what is missing, or set on_short: drop_class to leave such classes out",
        )


class _Taker:
    """Takes images split by split; what a split has taken, and its groups, no later one gets."""

    def __init__(self, pools: Sequence[Pool], kept: frozenset[str] | None) -> None:
        self._pools, self._kept = pools, kept
        self._taken = [set[str]() for _ in pools]
        self._closed_groups = set[str]()
        self.left_out = set[str]()
        self.only: Callable[[Image], bool] | None = None

    def given(self, count: int | None) -> list[Images]:
        """The data set's own test images, as they are."""
        picked = [pool.ordered("test", "test")[:count] for pool in self._pools]
        self._close_groups(picked)
        return picked

    def take(self, salt: str, part: Split, count: int | None) -> list[Images]:
        """`count` images of every class in the order of `salt`; None takes all."""
        picked = [
            tuple(islice(self._free(pool.ordered(salt, part), taken), count))
            for pool, taken in zip(self._pools, self._taken, strict=True)
        ]
        for images, taken in zip(picked, self._taken, strict=True):
            taken.update(image.key for image in images)
        self._close_groups(picked)
        return picked

    def available(self, part: Split) -> list[int]:
        """How many images of every class `take` could still give; nothing is taken or noted."""
        counts = []
        for pool, taken in zip(self._pools, self._taken, strict=True):
            keys = pool.keys(part) if self._kept is None else pool.keys(part) & self._kept
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


def _given_test(test_from: TestFrom, has_test: bool, test_per_class: int | None) -> bool:
    if test_from == "given" and not has_test:
        raise DataError(
            "test_from is 'given', but these classes come without test images",
            hint="set test_from: pool and test_per_class: N, or add a test split to the data",
        )
    given = has_test if test_from == "auto" else test_from == "given"
    if not given and test_per_class is None:
        reason = "test_from is 'pool'" if has_test else "the data set has no test split of its own"
        raise DataError(
            f"test_per_class is not set, and {reason}",
            hint="set test_per_class: N to cut N images of each class out of the training images "
            "(or name the folder with the test images test/)",
        )
    return given


@lru_cache(maxsize=256)
def kept_keys(
    pools: tuple[Pool, ...], given_test: bool
) -> tuple[frozenset[str] | None, tuple[tuple[str, int], ...]]:
    """Keys of the pool images that stay (None: all do), and counts of those that do not.

    Of equal images one for validation stays before one for training, then the first key.
    """
    distinct = len(frozenset[str]().union(*(pool.hashes for pool in pools)))
    if distinct == sum(len(pool.images) for pool in pools):
        return None, ()
    every = [image for pool in pools for image in pool.images]
    in_test = {image.sha256 for image in every if given_test and image.split == "test"}
    owner: dict[str, Image] = {}
    dropped = like_test = two_labels = 0
    for image in sorted(every, key=lambda image: (image.split != "val", image.key)):
        if image.split == "test":
            continue
        if image.sha256 in in_test:
            like_test += 1
        elif image.sha256 in owner:
            dropped += 1
            two_labels += owner[image.sha256].label != image.label
        else:
            owner[image.sha256] = image
    counts = {
        "dropped_equal_to_test": like_test,
        "dropped_duplicates": dropped,
        "dropped_duplicates_with_other_label": two_labels,
    }
    kept = frozenset(image.key for image in owner.values())
    return kept, tuple((name, count) for name, count in counts.items() if count)


@dataclass(frozen=True)
class _Pick:
    label: str
    parts: dict[str, Images]

    def shortage(self, wanted: dict[str, int | None]) -> list[str]:
        """Parts that have less than asked for, in words; None asks for at least one."""
        return [
            f"{len(self.parts[part])} of {'at least 1' if count is None else count} {part}"
            for part, count in wanted.items()
            if len(self.parts[part]) < (1 if count is None else count)
        ]


def _settle(
    picks: list[_Pick], wanted: dict[str, int | None], on_short: OnShort, notes: Notes
) -> list[_Pick]:
    line_of = {
        pick.label: f"{pick.label}: {', '.join(text)}"
        for pick in picks
        if (text := pick.shortage(wanted))
    }
    if not line_of:
        return picks
    if on_short == "drop_class":
        rest = [pick for pick in picks if pick.label not in line_of]
        if not rest:
            raise DataError(
                f"on_short: drop_class would drop all {len(picks)} classes "
                f"({some(line_of.values())})",
                hint="ask for fewer images per class",
            )
        notes["dropped_classes"] = list(line_of.values())
        return rest
    if on_short == "cap":
        empty = [p.label for p in picks if not (p.parts["train"] and p.parts["test"])]
        if empty:
            raise DataError(
                f"{len(empty)} of {counted(len(picks), 'class has', 'classes have')} no image left "
                f"for training or for test: {some(line_of[label] for label in empty)}",
                hint="ask for fewer validation or test images, or set on_short: drop_class",
            )
        notes["capped_classes"] = list(line_of.values())
        return picks
    raise _too_few(picks, line_of, wanted)


def _too_few(
    picks: list[_Pick], line_of: dict[str, str], wanted: dict[str, int | None]
) -> DataError:
    way = "fewer images_per_class, val_per_class or test_per_class"
    most = min(len(pick.parts["train"]) for pick in picks)
    others = {part: count for part, count in wanted.items() if part != "train"}
    if most and not any(pick.shortage(others) for pick in picks):
        way = f"images_per_class of at most {most}, or for fewer validation or test images"
    return DataError(
        f"{len(line_of)} of {counted(len(picks), 'class has', 'classes have')} too few images: "
        f"{some(line_of.values())}",
        hint=f"ask for {way}; or set on_short: cap (use what there is) or on_short: drop_class",
    )


def some(lines: Iterable[str], limit: int = 6) -> str:
    """The first few of `lines` and how many there are besides.

    >>> some("abc", limit=2)
    'a; b; … (1 more)'
    """
    listed = list(lines)
    more = len(listed) - limit
    return "; ".join(listed[:limit]) + (f"; … ({more} more)" if more > 0 else "")
