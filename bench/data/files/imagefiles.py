"""A data set of image files: the formats say which file is what, this reads them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from bench.core.errors import DataError
from bench.core.files import write_atomic
from bench.data.dataset import Image, Notes, UInt8, all_wnids, digest
from bench.data.files.decode import Reading, UnreadableError, decode, decode_whole
from bench.data.files.files import ahead
from bench.data.files.mount import Span
from bench.data.files.table import Table
from bench.data.selection.images import Images

READABLE_FORMAT = "bench readable images 2"


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The image files of a data set by the keys of its images.

    Attributes:
        place: for messages.
        table: where each lies, and what is in it.
        reading: how pixels are read.
    """

    place: Path
    table: Table
    reading: Reading

    def read(self, key: str) -> bytes:
        """The bytes of an image file; of a part of one, the part as an image file.

        Raises:
            DataError: when they are not those that were indexed.
        """
        row = self.table.row(key)
        span, content, crop = self.table.span(row), self.table.content(row), self.table.crop(row)
        if crop is None:
            return _whole(span, content, key)
        return _encoded(_part(self._picture(span, content, key), crop))

    def decoded(self, key: str) -> UInt8:
        """The whole upright image, (height, width, 3).

        Raises:
            DataError: when it cannot be decoded.
        """
        return self.shown(key, lambda data: decode_whole(data, self.reading))

    def shown(self, key: str, decoder: Callable[[bytes], UInt8]) -> UInt8:
        """What a decoder makes of an image.

        Raises:
            DataError: when it cannot be decoded.
        """
        try:
            return decoder(self.read(key))
        except UnreadableError as error:
            raise DataError(
                f"image {key!r} cannot be decoded ({error})",
                place=str(self.place),
                hint="set on_corrupt: skip to leave such images out (they are counted), or "
                "replace the file; `bench data check … --all` lists all of them",
            ) from error

    @cached_property
    def _picture(self) -> Callable[[Span, str, str], UInt8]:
        """Decodes a file; the last few are kept, because their parts are asked for in a row."""

        @lru_cache(maxsize=8)
        def decoded(span: Span, content: str, key: str) -> UInt8:
            return decode_whole(_whole(span, content, key), self.reading)

        return decoded


def _whole(span: Span, content: str, key: str) -> bytes:
    try:
        data = span.read()
    except OSError as error:
        raise DataError(
            f"image {key!r} cannot be read ({error.strerror})",
            place=span.path,
            hint="put the file back, or let yourself read it, and start the command again; a file "
            "that was removed is no longer in the data then",
        ) from error
    if hashlib.sha256(data).hexdigest() != content:
        raise DataError(
            f"image {key!r} is not what it was when the data were indexed",
            place=span.path,
            hint="delete this file of the cache; the next command makes it anew"
            if span.path.endswith(".pack")
            else f"type touch {quote(span.path)} and start the command again: by its new time of "
            "change the file is seen to be another, and the data are indexed as they are now",
        )
    return data


def _part(picture: UInt8, crop: tuple[int, int, int, int]) -> UInt8:
    """(bottom - top, right - left, 3); what lies outside is mirrored at the edge."""
    left, top, right, bottom = crop
    height, width, _ = picture.shape
    rows, columns = (
        _mirrored(np.arange(start, end), size)
        for start, end, size in ((top, bottom, height), (left, right, width))
    )
    return np.ascontiguousarray(picture[rows][:, columns])


def _mirrored(places: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Places in 0..size-1, as numpy's `pad(mode="reflect")` would find them."""
    if size == 1:
        return np.zeros_like(places)
    period = 2 * (size - 1)
    folded = places % period
    mirrored: np.ndarray[Any, Any] = np.minimum(folded, period - folded)
    return mirrored


def _encoded(part: UInt8) -> bytes:
    height, width, _ = part.shape
    return b"P6 %d %d 255\n" % (width, height) + part.tobytes()


@dataclass(frozen=True, eq=False)
class FileDataset:
    """A data set of image files; see `bench.data.dataset.Dataset` for the contract.

    `columns` has what is known of an image beside its class, as a manifest would have it.
    """

    name: str
    files: ImageFiles
    cache_dir: Path
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted."""
        return self.files.table.labels

    @property
    def notes(self) -> Notes:
        """What was not taken as it lies in the files."""
        return self.files.table.notes

    @cached_property
    def wnid_keyed(self) -> bool:
        """Whether every class is a WordNet id."""
        return all_wnids(self.classes)

    @property
    def has_test(self) -> bool:
        """Whether the layout has a test split."""
        return "test" in self.files.table.splits

    @property
    def version(self) -> str:
        """Of the decoder."""
        return self.files.reading.version

    @cached_property
    def fingerprint(self) -> str:
        """Of the names and contents of all images."""
        return self.files.table.fingerprint(self.name, self.version)

    def images_of(self, label: str) -> Images:
        """All images of a class, sorted by key."""
        return self.files.table.images_of(label)

    def read(self, images: Sequence[Image], size: int) -> Iterator[UInt8]:
        """Decodes `images` in their order; (size, size, 3) each."""

        def pixels(image: Image) -> UInt8:
            return self.files.shown(image.key, lambda data: decode(data, size, self.files.reading))

        return ahead(pixels, images)

    def unreadable(self, label: str) -> dict[str, str]:
        """Why images of the class cannot be decoded, by their keys.

        Every image is decoded once; the result is kept by the content of the class.
        """
        images = self.images_of(label)
        reading = self.files.reading
        limits = [self.version, str(reading.max_megapixels)]
        content = digest([*limits, *(image.sha256 for image in images)])
        stored = self.cache_dir / "index" / f"readable-{content[:32]}.json"
        reasons = _load_unreadable(stored, len(images))
        if reasons is None:
            found = zip(images, ahead(self._reason, images), strict=True)
            reasons = {image.sha256: reason for image, reason in found if reason}
            table = {"format": READABLE_FORMAT, "images": len(images), "unreadable": reasons}
            write_atomic(stored, json.dumps(table))
        return {image.key: reasons[image.sha256] for image in images if image.sha256 in reasons}

    def _reason(self, image: Image) -> str:
        try:
            decode(self.files.read(image.key), 1, self.files.reading)
        except UnreadableError as error:
            return str(error)
        return ""


def _load_unreadable(path: Path, images: int) -> dict[str, str] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] == READABLE_FORMAT and table["images"] == images:
            return dict(table["unreadable"])
    return None
