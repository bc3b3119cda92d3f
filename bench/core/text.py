"""Numbers and lists as text, each kind in one way."""

from __future__ import annotations

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
    """Seconds in the units of a clock.

    >>> duration(42), duration(130), duration(7300)
    ('42 s', '2 min 10 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(3000, "image"), counted(2, "class"), counted(0, "box")
    ('1 image', '3,000 images', '2 classes', '0 boxes')
    """
    several = plural or (f"{noun}es" if noun.endswith(("x", "s", "ch")) else f"{noun}s")
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
