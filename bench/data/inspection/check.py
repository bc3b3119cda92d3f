"""Looks a data set over before a grid is spent on it: counts, unreadable images, duplicates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.core.text import counted, some
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset, Image, Split
from bench.data.files.imagefiles import FileDataset
from bench.data.formats.contract import Value
from bench.data.layout import has_splits
from bench.data.places import resolve_root
from bench.data.selection.pools import Pool
from bench.data.selection.splits import kept_keys
from bench.specs.data import DataSpec

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class SplitCount:
    """Images of one split: in all, and per class."""

    images: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        place: where the files lie; None for a data set without files.
        splits: counts of the splits that the data set itself has.
        unreadable: keys of the images that cannot be decoded.
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
    unreadable: tuple[str, ...]
    duplicates: dict[str, int]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report as text."""
        keyed = ", WordNet ids" if self.wnid_keyed else ""
        text = [f"{self.name}{f' in {self.place}' if self.place else ''}"]
        text.append(f"  {len(self.classes)} classes{keyed}: {some(self.classes, limit=4)}")
        text += [
            f"  {split}: {counted(count.images, 'image')}, per class {count.fewest} to "
            f"{count.most}, median {count.median:g}"
            for split, count in self.splits.items()
        ]
        text += [f"  note: {remark}" for remark in self.remarks]
        text += [f"  problem: {problem}" for problem in self.problems]
        return [
            *text,
            f"  {counted(len(self.problems), 'problem') if self.problems else 'no problems'}",
        ]


def check(
    name: str,
    root: str | Path | None,
    *,
    data_root: Path | None,
    cache_dir: Path,
    options: tuple[tuple[str, Value], ...] = (),
) -> Report:
    """Indexes the data set and decodes every image of it once.

    Args:
        name: of the data set, see `bench.data.catalog.DATASETS`.
        root: where it lies; None looks where `bench.data.catalog.resolve_root` does.
        data_root: folder of data sets.
        cache_dir: index and results of the decoding are kept below it.
        options: of the data set, see `bench.data.listing`.

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
    unreadable = tuple(key for label in dataset.classes for key in dataset.unreadable(label))
    counts = _counts(dataset)
    shared = _duplicates(images)
    duplicates = {kind: len(contents) for kind, contents in shared.items()}
    left = _left(dataset, unreadable)
    return Report(
        name=name,
        place=resolve_root(name, where, data_root),
        classes=dataset.classes,
        wnid_keyed=dataset.wnid_keyed,
        splits={split: _summary(numbers.values()) for split, numbers in counts.items()},
        unreadable=unreadable,
        duplicates=duplicates,
        problems=(*_problems(counts, unreadable), *_too_few(dataset, left)),
        remarks=(
            *_usual_remarks(dataset),
            *_layout(dataset),
            _room(dataset, left),
            *_shared_remarks(shared),
        ),
    )


Counts = dict[Split, dict[str, int]]


def _counts(dataset: Dataset) -> Counts:
    """Images per class of the splits that occur."""
    found: Counts = {split: dict.fromkeys(dataset.classes, 0) for split in _SPLITS}
    for label in dataset.classes:
        for image in dataset.images_of(label):
            found[image.split][label] += 1
    return {split: numbers for split, numbers in found.items() if any(numbers.values())}


def _summary(numbers: Iterable[int]) -> SplitCount:
    ordered = sorted(numbers)
    return SplitCount(sum(ordered), ordered[0], median(ordered), ordered[-1])


def _duplicates(images: Iterable[Image]) -> dict[str, list[str]]:
    """Contents that occur more than once, as the keys of their images, by kind."""
    by_content: dict[str, list[Image]] = {}
    for image in images:
        by_content.setdefault(image.sha256, []).append(image)
    found: dict[str, list[str]] = {"within_class": [], "across_splits": [], "across_classes": []}
    for same in by_content.values():
        if len(same) == 1:
            continue
        keys = " = ".join(image.key for image in same)
        labels, splits = {image.label for image in same}, {image.split for image in same}
        if len(labels) > 1:
            found["across_classes"].append(keys)
        if len(splits) > 1:
            found["across_splits"].append(keys)
        if len({(image.label, image.split) for image in same}) < len(same):
            found["within_class"].append(keys)
    return found


def _problems(counts: Counts, unreadable: tuple[str, ...]) -> Iterable[str]:
    if unreadable:
        yield (
            f"{counted(len(unreadable), 'image')} cannot be decoded: {some(unreadable)}. "
            "Replace what is broken, or set on_corrupt: skip"
        )
    for split in ("train", "test"):
        empty = [label for label, count in counts.get(split, {}).items() if count == 0]
        if empty:
            yield (
                f"{counted(len(empty), 'class has', 'classes have')} no {split} images: "
                f"{some(empty)}. Add some, or set on_short: drop_class"
            )
    if "train" not in counts:
        yield "there are no training images. Put them into train/"


def _usual_remarks(dataset: Dataset) -> Iterable[str]:
    for name, value in dataset.notes.items():
        yield f"{name.replace('_', ' ')}: {value}"
    if not dataset.has_test:
        yield "no test split: set test_per_class: N, and N images of each class are held back"


def _layout(dataset: Dataset) -> Iterable[str]:
    """Of a folder per class: folders without images, and images deeper than a class's folder."""
    if not isinstance(dataset, FileDataset) or dataset.name != "folder":
        return
    place = dataset.files.place
    splits = has_splits(dataset.files.sha256, place)
    if place.is_dir():
        inner = [place / split for split in _SPLITS]
        tops = [top for top in inner if top.is_dir()] if splits else [place]
        known = set(dataset.classes)
        empty = {
            entry.relative_to(place).as_posix()
            for top in tops
            for entry in top.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in known
        }
        if empty:
            yield (
                f"{counted(len(empty), 'folder has', 'folders have')} no images and "
                f"{'is no class' if len(empty) == 1 else 'are no classes'}: {some(sorted(empty))}"
            )
    depth = 3 if splits else 2
    for label in dataset.classes:
        keys = [image.key for image in dataset.images_of(label)]
        if deeper := [key for key in keys if key.count("/") >= depth]:
            yield (
                f"{counted(len(deeper), 'image lies', 'images lie')} in folders below {label!r} "
                f"and {'counts' if len(deeper) == 1 else 'count'} as {label!r}: "
                f"{some(deeper, limit=2)}"
            )


def _left(dataset: Dataset, unreadable: tuple[str, ...]) -> dict[str, int]:
    """Images per class to train on, after what the splits leave out."""
    pools = tuple(Pool(label, dataset.images_of(label)) for label in dataset.classes)
    kept, _ = kept_keys(pools, dataset.has_test)
    broken = set(unreadable)
    return {
        pool.label: sum(
            image.split == "train"
            and (kept is None or image.key in kept)
            and image.key not in broken
            for image in pool.images
        )
        for pool in pools
    }


def _own_val(dataset: Dataset) -> bool:
    return any(
        image.split == "val" for label in dataset.classes for image in dataset.images_of(label)
    )


def _too_few(dataset: Dataset, left: dict[str, int]) -> Iterable[str]:
    """A class must have an image for each split that is cut out of its training images."""
    cut = [*([] if _own_val(dataset) else ["val"]), *([] if dataset.has_test else ["test"])]
    least = 1 + len(cut)
    short = [
        f"{label} ({counted(count, 'image')})" for label, count in left.items() if 0 < count < least
    ]
    if short:
        yield (
            f"{counted(len(short), 'class has', 'classes have')} fewer than {least} different, "
            f"readable images, one each for {', '.join(['train', *cut])}: {some(short)}. "
            "Add some, or set on_short: drop_class"
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


def _shared_remarks(duplicates: dict[str, list[str]]) -> Iterable[str]:
    words = {
        "within_class": "there more than once in a class (kept once)",
        "across_splits": "in two splits (kept in test, else in validation)",
        "across_classes": "in two classes (the one in test is kept, else the first)",
    }
    for kind, keys in duplicates.items():
        if keys:
            count = counted(len(keys), "image is", "images are")
            yield f"{count} {words[kind]}: {some(keys, limit=3)}"
