"""The process that trains: its threads, and what it does with memory that it has freed."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def prepare(threads: int) -> None:
    """Makes this process one that trains with `threads` CPU threads, see `keep_memory`."""
    set_threads(threads)
    keep_memory()


def set_threads(n: int) -> None:
    """Computes with `n` CPU threads; results are comparable bit by bit for equal `n` only."""
    torch.set_num_threads(n)


def keep_memory() -> bool:
    """Keeps freed memory for the next step in place of handing it back to the system.

    Every step allocates the same activations and gradients. glibc maps blocks above a threshold
    anew each time, and the kernel then fills each page with zeros when it is first touched: a tenth
    to a quarter of a step. The peak grows by 3 to 8 %, and is held until the process
    ends. Results do not change.

    Returns:
        Whether the C library has such a setting; only glibc has.

    >>> keep_memory() in (True, False)
    True
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, -1))
    return False


def begin_measuring(device: torch.device) -> None:
    """Lets the peak of a GPU's memory count from now on; that of a process is its whole life's.

    >>> begin_measuring(torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process, or the tensors on the GPU, have taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
