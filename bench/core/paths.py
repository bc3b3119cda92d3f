"""Where data lie, and paths as a person types them.

`~` and `~user` too, which a shell leaves alone in `--set root=~/x`.
"""

from __future__ import annotations

import os
from pathlib import Path
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
        BenchError: there is no such user, or the user has no home folder.

    >>> user_path("data/birds").as_posix()
    'data/birds'
    """
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        name = path.parts[0]
        raise BenchError(
            f"there is no home folder {name!r}",
            place=place,
            hint=f"in {str(path)!r}: write the whole path, or ~/ for your own home folder",
        ) from None
