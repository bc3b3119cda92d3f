"""Train, validation and test images of a selection: stratified, exact and repeatable.

Ledger X-4. Within a class the order of the images is that of SHA-256 over (draw, key); the
validation images come first in it, then the training images, so training sets are nested in
`images_per_class` and the validation set does not depend on it. Where validation is a share of a
budget, images, training sets and validation sets are nested in it (`Taker.take_budget`). Test
images are given by the data set or cut from the pool in an order without the draw, so they are the
same for every draw and k. The splits are disjoint by key, by content hash and, where images have
one, by group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from bench.core.errors import DataError
from bench.core.text import counted, some
from bench.data.dataset import Image, Notes, Split
from bench.data.selection.images import SPLITS, Columns, Images, Places, among
from bench.data.selection.pools import Pool, Taker
from bench.specs.data import DataSpec, validation_images


@dataclass(frozen=True)
class Splits:
    """Disjoint image lists; class by class in the order of `classes`, within one in drawn order.

    `available_images` is how many images training images could be drawn from, summed over
    `classes`: of the training pool what is left by the test and the validation images, by
    duplicates of other images, by `train_where` and by groups that are tested or validated on.
    Where validation is a share of a budget, it is how many the budget could be drawn from.
    """

    classes: tuple[str, ...]
    train: Images
    val: Images
    test: Images
    notes: Notes
    available_images: int = 0


def split_pools(
    pools: Sequence[Pool],
    data: DataSpec,
    draw: int,
    train_where: Callable[[Image], bool] | None = None,
) -> Splits:
    """Exactly as many training, validation and test images of every class as `data` asks for.

    Where the data set has validation images of its own, validation is drawn from them; else from
    the training pool. With `val_from: budget` the two are one pool. Dropped, and counted in the
    notes, are: training and validation images with the bytes of a test image, all but one of
    several pool images with the same bytes, and images whose group is in a split that was filled
    before (test, validation, training). A given test set is left as it is.

    Args:
        pools: one per class, in the order in which classes are numbered.
        data: how many images. Where a class has too few, `on_short` says what happens: `error`,
            `cap` (use what there is, at least one training and one test image, and with a budget
            one for validation) or `drop_class`; the notes name such classes.
        draw: seed of the draw.
        train_where: which images may be for training and validation; None is all.

    Raises:
        DataError: naming the classes, the counts needed and available, and the ways out.
    """
    if data.test_from == "val":
        pools = _val_as_test(tuple(pools))
    given_test = _given_test(data, frozenset[Split]().union(*(pool.parts for pool in pools)))
    val_part: Split = "val" if any("val" in pool.parts for pool in pools) else "train"
    budget = data.val_from == "budget"
    dropped, counts = dropped_images(tuple(pools), given_test)
    notes: Notes = dict(counts)
    taker = Taker(pools, dropped)
    test = taker.take("test", "test" if given_test else "train", data.test_per_class)
    if train_where is not None:
        taker.restrict(train_where)
    train, val, available = _train_and_val(taker, data, f"images|{draw}", val_part)
    if taker.left_out:
        notes["left_out_group_in_other_split"] = len(taker.left_out)
    if data.on_short == "error":
        own_val = not budget and val_part == "val" and data.val_per_class > 0
        _check_same_classes(pools, given_test, own_val, pooled=budget)
    picks = [
        _Pick(pool, {"train": a, "validation": b, "test": c})
        for pool, a, b, c in zip(pools, train, val, test, strict=True)
    ]
    picks = _settle(picks, data, notes)
    drawn = {
        part: Images.of(*(pick.pool.images[pick.parts[part]] for pick in picks))
        for part in ("train", "validation", "test")
    }
    left = {pick.label: None for pick in picks}
    count = sum(n for pool, n in zip(pools, available, strict=True) if pool.label in left)
    return Splits(tuple(left), drawn["train"], drawn["validation"], drawn["test"], notes, count)


def _train_and_val(
    taker: Taker, data: DataSpec, salt: str, val_part: Split
) -> tuple[list[Places], list[Places], list[int]]:
    """Training and validation images of every class, and how many there were to train on."""
    if data.val_from == "budget":
        available = taker.available("train", "val")
        return *taker.take_budget(salt, data.images_per_class, data.val_share), available
    val = taker.take(salt, val_part, data.val_per_class)
    available = taker.available("train")
    return taker.take(salt, "train", data.images_per_class), val, available


def _wanted(data: DataSpec) -> dict[str, int | None]:
    """Images of every class by their use; None asks for all, and for at least one."""
    train, val = data.images_per_class, data.val_per_class
    test = data.test_per_class if isinstance(data.test_per_class, int) else None
    if data.val_from == "budget":
        if train is None:
            return {"train": None, "validation": None, "test": test}
        val = max(1, validation_images(train, data.val_share))
        train = max(1, train - val)
    return {"train": train, "validation": val, "test": test}


def _check_same_classes(
    pools: Sequence[Pool], given_test: bool, own_val: bool, *, pooled: bool
) -> None:
    """Classes that the data set has in one of its splits alone, most often a slip of spelling."""
    lines = []
    used: list[Split] = ["train", *(["val"] * own_val), *(["test"] * given_test)]  # type: ignore[list-item]
    for part in used:
        there = {part, "val"} if pooled and part == "train" else {part}
        without = [pool.label for pool in pools if not there & pool.parts]
        if without:
            lines.append(f"not in {part}: {some(without)}")
    if lines:
        raise DataError(
            f"the splits {', '.join(used)} of the data set have different classes: "
            + "; ".join(lines),
            hint="give the folders of a class the same name in every split (upper and lower case "
            "differ), add what is missing, or set on_short: drop_class to leave such classes out",
        )


@lru_cache(maxsize=64)
def _val_as_test(pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """The pools with the data set's validation images as its test images."""
    parts = frozenset[Split]().union(*(pool.parts for pool in pools))
    if "val" not in parts or "test" in parts:
        has = "have a test split besides" if "test" in parts else "come without a validation split"
        raise DataError(
            f"test_from is 'val', but these classes {has}",
            hint="set test_from: given to use the test split, or test_from: pool and "
            "test_per_class: N to cut test images out of the training images",
        )
    val, test = SPLITS.index("val"), SPLITS.index("test")

    @cache
    def changed(columns: Columns) -> Columns:
        return replace(columns, split=np.where(columns.split == val, np.uint8(test), columns.split))

    return tuple(
        Pool(pool.label, Images(changed(pool.images.columns), pool.images.rows)) for pool in pools
    )


def _given_test(data: DataSpec, parts: Collection[Split]) -> bool:
    """Whether the test images are those that the data set comes with, which has these splits."""
    has_test = "test" in parts
    if data.test_from == "given" and not has_test:
        raise DataError(
            "test_from is 'given', but these classes come without test images",
            hint="set test_from: pool and test_per_class: N, or add a test split to the data",
        )
    given = has_test if data.test_from == "auto" else data.test_from != "pool"
    if not given and data.test_per_class is None:
        reason = "test_from is 'pool'" if has_test else "the data set has no test split of its own"
        val = "val" in parts and not has_test
        raise DataError(
            f"test_per_class is not set, and {reason}",
            hint="set test_per_class: N to cut N images of each class out of the training images, "
            f"or name the folder with the test images test/{', or set test_from: val' * val}",
        )
    return given


@lru_cache(maxsize=256)
def dropped_images(
    pools: tuple[Pool, ...], given_test: bool
) -> tuple[dict[int, list[int]], dict[str, int]]:
    """Places of the pool images that are dropped, by the number of their pool; and counts of them.

    Of equal images one for validation stays before one for training, then the first key.
    """
    equal = list(_equal_images(pools))
    in_test = {image.sha256 for *_, image in equal if given_test and image.split == "test"}
    owner: dict[str, Image] = {}
    dropped: dict[int, list[int]] = {}
    like_test = two_labels = 0
    for number, place, image in sorted(equal, key=lambda one: (one[2].split != "val", one[2].key)):
        if image.split == "test":
            continue
        if image.sha256 not in in_test and owner.setdefault(image.sha256, image) is image:
            continue
        dropped.setdefault(number, []).append(place)
        like_test += image.sha256 in in_test
        two_labels += image.sha256 in owner and owner[image.sha256].label != image.label
    counts = {
        "dropped_equal_to_test": like_test,
        "dropped_duplicates": sum(map(len, dropped.values())) - like_test,
        "dropped_duplicates_with_other_label": two_labels,
    }
    return dropped, {name: count for name, count in counts.items() if count}


def _equal_images(pools: Sequence[Pool]) -> Iterator[tuple[int, int, Image]]:
    """Numbers of pools, places and images whose bytes may be those of another image."""
    if not pools:
        return
    starts = np.concatenate([pool.images.starts for pool in pools])
    ordered = np.sort(starts)
    again = among(starts, ordered[1:][ordered[1:] == ordered[:-1]])
    ends = np.cumsum([len(pool.images) for pool in pools])
    for number, mask in enumerate(np.split(again, ends[:-1])):
        places = np.flatnonzero(mask)
        for place, image in zip(places.tolist(), pools[number].images[places], strict=True):
            yield number, place, image


@dataclass(frozen=True)
class _Pick:
    pool: Pool
    parts: dict[str, Places]

    @property
    def label(self) -> str:
        return self.pool.label

    def shortage(self, wanted: dict[str, int | None]) -> list[str]:
        """Parts that have less than asked for, in words; None asks for at least one."""
        return [
            f"{len(self.parts[part])} of {'at least 1' if count is None else count} {part}"
            for part, count in wanted.items()
            if len(self.parts[part]) < (1 if count is None else count)
        ]


def _settle(picks: list[_Pick], data: DataSpec, notes: Notes) -> list[_Pick]:
    """What becomes of classes with too few images, as `on_short` says."""
    wanted, budget = _wanted(data), data.val_from == "budget"
    line_of = {
        pick.label: f"{pick.label}: {', '.join(text)}"
        for pick in picks
        if (text := pick.shortage(wanted))
    }
    if not line_of:
        return picks
    if data.on_short == "drop_class":
        rest = [pick for pick in picks if pick.label not in line_of]
        if not rest:
            raise DataError(
                f"on_short: drop_class would drop all {len(picks)} classes "
                f"({some(line_of.values())})",
                hint="ask for fewer images per class",
            )
        notes["dropped_classes"] = list(line_of.values())
        return rest
    groups = notes.get("left_out_group_in_other_split")
    closed = f"; {groups} images were left out, as their group is in another split" * bool(groups)
    if data.on_short == "cap":
        needed = ("train", "validation", "test") if budget else ("train", "test")
        empty = [p.label for p in picks if not all(len(p.parts[part]) for part in needed)]
        if empty:
            uses = "training, for validation or" if budget else "training or"
            fewer = "test images, or set val_from: extra" if budget else "validation or test images"
            raise DataError(
                f"{len(empty)} of {counted(len(picks), 'class has', 'classes have')} no image left "
                f"for {uses} for test: {some(line_of[label] for label in empty)}{closed}",
                hint=f"ask for fewer {fewer}, or set on_short: drop_class",
            )
        notes["capped_classes"] = list(line_of.values())
        return picks
    raise _too_few(picks, line_of, wanted, budget, closed)


def _too_few(
    picks: list[_Pick],
    line_of: dict[str, str],
    wanted: dict[str, int | None],
    budget: bool,
    closed: str,
) -> DataError:
    parts = ["train", "validation"] if budget else ["train"]
    most = min(sum(len(pick.parts[part]) for part in parts) for pick in picks)
    others = {part: count for part, count in wanted.items() if part not in parts}
    fewer = "test images" if budget else "validation or test images"
    if most >= len(parts) and not any(pick.shortage(others) for pick in picks):
        way = f"images_per_class of at most {most}, or for fewer {fewer}"
    elif budget:
        way = "fewer images_per_class or test_per_class, or set val_from: extra"
    else:
        way = "fewer images_per_class, val_per_class or test_per_class"
    return DataError(
        f"{len(line_of)} of {counted(len(picks), 'class has', 'classes have')} too few images: "
        f"{some(line_of.values())}{closed}",
        hint=f"ask for {way}; or set on_short: cap (use what there is) or on_short: drop_class",
    )
