"""Runs that train again on training and validation images, once the epoch is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from bench.core.errors import GridError
from bench.grid.errors import CellError
from bench.grid.validate import check_training
from bench.methods import check_run
from bench.models import layers
from bench.models.numbering import numbered_layers
from bench.results.store import RunFolder, Store
from bench.runs.build import Context, Loader, build_method
from bench.runs.execute import execute_batch
from bench.runs.fused_heads import fuse_key
from bench.runs.refit import both_trainings
from bench.specs.data import Borrowed, DataSpec, SourceCategories
from bench.specs.run import FromRun, MethodSpec, ModelSpec, RunSpec, TrainSpec, run_id
from bench.training import evaluation as evaluate
from bench.training.job import Outcome, TrainingJob
from bench.training.loop import train

CLASSES, IMAGES, VALIDATION = 4, 6, 3


def _data(side: Any, n: int | None, **changes: Any) -> DataSpec:
    given = {"images_per_class": IMAGES, "val_per_class": VALIDATION, "test_per_class": 8}
    classes = SourceCategories(side=side, target_n=CLASSES, n=n)
    return DataSpec.model_validate({"dataset": "digits", "classes": classes} | given | changes)


TARGET = _data("target", None)
MODEL = ModelSpec(name="narrow8_32", drop_rate=0.3)
RECIPE = TrainSpec(epochs=6, batch_size=8, lr=0.03, augment="crop_flip")
PARENT = RunSpec(data=_data("source", 5), model=MODEL, pattern="R(1-8)", train=RECIPE)


def tuned(refit: bool = True, *, pattern: str = "T(1-7)R(8)", **changes: Any) -> RunSpec:
    name, options = changes.pop("method", "plain"), changes.pop("options", {})
    recipe = RECIPE.model_copy(update={"refit": refit, **changes.pop("train", {})})
    return RunSpec(
        data=changes.pop("data", TARGET),
        model=MODEL,
        pattern=pattern,
        init=FromRun(run=PARENT),
        method=MethodSpec(name=name, options=tuple(sorted(options.items()))),
        train=recipe,
        **changes,
    )


class Bench:
    """A results folder, and runs executed in it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.context = Context(results=str(folder), device="cpu", **options)
        self.store = Store(folder)
        self.events: list[dict[str, Any]] = []

    def folder(self, spec: RunSpec) -> RunFolder:
        return self.store.folder(run_id(spec, self.context.fingerprint), spec)

    def run(self, *specs: RunSpec, stop: Callable[[], bool] = lambda: False) -> str:
        keyed = [(run_id(spec, self.context.fingerprint), spec) for spec in specs]
        self.events = []
        execute_batch(keyed, self.context, report=self.events.append, should_stop=stop)
        ended = [event for event in self.events if event["event"] == "ended"]
        return str(ended[-1]["status"]) if ended else "stopped"

    def record(self, spec: RunSpec) -> dict[str, Any]:
        record = self.folder(spec).record()
        if record is None:
            assert self.run(spec) == "done", self.events[-1]
            record = self.folder(spec).record()
        assert record is not None
        return record

    def weights(self, spec: RunSpec) -> dict[str, torch.Tensor]:
        self.record(spec)
        return load_file(self.folder(spec).weights_path)


Made = Callable[..., Bench]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Gives a results folder with the parent, which is trained once and copied into each."""
    torch.set_num_threads(1)
    first = tmp_path_factory.mktemp("parent") / "results"
    Bench(first).record(PARENT)

    def make(folder: Path, **options: Any) -> Bench:
        shutil.copytree(first, folder)
        return Bench(folder, **options)

    return make


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Bench:
    return made(tmp_path_factory.mktemp("bench") / "results")


def second_network(bench: Bench, spec: RunSpec, epochs: int) -> dict[str, torch.Tensor]:
    """The slow twin: all epochs on all images, and what the weights were after so many."""
    data = Loader(bench.context)(spec).joined()
    model = layers.create(spec.model, CLASSES, seed=spec.seeds.init, image_size=32)
    layers.apply_pattern(model, spec.layers, bench.weights(PARENT))
    job = TrainingJob(
        model=model,
        method=build_method(spec, data, model, bench.context),
        groups=layers.parameter_groups(model, spec.layers, spec.train),
        train=spec.train.model_copy(update={"select": "last", "refit": False}),
        order_seed=spec.seeds.order,
        set_modes=layers.freeze_modes(model, spec.layers, spec.train.frozen_dropout),
        keep_before=(epochs,),
    )
    outcome = train(job)
    return outcome.kept[0] if outcome.kept else outcome.state


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_the_second_network_is_trained_on_all_images_for_the_epochs_chosen(bench: Bench) -> None:
    first, record = bench.record(tuned(refit=False)), bench.record(tuned())
    row, note = record["row"], record["notes"]["refit"]
    assert "refit" not in first["notes"]
    assert note["images"] == CLASSES * (IMAGES + VALIDATION)
    assert note["epochs"] == row["best_epoch"] == first["row"]["best_epoch"]
    assert note["epochs"] < RECIPE.epochs  # else it would not be seen where the second ends
    for column in ("val_top1_accuracy", "train_loss", "epochs_run", "train_images", "val_images"):
        assert row[column] == first["row"][column], column
    assert row["steps"] == first["row"]["steps"] + note["steps"]
    assert note["steps"] == note["epochs"] * -(-note["images"] // RECIPE.batch_size)
    history = "history.csv"
    assert (bench.folder(tuned()).path / history).read_bytes() == (
        bench.folder(tuned(refit=False)).path / history
    ).read_bytes()


def test_the_test_accuracy_is_that_of_the_second_network(bench: Bench) -> None:
    spec = tuned()
    record, kept = bench.record(spec), bench.weights(spec)
    assert equal(kept, second_network(bench, spec, record["row"]["best_epoch"]))
    assert not equal(kept, bench.weights(tuned(refit=False)))
    model = layers.create(MODEL, CLASSES, seed=0, image_size=32).eval()
    model.load_state_dict(kept)
    test = Loader(bench.context)(spec).domain("test", model)
    scores = evaluate.predict(model, test)
    assert record["row"]["top1_accuracy"] == evaluate.top1_accuracy(scores, test.labels)
    assert np.array_equal(np.load(bench.folder(spec).predictions_path)["logits"], scores)


def test_frozen_layers_stay_and_a_child_copies_the_second_network(bench: Bench) -> None:
    spec = tuned(pattern="F(1-5)T(6-7)R(8)")
    kept, parents = bench.weights(spec), bench.weights(PARENT)
    first_five = numbered_layers(layers.create(MODEL, CLASSES, seed=0, image_size=32))[:5]
    frozen = {name for layer in first_five for name in (*layer.parameters, *layer.buffers)}
    same = {name for name, value in kept.items() if torch.equal(value, parents[name])}
    assert frozen <= same
    assert not {name for name in same - frozen if name.endswith("weight")}
    child = tuned(False, pattern="F(1-7)R(8)").model_copy(update={"init": FromRun(run=spec)})
    copied = bench.weights(child)
    assert all(torch.equal(copied[name], kept[name]) for name in frozen)
    assert torch.equal(copied["fc7.fc.weight"], kept["fc7.fc.weight"])


@pytest.mark.parametrize(
    ("pattern", "augment"), [("F(1-5)T(6-7)R(8)", "none"), ("F(1-7)R(8)", "none")]
)
def test_shared_activations_change_no_bit(
    tmp_path: Path, pattern: str, augment: str, made: Made
) -> None:
    model = ModelSpec(name="narrow8_32", drop_rate=0.0)
    changes: dict[str, Any] = {"pattern": pattern, "train": {"augment": augment}}
    runs = [
        tuned(**changes).model_copy(update={"model": model}),
        tuned(**changes | {"train": {"augment": augment, "lr": 0.01}}).model_copy(
            update={"model": model}
        ),
    ]
    assert [fuse_key(spec, torch.device("cpu")) for spec in runs] == [None, None]
    files = []
    for share in (True, False):
        bench = made(tmp_path / str(share), share=share)
        assert bench.run(*runs) == "done", bench.events[-1]
        records = [bench.record(spec) for spec in runs]
        files.append([record["files"] for record in records])
        assert ("sharing" in records[0]["notes"]) == share
    assert files[0] == files[1]


def test_a_budget_is_trained_on_in_full(bench: Bench) -> None:
    data = _data("target", None, val_per_class=0, val_from="budget", val_share=0.5)
    record = bench.record(tuned(data=data))
    row = record["row"]
    assert (row["train_images"], row["val_images"]) == (CLASSES * 3, CLASSES * 3)
    assert record["notes"]["refit"]["images"] == CLASSES * IMAGES


def test_borrowing_methods_train_again_too(bench: Bench) -> None:
    spec = tuned(
        method="soft",
        options={"source_head": "kept", "ramp_epochs": 3.0},
        borrow=(Borrowed(data=PARENT.data),),
        train={"expand_to": IMAGES + VALIDATION + 1},
    )
    note = bench.record(spec)["notes"]["refit"]
    assert note["images"] == CLASSES * (IMAGES + VALIDATION)
    assert note["method"]["ramp_epochs"] == 3.0


@pytest.mark.parametrize("method", ["svm", "probe"])
def test_a_classifier_on_features_is_fitted_again_with_the_c_chosen(
    bench: Bench, method: str
) -> None:
    given: dict[str, Any] = {"method": method, "pattern": "F(1-7)R(8)"}
    first, second = tuned(refit=False, **given), tuned(**given)
    record, before = bench.record(second), bench.record(first)
    note = record["notes"]["refit"]
    assert note == {
        "images": CLASSES * (IMAGES + VALIDATION),
        "c": before["notes"]["method"]["c"],
    }
    assert record["row"]["val_top1_accuracy"] == before["row"]["val_top1_accuracy"]
    assert not equal(bench.weights(first), bench.weights(second))
    joined = _data("target", None, images_per_class=IMAGES + VALIDATION, val_per_class=0)
    alone = bench.weights(tuned(refit=False, data=joined, **given, options={"c": note["c"]}))
    for name, value in bench.weights(second).items():  # the same images in another order
        torch.testing.assert_close(value, alone[name], rtol=2e-2, atol=2e-2)


# --- stopped, killed, begun again ---


class Stopper:
    """Says stop once, when it is asked for the n-th time."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


class Killed(BaseException):
    """Nothing may catch it, as nothing catches SIGKILL."""


def asked(bench: Bench, spec: RunSpec) -> int:
    """How often a whole run asks whether to stop."""
    stopper = Stopper(-1)
    assert bench.run(spec, stop=stopper) == "done"
    return -1 - stopper.left


@pytest.mark.parametrize("checkpoint_s", [0.0, 1e9])
def test_stopped_anywhere_it_gives_the_same_bits(
    tmp_path: Path, checkpoint_s: float, made: Made
) -> None:
    spec = tuned()
    whole = made(tmp_path / "whole")
    total = asked(whole, spec)
    expected = whole.record(spec)
    second = expected["notes"]["refit"]["steps"]
    for left in (1, second // 2, second, second + 2):
        bench = made(tmp_path / f"{left}", checkpoint_s=checkpoint_s)
        assert bench.run(spec, stop=Stopper(total - left + 1)) == "stopped"
        assert bench.folder(spec).record() is None
        assert bench.run(spec) == "done"
        assert bench.record(spec)["files"] == expected["files"]
        assert bench.record(spec)["notes"]["refit"] == expected["notes"]["refit"]
        assert bench.record(spec)["row"]["steps"] == expected["row"]["steps"]
        epochs = [event["epoch"] for event in bench.events if event["event"] == "epoch"]
        if left <= second:  # the first training had ended and is not repeated
            assert min(epochs) > RECIPE.epochs
        leftovers = [path.name for path in bench.folder(spec).path.glob("*checkpoint*")]
        assert leftovers == []


@pytest.mark.parametrize("checkpoint_s", [0.0, 1e9])
def test_killed_in_the_second_training_it_goes_on_or_begins_that_again(
    tmp_path: Path, checkpoint_s: float, made: Made
) -> None:
    spec = tuned()
    whole = made(tmp_path / "whole")
    total = asked(whole, spec)
    bench = made(tmp_path / "killed", checkpoint_s=checkpoint_s)
    stopper = Stopper(total - 2)

    def kill() -> bool:
        if stopper():
            raise Killed
        return False

    with pytest.raises(Killed):
        bench.run(spec, stop=kill)
    assert bench.folder(spec).checkpoint_path.exists()
    assert bench.folder(spec).refit_checkpoint_path.exists() == (checkpoint_s == 0)
    assert bench.run(spec) == "done"
    record, expected = bench.record(spec), whole.record(spec)
    assert record["files"] == expected["files"]
    assert "resumed after its end" in record["notes"]["training"]
    resumed = [note for note in record["notes"]["training"] if note.startswith("refit: resumed")]
    assert bool(resumed) == (checkpoint_s == 0)


def test_a_second_training_of_another_choice_is_not_gone_on_with(
    tmp_path: Path, made: Made
) -> None:
    """A checkpoint of the refit whose first training's is lost, and which chose another epoch."""
    spec = tuned()
    whole = made(tmp_path / "whole")
    asked(whole, spec)
    other = spec.model_copy(update={"train": spec.train.model_copy(update={"lr": 0.001})})
    bench = made(tmp_path / "mixed", checkpoint_s=0.0)
    count = asked(made(tmp_path / "other"), other)
    assert bench.run(other, stop=Stopper(count - 1)) == "stopped"
    folder = bench.folder(spec)
    folder.path.mkdir(parents=True)
    bench.folder(other).refit_checkpoint_path.rename(folder.refit_checkpoint_path)
    assert bench.run(spec) == "done"
    assert bench.record(spec)["files"] == whole.record(spec)["files"]
    notes = bench.record(spec)["notes"]["training"]
    assert any(note.startswith("refit: checkpoint not used") for note in notes)


def test_a_second_training_that_diverges_is_the_result() -> None:
    def outcome(**changes: Any) -> Outcome:
        given: dict[str, Any] = {
            "status": "done",
            "history": [{"train_loss": 1.0, "train_top1_accuracy": 0.5}],
            "best_epoch": 0,
            "state": {},
            "steps": 3,
            "images_seen": 30,
            "seconds": 1.0,
            "peak_memory_bytes": 5,
        }
        return Outcome(**given | changes)

    second = outcome(status="diverged", diverged_epoch=0, best_epoch=None, peak_memory_bytes=7)
    both = both_trainings(outcome(), second, 9, {})
    assert (both.status, both.diverged_epoch, both.best_epoch) == ("diverged", 0, 0)
    assert (both.steps, both.images_seen, both.seconds, both.peak_memory_bytes) == (6, 60, 2.0, 7)
    assert replace(both, refit=None) != both


# --- what is refused, and what stays ---


def test_refit_needs_a_choice() -> None:
    with pytest.raises(ValidationError, match="refit is true, but select is last"):
        TrainSpec(refit=True, select="last")


def test_what_cannot_be_trained_again_is_refused_before_anything_runs() -> None:
    extraction = tuned(method="extract", pattern="F(1-8)")
    with pytest.raises(GridError, match="refit is true, but method 'extract' trains nothing"):
        check_run(extraction)
    fused = tuned(
        method="selective",
        options={"bank": "gabor", "rounds": 2, "fuse": True},
        borrow=(Borrowed(data=PARENT.data),),
    )
    with pytest.raises(GridError, match=r"method\.fuse averages the networks of all rounds"):
        check_run(fused)


def test_an_expansion_has_room_for_the_validation_images() -> None:
    check_training(tuned(refit=False, train={"expand_to": IMAGES}))
    with pytest.raises(CellError, match="less than the 9 images per class that are trained on"):
        check_training(tuned(train={"expand_to": IMAGES}))
    data = _data("target", None, val_per_class=0, val_from="budget", val_share=0.5)
    check_training(tuned(refit=False, data=data, train={"expand_to": 3}))
    with pytest.raises(CellError, match=r"less than target\.images_per_class: 6"):
        check_training(tuned(data=data, train={"expand_to": 3}))


def test_without_it_ids_are_what_they_were() -> None:
    assert "refit" not in TrainSpec().identity()
    assert TrainSpec(refit=True).identity() == TrainSpec().identity() | {"refit": True}
    scratch = tuned().model_copy(update={"pattern": "R(1-8)"})
    assert RunSpec(data=TARGET, model=MODEL, pattern=scratch.pattern, train=scratch.train)


@pytest.mark.slow
def test_several_processes_train_again_together(tmp_path: Path) -> None:
    spec = RunSpec(
        data=_data("target", None),
        model=ModelSpec(name="test_convnext"),  # no BatchNorm: rounding stays small in float32
        pattern="R(1-11)",
        train=RECIPE.model_copy(update={"epochs": 2, "lr": 0.01, "refit": True}),
    )
    torch.set_num_threads(1)
    several, one = Bench(tmp_path / "2", gpus=2), Bench(tmp_path / "1")
    mine, theirs = several.record(spec), one.record(spec)
    for name in ("images", "epochs", "steps"):
        assert mine["notes"]["refit"][name] == theirs["notes"]["refit"][name]
    assert "refit: trained by 2 CPU processes together" in mine["notes"]["training"]
    weights = one.weights(spec)
    for name, value in several.weights(spec).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-5)
