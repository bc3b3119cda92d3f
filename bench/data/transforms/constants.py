"""Small tensors that every batch needs, made once: an upload would make each step wait for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


class Constants:
    """What functions give for arguments, kept.

    >>> constants = Constants()
    >>> constants(torch.arange, 3) is constants(torch.arange, 3)
    True
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Hashable, ...], Any] = {}

    def __call__(self, make: Callable[..., Made], *arguments: Hashable) -> Made:
        """`make(*arguments)`; do not write to it."""
        key = (make, *arguments)
        if key not in self._made:
            with torch.inference_mode(False):  # training may need what an evaluation made
                self._made[key] = make(*arguments)
        found: Made = self._made[key]
        return found
