"""Locks: with flock and without, held by the living, taken over from the dead."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.core import files
from bench.core.errors import StoreError
from bench.core.files import here
from bench.core.locks import STALE_S, exclusive, holder, wait_exclusive

HOLD = """\
import errno, fcntl, sys, time
from pathlib import Path
from bench.core.locks import exclusive
if sys.argv[2] == "without":
    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = none
with exclusive(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def without_flock(number: int = errno.ENOSYS) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = none  # type: ignore[assignment]


@pytest.fixture(params=["with", "without"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(fcntl, "flock", fcntl.flock)
        without_flock()
    return str(request.param)


def test_the_living_hold_it_and_the_dead_do_not(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), kind], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with exclusive(path) as mine:
        assert not mine
    assert f"process {process.pid} on " in holder(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with exclusive(path) as mine:
        assert mine
        assert f"process {os.getpid()} on " in holder(path)
    with exclusive(path) as again:
        assert again
    assert not [p for p in tmp_path.iterdir() if "stale" in p.name or "held" in p.name]


def test_one_of_many_threads_gets_it(tmp_path: Path, kind: str) -> None:
    path, counts = tmp_path / ".lock", list[int]()
    inside, worst = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, worst
        for _ in range(5):
            with contextlib.ExitStack() as stack:
                if wait_exclusive(stack, path, 30):
                    with guard:
                        inside += 1
                        worst = max(worst, inside)
                    time.sleep(0.001)
                    with guard:
                        inside -= 1
                    counts.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1
    assert len(counts) == 30


@pytest.mark.parametrize(("age", "taken"), [(STALE_S + 60, True), (STALE_S - 60, False)])
def test_a_process_of_another_host_is_dead_when_its_heart_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, taken: bool
) -> None:
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)
    without_flock(errno.ENOTSUP)
    held = tmp_path / ".lock.held"
    held.write_text(json.dumps({"host": "node17", "process": 1, "key": "x"}))
    os.utime(held, (time.time() - age, time.time() - age))
    with exclusive(tmp_path / ".lock") as mine:
        assert mine == taken
        if not taken:
            assert holder(tmp_path / ".lock") == "process 1 on node17"


@pytest.mark.parametrize(
    ("began", "taken"), [("of", False), ("", True), ("an-earlier-boot 12", True), (None, True)]
)
def test_another_process_that_has_the_holders_number_is_not_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: str | None, taken: bool
) -> None:
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)
    without_flock()
    with subprocess.Popen(["sleep", "60"]) as other:
        own = {"host": "a", "here": here(), "process": other.pid, "key": "x"}
        if began is not None:
            own["began"] = files.began(other.pid) if began == "of" else began
        held = tmp_path / ".lock.held"
        held.write_text(json.dumps(own))
        if began is None:  # written by an earlier release: by its heartbeat
            os.utime(held, (time.time() - STALE_S - 60,) * 2)
        with exclusive(tmp_path / ".lock") as mine:
            assert mine == taken
        other.kill()


def test_a_process_begins_once() -> None:
    """The ticks of `ps` and of `/proc` are the same clock."""
    with subprocess.Popen(["sleep", "60"]) as other:
        boot, ticks = files.began(other.pid).split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert abs(int(ticks) / os.sysconf("SC_CLK_TCK") - uptime) < 10
        assert files.began(os.getpid()).startswith(f"{boot} ")
        assert files.began(os.getpid()) != files.began(other.pid)
        other.kill()
    assert files.began(other.pid) == ""


def test_what_is_no_missing_lock_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)
    without_flock(errno.EIO)
    with (
        pytest.raises(StoreError, match=r"cannot be taken: Input/output error"),
        exclusive(tmp_path / ".lock"),
    ):
        pass


def test_a_damaged_note_of_the_holder_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b"\xff" * 10)
    assert holder(tmp_path / ".lock") == "another process"
    (tmp_path / ".lock").write_text("[" * 4000)
    assert holder(tmp_path / ".lock") == "another process"


def test_a_lock_is_held_where_there_is_no_room_to_write_who_holds_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with exclusive(tmp_path / ".lock") as mine, exclusive(tmp_path / ".lock") as again:
            assert (mine, again) == (True, False)
            assert holder(tmp_path / ".lock") == "another process"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
