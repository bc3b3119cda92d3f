"""What a plan is told of the images of its runs."""

from pathlib import Path

from bench.data.catalog import open_dataset, resolve
from bench.planning.workspace import FactFinder
from bench.specs.data import DataSpec, RandomClasses
from bench.specs.run import ModelSpec, RunSpec


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
