"""The time of a race: what it has spent, over all commands of its name, and what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.core.errors import BenchError
from bench.specs.race import TIME, seconds_of


@dataclass
class Budget:
    """A time that begins with the command and goes on where the command goes on.

    Attributes:
        total_s: all of it.
        clock: seconds that count.
        begun: the clock at the start of this command.
        earlier_s: what earlier commands of the same race have spent.
        end_s: what the end takes after the last training: the model, its card, the labels.
    """

    total_s: float
    clock: Callable[[], float] = time.monotonic
    begun: float = field(default=float("nan"))
    earlier_s: float = 0.0
    end_s: float = 0.0

    def __post_init__(self) -> None:
        if self.begun != self.begun:
            self.begun = self.clock()

    @property
    def spent_s(self) -> float:
        """Seconds that this command and earlier ones have taken."""
        return self.earlier_s + self.clock() - self.begun

    @property
    def left_s(self) -> float:
        """Seconds for training: what is left, without the end."""
        return self.total_s - self.spent_s - self.end_s


def parse_budget(text: str) -> float:
    """Seconds of a text such as `30m`, `1h`, `1h30m`, `90s`.

    Raises:
        BenchError: it is none.

    >>> parse_budget("1h30m"), parse_budget("20m")
    (5400.0, 1200.0)
    """
    total = seconds_of(text)
    if total is None:
        raise BenchError(f"--budget is {text!r}", hint=TIME)
    return total
