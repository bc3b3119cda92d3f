"""A grid under `--set`: whether its runs are still the grid's own, and what its tables are called.

Tables of another set of runs have a name of their own, so that neither writes over the other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.core.paths import user_path
from bench.grid.expand import Grid, load_grid
from bench.grid.presets import PRESET
from bench.grid.yaml import scalar
from bench.specs.run import canonical_json

_LONGEST = 80


def board_name(grid: Grid, overrides: Sequence[str]) -> str:
    """The name of the leaderboard of a grid with the `--set` texts `overrides`.

    It is the grid's own, unless they change its runs.
    """
    if not overrides or _same_runs(grid):
        return grid.name
    return f"{grid.name}--{_suffix(overrides)}"


def _same_runs(grid: Grid) -> bool:
    """Whether the grid has the same runs without the overrides."""
    try:
        plain = load_grid(grid.path)
    except BenchError:  # it cannot be read without what was set
        return False
    return [e.runs for e in plain.experiments] == [e.runs for e in grid.experiments]


def _suffix(overrides: Sequence[str]) -> str:
    """What was set, in words that a file can be called by.

    A value that cannot be written out as it is (a path, a list) is shortened, and then six digits
    of a hash distinguish it from others that look the same.

    >>> _suffix(["train.lr=1e-2", "pattern=tune"])
    'pattern=tune--train.lr=0.01'
    >>> _suffix(["target.root=/data/birds"])
    'target.root=birds-a08b1e'
    """
    parts = (text.partition("=") for text in overrides)
    pairs = [(key.strip(), scalar(value)) for key, _, value in parts]
    once = len({key for key, _ in pairs}) == len(pairs)
    if once:  # then their order is arbitrary
        pairs.sort(key=lambda pair: pair[0])
    shown = [(key, *_shown(value)) for key, value in pairs]
    text = "--".join(name if key == PRESET else f"{key}={name}" for key, name, _ in shown)
    if once and all(exact for _, _, exact in shown) and len(text) <= _LONGEST:
        return text
    whole = canonical_json([[key, _absolute(key, value)] for key, value in pairs])
    digits = hashlib.sha256(whole.encode()).hexdigest()[:6]
    return f"{text[:_LONGEST].rstrip('-.=')}-{digits}"


def _shown(value: Any) -> tuple[str, bool]:
    """A value for a file name, and whether it is all of it."""
    if isinstance(value, str):
        name = Path(value).name if "/" in value else value
    else:
        name = canonical_json(value)
    kept = re.sub(r"[^A-Za-z0-9.+_]+", "-", _ascii(name)).strip("-.")
    return kept, kept == (value if isinstance(value, str) else name) and bool(kept)


_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)


def _ascii(text: str) -> str:
    """Letters without their accents; others stay.

    >>> _ascii("Bäume und Sträuße")
    'Baume und Strausse'
    """
    apart = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _absolute(key: str, value: Any) -> Any:
    """A path in full, so that `~/birds` and `/home/me/birds` are the same."""
    if isinstance(value, str) and key.rpartition(".")[2] in ("root", "file"):
        return str(user_path(value).absolute())
    return value
