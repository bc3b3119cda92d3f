"""The table of a data set's images: what was written is read back, by whoever comes later."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import DataError
from bench.data.dataset import Image, digest
from bench.data.datasets import DATASETS
from bench.data.files.mount import Span
from bench.data.files.table import Row, Table, write
from bench.data.formats.contract import Format
from bench.data.opened import open_format
from tests.data.test_catalog import make_folder

NAMES = ["a", "é", "z\U0001f600", "b/c", "~", "B"]


def rows_of(kind: str, folder: Path, cache: Path) -> list[Row]:
    """Images of four classes in no order; what they have beside the class depends on the kind."""
    draw = random.Random(kind)
    rows = []
    for number in range(60):
        label = draw.choice(["cat", "dog", "élan", "zebu"])
        key = f"{label}/{draw.choice(NAMES)}{number}.png"
        content = hashlib.sha256(key.encode()).hexdigest()
        more: dict[str, Any] = {"span": Span(f"{folder}/{key}")}
        if kind == "packed":
            more["span"] = Span(f"{cache}/index/a.pack", 7 * number, 7)
        if kind == "tar":
            more["span"] = draw.choice(
                [Span(f"{folder}/a.tar", number, 5), Span(f"{folder}/{key}")]
            )
        if kind == "elsewhere":
            more["span"] = Span(f"/somewhere/else/{number}.png")
        if kind == "rich":
            more |= {"crop": draw.choice([None, (-1, 2, 30, 40 + number)])}
            more |= {"columns": draw.choice([{}, {"box": "1 2 3 4", "group_light": "Tag è"}])}
        group = draw.choice([None, "g1", "ğ2"]) if kind == "rich" else None
        split = draw.choice(["train", "val", "test"])
        rows.append(Row(key, label, split, group, content, **more))
    return rows


def written(path: Path, rows: list[Row], folder: Path, cache: Path) -> Table:
    places = {"folder": folder, "cache_dir": cache}
    write(path, rows, {"seen": 3}, name="some", version="decode 1", layout="[]", **places)
    table = Table.open(path, **places)
    assert table is not None
    return table


@pytest.mark.parametrize("kind", ["plain", "packed", "tar", "elsewhere", "rich"])
def test_a_table_gives_back_what_was_written(tmp_path: Path, kind: str) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    rows = rows_of(kind, folder, cache)
    table = written(tmp_path / "a.table", rows, folder, cache)
    rows.sort(key=lambda row: row.key)
    assert list(table.keys()) == [row.key for row in rows]
    assert table.labels == tuple(sorted({row.label for row in rows}))
    assert (table.notes, len(table)) == ({"seen": 3}, 60)
    assert table.splits == {row.split for row in rows}
    images = [Image(r.key, r.label, r.split, r.sha256, r.group) for r in rows]
    for label in table.labels:
        assert table.images_of(label) == tuple(i for i in images if i.label == label)
    for row in rows:
        place = table.row(row.key)
        assert (table.span(place), table.content(place)) == (row.span, row.content)
        assert table.crop(place) == row.crop
    assert table.further() == {row.key: row.columns for row in rows if row.columns}
    ordered = sorted(images, key=lambda image: (image.label, image.key))
    lines = [f"{i.label}\0{i.split}\0{i.key}\0{i.sha256}" for i in ordered]
    for version in ("decode 1", "decode 1, alpha white"):
        text = "\n".join(["some", version, *lines])
        assert table.fingerprint("some", version) == hashlib.sha256(text.encode()).hexdigest()
    assert all(i.sha256 == r.content for i, r in zip(images, rows, strict=True) if r.crop is None)
    for wrong in ("", "cat", "zebu/zzz", "\U0010ffff"):
        with pytest.raises(KeyError):
            table.row(wrong)
    with pytest.raises(KeyError):
        table.images_of("cow")


def test_the_folder_and_the_cache_may_be_moved(tmp_path: Path) -> None:
    for kind, place in (("plain", "images"), ("packed", "cache")):
        rows = rows_of(kind, tmp_path / "images", tmp_path / "cache")
        path = tmp_path / f"{kind}.table"
        written(path, rows, tmp_path / "images", tmp_path / "cache")
        moved = Table.open(path, tmp_path / "new/images", tmp_path / "new/cache")
        assert moved is not None
        assert moved.span(0).path.startswith(f"{tmp_path}/new/{place}/")


def test_a_table_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = rows_of("rich", tmp_path, tmp_path / "cache")
    path = tmp_path / "a.table"
    written(path, rows, tmp_path, tmp_path / "cache")
    whole = path.read_bytes()
    for at in (0, 64, 70, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert Table.open(path, tmp_path, tmp_path / "cache") is None
        path.write_bytes(whole[:at])
        assert Table.open(path, tmp_path, tmp_path / "cache") is None


def test_a_table_without_its_packs_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    table = written(tmp_path / "a.table", rows_of("packed", tmp_path, cache), tmp_path, cache)
    assert not table.packs_are_there()
    (cache / "index").mkdir(parents=True)
    (cache / "index/a.pack").write_bytes(bytes(60 * 7 - 1))
    assert not table.packs_are_there()
    (cache / "index/a.pack").write_bytes(bytes(60 * 7))
    assert table.packs_are_there()


OPENED = """\
import sys
from pathlib import Path
from bench.data import opened
from bench.data.datasets import DATASETS
hashed = opened._hash
def counted(span):
    with open(sys.argv[2], "a") as file:
        file.write("x")
    return hashed(span)
opened._hash = counted
print(opened.open_format(DATASETS["folder"], Path("photos"), Path() / "cache").fingerprint)
"""


def test_several_processes_index_a_data_set_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", n=40)
    command = [sys.executable, "-c", OPENED, "-", "hashed"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    fingerprints = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(fingerprints) == 1
    assert len((tmp_path / "hashed").read_text()) == 80
    assert [path.suffix for path in (tmp_path / "cache/index").iterdir()] == [".table"]


RELIES = """\
import os, sys
from pathlib import Path
from bench.data import opened
from bench.data.datasets import DATASETS
from bench.data.files import tree
looked = []
walked = tree.walk
tree.walk = lambda *given: looked.append(1) or walked(*given)
opened.rely_on_tables()
options = [("without_empty", True)] if "empty" in sys.argv else []
found = opened.open_format(DATASETS["folder"], Path("photos"), Path() / "cache", options)
print(found.fingerprint, "looked" if looked else "relied")
"""


def test_who_executes_a_plan_opens_what_was_seen_last(tmp_path: Path) -> None:
    root, cache, form = tmp_path / "photos", tmp_path / "cache", DATASETS["folder"]
    assert isinstance(form, Format)
    make_folder(root)

    def relying(*options: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", RELIES, *options]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    first = open_format(form, root, cache).fingerprint
    assert relying() == f"{first} relied"
    assert relying("empty") == f"{first} looked"  # a table of other options is none of these
    (root / "cat" / "new.png").write_bytes(b"new")
    assert relying() == f"{first} relied"
    second = open_format(form, root, cache).fingerprint
    assert relying() == f"{second} relied"
    (root / "cat" / "new.png").unlink()
    assert open_format(form, root, cache).fingerprint == first
    assert relying() == f"{first} relied"
    for table in (cache / "index").iterdir():
        table.unlink()
    assert relying() == f"{first} looked"


def test_what_fails_to_be_indexed_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"")
    form = DATASETS["folder"]
    assert isinstance(form, Format)
    with pytest.raises(DataError, match="one class, 'cat', found"):
        open_format(form, tmp_path / "photos", tmp_path / "cache")
    assert list((tmp_path / "cache/index").iterdir()) == []


def test_a_digest_is_of_the_lines_joined() -> None:
    for count in (0, 1, 2, 4096, 4097, 9000):
        lines = [f"é{number}" for number in range(count)]
        assert digest(lines) == hashlib.sha256("\n".join(lines).encode()).hexdigest()
