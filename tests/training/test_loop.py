"""The training loop: against a literal loop, and what must hold while it runs."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.data.transforms.augment import draw_noise, normalise
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.specs.run import TrainSpec
from bench.training.domain import Domain
from bench.training.job import EpochReport, Interrupted, Outcome, TrainingJob
from bench.training.loop import train
from bench.training.process import set_threads

BASE = TrainSpec(epochs=3, batch_size=8, lr=0.05, augment="none", schedule="constant")


def _recipe(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate(BASE.model_dump() | changes)


def _domain(count: int = 30, classes: int = 3, seed: int = 0, side: int = 8) -> Domain:
    """Learnable: the class is the brightest colour channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 160, (count, side, side, 3))
    images[np.arange(count), :, :, labels % 3] += 60
    return Domain("toy", images.astype(np.uint8), labels, classes)


def _net(classes: int = 3, seed: int = 0, norm: bool = True, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(96, classes),
        )


def _job(net: nn.Module, recipe: TrainSpec, **changes: Any) -> TrainingJob:
    data = changes.pop("data", None) or _domain()
    groups = changes.pop("groups", None) or [{"params": list(net.parameters())}]
    method = changes.pop("method", None) or Plain(Ingredients(data, recipe))
    values: dict[str, Any] = {"validation": _domain(seed=1)} | changes
    return TrainingJob(net, method, groups, recipe, **values)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _stop_after(checks: int) -> Callable[[], bool]:
    left = iter(range(checks))
    return lambda: next(left, None) is None


# --- it is the textbook's loop -----------------------------------------------------------------


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_run_equals_a_literal_torch_loop(label_smoothing: float) -> None:
    recipe = _recipe(
        schedule="step",
        step_epochs=2,
        epochs=4,
        nesterov=True,
        select="last",
        label_smoothing=label_smoothing,
        channels_last=False,
    )
    data, net = _domain(), _net()
    twin = copy.deepcopy(net)
    outcome = train(_job(net, recipe, data=data))

    sgd = torch.optim.SGD(twin.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    x = normalise(torch.from_numpy(data.images), data.mean, data.std)
    y = torch.from_numpy(data.labels)
    for epoch in range(4):
        twin.train()
        for group in sgd.param_groups:
            group["lr"] = 0.05 * 0.1 ** (epoch // 2)
        losses, right = [], 0
        for (part,) in Plain(Ingredients(data, recipe)).steps(epoch):
            out = twin(x[part.indices])
            loss = loss_of(out, y[part.indices])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item() * len(part.indices))
            right += int((out.argmax(1) == y[part.indices]).sum())
        row = outcome.history[epoch]
        assert row["lr"] == pytest.approx(sgd.param_groups[0]["lr"])
        assert row["train_loss"] == pytest.approx(sum(losses) / data.size, rel=1e-4)
        assert row["train_top1_accuracy"] == right / data.size
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(outcome.state[name], value, rtol=1e-4, atol=1e-5)


def test_it_learns_what_can_be_learned() -> None:
    outcome = train(_job(_net(), _recipe(epochs=8)))
    assert outcome.status == "done"
    assert outcome.history[-1]["val_top1_accuracy"] > 0.9
    assert outcome.steps == 8 * 4
    assert outcome.images_seen == 8 * 30
    assert outcome.peak_memory_bytes > 1e6


def test_history_shows_li_s_learning_rates() -> None:
    """LI-1: a tenth every 20 epochs, 1e-2 ... 1e-6."""
    recipe = _recipe(lr=0.01, schedule="step", epochs=81, batch_size=30, evaluate_every=81)
    history = train(_job(_net(), recipe)).history
    lrs = [history[epoch]["lr"] for epoch in (0, 20, 40, 60, 80)]
    assert lrs == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    assert [row["val_loss"] is None for row in history] == [True] * 80 + [False]


@pytest.mark.parametrize("augment", ["none", "crop_flip_color"])
def test_ten_times_twenty_is_two_hundred(augment: str) -> None:
    """X-7 (c): accumulation gives the gradient of the whole batch, when there is no BatchNorm."""
    data = _domain(200)
    states = []
    for batch_size, accumulate in ((200, 1), (20, 10), (67, 3)):
        recipe = _recipe(
            batch_size=batch_size, accumulate=accumulate, select="last", augment=augment
        )
        outcome = train(_job(_net(norm=False), recipe, data=data))
        assert outcome.steps == 3
        states.append(outcome.state)
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_accumulation_weighs_uneven_shares_by_images() -> None:
    data = _domain(10)
    states = []
    for accumulate in (1, 4, 10):
        recipe = _recipe(batch_size=10, accumulate=accumulate, epochs=1, select="last")
        states.append(train(_job(_net(norm=False), recipe, data=data)).state)
    for other in states[1:]:
        torch.testing.assert_close(other["6.weight"], states[0]["6.weight"], atol=1e-6, rtol=1e-5)


def test_small_steps_are_not_cut_into_single_images() -> None:
    """BatchNorm cannot be trained on one image: 3 images in 8 passes are one pass of 3."""
    data = _domain(3)
    cut, whole = (
        train(_job(_net(norm=True), recipe, data=data)).state
        for recipe in (
            _recipe(batch_size=32, accumulate=8, epochs=1, select="last"),
            _recipe(batch_size=256, accumulate=1, epochs=1, select="last"),
        )
    )
    assert _same(cut, whole)


# --- a run is a function of its job ----------------------------------------------------------


def test_two_runs_are_equal_to_the_bit_and_seeds_matter() -> None:
    recipe = _recipe(augment="crop_flip", crop_pad=1)
    runs = [train(_job(_net(dropout=0.3), recipe, order_seed=s)) for s in (0, 0, 1)]
    assert runs[0].history == runs[1].history
    assert _same(runs[0].state, runs[1].state)
    assert runs[0].history != runs[2].history


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(_job(_net(dropout=0.5), BASE))
    assert torch.equal(torch.rand(2), expected)


def test_bfloat16_and_contiguous_layout_run() -> None:
    for changes in ({"precision": "bfloat16"}, {"channels_last": False}, {"optimizer": "adamw"}):
        outcome = train(_job(_net(), _recipe(**changes)))
        assert outcome.status == "done"
        assert all(v.dtype != torch.bfloat16 for v in outcome.state.values())


def test_progress_is_told_once_per_epoch() -> None:
    told: list[EpochReport] = []
    outcome = train(_job(_net(), _recipe(evaluate_every=2), on_epoch=told.append))
    assert [(r.epoch, r.epochs) for r in told] == [(0, 3), (1, 3), (2, 3)]
    assert [r.val_top1_accuracy for r in told] == [r["val_top1_accuracy"] for r in outcome.history]
    assert told[0].val_top1_accuracy is None
    assert all(r.images_per_s > 0 for r in told)


def test_threads_can_be_set() -> None:
    before = torch.get_num_threads()
    set_threads(1)
    assert torch.get_num_threads() == 1
    set_threads(before)


# --- stopping and resuming -------------------------------------------------------------------

NOISY = {
    "augment": "crop_flip_color",
    "crop_pad": 1,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "accumulate": 2,
    "batch_size": 4,
    "label_smoothing": 0.1,
}


def _uninterrupted(recipe: TrainSpec) -> Outcome:
    return train(_job(_net(dropout=0.3), recipe))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (5,), (9,), (11,), (2, 3), (1, 1, 1, 4)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stops: tuple[int, ...], optimizer: str, tmp_path: Path
) -> None:
    """Interrupted within an epoch, at its end, in the last one, several times over."""
    recipe = _recipe(**NOISY, optimizer=optimizer)
    expected = _uninterrupted(recipe)
    where = {"checkpoint": tmp_path / "c.safetensors", "identity": "run"}
    for steps in stops:
        job = _job(_net(dropout=0.3), recipe, should_stop=_stop_after(steps - 1), **where)
        with pytest.raises(Interrupted):
            train(job)
    outcome = train(_job(_net(seed=9, dropout=0.3), recipe, **where))
    assert outcome.history == expected.history
    assert _same(outcome.state, expected.state)
    assert (outcome.steps, outcome.images_seen) == (expected.steps, expected.images_seen)
    assert outcome.best_epoch == expected.best_epoch
    assert any("resumed" in note for note in outcome.notes)
    assert not expected.notes


@pytest.mark.parametrize("every", [{"checkpoint_every_epochs": 1}, {"checkpoint_every_s": 0.0}])
def test_a_killed_run_continues_from_its_last_checkpoint(
    every: dict[str, Any], tmp_path: Path
) -> None:
    recipe, path = _recipe(**NOISY), tmp_path / "c.safetensors"

    class Killed(BaseException):
        pass

    def kill(report: EpochReport) -> None:
        if report.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        train(_job(_net(dropout=0.3), recipe, checkpoint=path, on_epoch=kill, **every))
    outcome = train(_job(_net(dropout=0.3), recipe, checkpoint=path))
    expected = _uninterrupted(recipe)
    assert outcome.history == expected.history
    assert _same(outcome.state, expected.state)


@pytest.mark.parametrize(("takes_s", "apart_s"), [(0.0, 2.0), (0.5, 10.0), (3.0, 40.0)])
def test_checkpoints_that_take_long_are_written_less_often(
    takes_s: float, apart_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes one second of this clock, a checkpoint `takes_s`."""
    now, ends = [0.0], []

    def write(*_: Any) -> None:
        now[0] += takes_s
        ends.append(now[0])

    def after_step() -> bool:
        now[0] += 1.0
        return False

    monkeypatch.setattr("bench.training.loop.time.monotonic", lambda: now[0])
    monkeypatch.setattr("bench.training.loop.checkpoint.write", write)
    recipe = _recipe(epochs=30)
    changes = {"checkpoint_every_s": 2.0, "should_stop": after_step}
    train(_job(_net(), recipe, checkpoint=tmp_path / "c.safetensors", **changes))
    apart = [b - a - takes_s for a, b in itertools.pairwise(ends)]
    assert len(apart) > 1
    assert set(apart) == {apart_s}


def test_an_unusable_checkpoint_is_noted_and_the_run_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    expected = train(_job(_net(), BASE))
    with pytest.raises(Interrupted):
        train(_job(_net(), BASE, checkpoint=path, identity="a", should_stop=_stop_after(5)))
    torn = path.read_bytes()[:-3]
    for identity, data in (("b", path.read_bytes()), ("a", torn)):
        path.write_bytes(data)
        outcome = train(_job(_net(), BASE, checkpoint=path, identity=identity))
        assert outcome.history == expected.history
        assert any("started anew" in note for note in outcome.notes)
    with pytest.raises(Interrupted):
        train(_job(_net(), BASE, checkpoint=path, identity="a", should_stop=_stop_after(5)))
    other = train(_job(_net(classes=4), BASE, checkpoint=path, identity="a"))
    assert any("another network" in note for note in other.notes)


def test_stopping_without_a_checkpoint_file_just_stops() -> None:
    with pytest.raises(Interrupted, match="epoch 1 of 3, after step 2 of 4"):
        train(_job(_net(), BASE, should_stop=_stop_after(1)))


class _Growing:
    """A method with a memory: each epoch shows the images that the network got wrong, and those
    shown before."""

    target = 0

    def __init__(self, data: Domain) -> None:
        self.domains, self.plain = (data,), Plain(Ingredients(data, BASE))
        self.known, self.epoch, self.asked = torch.zeros(data.size, dtype=torch.bool), -1, 0

    def steps(self, epoch: int, predict: Callable[[int], Any]) -> Sequence[Any]:
        if epoch != self.epoch:
            self.asked += 1
            wrong = predict(0).argmax(1) != self.domains[0].labels
            self.known, self.epoch = self.known | torch.from_numpy(wrong), epoch
        return [
            (replace(part, indices=kept),)
            for (part,) in self.plain.steps(epoch)
            if len(kept := part.indices[self.known.numpy()[part.indices]]) > 1
        ]

    def state(self) -> dict[str, Tensor]:
        return {"known": self.known, "epoch": torch.tensor(self.epoch)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.known, self.epoch = state["known"].bool(), int(state["epoch"])


@pytest.mark.parametrize("stop", [1, 2, 3, 6])
def test_a_method_with_a_memory_resumes_too(stop: int, tmp_path: Path) -> None:
    data, path = _domain(), tmp_path / "c"
    expected = train(_job(_net(), BASE, method=_Growing(data)))
    stopping = {"checkpoint": path, "should_stop": _stop_after(stop)}
    with pytest.raises(Interrupted):
        train(_job(_net(), BASE, method=_Growing(data), **stopping))
    outcome = train(_job(_net(), BASE, method=_Growing(data), checkpoint=path))
    assert outcome.history == expected.history
    assert _same(outcome.state, expected.state)


# --- divergence (LI-2) ------------------------------------------------------------------------


def test_a_learning_rate_far_too_high_ends_as_diverged() -> None:
    outcome = train(_job(_net(norm=False), _recipe(lr=1e4, epochs=10)))
    assert outcome.status == "diverged"
    assert outcome.diverged_epoch == len(outcome.history) - 1 < 9
    assert outcome.history[-1]["val_loss"] is None or not math.isfinite(
        outcome.history[-1]["val_loss"]
    )


class _Broken(nn.Module):
    """A network whose scores go wrong at the `at`-th training pass."""

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.inner, self.at, self.value, self.calls = _net(), at, value, 0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls == self.at:
                out = out * 0 + self.value * torch.eye(len(out), out.shape[1])
        return out


@pytest.mark.parametrize("value", [math.nan, math.inf, 3000.0])
@pytest.mark.parametrize("at", [2, 4, 5, 12])
def test_one_bad_loss_is_caught_by_the_end_of_its_epoch(value: float, at: int) -> None:
    outcome = train(_job(_Broken(at, value), _recipe(lr=1e-6, select="best_val")))
    assert outcome.status == "diverged"
    assert outcome.diverged_epoch == (at - 1) // 4
    assert (outcome.best_epoch is None) == (at <= 4)
    assert bool(outcome.state) == (at > 4)
    if outcome.state:
        assert all(v.isfinite().all() for v in outcome.state.values())


def test_weights_broken_by_the_very_last_step_are_noticed_without_validation() -> None:
    net = _net()
    recipe = _recipe(select="last", epochs=1, batch_size=30)

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * math.nan

    net[6].weight.register_hook(spoil)
    outcome = train(_job(net, recipe, validation=None))
    assert (outcome.status, outcome.diverged_epoch, outcome.state) == ("diverged", 0, {})


def test_a_run_that_starts_nearly_perfect_is_not_ended_by_an_ordinary_batch() -> None:
    trained, data = _net(), _domain()
    before = train(_job(trained, _recipe(epochs=30, select="last"), data=data))
    assert before.history[-1]["train_loss"] < 0.05
    wrong = Domain("mislabelled", data.images, (data.labels + (np.arange(30) == 29)) % 3, 3)
    recipe = _recipe(explode_factor=8.0, lr=1e-5)
    assert train(_job(trained, recipe, data=wrong)).status == "done"


def test_the_divergence_factor_is_the_recipes() -> None:
    for factor, status in ((1.2, "diverged"), (1000.0, "done")):
        recipe = _recipe(explode_factor=factor, lr=1e-6)
        assert train(_job(_Broken(5, 60.0), recipe)).status == status


def test_a_resumed_run_is_measured_against_the_first_loss_of_all(tmp_path: Path) -> None:
    recipe, path = _recipe(explode_factor=3.0, lr=1e-6), tmp_path / "c"
    with pytest.raises(Interrupted):  # begins with a large loss
        train(_job(_Broken(1, 30.0), recipe, checkpoint=path, should_stop=_stop_after(1)))
    assert train(_job(_Broken(3, 30.0), recipe, checkpoint=path)).status == "done"
    path.unlink()
    assert train(_job(_Broken(3, 30.0), recipe, checkpoint=path)).status == "diverged"


# --- selection --------------------------------------------------------------------------------


def test_the_best_validation_epoch_is_kept_and_loaded() -> None:
    net = _net()
    seen: list[dict[str, Tensor]] = []

    def keep(report: EpochReport) -> None:
        seen.append(copy.deepcopy(net.state_dict()))

    noise = np.random.default_rng(0).permutation(30) % 3  # labels that cannot be learned
    validation = Domain("val", _domain(seed=1).images, noise, 3)
    outcome = train(_job(net, _recipe(epochs=8), validation=validation, on_epoch=keep))
    scores = [(-r["val_top1_accuracy"], r["val_loss"], r["epoch"]) for r in outcome.history]
    best = int(min(scores)[2])
    assert outcome.best_epoch == best
    assert _same(outcome.state, seen[best])
    assert _same(dict(net.state_dict()), outcome.state)


def test_ties_in_accuracy_go_to_the_lower_loss() -> None:
    validation = _domain(6, seed=2)
    outcome = train(_job(_net(), _recipe(epochs=10), validation=validation))
    top = [r for r in outcome.history if r["val_top1_accuracy"] == 1.0]
    assert len(top) > 1
    assert outcome.best_epoch == min(top, key=lambda r: r["val_loss"])["epoch"]


def test_only_evaluated_epochs_can_be_selected() -> None:
    outcome = train(_job(_net(), _recipe(epochs=7, evaluate_every=3)))
    evaluated = [r["epoch"] for r in outcome.history if r["val_loss"] is not None]
    assert evaluated == [2, 5, 6]
    assert outcome.best_epoch in evaluated


def test_select_last_keeps_the_last_epoch_whatever_validation_says() -> None:
    labels = (np.arange(30) + 1) % 3
    net = _net()
    wrong = Domain("val", _domain().images, labels, 3)
    outcome = train(_job(net, _recipe(select="last", epochs=5), validation=wrong))
    assert outcome.best_epoch == 4
    assert _same(outcome.state, dict(net.state_dict()))


def test_no_test_set_can_reach_the_loop() -> None:
    assert not [f.name for f in fields(TrainingJob) if "test" in f.name]
    job = _job(_net(), BASE)
    assert [d.name for d in (*job.method.domains, job.validation)] == ["toy", "toy"]


def test_selection_without_validation_images_is_an_error() -> None:
    empty = Domain("val", np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), 3)
    for validation in (None, empty):
        with pytest.raises(BenchError, match="best_val needs validation images"):
            train(_job(_net(), BASE, validation=validation))
        assert train(_job(_net(), _recipe(select="last"), validation=validation)).status == "done"


def test_a_warmup_longer_than_the_run_is_an_error() -> None:
    with pytest.raises(BenchError, match=r"warmup_epochs is 3\.5"):
        train(_job(_net(), _recipe(warmup_epochs=3.5)))


# --- frozen layers ------------------------------------------------------------------------------


def _frozen(net: nn.Sequential, first: int = 4) -> tuple[list[Any], Callable[[], object]]:
    """Freezes the modules before `first`: groups of the rest, and what restores their modes."""
    for module in net[:first]:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    return [{"params": list(net[first:].parameters())}], lambda: net[:first].eval()


def test_frozen_parameters_and_buffers_are_bit_identical_afterwards() -> None:
    net = _net()
    groups, set_modes = _frozen(net)
    before = copy.deepcopy(net[:4].state_dict())
    outcome = train(_job(net, _recipe(weight_decay=0.1), groups=groups, set_modes=set_modes))
    assert _same(dict(net[:4].state_dict()), before)
    assert not torch.equal(outcome.state["6.weight"], _net().state_dict()["6.weight"])
    train(_job(net, BASE, groups=groups))
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # the check has teeth


def test_back_propagation_stops_at_the_first_trainable_layer() -> None:
    net = _net()
    groups, set_modes = _frozen(net)
    recorded: list[bool] = []
    net[3].register_forward_hook(lambda *call: recorded.append(call[2].requires_grad))
    train(_job(net, BASE, groups=groups, set_modes=set_modes))
    assert recorded
    assert not any(recorded)
    assert all(p.grad is None for p in net[:4].parameters())


@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip"])
def test_a_frozen_prefix_gives_the_same_run(augment: str) -> None:
    runs = []
    for split in (False, True):
        net = _net()
        groups, set_modes = _frozen(net)
        changes: dict[str, Any] = {}
        if split:
            prefix, rest = net[:4], net[4:]
            changes = {"prefix": prefix, "forward": lambda x, _, rest=rest: [rest(x)]}
        recipe = _recipe(augment=augment, crop_pad=1)
        runs.append(train(_job(net, recipe, groups=groups, set_modes=set_modes, **changes)))
    assert runs[0].history == runs[1].history
    assert _same(runs[0].state, runs[1].state)


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_cached_activations_give_the_same_loss_curve(augment: str) -> None:
    """X-1 (d), with the activations of mirrored images kept as well."""
    curves, calls = [], []
    for cache in (False, True):
        net = _net()
        groups, set_modes = _frozen(net)
        count: list[int] = []
        net[0].register_forward_hook(lambda *call, count=count: count.append(len(call[2])))
        prefix, rest = net[:4], net[4:]
        job = _job(
            net,
            _recipe(augment=augment, epochs=5),
            groups=groups,
            set_modes=set_modes,
            prefix=prefix,
            forward=lambda x, _, rest=rest: [rest(x)],
            cache_prefix=cache,
        )
        outcome = train(job)
        curves.append([(r["train_loss"], r["val_loss"]) for r in outcome.history])
        calls.append(sum(count))
        assert bool(outcome.notes) == cache
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    once = {"none": 30 + 30, "flip": 60 + 30}[augment]
    assert calls == [5 * (30 + 30), once]


def test_activations_are_not_cached_where_crops_never_repeat() -> None:
    net = _net()
    groups, _ = _frozen(net)
    job = _job(net, _recipe(augment="crop_flip"), groups=groups, prefix=net[:4], cache_prefix=True)
    with pytest.raises(BenchError, match="cannot be cached"):
        train(job)


def test_augmentation_reaches_the_network_as_drawn() -> None:
    """The first batch: the noise of (order seed, epoch 0) applied to the first step's images."""
    seen: list[Tensor] = []
    net = _net()
    net[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    recipe, data = _recipe(augment="flip", epochs=1), _domain()
    train(_job(net, recipe, data=data, order_seed=4))
    indices = Plain(Ingredients(data, recipe)).steps(0)[0][0].indices
    mirrored = draw_noise(30, 4, 0)[: len(indices), 2] < 0.5
    images = [
        data.images[i][:, ::-1] if m else data.images[i]
        for i, m in zip(indices, mirrored, strict=True)
    ]
    expected = normalise(torch.from_numpy(np.stack(images)), data.mean, data.std)
    assert torch.equal(seen[0], expected)
