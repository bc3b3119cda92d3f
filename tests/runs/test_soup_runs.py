"""Soups as runs of a grid: the plan has their ingredients, the mean is the literal one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from analysis.comparisons.pairing import pair
from analysis.leaderboard.read import LOSS, read, with_not_converged
from bench.commands.app import app
from bench.core.errors import GridError, ModelError
from bench.grid.expand import load_grid
from bench.models import weights
from bench.planning.plan import batches
from bench.planning.workspace import Session, open_session
from bench.results import leaderboard
from bench.results.lookup import read_network
from bench.results.mistakes import read_predictions
from bench.results.store import RunFolder
from bench.runs.build import Context, Loader
from bench.runs.soup import make_soup, mean_of
from bench.specs.planned import PlannedRun
from bench.specs.run import run_id
from bench.training.evaluation import predict, top1_accuracy

Run = Callable[[Path, Path], Session]
DEFAULTS = """\
name: soups
defaults:
  target: {dataset: digits, images_per_class: 12, val_per_class: 4, test_per_class: 6,
           image_size: 16}
  model: test_efficientnet
  source: self
  pattern: tune
  train: {epochs: 3, batch_size: 16, lr: 0.05}
  pretrain: {epochs: 12, batch_size: 16, lr: 0.1}
"""
GRID = f"""{DEFAULTS}\
experiments:
  plain: {{axes: {{train.lr: [0.02, 0.3]}}}}
  uniform: {{set: {{method: {{name: soup, over: {{train.lr: [0.02, 0.3], seeds.order: [0, 1]}}}}}}}}
  greedy:
    set:
      train.lr: 0.7     # whatever stands here: the runs have those of over
      method: {{name: soup, choose: greedy, over: {{seeds.order: [0, 1], train.lr: [0.02, 0.3]}}}}
  alone: {{set: {{method: {{name: soup, over: {{train.lr: [0.3]}}}}}}}}
  refit:
    set: {{train.epochs: 1}}
    include:
      - {{method: {{name: soup, over: {{train.refit: [true]}}}}}}
      - {{method: {{name: wise, alpha: 1}}, source: none, pattern: F(1-7),
          parent: {{source: self, pattern: tune, train: {{epochs: 1, refit: true}}}}}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The grid, run by the command as a user runs it."""
    folder = tmp_path_factory.mktemp("soups")
    (folder / "grid.yaml").write_text(GRID)
    command = ["grid", "grid.yaml", "--workers", "1"]
    with contextlib.chdir(folder):
        ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    return open_session(folder / "grid.yaml", results=folder / "results")


def _planned(session: Session, experiment: str) -> list[PlannedRun]:
    return [run for run in session.plan.runs.values() if experiment in run.experiments]


def _folder(session: Session, run: PlannedRun) -> RunFolder:
    return session.store.folder(run.id, run.spec)


def _record(session: Session, run: PlannedRun) -> dict[str, Any]:
    record = _folder(session, run).record()
    assert record is not None
    return record


def _ingredients(session: Session, run: PlannedRun) -> list[PlannedRun]:
    return [session.plan.runs[key] for key in run.ingredient_ids]


def _states(session: Session, runs: list[PlannedRun]) -> list[dict[str, torch.Tensor]]:
    return [weights.read_state(_folder(session, run).weights_path) for run in runs]


def test_the_plan_has_the_runs_that_differ_in_what_is_stated(done: Session) -> None:
    (soup,) = _planned(done, "uniform")
    runs = _ingredients(done, soup)
    found = [(run.spec.train.lr, run.spec.seeds.order) for run in runs]
    assert found == [(0.02, 0), (0.3, 0), (0.02, 1), (0.3, 1)]
    assert {run.spec.method.name for run in runs} == {"plain"}
    assert {run.parent_id for run in runs} == {soup.parent_id}
    assert [runs[0], runs[1]] == _planned(done, "plain")
    assert [run.role for run in runs] == ["finetune", "finetune", "ingredient", "ingredient"]
    images = Context(results=str(done.store.root)).fingerprint
    assert [run_id(spec, images) for spec in soup.spec.needs] == list(soup.needs)
    together = batches(list(done.plan.runs.values()), cost_s=lambda run: 0.0, limit_s=1e9)
    for batch in together:
        assert not set(batch.needs) & {run.id for run in batch.runs}
        assert all(run.needs == batch.needs for run in batch.runs)


def test_a_soup_of_one_run_is_that_run(done: Session) -> None:
    (soup,) = _planned(done, "alone")
    (run,) = _ingredients(done, soup)
    (own,), (expected,) = _states(done, [soup]), _states(done, [run])
    for name, value in own.items():
        assert torch.equal(value, expected[name]), name
    found, stored = (read_predictions(_folder(done, one)) for one in (soup, run))
    np.testing.assert_array_equal(found.logits, stored.logits)
    assert found.images == stored.images
    rows = [_record(done, one)["row"] for one in (soup, run)]
    assert rows[0]["val_top1_accuracy"] == rows[1]["val_top1_accuracy"]


def test_a_uniform_soup_has_the_mean_of_the_weights(done: Session) -> None:
    (soup,) = _planned(done, "uniform")
    states = _states(done, _ingredients(done, soup))
    (own,) = _states(done, [soup])
    assert any("running_var" in name for name in own)
    for name, value in own.items():
        every = [state[name].numpy() for state in states]
        expected = every[0]
        if value.is_floating_point():
            expected = np.mean([one.astype(np.float64) for one in every], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-8)
    exported = make_soup(
        [_folder(done, run) for run in _ingredients(done, soup)], "uniform", _context(done)
    )
    for name, value in exported.network.model.state_dict().items():
        assert torch.equal(value, own[name]), name


def _context(session: Session) -> Context:
    return Context(results=str(session.store.root), device="cpu")


def test_a_greedy_soup_is_its_literal_twin(done: Session) -> None:
    (soup,) = _planned(done, "greedy")
    assert soup.ingredient_ids == _planned(done, "uniform")[0].ingredient_ids
    runs = _ingredients(done, soup)
    network = read_network(_folder(done, soup))
    held = Loader(_context(done))(soup.spec).domain("val", network.model)
    states = _states(done, runs)

    def accuracy(places: list[int]) -> float:
        for name, value in network.model.state_dict().items():
            every = torch.stack([states[n][name].double() for n in places])
            value.copy_(every.mean(0) if value.is_floating_point() else every[0])
        logits = predict(network.model.eval(), held)
        return top1_accuracy(logits, held.labels)

    alone = [_record(done, run)["row"]["val_top1_accuracy"] for run in runs]
    order = sorted(range(len(runs)), key=lambda n: -alone[n])  # stable: of equal ones the first
    kept = order[:1]
    for n in order[1:]:
        if accuracy([*kept, n]) >= accuracy(kept):
            kept.append(n)
    record = _record(done, soup)
    averaged = record["notes"]["method"]["averaged"]
    assert [one["run"] for one in averaged] == [run.id for run in runs]
    assert [one["val_top1_accuracy"] for one in averaged] == alone
    assert [n for n, one in enumerate(averaged) if one["used"]] == sorted(kept)
    assert record["row"]["val_top1_accuracy"] == accuracy(kept)
    assert record["notes"]["training"] == [f"the mean of the weights of {len(kept)} of 4 runs"]
    for name, value in _states(done, [soup])[0].items():
        torch.testing.assert_close(value, network.model.state_dict()[name], rtol=1e-6, atol=1e-7)


def test_the_row_shows_that_nothing_was_trained_and_is_compared_with_one_run(
    done: Session,
) -> None:
    board = with_not_converged(read(done.store.leaderboard("soups")))
    soups = board[board["method"] == "soup"]
    assert set(soups["steps"]) == {0}
    assert set(soups["trainable_parameters"]) == {0}
    assert soups[["epochs_run", "best_epoch", "epochs_to_converge"]].isna().all(axis=None)
    (greedy,) = soups[soups["experiments"] == "greedy"].to_dict("records")
    assert greedy["method.over"] == '{"seeds.order": [0, 1], "train.lr": [0.02, 0.3]}'
    assert (greedy["lr"], greedy["seed_order"]) == (0.02, 0)
    plain = board[board["experiments"] == "plain"]
    found = pair(board, board["method"] == "soup", board["method"] == "plain", LOSS).frame
    greedy_pairs = found[found["experiments"] == "greedy"]
    assert list(greedy_pairs["lr"]) == [0.02]
    expected = greedy["top1_accuracy"] - plain.set_index("lr")["top1_accuracy"][0.02]
    np.testing.assert_allclose(greedy_pairs["difference"], [expected], atol=1e-6)
    assert found["comparison"].nunique() == len(found)


def test_a_soup_of_runs_that_learned_nothing_is_marked(done: Session) -> None:
    rows = {row["run_id"]: row for row in leaderboard.rows(done.plan, done.store)}
    for soup in [run for run in done.plan.runs.values() if run.ingredient_ids]:
        learned = [rows[key]["not_converged"] is None for key in soup.ingredient_ids]
        assert rows[soup.id]["not_converged"] == (None if any(learned) else "source")
    assert {rows[run.id]["not_converged"] for run in _planned(done, "alone")} == {"source"}


def test_images_that_a_run_learned_validate_no_mean_of_it(done: Session) -> None:
    _, *runs = _planned(done, "refit")
    assert [run.spec.method.name for run in runs] == ["soup", "wise"]
    (ingredient,) = _ingredients(done, runs[0])
    assert ingredient.id == runs[1].parent_id
    assert _record(done, ingredient)["row"]["val_top1_accuracy"] is not None
    for run in runs:
        assert _record(done, run)["row"]["val_top1_accuracy"] is None


def test_nothing_to_choose_by_is_an_error_of_the_run() -> None:
    with pytest.raises(ModelError, match="a greedy soup chooses on validation images, and there"):
        mean_of([{"w": torch.zeros(1)}], "greedy", None)


# --- grids ----------------------------------------------------------------------------------------


def _expanded(tmp_path: Path, experiment: str) -> list[Any]:
    (tmp_path / "grid.yaml").write_text(f"{DEFAULTS}experiments:\n  a: {experiment}\n")
    (found,) = load_grid(tmp_path / "grid.yaml").experiments
    return list(found.runs)


def test_equal_soups_are_one_run_however_they_are_written(tmp_path: Path) -> None:
    soups = _expanded(
        tmp_path,
        "{axes: {train.lr: [0.3, 0.4], method: ["
        "{name: soup, over: {train.lr: [1, 2.0], seeds.order: [3, 4]}}, "
        "{name: soup, choose: uniform, over: {seeds.order: [3, 4], train.lr: [1.0, 2]}}]}}",
    )
    assert len({run_id(spec, lambda run: "images") for spec in soups}) == 1
    assert (soups[0].train.lr, soups[0].seeds.order) == (1.0, 3)


def test_seeds_repeat_a_soup_that_varies_seeds(tmp_path: Path) -> None:
    over = "{name: soup, over: {seeds.order: [1, 2]}}"
    soups = _expanded(tmp_path, f"{{set: {{source: {{dataset: wordnet-shapes}}, method: {over}}}, "
                      "axes: {seed: [0, 2]}}")  # fmt: skip
    shown = [(s.seeds.draw, s.seeds.init, s.seeds.order) for s in soups]
    assert shown == [(0, 0, 1), (2, 2, 2)]
    averaged = [[(i.seeds.draw, i.seeds.order) for i in s.ingredients] for s in soups]
    assert averaged == [[(0, 1), (0, 2)], [(2, 1), (2, 2)]]


NO_MEAN = "so a mean of their weights is no network"
WRONG = {
    "{name: soup}": ("method 'soup' needs over", None),
    "{name: soup, over: {}}": ("method 'soup': over is {}", None),
    "{name: soup, over: {train.lr: 0.1}}": ("method 'soup': over.train.lr is 0.1", None),
    "{name: soup, over: {train.lr: []}}": (
        "method.over: train.lr has no values",
        "write [a, b, …]",
    ),
    "{name: soup, over: {seed: [0, 1]}}": (
        "method.over has seed, but the runs of a soup learn the same images",
        "write seeds.order or seeds.init; an axis of seeds repeats the soup",
    ),
    "{name: soup, over: {train.lrr: [0.1]}}": (
        "method.over has no key 'train.lrr'",
        "its keys: train.lr, ",
    ),
    "{name: soup, over: {train.lr: [0.1, fast]}}": (
        "a run of method.over cannot be: lr is 'fast': expected a number",
        None,
    ),
    "{name: soup, over: {train.lr: [0.1, 0.1]}}": (
        "method.over: train.lr has a value twice: 0.1, 0.1",
        "a run counts once in a mean",
    ),
    "{name: soup, over: {train.l2_sp: [0.1], train.tuned: [lora]}}": (
        "a run of method.over cannot be: l2_sp is 0.1, but tuned is lora",
        None,
    ),
    "{name: soup, over: {train.warmup_epochs: [0.0, 9.0]}}": (
        "train.warmup_epochs is 9, more than train.epochs: 3",
        "set warmup_epochs to less than 3, or more epochs",
    ),
    "{name: soup, over: {seeds.order: [EVERY]}}": (
        "method.over makes 1,001 runs, more than 1,000",
        "take fewer values",
    ),
    "{name: soup, choose: greedy, over: {train.refit: [false, true]}}": (
        "a greedy soup chooses on validation images, and its runs learn from them too "
        "(train.refit)",
        "write choose: uniform, or keep validation images apart",
    ),
    "{name: soup, choose: greedy, over: {train.lr: [1.0]}}, "
    "target.val_per_class: 0, train.select: last, pretrain.select: last": (
        "a greedy soup chooses on validation images, and its runs have none",
        "write choose: uniform, or keep validation images apart",
    ),
    "{name: soup, over: {seeds.init: [0, 1]}}, pattern: T(1-5)R(6-7)": (
        "the runs of method.over differ in their layers that begin at random below the "
        f"classifier, {NO_MEAN}",
        "leave seeds.init out of over, or copy these layers too",
    ),
    "{name: soup, over: {seeds.order: [0, 1]}}, source: none, pattern: scratch": (
        f"2 runs from random weights have nothing in common, {NO_MEAN}",
        "give them a source to start from, and a pattern that copies layers",
    ),
}


@pytest.mark.parametrize("given", WRONG)
def test_what_cannot_be_averaged_is_an_error_of_the_grid(given: str, tmp_path: Path) -> None:
    message, way = WRONG[given]
    method = given.replace("EVERY", ", ".join(map(str, range(1001))))
    with pytest.raises(GridError) as caught:
        _expanded(tmp_path, f"{{set: {{method: {method}}}}}")
    assert caught.value.message.startswith(message), caught.value.message
    assert caught.value.message.endswith("(experiment a)")
    assert caught.value.place == f"{tmp_path / 'grid.yaml'}:11"
    if way is not None:
        assert (caught.value.hint or "").startswith(way), caught.value.hint
