"""`bench data check`: what it counts, finds and advises."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from bench.data.check import check
from bench.errors import DataError


def write(path, text):
    seed = hashlib.sha256(text.encode()).digest()
    file = io.BytesIO()
    Pillow.fromarray(np.frombuffer(seed * 6, np.uint8).reshape(8, 8, 3)).save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


@pytest.fixture
def photos(tmp_path):
    for label, count in (("cat", 14), ("dog", 12)):
        for number in range(count):
            write(tmp_path / "photos" / "train" / label / f"{number}.png", f"{label}{number}")
        write(tmp_path / "photos" / "test" / label / "t.png", f"{label} test")
    return tmp_path / "photos"


def run(root, tmp_path):
    return check("folder", root, data_root=None, cache_dir=tmp_path / "cache")


def test_a_good_folder_has_counts_and_no_problems(photos, tmp_path):
    report = run(photos, tmp_path)
    assert report.classes == ("cat", "dog")
    assert not report.problems
    train = report.splits["train"]
    assert (train.images, train.fewest, train.median, train.most) == (26, 12, 13, 14)
    assert report.splits["test"].images == 2
    assert set(report.duplicates.values()) == {0}
    text = "\n".join(report.lines())
    assert "train: 26 images, per class 12 to 14, median 13" in text
    assert (
        "at most 2 for all classes with 10 for validation ('dog' has 12 that can be used)" in text
    )
    assert text.endswith("no problems")


def test_unreadable_images_are_a_problem_with_advice(photos, tmp_path):
    (photos / "train/cat/3.png").write_bytes(b"no image")
    report = run(photos, tmp_path)
    assert report.unreadable == ("train/cat/3.png",)
    (problem,) = report.problems
    assert "train/cat/3.png" in problem
    assert "on_corrupt: skip" in problem


def test_duplicates_are_told_apart(photos, tmp_path):
    write(photos / "train/cat/again.png", "cat1")
    write(photos / "train/cat/leak.png", "cat test")
    write(photos / "train/dog/which.png", "cat2")
    report = run(photos, tmp_path)
    assert report.duplicates == {"within_class": 1, "across_splits": 1, "across_classes": 1}
    text = "\n".join(report.lines())
    assert "train/cat/1.png = train/cat/again.png" in text
    assert "kept in test" in text
    # of the 13 training images of dog one has the bytes of a cat's, which comes first
    assert "at most 2 for all classes with 10 for validation ('dog' has 12 that can" in text


def test_a_class_without_test_images_is_a_problem(photos, tmp_path):
    (photos / "test/dog/t.png").unlink()
    assert "1 classes have no test images: dog" in run(photos, tmp_path).problems[0]


def test_a_set_without_test_split_is_told_what_to_set(tmp_path):
    report = check("digits", None, data_root=None, cache_dir=tmp_path)
    assert any("test_per_class" in remark for remark in report.remarks)
    assert not report.problems


def test_missing_data_are_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path)
