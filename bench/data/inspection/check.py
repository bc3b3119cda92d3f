"""Looks a data set over before a grid is spent on it: what is wrong, how much of it, what to do.

Problems are images that cannot be decoded or are not there, classes without images, one content
under two labels, images of one split that are in another (the same bytes, or nearly the same
picture), and groups that stand in two splits.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.core.files import write_atomic
from bench.core.text import counted, one_line, some
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset, Image, Split, remarks
from bench.data.files.files import taken_warnings
from bench.data.files.imagefiles import FileDataset
from bench.data.formats.contract import Value
from bench.data.inspection.compare import SPLITS, shared_pictures
from bench.data.layout import has_splits
from bench.data.places import resolve_root
from bench.data.selection.pools import Pool
from bench.data.selection.splits import dropped_images
from bench.specs.data import DataSpec


@dataclass(frozen=True)
class SplitCount:
    """Images of one split: in all, and per class."""

    images: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class Problem:
    """What should be put right first.

    Attributes:
        text: what it is, with its count.
        cure: what to do.
        images: all that it is about, each with a remark (why it cannot be decoded, what it equals).
        unless: settings of a selection, each of which says that it is known.
    """

    text: str
    cure: str
    images: tuple[tuple[Image, str], ...] = ()
    unless: tuple[tuple[str, Value], ...] = ()

    def is_settled(self, data: DataSpec) -> bool:
        """Whether the selection says what is to be done about it."""
        settings = {**dict(data.options), "on_corrupt": data.on_corrupt, "on_short": data.on_short}
        return any(settings.get(name) == value for name, value in self.unless)

    def __str__(self) -> str:
        return f"{self.text}. {self.cure}"


@dataclass(frozen=True)
class Report:
    """What a data set has.

    Attributes:
        place: where the files lie; None for a data set without files.
        splits: counts of the splits that the data set itself has.
        unreadable: why images cannot be decoded, by their keys.
        duplicates: number of contents that occur more than once `within_class` (in one split of
            one class), `across_splits`, `across_classes`.
        problems: what should be put right first, each with what to do.
        remarks: what the splits take care of, and what to know.
    """

    name: str
    place: Path | None
    classes: tuple[str, ...]
    wnid_keyed: bool
    splits: dict[Split, SplitCount]
    unreadable: dict[str, str]
    duplicates: dict[str, int]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]

    def lines(self, *, every: bool = False) -> list[str]:
        """The report as text; `every` names all images of a problem, each on a line."""
        keyed = ", WordNet ids" if self.wnid_keyed else ""
        text = [f"{self.name}{f' in {one_line(str(self.place))}' if self.place else ''}"]
        text.append(f"  {len(self.classes)} classes{keyed}: {some(self.classes, limit=4)}")
        text += [
            f"  {split}: {counted(count.images, 'image')}, per class {count.fewest} to "
            f"{count.most}, median {count.median:g}"
            for split, count in self.splits.items()
        ]
        text += [f"  note: {remark}" for remark in self.remarks]
        for problem in self.problems:
            text.append(f"  problem: {problem}")
            if every:
                text += [f"    {image.key}: {remark}" for image, remark in problem.images]
        return [
            *text,
            f"  {counted(len(self.problems), 'problem') if self.problems else 'no problems'}",
        ]

    def write_csv(self, path: Path) -> None:
        """Writes a line for every image of every problem."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("problem", "image", "class", "split", "remark"))
        for problem in self.problems:
            writer.writerows(
                (problem.text, image.key, image.label, image.split, remark)
                for image, remark in problem.images
            )
        write_atomic(path, text.getvalue())


def check(
    name: str,
    root: str | Path | None,
    *,
    data_root: Path | None,
    cache_dir: Path,
    options: tuple[tuple[str, Value], ...] = (),
    most_pairs: float = math.inf,
) -> Report:
    """Indexes the data set and decodes every image of it once.

    Args:
        name: of the data set, see `bench.data.datasets.DATASETS`.
        root: where it lies; None looks where `bench.data.places.resolve_root` does.
        data_root: folder of data sets.
        cache_dir: index and results of the decoding are kept below it.
        options: of the data set, see `bench.data.listing`.
        most_pairs: images of one split are looked for in another by what they show, not by their
            bytes alone, unless there are more pairs; 0 compares bytes only. All images of a data
            set with splits are then kept at 32 pixels in the cache.

    Raises:
        DataError: when the data set is not there or not in the layout expected.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     report = check("digits", None, data_root=None, cache_dir=Path(cache))
    >>> report.lines()[2]
    '  train: 1,797 images, per class 174 to 183, median 180.5'
    """
    where = None if root is None else str(root)
    dataset = open_dataset(name, where, data_root=data_root, cache_dir=cache_dir, options=options)
    images = [image for label in dataset.classes for image in dataset.images_of(label)]
    unreadable: dict[str, str] = {}
    for label in dataset.classes:
        unreadable |= dataset.unreadable(label)
    counts = _counts(dataset)
    shared = _duplicates(images)
    tied = _tied(images)
    left = _left(dataset, unreadable, tied)
    return Report(
        name=name,
        place=resolve_root(name, where, data_root),
        classes=dataset.classes,
        wnid_keyed=dataset.wnid_keyed,
        splits={split: _summary(numbers.values()) for split, numbers in counts.items()},
        unreadable=unreadable,
        duplicates={kind: len(contents) for kind, contents in shared.items()},
        problems=(
            *_missing(dataset),
            *_unreadable(images, unreadable),
            *_empty(counts),
            *_conflicts(shared),
            *_leaks(shared),
            *_near_leaks(dataset, images, unreadable, cache_dir, most_pairs),
            *_groups(images, tied),
            *_too_few(dataset, left),
        ),
        remarks=(*_usual_remarks(dataset, shared), _room(dataset, left)),
    )


Counts = dict[Split, dict[str, int]]
Same = dict[str, list[list[Image]]]


def _counts(dataset: Dataset) -> Counts:
    """Images per class of the splits that occur."""
    found: Counts = {split: dict.fromkeys(dataset.classes, 0) for split in SPLITS}
    for label in dataset.classes:
        for image in dataset.images_of(label):
            found[image.split][label] += 1
    return {split: numbers for split, numbers in found.items() if any(numbers.values())}


def _summary(numbers: Iterable[int]) -> SplitCount:
    ordered = sorted(numbers)
    return SplitCount(sum(ordered), ordered[0], median(ordered), ordered[-1])


def _duplicates(images: Iterable[Image]) -> Same:
    """Images of contents that occur more than once, by kind."""
    by_content: dict[str, list[Image]] = {}
    for image in images:
        by_content.setdefault(image.sha256, []).append(image)
    found: Same = {"within_class": [], "across_splits": [], "across_classes": []}
    for same in by_content.values():
        if len({image.label for image in same}) > 1:
            found["across_classes"].append(same)
        if len({image.split for image in same}) > 1:
            found["across_splits"].append(same)
        if len({(image.label, image.split) for image in same}) < len(same):
            found["within_class"].append(same)
    return found


def _equal(contents: Sequence[Sequence[Image]]) -> str:
    return some((" = ".join(image.key for image in same) for same in contents), limit=3)


def _each(contents: Sequence[Sequence[Image]]) -> tuple[tuple[Image, str], ...]:
    return tuple(
        (image, f"the bytes of {other.key}")
        for same in contents
        for image, other in zip(same, (*same[1:], same[0]), strict=True)
    )


_SHORT = (("on_short", "drop_class"), ("on_short", "cap"))

# --- problems -----------------------------------------------------------------------------------


def _missing(dataset: Dataset) -> Iterator[Problem]:
    if missing := dataset.notes.get("listed_images_missing"):
        yield Problem(
            str(missing),
            "Complete the copy; until then partial: true uses what is there",
            unless=(("partial", True),),
        )


def _unreadable(images: Sequence[Image], reasons: dict[str, str]) -> Iterator[Problem]:
    """One problem, the reasons with the first of their images each."""
    if not reasons:
        return
    alike: dict[str, list[str]] = {}  # reasons that differ in numbers only are one
    for key, reason in reasons.items():
        alike.setdefault(re.sub(r"[\d.]+", "#", reason), []).append(key)
    lines = [f"{some(keys, limit=3)} ({reasons[keys[0]]})" for keys in alike.values()]
    yield Problem(
        f"{counted(len(reasons), 'image')} cannot be decoded: {some(lines)}",
        "Replace what is broken, or set on_corrupt: skip; --all lists every one",
        tuple((image, reasons[image.key]) for image in images if image.key in reasons),
        (("on_corrupt", "skip"),),
    )


def _empty(counts: Counts) -> Iterator[Problem]:
    for split in ("train", "test"):
        empty = [label for label, count in counts.get(split, {}).items() if count == 0]
        if empty:
            yield Problem(
                f"{counted(len(empty), 'class has', 'classes have')} no {split} images: "
                f"{some(empty)}",
                "Add some, or set on_short: drop_class",
                unless=_SHORT,
            )
    if "train" not in counts:
        yield Problem("there are no training images", "Put them into train/")


def _conflicts(shared: Same) -> Iterator[Problem]:
    if contents := shared["across_classes"]:
        yield Problem(
            f"{counted(len(contents), 'image is', 'images are')} in two classes (the one in test "
            f"is kept, else the first): {_equal(contents)}",
            "Remove each from the class that it does not show",
            _each(contents),
        )


def _leaks(shared: Same) -> Iterator[Problem]:
    if contents := shared["across_splits"]:
        yield Problem(
            f"{counted(len(contents), 'image is', 'images are')} in two splits (kept in test, else "
            f"in validation): {_equal(contents)}",
            "Remove them from the training images",
            _each(contents),
        )


def _near_leaks(
    dataset: Dataset,
    images: Sequence[Image],
    unreadable: dict[str, str],
    cache_dir: Path,
    most_pairs: float,
) -> Iterator[Problem]:
    """Images of validation and test that show what a training image shows."""
    if not isinstance(dataset, FileDataset):
        return
    good = [image for image in images if image.key not in unreadable]
    held = [image for image in good if image.split != "train"]
    training = [image for image in good if image.split == "train"]
    if not 0 < len(held) * len(training) <= most_pairs:
        return
    pairs = shared_pictures(dataset, held, training, cache_dir)
    if pairs:
        lines = [f"{a.key} = {b.key} ({match.kind})" for a, b, match in pairs]
        yield Problem(
            f"{counted(len(pairs), 'image')} of validation or test "
            f"{'shows' if len(pairs) == 1 else 'show'} what a training image shows: "
            f"{some(lines, limit=3)}",
            "Remove one of each pair, or give both one group (dataset: manifest) in one split",
            tuple((a, f"{match.kind} to {b.key}") for a, b, match in pairs),
        )


def _tied(images: Iterable[Image]) -> dict[str, set[Split]]:
    """Groups with images in several splits, and these splits."""
    splits: dict[str, set[Split]] = {}
    for image in images:
        if image.group is not None:
            splits.setdefault(image.group, set()).add(image.split)
    return {group: found for group, found in splits.items() if len(found) > 1}


def _groups(images: Sequence[Image], tied: dict[str, set[Split]]) -> Iterator[Problem]:
    if tied:
        inside = [image for image in images if image.group in tied]
        lost = sum(image.split == "train" for image in inside)
        yield Problem(
            f"{counted(len(tied), 'group has', 'groups have')} images in more than one split, so "
            f"{counted(lost, 'training image')} cannot be used: {some(tied)}",
            "Put all images of a group into one split, or leave the group out where it means "
            "nothing",
            tuple((image, f"group {image.group}") for image in inside),
        )


def _left(
    dataset: Dataset, unreadable: dict[str, str], tied: dict[str, set[Split]]
) -> dict[str, int]:
    """Images per class to train on, after what the splits leave out."""
    pools = tuple(Pool(label, dataset.images_of(label)) for label in dataset.classes)
    dropped, _ = dropped_images(pools, dataset.has_test)
    gone = {(number, place) for number, places in dropped.items() for place in places}
    return {
        pool.label: sum(
            image.split == "train"
            and (number, place) not in gone
            and image.key not in unreadable
            and image.group not in tied
            for place, image in enumerate(pool.images)
        )
        for number, pool in enumerate(pools)
    }


def _own_val(dataset: Dataset) -> bool:
    return any(
        image.split == "val" for label in dataset.classes for image in dataset.images_of(label)
    )


def _too_few(dataset: Dataset, left: dict[str, int]) -> Iterator[Problem]:
    """A class must have an image for each split that is cut out of its training images."""
    cut = [*([] if _own_val(dataset) else ["val"]), *([] if dataset.has_test else ["test"])]
    least = 1 + len(cut)
    short = [
        f"{label} ({counted(count, 'image')})" for label, count in left.items() if 0 < count < least
    ]
    if short:
        yield Problem(
            f"{counted(len(short), 'class has', 'classes have')} fewer than {least} different, "
            f"readable images, one each for {', '.join(['train', *cut])}: {some(short)}",
            "Add some, or set on_short: drop_class",
            unless=_SHORT,
        )


# --- remarks ------------------------------------------------------------------------------------


def _usual_remarks(dataset: Dataset, shared: Same) -> Iterator[str]:
    yield from remarks({**dataset.notes, "listed_images_missing": None})
    if not dataset.has_test:
        yield "no test split: set test_per_class: N, and N images of each class are held back"
    yield from _deeper(dataset)
    if contents := shared["within_class"]:
        count = counted(len(contents), "image is", "images are")
        yield f"{count} there more than once in a class (kept once): {_equal(contents)}"
    if warned := taken_warnings():
        yield warned


def _deeper(dataset: Dataset) -> Iterator[str]:
    """Of a folder per class: images deeper than a class's folder."""
    if not isinstance(dataset, FileDataset) or dataset.name != "folder":
        return
    depth = 3 if has_splits(dataset.files.table.keys(), dataset.files.place) else 2
    for label in dataset.classes:
        keys = [image.key for image in dataset.images_of(label)]
        if deeper := [key for key in keys if key.count("/") >= depth]:
            yield (
                f"{counted(len(deeper), 'image lies', 'images lie')} in folders below {label!r} "
                f"and {'counts' if len(deeper) == 1 else 'count'} as {label!r}: "
                f"{some(deeper, limit=2)}"
            )


def _room(dataset: Dataset, left: dict[str, int]) -> str:
    """How many images per class can be asked for."""
    label = min(left, key=lambda label: (left[label], label))
    val = 0 if _own_val(dataset) else int(DataSpec.model_fields["val_per_class"].default)
    return (
        f"images_per_class can be at most {max(left[label] - val, 0)} for all classes"
        + (f" with {val} for validation" if val else "")
        + ("" if dataset.has_test else ", less test_per_class")
        + f" ({label!r} has {left[label]} that can be used)"
    )
