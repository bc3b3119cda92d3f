"""Where data lie, and paths as a person types them.

`~` and `~user` too, which a shell leaves alone in `--set root=~/x`.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from shlex import quote
from typing import TypedDict

from bench.core.errors import BenchError


class Places(TypedDict):
    """Where images are read, and where they are kept decoded."""

    data_root: Path | None
    cache_dir: Path


def user_path(text: str | os.PathLike[str], place: str | None = None) -> Path:
    """The path with `~` or `~user` at its beginning replaced by that home folder.

    Args:
        text: the path as it was given.
        place: where it was given, for the message.

    Raises:
        BenchError: the path is empty, there is no such user, or the user has no home folder.

    >>> user_path("data/birds").as_posix()
    'data/birds'
    """
    path = Path(text)
    if not os.fspath(text):
        raise BenchError("the path is empty", place=place, hint="write . for the present folder")
    try:
        return path.expanduser()
    except RuntimeError:
        name = path.parts[0]
        raise BenchError(
            f"there is no home folder {name!r}",
            place=place,
            hint=f"in {str(path)!r}: write the whole path, or ~/ for your own home folder",
        ) from None


def grid_file(name: str) -> str:
    """The grid whose runs a leaderboard called `name` has, as it is typed; else the word GRID.

    It is looked for in the present folder and below `grids`.

    >>> grid_file("no such name")
    'GRID'
    """
    places = (*Path().glob("*.yaml"), *Path("grids").glob("**/*.yaml"))
    found = [path for path in places if path.stem == name]
    return quote(str(found[0])) if len(found) == 1 else "GRID"


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; no pipe or device is waited for.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))
        content, room = b"", min(max(status.st_size, 1 << 16), limit) + 1  # not the whole limit
        while part := os.read(handle, min(room, limit + 1 - len(content))):
            content += part
    finally:
        os.close(handle)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
    return content
