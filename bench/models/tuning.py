"""Tuning a part of the copied layers: normalisations, biases, low-rank changes, layer by layer.

Frankle, Schwab, Morcos (2021), "Training BatchNorm and Only BatchNorm"; Ben Zaken, Goldberg,
Ravfogel (2022), "BitFit". The other parameters of T layers stay as they were copied; R layers are
trained whole; running statistics move as ever.

Howard, Ruder (2018), "ULMFiT": layers are unfrozen one after the other, the last first.

Hu et al. (2022), "LoRA": a copied matrix W stays as it is and `alpha / rank * B A` is trained
beside it, A random and B zero at first. Here every weight of a linear map or convolution in a T
layer has one, a convolution's as the matrix of its outputs by all else; what else a T layer holds
stays as it was copied. B A is added to W by torch's parametrizations, so the network's code does
not change, and in the end W is replaced by the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from bench.core.errors import ModelError
from bench.core.seeding import seed_from
from bench.models.numbering import numbered_layers
from bench.specs.pattern import LayerPattern
from bench.specs.run import TrainSpec


def tune_only(
    model: nn.Module, pattern: LayerPattern, tuned: Literal["all", "norm", "bias", "lora"]
) -> None:
    """Switches off the gradients of all but the chosen parameters of copied and tuned layers.

    Args:
        model: the pattern has been applied to it; changed in place.
        pattern: which layers are T.
        tuned: `all` changes nothing; `norm` are scale and shift of BatchNorm, LayerNorm, GroupNorm
            and the like; `bias` are parameters of that name, of normalisations too. `lora` leaves
            none: what is trained stands beside them (`add_low_rank`).

    Raises:
        ModelError: no T layer has such a parameter.
    """
    if tuned == "all":
        return
    parameters = dict(model.named_parameters())
    copied = [
        name
        for layer in numbered_layers(model)
        if pattern.kind(layer.number) == "T"
        for name in layer.parameters
    ]
    if tuned == "lora":
        _check_low_rank(model, pattern)
        for name in copied:
            parameters[name].requires_grad_(False)
        return
    norms = {name for name, module in model.named_modules() if _is_normalisation(module)}
    chosen = {
        name
        for name in copied
        if (name.rpartition(".")[0] in norms if tuned == "norm" else name.endswith("bias"))
    }
    if not chosen:
        raise ModelError(
            f"tuned: {tuned}, but no T layer of {pattern} has such a parameter",
            hint="use tuned: all, or another network or pattern",
        )
    for name in copied:
        if name not in chosen:
            parameters[name].requires_grad_(False)


def _is_normalisation(module: nn.Module) -> bool:
    kinds = (_NormBase, nn.LayerNorm, nn.GroupNorm)
    return isinstance(module, kinds) or type(module).__name__.endswith(("Norm", "Norm2d"))


def _check_low_rank(model: nn.Module, pattern: LayerPattern) -> None:
    modules = [
        name
        for layer in numbered_layers(model)
        if pattern.kind(layer.number) == "T"
        for name in layer.modules
    ]
    if not any(_is_adapted(model.get_submodule(name)) for name in modules):
        raise ModelError(
            f"tuned: lora, but no T layer of {pattern} has a linear map or a convolution",
            hint="use tuned: all, or another network or pattern",
        )


def unfreezing(model: nn.Module, pattern: LayerPattern, every: int | None) -> Callable[[int], None]:
    """Gives the T layers that train in an epoch their gradients, and the others none.

    Args:
        model: as it is trained from the first step on; parameters without a gradient now have none
            later.
        pattern: which layers are T.
        every: epochs after which one more trains; None changes nothing.

    Returns:
        a function of the epoch (from 0), to be called after `model.train()`.
    """
    if every is None:
        return lambda epoch: None
    waiting = [
        layer for layer in reversed(numbered_layers(model)) if pattern.kind(layer.number) == "T"
    ]
    own = dict(model.named_parameters())
    parameters = [
        [own[name] for name in layer.parameters if own[name].requires_grad] for layer in waiting
    ]
    modules = [[model.get_submodule(name) for name in layer.modules] for layer in waiting]
    at_once = 0 if pattern.layers("R") else 1

    def stage(epoch: int) -> None:
        joined = at_once + epoch // every
        for number, (tensors, parts) in enumerate(zip(parameters, modules, strict=True)):
            for tensor in tensors:
                tensor.requires_grad_(number < joined)
            for module in parts if number >= joined else ():
                if isinstance(module, _NormBase):
                    module.eval()

    return stage


# --- low-rank changes ---

_BELOW = ".parametrizations.weight."


class LowRank(nn.Module):
    """W to W + scale * up @ down, in float32 also where the forward pass is not.

    Args:
        weight: W, (outputs, ...).
        rank: of the product; at most what W's shape allows.
        scale: of the product.
        generator: of the first values of `down`, as a linear map of torch begins.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        rank = min(rank, outputs, inputs)
        bound = math.sqrt(1 / inputs)
        drawn = torch.rand(rank, inputs, generator=generator)
        self.down = nn.Parameter(((2 * drawn - 1) * bound).to(weight.device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The sum, in the shape and layout of W."""
        return self.sum(weight, self.up, self.down)

    def sum(self, weight: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """The sum for other matrices."""
        with torch.autocast(weight.device.type, enabled=False):
            added = (up @ down * self.scale).view(weight.shape)
            if weight.ndim == 4 and not weight.is_contiguous():
                added = added.contiguous(memory_format=torch.channels_last)
            return weight + added


def add_low_rank(
    model: nn.Module, pattern: LayerPattern, train: TrainSpec, seed: int
) -> list[dict[str, Any]]:
    """Puts trained products beside the weights of T layers; the groups of their parameters.

    Args:
        model: the pattern has been applied to it; changed in place.
        pattern: which layers are T.
        train: rank, alpha and learning rates, as for copied layers.
        seed: of the first values.
    """
    layers = numbered_layers(model)
    groups = []
    for layer in layers:
        if pattern.kind(layer.number) != "T":
            continue
        factor = train.copied_lr_factor * train.layer_lr_decay ** (len(layers) - layer.number)
        params: list[nn.Parameter] = []
        for name in layer.modules:
            module = model.get_submodule(name)
            if not _is_adapted(module) or parametrize.is_parametrized(module):
                continue
            generator = torch.Generator().manual_seed(seed_from(f"lora|{seed}|{name}"))
            weight = module.weight
            assert isinstance(weight, Tensor)
            product = LowRank(weight, train.lora_rank, train.lora_scale, generator)
            parametrize.register_parametrization(module, "weight", product)
            params += [product.down, product.up]
        if params:
            groups.append({"params": params, "lr": train.lr * factor, "lr_factor": factor})
    return groups


def _is_adapted(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def merged_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of the adapted network as one of the network itself: sums in place of parts.

    >>> from bench.models.narrow import NarrowNet
    >>> net = NarrowNet(num_classes=5)
    >>> names, pattern = list(net.state_dict()), LayerPattern.parse("T(1-7)R(8)")
    >>> _ = add_low_rank(net, pattern, TrainSpec(tuned="lora"), seed=0)
    >>> sorted(merged_state(net, net.state_dict())) == sorted(names)
    True
    """
    merged = {}
    for name, value in state.items():
        owner, below, part = name.partition(_BELOW)
        if not below:
            merged[name] = value
        elif part == "original":
            product = model.get_submodule(f"{owner}{_BELOW}0")
            assert isinstance(product, LowRank)
            up, down = (state[f"{owner}{_BELOW}0.{matrix}"] for matrix in ("up", "down"))
            merged[f"{owner}.weight"] = product.sum(value, up, down)
    return merged


def merge(model: nn.Module) -> None:
    """Replaces each adapted weight by its sum, in place; the network is as it was without."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
