"""A grid raced within a time: rungs halve on validation images, and one recipe is tested."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError, GridError
from bench.grid.expand import load_grid
from bench.planning.workspace import open_session
from bench.specs.race import RaceSpec
from bench.specs.run import RunSpec

GRID = """
name: raced
defaults:
  target: {dataset: digits, classes: {recipe: listed, names: ['0', '1', '2']}, images_per_class: 12,
           val_per_class: 10, test_per_class: 20, image_size: 16}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 8, batch_size: 12}
experiments:
  rates:
    axes: {train.lr: [0.02, 0.000001, 0.01, 1000.0], seed: [0, 1]}
"""
ONE = GRID.replace("[0.02, 0.000001, 0.01, 1000.0]", "[0.02]").replace("epochs: 8", "epochs: 1")


def _race(folder: Path, *options: str, grid: str = GRID) -> str:
    (folder / "raced.yaml").write_text(grid)
    command = ["grid", str(folder / "raced.yaml"), "--results", str(folder / "results")]
    done = CliRunner().invoke(app, [*command, "--workers", "1", "--device", "cpu", *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_rungs_halve_untested_and_the_winner_is_run_as_the_grid_has_it(tmp_path: Path) -> None:
    shown = _race(tmp_path, "--budget", "1h")
    assert "% of 60 test images" in shown
    results = tmp_path / "results"
    with (results / "raced-race.csv").open(newline="") as file:
        places = {row["recipe"]: row for row in csv.DictReader(file)}
    assert len(places) == 4
    assert [row["rung"] for row in places.values()].count("1") == 2
    assert {row["epochs"] for row in places.values() if row["rung"] == "1"} == {"2"}
    (winner,) = [name for name, row in places.items() if row["end"] == "chosen"]
    second = {name: row for name, row in places.items() if row["rung"] == "2"}
    assert {row["epochs"] for row in second.values()} == {"4"}
    assert float(second[winner]["val_top1_accuracy"]) == max(
        float(row["val_top1_accuracy"]) for row in second.values()
    )
    assert "1000.0" not in winner
    # Of the grid's eight runs the winner's two are done and tested; no rung has read a test image.
    session = open_session(tmp_path / "raced.yaml", results=results)
    done = [key for key, state in session.states().items() if state == "done"]
    assert {f"lr {session.plan.runs[key].spec.train.lr}" in winner for key in done} == {True}
    assert len(done) == 2
    tested = set()
    for path in (results / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["row"].get("top1_accuracy") is not None:
            tested.add(record["run_id"])
    assert tested == set(done)
    # The same command goes on: nothing is left to run.
    times = {path: path.stat().st_mtime_ns for path in (results / "runs").glob("*/record.json")}
    _race(tmp_path, "--budget", "1h")
    assert times == {p: p.stat().st_mtime_ns for p in (results / "runs").glob("*/record.json")}


def test_a_dry_run_shows_the_rungs_and_a_time_that_is_too_short_is_refused(tmp_path: Path) -> None:
    shown = _race(tmp_path, "--budget", "1h", "--dry-run")
    assert "rung 1: 4 recipes, 25 % of the epochs, about" in shown
    assert "rung 2: 2 recipes, 50 % of the epochs, about" in shown
    with pytest.raises(BenchError, match="a race of 4 recipes takes at least"):
        _race(tmp_path, "--budget", "1s")
    assert not (tmp_path / "results" / "runs").exists()


def test_the_time_of_a_race_goes_on_and_one_of_other_recipes_has_its_own(tmp_path: Path) -> None:
    _race(tmp_path, "--budget", "1h", grid=ONE)
    state = tmp_path / "results" / "raced-race.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"spent_s": 3599.9}))
    # The same recipe goes on, although all of its runs would not fit what is left.
    assert "% of 60 test images" in _race(tmp_path, "--budget", "1h", grid=ONE)
    # Of the four that the grid has now nothing is planned or spent yet.
    shown = _race(tmp_path, "--budget", "1h", "--dry-run")
    assert "rung 2: 2 recipes, 50 % of the epochs, about" in shown


def test_a_rung_in_which_all_recipes_fail_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    for torn in (tmp_path / "images" / "a").iterdir():
        torn.write_bytes(torn.read_bytes()[:200])
    target = "{dataset: folder, root: images, image_size: 16, val_per_class: 8, test_per_class: 8}"
    grid = re.sub(r"target: \{.*?\}.*?\}", f"target: {target}", GRID, flags=re.S)
    for _ in range(2):  # the second command finds them as the first has left them
        with pytest.raises(BenchError, match="all recipes of rung 1 failed"):
            _race(tmp_path, "--budget", "1h", "--accept-problems", grid=grid)


# --- the section race: ---

RACED = GRID + "race: {budget: 1h, seeds: 1}\n"


def test_the_section_races_and_the_command_line_goes_before(tmp_path: Path) -> None:
    shown = _race(tmp_path, "--dry-run", grid=RACED)
    assert f"{tmp_path / 'raced.yaml'}:12: its recipes race, within 1h; --budget none" in shown
    assert "rung 2: 2 recipes, 50 % of the epochs, about" in shown
    with pytest.raises(
        BenchError, match=r"takes at least .* and the budget leaves \S+ s"
    ) as caught:
        _race(tmp_path, "--dry-run", "--budget", "1s", grid=RACED)
    assert caught.value.place == f"{tmp_path / 'raced.yaml'}:12"
    shown = _race(tmp_path, "--dry-run", "--budget", "none", grid=RACED)
    assert "rung" not in shown
    assert "8 runs" in shown


def test_the_section_changes_no_run_and_a_preset_may_lay_it_over(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(GRID)
    more = RACED + "presets: {short: {race: {budget: 10m}}, whole: {race: null}}\n"
    (tmp_path / "raced.yaml").write_text(more)
    results = tmp_path / "results"
    plain, raced = (
        open_session(tmp_path / f"{name}.yaml", results=results) for name in ("plain", "raced")
    )
    assert list(plain.plan.runs) == list(raced.plan.runs)
    assert plain.grid.race is None
    for preset, budget in (("short", "10m"), ("whole", None)):
        race = load_grid(tmp_path / "raced.yaml", overrides=[f"preset={preset}"]).race
        assert (race and race.budget) == budget
    assert raced.grid.race == RaceSpec(budget="1h", seeds=1)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("race: soon", "race: expected a mapping, found 'soon'; keys: budget, seeds"),
        ("race: {budgets: 1h}", "unknown key 'budgets' in race; known: budget, seeds"),
        ("race: {seeds: 1}", "race: there is no budget; race: {budget: 30m}; write a time such as"),
        ("race: {budget: 30}", "race.budget is 30: expected text; write a time such as 30m"),
        ("race: {budget: soon}", "race.budget is 'soon': not a time; write a time such as 30m"),
        ("race: {budget: 1h, seeds: 0}", "race.seeds is 0: must be at least 1; write 1 or more"),
    ],
)
def test_what_is_wrong_with_the_section_has_its_line(
    tmp_path: Path, section: str, message: str
) -> None:
    (tmp_path / "raced.yaml").write_text(f"{GRID}{section}\n")
    with pytest.raises(GridError) as caught:
        load_grid(tmp_path / "raced.yaml")
    assert caught.value.place == f"{tmp_path / 'raced.yaml'}:12"
    assert f"{caught.value.message}; {caught.value.hint}".startswith(message)


def test_the_recipe_that_is_left_has_as_many_seeds_as_the_section_says(tmp_path: Path) -> None:
    shown = _race(tmp_path, grid=ONE + "race: {budget: 1h, seeds: 1}\n")
    assert len(re.search(r"([\d., ]+) % of 60 test images", shown)[1].split(",")) == 1  # type: ignore[index]
    with pytest.raises(BenchError, match=r"race.seeds is 5, and a recipe has 2 runs") as caught:
        _race(tmp_path, "--dry-run", grid=GRID + "race: {budget: 1h, seeds: 5}\n")
    assert caught.value.place == f"{tmp_path / 'raced.yaml'}:12"


SOUP = """  mean:
    set:
      source: self
      pattern: tune
      method: {name: soup, over: {train.lr: [0.02, 0.01]}}
"""
WISE = """  between:
    set: {method: wise, source: none, pattern: F(1-8), parent: {source: self, pattern: tune}}
"""


@pytest.mark.parametrize(
    ("experiment", "text"), [("mean", SOUP), ("between", WISE)], ids=["soup", "wise"]
)
def test_means_of_finished_runs_do_not_race(tmp_path: Path, experiment: str, text: str) -> None:
    """Their runs would have all their epochs in a rung that gives others a share of theirs."""
    with pytest.raises(BenchError) as caught:
        _race(tmp_path, "--budget", "1h", "--dry-run", grid=GRID + text)
    method = "soup" if text == SOUP else "wise"
    assert caught.value.message == (
        f"experiment {experiment} has method: {method}, which averages finished runs: in a race "
        "these would train for all their epochs, and other recipes for a share of theirs"
    )
    assert caught.value.hint == (
        "--budget none runs the whole grid; or race other experiments by --only"
    )
    _race(tmp_path, "--budget", "none", "--dry-run", grid=GRID + text)
    shown = _race(tmp_path, "--budget", "1h", "--only", "rates", "--dry-run", grid=GRID + text)
    assert "rung 1: 4 recipes" in shown


CHAINS = """
name: raced
defaults:
  target: {dataset: digits, classes: {recipe: listed, names: ['0', '1', '2']}, images_per_class: 12,
           val_per_class: 10, test_per_class: 20, image_size: 16}
  model: narrow8_32
  train: {epochs: 2, batch_size: 12, evaluate_every: 8}
sources:
  others: {classes: {recipe: listed, names: ['7', '8', '9']}, val_per_class: 2}
experiments:
  tuned: {set: {source: others, pattern: tune, pretrain: {epochs: 5}}}
  probed_first:
    set:
      pattern: tune
      parent: {source: others, pattern: freeze, pretrain: {epochs: 5}}
"""


def test_what_a_recipe_starts_from_on_the_target_follows_the_rung(tmp_path: Path) -> None:
    """A first stage on the target's images is part of the recipe; a source is none of it."""
    _race(tmp_path, "--budget", "1h", grid=CHAINS)
    session = open_session(tmp_path / "raced.yaml", results=tmp_path / "results")
    epochs = []
    for path in session.store.runs.glob("*/spec.json"):
        spec = RunSpec.model_validate_json(path.read_text())
        stages = [spec, *spec.ancestors()]
        epochs.append([stage.train.epochs for stage in stages])
        if (path.parent / "record.json").is_file() and len(stages) > 1:
            row = json.loads((path.parent / "record.json").read_text())["row"]
            assert ("top1_accuracy" in row) == (spec.train.epochs == 2)
    winner = [one for one in epochs if one[0] == 2]
    assert sorted(one for one in epochs if one[0] != 2) == [[1, 1, 5], [1, 5], [1, 5], [5]]
    assert sorted(winner) in ([[2, 5]], [[2, 2, 5], [2, 5]])
