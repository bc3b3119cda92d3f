"""Numbers and lists as text, each kind in one way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 1_000
"""Characters of a line that a person is shown."""


def printable(text: str) -> str:
    """Text from outside for a terminal: what it would obey and not show is written as an escape.

    >>> printable("red \\x1b[31m line\\r\\n"), printable("caf\u00e9 \\u202e")
    ('red \\\\x1b[31m line\\\\r\\n', 'caf\u00e9 \\\\u202e')
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """A name or a path from outside as `printable` shows it, newlines and tabs as escapes too.

    >>> one_line("a\\nb")
    'a\\\\nb'
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def brief(text: str, longest: int = LONGEST) -> str:
    """The text with the middle of each overlong line left out, and how much that is.

    >>> brief("a" * 30 + "\\nb", 10)
    'aaaaa … (20 characters) … aaaaa\\nb'
    """
    lines = text.split("\n")
    for n, line in enumerate(lines):
        if len(line) > longest:
            half = longest // 2
            cut = f" … ({len(line) - 2 * half:,} characters) … "
            lines[n] = line[:half] + cut + line[-half:]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the units of a clock; less than one with its first digit that is not 0.

    >>> duration(42), duration(130), duration(7300), duration(0.0312), duration(0)
    ('42 s', '2 min 10 s', '2 h 01 min', '0.03 s', '0 s')
    """
    if 0.001 <= seconds < 0.95:
        return f"{seconds:.1g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_TIMES = (
    r"(?P<minutes>\d+)(:(?P<seconds>[0-5]?\d))?",
    r"(?P<hours>\d+):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)",
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>[0-5]?\d)(:(?P<seconds>[0-5]?\d))?)?",
)
TIMES = "minutes, or as sbatch has it MM:SS, H:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"


def whole_minutes(text: str) -> int | None:
    """The minutes of a time in sbatch's notation, a part of one counted whole; None for no time.

    >>> [whole_minutes(text) for text in ("90", "2:00:00", "1-12", "1:30", "0:61")]
    [90, 120, 2160, 2, None]
    """
    for form in _TIMES:
        if found := re.fullmatch(form, text.strip(), re.ASCII):
            days, hours, minutes, seconds = (
                int(found.groupdict().get(name) or 0)
                for name in ("days", "hours", "minutes", "seconds")
            )
            return (days * 24 + hours) * 60 + minutes + (seconds > 0)
    return None


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(3000, "image"), counted(2, "class"), counted(0, "box")
    ('1 image', '3,000 images', '2 classes', '0 boxes')
    """
    several = plural or (f"{noun}es" if noun.endswith(("x", "s", "tch", "nch")) else f"{noun}s")
    return f"{number:,} {noun if number == 1 else several}"


def some(lines: Iterable[str], limit: int = 6) -> str:
    """The first few of `lines` and how many there are besides.

    >>> some("abc", limit=2)
    'a; b; … (1 more)'
    """
    return _first(list(lines), limit, "; ")


def listed(values: Sequence[Any], limit: int = 6) -> str:
    """The first few of `values`, separated by commas, and how many there are besides.

    >>> listed([1, 2, 3], limit=2)
    '1, 2, … (1 more)'
    """
    return _first([str(value) for value in values], limit, ", ")


def _first(texts: Sequence[str], limit: int, separator: str) -> str:
    more = len(texts) - limit
    return separator.join(texts[:limit]) + (f"{separator}… ({more} more)" if more > 0 else "")


def p_value(p: float | None) -> str:
    """A p-value to three digits, a dash where there is none.

    >>> p_value(0.0312), p_value(0.0002), p_value(None)
    ('0.031', '< 0.001', '–')
    """
    if p is None or p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
