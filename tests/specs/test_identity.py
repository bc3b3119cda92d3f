"""Ids written from frames, runs repeated with other seeds: those of the slow way, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import GridError
from bench.grid.expand import Grid, load_grid
from bench.grid.seed_repeats import Repeats
from bench.planning.plan import make_plan
from bench.specs.identity import RunIds
from bench.specs.planned import DataFacts
from bench.specs.run import RunSpec, run_id

GRIDS = sorted((Path(__file__).parents[2] / "grids").rglob("*.yaml"))


def load(path: Path, **options: Any) -> Grid:

    return load_grid(path, **options)


def fingerprint(spec: RunSpec) -> str:
    return f'{spec.data.images_per_class} "é" {spec.seeds.draw} {len(spec.borrow)}'


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_ids_and_specs_of_every_grid_are_those_of_the_slow_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = load(path)
    with monkeypatch.context() as patched:
        patched.setattr(Repeats, "get", lambda self, assignment: None)
        slow = load(path)
    assert fast.runs == slow.runs
    assert [e.baselines for e in fast.experiments] == [e.baselines for e in slow.experiments]
    ids = RunIds(fingerprint)
    for mine, theirs in zip(fast.runs, slow.runs, strict=True):
        assert ids(mine) == run_id(theirs, fingerprint)
        assert ids.known(mine) == ids(mine)


HEAD = """\
defaults:
  target: {dataset: digits, classes: {recipe: categories, side: target, target_n: 4}}
  model: narrow8_32
sources: {some: {classes: {side: source, n: 5}}}
experiments:
  a:
"""


@given(
    draws=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    source=st.sampled_from(["some", "self"]),
    way=st.sampled_from(["axes: {{seed: {s}, seeds.draw: {d}}}", "axes: {{seeds.order: {s}}}"]),
)
@settings(max_examples=25, deadline=None)
def test_seeds_of_repeated_cells(
    tmp_path_factory: pytest.TempPathFactory,
    draws: list[int],
    seeds: list[int],
    source: str,
    way: str,
) -> None:
    path = tmp_path_factory.mktemp("seeds") / "grid.yaml"
    text = f"    set: {{source: {source}, pattern: tune, seeds: {{init: 7}}}}\n    "
    path.write_text(HEAD + text + way.format(s=seeds, d=draws) + "\n")
    with pytest.MonkeyPatch.context() as patched:
        fast = load(path)
        patched.setattr(Repeats, "get", lambda self, assignment: None)
        assert fast.runs == load(path).runs
    assert {run.seeds.init for run in fast.runs} == {7}


def test_a_wrong_seed_far_down_the_axis_is_still_an_error_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(HEAD + "    axes:\n      pattern: [scratch]\n      seed: [0, 1, -2]\n")
    with pytest.raises(GridError, match=r"grid\.yaml:9: .*-2"):
        load(path)


def test_a_run_is_planned_once_however_often_its_seeds_stand_there(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    axes = "    axes: {pattern: [scratch], seed: [0, 1], train.lr: [0.1, 0.01]}\n"
    path.write_text(HEAD + axes + "  b:" + axes.strip().join(["\n    ", "\n"]))
    plan = make_plan(load(path), lambda spec: DataFacts(fingerprint(spec), ("a",), "x", 1, 1))
    assert len(plan.runs) == 4
    assert plan.cells == 8
    assert all(key == run_id(run.spec, fingerprint) for key, run in plan.runs.items())
