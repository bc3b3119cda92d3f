"""The last lines of `bench grid`."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from bench.commands import _summary
from bench.results.store import Store


def test_a_large_cache_is_named_with_the_command_that_frees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "my results")
    assert _summary.cache_lines(store) == []
    for number in range(3):
        path = store.cache / f"part {number}" / "images.npy"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(range(256)) * 4096)
    used = subprocess.run(["du", "-s", "--block-size=1", store.cache], capture_output=True)
    folders = 4 * 4096
    assert store.cache_bytes() == pytest.approx(int(used.stdout.split()[0]), abs=folders)
    assert _summary.cache_lines(store) == []
    monkeypatch.setattr(_summary, "_LARGE_CACHE_GIB", 3 / 1024)
    (line,) = _summary.cache_lines(store)
    assert line.startswith(f"the cache {store.cache} takes 0.0 GiB; what is needed of it is made")
    subprocess.run(shlex.split(line.partition("removed: ")[2]), check=True)
    assert _summary.cache_lines(store) == []
