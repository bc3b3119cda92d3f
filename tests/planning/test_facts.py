"""What a plan is told of the images of its runs."""

from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import DataError
from bench.data.catalog import open_dataset, resolve
from bench.planning.workspace import FactFinder
from bench.specs.data import DataSpec, RandomClasses
from bench.specs.run import ModelSpec, RunSpec, TrainSpec


def run_on(data: DataSpec) -> RunSpec:
    return RunSpec(data=data, model=ModelSpec(name="narrow8_32"), pattern="R(1-8)")


def test_facts_say_how_many_images_there_are_to_draw_from_and_of_which_data_set(
    tmp_path: Path,
) -> None:
    classes = RandomClasses(n=3)
    data = DataSpec(dataset="digits", classes=classes, images_per_class=5, test_per_class=20)
    facts = FactFinder(None, tmp_path)(run_on(data))
    digits = open_dataset("digits", data_root=None, cache_dir=tmp_path)
    in_all = sum(len(digits.images_of(name)) for name in facts.classes)
    assert facts.available_images == in_all - 3 * 20 - 3 * 10  # test and validation images
    assert facts.train_images == 15
    assert facts.dataset_fingerprint == digits.fingerprint
    every = data.model_copy(update={"images_per_class": None})
    assert len(resolve(every, 0, data_root=None, cache_dir=tmp_path).train) == in_all - 90


def test_missing_images_leave_both_empty(tmp_path: Path) -> None:
    finder = FactFinder(tmp_path, tmp_path / "cache", allow_missing=True)
    absent = run_on(DataSpec(dataset="caltech-256", images_per_class=5))
    facts = finder(absent)
    assert facts.missing
    assert (facts.available_images, facts.dataset_fingerprint) == (0, "")
    assert [text.split(":")[0] for text in finder.missing([absent])] == [
        "data set 'caltech-256' was not found"
    ]
    assert finder.missing([run_on(DataSpec(dataset="digits", test_per_class=5))]) == ()


def in_parts(tmp_path: Path, parts: int, images: int = 3, **train: Any) -> None:
    data = DataSpec(
        dataset="digits",
        classes=RandomClasses(n=3),
        images_per_class=images,
        val_per_class=2,
        test_per_class=5,
        on_short="error",
    )
    settings = {"batch_norm_parts": parts, "batch_size": 8, **train}
    run = run_on(data).model_copy(update={"train": TrainSpec.model_validate(settings)})
    FactFinder(None, tmp_path)(run)


def test_batches_too_small_for_the_parts_that_batch_norm_sees_are_found_before_anything_runs(
    tmp_path: Path,
) -> None:
    """9 images in batches of at most 8 are 5 and 4; before, a run said so, after its sources."""
    in_parts(tmp_path, 2)
    with pytest.raises(DataError) as caught:
        in_parts(tmp_path, 4)
    assert caught.value.message == (
        "train.batch_norm_parts is 4, and the smallest batch of 9 training images at "
        "train.batch_size 8 has 4: each part needs two images or more"
    )
    assert caught.value.hint == (
        "set it to at most 2, or choose another train.batch_size: an epoch is cut into even "
        "batches of at most as many images"
    )
    in_parts(tmp_path, 4, batch_size=9)
    with pytest.raises(DataError, match=r"of 9 training images \(with train.refit also of those"):
        in_parts(tmp_path, 4, batch_size=9, refit=True)  # then 15 in batches of 8 and 7
