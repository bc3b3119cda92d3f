"""What went wrong with a run, in the three lengths that are asked for."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.core.errors import BenchError


@dataclass(frozen=True)
class Failure:
    """Why an attempt at a run ended.

    Attributes:
        reason: a word or two, by which more memory or time is asked for.
        message: everything, to be kept beside the run.
        summary: one line, for progress.
    """

    reason: str
    message: str
    summary: str

    def to_keep(self) -> dict[str, str]:
        """What is kept beside the run."""
        return {"reason": self.reason, "message": self.message}

    def to_json(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Failure:
        """What `to_json` gave; other values are left alone."""
        return cls(str(values["reason"]), str(values["message"]), str(values["summary"]))


class FailureError(Exception):
    """A failure that another process has described."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


def failure_of(error: Exception) -> Failure:
    """The failure of a run that an exception ended.

    >>> failure_of(MemoryError()).reason
    'out of memory'
    """
    if isinstance(error, FailureError):
        return error.failure
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        text = str(error)
        return Failure("out of memory", text, text.strip() or "out of memory")
    reason = type(error).__name__
    if isinstance(error, BenchError):
        summary = f"{error.place}: {error.message}" if error.place else error.message
        return Failure(reason, str(error), summary)
    line = "".join(traceback.format_exception_only(error)).strip()
    text = "".join(traceback.format_exception(error))
    return Failure(reason, text, line)
