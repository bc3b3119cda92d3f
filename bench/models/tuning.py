"""Tuning a part of the copied layers: normalisations only, or biases only.

Frankle, Schwab, Morcos (2021), "Training BatchNorm and Only BatchNorm"; Ben Zaken, Goldberg,
Ravfogel (2022), "BitFit". The other parameters of T layers stay as they were copied; R layers are
trained whole; running statistics move as ever.
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from bench.core.errors import ModelError
from bench.models.numbering import numbered_layers
from bench.specs.pattern import LayerPattern


def tune_only(
    model: nn.Module, pattern: LayerPattern, tuned: Literal["all", "norm", "bias"]
) -> None:
    """Switches off the gradients of all but the chosen parameters of copied and tuned layers.

    Args:
        model: the pattern has been applied to it; changed in place.
        pattern: which layers are T.
        tuned: `all` changes nothing; `norm` are scale and shift of BatchNorm, LayerNorm, GroupNorm
            and the like; `bias` are parameters of that name, of normalisations too.

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
