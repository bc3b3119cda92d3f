"""One process at a time, on any file system: by a lock, or where there are none by a file.

`flock` goes with its process, however that dies. Where the file system has none (Lustre mounted
without it, some network file systems), a file beside it is created by exactly one process, which
touches it while it works; one that nobody has touched for `STALE_S` is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import StoreError
from bench.core.files import age_s, began, here, lives, publish_new
from bench.core.paths import read_regular

STALE_S = 600.0
"""After so long without a heartbeat, whoever held a file is taken for dead."""

BEAT_S = 30.0

_NONE_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_MOST = 4096


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Holds `path` for this process while inside; yields False if another process holds it.

    Args:
        path: of the lock file, which stays; its folder is there.

    Raises:
        StoreError: it can neither be locked nor created.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("ab", buffering=0))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in _NONE_HERE:
                raise StoreError(
                    f"the lock cannot be taken: {error.strerror}",
                    place=str(path),
                    hint="check who may write there and whether the disk is full",
                ) from None
            with _by_file(_beside(path)) as mine:
                yield mine
            return
        with contextlib.suppress(OSError):  # on a full disk nobody sees who holds it
            file.truncate(0)
            file.write(_who().encode())
        yield True


def holder(path: Path) -> str:
    """Who holds a lock, as it wrote it down: host and process; `another process` if it did not."""
    for place in (_beside(path), path):
        try:
            own = json.loads(read_regular(place, _MOST))
            return f"process {int(own['process'])} on {str(own['host'])[:64]}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return "another process"


def is_held_here(path: Path) -> bool:
    """Whether a process of this machine holds a lock now; False for those of other machines."""
    for place in (_beside(path), path):
        try:
            own = json.loads(read_regular(place, _MOST))
            alive = own["here"] == here() and lives(int(own["process"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if place != path:
            return alive
        return alive and _is_locked(path)
    return False


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _who() -> str:
    own = {"host": socket.gethostname(), "here": here(), "process": os.getpid()}
    return json.dumps(own | {"began": began(os.getpid()), "key": secrets.token_hex(8)}) + "\n"


@contextlib.contextmanager
def _by_file(path: Path) -> Iterator[bool]:
    """As `exclusive`, by a file that is created by one process and touched while it works."""
    own = _who()
    if not publish_new(path, own):
        _remove_stale(path)
        if not publish_new(path, own):
            yield False
            return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        if _content(path) == own:
            path.unlink(missing_ok=True)


def _content(path: Path) -> str | None:
    try:
        return read_regular(path, _MOST).decode("utf-8", "replace")
    except OSError:
        return None


def _remove_stale(path: Path) -> None:
    """Takes away what a dead process left; of several that try, one succeeds."""
    seen = _content(path)
    if seen is None or not _is_stale(path, seen):
        return
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.stale")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    now = _content(aside)
    if now != seen and now is not None:  # somebody else was quicker, and holds it now
        publish_new(path, now)
    aside.unlink(missing_ok=True)


def _is_stale(path: Path, content: str) -> bool:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        own = json.loads(content)
        if own["here"] == here():
            process = int(own["process"])
            # After a reboot another process often has the number.
            now = began(process)
            return not lives(process) or (now != "" and own["began"] != now)
    try:
        return age_s(path) > STALE_S
    except OSError:
        return False


def wait_exclusive(stack: contextlib.ExitStack, path: Path, wait_s: float) -> bool:
    """Enters `exclusive` on a stack, tried for at most `wait_s` seconds; whether it is held."""
    deadline = time.monotonic() + wait_s
    while True:
        attempt = exclusive(path)
        if attempt.__enter__():
            stack.push(attempt.__exit__)
            return True
        attempt.__exit__(None, None, None)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
