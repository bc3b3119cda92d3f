"""A grid refuses what `bench data check` calls a problem, unless it says what to do about it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import DataError
from bench.planning.images import check_images, foreseen
from bench.planning.workspace import Session, open_session

GRID = """\
defaults:
  target: {{dataset: folder, root: {root}, images_per_class: 3, val_per_class: 2, {more}}}
  model: narrow8_32
  pattern: scratch
  train: {{epochs: 1}}
experiments: {{a: {{axes: {{seed: [0, 1]}}}}}}
"""


def opened(folder: Path, more: str) -> Session:
    (folder / "g.yaml").write_text(GRID.format(root=folder / "images", more=more))
    return open_session(folder / "g.yaml", results=folder / "results")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(9):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{number}.png")
    return tmp_path / "images"


def test_images_without_a_problem_pass(images: Path) -> None:
    assert check_images(opened(images.parent, "on_short: error")) == []


@pytest.mark.parametrize(
    ("copy", "to", "words"),
    [
        ("train/cat/1.png", "train/dog/x.png", "1 image is in two classes"),
        ("train/cat/1.png", "test/cat/x.png", "1 image is in two splits"),
    ],
)
def test_images_in_two_places_are_refused(images: Path, copy: str, to: str, words: str) -> None:
    shutil.copy(images / copy, images / to)
    with pytest.raises(DataError, match=words) as caught:
        check_images(opened(images.parent, "on_short: cap"))
    assert caught.value.place == str(images)
    assert "--accept-problems" in (caught.value.hint or "")


def saved_again(images: Path) -> None:
    smooth = np.linspace(0, 255, 48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)
    Image.fromarray(smooth).save(images / "test" / "cat" / "again.png")
    Image.fromarray(smooth).save(images / "train" / "cat" / "again.jpg", quality=92)


def test_a_test_image_saved_again_in_train_is_refused(images: Path) -> None:
    saved_again(images)
    with pytest.raises(DataError) as caught:
        check_images(opened(images.parent, "on_short: cap"))
    assert caught.value.message.startswith(
        "1 problem of the images: 1 image of validation or test shows what a training image shows: "
        "test/cat/again.png = train/cat/again.jpg"
    )


def test_with_too_many_pairs_a_note_shows_that_they_are_not_compared(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_again(images)
    monkeypatch.setattr("bench.planning.images.MOST_PAIRS", 300)
    assert check_images(opened(images.parent, "on_short: cap")) == [
        f"no image of {images} was compared with others by what it shows (19 x 19 pairs); "
        f"bench data check folder {images} does that"
    ]


def test_the_command_of_the_hint_can_be_pasted(images: Path) -> None:
    folder = images.rename(images.parent / "birds #2")
    shutil.copy(folder / "train/cat/1.png", folder / "test/cat/x.png")
    text = GRID.format(root=folder, more="options: {merge_names: true, max_megapixels: 2}")
    text = text.replace(f"root: {folder}", f"root: '{folder}'")
    (images.parent / "g.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        check_images(open_session(images.parent / "g.yaml", results=images.parent / "results"))
    command = (caught.value.hint or "").partition(" shows them")[0]
    assert shlex.split(command)[:5] == ["bench", "data", "check", "folder", str(folder)]
    found = CliRunner().invoke(app, [*shlex.split(command)[1:], "--results", str(images.parent)])
    assert found.exit_code == 1
    assert "1 image is in two splits" in found.output


def test_what_the_grid_settles_is_no_problem(images: Path) -> None:
    (images / "train" / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\ntorn")
    check_images(opened(images.parent, "on_corrupt: skip"))
    with pytest.raises(DataError, match="1 image cannot be decoded"):
        check_images(opened(images.parent, "on_corrupt: error"))


def test_a_published_set_is_not_looked_over(tmp_path: Path) -> None:
    text = GRID.replace("dataset: folder, root: {root}, ", "dataset: digits, test_per_class: 2, ")
    (tmp_path / "g.yaml").write_text(text.format(more="on_short: cap"))
    check_images(open_session(tmp_path / "g.yaml", results=tmp_path / "results"))


def dry(images: Path, *more: str) -> str:
    command = ["grid", str(images.parent / "g.yaml"), "--dry-run", "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--results", str(images.parent / "results"), *more])
    assert done.exit_code == 0, done.output
    assert "2 runs" in done.output  # the plan is there whatever is wrong with images
    return " ".join(done.output.split())


def test_a_dry_run_shows_what_the_run_would_refuse(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(images / "train/cat/1.png", images / "train/dog/x.png")
    session = opened(images.parent, "on_short: cap")
    with pytest.raises(DataError) as caught:
        check_images(session)
    problem = caught.value.message.partition("of the images: ")[2]
    assert foreseen(session) == (
        [
            f"{images}: {problem}",
            f"bench grid refuses to run with this; bench data check folder {images} shows it; "
            "--accept-problems runs with the rules of the splits",
        ],
        [],
    )
    shown = dry(images)
    assert f"problem {images}: 1 image is in two classes" in shown
    assert "problem bench grid refuses to run with this" in shown
    assert "problem" not in dry(images, "--accept-problems").replace("--accept-problems", "")
    monkeypatch.setattr("bench.planning.images.MOST_IN_DRY_RUN", 36)
    monkeypatch.setattr("bench.data.inspection.check.check", None)  # would look at all images
    assert foreseen(session) == (
        [],
        [
            f"the 37 images of {images} are looked over when the grid is run, and not in a dry "
            f"run; bench data check folder {images} does it now"
        ],
    )


def test_a_dry_run_without_the_images_has_nothing_to_look_at(images: Path) -> None:
    opened(images.parent, "on_short: cap")
    shutil.rmtree(images)
    assert "problem" not in dry(images)
