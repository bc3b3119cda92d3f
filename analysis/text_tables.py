"""Tables to be read: on the screen, on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DASH = "–"


@dataclass(frozen=True)
class Table:
    """A table to be read.

    Attributes:
        numbers: places of columns that are aligned to the right.
        rows: texts, as many as there are heads; the first names the row.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()
    note: str = ""

    def decided(self, row: Sequence[str]) -> bool:
        """Whether the row's verdict is one."""
        if "verdict" not in self.head:
            return False
        return row[self.head.index("verdict")] in ("higher", "lower", "holds", "fails")
