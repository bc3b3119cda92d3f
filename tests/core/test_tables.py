"""Tables that somebody else wrote: in other encodings, torn, overlong."""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import BenchError, DataError
from bench.core.tables import csv_rows, utf8_text

TEXT = "experiments,run_id,café\na,1,naïve\n" * 40
ENCODINGS = {
    "latin-1": ("latin-1", "1: this is not text in UTF-8: byte 0xe9 in 'experiments,run_id,café'"),
    "utf-16": ("utf-16", "1: this is text in UTF-16, not in UTF-8"),
    "utf-16, big endian": ("utf-16-be", "1: this is text in UTF-16BE, not in UTF-8"),
    "utf-16, little endian": ("utf-16-le", "1: this is text in UTF-16LE, not in UTF-8"),
    "utf-32": ("utf-32", "1: this is text in UTF-32, not in UTF-8"),
}


@pytest.mark.parametrize(("encoding", "shown"), ENCODINGS.values(), ids=ENCODINGS.keys())
def test_text_in_another_encoding_is_named_and_the_hint_converts_it(
    tmp_path: Path, encoding: str, shown: str
) -> None:
    path = tmp_path / "my table.csv"
    path.write_bytes(TEXT.encode(encoding))
    with pytest.raises(DataError) as error:
        utf8_text(path.read_bytes(), str(path), DataError)
    first, hint = str(error.value).splitlines()
    assert first == f"{path}:{shown}"
    assert hint.startswith("  save it as UTF-8 (in a spreadsheet: CSV UTF-8), or: iconv -f ")
    new = tmp_path / "new.csv"
    subprocess.run(
        hint.partition(", or: ")[2].replace("NEW", f"'{new}'"), shell=True, check=True, timeout=60
    )
    assert utf8_text(new.read_bytes(), str(new)) == TEXT


def test_the_place_of_a_wrong_byte_does_not_count_a_mark_before_the_text() -> None:
    with pytest.raises(DataError, match=r"x\.csv:2: .*byte 0xe9 in 'aé'"):
        utf8_text(b"\xef\xbb\xbfpath,label\na\xe9,b\n", "x.csv", DataError)


def test_utf8_comes_with_and_without_a_mark_and_may_be_cut() -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        assert utf8_text(TEXT.encode(encoding), "a.csv") == TEXT
    assert utf8_text("café".encode()[:-1], "a.csv", whole=False) == "caf"
    assert utf8_text(b"", "a.csv") == ""
    assert utf8_text(b"a,b\0\n1,2\n", "a.csv") == "a,b\0\n1,2\n"  # one zero is no UTF-16


def test_the_line_is_that_of_the_byte() -> None:
    with pytest.raises(
        BenchError, match=r"x\.yaml:3: .*byte 0xff in 'c: \\xff|x\.yaml:3: .*'c: ÿ'"
    ):
        utf8_text(b"a: 1\nb: 2\nc: \xff\nd: 3\n", "x.yaml")


FAULTS = {
    "never closed": ('a,b\n1,2\n"3,4\n5,6\n', "x.csv:3: this is no CSV table: the quotation marks"),
    "a header of megabytes": (
        '"a,b\n' + "1,2\n" * 10**6,
        "x.csv:1: this is no CSV table: a cell of this row has more than 131,072 characters, as "
        "where quotation marks are not closed",
    ),
    "text behind a quotation mark": (
        'a,b\n"1"2,3\n',
        "x.csv:2: this is no CSV table: ',' expected",
    ),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_row_that_cannot_be_taken_apart_has_the_line_that_it_begins_in(
    text: str, message: str
) -> None:
    with pytest.raises(BenchError) as error:
        list(csv_rows(text, "x.csv"))
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 400


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=5))
def test_rows_come_back_as_they_were_written(rows: list[list[str]]) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    text = utf8_text(file.getvalue().encode(), "x.csv")
    if not file.getvalue().startswith("\ufeff"):
        assert [row for _, row in csv_rows(text, "x.csv")] == rows
