"""The bands of images per class and of cosine distance, and the advice table printed with them.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", §4 and Table 3. The paper prints
0.2 and 0.4 in two bands each; here bands are half-open. How many of the paper's own splits stand
behind each cell is counted from its Tables 1 and 2: one cell has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from analysis.papers import published
from bench.core.errors import DataError

Band = Literal["low", "medium", "large"]
SureBand = Literal["low", "medium", "large", "between", "unknown"]
Advice = Literal["freeze", "tune", "try both"]
BANDS: tuple[Band, ...] = ("low", "medium", "large")
DATA_EDGES = (21, 100)
"""Images per class from which the medium and the large band begin."""
DISTANCE_EDGES = (0.2, 0.4)
"""Cosine distances from which the medium and the large (CHU: high) band begin."""


def data_band(images_per_class: float) -> Band:
    """low 1 to 20, medium 21 to 99, large from 100; a mean of unequal classes may be a fraction.

    >>> [data_band(n) for n in (1, 20, 21, 99, 100)]
    ['low', 'low', 'medium', 'medium', 'large']
    """
    if not images_per_class > 0:
        raise DataError(f"{images_per_class} images per class", hint="one or more")
    medium, large = DATA_EDGES
    if images_per_class >= large:
        return "large"
    return "medium" if images_per_class >= medium else "low"


def distance_band(cosine: float) -> Band:
    """low [0, 0.2), medium [0.2, 0.4), large from 0.4 on.

    Features below zero can be farther than 1 apart, which the paper's features cannot: also large.

    >>> [distance_band(d) for d in (0.0, 0.199, 0.2, 0.4, 1.0)]
    ['low', 'low', 'medium', 'large', 'large']
    """
    if not 0 <= cosine <= 2:
        raise DataError(f"cosine distance {cosine} is not between 0 and 2")
    medium, large = DISTANCE_EDGES
    return "large" if cosine >= large else "medium" if cosine >= medium else "low"


def sure_distance_band(cosine: float, low: float, high: float) -> SureBand:
    """The band in which the whole interval of a distance lies; NaN ends: there is no interval.

    >>> nan = float("nan")
    >>> sure_distance_band(0.198, 0.152, 0.249), sure_distance_band(0.198, nan, nan)
    ('between', 'low')
    >>> sure_distance_band(nan, nan, nan)
    'unknown'
    """
    if cosine != cosine:
        return "unknown"
    # An interval by resampling may end a little below 0 or above 2.
    ends = [min(max(end, 0.0), 2.0) for end in (low, high) if end == end]
    bands = {distance_band(value) for value in (cosine, *ends)}
    return bands.pop() if len(bands) == 1 else "between"


PRINTED_DISTANCES: Mapping[Band, str] = {
    "low": "Cosine distance L (0.0-0.2)",
    "medium": "Cosine distance M (0.2-0.4)",
    "large": "Cosine distance H (0.4-1.0)",
}
"""The rows of CHU's Table 3."""
PRINTED_DATA: Mapping[Band, str] = {
    "low": "Images per class L (1-20)",
    "medium": "Images per class M (21-99)",
    "large": "Images per class H (>=100)",
}
"""Its columns."""
_PRINTED_ADVICE: Mapping[str, Advice] = {
    "Freeze": "freeze",
    "Tune": "tune",
    "Try Freeze or Tune": "try both",
}


def printed_advice(distance: Band, data: Band) -> Advice:
    """A cell of CHU's Table 3, for networks of which all layers but the last are copied.

    >>> printed_advice("low", "low"), printed_advice("large", "medium")
    ('freeze', 'tune')
    """
    row, column = PRINTED_DISTANCES[distance], PRINTED_DATA[data]
    return _PRINTED_ADVICE[str(published.look_up("chu-2016", "Table 3", row, column).value)]


def printed_evidence() -> dict[tuple[Band, Band], int]:
    """How many splits of the paper fall into each (distance, data) cell of its Table 3.

    >>> [printed_evidence()["medium", band] for band in BANDS]
    [4, 3, 0]
    """
    distance = {
        _plain(c.row): distance_band(c.number)
        for c in published.cells()
        if (c.paper, c.table, c.column) == ("chu-2016", "Table 2", "Cosine distance")
    }
    counts: dict[tuple[Band, Band], int] = {(d, n): 0 for d in BANDS for n in BANDS}
    for c in published.cells():
        if (c.paper, c.table) == ("chu-2016", "Table 1") and c.column.startswith("Train images"):
            counts[distance[_plain(c.row)], data_band(c.number)] += 1
    return counts


def _plain(name: str) -> str:
    """Table 1 writes Caltech256 and MITIndoor, Table 2 Caltech-256 and MIT-Indoor."""
    return name.replace("-", "").lower()
