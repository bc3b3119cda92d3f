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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from bench.core.errors import DataError
from bench.core.text import counted, some
from bench.data.dataset import Image, Notes, Split
from bench.data.selection.pools import Images, Pool, Taker
from bench.specs.data import validation_images

TestFrom = Literal["auto", "given", "pool"]
OnShort = Literal["error", "cap", "drop_class"]


@dataclass(frozen=True)
class Splits:
    """Disjoint image lists; class by class in the order of `classes`, within one in drawn order.

    `available_images` is how many images training images could be drawn from, summed over
    `classes`: of the training pool what is left by the test and the validation images, by
    duplicates of other images, by `train_where` and by groups that are tested or validated on.
    Where validation is a share of a budget, it is how many the budget could be drawn from.
    """

    classes: tuple[str, ...]
    train: tuple[Image, ...]
    val: tuple[Image, ...]
    test: tuple[Image, ...]
    notes: Notes
    available_images: int = 0


def split(
    images: Iterable[Image],
    *,
    images_per_class: int | None,
    val_per_class: int,
    test_per_class: int | None,
    test_from: TestFrom,
    draw: int,
    on_short: OnShort,
    val_share: float | None = None,
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
        val_share=val_share,
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
    val_share: float | None = None,
) -> Splits:
    """Exactly `images_per_class` training and `val_per_class` validation images of every class.

    With `val_share` they are `images_per_class` images together, that share of them for validation;
    the data set's own training and validation images are then one pool, and `val_per_class` is
    not read.

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
            at least one training and one test image, and with `val_share` one for validation) or
            `drop_class`; the notes name them.
        train_where: which images may be for training and validation; None is all.
        val_share: None draws validation images besides.

    Raises:
        DataError: naming the classes, the counts needed and available, and the ways out.
    """
    has_test = any("test" in pool.parts for pool in pools)
    given_test = _given_test(test_from, has_test, test_per_class)
    val_part: Split = "val" if any("val" in pool.parts for pool in pools) else "train"
    kept, dropped = kept_keys(tuple(pools), given_test)
    notes: Notes = dict(dropped)
    taker = Taker(pools, kept)
    if given_test:
        test = taker.given(test_per_class)
    else:
        test = taker.take("test", "train", test_per_class)
    taker.only = train_where
    salt, wanted = f"images|{draw}", _wanted(images_per_class, val_per_class, val_share)
    if val_share is None:
        val = taker.take(salt, val_part, val_per_class)
        available = taker.available("train")
        train = taker.take(salt, "train", images_per_class)
    else:
        available = taker.available("train", "val")
        train, val = taker.take_budget(salt, images_per_class, val_share)
    if taker.left_out:
        notes["left_out_group_in_other_split"] = len(taker.left_out)
    if on_short == "error":
        own_val = val_share is None and val_part == "val" and val_per_class > 0
        _check_same_classes(pools, given_test, own_val, pooled=val_share is not None)
    wanted |= {"test": test_per_class}
    picks = [
        _Pick(pool.label, {"train": a, "validation": b, "test": c})
        for pool, a, b, c in zip(pools, train, val, test, strict=True)
    ]
    picks = _settle(picks, wanted, on_short, notes, budget=val_share is not None)
    settled = {pick.label for pick in picks}
    return Splits(
        tuple(pick.label for pick in picks),
        tuple(image for pick in picks for image in pick.parts["train"]),
        tuple(image for pick in picks for image in pick.parts["validation"]),
        tuple(image for pick in picks for image in pick.parts["test"]),
        notes,
        sum(n for pool, n in zip(pools, available, strict=True) if pool.label in settled),
    )


def _wanted(
    images_per_class: int | None, val_per_class: int, val_share: float | None
) -> dict[str, int | None]:
    """Training and validation images of every class; None asks for all, and for at least one."""
    if val_share is None:
        return {"train": images_per_class, "validation": val_per_class}
    if images_per_class is None:
        return {"train": None, "validation": None}
    held = max(1, validation_images(images_per_class, val_share))
    return {"train": max(1, images_per_class - held), "validation": held}


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
    picks: list[_Pick],
    wanted: dict[str, int | None],
    on_short: OnShort,
    notes: Notes,
    *,
    budget: bool,
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
        needed = ("train", "validation", "test") if budget else ("train", "test")
        empty = [p.label for p in picks if not all(p.parts[part] for part in needed)]
        if empty:
            uses = "training, for validation or" if budget else "training or"
            fewer = "test images, or set val_from: extra" if budget else "validation or test images"
            raise DataError(
                f"{len(empty)} of {counted(len(picks), 'class has', 'classes have')} no image left "
                f"for {uses} for test: {some(line_of[label] for label in empty)}",
                hint=f"ask for fewer {fewer}, or set on_short: drop_class",
            )
        notes["capped_classes"] = list(line_of.values())
        return picks
    raise _too_few(picks, line_of, wanted, budget)


def _too_few(
    picks: list[_Pick], line_of: dict[str, str], wanted: dict[str, int | None], budget: bool
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
        f"{some(line_of.values())}",
        hint=f"ask for {way}; or set on_short: cap (use what there is) or on_short: drop_class",
    )
