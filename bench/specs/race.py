"""The section `race:` of a grid: its recipes race within a time, see `bench.race.of_grid`.

Nothing of it is part of a run: ids are those of the same grid without it.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

TIME = "write a time such as 30m, 1h or 1h30m"


def seconds_of(text: str) -> float | None:
    """Seconds of a time such as `30m`, `1h`, `1h30m` or `90s`; None for what is none.

    >>> seconds_of("1h30m"), seconds_of("20m"), seconds_of("soon"), seconds_of("0m")
    (5400.0, 1200.0, None, None)
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower(), re.ASCII)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return float(hours * 3600 + minutes * 60 + seconds) or None


def _is_time(text: str) -> str:
    if seconds_of(text) is None:
        raise ValueError("not a time")
    return text


class RaceSpec(BaseModel):
    """How the recipes of a grid race.

    Attributes:
        budget: time for everything, such as 30m, 1h30m or 90s; `--budget` goes before, and
            `--budget none` runs the whole grid.
        seeds: with how many of its repetitions the recipe that is left is run; default is all that
            the grid has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: Annotated[str, AfterValidator(_is_time)]
    seeds: Annotated[int, Strict(), Field(ge=1)] | None = None
