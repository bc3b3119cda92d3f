"""Tiny ImageNet in its original layout, from its folder or from a tar archive of it.

`train/<wnid>/images/*.JPEG` is the pool; `val/images`, labelled by `val/val_annotations.txt`, is
the test split, because the labels of `test/` were never published (it is not read).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import DataError
from bench.core.text import some
from bench.data.files.archive import archive_files, is_archive
from bench.data.files.files import Files, folder_files
from bench.data.files.imagefiles import FileDataset, Placed, place_images

EXPECTED = (
    "a folder with train/<wnid>/images/*.JPEG and val/val_annotations.txt, or a .tar or .tar.gz "
    "of it"
)
_ANNOTATIONS = "val/val_annotations.txt"


def fits(path: Path) -> bool:
    """Whether the data set could lie here."""
    if path.is_file():
        return is_archive(path)
    return (path / "train").is_dir() and (path / _ANNOTATIONS).is_file()


def open_tiny_imagenet(root: Path, cache_dir: Path) -> FileDataset:
    """Indexes the folder or the archive.

    Raises:
        DataError: when the layout is another, or the annotations do not match the images.
    """
    texts = frozenset({"val_annotations.txt"})
    if root.is_file():
        files = archive_files(root, cache_dir, texts=texts)
    else:
        files = folder_files(root, cache_dir, texts=texts, tops=frozenset({"train", "val"}))
    return place_images("tiny-imagenet", files, _place(files), cache_dir, EXPECTED)


def _place(files: Files) -> Iterator[Placed]:
    labels = _annotations(files)
    validation = [path for path in files.sha256 if path.startswith("val/images/")]
    named = {f"val/images/{name}" for name in labels}
    if named != set(validation):
        differ = sorted(named.symmetric_difference(validation))
        raise DataError(
            f"{_ANNOTATIONS} and val/images differ in {len(differ)} images: {some(differ)}",
            place=str(files.place),
            hint="copy the data set again; it is incomplete",
        )
    for path in files.sha256:
        parts = path.split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images":
            yield Placed(path, parts[1], "train")
    for path in validation:
        yield Placed(path, labels[path.removeprefix("val/images/")], "test")


def _annotations(files: Files) -> dict[str, str]:
    if _ANNOTATIONS not in files.texts:
        raise DataError(
            f"data set 'tiny-imagenet': {_ANNOTATIONS} is missing",
            place=str(files.place),
            hint=f"expected {EXPECTED}; another layout can be read with dataset: folder",
        )
    labels = {}
    for number, line in enumerate(files.texts[_ANNOTATIONS].splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(
                f"{line!r} is not <file name> TAB <wnid> …",
                place=f"{files.place}:{_ANNOTATIONS}:{number}",
            )
        labels[fields[0]] = fields[1]
    return labels
