"""A data set of image files: the layouts say which file is what, this reads them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from bench.core.errors import DataError
from bench.core.files import write_atomic
from bench.data.dataset import Image, Notes, Split, UInt8, all_wnids, digest
from bench.data.files.decode import DECODE_VERSION, UnreadableError, decode
from bench.data.files.files import Files, ahead

READABLE_FORMAT = "bench readable images 1"


class ImageFiles(Protocol):
    """The image files of a data set; see `bench.data.files.files.Files`."""

    @property
    def place(self) -> Path: ...
    @property
    def sha256(self) -> Mapping[str, str]: ...
    @property
    def others(self) -> int: ...

    def read(self, path: str) -> bytes:
        """The bytes of an image, checked."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """What a layout says of one image file; `columns` are those that a manifest has besides."""

    path: str
    label: str
    split: Split
    group: str | None = None
    columns: tuple[tuple[str, str], ...] = ()


def place_images(
    name: str, files: Files, placed: Iterable[Placed], cache_dir: Path, expected: str
) -> FileDataset:
    """The data set of the files that the layout has placed.

    Raises:
        DataError: when none has been placed, or there is but one class.
    """
    by_label: dict[str, list[Image]] = {}
    for one in placed:
        image = Image(one.path, one.label, one.split, files.sha256[one.path], one.group)
        by_label.setdefault(one.label, []).append(image)
    if len(by_label) < 2:
        found = f"one class, {min(by_label)!r}" if by_label else "no images"
        raise DataError(
            f"data set {name!r}: {found} found, at least two classes are needed",
            place=str(files.place),
            hint=f"expected {expected}",
        )
    ordered = {
        label: tuple(sorted(by_label[label], key=lambda image: image.key))
        for label in sorted(by_label)
    }
    return FileDataset(name, files, ordered, cache_dir)


@dataclass(frozen=True, eq=False)
class FileDataset:
    """A data set of image files; see `bench.data.dataset.Dataset` for the contract."""

    name: str
    files: ImageFiles
    by_label: Mapping[str, tuple[Image, ...]]
    cache_dir: Path
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(self.by_label)

    @cached_property
    def wnid_keyed(self) -> bool:
        """Whether every class is a WordNet id."""
        return all_wnids(self.by_label)

    @cached_property
    def has_test(self) -> bool:
        """Whether the layout has a test split."""
        return any(image.split == "test" for images in self.by_label.values() for image in images)

    @property
    def version(self) -> str:
        """Of the decoder."""
        return f"decode {DECODE_VERSION}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the names and contents of all images."""
        rows = (image for images in self.by_label.values() for image in images)
        lines = (f"{row.label}\0{row.split}\0{row.key}\0{row.sha256}" for row in rows)
        return digest([self.name, self.version, *lines])

    @property
    def notes(self) -> Notes:
        """Files that belong to no class."""
        placed = sum(len(images) for images in self.by_label.values())
        counts = {
            "images_outside_the_layout": len(self.files.sha256) - placed,
            "files_that_are_no_images": self.files.others,
        }
        return {name: count for name, count in counts.items() if count}

    def images_of(self, label: str) -> tuple[Image, ...]:
        """All images of a class, sorted by key."""
        return self.by_label[label]

    def read(self, images: Sequence[Image], size: int) -> Iterator[UInt8]:
        """Decodes `images` in their order; (size, size, 3) each."""

        def pixels(image: Image) -> UInt8:
            try:
                return decode(self.files.read(image.key), size)
            except UnreadableError as error:
                raise DataError(
                    f"image {image.key!r} cannot be decoded ({error})",
                    place=str(self.files.place),
                    hint="set on_corrupt: skip to leave such images out (they are counted), or "
                    "replace the file; `bench data check` lists all of them",
                ) from error

        return ahead(pixels, images)

    def unreadable(self, label: str) -> tuple[str, ...]:
        """Keys of the class's images that cannot be decoded.

        Every image is decoded once; the result is kept by the content of the class.
        """
        images = self.by_label[label]
        content = digest([self.version, *(image.sha256 for image in images)])
        stored = self.cache_dir / "index" / f"readable-{content[:32]}.json"
        bad = _load_unreadable(stored, len(images))
        if bad is None:
            verdicts = ahead(self._is_readable, images)
            bad = {image.sha256 for image, good in zip(images, verdicts, strict=True) if not good}
            table = {"format": READABLE_FORMAT, "images": len(images), "unreadable": sorted(bad)}
            write_atomic(stored, json.dumps(table))
        return tuple(image.key for image in images if image.sha256 in bad)

    def _is_readable(self, image: Image) -> bool:
        try:
            decode(self.files.read(image.key), 1)
        except UnreadableError:
            return False
        return True


def _load_unreadable(path: Path, images: int) -> set[str] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] == READABLE_FORMAT and table["images"] == images:
            return set(table["unreadable"])
    return None
