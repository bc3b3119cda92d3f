"""The sheet of mistakes: each image with its label, what it was called, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.figures.mistakes import mistake_sheet
from analysis.figures.style import styled, to_svg
from bench.core.errors import DataError
from bench.results.mistakes import Wrong


def test_each_mistake_has_its_picture_its_names_and_the_end_of_its_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wrong = [
        Wrong("a.png", "cost$ x$", "bee", 0.934, 0.02),
        Wrong("ants/of_the_summer_2019_0042.jpg", "ant", "bee\nwasp", 0.5, 0.4),
    ]
    with styled():
        figure = mistake_sheet(wrong, tmp_path)
        drawn = to_svg(figure).decode()
    shown, missing = figure.axes
    assert np.asarray(shown.images[0].get_array()).std() > 20
    assert not missing.images
    assert shown.get_title() == "cost\\$ x\\$\ncalled bee 93 %"
    assert missing.get_title().startswith("ant\ncalled bee")
    for text in ("called bee 93 %", "a.png", "…ummer_2019_0042"):
        assert text in drawn, text


def test_nothing_wrong_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image was called another class"):
        mistake_sheet([], tmp_path)
