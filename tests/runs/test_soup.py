"""Soups of finished runs: the literal mean of their weights, chosen on validation images only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError
from bench.exports.card import accuracy_with_interval
from bench.exports.model_folder import read_model
from bench.methods.averaging import Recipe
from bench.models import weights
from bench.planning.workspace import Session
from bench.results.mistakes import read_predictions
from bench.results.store import RunFolder
from bench.runs.build import Context, Loader
from bench.runs.soup import make_soup
from bench.training.evaluation import predict, top1_accuracy

Run = Callable[[Path, Path], Session]
GRID = """\
name: soup
defaults:
  target: {dataset: digits, images_per_class: 12, val_per_class: 4, test_per_class: 6,
           image_size: 16, tested: TESTED}
  model: test_efficientnet
  source: self
  pattern: tune
  train: {epochs: 2, batch_size: 16, lr: 0.05}
  pretrain: {epochs: 6, batch_size: 16, lr: 0.2}
experiments:
  soup: {zip: [{train.lr: [0.02, 0.1, 0.02], seeds.order: [1, 2, 3]}]}
"""
OTHERS = """\
  others:
    set: {train.epochs: 1}
    axes: {}
    include:
      - {seed: 1}
      - {train.refit: true}
      - {source: none, pattern: scratch}
      - {source: none, pattern: scratch, seeds.init: 1}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, run_here: Run) -> Session:
    folder = tmp_path_factory.mktemp("soup")
    (folder / "grid.yaml").write_text(GRID.replace("TESTED", "true") + OTHERS)
    return run_here(folder / "grid.yaml", folder / "results")


def _folders(session: Session, experiment: str = "soup") -> list[RunFolder]:
    return [
        session.store.folder(run.id, run.spec)
        for run in session.plan.runs.values()
        if experiment in run.experiments
    ]


def _context(session: Session) -> Context:
    return Context(results=str(session.store.root), device="cpu")


def _export(session: Session, folders: list[RunFolder], *options: str) -> str:
    paths = [str(folder.path) for folder in folders]
    command = ["export", *paths, *options, "--results", str(session.store.root)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, repr(result.exception)
    return result.output


@pytest.mark.parametrize("recipe", ["uniform", "greedy"])
def test_a_soup_of_one_run_is_that_run(done: Session, recipe: Recipe) -> None:
    folder = _folders(done)[0]
    soup = make_soup([folder], recipe, _context(done))
    stored = read_predictions(folder)
    for name, value in weights.read_state(folder.weights_path).items():
        assert torch.equal(soup.network.model.state_dict()[name], value)
    np.testing.assert_allclose(soup.predictions.logits, stored.logits, rtol=0, atol=1e-5)
    assert soup.predictions.images == stored.images
    assert soup.val_accuracy == _row(folder)["val_top1_accuracy"]


def _row(folder: RunFolder) -> dict[str, float]:
    record = folder.record()
    assert record is not None
    row: dict[str, float] = record["row"]
    return row


def test_a_uniform_soup_is_the_mean_of_what_the_runs_keep(done: Session, tmp_path: Path) -> None:
    folders = _folders(done)
    words = _export(done, folders, "--soup", "uniform", "--out", str(tmp_path / "m"))
    states = [weights.read_state(folder.weights_path) for folder in folders]
    model = read_model(tmp_path / "m")
    for name, value in model.network.state_dict().items():
        expected = states[0][name]
        if value.is_floating_point():
            expected = torch.stack([state[name].double() for state in states]).mean(0).float()
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)
    data = Loader(_context(done))(folders[0].spec())
    test, held = (data.domain(split, model.network) for split in ("test", "val"))
    right = top1_accuracy(predict(model.network, test), test.labels)
    chosen = top1_accuracy(predict(model.network, held), held.labels)
    assert f"accuracy: {100 * right:.1f} % (" in words
    alone = [_row(folder)["val_top1_accuracy"] for folder in folders]
    assert f"validation: {100 * chosen:.1f} %, the best run alone {100 * max(alone):.1f} %" in words
    assert "uniform soup: the mean of the weights of 3 of 3 runs" in words
    card = (tmp_path / "m" / "README.md").read_text()
    for folder, accuracy in zip(folders, alone, strict=True):
        line = f"in   {100 * accuracy:.1f} % on validation images, {folder.path.name}"
        assert line in words
        assert line in card
    assert f"Accuracy: {100 * right:.1f} % (" in card
    assert "bench errors" not in card


def test_a_greedy_soup_is_on_validation_images_as_good_as_its_best_run(done: Session) -> None:
    folders = _folders(done)
    soup = make_soup(folders, "greedy", _context(done))
    alone = [_row(folder)["val_top1_accuracy"] for folder in folders]
    assert [one.val_accuracy for one in soup.ingredients] == alone
    assert soup.best.used
    assert soup.best.val_accuracy == max(alone)
    assert soup.val_accuracy is not None
    assert soup.val_accuracy >= max(alone)
    used = [one.folder for one in soup.ingredients if one.used]
    again = make_soup(used, "uniform", _context(done))
    np.testing.assert_array_equal(again.predictions.logits, soup.predictions.logits)
    assert again.val_accuracy == soup.val_accuracy


def test_untested_runs_are_tested_as_a_soup_alone(tmp_path: Path, run_here: Run) -> None:
    (tmp_path / "grid.yaml").write_text(GRID.replace("TESTED", "false"))
    session = run_here(tmp_path / "grid.yaml", tmp_path / "results")
    folders = _folders(session)
    assert [_row(folder)["test_images"] for folder in folders] == [0, 0, 0]
    soup = make_soup(folders, "greedy", _context(session))
    words = _export(session, folders, "--soup", "greedy")
    assert f"accuracy: {accuracy_with_interval(soup.predictions)}" in words
    assert len(soup.predictions.labels) == 60
    assert "against that run" not in words
    (model,) = (session.store.root / "models").iterdir()
    assert model.name == f"{folders[0].path.name[:-24]}-greedy-soup"


def _refusal(folders: list[RunFolder], recipe: Recipe, session: Session) -> tuple[str, str | None]:
    with pytest.raises(BenchError) as caught:
        make_soup(folders, recipe, _context(session))
    return caught.value.message, caught.value.hint


def test_runs_that_have_no_mean_are_refused(done: Session) -> None:
    run = _folders(done)[0]
    plain, drawn, refit, scratch, other = _folders(done, "others")
    hint = (
        "name runs of one target, network, source and draw of images (seeds.draw), which may "
        "differ in recipe and in other seeds"
    )
    why = "so a mean of their weights has no meaning or no validation images of its own"
    for second, what in ((drawn, "source"), (scratch, "source")):
        message = f"runs {run.path.name} and {second.path.name} differ in their {what}, {why}"
        assert _refusal([run, second], "uniform", done) == (message, hint)
    assert _refusal([run, run], "uniform", done) == (
        f"run {run.path.name} is named twice",
        "name each run of a soup once",
    )
    assert _refusal([scratch, other], "uniform", done) == (
        "2 runs from random weights have nothing in common, so a mean of their weights is no "
        "network",
        "name runs that were tuned from the same source",
    )
    assert _refusal([plain, refit], "greedy", done) == (
        "a greedy soup chooses on validation images, and these runs learned from them too "
        "(train.refit)",
        "use --soup uniform, or runs that keep validation images apart",
    )
    assert make_soup([plain, refit], "uniform", _context(done)).val_accuracy is None


def test_several_runs_need_a_soup(done: Session) -> None:
    paths = [str(folder.path) for folder in _folders(done)]
    result = CliRunner().invoke(app, ["export", *paths, "--results", str(done.store.root)])
    assert isinstance(result.exception, BenchError)
    assert result.exception.message == "3 runs are named, and a model is of one"
