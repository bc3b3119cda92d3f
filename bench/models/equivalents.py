"""Layers of a network replaced by ones that compute the same.

`PixelsFirst` does not crash. The backward pass of a convolution of one pixel with a stride writes
outside its memory in torch 2.14, on CPUs, when images lie in channels_last and have fewer than 16
channels: `repvgg_a0`'s first layer, on photographs. The process dies of it, later and elsewhere.
Taking the pixels first, and then each of them, is the same convolution.

`SavedOnce` takes less memory, a fifth of the activations of an EfficientNet-Lite. torch's ReLU6 in
place copies its input before it writes over it, as its backward pass is written in terms of the
input. Where the slope is 0 or 1 the output says the same: it lies between 0 and 6 just where the
input does. A layer that writes over what comes out of it, as another layer in place would, is an
error in the backward pass. Of timm's networks MobileNetV2 and EfficientNet-Lite have ReLU6 in
place, and no such layer behind; those of ReXNet and StarNet do not work in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ENOUGH = 16
"""Channels from which on the backward pass stays in its memory."""


class PixelsFirst(nn.Conv2d):
    """A convolution of one pixel that leaves out the pixels between its strides beforehand."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride))."""
        rows, columns = self.stride
        return functional.conv2d(images[:, :, ::rows, ::columns], self.weight, self.bias)


def take_pixels_first(model: nn.Module) -> list[str]:
    """Makes such convolutions of a network `PixelsFirst`; their names.

    >>> take_pixels_first(nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(8, 8, 3, stride=2)))
    ['0']
    """
    changed = []
    for name, layer in model.named_modules():
        if (
            type(layer) is nn.Conv2d
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.padding == (0, 0)
            and layer.groups == 1
            and layer.in_channels < _ENOUGH
        ):
            layer.__class__ = PixelsFirst
            changed.append(name)
    return changed


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        functional.hardtanh_(x, 0.0, 6.0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], out, 0.0, 6.0)
        return slope


class SavedOnce(nn.ReLU6):
    """ReLU6 in place, the same values and gradients to the bit."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same, written over."""
        if torch.is_grad_enabled() and x.requires_grad and not x.is_leaf:
            clamped: Tensor = _Clamp.apply(x)
            return clamped
        return super().forward(x)


def save_once(model: nn.Module) -> list[str]:
    """Makes the ReLU6 of a network that work in place `SavedOnce`; their names.

    >>> save_once(nn.Sequential(nn.Linear(2, 2), nn.ReLU6(inplace=True), nn.ReLU6()))
    ['1']
    """
    changed = []
    for name, layer in model.named_modules():
        if type(layer) is nn.ReLU6 and layer.inplace:
            layer.__class__ = SavedOnce
            changed.append(name)
    return changed
