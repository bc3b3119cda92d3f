"""Ratio charts in one call: what `analysis/ratio_charts.ipynb` draws from a results folder.

Each function reads nothing but its arguments and returns a figure; a chart that has no pairs is an
error that says which experiments it needs.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analysis import board, gallery, ratio_tables
from analysis.contrasts import QUESTIONS, Question, answers, gain_table
from analysis.evidence import Evidence
from analysis.style import styled
from bench.errors import DataError

__all__ = ["gains_chart", "load", "ratio_chart"]


def load(leaderboard: str | Path) -> Evidence:
    """A leaderboard that `bench grid` wrote, or all of a results folder."""
    path = Path(leaderboard)
    return Evidence(board.read_folder(path) if path.is_dir() else board.read(path))


def ratio_chart(evidence: Evidence, *names: str) -> Figure:
    """Ratio charts side by side (CHU Figs. 1 and 2).

    Args:
        names: beginnings of the charts' names (`analysis.ratio_tables.ratio_charts`), such as
            "tune / freeze", "tuned / scratch", "tuned: last 1".

    Raises:
        DataError: when no chart begins so, with the names that there are.
    """
    found = ratio_tables.ratio_charts(evidence)
    kept = {name: r for name, r in found.items() if name.startswith(names)}
    if not kept:
        there = ", ".join(found) or "none: no two finished runs are a pair"
        raise DataError(f"no ratio chart {', '.join(names)!r}", hint=f"there are: {there}")
    with styled():
        return gallery.ratio_figure(kept, "ratio of accuracies")[0]


def gains_chart(evidence: Evidence, question: Question) -> Figure:
    """Gains in percentage points for one question of `analysis.contrasts.QUESTIONS` (LI)."""
    table = gain_table(answers(evidence))
    main = table[(table["question"] == question) & table["main"]]
    if main.empty:
        raise DataError(f"no pair of finished runs answers: {QUESTIONS[question]}")
    with styled():
        return gallery.draw_gains(main, question)[0]
