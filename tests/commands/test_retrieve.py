"""`bench retrieve`: the CSV and the picture's ranks (GE-10)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from analysis.figures.class_sheet import RANKS, neighbour_sheet, shown_rows
from analysis.measurements.selections import ImageNeighbours, Places, load_selection
from bench.commands._selections import parse_selection, read_pair, read_selection
from bench.commands.app import app
from bench.core.errors import BenchError
from bench.methods.retrieval.search import Neighbours

CLASSES = "{{dataset: digits, test_per_class: 20, images_per_class: {}, classes: {}}}"
TARGET = CLASSES.format(4, "{recipe: listed, names: ['3', '8']}")
SOURCE = CLASSES.format(20, "{recipe: listed, names: ['0', '1', '5']}")


def test_the_picture_shows_the_ranks_that_it_says(tmp_path: Path) -> None:
    places: Places = {"data_root": None, "cache_dir": tmp_path}
    target, source = (
        load_selection(parse_selection("x", text), places) for text in (TARGET, SOURCE)
    )
    order = np.stack([np.random.default_rng(row).permutation(60) for row in range(8)])
    pixels = source.loaded.images[source.loaded.train]
    for stored, ranks in ((45, RANKS), (12, (1, 10))):
        near = Neighbours(order[:, :stored], np.zeros((8, stored), np.float32), 60)
        figure = neighbour_sheet(ImageNeighbours(near, target, source, (), ""), most=3)
        axes = np.array(figure.axes).reshape(3, 1 + len(ranks))
        shown_targets = shown_rows(target.loaded.labels[target.loaded.train], 3)
        for row, line in zip(shown_targets, axes, strict=True):
            own = target.loaded.images[target.loaded.train[row]]
            assert np.array_equal(line[0].images[0].get_array(), own)
            for rank, ax in zip(ranks, line[1:], strict=True):
                assert np.array_equal(ax.images[0].get_array(), pixels[order[row, rank - 1]])
        titles = ["target", "1st", *(f"{rank}th" for rank in ranks[1:])]
        assert [ax.get_title() for ax in axes[0]] == titles
    assert RANKS == (1, 10, 20, 30, 40)


def test_rows_are_of_every_class() -> None:
    assert shown_rows(np.array([1, 1, 1, 0, 0, 2]), 4) == [0, 3, 5, 1]


def retrieved(folder: Path, target: str = TARGET, source: str = SOURCE, *options: str) -> str:
    """What the command prints; its error is raised."""
    given = ("--target", target, "--source", source, "--out", str(folder / "out"))
    result = CliRunner().invoke(app, ["retrieve", *given, "--results", str(folder), *options])
    if isinstance(result.exception, BenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_neighbours_are_written_as_csv_and_picture(tmp_path: Path) -> None:
    text = retrieved(tmp_path, TARGET, SOURCE, "--k", "12", "--bins", "10")
    assert "8 target images, 12 neighbours of each" in text
    with (tmp_path / "out/neighbours.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 12
    for start in range(0, len(rows), 12):
        part = rows[start : start + 12]
        assert [int(row["rank"]) for row in part] == list(range(1, 13))
        assert len({row["target_image"] for row in part}) == 1
        assert len({row["source_image"] for row in part}) == 12
        distances = [float(row["distance"]) for row in part]
        assert distances == sorted(distances)
    assert f"{len({row['source_image'] for row in rows})} of 60 source images" in text
    assert {row["target_class"] for row in rows} == {"3", "8"}
    assert {row["source_class"] for row in rows} <= {"0", "1", "5"}
    with Image.open(tmp_path / "out/neighbours.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (TARGET, ("--k", "61", "--bins", "10"), "--k is 61, but the source has 60 images"),
        ("{datasets: digits}", (), "target {datasets: digits}: "),
        (TARGET, ("--run", "abc"), "no run matches 'abc'"),
    ],
)
def test_wrong_input_is_an_error(
    tmp_path: Path, target: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(BenchError, match=re.escape(message)):
        retrieved(tmp_path, target, SOURCE, *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_a_selection_of_its_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "birds" / name / f"{number}.png")
    places: Places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    monkeypatch.setenv("HOME", str(tmp_path))
    source, target = read_pair("~/birds", "{dataset: digits, image_size: 16}", places)
    assert (source.dataset, source.root) == ("folder", str(tmp_path / "birds"))
    assert (source.image_size, target.image_size) == (16, 16)
    assert (source.val_per_class, source.test_per_class) == (1, 2)
    assert read_selection("source", "digits", places).dataset == "digits"
    with pytest.raises(BenchError, match="~/none: there is no such folder"):
        read_selection("source", "~/none", places)
    text = retrieved(tmp_path, TARGET, "~/birds", "--k", "3", "--bins", "10")
    assert "of 14 source images" in text
