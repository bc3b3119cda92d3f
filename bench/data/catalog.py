"""The data sets by name, where their files lie, and a run's images: selected, split, decoded.

Nothing is ever downloaded. `resolve` says which images a run uses and what their fingerprint is,
without decoding any; `load` gives their pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import DataError
from bench.core.text import some
from bench.data.cache import Read, cached_images, cached_jpegs
from bench.data.dataset import Dataset, Image, Int64, Notes, UInt8, digest
from bench.data.datasets import DATASETS, check_options
from bench.data.files.files import ahead, taken_warnings
from bench.data.files.jpeg import through_jpeg
from bench.data.formats.contract import Format, Value
from bench.data.opened import open_format
from bench.data.places import resolve_root
from bench.data.rows import OnDemand, Rows
from bench.data.selection.classes import Selection, select
from bench.data.selection.images import Images
from bench.data.selection.pools import Pool
from bench.data.selection.splits import Splits, split_pools
from bench.data.transforms.views import allowed_by, read_views, view_images, views_fingerprint
from bench.specs.data import ClassRecipe, DataSpec


def open_dataset(
    name: str,
    root: str | None = None,
    *,
    data_root: Path | None,
    cache_dir: Path,
    options: tuple[tuple[str, Value], ...] = (),
) -> Dataset:
    """The data set; of one with files the names and content hashes, indexed the first time.

    A process sees a data set as it was when it was first opened.

    Raises:
        DataError: when it is not known, not there, or not in the layout expected.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     open_dataset("digits", data_root=None, cache_dir=Path(cache)).classes[:2]
    ('0', '1')
    """
    return _opened(name, root, data_root, cache_dir, options).dataset


_MOST_RESOLVED = 8
"""Selections kept of a data set: each takes four bytes per image."""


@dataclass(frozen=True, eq=False)
class _Opened:
    """A data set with what is worth keeping between two resolves of it."""

    dataset: Dataset
    _pools: dict[tuple[str, bool], tuple[Pool, tuple[str, ...]]] = field(default_factory=dict)
    _selections: dict[ClassRecipe, Selection] = field(default_factory=dict)
    _resolved: dict[tuple[DataSpec, int], Resolved] = field(default_factory=dict)

    def resolved(self, data: DataSpec, draw: int) -> Resolved:
        """The images of a selection; the last few are kept, since a run asks for its own, and for
        those of what it starts from, several times."""
        found = self._resolved.pop((data, draw), None) or _resolve(self, data, draw)
        self._resolved[data, draw] = found
        while len(self._resolved) > _MOST_RESOLVED:
            self._resolved.pop(next(iter(self._resolved)))
        return found

    def pool(self, label: str, skip_corrupt: bool) -> tuple[Pool, tuple[str, ...]]:
        """The images of a class, and the keys of those left out because they are corrupt."""
        if (label, skip_corrupt) not in self._pools:
            corrupt = self.dataset.unreadable(label) if skip_corrupt else {}
            images = Images.of(self.dataset.images_of(label))
            if corrupt:
                images = images[np.array([key not in corrupt for key in images.keys])]
            self._pools[label, skip_corrupt] = Pool(label, images), tuple(corrupt)
        return self._pools[label, skip_corrupt]

    def select(self, recipe: ClassRecipe) -> Selection:
        """The classes of a recipe."""
        if recipe not in self._selections:
            dataset = self.dataset
            self._selections[recipe] = select(
                recipe,
                dataset.classes,
                wnid_keyed=dataset.wnid_keyed,
                dataset=dataset.name,
                images_of=lambda name: len(dataset.images_of(name)),
            )
        return self._selections[recipe]


def _opened(
    name: str,
    root: str | None,
    data_root: Path | None,
    cache_dir: Path,
    options: tuple[tuple[str, Value], ...],
) -> _Opened:
    check_options(name, options)
    path = resolve_root(name, root, data_root)
    if path is None:
        return _open(name, None, None, (0, 0), ())
    info = path.stat()
    return _open(name, path, cache_dir.absolute(), (info.st_size, info.st_mtime_ns), options)


@lru_cache(maxsize=32)
def _open(
    name: str,
    path: Path | None,
    cache_dir: Path | None,
    stamp: tuple[int, int],
    options: tuple[tuple[str, Value], ...],
) -> _Opened:
    """Kept per process; `stamp` lets an archive that was replaced be opened anew."""
    entry = DATASETS[name]
    if isinstance(entry, Format):
        if path is None or cache_dir is None:
            raise TypeError(f"data set {name!r} needs a path and a cache folder")
        return _Opened(open_format(entry, path, cache_dir, options))
    return _Opened(entry())


# --- a run's images -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    """The images of a run.

    Attributes:
        classes: in drawn order; the label of an image is the place of its class.
        fingerprint: of the classes and of the keys and contents of all images, 64 hex digits.
            Where the files lie and how they are packed plays no part.
        dataset_fingerprint: of the whole data set; class names compare where it is equal.
        wnid_keyed: classes are WordNet ids, which compare between data sets.
        notes: what was left out and why; empty when nothing was.
        available_images: how many images `train` could be drawn from, see `Splits`.
    """

    classes: tuple[str, ...]
    train: Images
    val: Images
    test: Images
    fingerprint: str
    dataset_fingerprint: str
    wnid_keyed: bool
    version: str
    notes: Notes
    available_images: int

    @property
    def images(self) -> Images:
        """Training, validation and test images, in this order."""
        return self.train + self.val + self.test


def resolve(data: DataSpec, draw: int, *, data_root: Path | None, cache_dir: Path) -> Resolved:
    """Which images a run uses; no image is decoded, unless `on_corrupt` is skip.

    With `on_corrupt: skip` all images of the selected classes are decoded once before the draw, so
    that the counts per class stay exact and the fingerprint says what is really used.

    Args:
        data: the selection.
        draw: seed of the draw of images (`seeds.draw`).
        data_root: folder of data sets, see `resolve_root`.
        cache_dir: indices and decoded images lie below it.

    Raises:
        DataError: when the data are not there, or cannot be selected or split as asked.

    >>> import tempfile
    >>> from bench.specs.run import DataSpec
    >>> digits = DataSpec(dataset="digits", images_per_class=5, test_per_class=20)
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     found = resolve(digits, 0, data_root=None, cache_dir=Path(cache))
    >>> len(found.classes), len(found.train), len(found.val), len(found.test)
    (10, 50, 100, 200)
    """
    return _opened(data.dataset, data.root, data_root, cache_dir, data.options).resolved(data, draw)


def _resolve(opened: _Opened, data: DataSpec, draw: int) -> Resolved:
    """As `resolve`, of a data set that is open."""
    dataset = opened.dataset
    selection = opened.select(data.classes)
    pools = [opened.pool(name, data.on_corrupt == "skip") for name in selection.names]
    corrupt = [key for _, keys in pools for key in keys]
    parts = split_pools(
        [pool for pool, _ in pools], data, draw, allowed_by(dataset, data.train_where)
    )
    if len(parts.classes) < 2:
        raise _one_class(data, parts)
    plain = fingerprint(dataset, parts.classes, parts.train, parts.val, parts.test)
    notes: Notes = {**dict(selection.notes), **dataset.notes, **parts.notes}
    if corrupt:
        notes |= {"skipped_corrupt": len(corrupt), "skipped_corrupt_images": corrupt}
    return Resolved(
        classes=parts.classes,
        train=parts.train,
        val=parts.val,
        test=parts.test,
        fingerprint=views_fingerprint(dataset, plain, parts, data.views),
        dataset_fingerprint=dataset.fingerprint,
        wnid_keyed=dataset.wnid_keyed,
        version=dataset.version,
        notes=notes,
        available_images=parts.available_images,
    )


def _one_class(data: DataSpec, parts: Splits) -> DataError:
    """There is nothing to tell apart: any network would be right at every image."""
    dropped = parts.notes.get("dropped_classes")
    return DataError(
        f"one class, {parts.classes[0]!r}, is left of data set {data.dataset!r}: a network needs "
        "at least two to tell apart",
        hint=f"on_short: drop_class left out {some(dropped)}"
        if isinstance(dropped, list)
        else f"select more classes: the recipe is {data.classes.recipe}; see bench classes --help",
    )


def fingerprint(
    dataset: Dataset,
    classes: Sequence[str],
    train: Sequence[Image],
    val: Sequence[Image],
    test: Sequence[Image],
) -> str:
    """SHA-256 over what is selected: set, version, classes, and key, content and class of images.

    Paths of the machine play no part.
    """

    def lines() -> Iterator[str]:
        yield from (dataset.name, dataset.version, json.dumps(list(classes)))
        for name, images in (("train", train), ("val", val), ("test", test)):
            yield f"{name} {len(images)}"
            for block in Images.of(images).blocks():
                each = zip(block.hashes, block.labels, block.keys, strict=True)
                yield from (f"{sha256} {label}\0{key}" for sha256, label, key in each)

    return digest(lines())


@dataclass(frozen=True, eq=False)
class Loaded:
    """The pixels of a run.

    Attributes:
        images: (N, V size, size, 3) uint8 RGB, V views one above the other (1 without `views:`); a
            read-only memory map, or rows that are decoded when asked for: index it to get a copy.
        labels: (N,) places in `classes`.
        train, val, test: rows of `images`, ascending; disjoint, together all N.
        classes: names.
        notes: see `Resolved`.
        crop: side of the part that the network is shown, where images are kept larger (`resize`).
        content: (N, B) uint8, digests of the images and of all that makes their pixels of them.
    """

    images: UInt8 | Rows
    labels: Int64
    train: Int64
    val: Int64
    test: Int64
    classes: tuple[str, ...]
    notes: Notes
    crop: int | None = None
    content: UInt8 | None = None


def load(resolved: Resolved, data: DataSpec, *, data_root: Path | None, cache_dir: Path) -> Loaded:
    """The pixels of a selection, decoded once per selection and size and then mapped.

    Args:
        resolved: what `resolve` gave for `data`.
        data: the same selection; its `kept_size` is the size.

    Raises:
        DataError: naming an image that cannot be decoded or has changed since it was indexed.

    >>> import tempfile
    >>> digits = DataSpec(dataset="digits", images_per_class=5, test_per_class=20)
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     places = {"data_root": None, "cache_dir": Path(cache)}
    ...     loaded = load(resolve(digits, 0, **places), digits, **places)
    ...     loaded.images.shape, loaded.train.shape, loaded.labels[loaded.train].max()
    ((350, 32, 32, 3), (50,), np.int64(9))
    """
    parts = (resolved.train, resolved.val, resolved.test)
    return load_parts(
        data,
        parts,
        resolved.classes,
        resolved.fingerprint,
        data_root=data_root,
        cache_dir=cache_dir,
        notes=resolved.notes,
    )


def _content(dataset: Dataset, viewed: Images, data: DataSpec) -> UInt8:
    """(N, 32 V + 8): the hashes of an image's views, and what is done to all images."""
    made = f"{dataset.version} {data.kept_size} {data.stored_as}".encode()
    rows = viewed.sha256.reshape(-1, 32 * (len(data.views) or 1))
    same = np.frombuffer(hashlib.sha256(made).digest()[:8], np.uint8)
    return np.concatenate([rows, np.broadcast_to(same, (len(rows), 8))], axis=1)


def shown(dataset: Dataset, images: Sequence[Image], data: DataSpec) -> tuple[Images, Read]:
    """What a network is shown of images, each of its views by itself, and what decodes it."""
    read = partial(read_views, dataset) if data.views else dataset.read
    return view_images(dataset, images, data.views), read


def decodes_once() -> bool:
    """Whether decoded images are kept, as the environment variable BENCH_DECODE says.

    Raises:
        DataError: it says neither.
    """
    how = os.environ.get("BENCH_DECODE", "once")
    if how not in ("once", "always"):
        raise DataError(
            f"the environment variable BENCH_DECODE is {how!r}",
            hint="set it to once (images are decoded once and kept in the cache) or always (each "
            "time they are shown), or leave it out",
        )
    return how == "once"


def _pixels(
    dataset: Dataset,
    viewed: Images,
    read: Read,
    data: DataSpec,
    cache_dir: Path,
    fingerprint: str,
) -> UInt8 | Rows:
    """(N, V size, size, 3): decoded once and mapped, decoded from JPEGs that are kept, or with
    BENCH_DECODE=always from the files; the last two on demand."""
    views, side = len(data.views) or 1, data.kept_size
    count = len(viewed) // views
    each: Callable[[Sequence[int]], Iterator[UInt8]]
    if decodes_once():
        cached: Callable[..., Any] = cached_jpegs if data.stored_as == "jpeg" else cached_images
        kept = cached(
            viewed,
            side,
            read,
            cache_dir=cache_dir,
            fingerprint=fingerprint,
            version=dataset.version,
            name=data.dataset,
        )
        if data.stored_as == "raw":
            pixels: UInt8 = kept.reshape(count, -1, side, 3)
            return pixels
        each = kept
    else:

        def each(numbers: Sequence[int]) -> Iterator[UInt8]:
            found = read(viewed[np.asarray(numbers)], side)
            return ahead(through_jpeg, found) if data.stored_as == "jpeg" else found

    def decoded(rows: Int64) -> Iterator[UInt8]:
        numbers = (rows[:, None] * views + np.arange(views)).ravel().tolist()
        pixels = each(numbers)
        return (np.concatenate(list(islice(pixels, views))) for _ in rows)

    shape = (count, views * side, side, 3)
    return Rows(OnDemand(decoded, shape), np.arange(count))


_ATTEMPTS = 3


def load_parts(
    data: DataSpec,
    parts: Sequence[Sequence[Image]],
    classes: tuple[str, ...],
    fingerprint: str,
    *,
    data_root: Path | None,
    cache_dir: Path,
    notes: Notes,
) -> Loaded:
    """The pixels of training, validation and test images, which `fingerprint` covers.

    With the environment variable BENCH_DECODE=always none are kept on the disk.
    """
    images = Images.of(*parts)
    for left in reversed(range(_ATTEMPTS)):
        dataset = open_dataset(
            data.dataset, data.root, data_root=data_root, cache_dir=cache_dir, options=data.options
        )
        try:
            viewed, read = shown(dataset, images, data)
            pixels = _pixels(dataset, viewed, read, data, cache_dir, fingerprint)
        except DataError as error:
            gone = Path(error.place or "")
            if not left or gone.suffix != ".pack" or gone.exists():
                raise
            _open.cache_clear()  # somebody has deleted the cache with the unpacked archive
        else:
            break
    if found := taken_warnings():
        logging.getLogger(__name__).warning("%s", found)
    rows = np.arange(len(images), dtype=np.int64)
    train, val, test = np.split(rows, np.cumsum([len(part) for part in parts[:2]]))
    return Loaded(
        images=pixels,
        labels=images.labels_in(classes),
        train=train,
        val=val,
        test=test,
        classes=classes,
        notes=notes,
        crop=data.image_size if data.resize else None,
        content=_content(dataset, viewed, data),
    )
