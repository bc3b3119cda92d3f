"""`bench data check`: what it counts, finds and advises."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from bench.core.errors import DataError
from bench.data.files.decode import UnreadableError, decode
from bench.data.inspection.check import check


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
    assert list(report.unreadable) == ["train/cat/3.png"]
    (problem,) = map(str, report.problems)
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
    assert "1 class has no test images: dog" in str(run(photos, tmp_path).problems[0])


def test_a_set_without_test_split_is_told_what_to_set(tmp_path):
    report = check("digits", None, data_root=None, cache_dir=tmp_path)
    assert any("test_per_class" in remark for remark in report.remarks)
    assert not report.problems


def test_missing_data_are_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path)


def test_a_class_with_too_few_images_to_split_is_a_problem(tmp_path):
    for name in ("cat/0", *(f"dog/{n}" for n in range(5))):
        write(tmp_path / f"photos/{name}.png", name)
    report = run(tmp_path / "photos", tmp_path)
    (problem,) = map(str, report.problems)
    assert "1 class has fewer than 3 different" in problem
    assert "cat (1 image)" in problem
    assert "drop_class" in problem
    assert report.lines()[-1] == "  1 problem"


def test_unreadable_images_are_described_by_what_they_are():
    for data, says in ((b"<html>", "begins with b'<html>'"), (b"", "empty")):
        with pytest.raises(UnreadableError, match=says) as caught:
            decode(data, 8)
        assert "object at" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_folders_that_may_not_be_read_are_an_error(tmp_path):
    photos = Path(tempfile.mkdtemp(prefix="bench-"))  # tmp_path is root's own
    for name in ("cat/0", "dog/0"):
        write(photos / f"{name}.png", name)
    photos.chmod(0o755)
    code = (
        "import os, sys, pathlib; from bench.data.inspection.check import check\n"
        "from bench.core.errors import *\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: check('folder', sys.argv[1], data_root=None, cache_dir=pathlib.Path('/nowhere'))\n"
        "except DataError as error: print(error)"
    )
    try:
        for closed in ("cat", "."):
            (photos / closed).chmod(0o700)
            found = subprocess.run(
                [sys.executable, "-c", code, str(photos)],
                capture_output=True,
                text=True,
                check=True,
            )
            assert re.match(rf"{photos}.*read.*Permission denied", found.stdout), found.stdout
            assert "\n  let yourself read" in found.stdout
    finally:
        shutil.rmtree(photos)


def test_names_that_the_environment_cannot_read_are_not_called_wrong(tmp_path):
    for name in ("猫", "犬"):
        write(tmp_path / f"photos/{name}/0.png", name)
    found = subprocess.run(
        [sys.executable, "-m", "bench", "data", "check", "folder", str(tmp_path / "photos")],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert found.returncode == 2
    assert "'犬'" in found.stderr or "'猫'" in found.stderr
    assert "encoding is" in found.stderr
    assert "PYTHONUTF8=1" in found.stderr


@pytest.mark.parametrize("splits", [True, False])
def test_images_deeper_down_are_told(splits, photos, tmp_path):
    """A data set is opened once in a process, so the second look has a cache of its own."""
    root = photos if splits else photos / "train"
    top = root / "train" if splits else root
    (top / ".hidden").mkdir()
    assert not any("folders below" in remark for remark in run(root, tmp_path).remarks)
    write(top / "dog" / "more" / "d.png", "deep")
    text = "\n".join(run(root, tmp_path / "again").remarks)
    front = "train/" if splits else ""
    assert f"1 image lies in folders below 'dog' and counts as 'dog': {front}dog/more/d.png" in text
    assert "hidden" not in text


def test_a_folder_s_name_is_on_one_line(photos, tmp_path):
    odd = photos.rename(tmp_path / "bi\nrds\x1b[31m")
    heading = run(odd, tmp_path).lines()[0]
    assert heading == f"folder in {tmp_path}/bi\\nrds\\x1b[31m"
    with pytest.raises(DataError) as caught:
        run(odd / "gone", tmp_path)
    first, second = str(caught.value).split("\n")
    assert first.endswith("rds\x1b[31m/gone does not exist")
    assert second.startswith("  expected a folder with")
