"""Optimisers and schedules: against torch's own, and the ledger's LI-1 and X-1 (b)."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.core.errors import BenchError
from bench.specs.run import TrainSpec
from bench.training import optimizers as optim

LI = TrainSpec(schedule="step", lr=0.01, step_epochs=20, step_gamma=0.1, epochs=100)


def test_li_learning_rate_falls_to_a_tenth_every_twenty_epochs() -> None:
    lrs = [LI.lr * optim.lr_factor(LI, epoch, 0, 7) for epoch in (0, 20, 40, 60, 80)]
    assert lrs == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-6], rel=1e-12)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_schedules_equal_torchs(schedule: str) -> None:
    recipe = LI.model_copy(update={"schedule": schedule, "epochs": 50, "step_epochs": 15})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    theirs = (
        torch.optim.lr_scheduler.StepLR(optimizer, 15, 0.1)
        if schedule == "step"
        else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    )
    for epoch in range(50):
        ours = recipe.lr * optim.lr_factor(recipe, epoch, 0, 4)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


@given(
    st.sampled_from(["constant", "step", "cosine"]),
    st.integers(1, 30),
    st.integers(1, 9),
    st.floats(0, 1),
)
def test_factor_is_positive_at_most_one_and_warms_up_linearly(
    schedule: str, epochs: int, steps: int, share: float
) -> None:
    warmup = share * epochs
    recipe = TrainSpec(schedule=schedule, epochs=epochs, warmup_epochs=warmup, step_epochs=50)
    factors = [optim.lr_factor(recipe, e, s, steps) for e in range(epochs) for s in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    for number, factor in enumerate(factors, start=1):
        if number / steps <= warmup:
            assert factor == pytest.approx(number / steps / warmup)
    rising = int(warmup * steps) + 1
    assert factors[rising:] == sorted(factors[rising:], reverse=True)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 1), st.floats(0, 0.99), st.floats(0, 0.1), st.floats(0.01, 2))
def test_sgd_is_the_textbook_rule_per_group(
    lr: float, momentum: float, decay: float, factor: float
) -> None:
    """v <- mu v + (g + lambda w); w <- w - lr factor v, written out."""
    recipe = TrainSpec(lr=lr, momentum=momentum, weight_decay=decay, schedule="constant")
    weight = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = optim.build([{"params": [weight], "lr": lr * factor}], recipe)
    w, v = weight.detach().clone(), torch.zeros(5, dtype=torch.float64)
    for step in range(4):
        gradient = torch.sin(weight.detach() * (step + 1))
        weight.grad = gradient.clone()
        optim.set_lr_factor(optimizer, 1 / (step + 1))
        optimizer.step()
        v = momentum * v + gradient + decay * w
        w = w - lr * factor / (step + 1) * v
    torch.testing.assert_close(weight.detach(), w, rtol=1e-9, atol=1e-12)


def test_one_plain_step_moves_by_lr_times_factor_times_gradient() -> None:
    recipe = TrainSpec(lr=0.5, momentum=0.0, weight_decay=0.0)
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    groups = [{"params": [w], "lr": 0.5 * f} for w, f in zip(weights, (1.0, 0.2), strict=True)]
    optimizer = optim.build(groups, recipe)
    for weight in weights:
        weight.grad = torch.tensor([1.0, 2.0, -4.0])
    optim.set_lr_factor(optimizer, 1.0)
    optimizer.step()
    assert torch.equal(weights[0].detach(), 1 - 0.5 * torch.tensor([1.0, 2.0, -4.0]))
    torch.testing.assert_close(weights[1].detach(), 1 - 0.1 * torch.tensor([1.0, 2.0, -4.0]))


def test_groups_keep_their_own_rates_and_decay() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [a], "lr": 0.02, "weight_decay": 0.0}, {"params": [b]}, {"params": []}]
    optimizer = optim.build(groups, TrainSpec(lr=0.1, weight_decay=0.3))
    optim.set_lr_factor(optimizer, 0.5)
    found = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [(0.01, 0.0), (0.05, 0.3)]


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_state_comes_back_bit_for_bit(name: str, kind: type) -> None:
    recipe = TrainSpec(optimizer=name)
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()

    first = optim.build([{"params": list(net.parameters())}], recipe)
    assert isinstance(first, kind)
    step(net, first, 0)
    twin = copy.deepcopy(net)
    second = optim.build([{"params": list(twin.parameters())}], recipe)
    optim.load_state(second, {k: v.contiguous().clone() for k, v in optim.state(first).items()})
    step(net, first, 1)
    step(twin, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert len(optim.state(first)) == {"sgd": 2, "adamw": 6}[name]


def test_state_of_another_network_is_refused() -> None:
    optimizer = optim.build([{"params": [nn.Parameter(torch.zeros(2))]}], TrainSpec())
    with pytest.raises(BenchError, match="3/momentum_buffer"):
        optim.load_state(optimizer, {"3/momentum_buffer": torch.zeros(2)})


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(BenchError, match="no parameter is trained"):
        optim.build([{"params": []}], TrainSpec())
