"""Text and CSV tables that somebody else may have written: what is wrong with them, and where."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from shlex import quote

from bench.core.errors import BenchError

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16's does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 4096
_SHOWN = 40
_QUOTING = (
    "a cell with commas, quotes or line breaks stands in double quotes, and a double quote in it "
    "is written twice"
)
_OF_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def utf8_text(
    raw: bytes,
    name: str,
    kind: type[BenchError] = BenchError,
    *,
    whole: bool = True,
    wanted: str = "",
) -> str:
    """The text of bytes in UTF-8, with or without a mark in front.

    Args:
        raw: the content of a file, or its first bytes.
        name: of the file.
        kind: of the error.
        whole: whether `raw` is all of it; else a torn character at its end is left out.
        wanted: which file to give, for the hint.

    Raises:
        BenchError: it is in another encoding; with the line, and how to convert it.

    >>> utf8_text("caf\u00e9".encode("latin-1"), "a.csv")
    Traceback (most recent call last):
        ...
    bench.core.errors.BenchError: a.csv:1: this is not text in UTF-8: byte 0xe9 in 'caf\u00e9'
      save it as UTF-8 (in a spreadsheet: CSV UTF-8), or: iconv -f latin1 -t utf-8 a.csv > NEW
    """
    encoding = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), None)
    if encoding is None:
        encoding = _unmarked_utf16(raw[:_LOOKED_AT])
    if encoding is not None:
        raise kind(
            f"this is text in {encoding.upper()}, not in UTF-8",
            place=f"{name}:1",
            hint=_way_out(wanted, _converted(encoding, name)),
        )
    try:
        raw = raw.removeprefix(codecs.BOM_UTF8)
        return codecs.getincrementaldecoder("utf-8")().decode(raw, final=whole)
    except UnicodeDecodeError as error:
        before = raw[: error.end].splitlines()[-1][-_SHOWN:].decode("latin-1")
        is_text = not _OF_NO_TEXT.search(raw[:_LOOKED_AT])
        how = _converted("latin1", name) if is_text else "a table or a grid is text in UTF-8"
        raise kind(
            f"this is not text in UTF-8: byte 0x{raw[error.start]:02x} in {before!r}",
            place=f"{name}:{raw.count(10, 0, error.start) + 1}",
            hint=_way_out(wanted, how),
        ) from None


def _unmarked_utf16(raw: bytes) -> str | None:
    """Which UTF-16 without a mark this is: of Latin letters every second byte is 0."""
    for first, encoding in ((1, "utf-16le"), (0, "utf-16be")):
        zeros, others = raw[first::2], raw[1 - first :: 2]
        if zeros.count(0) > len(zeros) / 2 and others.count(0) < len(others) / 2:
            return encoding
    return None


def _converted(encoding: str, name: str) -> str:
    command = f"iconv -f {encoding} -t utf-8 {quote(name)} > NEW"
    how = " (in a spreadsheet: CSV UTF-8)" if name.lower().endswith((".csv", ".tsv")) else ""
    return f"save it as UTF-8{how}, or: {command}"


def _way_out(wanted: str, how: str) -> str:
    return f"{wanted}; where it is that one, {how}" if wanted else how


def csv_rows(
    text: str, name: str | None, kind: type[BenchError] = BenchError, *, wanted: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV table that are not empty, each with the number of its last line.

    Args:
        text: the table.
        name: of its file.
        kind: of the error.
        wanted: which file to give, for the hint.

    Raises:
        BenchError: a row cannot be taken apart; with the line that it begins in.

    >>> list(csv_rows('a,b\\n\\n"1,2",3\\n', "x.csv"))
    [(1, ['a', 'b']), (3, ['1,2', '3'])]
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise kind(
                f"this is no CSV table: {_fault(error)}",
                place=at_line(name, line),
                hint=_way_out(wanted, _QUOTING),
            ) from None
        if row:
            yield reader.line_num, row


def at_line(name: str | None, line: int) -> str:
    """A line of a file as errors name it."""
    return f"{name}:{line}" if name else f"line {line}"


def _fault(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "the quotation marks of this row are not closed"
    if "field limit" in str(error):
        return (
            f"a cell of this row has more than {csv.field_size_limit():,} characters, as where "
            "quotation marks are not closed"
        )
    return str(error)
