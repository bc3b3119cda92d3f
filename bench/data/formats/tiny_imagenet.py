"""Tiny ImageNet in its original layout, from its folder or from an archive of it.

`train/<wnid>/images/*.JPEG` is the pool; `val/images`, labelled by `val/val_annotations.txt`, is
the test split, because the labels of `test/` were never published (it is not read).
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.core.errors import DataError
from bench.core.text import some
from bench.data.files.files import is_image
from bench.data.files.tree import Tree
from bench.data.formats.contract import Entry, Format, Options

_ANNOTATIONS = "val/val_annotations.txt"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_NAMES = ("tiny-imagenet-200", "tiny-imagenet")


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    for path in tree.below("train/"):
        parts = path.split("/")
        if len(parts) == 4 and parts[2] == "images" and is_image(path):
            yield Entry(path, parts[1])
    labels = {}
    for number, line in tree.lines(_ANNOTATIONS):
        name, tab, rest = line.partition("\t")
        if not tab:
            raise tree.wrong(f"{line!r} is not <file name> TAB <wnid> …", _ANNOTATIONS, number)
        labels[f"val/images/{name}"] = rest.partition("\t")[0]
    images = {path for path in tree.below("val/images/") if is_image(path)}
    if differ := sorted(images ^ set(labels)):
        raise DataError(
            f"{_ANNOTATIONS} and val/images differ in {len(differ)} images: {some(differ)}",
            place=str(tree.place),
            hint="copy the data set again; it is incomplete",
        )
    for path, label in labels.items():
        yield Entry(path, label, "test")


TINY_IMAGENET = Format(
    name="tiny-imagenet",
    title="Tiny ImageNet, 64 pixels",
    read=_read,
    expected="a folder with train/<wnid>/images/*.JPEG and val/val_annotations.txt, or a .tar or "
    ".tar.gz of it",
    marks=(_ANNOTATIONS,),
    files=tuple(f"*{end}" for end in (*_ARCHIVES, ".tar.bz2", ".tar.xz")),
    folders=("train", "val"),
    inner=("*",),
    guesses=(*_NAMES, *(f"{name}{end}" for name in _NAMES for end in _ARCHIVES)),
    counts_the_rest=True,
    may_be_partial=False,
    says_where=False,
    classes="200, WordNet ids",
    images="100,000 / 10,000",
    splits="train, test (validation)",
    used_for="the papers' grids in miniature, on photographs",
    where="http://cs231n.stanford.edu/tiny-imagenet-200.zip, as it is, as a tar, or unpacked",
    licence="images of ImageNet: non-commercial research and education",
)
