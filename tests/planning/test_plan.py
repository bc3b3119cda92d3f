"""Plans: runs shared by equality, counts of the papers, batches, forecasts."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import GridError
from bench.grid.expand import Grid, load_grid
from bench.planning.plan import batches, make_plan
from bench.specs.planned import DataFacts, Plan
from bench.specs.run import RunSpec, run_id

HEAD = """\
defaults:
  target:
    dataset: wordnet-shapes
    classes: {recipe: near_far, root: dog.n.01, side: target, target_n: 5, source_n: 10}
  model: narrow8_32
sources:
  near: {classes: {side: near}}
  far: {classes: {side: far}}
"""


def facts(spec: RunSpec) -> DataFacts:
    """Every selection has classes of its own."""
    text = spec.data.model_dump_json() + str(spec.seeds.draw)
    names = (spec.data.classes.model_dump_json(),)
    return DataFacts(text, names, spec.data.dataset, 100, 50)


def grid_of(folder: Path, text: str) -> Grid:
    path = folder / "grid.yaml"
    path.write_text(text)
    return load_grid(path)


def plan_of(folder: Path, text: str) -> Plan:
    return make_plan(grid_of(folder, text), facts)


def test_a_source_is_trained_once_for_all_that_start_from_it(tmp_path: Path) -> None:
    text = HEAD + (
        "experiments: {a: {axes: {source: [near, far], pattern: [tune, freeze], seed: [0, 1]}},"
        " b: {set: {source: near, pattern: tune}}}"
    )
    plan = plan_of(tmp_path, text)
    roles = collections.Counter(run.role for run in plan.runs.values())
    assert roles == {"source": 2, "finetune": 8}
    (both,) = [run for run in plan.runs.values() if len(run.experiments) == 2]
    assert both.experiments == ("a", "b")
    order = list(plan.runs)
    for run in plan.runs.values():
        if run.parent_id:
            assert order.index(run.parent_id) < order.index(run.id)
        assert run.id == run_id(run.spec, lambda spec: facts(spec).fingerprint)


def test_descendants_name_who_they_are_below_of(tmp_path: Path) -> None:
    text = HEAD + (
        "experiments: {a: {set: {pattern: T(1-8), parent: {pattern: tune, source: near}}}}"
    )
    plan = plan_of(tmp_path, text)
    top, middle, bottom = plan.runs
    assert plan.descendants([top]) == {middle: top, bottom: top}
    assert plan.descendants([bottom]) == {}


def test_classes_in_source_and_target_are_an_error_unless_allowed(tmp_path: Path) -> None:
    text = HEAD.replace("side: near}}", "recipe: all}}") + (
        "experiments: {a: {set: {source: near, pattern: tune}}}"
    )

    def same(spec: RunSpec) -> DataFacts:
        return DataFacts("x" + spec.data.model_dump_json(), ("n1", "n2"), "wordnet", 1, 1)

    with pytest.raises(GridError, match="share 2 classes: n1, n2"):
        make_plan(grid_of(tmp_path, text), same)
    allowed = text.replace("pattern: tune}", "pattern: tune, allow_overlap: true}")
    assert len(make_plan(grid_of(tmp_path, allowed), same).runs) == 2


def test_baselines_have_the_same_draw_and_seeds(tmp_path: Path) -> None:
    text = HEAD + (
        "experiments: {a: {set: {source: near, pattern: tune}, axes: {seed: [0, 1]},"
        " include: [{pattern: freeze}, {source: none, pattern: scratch}], baseline: {}}}"
    )
    plan = plan_of(tmp_path, text)
    assert len(plan.baselines) == 6
    for (_, run), baseline in plan.baselines.items():
        assert plan.runs[baseline].spec.pattern == "T(1-7)R(8)"
        assert plan.runs[baseline].spec.seeds == plan.runs[run].spec.seeds


CHU = """\
defaults:
  source: {dataset: imagenet, classes: {recipe: all}}
  model: narrow8_32
  train: {copied_lr_factor: 0.2}
experiments:
  table-1:
    axes: {pattern: PATTERNS}
    zip:
      - target.dataset: &names
          [caltech, caltech, caltech, caltech, sun, sun, sun, sun, indoor, indoor, indoor, indoor,
           cub, cub, cub, coral, coral, coral, coral, plankton, plankton, plankton, plankton]
        target.root: *names
        target.images_per_class:
          [1, 10, 25, 53, 1, 10, 50, 70, 1, 10, 25, 75,
           5, 20, 35, 10, 50, 200, 450, 1, 10, 300, 550]
  yosinski:
    set:
      source: {dataset: imagenet, classes: {recipe: half, side: a}}
      target: {dataset: imagenet, classes: {recipe: half, side: b}, val_per_class: 20}
    axes:
      target.images_per_class: [1, 10, 25, 53, 120]
      pattern: PATTERNS
"""
THREE = (
    '["T(1-7)R(8)", "F(1-7)R(8)", "T(1-5)R(6-8)", "F(1-5)R(6-8)", "T(1-3)R(4-8)", "F(1-3)R(4-8)"]'
)
FOUR = THREE[:-1] + ', "T(1)R(2-8)", "F(1)R(2-8)"]'


@pytest.mark.parametrize(("patterns", "extra"), [(THREE, 30), (FOUR, 40)])
def test_chus_counts(patterns: str, extra: int, tmp_path: Path) -> None:
    """23 splits, 138 runs; 30 more on the Yosinski split, 40 with a fourth depth (CHU-1)."""
    grid = grid_of(tmp_path, CHU.replace("PATTERNS", patterns))
    table, yosinski = grid.experiments
    splits = {(run.data.dataset, run.data.images_per_class) for run in table.runs}
    assert len(splits) == 23
    assert len(yosinski.runs) == extra
    if extra == 30:
        assert len(table.runs) == 138
    plan = make_plan(grid, facts)
    assert sum(not run.experiments for run in plan.runs.values()) == 2


LI = (
    HEAD
    + """\
experiments:
  target-size:
    axes:
      source: [near, far]
      target.classes.take: [5, 4, 3, 2, 1]
      target.images_per_class: [30, 60, 120, 240, 480, 960, 1200]
      pattern: [tune]
    include: [{source: none, pattern: scratch}]
  frozen-depth:
    axes:
      source: [near, far]
      pattern: ["F(1)T(2-7)R(8)", "F(1-2)T(3-7)R(8)", "F(1-3)T(4-7)R(8)", "F(1-4)T(5-7)R(8)",
                "F(1-5)T(6-7)R(8)", "F(1-6)T(7)R(8)", "F(1-7)R(8)"]
  augmentation:
    axes:
      source: [near, far]
      target.images_per_class: [30, 60, 120, 240, 480, 960, 1200]
      train.expand_to: [null, 1200]
      pattern: [tune]
    include: [{source: none, pattern: scratch}]
"""
)


def test_lis_counts(tmp_path: Path) -> None:
    """105 runs of target size (LI-10), 14 frozen depths (LI-11), 42 of augmentation (LI-12)."""
    counts = [len(experiment.runs) for experiment in grid_of(tmp_path, LI).experiments]
    assert counts == [105, 14, 42]


@given(
    costs=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=60),
    limit=st.floats(1.0, 50.0),
    most=st.integers(1, 10),
)
def test_batches_keep_order_and_limits_and_lose_nothing(
    costs: list[float], limit: float, most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seeds = list(range(len(costs)))
    text = HEAD + f"experiments: {{a: {{set: {{pattern: scratch}}, axes: {{seed: {seeds}}}}}}}"
    runs = list(plan_of(tmp_path_factory.mktemp("plan"), text).runs.values())
    cost = {run.id: value for run, value in zip(runs, costs, strict=True)}
    found = batches(runs, cost_s=lambda run: cost[run.id], limit_s=limit, most_runs=most)
    assert [run for batch in found for run in batch.runs] == runs
    for batch in found:
        assert len(batch.runs) <= most
        assert len(batch.runs) == 1 or sum(cost[run.id] for run in batch.runs) <= limit


def test_a_batch_shares_parent_data_and_network(tmp_path: Path) -> None:
    text = HEAD + (
        "experiments: {a: {axes: {source: [near, far], pattern: [tune, freeze],"
        " target.images_per_class: [5, 50], seed: [0, 1]}}}"
    )
    plan = plan_of(tmp_path, text)
    finetunes = [run for run in plan.runs.values() if run.experiments]
    found = batches(finetunes, cost_s=lambda run: 1.0, limit_s=1e9)
    assert sorted(len(batch.runs) for batch in found) == [8, 8]
    assert all(len({run.parent_id for run in batch.runs}) == 1 for batch in found)
