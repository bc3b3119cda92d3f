"""A file of boxes beside a data set that comes without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.core.errors import DataError
from bench.data.catalog import load, resolve
from bench.data.places import MissingDataError
from bench.specs.data import DataSpec

HEADING = "path,box_head,box_feet"


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Eight images of 8 x 8 pixels, whose rows 0 to 3 are darker than the others."""
    root = tmp_path / "animals"
    for number in range(8):
        pixels = np.full((8, 8, 3), 10 * number, np.uint8)
        pixels[4:] += 100
        path = root / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    rows = [f"{path.parent.name}/{path.name},0 0 8 4,0 4 8 4" for path in sorted(root.glob("*/*"))]
    (root / "parts.csv").write_text("\n".join([HEADING, *rows]))
    return root


def selection(root: Path, **changes: object) -> DataSpec:
    given = {
        "dataset": "folder",
        "root": str(root),
        "options": {"boxes": "parts.csv"},
        "views": ("whole", "head", "feet"),
        "image_size": 4,
        "val_per_class": 0,
        "test_per_class": 1,
    }
    return DataSpec.model_validate(given | changes)


def test_its_columns_are_views(animals: Path, tmp_path: Path) -> None:
    places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    data = selection(animals)
    found = resolve(data, 0, **places)  # type: ignore[arg-type]
    images = load(found, data, **places).images  # type: ignore[arg-type]
    assert images.shape == (8, 12, 4, 3)
    _, head, feet = np.split(images.astype(int), 3, axis=1)
    shades = [10 * int(Path(image.key).stem) for image in found.images]
    assert head.mean(axis=(1, 2, 3)).tolist() == shades
    assert feet.mean(axis=(1, 2, 3)).tolist() == [shade + 100 for shade in shades]


def test_the_fingerprint_is_that_of_its_boxes_not_of_its_name(
    animals: Path, tmp_path: Path
) -> None:
    def fingerprint(name: str, **changes: object) -> str:
        data = selection(animals, options={"boxes": name}, **changes)
        return resolve(data, 0, data_root=None, cache_dir=tmp_path / "cache").fingerprint

    first = fingerprint("parts.csv")
    content = (animals / "parts.csv").read_text()
    (animals / "same.csv").write_text(content)
    (animals / "other.csv").write_text(content.replace("cat/0.png,0 0 8 4", "cat/0.png,0 0 8 3"))
    assert fingerprint("same.csv") == first
    assert fingerprint("other.csv") != first
    assert fingerprint("same.csv", views=()) == fingerprint("other.csv", views=())


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        (["cat/9.png,0 0 1 1,0 0 1 1"], 2, "there is no image 'cat/9.png'; images have names"),
        (["cat/0.png,0 0 1 1,0 0 1 1"] * 2, 3, "'cat/0.png' is listed twice"),
        (["cat/0.png,0 0 1 1,0 0"], 2, "'0 0' is no box"),
        (["cat/0.png,0 0 1 1"], 2, "the line has not the columns path and boxes"),
        (["cat/0.png,0 0 1 1,0 0 1 1,8"], 2, "the line has not the columns path and boxes"),
    ],
)
def test_errors_have_file_and_line(
    rows: list[str], line: int, message: str, animals: Path, tmp_path: Path
) -> None:
    (animals / "parts.csv").write_text("\n".join([HEADING, *rows]))
    with pytest.raises(DataError) as caught:
        resolve(selection(animals), 0, data_root=None, cache_dir=tmp_path)
    assert caught.value.message.startswith(message)
    assert caught.value.place == f"{animals / 'parts.csv'}:{line}"


def test_images_without_boxes_are_an_error_only_where_they_are_shown(
    animals: Path, tmp_path: Path
) -> None:
    (animals / "parts.csv").write_text(f"{HEADING}\ncat/0.png,0 0 1 1,\n")
    with pytest.raises(DataError, match="15 boxes are not given: "):
        resolve(selection(animals), 0, data_root=None, cache_dir=tmp_path)
    resolve(selection(animals, views=()), 0, data_root=None, cache_dir=tmp_path)


def test_a_file_that_is_not_there_or_lies_elsewhere(animals: Path, tmp_path: Path) -> None:
    def error(name: str) -> DataError:
        data = selection(animals, options={"boxes": name})
        with pytest.raises(DataError) as caught:
            resolve(data, 0, data_root=None, cache_dir=tmp_path)
        return caught.value

    missing = error("heads.csv")
    assert isinstance(missing, MissingDataError)
    assert missing.message == f"the file of boxes 'heads.csv' is not in {animals}"
    for name in ("../parts.csv", str(animals / "parts.csv")):
        assert "leads out of the data set's folder" in error(name).message
