"""The processor of this machine: its name, and what it computes natively. Needs no torch."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path

_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors with instructions for bfloat16: AVX512-BF16 and AMX of x86, BF16 of ARM."""


@functools.cache
def name() -> str:
    """The model name of the processor, where the system gives it."""
    described = _described().get("model name") or platform.processor() or platform.machine()
    return f"cpu {described}"


@functools.cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16 natively, else torch emulates it.

    Where the system lists no flags, the answer is no, since float32 is never slow.
    """
    return has_flags_of_bfloat16(_described())


def has_flags_of_bfloat16(described: Mapping[str, str]) -> bool:
    """Whether an entry of /proc/cpuinfo names an instruction set for bfloat16.

    >>> has_flags_of_bfloat16({"flags": "fpu avx2 avx512f avx512_bf16"})
    True
    >>> has_flags_of_bfloat16({"flags": "fpu avx2 avx512f"}), has_flags_of_bfloat16({})
    (False, False)
    """
    flags = described.get("flags") or described.get("Features") or ""
    return not _BFLOAT16.isdisjoint(flags.split())


@functools.cache
def _described() -> Mapping[str, str]:
    """The first processor of /proc/cpuinfo; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines if ":" in line]
    found: dict[str, str] = {}
    for key, _, value in pairs:
        found.setdefault(key.strip(), value.strip())
    return found
