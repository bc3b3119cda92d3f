"""`bench retrieve`: the CSV and the picture's ranks (GE-10)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.commands._neighbours import (
    RANKS,
    Retrieval,
    read_selections,
    retrieve,
    shown_images,
    shown_rows,
)
from bench.core.errors import BenchError
from bench.methods.retrieval.search import Neighbours

CLASSES = "{{dataset: digits, test_per_class: 20, images_per_class: {}, classes: {}}}"
TARGET = CLASSES.format(4, "{recipe: listed, names: ['3', '8']}")
SOURCE = CLASSES.format(20, "{recipe: listed, names: ['0', '1', '5']}")


def test_the_picture_shows_the_ranks_that_it_says() -> None:
    order = np.stack([np.random.default_rng(row).permutation(60) for row in range(3)])
    near = Neighbours(order[:, :45], np.zeros((3, 45), np.float32), 60)
    for row, images in shown_images(near, [2, 0]):
        assert images == [int(order[row, rank - 1]) for rank in (1, 10, 20, 30, 40)]
    few = Neighbours(order[:, :12], np.zeros((3, 12), np.float32), 60)
    assert [len(images) for _, images in shown_images(few, [0])] == [2]
    assert RANKS == (1, 10, 20, 30, 40)


def test_rows_are_of_every_class() -> None:
    assert shown_rows(np.array([1, 1, 1, 0, 0, 2]), 4) == [0, 3, 5, 1]


def test_neighbours_are_written_as_csv_and_picture(tmp_path: Path) -> None:
    asked = Retrieval(k=12, bins=10, rows=3)
    lines = retrieve(TARGET, SOURCE, tmp_path / "out", results=tmp_path, asked=asked)
    assert "8 target images, 12 neighbours of each" in lines[1]
    text = (tmp_path / "out/neighbours.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 8 * 12
    for start in range(0, len(rows), 12):
        part = rows[start : start + 12]
        assert [int(row["rank"]) for row in part] == list(range(1, 13))
        assert len({row["target_image"] for row in part}) == 1
        assert len({row["source_image"] for row in part}) == 12
        distances = [float(row["distance"]) for row in part]
        assert distances == sorted(distances)
    assert {row["target_class"] for row in rows} == {"3", "8"}
    assert {row["source_class"] for row in rows} <= {"0", "1", "5"}
    with Image.open(tmp_path / "out/neighbours.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height / 2


def test_wrong_input_is_an_error(tmp_path: Path) -> None:
    def asking(target: str = TARGET, asked: Retrieval | None = None) -> None:
        retrieve(target, SOURCE, tmp_path / "out", results=tmp_path, asked=asked)

    with pytest.raises(BenchError, match="--k is 61, but the source has 60 images"):
        asking(asked=Retrieval(k=61, bins=10))
    with pytest.raises(BenchError, match="k is 0"):
        asking(asked=Retrieval(k=0))
    with pytest.raises(BenchError, match=r"target \{datasets: digits\}"):
        asking("{datasets: digits}")
    with pytest.raises(BenchError, match="no run matches 'abc'"):
        asking(asked=Retrieval(run="abc"))
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
    places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    monkeypatch.setenv("HOME", str(tmp_path))
    texts = {"source": "~/birds", "target": "{dataset: digits, image_size: 16}"}
    source, target = read_selections(texts, places).values()
    assert (source.dataset, source.root) == ("folder", str(tmp_path / "birds"))
    assert (source.image_size, target.image_size) == (16, 16)
    assert (source.val_per_class, source.test_per_class) == (1, 2)
    assert read_selections({"source": "digits"}, places)["source"].dataset == "digits"
    with pytest.raises(BenchError, match="~/none: there is no such folder"):
        read_selections({"source": "~/none"}, places)
    lines = retrieve(
        TARGET, "~/birds", tmp_path / "out", results=tmp_path, asked=Retrieval(k=3, bins=10)
    )
    assert "of 14 source images" in lines[1]
