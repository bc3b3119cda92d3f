"""The process that trains: its threads, and what it does with memory that it has freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def prepare(threads: int) -> None:
    """Makes this process one that trains with `threads` CPU threads, see `keep_memory`."""
    # Read once, when a GPU is first used; without it no run can be `deterministic`.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_threads(threads)
    keep_memory()


def set_threads(n: int) -> None:
    """Computes with `n` CPU threads; results are comparable bit by bit for equal `n` only."""
    torch.set_num_threads(n)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Computes with one CPU thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@contextlib.contextmanager
def deterministic(device: torch.device, is_on: bool) -> Iterator[None]:
    """Lets a GPU use only algorithms that give the same bits each time; a CPU has no others."""
    if not is_on or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def begin_measuring(device: torch.device) -> None:
    """Lets the peak of a GPU's memory count from now on; that of a process is its whole life's.

    >>> begin_measuring(torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_gpu_bytes(device: torch.device) -> int:
    """Free memory of a GPU, with what the allocator keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def gpu_memory_mib() -> dict[str, float]:
    """The most that this process has reserved of its GPU since `begin_measuring`, and the GPU's
    memory, as workers report them; nothing where it has computed on none, or where it cannot be
    measured.

    >>> torch.cuda.is_initialized() or gpu_memory_mib()
    {}
    """
    # Where it has used none, asking would take a GPU's memory for a CPU's worker.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    try:
        total = torch.cuda.mem_get_info()[1]
        taken = torch.cuda.max_memory_reserved()
    except RuntimeError:  # the run is published: a measurement must not end the worker
        return {}
    return {"gpu_taken_mib": taken / 2**20, "gpu_total_mib": total / 2**20}


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process, or the tensors on the GPU, have taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
