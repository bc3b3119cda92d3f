"""ILSVRC2012 with a folder per class in train/ and val/; val/ is the test split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.data.formats.base import all_wnids
from bench.data.formats.files import Files, folder_files
from bench.data.formats.imagefiles import FileDataset, Placed, place_images
from bench.errors import DataError

__all__ = ["EXPECTED", "fits", "open_imagenet"]

EXPECTED = "a folder with train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"


def fits(path: Path) -> bool:
    """Whether the data set could lie here."""
    return (path / "train").is_dir() and (path / "val").is_dir()


def open_imagenet(root: Path, cache_dir: Path) -> FileDataset:
    """Indexes the folders; the first time every image is read once.

    Raises:
        DataError: when a class folder is no wnid, or val/ is not sorted into folders.
    """
    files = folder_files(root, cache_dir, tops=frozenset({"train", "val"}))
    return place_images("imagenet", files, _place(files), cache_dir, EXPECTED)


def _place(files: Files) -> Iterator[Placed]:
    for path in files.sha256:
        top, *folders, _ = path.split("/")
        if not folders or not all_wnids(folders[:1]):
            raise DataError(
                f"image {path!r} does not lie in the folder of a class such as n02084071",
                place=str(files.place),
                hint=f"expected {EXPECTED}; sort val/ into a folder per class first"
                if top == "val" and not folders
                else f"expected {EXPECTED}; classes with other names: dataset: folder",
            )
        yield Placed(path, folders[0], "test" if top == "val" else "train")
