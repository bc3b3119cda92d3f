"""Grid files: what they expand to, and what they say when they are wrong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import GridError
from bench.grid import Grid, check_experiments, load_grid
from bench.methods import check
from bench.models.depths import depth_of
from bench.spec import FromRun, LayerPattern, NearFarClasses

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


def expand(path: Path, text: str, **options: Any) -> Grid:
    file = path / "grid.yaml"
    file.write_text(text)

    def check_method(name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return check(name, given).model_dump(mode="json")

    return load_grid(file, depth_of=depth_of, check_method=check_method, **options)


def test_axes_multiply_zipped_lists_go_together_and_includes_cross(tmp_path: Path) -> None:
    grid = expand(
        tmp_path,
        HEAD
        + """
experiments:
  a:
    axes: {source: [near, far], pattern: [tune, freeze], train.lr: [0.01, 1e-3]}
    zip: [{target.images_per_class: [5, 50], train.epochs: [40, 10]}]
    include: [{source: none, pattern: scratch}]
    exclude: [{source: near, train.lr: 0.001}]
""",
    )
    found = [
        (run.init.kind, run.pattern, run.train.lr, run.data.images_per_class, run.train.epochs)
        for run in grid.runs
    ]
    cells = itertools.product(["near", "far"], "TF", [0.01, 0.001], [(5, 40), (50, 10)])
    expected = [
        ("run", f"{kind}(1-7)R(8)", lr, n, epochs)
        for source, kind, lr, (n, epochs) in cells
        if (source, lr) != ("near", 0.001)
    ]
    expected += [
        ("scratch", "R(1-8)", lr, n, epochs)
        for lr in (0.01, 0.001)
        for n, epochs in [(5, 40), (50, 10)]
    ]
    assert sorted(found) == sorted(expected)


def test_source_stands_on_the_targets_data_set(tmp_path: Path) -> None:
    grid = expand(
        tmp_path,
        HEAD + "experiments: {a: {set: {source: near, pattern: tune, class_draw: 3}}}",
    )
    (run,) = grid.runs
    assert isinstance(run.init, FromRun)
    parent = run.init.run
    assert isinstance(parent.data.classes, NearFarClasses)
    assert (parent.data.classes.side, parent.data.classes.class_draw) == ("near", 3)
    assert parent.data.classes.root == "dog.n.01"
    assert parent.pattern == "R(1-8)"


def test_equal_sources_are_one_object_of_work(tmp_path: Path) -> None:
    grid = expand(
        tmp_path, HEAD + "experiments: {a: {set: {source: near}, axes: {pattern: [tune, freeze]}}}"
    )
    first, second = grid.runs
    assert first.parent is second.parent


def test_self_is_the_targets_own_scratch_model(tmp_path: Path) -> None:
    text = HEAD + "experiments: {a: {set: {source: self, pattern: T(1-8), seed: 2}}}"
    (run,) = expand(tmp_path, text).runs
    assert run.parent is not None
    assert run.parent.data == run.data
    assert run.parent.seeds == run.seeds


def test_chain_of_three(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
experiments:
  a:
    set:
      pattern: T(1-8)
      parent: {pattern: tune, source: near}
"""
    )
    (run,) = expand(tmp_path, text).runs
    assert [ancestor.pattern for ancestor in run.ancestors()] == ["T(1-7)R(8)", "R(1-8)"]


def test_overrides_and_names_of_experiments(tmp_path: Path) -> None:
    text = HEAD + (
        "experiments: {a: {set: {pattern: scratch}},"
        " b: {set: {pattern: scratch}, axes: {seed: [0, 1]}}}"
    )
    grid = expand(tmp_path, text, overrides=["train.lr=1e-2", "train.epochs=3"])
    assert [run.seeds.order for run in grid.runs] == [0, 0, 1]
    assert {(run.train.lr, run.train.epochs) for run in grid.runs} == {(0.01, 3)}
    check_experiments(["b"], grid)
    with pytest.raises(GridError, match=r"no experiment 'c'.*\n.*a, b"):
        check_experiments(["c"], grid)


def test_a_number_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    text = (
        HEAD
        + "experiments: {a: {set: {pattern: scratch}, axes: {train.lr: [1, 1.0, 1e0, 1.0e+0]}}}"
    )
    assert {run.train.lr for run in expand(tmp_path, text).runs} == {1.0}


WRONG = {
    "unknown key": ("a: {set: {patern: tune}}", 10, "'patern'", "pattern"),
    "unknown option": (
        "a: {set: {pattern: scratch, train: {learning_rate: 1}}}",
        10,
        "learning_rate",
        "lr",
    ),
    "unknown axis": ("a: {axes: {tran.lr: [1.0]}}", 10, "tran.lr", "train"),
    "text for number": (
        "a: {set: {pattern: scratch}, axes: {train.lr: [fast]}}",
        10,
        "'fast'",
        "lr",
    ),
    "quoted number": (
        "a: {set: {pattern: scratch, train.lr: '0.1'}}",
        10,
        "'0.1'",
        "without quotes",
    ),
    "true for number": ("a: {set: {pattern: scratch, train.epochs: true}}", 10, "True", "integer"),
    "unknown source": ("a: {set: {pattern: tune, source: neer}}", 10, "'neer'", "near"),
    "depth": ("a: {set: {source: near, pattern: T(1-8)R(9)}}", 10, "8", "tune"),
    "pattern gap": ("a: {set: {source: near, pattern: T(1-6)R(8)}}", 10, "layer 7", "exactly once"),
    "nothing to copy": ("a: {set: {source: none, pattern: tune}}", 10, "nothing to copy", "source"),
    "copy in vain": ("a: {set: {source: near, pattern: scratch}}", 10, "copies nothing", "source"),
    "model": ("a: {set: {model: narow8_32, pattern: scratch}}", 10, "narow8_32", "narrow8_32"),
    "method": ("a: {set: {method: plane, pattern: scratch}}", 10, "plane", "plain"),
    "zip": ("a: {zip: {seed: [1, 2], train.lr: [0.1]}}", 10, "length", "seed"),
    "idle exclude": (
        "a: {set: {pattern: scratch}, exclude: [{seed: 1}]}",
        10,
        "matches no cell",
        "exclude",
    ),
    "axis not a list": ("a: {set: {pattern: scratch}, axes: {seed: 3}}", 10, "list", "[a, b"),
    "two origins": (
        "a: {set: {pattern: tune, source: near, weights: timm}}",
        10,
        "exclude each",
        "keep one",
    ),
    "twice": ("a: {set: {pattern: scratch, pattern: tune}}", 10, "twice", "first at line"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_carry_line_value_and_way_out(name: str, tmp_path: Path) -> None:
    body, line, value, way_out = WRONG[name]
    with pytest.raises(GridError) as caught:
        expand(tmp_path, f"{HEAD}experiments:\n  {body}\n")
    text = str(caught.value)
    assert f"grid.yaml:{line}" in text
    assert value in text
    assert way_out in text


def test_the_line_of_an_axis_value_is_named(tmp_path: Path) -> None:
    body = "  a:\n    set: {pattern: scratch}\n    axes:\n      train.lr:\n"
    body += "        - 0.1\n        - -3\n"
    with pytest.raises(GridError, match=r"grid.yaml:15: train.lr is -3"):
        expand(tmp_path, f"{HEAD}experiments:\n{body}")


def test_missing_file_empty_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="cannot read"):
        load_grid(tmp_path / "no.yaml", depth_of=depth_of, check_method=lambda name, given: given)
    for text, word in (
        ("", "empty"),
        ("a: [1", "not YAML"),
        ("[1]", "mapping"),
        ("a: &x [*x]", "contains itself|mapping"),
    ):
        with pytest.raises(GridError, match=word):
            expand(tmp_path, text)


def test_alias_bombs_and_tags_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    for one, two in itertools.pairwise("abcdefgh"):
        bomb += f"{two}: &{two} [{', '.join([f'*{one}'] * 10)}]\n"
    with pytest.raises(GridError, match="too many values"):
        expand(tmp_path, bomb)
    with pytest.raises(GridError):
        expand(tmp_path, "a: !!python/object/apply:os.system ['true']")


@given(
    lrs=st.lists(st.sampled_from([0.1, 0.03, 0.01]), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    patterns=st.lists(st.sampled_from(["tune", "freeze"]), min_size=1, max_size=2, unique=True),
)
def test_the_product_is_complete_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    lrs: list[float],
    seeds: list[int],
    patterns: list[str],
) -> None:
    axes = f"{{pattern: {patterns}, train.lr: {lrs}, seed: {seeds}}}"
    text = HEAD + f"experiments: {{a: {{set: {{source: near}}, axes: {axes}}}}}"
    found = [
        (LayerPattern.parse(run.pattern).frozen_prefix, run.train.lr, run.seeds.order)
        for run in expand(tmp_path_factory.mktemp("grid"), text).runs
    ]
    prefix = {"tune": 0, "freeze": 7}
    assert found == list(itertools.product([prefix[p] for p in patterns], lrs, seeds))


def test_a_named_target_can_be_changed_in_set_and_an_alias_with_merge_used_twice(
    tmp_path: Path,
) -> None:
    text = HEAD.replace("sources:", "targets:\n  own: {classes: {side: target}}\nsources:") + """
experiments:
  a:
    set: {target: own, target.images_per_class: 7, train: &t {<<: {epochs: 3}, lr: 0.5}}
    axes: {source: [near], pattern: [tune], seed: [0]}
  b: {set: {train: {<<: *t, epochs: 4}, source: near, pattern: tune, pretrain: *t}}
"""
    first, second = expand(tmp_path, text).runs
    assert (first.data.images_per_class, first.train.lr, first.train.epochs) == (7, 0.5, 3)
    assert (second.train.lr, second.train.epochs) == (0.5, 4)
    assert second.parent is not None and second.parent.train.epochs == 3
