"""Averages of weights, without any training: WiSE-FT, and model soups.

Networks that were tuned from the same weights often lie in one valley of the loss, so a mean of
their weights is a network as good as they are, or better. WiSE-FT (Wortsman et al. 2022, CVPR,
"Robust fine-tuning of zero-shot models", Eq. 1) goes a share `alpha` of the way from the weights
that a fine-tuning began with to those that it ended with. A soup (Wortsman et al. 2022, ICML,
"Model soups") is the mean of several fine-tunings of the same weights: of all of them (uniform),
or of those that do not lower the accuracy on validation images (greedy, their Recipe 1).

Our reading, where the papers have CLIP and this project has none. A fine-tuning began with the
source's weights in its copied layers. Layers that it began at random have no weights to go back
to: they are the fine-tuned ones at both ends, the classifier too. Where `train.head: probe` fitted
the classifier first, that one stands for the zero-shot classifier. BatchNorm's running statistics
are averaged as weights are, not computed anew from images; counters of batches are those of the
first network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Strict

from bench.core.errors import GridError, ModelError
from bench.methods.options import MethodOptions
from bench.specs.run import RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]


class WiseOptions(MethodOptions):
    """Options of WiSE-FT.

    Attributes:
        alpha: share of the fine-tuned weights in the mean; 0 are those that the fine-tuning began
            with, 1 those that it ended with.
    """

    whole_images = True
    alpha: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.5

    def check_spec(self, spec: RunSpec) -> None:
        """Raises a GridError unless the run starts from a fine-tuning of the same target."""
        parent, depth = spec.parent, spec.layers.depth
        way = "parent: {source: near, pattern: tune}, source: none, pattern: " + f"F(1-{depth})"
        if parent is None or parent.init.kind == "scratch":
            began = "there is no parent" if parent is None else "its parent began at random"
            raise GridError(
                f"method 'wise' goes back from a fine-tuned parent to what it began with, and "
                f"{began}",
                hint=f"give it a fine-tuning to start from, such as {way}",
            )
        if len(spec.layers.layers("F")) != depth:
            raise GridError(
                f"method 'wise' takes over all layers of its parent, but pattern is {spec.pattern}",
                hint=f"write pattern: F(1-{depth})",
            )
        same = {"tested": True}
        own, theirs = (one.data.model_copy(update=same).identity() for one in (spec, parent))
        unlike = [name for name in own if own[name] != theirs.get(name)]
        for what, differs in (
            (f"target ({', '.join(unlike)})", bool(unlike) and not spec.allow_overlap),
            ("seeds.draw", spec.seeds.draw != parent.seeds.draw),
            ("model", spec.model != parent.model),
        ):
            if differs:
                raise GridError(
                    f"method 'wise' is for the target of its parent, but their {what} differ",
                    hint="leave target, model and seed out of parent: it takes over the run's own",
                )


def interpolated(start: State, end: State, alpha: float) -> dict[str, Tensor]:
    """WiSE-FT: `(1 - alpha) * start + alpha * end`; at 0 and 1 the ends, bit for bit.

    Raises:
        ModelError: the networks differ in names or shapes.

    >>> import torch
    >>> interpolated({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.25)
    {'w': tensor([0.2500])}
    """
    if alpha in (0, 1):  # a product with 0 would make -0 of 0
        _check([start, end])
        return {name: value.clone() for name, value in (end if alpha else start).items()}
    return _weighted([start, end], [1 - alpha, alpha])


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
    states: Sequence[State], alone: Sequence[float], accuracy_of: Callable[[State], float]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """The mean of those networks that do not lower the accuracy on validation images.

    From the best to the worst, each stays in the mean if the mean is then at least as accurate. It
    is never less accurate on these images than the best alone.

    Args:
        states: the networks.
        alone: accuracy of each on validation images.
        accuracy_of: the same of a mean.

    Returns:
        The mean, and the places of those in it, the best first.

    Raises:
        ModelError: there is none, or they differ in names or shapes.
    """
    _check(states)
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
    first = values[0]
    if not first.is_floating_point():
        return first.clone()
    total = first.double() * shares[0]
    for value, share in zip(values[1:], shares[1:], strict=True):
        total += value.double() * share
    return total.to(first.dtype)


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
