"""Today's recipes in the loop: what each does to a step, and that a stopped run resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.core.errors import BenchError
from bench.data.transforms.augment import normalise
from bench.data.transforms.mixing import draw_mix
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.specs.run import TrainSpec
from bench.training.domain import Domain
from bench.training.job import Interrupted, Outcome, TrainingJob
from bench.training.loop import train

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
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stops", [(3,), (4, 5)])
def test_a_stopped_run_resumes_to_the_bit(
    name: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    recipe = _recipe(**RECIPES[name])
    expected = train(_job(_net(dropout=0.3), recipe))
    where = {"checkpoint": tmp_path / "c.safetensors", "identity": "run"}
    for steps in stops:
        with pytest.raises(Interrupted):
            train(_job(_net(dropout=0.3), recipe, should_stop=_stop_after(steps - 1), **where))
    outcome = train(_job(_net(seed=9, dropout=0.3), recipe, **where))
    assert outcome.history == expected.history
    assert _same(outcome.state, expected.state)
    assert any("resumed" in note for note in outcome.notes)
    plain = train(_job(_net(dropout=0.3), _recipe(augment="none")))
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
