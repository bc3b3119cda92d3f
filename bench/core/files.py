"""Files written whole or not at all, their digests, and tables as CSV."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import nearest


def lies_beside(path: Path) -> str:
    """What lies where a path leads nowhere, the nearest names first.

    >>> lies_beside(Path("/no-such-folder/birds"))
    '/no-such-folder does not exist either'
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"{folder} does not exist either"
    try:
        names = [one.name for one in folder.iterdir() if not one.name.startswith(".")]
    except OSError:
        return f"{folder} cannot be read"
    return f"{folder} has {nearest(path.name, names) or 'nothing in it'}"


def temporary_beside(path: Path) -> Path:
    """A name that no other writer has, in the folder of the result so that a rename is atomic.

    It has the writer's host and process, so that what a killed one leaves can be told and swept.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder, not a file", str(path))
    return path.with_name(f".{path.name}.{here()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def here() -> str:
    """Where the numbers of processes mean the same: host and PID namespace.

    Containers of one host name may number their processes apart.
    """
    try:
        space = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:  # this system has none
        space = "0"
    return f"{socket.gethostname()}-{space}"


_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)\.[0-9a-f]{8}\.tmp")
_FORGOTTEN_S = 7 * 24 * 3600.0


def sweep_temporaries(folder: Path) -> int:
    """Removes what killed writers left in a folder; how many files.

    Of this host those whose process is gone; of others, which cannot be asked, and of processes
    that may have the number of one before a reboot, those that nobody has written to for a week, by
    the file system's own clock.
    """
    swept = 0
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return 0
    for entry in entries:
        found = _TEMPORARY.fullmatch(entry.name)
        if found is None or not entry.is_file(follow_symlinks=False):
            continue
        process = int(found["process"])
        with contextlib.suppress(OSError):
            gone = f".{here()}.{process}." in entry.name and not lives(process)
            if gone or age_s(Path(entry.path)) > _FORGOTTEN_S:
                os.unlink(entry.path)  # noqa: PTH108 -- of a directory entry
                swept += 1
    return swept


def age_s(path: Path) -> float:
    """Seconds since a file was written, by the clock of its file system.

    Raises:
        OSError: it is gone, or nothing can be written beside it.
    """
    probe = path.with_name(f".{secrets.token_hex(8)}.now")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()


def lives(process: int) -> bool:
    """Whether a process of this host lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def began(process: int) -> str:
    """When a process of this host began: the boot, and the clock ticks since.

    A number is given to another process after a while, and after a reboot; empty where the system
    does not show this, or the process is gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        of_process = Path(f"/proc/{process}/stat").read_bytes()
        return f"{boot} {int(of_process.rpartition(b')')[2].split()[19])}"
    except (OSError, ValueError, IndexError):
        return ""


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Has a file, or the names in a folder, written, so that what was moved there stays."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replaces `path` as a whole; a reader sees the old or the new content, nothing between."""
    _write_whole(path, content, replace=True)


def publish_new(path: Path, content: bytes | str) -> bool:
    """Creates `path` as a whole unless it exists; True if this call created it."""
    return _write_whole(path, content, replace=False)


_ATTEMPTS = 4


def _write_whole(path: Path, content: bytes | str, replace: bool) -> bool:
    """Written anew where somebody deletes the folder meanwhile, as one may a cache."""
    raw = content.encode() if isinstance(content, str) else content
    for left in reversed(range(_ATTEMPTS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            _write_synced(temporary, raw)
            if replace:
                temporary.replace(path)
            else:
                _link(temporary, path)
            sync_folder(path.parent)
        except FileExistsError:
            return False
        except OSError as error:
            if left and isinstance(error, FileNotFoundError):
                continue
            if error.errno and error.filename in (None, str(temporary)):  # a full disk names none
                error.filename = str(path)
            raise
        else:
            break
        finally:
            temporary.unlink(missing_ok=True)
    return True


_WITHOUT_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def _link(temporary: Path, path: Path) -> None:
    """Gives a file its name unless that is taken: by a link, without links by a locked rename.

    FAT, some network file systems and some of those in user space have no links.

    Raises:
        FileExistsError: the name is taken.
        OSError: the file system has neither links nor locks.
    """
    try:
        os.link(temporary, path)
        return
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
    claim = path.with_name(f".{path.name}.claim")
    with claim.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            claim.unlink(missing_ok=True)
            text = "this file system has neither hard links nor locks"
            raise OSError(errno.ENOTSUP, text, str(path)) from None
        taken = os.path.lexists(path)
        if not taken:
            temporary.replace(path)
        claim.unlink(missing_ok=True)  # who waits for it finds that the name is taken
    if taken:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reserve(path: Path, size_bytes: int | None = None) -> None:
    """Takes the room of a file that is going to be written through a memory map.

    On a full disk this is an error; later it would be a signal that ends the process.

    Args:
        path: of a file that is there.
        size_bytes: room for so much; its size if left out.

    Raises:
        OSError: there is no room.
    """
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END) if size_bytes is None else size_bytes
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # no such call there
                error.filename = str(path)
                raise


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The rows as CSV, a column for each key; nothing stands for None and for what a row lacks.

    Args:
        rows: the table.
        columns: the keys to write, in this order; all, as they come, if left out.

    >>> csv_text([{"a": 1, "b": None}, {"a": 0.5, "c": "x, y"}])
    'a,b,c\\n1,,\\n0.5,,"x, y"\\n'
    >>> csv_text([])
    ''
    """
    rows = list(rows)
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if names:
        writer.writerow(names)
    # The module quotes what holds a sign of its own line end, and readers end lines at \r too.
    careful = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [row.get(name) for name in names]
        (careful if any("\r" in str(cell) for cell in cells) else writer).writerow(cells)
    return text.getvalue()


def write_csv(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write rows of one kind to a file, atomically; see `csv_text`.

    Where there may be none, `columns` keep the names of the columns.
    """
    write_atomic(path, csv_text(rows, columns))
