"""Paths as a person types them: `~` and `~user`, which a shell leaves alone in `--set root=~/x`."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import BenchError

__all__ = ["user_path"]


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
            f"the home folder {name!r} of {str(path)!r} is not known",
            place=place,
            hint="write the whole path, or ~/ for your own home folder"
            + (f"; a folder that is really called so is ./{path}" if name != "~" else ""),
        ) from None
