"""What every data set offers: classes, images with a content hash, pixels on demand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bench.core.text import counted, some

Split = Literal["train", "val", "test"]
UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Notes = dict[str, int | str | list[str]]


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a data set.

    Attributes:
        key: posix path inside the set, unique; never a path of the machine.
        label: name of its class.
        split: the split that the data set itself puts it in; "train" where it says nothing.
        sha256: of the bytes as they lie on disk, or of what a generated image is made from.
        group: images of one group (a person, a scene) never stand in two splits.
    """

    key: str
    label: str
    split: Split
    sha256: str
    group: str | None = None


def remarks(notes: Mapping[str, Any]) -> list[str]:
    """What was not taken as it lies in the files of a data set, in phrases.

    >>> remarks({"files_passed_over": "2 .txt"})
    ['files were passed over (2 .txt)']
    """
    found = []
    if missing := notes.get("listed_images_missing"):
        found.append(str(missing))
    if kinds := notes.get("files_passed_over"):
        found.append(f"files were passed over ({kinds})")
    if merged := notes.get("merged_names"):
        many = counted(len(merged), "name", "names")
        found.append(f"{many} spelt in several ways got one spelling ({some(merged, 4)})")
    return found


def all_wnids(names: Iterable[str]) -> bool:
    """Whether every name is a WordNet noun id.

    >>> all_wnids(["n02084071"]), all_wnids(["n02084071", "cat"])
    (True, False)
    """
    return all(re.fullmatch(r"n\d{8}", name) for name in names)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of the lines, in hexadecimal; no line may hold a line break."""
    found, rest = hashlib.sha256(), iter(lines)
    before = b""
    while block := list(islice(rest, 4096)):
        found.update(before + "\n".join(block).encode())
        before = b"\n"
    return found.hexdigest()


def rank(text: str) -> bytes:
    """What a random order that `text` decides is sorted by: its SHA-256.

    A file's name need not be valid text; Python writes its bytes as surrogates.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Dataset(Protocol):
    """Where classes, images and pixels come from.

    Attributes:
        name: the name in `bench.data.datasets.DATASETS`.
        classes: sorted.
        wnid_keyed: every class is a WordNet id such as n02084071.
        has_test: the set comes with a test split of its own.
        version: of the decoder or generator; part of every fingerprint.
        fingerprint: of the whole set; class names mean the same where it is the same.
        notes: what a reader of the set should know (files passed over, and the like).
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def wnid_keyed(self) -> bool: ...
    @property
    def has_test(self) -> bool: ...
    @property
    def version(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def notes(self) -> Notes: ...

    def images_of(self, label: str) -> Sequence[Image]:
        """All images of a class, every split, sorted by key."""
        ...

    def read(self, images: Sequence[Image], size: int) -> Iterator[UInt8]:
        """Pixels of `images` in their order: (size, size, 3) RGB each.

        Raises:
            DataError: naming the image that cannot be decoded or has changed.
        """
        ...

    def unreadable(self, label: str) -> dict[str, str]:
        """Why images of the class cannot be decoded, by key; looked at once, then remembered."""
        ...
