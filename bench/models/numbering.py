"""The numbered layers of any timm network.

timm lists for each network which parameters belong together, in the order of the forward pass (its
`group_matcher`, made for layer-wise learning rates). Those groups are the layers, with three
additions that make "the last layer" and "a layer" mean the same everywhere:

* the classifier, and nothing else, is the last layer;
* a group that holds vectors only (a final LayerNorm, VGG's BatchNorms) joins the layer before it;
* a buffer lies in the layer of its module's parameters, and so does everything without parameters
  (activation, pooling, dropout) in the layer before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from timm.models import group_parameters
from torch import nn

from bench.core.errors import ModelError


@dataclass(frozen=True)
class Layer:
    """One layer: its number from 1 on, and the names of what it holds.

    Attributes:
        number: place in the forward pass, from 1 to the depth of the network.
        name: what its parameters have in common, to be read by people.
        parameters: names as in `model.named_parameters()`.
        buffers: names as in `model.named_buffers()`, running statistics among them.
        modules: names of the modules that lie wholly within the layer.
    """

    number: int
    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]


def numbered_layers(model: nn.Module) -> tuple[Layer, ...]:
    """Every parameter, buffer and module of `model` in exactly one layer, 1 to depth.

    Modules that span layers (the network itself, its stages) are in none.

    Raises:
        ModelError: when the network has no grouping or no classifier.

    >>> from bench.models.narrow import NarrowNet
    >>> [layer.name for layer in numbered_layers(NarrowNet(num_classes=5))]
    ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6.fc', 'fc7.fc', 'fc8.fc']
    """
    groups = _parameter_groups(model)
    number = {name: n for n, names in enumerate(groups, start=1) for name in names}
    modules = _place_modules(model, number)
    buffers = {
        name: modules.get(name.rpartition(".")[0]) or _nearest_layer(name, number)
        for name, _ in model.named_buffers()
    }
    return tuple(
        Layer(
            number=n,
            name=_common_name(names, number),
            parameters=tuple(names),
            buffers=tuple(name for name, layer in buffers.items() if layer == n),
            modules=tuple(name for name, layer in modules.items() if layer == n),
        )
        for n, names in enumerate(groups, start=1)
    )


def depth(model: nn.Module) -> int:
    """The number of layers of `model`.

    Raises:
        ModelError: when the network has no grouping or no classifier.
    """
    return len(_parameter_groups(model))


def _parameter_groups(model: nn.Module) -> list[list[str]]:
    """Names of parameters by layer, each layer in the order of definition."""
    name = type(model).__name__
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ModelError(
            f"{name} does not list how its parameters group into layers (no group_matcher)",
            hint="choose another network, or give this one a `group_matcher(coarse)` like timm's",
        )
    order = {parameter: n for n, (parameter, _) in enumerate(model.named_parameters())}
    last = _classifier_parameters(model)
    grouped = group_parameters(model, matcher(coarse=False))
    ranked = [[p for p in grouped[rank] if p not in last] for rank in sorted(grouped)]
    found = [p for names in ranked for p in names] + sorted(last)
    if sorted(found) != sorted(order):
        lost = sorted(set(order) - set(found))
        raise ModelError(
            f"{name}: timm's grouping leaves parameters without a layer: {', '.join(lost[:8])}",
            hint="choose another network",
        )
    groups = _join_vectors(model, [names for names in ranked if names])
    groups.append(list(last))
    return [sorted(names, key=order.__getitem__) for names in groups]


def _classifier_parameters(model: nn.Module) -> set[str]:
    get = getattr(model, "get_classifier", None)
    heads = get() if get is not None else None
    if isinstance(heads, dict | nn.ModuleDict):
        heads = tuple(heads.values())
    parts = heads if isinstance(heads, tuple | list | nn.ModuleList) else (heads,)
    ids = {id(p) for part in parts if isinstance(part, nn.Module) for p in part.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in ids}
    if not names:
        raise ModelError(
            f"{type(model).__name__} has no classifier with parameters",
            hint="create it with at least one class, or choose another network",
        )
    return names


def _join_vectors(model: nn.Module, groups: list[list[str]]) -> list[list[str]]:
    """Groups without a matrix among their parameters join the group before (the first: after)."""
    dimensions = {name: parameter.ndim for name, parameter in model.named_parameters()}
    joined: list[list[str]] = []
    waiting: list[str] = []
    for names in groups:
        if all(dimensions[name] < 2 for name in names):
            if joined:
                joined[-1] = joined[-1] + names
            else:
                waiting = waiting + names
        else:
            joined.append(waiting + names)
            waiting = []
    return [*joined, waiting] if waiting else joined


def _place_modules(model: nn.Module, number: dict[str, int]) -> dict[str, int]:
    """The layer of each module that lies in one layer, in the order of definition."""
    placed: dict[str, int] = {}
    before = 1
    for name, module in model.named_modules():
        if name == "":
            continue
        held = {
            number[f"{name}.{p}"] for p, _ in module.named_parameters() if f"{name}.{p}" in number
        }
        parent = placed.get(name.rpartition(".")[0])
        if len(held) == 1:
            placed[name] = next(iter(held))
        elif parent is not None:
            placed[name] = parent
        elif not held:
            placed[name] = before
        before = placed.get(name, before)
    return placed


def _nearest_layer(buffer: str, number: dict[str, int]) -> int:
    """The first layer below the closest module around `buffer` that holds parameters."""
    path = buffer
    while path:
        path = path.rpartition(".")[0]
        prefix = f"{path}." if path else ""
        held = [n for name, n in number.items() if name.startswith(prefix)]
        if held:
            return min(held)
    return 1


def _common_name(names: list[str], everyone: Iterable[str]) -> str:
    """What the names of a layer, and of no other layer, begin with; else its first module."""
    parts = [name.split(".")[:-1] or [name] for name in names]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    name = ".".join(common)
    shared = any(other.startswith(f"{name}.") for other in everyone if other not in names)
    return name if name and not shared else ".".join(parts[0])
