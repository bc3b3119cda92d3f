"""`grids/recipes.yaml`: each arm differs from plain fine-tuning in what its line names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.grid.expand import load_grid
from bench.results.conditions import condition_id, settings
from bench.specs.run import RunSpec

PATH = Path(__file__).parents[2] / "grids" / "recipes.yaml"
WRITTEN = yaml.safe_load(PATH.read_text())["experiments"]


def _differing(run: RunSpec, baseline: RunSpec) -> set[str]:
    """Settings of the runs themselves; a chain starts from another source."""
    mine, usual = settings(run), settings(baseline)
    both = mine.keys() & usual.keys()
    own = {name for name in both if not name.startswith("source.")}
    return {name for name in own if mine[name] != usual[name]}


@pytest.mark.parametrize("name", WRITTEN)
def test_an_arm_differs_from_its_baseline_in_what_it_names(name: str) -> None:
    (experiment,) = [e for e in load_grid(PATH).experiments if e.name == name]
    found: list[set[str]] = []
    for run, baseline in zip(experiment.runs, experiment.baselines, strict=True):
        assert run.seeds == baseline.seeds
        if run != baseline and _differing(run, baseline) not in found:
            found.append(_differing(run, baseline))
    named = [set(_flat(arm)) for arm in WRITTEN[name]["include"]]
    assert all(any(one and one <= arm for one in found) for arm in named)
    assert all(any(one <= arm for arm in named) for one in found)
    assert len({condition_id(run) for run in experiment.runs}) == len(named) + 1


def _flat(arm: dict[str, Any]) -> list[str]:
    return [key for key, value in arm.items() if value != "none" or key != "source"]


def test_the_miniature_has_the_same_arms_once() -> None:
    whole, small = load_grid(PATH), load_grid(PATH, overrides=["preset=miniature"])
    for large, little in zip(whole.experiments, small.experiments, strict=True):
        assert len(large.runs) == 3 * len(little.runs)
        arms = [
            {frozenset(_differing(r, b)) for r, b in zip(e.runs, e.baselines, strict=True)}
            for e in (large, little)
        ]
        assert arms[0] == arms[1]


def test_photographs_have_the_same_arms_on_each_of_ten_draws() -> None:
    whole = {e.name: e for e in load_grid(PATH).experiments}
    found = load_grid(PATH, overrides=["preset=photographs"]).experiments
    assert [e.name for e in found] == ["images", "steps", "layers"]
    for experiment in found:
        arms = [
            {frozenset(_differing(r, b)) for r, b in zip(e.runs, e.baselines, strict=True)}
            for e in (whole[experiment.name], experiment)
        ]
        assert arms[0] == arms[1]
        assert len(experiment.runs) * 3 == len(whole[experiment.name].runs) * 10
        assert all(run.data.dataset == "tiny-imagenet" for run in experiment.runs)
