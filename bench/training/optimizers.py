"""Optimisers, learning-rate schedules, and optimiser state as plain named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor

from bench.core.errors import BenchError
from bench.specs.run import TrainSpec


def build(groups: Sequence[Mapping[str, Any]], train: TrainSpec) -> torch.optim.Optimizer:
    """SGD or AdamW of torch, or another optimiser of timm's, over parameter groups.

    timm's have their own defaults for all but learning rate, weight decay and momentum.

    Args:
        groups: dicts with `params`; a group's `lr` and `weight_decay` replace the spec's. Its `lr`
            is the learning rate at the schedule's factor 1, kept as `initial_lr`. A group without
            parameters is left out.

    Raises:
        BenchError: when there is nothing to train.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> build([{"params": [weight], "lr": 0.5}], TrainSpec()).param_groups[0]["initial_lr"]
    0.5
    """
    filled = [
        {"lr": train.lr, "weight_decay": train.weight_decay, **group, "params": params}
        for group in groups
        if (params := list(group["params"]))
    ]
    if not filled:
        raise BenchError(
            "no parameter is trained", hint="a pattern needs a T or R layer with parameters"
        )
    for group in filled:
        group["initial_lr"] = group["lr"]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(filled, lr=train.lr, weight_decay=train.weight_decay)
    if train.optimizer != "sgd":
        made: torch.optim.Optimizer = create_optimizer_v2(
            filled,
            train.optimizer,
            lr=train.lr,
            weight_decay=train.weight_decay,
            momentum=train.momentum,
        )
        return made
    return torch.optim.SGD(
        filled,
        lr=train.lr,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        nesterov=train.nesterov and train.momentum > 0,
    )


class Anchors:
    """L2-SP (Li, Grandvalet, Davoine 2018): copied parameters are drawn to where they started.

    Adds the gradient of `l2_sp / 2 * |w - w0|²` to that of the loss, for parameters of groups with
    an `l2_sp` above 0. w0 are the values at construction, so it must precede the first step and any
    checkpoint.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._pulled = [
            (parameter, parameter.detach().clone(), float(group["l2_sp"]))
            for group in optimizer.param_groups
            if group.get("l2_sp")
            for parameter in group["params"]
        ]

    @torch.no_grad()
    def pull(self) -> None:
        """Adds to the gradients; parameters without one are not touched."""
        for parameter, start, strength in self._pulled:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=strength)


def lr_factor(train: TrainSpec, epoch: int, step: int, steps: int) -> float:
    """What the learning rates are multiplied by in one step.

    constant is 1, step is `step_gamma ** (epoch // step_epochs)` (LI §3: a tenth every 20 epochs)
    or, with `step_iterations`, `step_gamma ** (steps so far // step_iterations)` (GE §4.1),
    cosine falls from 1 to nearly 0 over the epochs after the warm-up. A linear warm-up of
    `warmup_epochs` multiplies it and reaches 1 with its last step. With `restart_every` each part
    of so many epochs has the schedule of a training of its length; the warm-up is not repeated.

    Args:
        epoch: from 0.
        step: within the epoch, from 0.
        steps: steps of this epoch, and of each before it.

    >>> li = TrainSpec(schedule="step", epochs=100)
    >>> [round(lr_factor(li, epoch, 0, 10), 6) for epoch in (0, 19, 20, 40)]
    [1.0, 1.0, 0.1, 0.01]
    """
    every = train.restart_every or train.epochs
    first = epoch // every * every
    length = min(every, train.epochs - first)
    warmup = 0.0 if first else train.warmup_epochs
    epoch -= first
    begun, ended = epoch + step / steps, epoch + (step + 1) / steps
    ramp = min(1.0, ended / warmup) if warmup > 0 else 1.0
    if train.schedule == "step":
        if train.step_iterations is not None:
            return ramp * train.step_gamma ** ((epoch * steps + step) // train.step_iterations)
        return ramp * train.step_gamma ** (epoch // train.step_epochs)
    if train.schedule == "cosine" and begun > warmup:
        return ramp * 0.5 * (1 + math.cos(math.pi * (begun - warmup) / (length - warmup)))
    return ramp


def set_lr_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's learning rate to `factor` times its own initial one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by `<parameter number>/<name>`, in the order of the groups.

    What some keep as a plain number is a tensor under `<…>/<name>/number`, and what they keep on
    the CPU for a parameter elsewhere stands under `<…>/<name>/host`; steps that some count once for
    all parameters of a group stand under `group<number>/step`.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[str, Tensor] = {}
    for number, values in optimizer.state_dict()["state"].items():
        found |= _named(number, values, parameters[number].device)
    for number, group in enumerate(optimizer.param_groups):
        if "step" in group:
            found |= _named(f"group{number}", {"step": group["step"]}, torch.device("cpu"))
    return found


def _named(owner: object, values: Mapping[str, object], device: torch.device) -> dict[str, Tensor]:
    """What is kept for parameters on a device, see `state`."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            on_host = value.device.type == "cpu" != device.type
            found[f"{owner}/{name}/host" if on_host else f"{owner}/{name}"] = value
        elif isinstance(value, int | float):
            found[f"{owner}/{name}/number"] = torch.tensor(value, dtype=torch.float64)
    return found


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores what `state` gave, into an optimiser built from the same groups.

    A tensor comes back on its parameter's device, but for `step` and what was on the CPU while the
    parameter was not. One shaped like its parameter gets the parameter's memory layout, which fixes
    the order in which a kernel walks over it; without that a resumed run could differ in the last
    bit.

    Raises:
        BenchError: when a tensor belongs to no parameter.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = {f"group{n}": group for n, group in enumerate(optimizer.param_groups)}
    for key, tensor in tensors.items():
        number, name, *kind = key.split("/")
        value: Any = _number(tensor) if kind == ["number"] else tensor
        if number in groups:
            groups[number][name] = value
            continue
        if not number.isdecimal() or int(number) >= len(parameters):
            raise BenchError(
                f"optimiser state {key!r} belongs to none of {len(parameters)} parameters"
            )
        parameter = parameters[int(number)]
        if not kind and name != "step":
            value = value.to(parameter.device)
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimizer.state[parameter][name] = value


def _number(value: Tensor) -> int | float:
    found = float(value)
    return int(found) if found.is_integer() else found
