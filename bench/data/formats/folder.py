"""Anybody's images: a folder per class.

    flowers/daisy/1.jpg  flowers/rose/2.png                   no split of its own
    flowers/train/daisy/1.jpg  flowers/test/daisy/9.jpg       train/, val/ (optional), test/

What is an image is decided by its name, or else by how the file begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from bench.core.errors import DataError
from bench.core.text import counted, some
from bench.data.dataset import Split
from bench.data.files.tree import Tree
from bench.data.formats.contract import Entry, Format, Option, Options, suffixes
from bench.data.layout import has_splits


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    images = [path for path in tree.spans if tree.is_image(path)]
    splits = has_splits(images, tree.place)
    depth = 3 if splits else 2
    loose = [path for path in images if path.count("/") + 1 < depth]
    if loose:
        tables = [name for name in ("metadata.csv", "metadata.jsonl") if name in tree.spans]
        raise DataError(
            f"{counted(len(loose), 'image lies', 'images lie')} in no class's folder: "
            f"{some(loose)}",
            place=str(tree.place),
            hint=f"{tables[0]} lists them: dataset: huggingface reads it" if tables else tree.hint,
        )
    classes = {path.split("/")[depth - 2] for path in images}
    if images and not options["without_empty"]:
        check_vanished(tree, classes, ("train", "val", "test") if splits else None)
    for path in images:
        parts = path.split("/")
        yield Entry(path, parts[depth - 2], cast(Split, parts[0]) if splits else "train")


WITHOUT_EMPTY = Option(False, "folders without images are left out: no class")


def check_vanished(tree: Tree, classes: set[str], splits: Collection[str] | None) -> None:
    """Refuse folders that lie where classes do and have no image.

    Args:
        tree: the files.
        classes: folders that have images.
        splits: folders at the top that classes lie in; None where classes are at the top.

    Raises:
        DataError: naming the folders and what is in them.
    """
    inside: dict[str, list[str]] = {}
    for path in (*tree.spans, *tree.empty):
        top, *below = path.split("/")
        if splits is not None:
            if top not in splits or not below:
                continue
            top, *below = below
        if below and top not in classes:
            inside.setdefault(top, []).append(path)
    lines = [
        f"{label!r} ({suffixes(path for path in paths if path[-1] != '/') or 'empty'})"
        for label, paths in inside.items()
    ]
    if lines:
        raise DataError(
            f"{counted(len(lines), 'folder has', 'folders have')} no images and would be no "
            f"{'class' if len(lines) == 1 else 'classes'}: {some(lines)}",
            place=str(tree.place),
            hint="put images there in a format that Pillow opens, move away what is no class, or "
            "options: {without_empty: true} leaves such folders out (on the command line --option "
            "without_empty=true)",
        )


FOLDER = Format(
    name="folder",
    title="your own images, a folder per class",
    read=_read,
    expected="a folder with a folder of images per class, or with train/, val/ and test/ that have "
    "one each, or a .tar or .tar.gz of it",
    marks=(".",),
    files=("*.tar", "*.tar.gz", "*.tgz", "*.tar.bz2", "*.tar.xz", "*.zip"),
    inner=("*",),
    options={"without_empty": WITHOUT_EMPTY},
    counts_the_rest=True,
    may_be_partial=False,
    says_where=False,
    classes="yours",
    images="yours",
    splits="none, or train/, val/ and test/",
    used_for="your own images",
    where="yours: a folder, or a .tar, .tar.gz, .tar.bz2, .tar.xz or .zip of one",
    licence="yours",
)
