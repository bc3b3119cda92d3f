"""SyncBatchNorm's kernels, which torch has on CUDA alone, by their formulas.

With n values of a channel at this rank, mean m and inverse deviation s = (var + eps)^-1/2 over all
ranks, x' = (x - m) s and y = w x' + b:

    dL/dx = w s (dy - mean(dy) - x' mean(dy x')),   dL/dw = sum(dy x'),   dL/db = sum(dy)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _places(x: Tensor) -> list[int]:
    return [d for d in range(x.ndim) if d != 1]


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 2))


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.float(), _places(x), correction=0)
    return mean, (var + eps).rsqrt()


def _gather(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    share = (counts / counts.sum()).view(-1, 1).to(mean)
    whole = (share * mean).sum(0)
    var = (share * (invstd**-2 - eps + (mean - whole) ** 2)).sum(0)
    if running_mean is not None and running_var is not None:
        total = counts.sum()
        running_mean.lerp_(whole.to(running_mean), momentum)
        running_var.lerp_((var * total / (total - 1)).to(running_var), momentum)
    return whole, (var + eps).rsqrt()


def _apply(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    y = (x.float() - _by_channel(mean, x)) * _by_channel(invstd, x)
    if weight is not None:
        y = y * _by_channel(weight, x)
    if bias is not None:
        y = y + _by_channel(bias, x)
    return y.to(x.dtype).contiguous(memory_format=_layout(x))


def _sums(
    dy: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, *_: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slope = dy.float()
    centred = x.float() - _by_channel(mean, x)
    total, with_x = slope.sum(_places(x)), (slope * centred).sum(_places(x))
    return total, with_x, with_x * invstd, total.clone()


def _backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    total: Tensor,
    with_x: Tensor,
    counts: Tensor,
) -> Tensor:
    count = counts.sum()
    centred = x.float() - _by_channel(mean, x)
    slope = dy.float() - _by_channel(total / count, x)
    slope = slope - centred * _by_channel(invstd**2 * with_x / count, x)
    scale = invstd if weight is None else invstd * weight
    return (slope * _by_channel(scale, x)).to(x.dtype).contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gather,
    "batch_norm_elemt": _apply,
    "batch_norm_backward_reduce": _sums,
    "batch_norm_backward_elemt": _backward,
}
