"""Captions: one sentence from a table's numbers, about what its figure shows."""

from __future__ import annotations

import pandas as pd

from analysis.leaderboard.labels import number
from analysis.report.summary import gain_text
from bench.core.text import counted


def gains_caption(main: pd.DataFrame, question: str) -> str:
    """What the dot plot of one question shows.

    Args:
        main: rows of `analysis.comparisons.contrasts.gain_rows` of one question.
    """
    rows = main.to_dict("records")
    decided = [r for r in rows if r["verdict"] != "undecided"]
    general = [r for r in decided if r["scope"] == "in general"]
    most = max(decided or rows, key=lambda r: abs(r["gain_points"]))
    size = most["n_per_class"]
    at = f" at {number(size)} images per class" if size else ""
    setting = f", {most['setting']}" if most["setting"] else ""
    left = f"{len(decided)} of {counted(len(rows), 'difference')} are decided after Holm (filled)"
    said = f"{left}, {len(general)} of them as a general statement"
    word = "the largest decided" if decided else "none decided; the largest"
    arm = f"{most['left_name']} − {most['right_name']}"
    arm += f", {most['treatment']}" if question == "source" else ""
    return (
        f"{said}; {word} is {arm}{setting}{at}, {gain_text(most)}. Thin bars: 95 % intervals over "
        "tasks (over seeds of one task); thick bars: for these tasks alone."
    )


def moved(table: pd.DataFrame, what: str) -> str:
    """Where each of at most three lines is highest, and how far its ends lie apart."""
    said = []
    lines = list(dict.fromkeys(table["line"]))
    for line in lines[:3]:
        rows = table[table["line"] == line]
        best = rows.loc[rows["mean"].idxmax()]
        worst = rows.loc[rows["mean"].idxmin()]
        said.append(
            f"{line}: highest at {number(best['x'])} ({100 * best['mean']:.1f} %), lowest at "
            f"{number(worst['x'])} ({100 * worst['mean']:.1f} %)"
        )
    more = f"; {len(lines) - 3} more lines" if len(lines) > 3 else ""
    few = int(table["n"].min())
    unit = counted(few, str(table.iloc[0]["unit"]))
    wide = f" Intervals over {unit} may leave the frame." if few < 3 else ""
    return f"By {what}, {'; '.join(said)}{more}. Bars: 95 % intervals.{wide}"
