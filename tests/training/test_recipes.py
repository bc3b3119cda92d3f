"""Today's recipes in the loop: what each does to a step, and that a stopped run resumes."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from timm.layers import DropPath
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.core.errors import BenchError, ModelError
from bench.data.transforms.augment import normalise
from bench.data.transforms.mixing import draw_mix
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models.layers import create
from bench.specs.run import ModelSpec, Optimizer, TrainSpec
from bench.training.domain import Domain
from bench.training.job import Interrupted, Outcome, TrainingJob
from bench.training.loop import train
from bench.training.steps import class_weights

BASE = TrainSpec(epochs=3, batch_size=8, lr=0.05, augment="none", schedule="constant")


def _recipe(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate(BASE.model_dump() | changes)


def _domain(count: int = 30, seed: int = 0, labels: list[int] | None = None) -> Domain:
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 3 if labels is None else np.array(labels)
    images = rng.integers(0, 160, (len(classes), 8, 8, 3))
    images[np.arange(len(classes)), :, :, classes % 3] += 60
    return Domain("toy", images.astype(np.uint8), classes, 3)


def _net(seed: int = 0, dropout: float = 0.0, norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(96, 3),
        )


def _job(net: nn.Module, recipe: TrainSpec, **changes: Any) -> TrainingJob:
    data = changes.pop("data", None) or _domain()
    groups = changes.pop("groups", None) or [{"params": list(net.parameters())}]
    values: dict[str, Any] = {"validation": _domain(seed=1)} | changes
    return TrainingJob(net, Plain(Ingredients(data, recipe)), groups, recipe, **values)


def _stop_after(checks: int) -> Callable[[], bool]:
    left = iter(range(checks))
    return lambda: next(left, None) is None


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


RECIPES: dict[str, dict[str, Any]] = {
    "scale": {"augment": "scale_flip", "scale_least_area": 0.3, "scale_antialias": True},
    "randaugment": {"augment": "flip", "policy": "randaugment"},
    "trivialaugment": {"policy": "trivialaugment", "random_erasing": 0.5},
    "mixup": {"mixup": 0.4, "accumulate": 2, "batch_size": 4, "label_smoothing": 0.1},
    "mixup or cutmix": {"augment": "crop_flip", "crop_pad": 1, "mixup": 0.4, "cutmix": 1.0},
    "clipping": {"clip_norm": 0.1, "accumulate": 2, "batch_size": 4},
    "ema": {"ema": 0.8},
    "ema, last": {"ema": 0.8, "select": "last"},
    "class weights": {"class_weights": "balanced", "label_smoothing": 0.1},
    "balanced": {"sampling": "balanced", "optimizer": "lamb"},
}
SKEWED = [0] * 16 + [1] * 10 + [2] * 4


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stops", [(3,), (4, 5)])
def test_a_stopped_run_resumes_to_the_bit(
    name: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    recipe, data = _recipe(**RECIPES[name]), _domain(labels=SKEWED)
    expected = train(_job(_net(dropout=0.3), recipe, data=data))
    where = {"checkpoint": tmp_path / "c.safetensors", "identity": "run", "data": data}
    for steps in stops:
        with pytest.raises(Interrupted):
            train(_job(_net(dropout=0.3), recipe, should_stop=_stop_after(steps - 1), **where))
    outcome = train(_job(_net(seed=9, dropout=0.3), recipe, **where))
    assert outcome.history == expected.history
    assert _same(outcome.state, expected.state)
    assert any("resumed" in note for note in outcome.notes)
    plain = train(_job(_net(dropout=0.3), BASE, data=data))
    assert not _same(plain.state, expected.state)


# --- mixing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_mixed_training_equals_a_literal_loop(mixing: dict[str, float]) -> None:
    """Of labels with the soft targets written out (timm's `mixup_target`)."""
    recipe = _recipe(**mixing, select="last", label_smoothing=0.1, channels_last=False)
    data, net, twin = _domain(), _net(), _net()
    outcome = train(_job(net, recipe, data=data))
    sgd = torch.optim.SGD(twin.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    x = normalise(torch.from_numpy(data.images), data.mean, data.std)
    targets = torch.eye(3)[torch.from_numpy(data.labels)] * 0.9 + 0.1 / 3
    for epoch in range(3):
        twin.train()
        total = 0.0
        for step, (part,) in enumerate(Plain(Ingredients(data, recipe)).steps(epoch)):
            mix = draw_mix(recipe, 8, 0, epoch, step)
            assert mix is not None
            images, wanted = x[part.indices], targets[part.indices]
            out = twin(mix.of(images, images.flip(0)))
            wanted = mix.share * wanted + (1 - mix.share) * wanted.flip(0)
            loss = cross_entropy(out, wanted)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            total += loss.item() * len(part.indices)
        assert outcome.history[epoch]["train_loss"] == pytest.approx(total / data.size, rel=1e-4)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(outcome.state[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_cutting_a_step_does_not_change_who_is_mixed(mixing: dict[str, float]) -> None:
    augmented = {"augment": "crop_flip", "crop_pad": 1, "random_erasing": 0.5, **mixing}
    states = []
    for batch_size, accumulate in ((12, 1), (4, 3)):
        recipe = _recipe(
            batch_size=batch_size, accumulate=accumulate, select="last", epochs=2, **augmented
        )
        states.append(train(_job(_net(norm=False), recipe)).state)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "recipe", [{"mixup": 0.5}, {"random_erasing": 0.5}, {"policy": "randaugment"}]
)
def test_images_that_never_repeat_are_not_cached_behind_frozen_layers(
    recipe: dict[str, Any],
) -> None:
    """A frozen prefix computes from the changed images: the run is that without a prefix."""
    outcomes: list[Outcome] = []
    for cut in (False, True):
        net = _net(norm=False)
        for parameter in net[:4].parameters():
            parameter.requires_grad_(False)
        groups = [{"params": list(net[4:].parameters())}]
        halves = {"prefix": net[:4], "forward": lambda x, parts, net=net: [net[4:](x)]}
        outcomes.append(
            train(_job(net, _recipe(**recipe), groups=groups, **(halves if cut else {})))
        )
        with pytest.raises(BenchError, match="never repeats"):
            train(_job(net, _recipe(**recipe), groups=groups, cache_prefix=True, **halves))
    assert _same(outcomes[0].state, outcomes[1].state)
    assert outcomes[0].history == outcomes[1].history


# --- the step ------------------------------------------------------------------------------------


def _literal(
    recipe: TrainSpec, data: Domain, weights: list[float] | None = None, clip: float | None = None
) -> list[dict[str, Tensor]]:
    """Plain torch: the weights after each step."""
    net = _net()
    sgd = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    x = normalise(torch.from_numpy(data.images), data.mean, data.std)
    y = torch.from_numpy(data.labels)
    states = []
    for epoch in range(recipe.epochs):
        net.train()
        for (part,) in Plain(Ingredients(data, recipe)).steps(epoch):
            logits, labels = net(x[part.indices]), y[part.indices]
            loss = cross_entropy(logits, labels)
            if weights is not None:
                each = [
                    weights[int(one)] * cross_entropy(row[None], one[None])
                    for row, one in zip(logits, labels, strict=True)
                ]
                loss = torch.stack(each).mean()
            sgd.zero_grad()
            loss.backward()
            if clip is not None:
                squares = sum(float((p.grad**2).sum()) for p in net.parameters())
                factor = min(1.0, clip / (squares**0.5 + 1e-6))
                for parameter in net.parameters():
                    parameter.grad *= factor
            sgd.step()
            states.append({k: v.clone() for k, v in net.state_dict().items()})
    return states


def _close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [0.05, 1.0, 1e6])
def test_gradients_are_clipped_by_their_common_norm(most: float) -> None:
    recipe = _recipe(clip_norm=most, select="last", channels_last=False)
    found = train(_job(_net(), recipe)).state
    _close(found, _literal(recipe, _domain(), clip=most)[-1])
    unclipped = train(_job(_net(), _recipe(select="last", channels_last=False))).state
    assert _same(found, unclipped) == (most == 1e6)


def test_class_weights_are_scikit_learns_and_the_history_is_without_them() -> None:
    data = _domain(labels=SKEWED)
    recipe = _recipe(class_weights="balanced", select="last", channels_last=False)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=data.labels)
    found = class_weights(data, recipe)
    assert found is not None
    assert found.tolist() == pytest.approx(expected.tolist())
    outcome = train(_job(_net(), recipe, data=data))
    _close(outcome.state, _literal(recipe, data, weights=expected.tolist())[-1])
    still = _recipe(class_weights="balanced", lr=1e-12, weight_decay=0.0)
    plain = train(_job(_net(), _recipe(lr=1e-12, weight_decay=0.0), data=data))
    weighted = train(_job(_net(), still, data=data))
    losses = [o.history[0]["train_loss"] for o in (plain, weighted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_weights_of_equal_classes_and_of_absent_ones() -> None:
    recipe = _recipe(class_weights="balanced")
    assert class_weights(_domain(), BASE) is None
    equal = class_weights(_domain(), recipe)
    assert equal is not None
    assert equal.tolist() == [1.0, 1.0, 1.0]
    lacking = class_weights(_domain(labels=[0, 0, 2]), recipe)
    assert lacking is not None
    assert lacking.tolist() == [0.75, 0.0, 1.5]


# --- the average of the weights ------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_is_that_of_the_weights_after_each_step(decay: float) -> None:
    recipe = _recipe(ema=decay, select="last", channels_last=False)
    average = _net().state_dict()
    for step, state in enumerate(_literal(recipe, _domain()), start=1):
        share = min(decay, 1 - step ** (-2 / 3))
        for name, value in state.items():
            moves = value.is_floating_point()
            average[name] = share * average[name] + (1 - share) * value if moves else value
    outcome = train(_job(_net(), recipe))
    _close(outcome.state, average)
    plain = train(_job(_net(), _recipe(select="last", channels_last=False)))
    assert _same(outcome.state, plain.state) == (decay == 0.0)
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("val")} for row in o.history]
        for o in (outcome, plain)
    ]
    assert rows[0] == rows[1]  # the training itself goes on with its own weights


def test_the_average_is_what_is_validated_and_kept() -> None:
    net, validation = _net(), _domain(seed=1)
    outcome = train(_job(net, _recipe(ema=0.7)))
    assert outcome.best_epoch is not None
    assert _same(outcome.state, {k: v.cpu() for k, v in net.state_dict().items()})
    logits = net.eval()(
        normalise(torch.from_numpy(validation.images), validation.mean, validation.std)
    )
    loss = cross_entropy(logits, torch.from_numpy(validation.labels))
    row = outcome.history[outcome.best_epoch]
    assert row["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


# --- balanced sampling ---------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 3])
def test_balanced_sampling_shows_classes_and_their_images_equally_often(steps: int | None) -> None:
    data, recipe = _domain(labels=SKEWED), _recipe(sampling="balanced")
    method = Plain(Ingredients(data, recipe, steps_per_epoch=steps))
    shown = np.zeros(data.size, int)
    for epoch in range(32):
        chunks = [part.indices for (part,) in method.steps(epoch)]
        assert sum(map(len, chunks)) == (30 if steps is None else 24)
        counts = np.bincount(np.concatenate([data.labels[c] for c in chunks]))
        assert counts.max() - counts.min() <= 1
        shown += np.bincount(np.concatenate(chunks), minlength=data.size)
        again = [part.indices for (part,) in method.steps(epoch)]
        assert all(np.array_equal(a, b) for a, b in zip(chunks, again, strict=True))
    for label in range(3):
        assert np.ptp(shown[data.labels == label]) <= 1
    orders = [np.concatenate([p.indices for (p,) in method.steps(e)]) for e in (0, 1)]
    assert not np.array_equal(*orders)


def test_balanced_sampling_of_equal_classes_is_one_pass() -> None:
    data = _domain()
    for epoch in range(3):
        steps = Plain(Ingredients(data, _recipe(sampling="balanced"))).steps(epoch)
        assert sorted(np.concatenate([p.indices for (p,) in steps])) == list(range(30))


# --- optimisers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", typing.get_args(Optimizer))
def test_optimisers_of_timm_resume_to_the_bit(name: str, tmp_path: Path) -> None:
    """And are timm's: the same steps as its own factory's."""
    recipe = _recipe(optimizer=name, lr=0.01, select="last", channels_last=False)
    expected = train(_job(_net(), recipe))
    assert expected.status == "done"
    where = {"checkpoint": tmp_path / "c.safetensors", "identity": "run"}
    with pytest.raises(Interrupted):
        train(_job(_net(), recipe, should_stop=_stop_after(5), **where))
    assert _same(train(_job(_net(seed=4), recipe, **where)).state, expected.state)
    net, data = _net(), _domain()
    theirs = create_optimizer_v2(list(net.parameters()), name, lr=0.01, weight_decay=5e-4)
    if name == "sgd":  # timm's sgd is torch's with Nesterov's momentum, ours has an option for it
        theirs = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=5e-4, momentum=0.9)
    x = normalise(torch.from_numpy(data.images), data.mean, data.std)
    for epoch in range(3):
        net.train()
        for (part,) in Plain(Ingredients(data, recipe)).steps(epoch):
            theirs.zero_grad()
            labels = torch.from_numpy(data.labels[part.indices])
            cross_entropy(net(x[part.indices]), labels).backward()
            theirs.step()
    for key, value in net.state_dict().items():
        torch.testing.assert_close(expected.state[key], value, rtol=1e-3, atol=1e-4)


def test_the_names_of_optimisers_are_timms() -> None:
    assert set(typing.get_args(Optimizer)) <= set(list_optimizers())


# --- drop path -----------------------------------------------------------------------------------


def test_drop_path_changes_no_weight_and_nothing_at_zero() -> None:
    spec = ModelSpec(name="vit_tiny_patch16_224")
    plain, dropped = (create(spec, 3, seed=1, image_size=32, drop_path=rate) for rate in (0.0, 0.5))
    assert _same(dict(plain.state_dict()), dict(dropped.state_dict()))
    rates = [m.drop_prob for m in dropped.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.5)
    assert not [m for m in plain.modules() if isinstance(m, DropPath)]
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.eval()(x), dropped.eval()(x))
    dropped.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(dropped(x), dropped(x))


def test_a_network_without_residual_blocks_has_no_drop_path() -> None:
    with pytest.raises(ModelError, match=r"timm cannot build vgg11 .*'drop_path_rate': 0.1") as e:
        create(ModelSpec(name="vgg11"), 3, seed=1, drop_path=0.1)
    assert "leave out train.drop_path" in str(e.value)
