"""SUN397: nested categories below a letter, their list, and ten partitions of 50 + 50 per class.

Without a partition all images are one pool, as CHU's k per class needs them.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.files import is_image
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Counts, Entry, Format, Option, Options

_PARTS: tuple[tuple[str, Split], ...] = (("Training", "train"), ("Testing", "test"))


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    folders = {line.strip("/") for _, line in tree.lines("ClassName.txt")}
    if not options["partition"]:
        for path in tree.spans:
            folder = path.rpartition("/")[0]
            if folder in folders and is_image(path):
                yield Entry(path, _label(folder))
        return
    for part, split in _PARTS:
        name = f"{part}_{options['partition']:02d}.txt"
        table = tree.first(name, f"Partitions/{name}", f"partitions/{name}")
        for number, line in tree.lines(table):
            path = line.strip("/")
            folder = path.rpartition("/")[0]
            if folder not in folders:
                raise tree.wrong(f"{line!r} is in no class of ClassName.txt", table, number)
            yield Entry(path, _label(folder), split)


def _label(folder: str) -> str:
    """`a/apartment_building/outdoor` is apartment_building/outdoor."""
    return folder.partition("/")[2]


def _counts(options: Options) -> Counts:
    if options["partition"]:
        return Counts(397, {"train": 19_850, "test": 19_850})
    return Counts(397, {"train": 108_754})


SUN397 = Format(
    name="sun-397",
    title="SUN397",
    read=_read,
    expected="SUN397/ with ClassName.txt and <letter>/<class>/[<kind>/]sun_*.jpg (and "
    "Training_01.txt to Testing_10.txt for a partition), or SUN397.tar.gz (and Partitions.zip)",
    marks=("ClassName.txt", "[a-z]/*/sun_*"),
    folders=("[a-z]", "Partitions", "partitions"),
    archives=(
        Archive("SUN397.tar*", gives="SUN397/"),
        Archive("Partitions.zip", gives="Training_"),
    ),
    inner=("SUN397",),
    guesses=("SUN397", "sun-397", "sun397/SUN397"),
    counts=_counts,
    options={
        "partition": Option(
            0, "1 to 10: the split of that partition; 0: no split", tuple(range(11))
        )
    },
    images="108,754; a partition 19,850 / 19,850",
    splits="none, or those of a partition",
    used_for="CHU: target, k per class",
    where="https://vision.princeton.edu/projects/2010/SUN/ (SUN397.tar.gz, Partitions.zip)",
    licence="research; the images belong to their owners",
)
