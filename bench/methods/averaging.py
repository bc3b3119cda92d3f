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
the classifier first, that one stands for the zero-shot classifier. All runs of a soup in the paper
began with one classifier, a linear probe or the zero-shot one; here `train.head: probe` gives them
one, and so does a random one of the same `seeds.init`. Classifiers that began with other random
weights can be averaged too, with nothing in the paper to say that it helps. BatchNorm's running
statistics are averaged as weights are, not computed anew from images; counters of batches are
those of the first network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationError

from bench.core.errors import GridError, ModelError, nearest
from bench.core.text import counted
from bench.methods.options import MethodOptions
from bench.specs.data import validation_images
from bench.specs.problems import shown, words
from bench.specs.run import MethodSpec, RunSpec, Seeds, TrainSpec

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


Recipe = Literal["uniform", "greedy"]
"""Which of its ingredients a soup averages."""

_MOST = 1000
"""Runs that a soup may average."""


def _read(value: Any) -> Any:
    """What a run's spec has as text."""
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


class SoupOptions(MethodOptions):
    """Options of a soup.

    Attributes:
        choose: `uniform` averages all; `greedy` those that do not lower the accuracy on validation
            images, from the best on.
        over: what its runs differ in, keys of `train`, `seeds.init` and `seeds.order`, each with a
            list of values. Each combination is a run of its own, by plain training and otherwise as
            this one. The soup's own row shows the first value of each, and of a seed the number of
            the draw where it is listed, so that it is compared with that run.
    """

    whole_images = True
    choose: Recipe = "uniform"
    over: Annotated[
        dict[str, list[str | bool | int | float | None]],
        BeforeValidator(_read),
        Field(min_length=1),
    ]

    def identity(self) -> dict[str, Any]:
        """The options, `over` as JSON."""
        return {"choose": self.choose, "over": json.dumps(self.over, sort_keys=True)}

    def check_spec(self, spec: RunSpec) -> None:
        """Raises a GridError for runs that have no mean, or no validation images to choose by."""
        self._check_keys()
        try:
            ingredients = spec.ingredients
        except ValidationError as error:
            found = error.errors()[0]
            key = ".".join(map(str, found["loc"]))
            text = found["msg"].removeprefix("Value error, ")
            text = f"{key} is {shown(found['input'])}: {words(found)}" if key else text
            raise GridError(f"a run of method.over cannot be: {text}") from None
        first, *others = ingredients
        for other in others:
            if (unlike := difference(first, other)) is not None:
                raise GridError(
                    f"the runs of method.over differ in their {unlike}, so a mean of their weights "
                    "is no network",
                    hint="leave seeds.init out of over, or copy these layers too",
                )
        if others and first.init.kind == "scratch":
            raise GridError(
                f"{counted(len(ingredients), 'run')} from random weights have nothing in common, "
                "so a mean of their weights is no network",
                hint="give them a source to start from, and a pattern that copies layers",
            )
        if self.choose == "greedy":
            self._check_validation(ingredients)

    def _check_keys(self) -> None:
        known = [f"train.{name}" for name in TrainSpec.model_fields]
        known += [f"seeds.{name}" for name in Seeds.model_fields if name != "draw"]
        for key, values in self.over.items():
            if key in ("seed", "seeds.draw"):
                raise GridError(
                    f"method.over has {key}, but the runs of a soup learn the same images",
                    hint="write seeds.order or seeds.init; an axis of seeds repeats the soup",
                )
            if key not in known:
                raise GridError(
                    f"method.over has no key {key!r}", hint=f"its keys: {nearest(key, known, 5)}"
                )
            if not values:
                raise GridError(f"method.over: {key} has no values", hint="write [a, b, …]")
        if (runs := math.prod(map(len, self.over.values()))) > _MOST:
            raise GridError(
                f"method.over makes {runs:,} runs, more than {_MOST:,}", hint="take fewer values"
            )

    def _check_validation(self, ingredients: Sequence[RunSpec]) -> None:
        data, count = ingredients[0].data, ingredients[0].data.images_per_class
        none = data.val_per_class == 0
        if data.val_from == "budget":
            none = count is not None and validation_images(count, data.val_share) == 0
        why = "have none" if none else None
        if any(one.train.refit for one in ingredients):
            why = "learn from them too (train.refit)"
        if why is not None:
            raise GridError(
                f"a greedy soup chooses on validation images, and its runs {why}",
                hint="write choose: uniform, or keep validation images apart",
            )


def soup_of_its_first(spec: RunSpec) -> RunSpec:
    """The soup with the settings of the first of its runs, whatever the cell had beside `over`.

    Values in another order give another row, and so does a key with one value: `over` is part of
    what a row shows.

    Raises:
        GridError: `over` has a value twice.
    """
    over, ingredients = spec.method.over, spec.ingredients
    values = {key: list(dict.fromkeys(_value(one, key) for one in ingredients)) for key in over}
    for key, given in over.items():
        if len(values[key]) < len(given):
            raise GridError(
                f"method.over: {key} has a value twice: {', '.join(map(shown, given))}",
                hint="a run counts once in a mean",
            )
    draw = spec.seeds.draw
    shows = {k: draw if k.startswith("seeds.") and draw in v else v[0] for k, v in values.items()}
    options = dict(spec.method.options) | {"over": json.dumps(values, sort_keys=True)}
    method = MethodSpec(name=spec.method.name, options=tuple(sorted(options.items())))
    return spec.with_settings(shows).model_copy(update={"method": method})


def _value(spec: RunSpec, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(spec, section), name)


def difference(one: RunSpec, other: RunSpec) -> str | None:
    """What two runs must share for a mean of their weights, and do not; None if they share all."""
    same = {"tested": True}
    data = [spec.data.model_copy(update=same).identity() for spec in (one, other)]
    last = one.layers.depth
    anew = [{n for n in spec.layers.layers("R") if n != last} for spec in (one, other)]
    drawn = bool(anew[0] | anew[1]) and one.seeds.init != other.seeds.init
    copied = one.init.kind != "scratch"  # otherwise nothing is shared, whatever the layers
    sources = [spec.init.model_dump(exclude={"path"}) for spec in (one, other)]
    for what, differs in (
        ("model", one.model != other.model),
        ("source", sources[0] != sources[1]),
        ("target", data[0] != data[1]),
        (
            "layers that begin at random below the classifier",
            copied and (anew[0] != anew[1] or drawn),
        ),
    ):
        if differs:
            return what
    return None


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
