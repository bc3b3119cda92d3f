"""Specs and their identity: what is the same run, and what is not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from bench.methods.retrieval.neighbours import SelectionOptions
from bench.results.records import describe_run, slug, source_label
from bench.specs.data import ADDED, DataSpec, NearFarClasses
from bench.specs.run import (
    FromFile,
    FromRun,
    MethodSpec,
    ModelSpec,
    RunSpec,
    Seeds,
    TrainSpec,
    run_id,
)

MODEL = ModelSpec(name="narrow8_32")


def near_far(side: str, **more: Any) -> DataSpec:
    classes = NearFarClasses(root="dog.n.01", side=side)  # type: ignore[arg-type]
    return DataSpec(dataset="wordnet-shapes", classes=classes, **more)


SOURCE = RunSpec(data=near_far("near"), model=MODEL, pattern="R(1-8)")
CHILD = RunSpec(
    data=near_far("target"), model=MODEL, pattern="T(1-7)R(8)", init=FromRun(run=SOURCE)
)


def identity(spec: RunSpec, images: str = "images") -> str:
    return run_id(spec, lambda run: images)


def changed(**update: Any) -> RunSpec:
    return RunSpec.model_validate(CHILD.model_dump() | update)


def test_defaults_written_out_are_the_same_run() -> None:
    explicit = changed(train=TrainSpec().model_dump() | {"lr": 0.01, "momentum": 0.9})
    assert identity(explicit) == identity(CHILD)
    assert len(identity(CHILD)) == 32


def test_one_and_one_point_zero_are_the_same_rate() -> None:
    one, same = TrainSpec.model_validate({"lr": 1}), TrainSpec.model_validate({"lr": 1.0})
    assert identity(changed(train=one)) == identity(changed(train=same))


def test_a_pattern_is_the_same_however_it_is_cut() -> None:
    assert identity(changed(pattern="T(1-3)T(4-7)R(8)")) == identity(CHILD)


@pytest.mark.parametrize(
    "update",
    [
        {"pattern": "F(1-7)R(8)"},
        {"train": TrainSpec(lr=0.02)},
        {"seeds": Seeds(order=1)},
        {"model": ModelSpec(name="narrow8_32", drop_rate=0.1)},
        {"method": MethodSpec(name="plain", options=(("x", 1),))},
        {"data": near_far("target", images_per_class=5)},
        {"init": FromRun(run=SOURCE.model_copy(update={"train": TrainSpec(epochs=11)}))},
        {"init": FromFile(path="w.pth", sha256="0" * 64)},
    ],
)
def test_what_changes_the_result_changes_the_id(update: dict[str, Any]) -> None:
    assert identity(changed(**update)) != identity(CHILD)


def test_other_images_are_another_run_for_child_and_parent() -> None:
    assert identity(CHILD, "others") != identity(CHILD)


def test_where_files_lie_is_no_part_of_it() -> None:
    moved = changed(data=near_far("target", root="/elsewhere"))
    assert identity(moved) == identity(CHILD)
    first = changed(init=FromFile(path="a.pth", sha256="0" * 64))
    assert identity(first) == identity(changed(init=FromFile(path="b.pth", sha256="0" * 64)))


def test_the_id_does_not_depend_on_the_hash_seed() -> None:
    script = (
        "from bench.specs.run import *\n"
        "data = DataSpec(dataset='digits')\n"
        "spec = RunSpec(data=data, model=ModelSpec(name='narrow8_32'), pattern='R(1-8)')\n"
        "print(run_id(spec, lambda run: 'images'))"
    )
    ids = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("train", {"lr": "0.1"}),
        ("train", {"lr": float("nan")}),
        ("train", {"lr": float("inf")}),
        ("train", {"lr": -1.0}),
        ("train", {"epochs": 0}),
        ("train", {"epochs": 1.5}),
        ("train", {"epochs": True}),
        ("train", {"typo": 1}),
        ("pattern", "T(1-7)"),
    ],
)
def test_wrong_values_are_refused(section: str, value: Any) -> None:
    scratch = RunSpec(data=near_far("target"), model=MODEL, pattern="R(1-8)")
    with pytest.raises(ValidationError):
        RunSpec.model_validate(scratch.model_dump() | {section: value})


def test_labels_a_person_understands() -> None:
    assert source_label(CHILD) == "near"
    assert source_label(SOURCE) == "none"
    again = RunSpec(data=SOURCE.data, model=MODEL, pattern="T(1-8)", init=FromRun(run=SOURCE))
    assert source_label(again) == "self"
    assert slug(CHILD) == "wordnet-shapes-dog.n.01-from-near-t1-7r8-lr0.01-s0"
    assert describe_run(CHILD)["source_epochs"] == 10


def test_a_spec_survives_json() -> None:
    assert RunSpec.model_validate_json(CHILD.model_dump_json()) == CHILD
    assert identity(RunSpec.model_validate_json(CHILD.model_dump_json())) == identity(CHILD)


def test_fields_that_came_later_carry_the_mark() -> None:
    """Each at its default is no part of an id; `Annotated[X, ADDED] | None` would lose the mark."""
    marked = {
        f"{kind.__name__}.{name}"
        for kind in (DataSpec, TrainSpec, SelectionOptions)
        for name, field in kind.model_fields.items()
        if ADDED in field.metadata
    }
    assert marked == {
        *(f"DataSpec.{name}" for name in ("options", "views", "train_where", "resize")),
        *(f"DataSpec.{name}" for name in ("val_from", "val_share", "tested", "stored_as")),
        *(f"TrainSpec.{name}" for name in ("tuned", "layer_lr_decay", "l2_sp", "refit")),
        *(f"TrainSpec.{name}" for name in ("step_iterations", "restart_every")),
        *(f"TrainSpec.scale_{name}" for name in ("least_area", "most_aspect", "antialias")),
        *(f"TrainSpec.policy{name}" for name in ("", "_ops", "_magnitude")),
        *(f"TrainSpec.{name}" for name in ("random_erasing", "mixup", "cutmix")),
        *(f"TrainSpec.{name}" for name in ("clip_norm", "drop_path", "ema")),
        *(f"TrainSpec.{name}" for name in ("class_weights", "sampling", "unfreeze_every")),
        *(f"TrainSpec.lora_{name}" for name in ("rank", "alpha")),
        *(
            f"TrainSpec.{name}"
            for name in ("copied_statistics", "head", "deterministic", "cached_views")
        ),
        *(f"TrainSpec.{name}" for name in ("batch_norm_parts", "prefix_tolerance")),
        *(f"SelectionOptions.{name}" for name in ("oversample_hard", "responses_mib", "partners")),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"scale_antialias": True},
            "scale_antialias is True, but augment is crop_flip: set augment: scale_flip, or leave "
            "scale_antialias out",
        ),
        (
            {"policy": "trivialaugment", "policy_ops": 3},
            "policy_ops is 3, but policy is trivialaugment: set policy: randaugment, or leave "
            "policy_ops out",
        ),
        (
            {"lora_rank": 8},
            "lora_rank is 8, but tuned is all: set tuned: lora, or leave lora_rank out",
        ),
        (
            {"tuned": "lora", "l2_sp": 0.1},
            "l2_sp is 0.1, but tuned is lora: copied weights do not move, and none of them can be "
            "drawn back or join later; leave one of the two out",
        ),
        (
            {"batch_norm_parts": 5, "batch_size": 9},
            "batch_norm_parts is 5, but batch_size is 9: each part needs two images or more, so "
            "set a larger batch_size, or fewer parts",
        ),
    ],
)
def test_options_of_an_augmentation_that_is_off_are_errors(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec(**given)
    assert message in str(caught.value)
