"""Ratio charts in one call: what `analysis/ratio_charts.ipynb` draws from a results folder.

Each function reads nothing but its arguments and returns a chart, which a notebook shows as SVG;
one that has no pairs is an error that lists the charts there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis.comparisons import ratio_tables
from analysis.comparisons.contrasts import QUESTIONS, Question
from analysis.comparisons.evidence import Evidence
from analysis.figures.style import styled, to_svg
from analysis.findings.evaluate import examine
from analysis.leaderboard import read as board
from analysis.leaderboard.folder import read_folder
from analysis.report import figures as gallery
from bench.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure and the sentence on what it shows."""

    figure: Figure
    caption: str

    def _repr_svg_(self) -> str:
        return to_svg(self.figure).decode()


def load(leaderboard: str | Path) -> Evidence:
    """A leaderboard that `bench grid` wrote, or all of a results folder."""
    path = Path(leaderboard)
    return Evidence(read_folder(path) if path.is_dir() else board.read(path))


def ratio_chart(evidence: Evidence, *names: str) -> Chart:
    """Ratio charts side by side (CHU Figs. 1 and 2).

    Args:
        names: beginnings of the charts' names (`analysis.comparisons.ratio_tables.ratio_charts`),
            such as "tune / freeze", "tuned / scratch", "tuned: last 1".

    Raises:
        DataError: when no chart begins so, with the names that there are.
    """
    found = ratio_tables.ratio_charts(evidence)
    kept = {name: r for name, r in found.items() if name.startswith(names)}
    if not kept:
        there = ", ".join(found) or "none: no two finished runs are a pair"
        raise DataError(f"no ratio chart {', '.join(names)!r}", hint=f"there are: {there}")
    with styled():
        return Chart(*gallery.ratio_figure(kept, "ratio of accuracies"))


def gains_chart(evidence: Evidence, question: Question) -> Chart:
    """Gains in percentage points for one question of `analysis.comparisons.contrasts.QUESTIONS`
    (LI)."""
    table = examine(evidence).gains
    main = table[(table["question"] == question) & table["main"]]
    if main.empty:
        raise DataError(f"no pair of finished runs answers: {QUESTIONS[question]}")
    with styled():
        return Chart(*gallery.draw_gains(main, question))
