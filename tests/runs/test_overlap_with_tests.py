"""Test images that published weights have seen: ImageNet's are recognised by their file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data.catalog import Loaded
from bench.runs.build import Context, Data
from bench.runs.provenance import overlap_with_tests
from bench.specs.data import AllClasses, DataSpec
from bench.specs.run import FromFile, FromRun, FromTimm, Init, ModelSpec, RunSpec, Scratch
from tests.data.paper_trees import image, stanford_dogs

PARTIAL = (("partial", True),)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stanford Dogs, with a test image for each class; and photographs with names of their own."""
    folder = tmp_path_factory.mktemp("data")
    stanford_dogs(folder / "stanford-dogs")
    for name in (
        "n02085620_7",
        "n00000001_7",
        "n02085620",
        "n02085620_7_crop",
        "photo_n02085620_7",
    ):
        image(folder / f"folder/train/dog/{name}_.jpg")
        image(folder / f"folder/test/dog/{name}.jpg")
    for part in ("train", "test"):
        image(folder / f"folder/{part}/cat/{part}.jpg")
    return folder


def spec(root: Path, dataset: str, init: Init, model: str = "resnet18") -> RunSpec:
    data = DataSpec(
        dataset=dataset,
        root=f"{root}/{dataset}",
        classes=AllClasses(),
        options=PARTIAL if dataset == "stanford-dogs" else (),
        images_per_class=None,
        val_per_class=0,
        test_from="given",
    )
    pattern = "R(1-18)" if init.kind == "scratch" else "T(1-17)R(18)"
    return RunSpec(data=data, model=ModelSpec(name=model), pattern=pattern, init=init)


def overlap(root: Path, run: RunSpec) -> int:
    context = Context(results=f"{root}-results", data_root=str(root), device="cpu")
    return overlap_with_tests(run, Data(_NOTHING, context.resolve_data(run)), context)


_NOTHING = Loaded.__new__(Loaded)  # pixels are not looked at


def test_dogs_are_in_imagenet(root: Path) -> None:
    """Used to be 0: only the images of runs were counted."""
    dogs = 118
    for tag in ("tv_in1k", "a1_in1k", None, "fb_swsl_ig1b_ft_in1k"):
        assert overlap(root, spec(root, "stanford-dogs", FromTimm(tag=tag))) == dogs
    packaged = FromFile(path="w.pth", sha256="0" * 64, package="efficientnet-lite0")
    assert overlap(root, spec(root, "stanford-dogs", packaged)) == dogs
    tuned = spec(root, "stanford-dogs", FromTimm(tag="tv_in1k"))
    assert overlap(root, spec(root, "stanford-dogs", FromRun(run=tuned))) == dogs  # of an ancestor


def test_other_weights_are_not_counted(root: Path) -> None:
    assert overlap(root, spec(root, "stanford-dogs", Scratch())) == 0
    assert overlap(root, spec(root, "stanford-dogs", FromFile(path="w.pth", sha256="0" * 64))) == 0
    assert overlap(root, spec(root, "stanford-dogs", FromTimm(tag="openai"))) == 0


@pytest.mark.parametrize(("tag", "seen"), [("tv_in1k", 1), ("augreg_in21k", 2), ("lvd142m", 2)])
def test_only_names_of_imagenet_count(root: Path, tag: str, seen: int) -> None:
    """A synset beyond the 1,000 is in the whole of ImageNet alone."""
    assert overlap(root, spec(root, "folder", FromTimm(tag=tag))) == seen
