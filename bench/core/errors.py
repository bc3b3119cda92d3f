"""Errors that a user can act on: the value, the place, the alternatives, the way out."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path

from bench.core.text import brief, one_line


class BenchError(Exception):
    """An error whose text is meant for the user, not for a programmer; overlong lines are cut.

    A line begins anew only where the next one is indented, so that a name with a newline in it
    shows as `\\n`.

    Args:
        message: what is wrong, with the value in it.
        place: where, as `file:line` or a path; shown before the message.
        hint: what to do about it; shown on its own line.
        value: the text that is wrong, as it was given, by which its line is found.

    >>> str(BenchError("lr is 'fast'", place="grids/a.yaml:7", hint="write a number"))
    "grids/a.yaml:7: lr is 'fast'\\n  write a number"
    """

    def __init__(
        self,
        message: str,
        *,
        place: str | None = None,
        hint: str | None = None,
        value: str | None = None,
    ) -> None:
        self.message, self.place, self.hint, self.value = message, place, hint, value
        text = f"{one_line(place)}: {message}" if place else message
        text = f"{text}\n  {hint}" if hint else text
        super().__init__(brief(re.sub(r"\n(?![ \t])", r"\\n", text)))


class GridError(BenchError):
    """The grid file is wrong; nothing was run."""


class DataError(BenchError):
    """Images, classes or splits are not as the spec needs them."""


class ModelError(BenchError):
    """A network, a layer pattern or a weights file does not fit."""


class StoreError(BenchError):
    """A file below the results folder is missing, torn or not ours."""


def refuse_repeated(texts: Iterable[str], flag: str) -> None:
    """Refuses two of an option's `KEY=VALUE` texts that have the same key.

    >>> refuse_repeated(["lr=1", "seed=0", "lr=2"], "--set")
    Traceback (most recent call last):
    ...
    bench.core.errors.GridError: lr is given twice: --set lr=1 and --set lr=2
      leave one of the two out
    """
    first: dict[str, str] = {}
    for text in texts:
        key = text.partition("=")[0].strip()
        if key in first:
            raise GridError(
                f"{key} is given twice: {flag} {first[key]} and {flag} {text}",
                hint="leave one of the two out",
            )
        first[key] = text


_WAYS_OUT = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG),
        "free some space there, or name a folder on another disk (--results)",
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions and its folder's: ls -ld"),
    errno.ENAMETOOLONG: "give a shorter name, or a folder with a shorter path",
    errno.EISDIR: "a file is needed here, and this is a folder",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a folder is needed here, and this is a file"),
    errno.ENOTSUP: "name a folder on another file system (--results)",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    **dict.fromkeys(
        (errno.ENOMEM, errno.EAGAIN), "set fewer --workers, or raise the limits of ulimit -a"
    ),
}


def of_files(error: OSError) -> BenchError:
    """An error of the system's about a file, with what to do.

    >>> str(of_files(OSError(28, "No space left on device", "results/a.csv"))).splitlines()[0]
    'results/a.csv: No space left on device'
    """
    return BenchError(
        error.strerror or str(error),
        place=str(error.filename or f"a file that {Path.cwd()} or the grid leads to"),
        hint=_WAYS_OUT.get(error.errno or 0, "check the path, the disk and the permissions"),
    )


def nearest(value: str, alternatives: Iterable[str], limit: int = 6) -> str:
    """The alternatives as text, the nearest to `value` first.

    >>> nearest("adaam", ["sgd", "adamw"])
    'adamw, sgd'
    """
    names = sorted(set(alternatives))
    close = difflib.get_close_matches(value, names, n=limit, cutoff=0.4)
    ordered = close + [name for name in names if name not in close]
    if len(ordered) <= limit + 2:  # a name is as short as saying how many are not shown
        return ", ".join(ordered)
    more = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f", … ({more} more)" if more > 0 else "")
