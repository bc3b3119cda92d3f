"""`--set` and `--preset` on whole grids: who takes them, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bench.commands._slurm import slurm_overrides
from bench.commands._summary import leaderboard_lines
from bench.commands.data import _options as options_of
from bench.core.errors import GridError
from bench.grid.expand import Grid, load_grid
from bench.grid.weights import check_weights_file
from bench.planning.workspace import Session
from bench.results.store import Store

OWN = Path(__file__).parents[2] / "grids" / "own-images.yaml"
WEIGHTS = (
    bytes.fromhex("3600000000000000") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
)


def read(*overrides: str, path: Path = OWN) -> Grid:

    return load_grid(path, overrides=overrides)


def starts(grid: Grid) -> set[tuple[str, bool]]:
    return {(run.init.kind, run.layers.is_scratch) for run in grid.runs}


def weights(folder: Path) -> Path:
    file = folder / "net.safetensors"
    file.write_bytes(WEIGHTS + b"\0" * 4)
    return file


def test_own_images_start_from_a_file_and_scratch_runs_are_left_alone(tmp_path: Path) -> None:
    file = weights(tmp_path)
    grid = read(f"weights={{file: {file}}}", "model=narrow8_32", "target.image_size=32")
    assert starts(grid) == {("file", False), ("scratch", True)}
    plain = [run for run in read().runs if run.layers.is_scratch]
    with_timm = [run for run in read("weights={timm: a1_in1k}").runs if run.layers.is_scratch]
    assert plain == with_timm


def test_own_images_have_a_preset_without_downloads() -> None:
    grid = read("preset=small")
    assert starts(grid) == {("run", False), ("scratch", True)}
    assert len(grid.runs) == len(read().runs)
    assert {run.parent.data.dataset for run in grid.runs if run.parent} == {"wordnet-shapes"}


def test_a_source_that_no_run_takes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "defaults: {target: {dataset: digits}, model: narrow8_32, pattern: scratch}\n"
        "experiments: {a: {axes: {seed: [0, 1]}}}\n"
    )
    with pytest.raises(GridError, match=r"(?s)weights=timm: it changes nothing.*pattern=tune"):
        read("weights=timm", path=path)
    assert len(read("source=none", "seed=3", path=path).runs) == 2


def test_the_message_speaks_of_what_was_set(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"it has no use for weights: set weights: none"):
        read("pattern=scratch")
    with pytest.raises(
        GridError, match=r"(?s)weights is a name here.*write weights=\{file: x.pt\}"
    ):
        read("weights.file=x.pt")
    weights(tmp_path)
    with pytest.raises(GridError, match=r"not there.*\n.*there are: net.safetensors"):
        read(f"weights={{file: {tmp_path / 'nett.safetensors'}}}")
    assert len(check_weights_file(tmp_path / "net.safetensors")) == 64


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_must_be_finite(value: str) -> None:
    with pytest.raises(GridError, match=r"expected a number(.|\n)*a finite number is needed"):
        read(f"train.lr={value}")


def test_a_missing_grid_names_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GridError, match=f"x.yaml: cannot read.*looked for in {tmp_path}"):
        read(path=Path("x.yaml"))


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (("preset=small",), "with --preset these"),
        (("seed=1",), "with --set these"),
        (("preset=small", "seed=1"), "with --preset and --set these"),
    ],
)
def test_other_tables_are_explained_by_the_option_that_was_used(
    texts: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    session = SimpleNamespace(
        board="own--x",
        plan=SimpleNamespace(name="own"),
        store=Store(tmp_path),
        given=tuple(part for text in texts for part in ("--set", text)),
        wanted=[],
        leaderboard=lambda suffix="": tmp_path / f"own--x{suffix}.csv",
    )
    assert named in "\n".join(leaderboard_lines(cast(Session, session)))


SWEPT = """\
defaults: {target: {dataset: digits}, model: narrow8_32, pattern: scratch}
experiments:
  a: {axes: {seed: [5], train.lr: [0.1, 0.2]}, include: [{train.lr: 0.3}]}
  b: {zip: [{train.epochs: [1, 2], train.batch_size: [8, 16]}]}
"""


def test_a_list_where_a_value_is_meant_is_an_axis(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(SWEPT)
    runs = read("seed=[0, 1]", path=path).experiments
    assert [(run.train.lr, run.seeds.draw) for run in runs[0].runs] == [
        (lr, seed) for lr in (0.1, 0.2) for seed in (0, 1)
    ] + [(0.3, seed) for seed in (0, 1)]
    assert [(run.train.epochs, run.seeds.draw) for run in runs[1].runs] == [
        (epochs, seed) for epochs in (1, 2) for seed in (0, 1)
    ]
    listed = read("target.classes={recipe: listed, names: ['0', '1']}", path=path)
    assert {run.data.classes.names for run in listed.runs} == {("0", "1")}  # type: ignore[union-attr]
    for text, message in {
        "train.epochs=[1, 2]": "train.batch_size and train.epochs go together\n  set one value",
        "seed=[]": "the list is empty\n  write",
        "seed=[0, x]": "seed is 'x': expected a whole number",
    }.items():
        with pytest.raises(GridError) as caught:
            read(text, path=path)
        assert str(caught.value).startswith(f"--set {text}: {message}")


def test_of_two_values_for_one_key_none_is_taken() -> None:
    with pytest.raises(GridError) as caught:
        read("train.lr=0.1", "seed=1", " train.lr =0.01")
    assert str(caught.value) == (
        "train.lr is given twice: --set train.lr=0.1 and --set  train.lr =0.01\n"
        "  leave one of the two out"
    )
    with pytest.raises(GridError, match="partition is given twice: --slurm-set partition=a and"):
        slurm_overrides(["partition=a", "partition=b"])
    with pytest.raises(GridError, match="partial is given twice: --against-option partial=true"):
        options_of(["partial=true", "partial=false"], "--against-option")
    assert {run.train.lr for run in read("train={epochs: 2}", "train.lr=0.1").runs} == {0.1}


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("axes: {lr: [0.1]}", "unknown key 'lr'", "write train.lr or pretrain.lr; known: allow_"),
        ("axes: {images_per_class: [5]}", "unknown key 'images_per_class'",
         "write target.images_per_class or source.images_per_class; known: "),
        ("axes: {lrr: [0.1]}", "unknown key 'lrr'", "known: "),
        ("axes: {seed: 0}", "seed: expected a list of values, found 0",
         "write [0], or put it under set:"),
        ("axes: {seed: []}", "seed: expected a list of values, found []", "write [a, b, …]"),
        ("axis: {seed: [0]}", "unknown key 'axis' in experiment a", "known: axes, "),
        ("axes: {seeds: [0, 1]}", "seeds: expected a mapping, found 0 (experiment a)",
         "write seed: 0, or seeds: {draw: 0}"),
    ],
)  # fmt: skip
def test_a_key_in_the_wrong_place_is_shown_where_it_stands(
    line: str, message: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    head = "defaults: {target: {dataset: digits}, model: narrow8_32, pattern: scratch}\n"
    path.write_text(f"{head}experiments:\n  a: {{{line}}}\n")
    with pytest.raises(GridError) as caught:
        load_grid(path)
    assert str(caught.value).startswith(f"{path}:3: {message}\n  {hint}")
    with pytest.raises(GridError, match=r"train.epochs=5; write train.lr or pretrain.lr; known:"):
        read("lr=0.1")
