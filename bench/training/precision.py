"""The precision of a training's arithmetic: what `auto` is on a device, and how it is applied."""

from __future__ import annotations

import contextlib
import functools

import torch

from bench.core import processor


def native_precision(device: torch.device) -> str:
    """The fastest precision that the device computes natively: `bfloat16` or `float32`.

    >>> native_precision(torch.device("cpu")) in ("bfloat16", "float32")
    True
    """
    on_gpu = device.type == "cuda"
    native = _gpu_has_bfloat16(device) if on_gpu else processor.has_bfloat16()
    return "bfloat16" if native else "float32"


@functools.cache
def _gpu_has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def resolved(precision: str, device: torch.device) -> str:
    """The precision that is computed in; `auto` is `native_precision`."""
    return native_precision(device) if precision == "auto" else precision


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 arithmetic where it is safe, or nothing for `float32`."""
    if resolved(precision, device) == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
