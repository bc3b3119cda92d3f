"""A network cut in two behind layer n, where that can be proved to change nothing.

The frozen first layers of a run need no gradient, and without dropout and augmentation they give
the same numbers for the same image every time, so one may compute them once.

How it is proved: the network runs once on noise while every module's input and output are watched.
The cut is allowed only if each module behind it received exactly the tensor object that the one
before it gave, so that a single tensor crosses the cut and nothing else happens in between; and if
both halves together give the same bits as the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.numbering import Layer, numbered_layers

Forward = Callable[[Tensor], Tensor]


class _Stop(Exception):  # noqa: N818  (not an error: it ends a forward pass early)
    def __init__(self, crossing: Tensor) -> None:
        super().__init__()
        self.crossing = crossing


@dataclass(frozen=True)
class _Call:
    """One run of a module: what went in, what came out, and whether that was one tensor."""

    name: str
    module: nn.Module
    given: Any
    result: Any
    plain: bool


def prefix_suffix(
    model: nn.Module, n: int, image_size: int | None = None
) -> tuple[Forward, Forward] | None:
    """The forward pass of layers 1..n, and that of the rest; None where it cannot be proved.

    Both run the network's own modules, in whatever mode these are; the prefix keeps no graph. For a
    prefix that is the same every time, put its layers in evaluation mode
    (`freeze_modes(..., frozen_dropout=False)`).

    Args:
        n: number of layers in front of the cut; 0 gives None.
        image_size: side in pixels of the images for the proof; None is the network's own.

    >>> from bench.models.narrow import NarrowNet
    >>> net = NarrowNet(num_classes=5).eval()
    >>> first, rest = prefix_suffix(net, 5)
    >>> first(torch.zeros(2, 3, 32, 32)).shape, rest(torch.zeros(2, 64, 4, 4)).shape
    (torch.Size([2, 64, 4, 4]), torch.Size([2, 5]))
    """
    layers = numbered_layers(model)
    if not 1 <= n < len(layers):
        return None
    images = _noise(model, image_size)
    with _untouched(model), torch.no_grad():
        behind = _pure_modules(model, layers, n)
        model.train()
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.training = False
        rest = _chain(model, behind, images)
        if rest is None:
            return None
        cut, suffix = rest

        def prefix(images: Tensor) -> Tensor:
            """Layers 1 to n, without a graph."""
            with torch.no_grad():
                return until_input_of(model, cut, images)

        model.eval()
        crossing = prefix(images)
        kept = crossing.clone()
        equal = torch.equal(suffix(crossing), model(images)) and torch.equal(crossing, kept)
    return (prefix, suffix) if equal else None


# --- the proof --------------------------------------------------------------------------------


def _pure_modules(model: nn.Module, layers: tuple[Layer, ...], n: int) -> dict[str, bool]:
    """The largest modules that lie on one side of the cut; true for those behind it."""
    number = {name: layer.number for layer in layers for name in layer.modules}
    sides: dict[str, bool] = {}

    def visit(name: str, module: nn.Module) -> None:
        below = [name, *(f"{name}.{child}" for child, _ in module.named_modules() if child)]
        found = {number[m] > n for m in below if m in number}
        if len(found) == 1:
            sides[name] = found.pop()
            return
        for child, part in module.named_children():
            visit(f"{name}.{child}", part)

    for child, part in model.named_children():
        visit(child, part)
    return sides


def _chain(
    model: nn.Module, behind: dict[str, bool], images: Tensor
) -> tuple[nn.Module, Forward] | None:
    """The first module behind the cut and the forward pass from there on, if it is a chain."""
    calls, features, logits = _watch(model, list(behind), images)
    names = [call.name for call in calls]
    first = next((i for i, name in enumerate(names) if behind[name]), None)
    if first is None or any(not behind[name] for name in names[first:]):
        return None
    chain: list[nn.Module] = []
    given = calls[first].given
    if given is features and features is not None:
        return calls[first].module, _Suffix([], model)
    for call in calls[first:]:
        if call.given is not given or not call.plain or names.count(call.name) != 1:
            return None
        chain.append(call.module)
        given = call.result
        if given is features and features is not None:
            return chain[0], _Suffix(chain, model)
    return (chain[0], _Suffix(chain, None)) if given is logits else None


class _Suffix:
    """Runs a chain of modules and then, if `model` is given, that network's head."""

    def __init__(self, chain: list[nn.Module], model: nn.Module | None) -> None:
        self.chain, self.model = chain, model

    def __call__(self, x: Tensor) -> Tensor:
        for module in self.chain:
            x = module(x)
        head: Forward | None = getattr(self.model, "forward_head", None)
        return head(x) if head is not None else x


def _watch(
    model: nn.Module, names: list[str], images: Tensor
) -> tuple[list[_Call], Tensor | None, Tensor]:
    """Runs the network; returns the modules' calls in order, the features and the logits.

    The features are those between timm's `forward_features` and `forward_head`; None if the
    network's forward pass is not one after the other.
    """
    calls: list[_Call] = []
    between: dict[str, Any] = {}

    def watcher(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            plain = len(args) == 1 and _unset(kwargs) and isinstance(result, Tensor)
            plain = plain and isinstance(args[0], Tensor)
            calls.append(_Call(name, module, args[0] if args else None, result, plain))

        return hook

    with ExitStack() as stack:
        for name in names:
            handle = model.get_submodule(name).register_forward_hook(
                watcher(name), with_kwargs=True
            )
            stack.callback(handle.remove)
        for method in ("forward_features", "forward_head"):
            if hasattr(model, method):
                stack.enter_context(_recorded(model, method, between))
        logits: Tensor = model(images)
    ends = between.get("forward_features"), between.get("forward_head")
    if ends[0] is None or ends[1] is None:
        return calls, None, logits
    straight = ends[0][1] is ends[1][0] and ends[1][1] is logits
    return calls, ends[0][1] if straight else None, logits


@contextmanager
def _recorded(model: nn.Module, method: str, into: dict[str, Any]) -> Iterator[None]:
    """Notes input and output of a method of `model`, once called with one argument."""
    original = getattr(model, method)

    def noting(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        into[method] = (args[0], result) if len(args) == 1 and _unset(kwargs) else None
        return result

    vars(model)[method] = noting
    try:
        yield
    finally:
        del vars(model)[method]


def _unset(options: dict[str, Any]) -> bool:
    """Whether keyword arguments are there in name only, such as a mask that is None."""
    return all(value is None or value is False for value in options.values())


def until_input_of(model: nn.Module, cut: nn.Module, images: Tensor) -> Tensor:
    """What the module `cut` is handed when `model` is run on `images`; nothing behind it is run."""

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise _Stop(args[0])

    handle = cut.register_forward_pre_hook(stop, prepend=True)
    try:
        model(images)
    except _Stop as reached:
        return reached.crossing
    finally:
        handle.remove()
    raise AssertionError("the forward pass went round the cut")


def _noise(model: nn.Module, image_size: int | None) -> Tensor:
    """Two images of noise in the network's size, type and place; always the same ones."""
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    size = (2, getattr(model, "in_chans", channels), image_size or height, image_size or width)
    stream = torch.Generator().manual_seed(0)
    reference = next(model.parameters())
    return torch.randn(size, generator=stream).to(reference.device, reference.dtype)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Puts modes, torch's random stream and gradients' state back as they were."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
