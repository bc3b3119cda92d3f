"""Grid files: what they expand to, and what they say when they are wrong."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import GridError
from bench.grid.expand import Grid, check_experiments, load_grid
from bench.specs.data import ClassRecipe, DataSpec, NearFarClasses
from bench.specs.pattern import LayerPattern
from bench.specs.recipes import EPILOG, RECIPES
from bench.specs.run import FromFile, FromRun

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

    return load_grid(file, **options)


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
    for written in ("1", "1.0", "1e0", "1.0e+0"):
        text = HEAD + f"experiments: {{a: {{set: {{pattern: scratch, train.lr: {written}}}}}}}"
        assert [run.train.lr for run in expand(tmp_path, text).runs] == [1.0]


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
    "true for number": (
        "a: {set: {pattern: scratch, train.epochs: true}}",
        10,
        "train.epochs is true",
        "whole number",
    ),
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
    "axis not a list": (
        "a: {set: {pattern: scratch}, axes: {seed: 3}}",
        10,
        "list",
        "[3], or put it under set:",
    ),
    "two origins": (
        "a: {set: {pattern: tune, source: near, weights: timm}}",
        10,
        "exclude each",
        "keep one",
    ),
    "twice": ("a: {set: {pattern: scratch, pattern: tune}}", 10, "twice", "first at line"),
}


WRONG |= {
    "no pattern": ("a: {}", 10, "pattern is missing", "T(1-7)R(8)"),
    "no model": ("a: {set: {model: null, pattern: scratch}}", 10, "model is missing", "narrow8_32"),
    "no target": ("a: {set: {target: null, pattern: tune}}", 10, "target is missing", "dataset"),
    "every key": ("a: {set: {weight: timm}}", 10, "'weight'", "weights, allow_overlap"),
    "no validation": (
        "a: {set: {pattern: scratch, target.val_per_class: 0}}",
        10,
        "val_per_class is 0",
        "select: last",
    ),
    "long warm-up": (
        "a: {set: {pattern: scratch, train: {epochs: 3, warmup_epochs: 3.5}}}",
        10,
        "warmup_epochs is 3.5",
        "less than 3",
    ),
    "small images": (
        "a: {set: {pattern: scratch, target.image_size: 8}}",
        10,
        "8 pixels",
        "at least 16",
    ),
    "huge images": (
        "a: {set: {pattern: scratch, target.image_size: 99999}}",
        10,
        "99999",
        "such as 32",
    ),
    "padding": ("a: {set: {pattern: scratch, train.crop_pad: 32}}", 10, "crop_pad is 32", "32"),
    "ours has no published weights": (
        "a: {set: {pattern: tune, weights: timm}}",
        10,
        "no weights for 'narrow8_32'",
        "resnet18",
    ),
    "tag": (
        "a: {set: {model: resnet18, pattern: tune, weights: {timm: a1}}}",
        10,
        "'a1'",
        "tags: a",
    ),
    "weights as text": ("a: {set: {pattern: tune, weights: x.pth}}", 10, "x.pth", "{file: x.pth}"),
    "weights of all sorts": ("a: {set: {pattern: tune, weights: 7}}", 10, "7", "{timm: TAG}"),
    "no file": ("a: {set: {pattern: tune, weights: {file: x.pth}}}", 10, "x.pth", ".safetensors"),
    "seeds": ("a: {set: {pattern: scratch, seeds: 3}}", 10, "seeds", "draw"),
    "seed": ("a: {set: {pattern: scratch, seed: one}}", 10, "seed is 'one'", "whole number"),
    "list for a value": (
        "a: {set: {pattern: scratch, train.lr: [0.1, 0.2]}}",
        10,
        "[0.1, 0.2]",
        "under axes:",
    ),
    "parent by name": ("a: {set: {pattern: tune, parent: near}}", 10, "'near'", "whole run"),
    "value twice": (
        "a: {set: {pattern: scratch}, axes: {seed: [0, 1, 0]}}",
        10,
        "0 twice",
        "different values",
    ),
    "list for a mapping": (
        "a: {set: {pattern: scratch, model: {name: narrow8_32, filler: {}}}}",
        10,
        "filler is {}: must be",
        "default",
    ),
    "draw": (
        "a: {set: {pattern: scratch, class_draw: x}}",
        10,
        "class_draw is 'x': expected a whole",
        "near_far",
    ),
    "sources in a list": ("a: {set: {pattern: tune, source: [near]}}", 10, "['near']", "axes"),
    "borrowed part": (
        "a: {set: {pattern: tune, source: near, borrow: {name: near, images: 3.0}}}",
        10,
        "images is 3.0",
        "must be at most 1",
    ),
    "borrowed slip": (
        "a: {set: {pattern: tune, source: near, borrow: {name: near, imagez: 3.0}}}",
        10,
        "imagez",
        "image_size",
    ),
    "seed of too many digits": (
        "a: {set: {pattern: scratch, seed: 99999999999999999999}}",
        10,
        "seed is 99999999999999999999",
        "less than",
    ),
    "flag": ("a: {set: {pattern: scratch, allow_overlap: 1}}", 10, "overlap is 1", "true or false"),
    "draw of nothing": (
        "a: {set: {pattern: scratch, target.classes: {recipe: all}, class_draw: 1}}",
        10,
        "class_draw",
        "random",
    ),
}
VALUES_WRONG = {
    "target: {dataset: digits, on_short: capp}": (
        "target.on_short is 'capp': must be 'error', 'cap' or 'drop_class'",
        "write cap, drop_class, error",
    ),
    "target: {dataset: digits, test_per_class: 1.5}": (
        "target.test_per_class is 1.5: expected a whole number or must be less than 1.0",
        "write a whole number in decimal digits, such as 10 or write a number below 1.0",
    ),
    "target: {dataset: digits, options: {partial: 1.5}}": (
        "option partial is 1.5: expected true, false, a whole number or text",
        "bench data list NAME shows",
    ),
    "method: {name: probe, c: abc}": (
        "method 'probe': c is 'abc': expected a number",
        "write a number, such as 0.01",
    ),
    'train: {epochs: ""}': (
        "train.epochs is '': expected a whole number",
        "write a whole number in decimal digits, such as 10",
    ),
    "train: {optimizer: adm}": (
        "train.optimizer is 'adm': there is no such value",
        "write adam, ",
    ),
    "target: {dataset: digits, options: [partial]}": (
        "options are a mapping, such as {partial: true}",
        "",
    ),
}


@pytest.mark.parametrize("line", VALUES_WRONG)
def test_values_that_do_not_exist_are_shown_with_the_nearest_that_do(
    line: str, tmp_path: Path
) -> None:
    pattern = "{source: self, pattern: freeze" if "method" in line else "{pattern: scratch"
    sets = f"{pattern}, model: narrow8_32, target.dataset: digits}}"
    text = f"defaults:\n  {line}\nexperiments:\n  a: {{set: {sets}}}\n"
    with pytest.raises(GridError) as caught:
        expand(tmp_path, text)
    message, way_out = VALUES_WRONG[line]
    assert caught.value.message == f"{message} (experiment a)"
    assert str(caught.value.place).endswith("grid.yaml:2")
    assert (caught.value.hint or "").startswith(way_out)


RECIPES_WRONG = {
    "unknown": ("{recipe: rnd, n: 1}", "no recipe 'rnd'", "random"),
    "none": ("{n: 3}", "which recipe", "near_far"),
    "a word": ("random", "'random': expected a recipe", "{recipe: random, n: 10}"),
    "a list": ("[a, b]", "['a', 'b']", "listed"),
    "missing field": ("{recipe: random}", "classes.n is missing", "{recipe: random, n: 10}"),
    "unknown field": ("{recipe: random, m: 3}", "'m'", "class_draw, n,"),
    "numbers for names": ("{recipe: listed, names: [3, 4]}", "names.0 is 3", "'3'"),
    "side": ("{recipe: half, side: c}", "'c': must be 'a' or 'b'", "side: a"),
    "no source size": ("{recipe: categories, side: source}", "side: source only", "n: 40"),
}


@pytest.mark.parametrize("name", RECIPES_WRONG)
def test_errors_of_recipes_are_in_plain_words(name: str, tmp_path: Path) -> None:
    classes, value, way_out = RECIPES_WRONG[name]
    text = "experiments:\n  a:\n    set:\n      target:\n        dataset: digits\n"
    text += f"        classes: {classes}\n      model: narrow8_32\n      pattern: scratch\n"
    with pytest.raises(GridError) as caught:
        expand(tmp_path, text)
    message = str(caught.value)
    assert "grid.yaml:6" in message
    assert value in message
    assert way_out in message
    assert "discriminator" not in message
    assert "Input" not in message


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


def placed(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(GridError) as caught:
        expand(tmp_path, text, overrides=overrides)
    assert caught.value.place is not None
    return caught.value.place.removeprefix(str(tmp_path))


def test_the_line_of_a_sources_definition_is_named(tmp_path: Path) -> None:
    body = "experiments:\n  a:\n    set: {pattern: tune}\n    axes:\n      source: [near, far]\n"
    for near, line in (
        ("{classes: {side: neer}}", 7),
        ("{image_siz: 3, classes: {side: near}}", 7),
        ("\n    classes:\n      side: neer", 9),
    ):
        text = HEAD.replace("{classes: {side: near}}", near) + body
        assert placed(tmp_path, text) == f"/grid.yaml:{line}"


def test_the_line_is_that_of_the_strongest_of_several_values(tmp_path: Path) -> None:
    text = HEAD.replace("model:", "train: {lr: 0.1, epochs: x}\n  pretrain: {lr: y}\n  model:")
    body = "experiments:\n  a:\n    set:\n      pattern: tune\n      source: near\n"
    assert placed(tmp_path, text + body) == "/grid.yaml:6"
    assert placed(tmp_path, text + body, "pretrain.lr=0.1") == "/grid.yaml:5"
    fixed = text.replace("epochs: x", "epochs: 3").replace("lr: y", "lr: 1")
    assert placed(tmp_path, fixed + body + "      train.epochs: -1\n") == "/grid.yaml:16"
    axes = "    axes:\n      target:\n        - name: t\n        - image_size: x\n"
    targets = "targets:\n  t: {dataset: digits, test_per_class: 5, classes: {recipe: all}}\n"
    named = targets + fixed.replace("defaults:", "defaults: # ")
    assert placed(tmp_path, named + body + axes).startswith("/grid.yaml:")


def test_a_value_of_the_command_line_is_blamed_on_it(tmp_path: Path) -> None:
    text = HEAD + "experiments: {a: {set: {pattern: scratch}, axes: {train.lr: [0.1, 0.2]}}}"
    for option in ("train.lr=fast", "target.image_size=big", "source=neer", "pattern=T(1-9)"):
        assert placed(tmp_path, text, "seed=3", option) == f"--set {option}"
    for option in ("trian.lr=1", "train.lr"):
        with pytest.raises(GridError, match=rf"--set {option}.*\n.*KEY=VALUE.*weights"):
            expand(tmp_path, text, overrides=[option])


def test_names_and_roots_of_a_grid_are_text(tmp_path: Path) -> None:
    rest = HEAD + "experiments: {a: {set: {pattern: scratch}}}"
    for line, says in (
        ("root: 5", "root is 5"),
        ("name: ../x", "name '../x' has '/' in its name"),
        ("name: 7", "name is 7"),
        ("about: [1]", "about is"),
    ):
        with pytest.raises(GridError, match=f"grid.yaml:1: {says}"):
            expand(tmp_path, f"{line}\n{rest}")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.safetensors", b"hello", "no safetensors file"),
        ("a.safetensors", b"", "no safetensors file"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"{}", "holds no weights"),
        ("a.safetensors", (4).to_bytes(8, "little") + b"[1]x", "header cannot be read"),
        ("a.pth", b"hello", "torch.save"),
        ("a.pth", b"PK\3\4 and no end", "torn"),
        ("a.bin", b"hello", "torch.save"),
        ("a.h5", b"hello", "another kind"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    text = HEAD + f"experiments: {{a: {{set: {{pattern: tune, weights: {{file: '{file}'}}}}}}}}"
    with pytest.raises(GridError, match=rf"grid.yaml:9: .*{says}.*\n.*\w"):
        expand(tmp_path, text)


def test_whole_files_of_weights_are_known_by_their_content(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    whole = save({"a": np.zeros(3, np.float32), "b": np.ones((2, 2), np.float32)})
    file = tmp_path / "a.safetensors"
    digest = hashlib.sha256(whole).hexdigest()
    for content, sha256, says in (
        (whole, None, None),
        (whole, digest, None),
        (whole[:-1], None, "torn"),
        (whole + b"x", None, "torn"),
        (whole, "0" * 64, "has changed"),
    ):
        file.write_bytes(content)
        more = f", sha256: '{sha256}'" if sha256 else ""
        text = HEAD + f"experiments: {{a: {{set: {{pattern: tune, weights: {{file: '{file}'{more}"
        if says is None:
            (run,) = expand(tmp_path, text + "}}}}").runs
            assert isinstance(run.init, FromFile)
            assert run.init.sha256 == digest
        else:
            with pytest.raises(GridError, match=says):
                expand(tmp_path, text + "}}}}")


def test_recipes_in_the_help_are_those_of_the_specs() -> None:
    kinds = {
        kind.model_fields["recipe"].default: kind for kind in get_args(get_args(ClassRecipe)[0])
    }
    assert set(kinds) == set(RECIPES)
    for name, known in RECIPES.items():
        fields = {key: field for key, field in kinds[name].model_fields.items() if key != "recipe"}
        required = {key for key, field in fields.items() if field.is_required()}
        assert (set(known.required), set(known.optional)) == (required, set(fields) - required)
        data = {"dataset": "imagenet", "classes": yaml.safe_load(known.example)}
        assert DataSpec.model_validate(data).classes.recipe == name
        assert all(field in EPILOG for field in fields)


def test_a_mistyped_name_of_a_pattern_is_told_the_names(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="no pattern 'freze'") as error:
        expand(tmp_path, HEAD + "experiments: {a: {set: {pattern: freze}}}")
    assert (error.value.hint or "").startswith("freeze, ")


def test_missing_file_empty_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="cannot read"):
        load_grid(tmp_path / "no.yaml")
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
    with pytest.raises(GridError, match="more than 500,000 values"):
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
    text = (
        HEAD.replace("sources:", "targets:\n  own: {classes: {side: target}}\nsources:")
        + """
experiments:
  a:
    set: {target: own, target.images_per_class: 7, train: &t {<<: {epochs: 3}, lr: 0.5}}
    axes: {source: [near], pattern: [tune], seed: [0]}
  b: {set: {train: {<<: *t, epochs: 4}, source: near, pattern: tune, pretrain: *t}}
"""
    )
    first, second = expand(tmp_path, text).runs
    assert (first.data.images_per_class, first.train.lr, first.train.epochs) == (7, 0.5, 3)
    assert (second.train.lr, second.train.epochs) == (0.5, 4)
    assert second.parent is not None
    assert second.parent.train.epochs == 3


def test_a_folder_of_images_is_looked_for_beside_the_grid_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grids" / "photographs").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "photographs").mkdir(parents=True)
    (elsewhere / "typed").mkdir()
    monkeypatch.chdir(elsewhere)
    text = """\
defaults:
  target: {dataset: folder, classes: {recipe: all}, image_size: 32, test_per_class: 2}
  model: narrow8_32
  pattern: scratch
experiments:
  one: {axes: {target.root: [photographs, typed, absent]}}
"""
    path = tmp_path / "grids" / "grid.yaml"
    path.write_text(text)
    beside = str(tmp_path / "grids" / "photographs")
    roots = [run.data.root for run in load_grid(path).runs]
    assert roots == [beside, "typed", "absent"]
    typed = load_grid(path, overrides=["target.root=photographs"]).runs
    assert {run.data.root for run in typed} == {"photographs"}  # typed: of the current folder
