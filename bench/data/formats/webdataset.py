"""WebDataset: tar shards in which files of one name up to the first dot are one sample.

    train/shard-000000.tar: 000017.jpg  000017.cls        (or 000017.json with {"label": …})

timm's reader needs the `webdataset` package and streams; here shards are read in place, at random.
The words train, val (validation, valid, dev) and test in a shard's path say the split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.data.dataset import Split
from bench.data.files.files import is_image
from bench.data.files.tree import Archive, Tree
from bench.data.formats.contract import Entry, Format, Option, Options

SPLIT_OF: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
"""What people call splits, and what they are here."""


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    names = [line for _, line in tree.lines("classes.txt")] if "classes.txt" in tree.spans else []
    found: list[tuple[str, str]] = []
    for path in tree.spans:
        if is_image(path) and "/" in path:
            found.append((path, _label(tree, path, str(options["json_label"]))))
    numbered = all(re.fullmatch("[0-9]{1,9}", label) for _, label in found)
    width = max((len(label) for _, label in found), default=0)
    for path, label in found:
        if numbered and names:
            if int(label) >= len(names):
                raise tree.wrong(f"{path!r} has class {label}, and there are {len(names)}")
            label = names[int(label)]
        yield Entry(path, label.zfill(width) if numbered and not names else label, _split(path))


def _label(tree: Tree, path: str, field: str) -> str:
    folder, _, name = path.rpartition("/")
    sample = f"{folder}/{name.partition('.')[0]}"
    for kind in (".cls", ".json"):
        if sample + kind not in tree.spans:
            continue
        if kind == ".cls":
            return tree.text(sample + kind).strip()
        value = tree.json(sample + kind).get(field)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise tree.wrong(
                f"{field!r} is {str(value)[:40]}, and no text or number", sample + kind
            )
        return str(value)
    raise tree.wrong(f"sample {sample!r} has no .cls and no .json that says its class")


def _split(path: str) -> Split:
    words = re.split(r"[^a-z]+", path.rpartition("/")[0].lower())
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), "train")


WEBDATASET = Format(
    name="webdataset",
    title="your own images as WebDataset shards",
    read=_read,
    expected="a folder of .tar shards with <sample>.jpg and <sample>.cls or <sample>.json each, "
    "and classes.txt with a name per line if .cls are numbers",
    marks=("*.tar", "*/*.tar"),
    archives=(Archive("*.tar", gives="", into="{stem}"),),
    options={"json_label": Option("label", "the field of .json that says the class")},
    classes="yours",
    images="yours",
    splits="by the words train, val and test in a shard's path",
    used_for="your own images",
    where="https://github.com/webdataset/webdataset says how to write shards",
    licence="yours",
)
