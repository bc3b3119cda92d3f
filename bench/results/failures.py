"""What went wrong with a run, in the three lengths that are asked for."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import BenchError, of_files
from bench.results.store import GPU_FAULT
from bench.training.steps import IN_STEP

GPU_MEMORY = "out of GPU memory"

_GPU_MEMORY = re.compile(
    r"CUDA(?: error:| driver error:| ran)? out of memory"
    r"|CU(?:BLAS|DNN|SPARSE|FFT|SOLVER)_(?:STATUS_)?ALLOC_FAILED|CUDNN_STATUS_NOT_INITIALIZED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED,? when calling `cublas(?:Lt)?Create"
    r"|Cuda failure (?:\d+ )?'out of memory'",  # NCCL's
    re.I,
)
_GPU_FAULT = re.compile(r"CUDA error|CU(?:BLAS|DNN|SOLVER|FFT)_\w+|device-side assert|NCCL error")
_HOST_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory|not enough memory")


@dataclass(frozen=True)
class Failure:
    """Why an attempt at a run ended.

    Attributes:
        reason: a word or two, by which more memory or time is asked for.
        message: everything, to be kept beside the run.
        summary: one line, for progress.
        in_step: whether a training step raised it.
    """

    reason: str
    message: str
    summary: str
    in_step: bool = False

    def to_keep(self) -> dict[str, str]:
        """What is kept beside the run."""
        return {"reason": self.reason, "message": self.message}

    def to_json(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Failure:
        """What `to_json` gave; other values are left alone."""
        reason, message, summary = (str(values[name]) for name in ("reason", "message", "summary"))
        return cls(reason, message, summary, bool(values.get("in_step")))


class GpuFaultError(Exception):
    """The GPU failed a run; this process must end, as every later run in it would fail too."""


class FailureError(Exception):
    """A failure that another process has described."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


def failure_of(error: Exception, place: Path | None = None) -> Failure:
    """The failure of a run that an exception ended.

    Args:
        error: the exception.
        place: where the run writes, for an error of the system's that names no file.

    >>> failure_of(MemoryError()).reason
    'out of memory'
    >>> failure_of(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED in …")).reason
    'out of GPU memory'
    >>> failure_of(Exception("I/O error (os error 28)"), Path("runs/a")).summary[:31]
    'runs/a: No space left on device'
    >>> failure_of(OSError(28, "No space left on device", "results/a.csv")).summary[:38]
    'results/a.csv: No space left on device'
    """
    if isinstance(error, FailureError):
        return error.failure
    reason = _of_memory_or_gpu(error)
    if reason in (GPU_MEMORY, "out of memory"):
        text = str(error)
        in_step = IN_STEP in getattr(error, "__notes__", ())
        return Failure(reason, text, text.strip() or reason, in_step)
    reason = reason or type(error).__name__
    if isinstance(error, BenchError):
        summary = f"{error.place}: {error.message}" if error.place else error.message
        return Failure(reason, str(error), summary)
    text = "".join(traceback.format_exception(error))
    line = "".join(traceback.format_exception_only(error)).strip()
    of_system = _of_system(error, place)
    if of_system is not None:
        shown = of_files(of_system)
        line = f"{shown.place}: {shown.message}; {shown.hint}"
        text = f"{line}\n{text}"
    return Failure(reason, text, line)


def _of_memory_or_gpu(error: Exception) -> str | None:
    """The reason where memory or a GPU failed; torch has no type of its own for most of them."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError) or _GPU_MEMORY.search(text):
        return GPU_MEMORY
    if isinstance(error, torch.AcceleratorError) or _GPU_FAULT.search(text):
        return GPU_FAULT
    return "out of memory" if _HOST_MEMORY.search(text) else None


def _of_system(error: Exception, place: Path | None) -> OSError | None:
    """The operating system's error; libraries in Rust have its number in their text alone."""
    number = error.errno if isinstance(error, OSError) else None
    if written := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(written[1])
    if not number:
        return None
    filename = getattr(error, "filename", None) or place
    return OSError(number, os.strerror(number), filename and str(filename))
