"""Whether two data sets share images: by their bytes, and by what they show.

Stanford Dogs is cut from ImageNet, so a network that was trained on ImageNet has seen the test
images of Stanford Dogs. Two of the papers report gains on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core.files import csv_text, write_atomic
from bench.data.cache import cached_images
from bench.data.catalog import fingerprint, open_dataset
from bench.data.dataset import Dataset, Image, Split
from bench.data.formats.contract import Value
from bench.data.inspection.overlap import Kind, Match, Pictures, find_overlap

SIDE_PIXELS = 32
"""What the perceptual hash looks at; half the disk of the next size for a million images."""
_SHOWN = 5
_KINDS: tuple[Kind, ...] = ("exact", "similar", "mirrored")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Side:
    """A data set to be compared: its name, where it lies, its options."""

    name: str
    root: str | None
    options: tuple[tuple[str, Value], ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two data sets share.

    Attributes:
        name, other: what the data sets are called; their paths where they have one name.
        images: of `name`, those that were compared.
        pairs: an image of `name`, the image of `other` that is most like it, and how.
        flat: images without any shape, which only their bytes can tell apart.
        unreadable: images of either that were compared by their bytes alone.
    """

    name: str
    other: str
    images: tuple[Image, ...]
    pairs: tuple[tuple[Image, Image, Match], ...]
    flat: int
    unreadable: int

    @property
    def leaks(self) -> int:
        """Test images of `name` that are training images of `other`."""
        return sum(a.split == "test" and b.split == "train" for a, b, _ in self.pairs)

    def lines(self) -> list[str]:
        """The comparison as text."""
        kinds = Counter(match.kind for _, _, match in self.pairs)
        how = ", ".join(f"{kinds[kind]:,} {kind}" for kind in _KINDS)
        text = [
            f"{self.name} and {self.other} share {len(self.pairs):,} of the {len(self.images):,} "
            f"images of {self.name}: {how}"
        ]
        shared = Counter((a.split, b.split) for a, b, _ in self.pairs)
        of = Counter(image.split for image in self.images)
        text += [
            f"  {shared[ours, theirs]:,} of {of[ours]:,} {ours} images are {theirs} images of "
            f"{self.other}"
            for ours in SPLITS
            for theirs in SPLITS
            if shared[ours, theirs]
        ]
        for kind in _KINDS:
            found = [(a, b) for a, b, match in self.pairs if match.kind == kind]
            text += [f"  {kind}: {a.key} = {b.key}" for a, b in found[:_SHOWN]]
            if len(found) > _SHOWN:
                text.append(f"  {kind}: {len(found) - _SHOWN:,} more")
        if self.flat:
            text.append(f"  {self.flat:,} images have no shape: compared by their bytes alone")
        if self.unreadable:
            text.append(f"  {self.unreadable:,} images cannot be decoded: by their bytes alone")
        if self.leaks:
            text.append(
                f"  problem: a network trained on {self.other} has seen {self.leaks:,} of "
                f"{of['test']:,} test images of {self.name}. Leave them out with exclude_overlap: "
                "true where images are borrowed, or say it beside every result"
            )
        return text

    def rows(self) -> list[dict[str, str | int | float]]:
        """A line per shared image."""
        return [
            {
                "image": a.key,
                "class": a.label,
                "split": a.split,
                "other_image": b.key,
                "other_class": b.label,
                "other_split": b.split,
                "kind": match.kind,
                "bits": match.bits,
                "correlation": round(match.correlation, 4),
            }
            for a, b, match in self.pairs
        ]


def compare(
    side: Side,
    other: Side,
    *,
    data_root: Path | None,
    cache_dir: Path,
    pictures: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """The images of `side` that `other` has too.

    Args:
        side, other: the data sets.
        data_root: folder of data sets.
        cache_dir: indices, and all images at 32 pixels (3 KiB each), are kept below it.
        pictures: compare what images show too; every image is decoded once.
        say: prints which data set is being read.

    Raises:
        DataError: when one of them is not there or not in the layout expected.

    >>> digits = Side("digits", None)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     places = {"data_root": None, "cache_dir": Path(cache)}
    ...     found = compare(digits, digits, **places, pictures=False)
    >>> print(found.lines()[1])
      1,797 of 1,797 train images are train images of digits
    """
    names = _called(side, other)
    opened = []
    for one, name in zip((side, other), names, strict=True):
        say(f"reading {name}")
        opened.append(
            open_dataset(
                one.name, one.root, data_root=data_root, cache_dir=cache_dir, options=one.options
            )
        )
    ours, theirs = opened
    images, others = _images(ours), _images(theirs)
    found = {match.target: match for match in find_overlap(_bytes(images), _bytes(others)).matches}
    flat = unreadable = 0
    if pictures:
        say(f"decoding {len(images):,} images of {names[0]}")
        shown = _readable(ours, images)
        pixels = _shown(ours, [images[row] for row in shown], cache_dir)
        say(f"decoding {len(others):,} images of {names[1]}")
        shown_others = _readable(theirs, others)
        overlap = find_overlap(
            pixels, _shown(theirs, [others[row] for row in shown_others], cache_dir)
        )
        flat = overlap.flat
        unreadable = len(images) + len(others) - len(shown) - len(shown_others)
        for match in overlap.matches:
            row, place = shown[match.target], shown_others[match.source]
            found.setdefault(row, replace(match, target=row, source=place))
    pairs = tuple((images[row], others[found[row].source], found[row]) for row in sorted(found))
    return Comparison(*names, images, pairs, flat, unreadable)


def _called(side: Side, other: Side) -> tuple[str, str]:
    """What to call them: two folders by their paths, other data sets by their names.

    >>> _called(Side("folder", "cats"), Side("folder", "dogs"))
    ('cats', 'dogs')
    >>> _called(Side("folder", "cats"), Side("digits", None))
    ('folder', 'digits')
    """
    if side.name != other.name:
        return side.name, other.name
    return side.root or side.name, other.root or other.name


def write_pairs(found: Comparison, path: Path) -> None:
    """Writes the shared images as a CSV file, whole or not at all."""
    names = ("image", "class", "split", "other_image", "other_class", "other_split", "kind")
    write_atomic(path, csv_text(found.rows(), (*names, "bits", "correlation")))


def _images(dataset: Dataset) -> tuple[Image, ...]:
    """Training images first: of several equal ones the first is named."""
    every = (image for label in dataset.classes for image in dataset.images_of(label))
    return tuple(sorted(every, key=lambda image: SPLITS.index(image.split)))


def _readable(dataset: Dataset, images: Sequence[Image]) -> list[int]:
    """Places of the images that can be decoded."""
    bad = {key for label in dataset.classes for key in dataset.unreadable(label)}
    return [row for row, image in enumerate(images) if image.key not in bad]


def shared_pictures(
    dataset: Dataset, held: Sequence[Image], training: Sequence[Image], cache_dir: Path
) -> list[tuple[Image, Image, Match]]:
    """Images of `held` that show what one of `training` shows without having its bytes."""
    overlap = find_overlap(_shown(dataset, held, cache_dir), _shown(dataset, training, cache_dir))
    return [
        (held[match.target], training[match.source], match)
        for match in overlap.matches
        if match.kind != "exact"
    ]


def _bytes(images: Sequence[Image]) -> Pictures:
    return Pictures([image.key for image in images], [image.sha256 for image in images])


def _shown(dataset: Dataset, images: Sequence[Image], cache_dir: Path) -> Pictures:
    """With all pixels, decoded once and then mapped from the cache."""
    known = fingerprint(dataset, dataset.classes, images, (), ())
    pixels = cached_images(
        images,
        SIDE_PIXELS,
        dataset.read,
        cache_dir=cache_dir,
        fingerprint=known,
        version=dataset.version,
    )
    return replace(_bytes(images), pixels=pixels)
