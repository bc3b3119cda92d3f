"""Names of leaderboards under --set: the grid's own only for the grid's own runs, never shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import BenchError
from bench.core.paths import user_path
from bench.grid.expand import Grid, load_grid
from bench.planning.table_names import board_name

GRID = """\
defaults:
  target: {dataset: digits, test_per_class: 20, images_per_class: 10}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 4}
experiments:
  rates: {axes: {train.lr: [0.1, 0.01]}}
presets:
  short: {defaults: {train: {epochs: 1}}}
"""


def name(folder: Path, *overrides: str) -> str:
    path = folder / "rates.yaml"
    path.write_text(GRID)
    return board_name(load_grid(path, overrides=overrides), overrides)


def test_what_changes_no_run_keeps_the_name(tmp_path: Path) -> None:
    assert name(tmp_path) == "rates"
    assert name(tmp_path, "train.epochs=4", "target.images_per_class=10") == "rates"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("train.epochs=5",), "rates--train.epochs=5"),
        (("train.lr=1e-3", "seed=2"), "rates--seed=2--train.lr=0.001"),
        (("seed=2", "train.lr=0.001"), "rates--seed=2--train.lr=0.001"),
        (("preset=short",), "rates--short"),
        (("preset=short", "seed=1"), "rates--short--seed=1"),
        (("target.root=/x/bäd",), "rates--target.root=bad-a16eb0"),
    ],
)
def test_other_runs_have_a_readable_name(
    overrides: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    assert name(tmp_path, *overrides) == expected


def test_two_folders_of_one_name_have_tables_of_their_own(tmp_path: Path) -> None:
    names = {
        name(tmp_path, "target.dataset=folder", f"target.root={root}")
        for root in ("/data/birds", "/more/birds", "~/birds", str(Path("~/birds").expanduser()))
    }
    assert len(names) == 3
    assert all("target.root=birds-" in found for found in names)


def test_a_grid_that_needs_what_was_set_is_a_variant(tmp_path: Path) -> None:
    grid = Grid("rates", tmp_path / "unreadable.yaml", "", None, (), {})
    assert board_name(grid, ("seed=3",)) == "rates--seed=3"


VALUES = st.one_of(
    st.integers(-5, 5),
    st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 6)),
    st.booleans(),
    st.text("ab/.~(-) ", min_size=1, max_size=6).map(lambda s: f"'{s}'"),
    st.lists(st.integers(0, 3), max_size=3),
)


@given(
    st.dictionaries(st.sampled_from(["seed", "train.lr", "pattern"]), VALUES, min_size=1),
    st.dictionaries(st.sampled_from(["seed", "train.lr", "pattern"]), VALUES, min_size=1),
)
def test_what_is_set_otherwise_is_called_otherwise(
    one: dict[str, object], two: dict[str, object]
) -> None:
    grid = Grid("g", Path("unreadable.yaml"), "", None, (), {})
    texts = [[f"{key}={value}" for key, value in chosen.items()] for chosen in (one, two)]
    first, second = (board_name(grid, text) for text in texts)
    assert (first == second) == (
        {k: repr(v) for k, v in one.items()} == {k: repr(v) for k, v in two.items()}
    )
    assert all(c.isascii() and (c.isalnum() or c in "-_.=+") for c in first)
    assert len(first) < 120


def test_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"
    assert user_path("a/~b") == Path("a/~b")
    with pytest.raises(BenchError, match=r"(?s)here: there is no home folder '~nosuchuser'.*whole"):
        user_path("~nosuchuser/x", "here")
