"""Weights between finished networks: WiSE-FT and model soups, without any training.

Networks that were tuned from the same weights often lie in one valley of the loss, so a mean of
their weights is a network as good as they are, or better (Wortsman et al. 2022, ICML, "Model
soups", and CVPR, "Robust fine-tuning of zero-shot models"). Floating-point buffers, such as
BatchNorm's running statistics, are averaged as weights are; whole numbers (counters of batches)
stay those of the first network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from bench.core.errors import ModelError

State = Mapping[str, Tensor]


def interpolated(start: State, end: State, share: float) -> dict[str, Tensor]:
    """WiSE-FT: `(1 - share) * start + share * end`; at 0 and 1 the ends, bit for bit.

    Raises:
        ModelError: the networks differ in names or shapes, or the share is not from 0 to 1.

    >>> import torch
    >>> interpolated({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.25)
    {'w': tensor([0.2500])}
    """
    if not 0 <= share <= 1:
        raise ModelError(f"the share is {share}", hint="give one from 0 (the start) to 1 (the end)")
    if share in (0, 1):
        _check([start, end])
        return {name: value.clone() for name, value in (end if share else start).items()}
    return _weighted([start, end], [1 - share, share])


def uniform_soup(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of all networks.

    Raises:
        ModelError: there is none, or they differ in names or shapes.

    >>> import torch
    >>> uniform_soup([{"w": torch.tensor([0.0])}, {"w": torch.tensor([3.0])}])
    {'w': tensor([1.5000])}
    """
    return _weighted(states, [1 / max(1, len(states))] * len(states))


def greedy_soup(
    states: Sequence[State], accuracy_of: Callable[[State], float]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """The mean of those networks that do not lower the accuracy on validation images.

    From the best to the worst, each stays in the mean if the mean is then at least as accurate
    (Wortsman et al., recipe 1). It is never less accurate on these images than the best alone.

    Args:
        states: the networks.
        accuracy_of: on validation images, of any weights.

    Returns:
        The mean, and the places of those in it, the best first.

    Raises:
        ModelError: there is none, or they differ in names or shapes.
    """
    _check(states)
    alone = [accuracy_of(state) for state in states]
    first, *others = sorted(range(len(states)), key=lambda n: (-alone[n], n))
    inside, best = [first], alone[first]
    for number in others:
        tried = accuracy_of(uniform_soup([states[n] for n in [*inside, number]]))
        if tried >= best:
            inside, best = [*inside, number], tried
    return uniform_soup([states[n] for n in inside]), tuple(inside)


def _weighted(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    _check(states)
    return {name: _mean([state[name] for state in states], shares) for name in states[0]}


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The sum is in double precision, so that a mean of equal values is that value."""
    if not values[0].is_floating_point():
        return values[0].clone()
    total = sum(value.double() * share for value, share in zip(values, shares, strict=True))
    assert isinstance(total, Tensor)
    return total.to(values[0].dtype)


def _check(states: Sequence[State]) -> None:
    if not states:
        raise ModelError("there is no network to average", hint="name at least one finished run")
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    for number, other in enumerate(shapes[1:], 2):
        unlike = [
            name for name in shapes[0].keys() | other if shapes[0].get(name) != other.get(name)
        ]
        if unlike:
            raise ModelError(
                f"network {number} differs from the first in {len(unlike)} tensors, "
                f"{min(unlike)!r} among them",
                hint="average runs of one network on the same classes",
            )
