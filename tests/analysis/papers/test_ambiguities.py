"""The register of ambiguities names options that there are, and what the papers' grids choose."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from analysis.papers.ambiguities import AMBIGUITIES
from bench.data.colours import CAFFE_STD
from bench.grid.expand import load_grid
from bench.grid.yaml import read_yaml
from bench.methods import METHODS
from bench.specs.run import RunSpec, TrainSpec

FOLDER = Path(__file__).parents[3] / "grids" / "papers"
REGISTER = {ambiguity.id: ambiguity for ambiguity in AMBIGUITIES}


@cache
def runs(name: str) -> tuple[RunSpec, ...]:
    return tuple(load_grid(FOLDER / f"{name}.yaml").runs)


def options(run: RunSpec) -> dict[str, object]:
    return dict(run.method.options)


@pytest.mark.parametrize("ambiguity", AMBIGUITIES, ids=lambda a: a.id)
def test_options_of_methods_and_training_exist(ambiguity: object) -> None:
    text = ambiguity.option  # type: ignore[attr-defined]
    known = {option for m in METHODS.values() for option in m.load(m.options).model_fields}
    for inside in re.findall(r"method: \{([^}]*)\}", text):
        assert set(re.findall(r"(\w+):", inside)) <= known
    assert set(re.findall(r"train\.(\w+)", text)) <= set(TrainSpec.model_fields)


def test_faces_count_epochs_from_1_and_others_from_0() -> None:
    """SFT-A1: with five epochs and E = 5, base 0 would end at α = 0.8."""
    soft = [run for run in runs("soft-fine-tuning") if run.method.name == "soft"]
    bases = {(run.data.dataset == "oulu-casia", options(run)["epoch_base"]) for run in soft}
    assert bases == {(True, 1), (False, 0)}
    assert "faces 1" in REGISTER["SFT-A1"].default


def test_soft_fine_tuning_is_as_long_as_the_register_says() -> None:
    """SFT-A4: the epochs and the ramps of §4.1, and the last epoch kept."""
    found = {
        (run.train.epochs, options(run)["ramp_epochs"], run.train.select)
        for run in runs("soft-fine-tuning")
        if run.method.name == "soft" and options(run)["schedule"] != "zero"
    }
    assert found == {(100, 60.0, "last"), (25, 20.0, "last"), (5, 5.0, "last")}
    assert "100 epochs with α = 1 from 60 on, 25 from 20, 5 from 5" in REGISTER["SFT-A4"].default


def test_random_partners_are_an_option_of_the_method() -> None:
    """GE-A7: as many as the union of the same round, so no number stands in the grid."""
    random = [r for r in runs("selective-joint") if options(r).get("partners") == "random"]
    assert {run.data.dataset for run in random} == {"stanford-dogs", "flowers-102"}
    assert all(borrowed.total_images is None for run in random for borrowed in run.borrow)
    assert "partners: nearest | random" in REGISTER["GE-A7"].option


def test_two_sources_are_one_pool_and_no_schedule_begins_anew() -> None:
    """GE-A8 and GE-A9."""
    found = runs("selective-joint")
    assert {run.borrow_pooled for run in found if len(run.borrow) > 1} == {True}
    assert {run.train.restart_every for run in found} == {None}
    assert "pool" in REGISTER["GE-A8"].option
    assert "restart_every" in REGISTER["GE-A9"].option


def test_caffenet_takes_images_on_caffes_scale() -> None:
    """LI-A7: x − mean without division."""
    assert CAFFE_STD == (1 / 255,) * 3
    assert "deviation 1/255" in REGISTER["LI-A7"].default


def test_the_grid_of_best_practices_caps_cub() -> None:
    """CHU-A3: the default of `on_short` is an error; the grid writes cap."""
    cub = {r.data.on_short for r in runs("best-practices") if r.data.dataset == "cub-200-2011"}
    assert cub == {"cap"}
    assert REGISTER["CHU-A3"].default.startswith("cap in the paper's grid")
    presets = read_yaml(FOLDER / "best-practices.yaml").value["presets"]
    assert "cub-pooled" in REGISTER["CHU-A3"].option
    assert "cub-pooled" in presets
