"""What a user is told who gives something else for a grid."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from bench.core.errors import GridError
from bench.grid.expand import load_grid
from tests.grid.test_yaml import HEAD


@pytest.fixture
def here(tmp_path: Path, committed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of each: results, grids, images, archives, weights."""
    monkeypatch.chdir(tmp_path)
    Path("grids").mkdir()
    for name in ("tiny-imagenet", "borrowing"):
        Path(f"grids/{name}.yaml").write_text(f"{HEAD}  e: {{axes: {{seed: [0]}}}}\n")
    (tmp_path / "results").mkdir()
    for suffix in ("", "-aggregated"):
        shutil.copy(committed / f"tiny-imagenet{suffix}.csv", "results")
    Path("my birds/robin").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("my birds/robin/1.png")
    (tmp_path / "results/runs/a-1").mkdir(parents=True)
    (tmp_path / "results/runs/a-1/record.json").write_text("{}")
    Path("list.csv").write_text("path,label,split\n1.png,robin,train\n")
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("empty.csv").write_text("")
    Path("empty").mkdir()
    Path("binary").write_bytes(b"\x7fELF\0\0")
    Path("net.safetensors").write_bytes(b"\0" * 8)
    Path("birds.tar.gz").write_bytes(b"\x1f\x8b\0")
    return tmp_path


GRIDS = "grids here: grids/borrowing.yaml, grids/tiny-imagenet.yaml"
OTHERS = {
    "results/tiny-imagenet.csv": "a leaderboard; bench findings results/tiny-imagenet.csv and "
    "bench report results/tiny-imagenet.csv take it; its grid is grids/tiny-imagenet.yaml",
    "results/tiny-imagenet-aggregated.csv": "a table of conditions; bench findings "
    "results/tiny-imagenet.csv takes its runs",
    "results": f"a results folder; bench findings results takes it; {GRIDS}",
    "results/runs/a-1": "the folder of a run; to see the run: bench show results/runs/a-1",
    "results/runs/a-1/record.json": "a file of a run; to see the run: bench show results/runs/a-1",
    "grids": "a folder; grids in it: grids/borrowing.yaml, grids/tiny-imagenet.yaml",
    "my birds": "a folder of images; bench finetune 'my birds' finds the best way to fine-tune on "
    "it, bench data check folder 'my birds' looks for problems; in a grid: target: {dataset: "
    "folder, root: my birds}",
    "my birds/robin/1.png": "an image; to classify it: bench predict MODEL "
    f"'my birds/robin/1.png'; {GRIDS}",
    "list.csv": "a list of images; bench finetune list.csv finds the best way to fine-tune on "
    "them; in a grid: target: {dataset: manifest, root: list.csv}",
    "other.csv": "a table of the columns a, b; bench findings takes a leaderboard that bench grid "
    "wrote, bench finetune a CSV with the columns path and label",
    "empty.csv": "an empty table; bench findings takes a leaderboard that bench grid wrote, bench "
    "finetune a CSV with the columns path and label",
    "empty": f"a folder; {GRIDS}",
    "binary": f"a binary file; {GRIDS}",
    "net.safetensors": "a file of weights; in a grid: weights: {file: net.safetensors}",
    "birds.tar.gz": "an archive; where it holds your images: bench finetune birds.tar.gz; " + GRIDS,
}


@pytest.mark.parametrize("name", OTHERS)
def test_something_else_is_named_with_the_command_that_takes_it(name: str, here: Path) -> None:
    what, _, hint = OTHERS[name].partition("; ")
    with pytest.raises(GridError) as caught:
        load_grid(name)
    assert str(caught.value) == f"{name}: this is {what}, not a grid\n  {hint}"


UNREADABLE = {
    "latin.csv": (
        "experiments,run_id,café\n".encode("latin-1"),
        "1: this is not text in UTF-8: byte 0xe9 in 'experiments,run_id,café'\n  save it as UTF-8",
    ),
    "utf16.csv": (
        "experiments,run_id\n".encode("utf-16"),
        "1: this is text in UTF-16, not in UTF-8",
    ),
    "utf16be.csv": (
        "experiments,run_id\n".encode("utf-16-be"),
        "1: this is text in UTF-16BE, not in UTF-8\n  save it as UTF-8 (in a spreadsheet: CSV "
        "UTF-8), or: iconv -f utf-16be -t utf-8 utf16be.csv > NEW",
    ),
    "open.csv": (
        b'"a,b\n' + b"1,2\n" * 10**5,
        "1: this is no CSV table: the quotation marks of this row are not closed\n  a cell with",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_table_that_cannot_be_read_is_no_empty_table(name: str, here: Path) -> None:
    content, message = UNREADABLE[name]
    Path(name).write_bytes(content)
    with pytest.raises(GridError) as caught:
        load_grid(name)
    assert str(caught.value).startswith(f"{name}:{message}")
    assert len(str(caught.value)) < 300
    with pytest.raises(GridError, match=r"this is a (results )?folder, not a grid"):
        load_grid(".")


def test_long_names_of_columns_are_cut(here: Path) -> None:
    Path("wide.csv").write_text(",".join(f"{'c' * 5000}{n}" for n in range(50)) + "\n")
    with pytest.raises(GridError, match=r"c{20} … \(4,961 characters\) … c{19}0, ") as caught:
        load_grid("wide.csv")
    assert len(str(caught.value)) < 900


def test_text_may_be_a_grid_and_its_contents_are_not_printed(here: Path) -> None:
    Path("notes.txt").write_text("word " * 200)
    with pytest.raises(GridError) as caught:
        load_grid("notes.txt")
    message = str(caught.value)
    assert message.startswith("notes.txt:1: the grid: expected a mapping, found 'word word")
    assert len(message) < 300
    Path("grid.txt").write_text(Path("grids/borrowing.yaml").read_text())
    assert load_grid("grid.txt").name == "grid"


def test_a_misspelt_path_shows_the_nearest_grid_first(here: Path) -> None:
    with pytest.raises(GridError, match=r"grids here: grids/tiny-imagenet.yaml, grids/borrowing"):
        load_grid("grids/tinyimagenet.yaml")


def test_presets_are_among_the_keys_of_a_grid(here: Path) -> None:
    Path("g.yaml").write_text(f"{HEAD}  e: {{axes: {{seed: [0]}}}}\npresetz: {{}}\n")
    with pytest.raises(
        GridError, match=r"g.yaml:7: unknown key 'presetz' in the grid\n  known: pre"
    ):
        load_grid("g.yaml")
