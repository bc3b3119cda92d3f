"""Tables as CSV, read back by another reader."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import of_files
from bench.core.files import (
    csv_text,
    publish_new,
    sweep_temporaries,
    temporary_beside,
    write_atomic,
    write_csv,
)

CELLS = st.one_of(st.integers(), st.floats(allow_nan=False), st.text("a,\"'\n ;é", max_size=5))


@given(st.lists(st.fixed_dictionaries({"first": CELLS, "se,cond": CELLS}), min_size=1))
def test_every_cell_is_read_back(rows: list[dict[str, Any]]) -> None:
    found = list(csv.DictReader(io.StringIO(csv_text(rows), newline="")))
    assert found == [{name: str(value) for name, value in row.items()} for row in rows]


def test_columns_come_in_order_and_what_is_not_there_is_empty() -> None:
    rows = [{"a": 1, "b": None}, {"c": 0.1, "a": 2}]
    table = pd.read_csv(io.StringIO(csv_text(rows)))
    assert list(table) == ["a", "b", "c"]
    assert table["c"].isna().tolist() == [True, False]
    assert csv_text(rows, ["c", "a"]) == "c,a\n,1\n0.1,2\n"
    assert csv_text([], ["a"]) == "a\n"
    assert csv_text([]) == ""


@pytest.mark.parametrize("name", ["/", ".", "folder"])
def test_a_folder_is_not_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="not a file") as caught:
        write_csv(tmp_path / name, [{"a": 1}])
    assert caught.value.filename == str(tmp_path / name)


def test_an_error_while_writing_has_the_name_of_the_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_atomic(tmp_path / "a.csv", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


# --- file systems without hard links ---

WITHOUT_LINKS = """\
import errno, os, sys
from pathlib import Path
from bench.core.files import publish_new
def none(*_):
    raise OSError(errno.EPERM, "Operation not permitted")
os.link = none
folder, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
print(sum(publish_new(folder / f"{n}.json", f"{name}\\n" * 100) for n in range(50)))
"""


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_without_hard_links_one_of_several_processes_publishes(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_LINKS, str(tmp_path), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    won = [int(writer.communicate()[0]) for writer in writers]
    assert sum(won) == 50
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.json" for n in range(50)}
    texts = [path.read_text().split() for path in tmp_path.iterdir()]
    assert all(len(text) == 100 and len(set(text)) == 1 for text in texts)
    assert [sum(text[0] == str(n) for text in texts) for n in range(4)] == won


def test_what_a_killed_writer_claimed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / ".record.json.claim").write_text("")
    assert publish_new(tmp_path / "record.json", "first")
    assert not publish_new(tmp_path / "record.json", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "first"


def test_neither_links_nor_locks_is_an_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "record.json"
    with pytest.raises(OSError, match="hard links") as caught:
        publish_new(path, "first")
    assert str(of_files(caught.value)) == (
        f"{path}: this file system has neither hard links nor locks\n"
        "  name a folder on another file system (--results)"
    )
    assert not path.exists()


# --- what killed writers leave ---

KILLED = """\
import os, signal, sys
from pathlib import Path
from bench.core import files
files._write_synced = lambda path, content: (path.write_bytes(b"half"), os.kill(os.getpid(), 9))
files.write_atomic(Path(sys.argv[1]), b"whole")
"""


def test_temporaries_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "index.json")], check=False
    )
    assert process.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    mine = temporary_beside(tmp_path / "other.json")
    mine.write_text("")
    far = tmp_path / ".table.json.node17.example.org.12.0123abcd.tmp"
    old = tmp_path / ".table.json.node18.12.0123abcd.tmp"
    for path, age in ((far, 3600), (old, 8 * 24 * 3600)):
        path.write_text("")
        os.utime(path, (time.time() - age, time.time() - age))
    (tmp_path / ".mine.tmp").write_text("not a name of ours")
    assert sweep_temporaries(tmp_path) == 2
    assert not left.exists()
    assert not old.exists()
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, far.name, ".mine.tmp"}
    assert sweep_temporaries(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("write", [write_atomic, publish_new])
def test_a_folder_that_is_deleted_while_it_is_written_to_is_made_again(
    write: Callable[[Path, str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, deletions, sync = tmp_path / "cache", iter(range(3)), os.fsync

    def deleted_before(descriptor: int) -> None:
        sync(descriptor)
        if next(deletions, None) is not None:
            shutil.rmtree(folder)

    monkeypatch.setattr(os, "fsync", deleted_before)
    write(folder / "a.json", "{}")
    assert [path.name for path in folder.iterdir()] == ["a.json"]


def test_a_process_of_another_container_with_this_hosts_name_may_live(tmp_path: Path) -> None:
    mine = temporary_beside(tmp_path / "a.json")
    space = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    gone = 2**22 + 1  # more than any process has
    left = mine.name.replace(f".{os.getpid()}.", f".{gone}.")
    theirs = left.replace(space, "4026539999")
    for name in (left, theirs):
        (tmp_path / name).write_text("")
    assert sweep_temporaries(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [theirs]
