"""WiSE-FT as runs: the ends of the mean are the ends of the fine-tuning, the middle is literal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import GridError, StoreError
from bench.grid.expand import load_grid
from bench.models import weights
from bench.planning.workspace import Session
from bench.results import leaderboard
from bench.results.lookup import read_network
from bench.results.mistakes import read_predictions
from bench.results.store import RunFolder
from bench.runs.averaged import averaged
from bench.runs.build import Context, Loader
from bench.runs.execution import Execution
from bench.runs.probed_head import probe_head
from bench.specs.run import RunSpec
from bench.training.evaluation import predict, top1_accuracy

Run = Callable[[Path, Path], Session]
GRID = """\
name: wise
defaults:
  target: {dataset: digits, images_per_class: 8, val_per_class: 3, test_per_class: 5}
  model: test_efficientnet
  source: self
  train: {epochs: 2, batch_size: 16, lr: 0.01}
  pretrain: {epochs: 1, batch_size: 16}
experiments:
  tuned: {set: {pattern: tune}, axes: {train.head: [random, probe]}}
  wise:
    set: {source: none, pattern: F(1-7), parent: {source: self, pattern: tune}}
    axes:
      method: [{name: wise, alpha: 0}, {name: wise, alpha: 0.25}, {name: wise, alpha: 1}]
      parent: PARENTS
"""
PARENTS = "\n".join(
    f"        - {{source: self, pattern: tune, train: {{head: {head}}}}}"
    for head in ("random", "probe")
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, run_here: Run) -> Session:
    folder = tmp_path_factory.mktemp("averaged")
    (folder / "grid.yaml").write_text(GRID.replace(" PARENTS", f"\n{PARENTS}"))
    return run_here(folder / "grid.yaml", folder / "results")


def _folder(session: Session, head: str, alpha: float | None) -> tuple[RunFolder, RunSpec]:
    """A fine-tuning, or the mean of its ends."""
    (run,) = (
        run
        for run in session.plan.runs.values()
        if run.role != "source"
        and dict(run.spec.method.options).get("alpha") == alpha
        and (run.spec if alpha is None else run.spec.parent).train.head == head
    )
    return session.store.folder(run.id, run.spec), run.spec


def _state(folder: RunFolder) -> dict[str, torch.Tensor]:
    return weights.read_state(folder.weights_path)


def _began(session: Session, head: str) -> dict[str, torch.Tensor]:
    """The fine-tuned network with all but its classifier put back by hand."""
    folder, spec = _folder(session, head, None)
    (source,) = (run for run in session.plan.runs.values() if run.role == "source")
    state = _state(session.store.folder(source.id, source.spec))
    tuned = _state(folder)
    if head == "probe":
        context = Context(results=str(session.store.root), device="cpu")
        execution = Execution(
            folder, spec, Loader(context)(spec), context, lambda _: None, lambda: False
        )
        model = execution.network(execution.parent_state())
        probe_head(execution, model)
        tuned = dict(model.state_dict())
    return {name: tuned[name] if "classifier" in name else state[name] for name in state}


@pytest.mark.parametrize("head", ["random", "probe"])
def test_the_ends_are_those_of_the_fine_tuning(done: Session, head: str) -> None:
    zero, one = (_folder(done, head, alpha)[0] for alpha in (0, 1))
    tuned = _folder(done, head, None)[0]
    expected = _began(done, head)
    assert any(not torch.equal(expected[name], value) for name, value in _state(tuned).items())
    for name, value in _state(zero).items():
        assert torch.equal(value, expected[name]), name
    for name, value in _state(one).items():
        assert torch.equal(value, _state(tuned)[name]), name
    np.testing.assert_array_equal(read_predictions(one).logits, read_predictions(tuned).logits)
    network = read_network(zero)
    network.model.load_state_dict(expected)
    network.model.to(memory_format=torch.channels_last)
    context = Context(results=str(done.store.root), device="cpu")
    test = Loader(context)(network.spec).domain("test", network.model)
    logits = predict(network.model.eval(), test)
    np.testing.assert_array_equal(read_predictions(zero).logits, logits)


@pytest.mark.parametrize("head", ["random", "probe"])
def test_between_them_lies_the_literal_mean_of_weights_and_statistics(
    done: Session, head: str
) -> None:
    start, end = _began(done, head), _state(_folder(done, head, None)[0])
    folder, spec = _folder(done, head, 0.25)
    assert any("running_var" in name for name in start)
    for name, value in _state(folder).items():
        expected = start[name]
        if value.is_floating_point():
            expected = torch.lerp(start[name], end[name], 0.25)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    network = read_network(folder)
    data = Loader(Context(results=str(done.store.root), device="cpu"))(spec)
    row = _record(folder)["row"]
    for split, column in (("val", "val_top1_accuracy"), ("test", "top1_accuracy")):
        domain = data.domain(split, network.model)
        assert row[column] == top1_accuracy(predict(network.model.eval(), domain), domain.labels)


def _record(folder: RunFolder) -> dict[str, Any]:
    record = folder.record()
    assert record is not None
    return record


def test_the_record_shows_that_nothing_was_trained(done: Session) -> None:
    record = _record(_folder(done, "probe", 0.25)[0])
    row = record["row"]
    assert [row[name] for name in ("steps", "trainable_parameters", "train_images")] == [0, 0, 80]
    for name in ("best_epoch", "epochs_run", "epochs_to_converge", "train_loss"):
        assert row[name] is None
    (note,) = record["notes"]["training"]
    assert note.startswith("at alpha 0 the classifier began as a logistic regression")
    rows = leaderboard.rows(done.plan, done.store)
    shown = {row["method_options"] for row in rows if row["method"] == "wise"}
    assert shown == {"alpha=0.0", "alpha=0.25", "alpha=1.0"}


@pytest.mark.parametrize("column", ["method.alpha", "method_options"])
def test_the_share_that_validation_chose_is_shown(done: Session, column: str) -> None:
    command = ["leaderboard", str(done.grid.path), "--results", str(done.store.root)]
    result = CliRunner().invoke(app, [*command, "--choose", column], env={"COLUMNS": "200"})
    assert result.exit_code == 0, repr(result.exception)
    shown = result.output.split("wise\n")[1].split("Intervals are")[0].splitlines()
    heading, *lines = [line.split() for line in shown[1:] if line.strip()]
    place = heading.index(column)
    assert len(lines) == 2
    for line in lines:
        head = line[heading.index("source.train.head")]
        best = max(
            (0, 0.25, 1),
            key=lambda alpha: _record(_folder(done, head, alpha)[0])["row"]["val_top1_accuracy"],
        )
        assert float(line[place].removeprefix("alpha=")) == best


def test_an_average_is_exported_with_its_share(done: Session, tmp_path: Path) -> None:
    folder = _folder(done, "random", 0.25)[0]
    command = ["export", str(folder.path), "--out", str(tmp_path / "m")]
    result = CliRunner().invoke(app, [*command, "--results", str(done.store.root)])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "m" / "README.md").read_text()
    assert "self > self T(1-6)R(7); layers F(1-7), method wise, alpha 0.25." in card


WAY = "give it a fine-tuning to start from, such as parent: {source: near, pattern: tune}, source: "
WAY += "none, pattern: F(1-7)"
NO_OTHER = "leave target, model and seed out of parent: it takes over the run's own"
WRONG = {
    "{source: self}": (
        "method 'wise' goes back from a fine-tuned parent to what it began with, and its parent "
        "began at random",
        WAY,
    ),
    "{source: none, pattern: R(1-7)}": (
        "method 'wise' goes back from a fine-tuned parent to what it began with, and there is no "
        "parent",
        WAY,
    ),
    "{pattern: F(1-6)R(7), parent: {source: self, pattern: tune}}": (
        "method 'wise' takes over all layers of its parent, but pattern is F(1-6)R(7)",
        "write pattern: F(1-7)",
    ),
    "{parent: {source: self, pattern: freeze, method: probe}}": (
        "method 'wise' averages networks, and method 'probe' of its parent trains none",
        "give parent a method with steps: plain, joint, soft, selective, soft_selective",
    ),
    "{parent: {source: self, pattern: tune, seed: 1}}": (
        "method 'wise' is for the target of its parent, but their seeds.draw differ",
        NO_OTHER,
    ),
    "{parent: {source: self, pattern: tune, target: {images_per_class: 9}}}": (
        "method 'wise' is for the target of its parent, but their target (images_per_class) differ",
        NO_OTHER,
    ),
}


@pytest.mark.parametrize("given", WRONG)
def test_what_cannot_be_averaged_is_an_error_of_the_grid(given: str, tmp_path: Path) -> None:
    message, way = WRONG[given]
    base = GRID.partition("experiments:")[0].replace("  source: self\n", "")
    text = f"{base}  pattern: F(1-7)\n  method: wise\nexperiments:\n  a: {{set: {given}}}\n"
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(GridError) as caught:
        load_grid(tmp_path / "grid.yaml")
    assert caught.value.message == f"{message} (experiment a)"
    assert caught.value.hint == way


def test_other_classes_are_refused(done: Session) -> None:
    folder, spec = _folder(done, "random", 0.25)
    classes = {"recipe": "listed", "names": ["1", "0", *"23456789"]}
    raw = spec.model_dump()
    raw["data"]["classes"] = classes
    other = RunSpec.model_validate(raw)
    context = Context(results=str(done.store.root), device="cpu")
    run = Execution(folder, other, Loader(context)(other), context, lambda _: None, lambda: False)
    with pytest.raises(StoreError, match="the classes of the target are not those of the run to"):
        averaged(run)
