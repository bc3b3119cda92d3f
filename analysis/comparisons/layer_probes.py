"""Accuracy of probes layer by layer, and gains of one network over another (LI Fig. 10)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.units import summarise
from analysis.leaderboard import arms
from bench.results.intervals import clipped

NETWORKS = ("FT-near", "FT-far", "self", "near", "far")
PANELS = (
    (("near", "far"), ("FT-near", "FT-far")),
    (("FT-near", "near"), ("FT-far", "far")),
)
"""LI Fig. 10b: what near has over far, before and after fine-tuning, and what fine-tuning adds."""
_COLUMNS = ("line", "x", "mean", "low", "high", "n", "unit")


def probed(evidence: Evidence) -> pd.DataFrame:
    """The probes of `Evidence.probes`, or of the leaderboard, with `x`, the layer's place."""
    table = arms.probes(evidence.board) if evidence.probes is None else evidence.probes
    if "task" not in table.columns:
        table = table.assign(task="probes")
    layers = list(dict.fromkeys(table["layer"]))
    return table.assign(x=[float(layers.index(layer) + 1) for layer in table["layer"]])


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of each network at each layer, of `probed` (Fig. 10a).

    Returns:
        line, x, mean, low, high (95 %), n, unit.
    """
    parts = [(name, table[table["network"] == name]) for name in NETWORKS]
    return _lines((name, rows.assign(value=rows["accuracy"])) for name, rows in parts)


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of one network over another at each layer, of `probed` (Fig. 10b).

    Pairs are of one task and one seed; columns as of `accuracies`.
    """
    found = []
    for one, other in chain.from_iterable(PANELS):
        first, second = table[table["network"] == one], table[table["network"] == other]
        both = first.merge(second, on=["task", "seed", "x"])
        gain = both["accuracy_x"] - both["accuracy_y"]
        found.append((f"{one} − {other}", both.assign(value=gain)))
    return _lines(found, share=False)


def _lines(parts: Iterable[tuple[str, pd.DataFrame]], share: bool = True) -> pd.DataFrame:
    rows = []
    for line, values in parts:
        for x, group in values.groupby("x", sort=True):
            e = summarise(group, "value", f"{line} at layer {x}")
            e = clipped(e, 0.0, 1.0) if share else e
            rows.append((line, x, e.value, e.low, e.high, e.n, e.unit))
    return pd.DataFrame(rows, columns=list(_COLUMNS))
