"""Leaderboards changed by hand, by a spreadsheet or by chance: file, line and way out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.leaderboard.read import differ_within, parse, read
from bench.core.errors import DataError

COLUMNS = (
    "experiments,status,dataset,target,class_draw,source,model,pattern,method,lr,images_per_class,"
    "epochs,test_images,top1_accuracy,run_id"
)
ROW = "a,done,digits,all,0,none,narrow8_32,R(1-8),plain,0.01,5,2,100,0.5,id{n}"


def board(**cells: str) -> str:
    """Three rows, the second with these cells."""
    names = COLUMNS.split(",")
    second = dict(zip(names, ROW.format(n=2).split(","), strict=True)) | cells
    lines = [COLUMNS, ROW.format(n=1), ",".join(second[name] for name in names), ROW.format(n=3)]
    return "\n".join(lines) + "\n"


AGAIN = "\n  bench leaderboard GRID writes the file again"
WRONG = {
    "a depth of no network": (
        {"pattern": "T(1-99999999)"},
        "layer pattern 'T(1-99999999)': cannot",
    ),
    "no pattern": ({"pattern": ""}, "the layer pattern is empty\n  write for example"),
    "text as a number": ({"lr": "fast"}, f"lr is 'fast', not a number{AGAIN}"),
    "infinite": ({"lr": "1e400"}, f"lr is '1e400', not a number{AGAIN}"),
    "nan": ({"top1_accuracy": "nan"}, f"top1_accuracy is 'nan', not a number{AGAIN}"),
    "digits apart": ({"epochs": "1_0"}, f"epochs is '1_0', not a number{AGAIN}"),
    "half an image": ({"test_images": "1.5"}, f"test_images is 1.5, not a whole number{AGAIN}"),
    "less than none": ({"epochs": "-1"}, f"epochs is -1, not a whole number{AGAIN}"),
    "huge": (
        {"images_per_class": "1e300"},
        f"images_per_class is 1e+300, not a whole number{AGAIN}",
    ),
    "percentages": (
        {"top1_accuracy": "50"},
        "top1_accuracy is 50, not a fraction between 0 and 1\n  divide percentages by 100",
    ),
    "an open quote": (
        {"model": '"a'},
        "this is no CSV table: the quotation marks of this row are not closed",
    ),
    "one cell more": ({"model": "a,b"}, f"this row has 16 cells, but there are 15 columns{AGAIN}"),
    "a huge cell": (
        {"model": "x" * 200_000},
        "this is no CSV table: a cell of this row has more than 131,072 characters",
    ),
    "a long number": ({"lr": "x" * 100_000}, "lr is 'xxx"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_cell_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    cells, message = WRONG[name]
    path = tmp_path / "board.csv"
    path.write_text(board(**cells))
    with pytest.raises(DataError) as caught:
        read(path)
    found = str(caught.value)
    assert found.startswith(f"{path}:3: {message}")
    assert "\n  " in found
    assert len(found) < 2500


def test_a_sound_board_is_read_whatever_else_its_cells_hold() -> None:
    found = parse(board(experiments="[/x]", target="\x1b[2J", source="=1+1", model="é"))
    assert found["model"].tolist() == ["narrow8_32", "é", "narrow8_32"]
    assert found["depth"].tolist() == [8, 8, 8]


BYTES = {
    "a column twice": (board().replace("method,lr", "lr,lr").encode(), ": column 'lr' is there"),
    "latin": (board(model="é").encode("latin1"), ":3: this is not text in UTF-8: byte 0xe9"),
    "utf16": (board().encode("utf16"), ":1: this is text in UTF-16, not in UTF-8"),
    "semicolons": (board().replace(",", ";").encode(), ": this is not a leaderboard"),
    "half a row": (board()[:-30].encode(), ":4: this row has"),
    "nothing": (b"", ": the file is empty"),
    "blank lines": (b"\n\n", ": the file is empty"),
    "a header": (COLUMNS.encode() + b"\n", ": the leaderboard is empty: no row"),
}


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_leaderboard_is_refused(name: str, tmp_path: Path) -> None:
    content, message = BYTES[name]
    path = tmp_path / "board.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n  " in str(caught.value)


def test_a_file_of_a_spreadsheet_begins_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "board.csv").write_bytes(board().replace("\n", "\r\n").encode("utf-8-sig"))
    assert len(read(tmp_path / "board.csv")) == 3


def test_pipes_and_folders_are_no_leaderboards(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "a pipe or a device"), (".", "a folder"), ("none", "no such")):
        with pytest.raises(DataError, match=reason):
            read(tmp_path / name)


def test_words_that_differ_within_a_group_are_found_as_a_grouped_table_finds_them() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        rows = int(rng.integers(1, 12))
        words, groups = (rng.integers(0, most, rows).astype(str).tolist() for most in (2, 6))
        counted = pd.Series(words).groupby(groups).nunique()
        assert differ_within(words, groups) == (counted.max() > 1)
    assert not differ_within([], [])
