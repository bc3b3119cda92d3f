"""Tables as CSV, read back by another reader."""

from __future__ import annotations

import csv
import io
import resource
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.files import csv_text, write_atomic, write_csv

CELLS = st.one_of(st.integers(), st.floats(allow_nan=False), st.text("a,\"'\n ;é", max_size=5))


@given(st.lists(st.fixed_dictionaries({"first": CELLS, "se,cond": CELLS}), min_size=1))
def test_every_cell_is_read_back(rows: list[dict[str, Any]]) -> None:
    found = list(csv.DictReader(io.StringIO(csv_text(rows), newline="")))
    assert found == [{name: str(value) for name, value in row.items()} for row in rows]


def test_columns_come_in_order_and_what_is_not_there_is_empty() -> None:
    rows = [{"a": 1, "b": None}, {"c": 0.1, "a": 2}]
    table = pd.read_csv(io.StringIO(csv_text(rows)))
    assert list(table) == ["a", "b", "c"]
    assert table["c"].isna().tolist() == [True, False]
    assert csv_text(rows, ["c", "a"]) == "c,a\n,1\n0.1,2\n"
    assert csv_text([], ["a"]) == "a\n"
    assert csv_text([]) == ""


@pytest.mark.parametrize("name", ["/", ".", "folder"])
def test_a_folder_is_not_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="not a file") as caught:
        write_csv(tmp_path / name, [{"a": 1}])
    assert caught.value.filename == str(tmp_path / name)


def test_an_error_while_writing_has_the_name_of_the_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_atomic(tmp_path / "a.csv", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "a.csv" in str(caught.value.filename)
    assert not list(tmp_path.iterdir())
