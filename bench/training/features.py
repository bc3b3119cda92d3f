"""Features of images at a layer of a network.

A layer is named by module or by number. What "before" and "after the activation" mean is read off
a run of the network, so it holds whether normalisation stands between, whether activations work in
place, and whether the layer is one convolution or a residual block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bench.core.errors import ModelError, nearest
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions

Stage = Literal["pre", "post", "end", "output"]
Pool = Literal["none", "max", "mean", "flatten"]

_ACTIVATION_MODULES = ("torch.nn.modules.activation", "timm.layers.activations")
_NO_OPERATION = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)


def extract(
    model: nn.Module,
    layer: str | int,
    data: Domain,
    *,
    stage: Stage = "post",
    pool: Pool = "none",
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Features of all images of `data` at one layer, in evaluation mode, not augmented.

    Args:
        model: on the CPU; its modes are left as they were.
        layer: a module's name, or a layer's number from 1 on (`bench.models.numbering`).
        data: images with their normalisation.
        stage: `pre` and `post` are the input and output of the first activation behind the layer's
            last weights (a classifier has none: its scores are both); `end` is what the layer hands
            on after activation, pooling and normalisation; `output` is the named module's own
            output (for a number: `end`).
        pool: over all places, `max` or `mean` gives (N, C); `flatten` (N, all); `none` leaves maps
            (N, C, H, W) or tokens (N, T, C).

    Raises:
        ModelError: no such layer, or no activation behind it to speak of.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images = Domain("toy", np.zeros((5, 8, 8, 3), np.uint8), np.zeros(5, np.int64), 2)
    >>> extract(net, "0", images, pool="max").shape
    (5, 4)
    """
    feed = Feed(data, FeedOptions(torch.device("cpu")))
    tap = LayerTap(model, [layer], stage, feed.plain_batch(0, 1))
    size = batch_size or feed.images_per_pass
    batches = (feed.plain_batch(start, start + size) for start in range(0, data.size, size))
    features: NDArray[np.float32] = torch.cat([pooled(tap(x)[0], pool) for x in batches]).numpy()
    return features


class LayerTap:
    """What several layers of a network give for the same inputs, in one partial forward pass.

    Args:
        model: run in evaluation mode; its modes are restored each time.
        layers: names or numbers, as in `extract`.
        stage: as in `extract`.
        sample: normalised inputs (n, 3, S, S) on the network's device, to find the places with.

    Attributes:
        used: names of the modules that run up to the last of the layers, in order.

    Raises:
        ModelError: no such layer, or no activation behind it to speak of.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
    >>> tap = LayerTap(net, ["0", "2"], "pre", torch.zeros(1, 3, 8, 8))
    >>> [tuple(out.shape) for out in tap(torch.zeros(5, 3, 8, 8))], tap.used
    ([(5, 4, 6, 6), (5, 6, 4, 4)], ('0', '1', '2'))
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str | int], stage: Stage, sample: Tensor
    ) -> None:
        self.model = model
        with _evaluating(model), torch.inference_mode():
            self._places = [_locate(model, layer, stage, sample) for layer in layers]
            calls = _trace(model, sample)
        ends = [_call_number(calls, place) for place in self._places]
        last = self._places[int(np.argmax(ends))]
        self.used = tuple(dict.fromkeys(calls[: max(ends) + (last.side == "output")]))

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The layers' outputs, in the order in which they were asked for."""
        found: dict[int, Tensor] = {}
        with contextlib.ExitStack() as stack, torch.inference_mode():
            stack.enter_context(_evaluating(self.model))
            for number, place in enumerate(self._places):

                def keep(value: Tensor, number: int = number) -> None:
                    found[number] = value
                    if len(found) == len(self._places):
                        raise _Captured

                stack.callback(_watch(self.model, place, keep).remove)
            with contextlib.suppress(_Captured):
                self.model(inputs)
        return [found[number] for number in range(len(self._places))]


def _call_number(calls: list[str], place: _Place) -> int:
    """Which of the traced calls a place belongs to; a module with children: its last child's."""
    if place.module in calls:
        return [i for i, name in enumerate(calls) if name == place.module][place.turn - 1]
    within = [i for i, name in enumerate(calls) if _is_within(name, place.module)]
    if not within:
        raise ModelError(f"module {place.module!r} does not run", hint="name a module that does")
    return within[-1]


@dataclass(frozen=True)
class _Place:
    """The `turn`-th call of a module, and which side of it."""

    module: str
    turn: int
    side: Literal["input", "output"]


class _Captured(Exception):  # noqa: N818 -- a jump out of the forward pass, not an error
    """The layers behind the last one asked for need not run."""


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own mode restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _watch(model: nn.Module, where: _Place, keep: Callable[[Tensor], None]) -> RemovableHandle:
    """Hands the tensor at `where` to `keep`, copied, as an activation may overwrite it in place."""
    module, calls = model.get_submodule(where.module), 0

    def take(value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == where.turn:
            tensor = value[0] if isinstance(value, tuple) else value
            keep(tensor.clone())

    if where.side == "input":
        return module.register_forward_pre_hook(lambda _, arguments: take(arguments))
    return module.register_forward_hook(lambda _, __, output: take(output))


def _trace(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the modules without children, in the order in which they run."""
    calls: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _, __, name=name: calls.append(name))
        for name, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _locate(model: nn.Module, layer: str | int, stage: Stage, sample: Tensor) -> _Place:
    names = dict(model.named_modules())
    if isinstance(layer, str) and (layer not in names or not layer):
        raise ModelError(
            f"there is no layer {layer!r}", hint=f"layers: {nearest(layer, filter(None, names))}"
        )
    if isinstance(layer, str) and stage == "output":
        return _Place(layer, 1, "output")
    within = _numbered(model, layer) if isinstance(layer, int) else {layer}
    calls = _trace(model, sample)
    weighted = [i for i, name in enumerate(calls) if _has_weights(names[name])]
    own = [i for i in weighted if any(_is_within(calls[i], name) for name in within)]
    if not own:
        raise ModelError(
            f"layer {layer!r} has no weights of its own",
            hint="stage='output' gives what the module itself gives",
        )
    anchor = own[-1]
    following = next((i for i in weighted if i > anchor), len(calls))
    behind = range(anchor + 1, following)

    def place(call: int, side: Literal["input", "output"]) -> _Place:
        return _Place(calls[call], calls[: call + 1].count(calls[call]), side)

    if stage in ("end", "output"):
        kept = [i for i in behind if not isinstance(names[calls[i]], _NO_OPERATION)]
        return place(kept[-1] if kept else anchor, "output")
    activation = next((i for i in behind if _is_activation(names[calls[i]])), None)
    if activation is not None:
        return place(activation, "input" if stage == "pre" else "output")
    if following == len(calls):
        return place(anchor, "output")
    raise ModelError(
        f"no activation module follows layer {layer!r}",
        hint="stage='output' gives what the module itself gives",
    )


def _numbered(model: nn.Module, number: int) -> set[str]:
    from bench.models.numbering import numbered_layers

    layers = numbered_layers(model)
    if not 1 <= number <= len(layers):
        raise ModelError(f"there is no layer {number}", hint=f"layers: 1 to {len(layers)}")
    return set(layers[number - 1].modules)


def _is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _has_weights(module: nn.Module) -> bool:
    """Convolutions and linear maps; a normalisation's weights are vectors and do not count."""
    return any(p.ndim >= 2 for p in module.parameters(recurse=False))


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in _ACTIVATION_MODULES and not isinstance(
        module, nn.MultiheadAttention
    )


def pooled(features: Tensor, pool: Pool) -> Tensor:
    """Maps (N, C, H, W) or tokens (N, T, C) as `extract` hands them on; (N, C) stays."""
    if pool == "none" or features.ndim == 2:
        return features
    if pool == "flatten":
        return features.flatten(1)
    places = (1,) if features.ndim == 3 else tuple(range(2, features.ndim))
    return features.amax(places) if pool == "max" else features.mean(places)
