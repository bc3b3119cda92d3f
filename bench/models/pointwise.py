"""Convolutions of one pixel with a stride, of few channels, so that no CPU crashes on them.

Their backward pass in torch 2.14 writes outside its memory on CPUs when images lie in
channels_last and have fewer than 16 channels: `repvgg_a0`'s first layer, on photographs. The
process dies of it, later and elsewhere. Taking the pixels first, and then each of them, is the same
convolution.
"""

from __future__ import annotations

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
