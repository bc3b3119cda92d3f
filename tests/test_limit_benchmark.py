"""`benchmarks.limit`: what is counted as arithmetic, the page, and the grid by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.grid.expand import load_grid
from bench.planning.workspace import open_session
from bench.specs.planned import PlannedRun
from benchmarks import limit
from benchmarks.limit import CASES, Case, Measured, Part, Steps, limit_s, part_of, rows, works

GRID = """\
defaults:
  target: {dataset: digits, classes: {recipe: categories, side: target, target_n: 4},
           images_per_class: 12, val_per_class: 5, test_per_class: 10}
  model: narrow8_32
  train: {epochs: 6, batch_size: 16, evaluate_every: 2, AUGMENT}
sources: {other: {classes: {side: source, n: 5}}}
experiments:
  all: {axes: {pattern: [tune, freeze, F(1-5)T(6-7)R(8)]}, set: {source: other}}
"""
STEPS = Steps(train=3.0, forward=1.0, kept_train=0.1, behind=0.01)


def _runs(folder: Path, augment: str) -> dict[str, PlannedRun]:
    path = folder / "grid.yaml"
    path.write_text(GRID.replace("AUGMENT", augment))
    session = open_session(path, results=folder / "results")
    return {part_of(run): run for run in session.wanted}


def test_the_arithmetic_is_each_step_and_each_evaluation(tmp_path: Path) -> None:
    found = _runs(tmp_path, "augment: crop_flip")
    assert list(found) == ["sources", "T(1-7)R(8)", "F(1-7)R(8)", "F(1-5)T(6-7)R(8)"]
    seen = 4 * 10 + 4 * 5 * 3  # the test images once, those for validation three times
    expected = 6 * 3 * STEPS.train + seen * STEPS.forward / 64
    for name in list(found)[1:]:
        assert limit_s(found[name], STEPS) == pytest.approx(expected)
        assert limit_s(found[name], STEPS, kept=True) == limit_s(found[name], STEPS)


def test_frozen_layers_see_images_that_do_not_vary_once(tmp_path: Path) -> None:
    found = _runs(tmp_path, "augment: none")
    once, again = 4 * 10 + 4 * 12 + 4 * 5, 4 * 5 * 3
    expected = 6 * 3 * STEPS.kept_train + (once * STEPS.forward + again * STEPS.behind) / 64
    assert limit_s(found["F(1-7)R(8)"], STEPS, kept=True) == pytest.approx(expected)
    tuned = found["T(1-7)R(8)"]
    assert limit_s(tuned, STEPS, kept=True) == limit_s(tuned, STEPS)


def test_a_part_that_was_not_measured_whole_is_named_so_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "KEPT", tmp_path / "limits.json")
    part = Part(runs=2, images=100, took_s=10.0, limit_s=8.5, kept_s=8.5, forecast_s=9.0)
    case = CASES[0]
    limit.keep(Case(case.name, case.grid, overrides=("seed=0",)), Measured({"sources": part}))
    assert json.loads(limit.KEPT.read_text())[case.name]["parts"]["sources"] == asdict(part)
    text = limit.page()
    assert f"| {case.name} | all | 2 | 100 | 10.0 | 8.5 | 0.85 | 0.8 |  | 9.0 |" in text
    assert f"* {case.name}: {case.note}; `--set seed=0`" in text


def test_what_kept_activations_leave_has_a_share_of_its_own() -> None:
    parts = {"a": Part(1, 10, 4.0, 3.0, 3.0), "b": Part(1, 10, 1.0, 5.0, 0.5)}
    whole, one, other = rows("grid", Measured(parts))
    assert whole == "| grid | all | 2 | 20 | 5.0 | 8.0 | 1.60 |  | 0.70 | 0.0 |"
    assert one.endswith("| 0.75 |  |  | 0.0 |")
    assert other.endswith("| 5.00 |  | 0.50 | 0.0 |")


def test_the_grid_by_hand_has_126_fine_tunings_of_seven_kinds() -> None:
    (case,) = (case for case in CASES if case.name == "by hand")
    (experiment,) = load_grid(case.grid).experiments
    assert len(experiment.runs) == len(set(experiment.runs)) == 126
    assert len({(run.pattern, run.parent) for run in experiment.runs}) == 7


def test_a_step_behind_frozen_layers_trains_what_is_behind_them() -> None:
    for kept in (False, True):
        train, forward = works("narrow8_32", 32, 5, 8, "float32", kept)
        train(), forward()
