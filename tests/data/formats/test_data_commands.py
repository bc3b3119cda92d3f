"""`bench data list` and `bench data check`, with Stanford Dogs cut from ImageNet as the case."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFilter
from scipy.io import savemat
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError, DataError
from bench.data.datasets import DATASETS
from bench.data.formats.registry import FORMATS
from bench.data.inspection.compare import Side, compare
from bench.data.listing import details, listed

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")


def scene(seed):
    """A smooth picture, so that another compression leaves it what it was."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    big = Pillow.fromarray(pixels).resize((96, 96), Pillow.Resampling.BICUBIC)
    return big.filter(ImageFilter.GaussianBlur(1))


def jpeg(picture, quality=95):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Dogs with 2 x 6 images: of the test images one is in ImageNet, one anew, one mirrored."""
    root = tmp_path_factory.mktemp("trees")
    dogs, imagenet = root / "dogs", root / "imagenet"
    lists = {"train": [], "test": []}
    for b, breed in enumerate(BREEDS):
        wnid = breed.partition("-")[0]
        for i in range(6):
            name, picture = f"{wnid}_{i}", scene(10 * b + i)
            put(dogs / "Images" / breed / f"{name}.jpg", jpeg(picture))
            lists["train" if i < 3 else "test"].append(f"{breed}/{name}.jpg")
            if b == 0 and i in (0, 3):
                put(imagenet / f"train/{wnid}/{name}.JPEG", jpeg(picture))
            if b == 0 and i == 4:
                put(imagenet / f"train/{wnid}/{name}.JPEG", jpeg(picture, 70))
            if b == 0 and i == 5:
                mirrored = picture.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
                put(imagenet / f"train/{wnid}/{name}.JPEG", jpeg(mirrored, 90))
        for i in range(2):
            put(imagenet / f"val/{wnid}/{wnid}_v{i}.JPEG", jpeg(scene(100 + 10 * b + i)))
        put(imagenet / f"train/{wnid}/{wnid}_own.JPEG", jpeg(scene(200 + b)))
    for name, files in lists.items():
        cells = np.empty((len(files), 1), dtype=object)
        cells[:, 0] = files
        savemat(dogs / f"{name}_list.mat", {"file_list": cells})
    return dogs, imagenet


def bench(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, BenchError):
        raise result.exception
    return result.exit_code, result.output


def test_every_data_set_is_listed_with_everything_said():
    assert {one.name for one in listed()} == set(DATASETS)
    for one in listed():
        said = (one.title, one.classes, one.images, one.splits, one.used_for, one.where)
        assert all((*said, one.licence, one.expected))
        assert details(one.name)[0] == f"{one.name}: {one.title}"
    with pytest.raises(DataError, match="cub-200-2011"):
        details("cub-200")


def test_list_prints_names_and_places():
    code, text = bench("data", "list")
    assert code == 0
    for name in DATASETS:
        assert name in text
    code, text = bench("data", "list", "fgvc-aircraft")
    assert FORMATS["fgvc-aircraft"].where in text
    assert "option level: what a class is (variant, family, manufacturer; default variant)" in text


def test_check_reads_a_paper_s_layout(trees, tmp_path):
    dogs, _ = trees
    usual = ("--results", tmp_path)
    with pytest.raises(DataError, match=r"2 classes \(expected 120\)"):
        bench("data", "check", "stanford-dogs", dogs, *usual)
    code, text = bench("data", "check", "stanford-dogs", dogs, *usual, "--option", "partial=true")
    assert "2 classes, WordNet ids" in text
    assert "train: 6 images, per class 3 to 3" in text
    assert "test: 6 images" in text
    with pytest.raises(BenchError, match="is not KEY=VALUE"):
        bench("data", "check", "stanford-dogs", dogs, *usual, "--option", "partial")
    with pytest.raises(BenchError, match="--against OTHER PATH"):
        bench("data", "check", "digits", *usual, "--pairs", "p.csv")
    assert code in (0, 1)


def test_stanford_dogs_against_imagenet(trees, tmp_path):
    dogs, imagenet = trees
    usual = ("--results", tmp_path, "--option", "partial=true", "--against-option", "partial=true")
    pairs = tmp_path / "shared.csv"
    arguments = ("stanford-dogs", dogs, "--against", "imagenet", imagenet, "--pairs", pairs)
    code, text = bench("data", "check", *arguments, *usual)
    assert code == 1
    assert "share 4 of the 12 images of stanford-dogs: 2 exact, 1 similar, 1 mirrored" in text
    assert "3 of 6 test images are train images of imagenet" in text
    assert "problem: a network trained on imagenet has seen 3 of 6 test images" in text
    rows = list(csv.DictReader(io.StringIO(pairs.read_text())))
    assert [Path(row["image"]).stem[-1] for row in rows] == ["0", "3", "4", "5"]
    assert [row["kind"] for row in rows] == ["exact", "exact", "similar", "mirrored"]
    for row in rows:
        assert Path(row["image"]).stem == Path(row["other_image"]).stem
        assert (row["other_class"], row["other_split"]) == (row["class"], "train")


def test_bytes_alone_see_the_exact_copies_only(trees, tmp_path):
    dogs, imagenet = trees
    given = (("partial", True),)
    sides = [Side("stanford-dogs", str(dogs), given), Side("imagenet", str(imagenet), given)]
    found = compare(*sides, data_root=None, cache_dir=tmp_path, pictures=False)
    assert [match.kind for *_, match in found.pairs] == ["exact", "exact"]
    assert not list(tmp_path.glob("*-32"))
    back = compare(*reversed(sides), data_root=None, cache_dir=tmp_path, pictures=False)
    assert {(b.key, a.key) for a, b, _ in back.pairs} == {(a.key, b.key) for a, b, _ in found.pairs}


def test_images_that_cannot_be_decoded_are_compared_by_their_bytes(trees, tmp_path):
    dogs, imagenet = trees
    given = (("partial", True),)
    broken = tmp_path / "dogs"
    for path in dogs.rglob("*"):
        if path.is_file():
            put(broken / path.relative_to(dogs), path.read_bytes())
    (broken / "Images" / BREEDS[1] / "n02085782_5.jpg").write_bytes(b"no image")
    found = compare(
        Side("stanford-dogs", str(broken), given),
        Side("imagenet", str(imagenet), given),
        data_root=None,
        cache_dir=tmp_path / "cache",
    )
    assert found.unreadable == 1
    assert len(found.pairs) == 4


def test_two_folders_are_called_by_their_paths(tmp_path):
    for side, seeds in (("one", (1, 2, 3)), ("two", (1, 2, 9))):
        for label in ("cat", "dog"):
            for seed in seeds:
                pixels = jpeg(scene(seed + 50 * (label == "dog")))
                put(tmp_path / side / label / f"{seed}.jpg", pixels)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    result = CliRunner().invoke(
        app,
        ["data", "check", "folder", one, "--against", "folder", two, "--results", str(tmp_path)],
    )
    assert f"{one} and {two} share 4 of the 6 images of {one}" in result.stdout
    assert "4 of 6 train images are train images of " + two in result.stdout
    told = result.stderr.splitlines()
    assert told[:2] == [f"reading {one} …", f"reading {two} …"]
    assert f"decoding 6 images of {two} …" in told
