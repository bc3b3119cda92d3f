"""A sheet of the images that a run called another class, the surest mistake first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures.images import picture
from bench.core.errors import DataError
from bench.core.text import one_line
from bench.data.files.decode import UnreadableError, decode
from bench.results.mistakes import Wrong

_SIDE = 112
_COLUMNS = 8


def mistake_sheet(wrong: Sequence[Wrong], root: Path) -> Figure:
    """Draws each image with its label, what it was called, how surely, and its file.

    Args:
        wrong: of `bench.results.mistakes.Predictions.wrong`.
        root: the folder that the images' keys are relative to.

    Raises:
        DataError: there is nothing to draw.
    """
    if not wrong:
        raise DataError("no image was called another class")
    columns = min(_COLUMNS, len(wrong))
    rows = math.ceil(len(wrong) / columns)
    figure = Figure(figsize=(1.6 * columns, 2.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, ax in enumerate(grid.flat):
        if place >= len(wrong):
            ax.set_axis_off()
            continue
        one = wrong[place]
        try:
            pixels = decode((root / one.image).read_bytes(), _SIDE)
        except (UnreadableError, OSError):
            pixels = None
        sure = f"{_short(one.named)} {100 * one.probability:.0f} %"
        file = one_line(Path(one.image).name)
        words = file if len(file) <= 20 else f"…{file[-19:]}"  # numbers stand at the end
        words = words if pixels is not None else f"cannot be read: {words}"
        title = f"{_short(one.is_class)}\ncalled {sure}"
        picture(pixels, ax, _plain(title), "", _plain(words))
    return figure


def _short(name: str) -> str:
    """A class's name on a picture."""
    plain = one_line(name)
    return plain if len(plain) <= 16 else f"{plain[:15]}…"


def _plain(text: str) -> str:
    """Text on a picture, where `$` would begin a formula."""
    return text.replace("$", r"\$")
