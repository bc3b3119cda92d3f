"""Several domains, one trunk, a head each (ledger X-7 a, b, d)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, ModelError
from bench.core.seeding import rng_from
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.models.heads import MultiHead
from bench.specs.run import TrainSpec
from bench.training.domain import Domain, DomainBatch, Step
from bench.training.job import TrainingJob
from bench.training.loop import train

RECIPE = TrainSpec(epochs=3, batch_size=8, augment="crop_flip", crop_pad=1, select="last")


def _domain(name: str, count: int, classes: int, seed: int) -> Domain:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Domain(name, images, rng.integers(0, classes, count), classes)


TARGET, SOURCE = _domain("target", 30, 3, 0), _domain("source", 50, 5, 1)


def _trunk() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 6, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten())


def _net(batch_norm: Any = "joint") -> MultiHead:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        heads = [nn.Linear(24, 3), nn.Linear(24, 5)]
    return MultiHead(_trunk(), heads, batch_norm=batch_norm)


class Weighted:
    """Target steps as plain gives them, each with as many source images of a given weight."""

    target = 0

    def __init__(self, weight: float | None, only_source: bool = False) -> None:
        self.domains = (TARGET, SOURCE)
        self.plain, self.weight, self.only_source = (
            Plain(Ingredients(TARGET, RECIPE)),
            weight,
            only_source,
        )

    def steps(self, epoch: int, predict: object) -> Sequence[Step]:
        steps: list[Step] = []
        order = rng_from(f"source|{epoch}").permutation(SOURCE.size)
        at = 0
        for (part,) in self.plain.steps(epoch):
            taken = order[at : at + len(part.indices)]
            at += len(taken)
            source = () if self.weight is None else (DomainBatch(1, taken, self.weight),)
            steps.append(source if self.only_source else (part, *source))
        return steps

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: object) -> None:
        pass


def _train(net: MultiHead, method: Any, **changes: Any) -> Any:
    recipe = TrainSpec.model_validate(RECIPE.model_dump() | changes)
    groups = [{"params": list(net.parameters())}]
    return train(TrainingJob(net, method, groups, recipe, forward=net))


def test_a_head_without_images_gets_no_gradient_and_does_not_move() -> None:
    net = _net()
    before = copy.deepcopy(net.heads[0].state_dict())
    _train(net, Weighted(1.0, only_source=True), weight_decay=0.1)
    assert all(torch.equal(v, before[k]) for k, v in net.heads[0].state_dict().items())
    assert all(p.grad is None for p in net.heads[0].parameters())
    assert not torch.equal(net.heads[1].weight, _net().heads[1].weight)


def test_trunk_gradient_is_the_weighted_sum_of_the_domains_gradients() -> None:
    """X-7 (b) with BatchNorm frozen, through one step of the loop: lr 1, no momentum, no decay."""
    moved = {}
    plain_step = {"epochs": 1, "batch_size": 30, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    for name, weights in {"a": (1.0, 0.0), "b": (0.0, 1.0), "both": (0.25, 0.75)}.items():
        net = _net("frozen").double()
        before = net.trunk[0].weight.detach().clone()

        class Once(Weighted):
            def steps(self, epoch: int, predict: object, w: Any = weights) -> Sequence[Step]:
                return [
                    (
                        DomainBatch(0, np.arange(30), w[0]),
                        DomainBatch(1, np.arange(50), w[1]),
                    )
                ]

        job_net = net

        def forward(x: Tensor, parts: Any, net: MultiHead = job_net) -> list[Tensor]:
            return net(x.double(), parts)

        recipe = TrainSpec.model_validate(RECIPE.model_dump() | plain_step | {"augment": "none"})
        train(
            TrainingJob(
                net, Once(None), [{"params": list(net.parameters())}], recipe, forward=forward
            )
        )
        moved[name] = before - net.trunk[0].weight.detach()
    expected = 0.25 * moved["a"] + 0.75 * moved["b"]
    assert moved["a"].abs().max() > 1e-4
    torch.testing.assert_close(moved["both"], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_printed_for_each_domain_and_the_sources_labels_are_not_smoothed(
    smoothing: float,
) -> None:
    """SFT Eq. 3: 1.75 is 0.75 of the target and 1 of the source; the history has both."""
    seen: list[tuple[Tensor, ...]] = []
    net = _net()

    def forward(inputs: Tensor, parts: Any) -> Sequence[Tensor]:
        outputs = net(inputs, parts)
        seen.append(tuple(out.detach() for out in outputs))
        return outputs

    recipe = RECIPE.model_copy(
        update={"label_smoothing": smoothing, "epochs": 1, "augment": "none"}
    )
    method = Weighted(0.5)
    job = TrainingJob(net, method, [{"params": list(net.parameters())}], recipe, forward=forward)
    (row,) = train(job).history
    steps = method.steps(0, lambda domain: np.zeros((0, 0)))
    sums, counts = [0.0, 0.0], [0, 0]
    for step, outputs in zip(steps, seen, strict=True):
        for part, out in zip(step, outputs, strict=True):
            labels = torch.from_numpy((TARGET, SOURCE)[part.domain].labels[part.indices])
            at = smoothing if part.domain == 0 else 0.0
            loss = nn.functional.cross_entropy(out, labels, reduction="sum", label_smoothing=at)
            sums[part.domain] += float(loss)
            counts[part.domain] += len(labels)
    assert row["train_loss"] == pytest.approx(sums[0] / counts[0], rel=1e-5)
    assert row["borrowed_1_loss"] == pytest.approx(sums[1] / counts[1], rel=1e-5)
    assert row["borrowed_1_weight"] == 0.5


def test_a_source_without_weight_leaves_plain_training_untouched_to_the_bit() -> None:
    """X-7 (d): weight 0 and separate BatchNorm."""
    alone, beside = _net("separate"), _net("separate")
    first = _train(alone, Weighted(None))
    second = _train(beside, Weighted(0.0), weight_decay=5e-4)
    for key, value in first.state.items():
        if not key.startswith("heads.1"):
            assert torch.equal(value, second.state[key]), key
    joint = _train(_net("joint"), Weighted(0.0))
    assert not torch.equal(joint.state["trunk.0.weight"], first.state["trunk.0.weight"])


def test_one_domain_with_a_head_equals_plain_training() -> None:
    outcome = _train(_net(), Weighted(None))
    chain = nn.Sequential(_trunk(), _net().heads[0])
    method = Plain(Ingredients(TARGET, RECIPE))
    job = TrainingJob(chain, method, [{"params": list(chain.parameters())}], RECIPE)
    plain = train(job)
    assert [r["train_loss"] for r in plain.history] == [r["train_loss"] for r in outcome.history]
    assert torch.equal(plain.state["1.weight"], outcome.state["heads.0.weight"])


def test_accumulation_takes_an_even_share_of_each_domain() -> None:
    states = []
    for accumulate in (1, 3):
        outcome = _train(_net("frozen"), Weighted(0.5), accumulate=accumulate)
        states.append(outcome.state)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-6)


def test_training_accuracy_counts_target_images_only() -> None:
    assert _train(_net(), Weighted(1.0, only_source=True)).history[0]["train_top1_accuracy"] is None
    assert _train(_net(), Weighted(1.0)).history[0]["train_top1_accuracy"] is not None


def test_batch_norm_modes_differ_as_described() -> None:
    x, parts = torch.randn(6, 3, 8, 8), ((0, 2), (1, 4))
    for mode, own, running in (("joint", x, x), ("separate", x[:2], x[:2])):
        net = _net(mode).train()
        out = net(x, parts)[0]
        reference = _trunk().train()
        expected = net.heads[0](reference(own)[:2])
        torch.testing.assert_close(out, expected)
        reference = _trunk().train()
        reference(running)
        torch.testing.assert_close(net.trunk[1].running_mean, reference[1].running_mean)
    frozen = _net("frozen").train()
    torch.testing.assert_close(frozen(x, parts)[1], frozen.heads[1](_trunk().eval()(x[2:])))
    assert torch.equal(frozen.trunk[1].running_mean, torch.zeros(6))


def test_separate_leaves_the_norms_switched_on() -> None:
    net = _net("separate").train()
    net(torch.randn(4, 3, 8, 8), ((1, 4),))
    assert net.trunk[1].track_running_stats
    assert int(net.trunk[1].num_batches_tracked) == 0


def test_parts_must_add_up() -> None:
    with pytest.raises(ModelError, match="batch of 4"):
        _net()(torch.zeros(4, 3, 8, 8), ((0, 3),))


def test_two_domains_without_heads_are_an_error() -> None:
    net = _net()
    job = TrainingJob(net, Weighted(1.0), [{"params": list(net.parameters())}], RECIPE)
    with pytest.raises(BenchError, match="2 domains"):
        train(job)
