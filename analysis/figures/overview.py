"""Charts of a whole study: the verdict on every claim, and cost against accuracy.

A tidy table in, an axis drawn; nothing is computed here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from analysis.figures.charts import require
from analysis.figures.style import COLOURS, GREY, finish
from analysis.leaderboard.labels import number

VERDICT_LOOKS: Mapping[str, tuple[str, str, str]] = {
    "holds": (COLOURS[0], "o", "full"),
    "fails": (COLOURS[1], "X", "full"),
    "about equal": (GREY, "s", "full"),
    "not enough evidence": (GREY, "o", "none"),
}
"""Colour, marker and filling of each verdict: filled disc, cross, filled square, empty ring."""


def verdicts(table: pd.DataFrame, ax: Axes) -> Axes:
    """Each claim of the papers: what their numbers say, and what was measured here.

    Args:
        table: of `analysis.findings.evaluate.table`: claim, text, verdict, published_verdict, and
            where it is shown too here (the verdict on these tasks alone).
    """
    columns = {"published_verdict": "published", "verdict": "here"}
    columns |= {"here": "on these\ntasks"} if "here" in table else {}
    require(table, "the findings", ("claim", "text", *columns))
    rows = table.to_dict("records")
    for y, row in enumerate(rows):
        for x, name in enumerate(columns):
            colour, marker, fill = VERDICT_LOOKS[row[name]]
            ax.plot(
                x,
                y,
                marker=marker,
                color=colour,
                markerfacecolor=colour if fill == "full" else "none",
                markersize=7,
                linestyle="none",
            )
        ax.text(-9.4, y, row["claim"], va="center", fontsize=8.5, fontweight="bold")
        ax.text(-8.15, y, textwrap.shorten(row["text"], 78), va="center", fontsize=8.5)
    ax.set_yticks([])
    for y in range(1, len(rows)):
        ax.axhline(y - 0.5, color="#E6E6E6", linewidth=0.6)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-9.4, 2.4)
    ax.set_xticks(range(len(columns)), list(columns.values()))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for verdict, (colour, marker, fill) in VERDICT_LOOKS.items():
        ax.plot(
            [],
            [],
            marker=marker,
            color=colour,
            markerfacecolor=colour if fill == "full" else "none",
            linestyle="none",
            markersize=7,
            label=verdict,
        )
    for side in ax.spines.values():
        side.set_visible(False)
    return ax


def pareto(table: pd.DataFrame, ax: Axes, title: str = "") -> Axes:
    """Accuracy against the time of training, with the recipes that nothing beats joined up.

    These are numbered from the fastest, and named under the axis.

    Args:
        table: of `analysis.comparisons.curves.costs`, one setting and one number of images per
            class.
    """
    require(table, "cost against accuracy", ("line", "seconds", "accuracy", "best", "n"))
    rest, front = table[~table["best"]], table[table["best"]].sort_values("seconds")
    points: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4.5}
    ax.plot(rest["seconds"], rest["accuracy"] * 100, color=GREY, markerfacecolor="none", **points)
    ax.step(front["seconds"], front["accuracy"] * 100, where="post", color=COLOURS[0], linewidth=1)
    ax.plot(front["seconds"], front["accuracy"] * 100, color=COLOURS[0], **points)
    for i, row in enumerate(front.to_dict("records"), start=1):
        ax.annotate(
            str(i),
            (row["seconds"], row["accuracy"] * 100),
            xytext=(-3, 5),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            fontweight="bold",
            color=COLOURS[0],
        )
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.14)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = float(table["seconds"].min()), float(table["seconds"].max())
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 20000)
    ax.set_xticks([s for s in ticks if low / 1.3 <= s <= high * 1.3] or [low])
    ax.set_xlim(low / 1.4, high * 1.25)
    names = "\n".join(f"{i}  {line}" for i, line in enumerate(front["line"], start=1))
    ax.set_xlabel(f"seconds of training and evaluation (log scale)\n{names}", loc="left")
    ax.set_ylabel("test accuracy, %")
    ax.set_title(title)
    return finish(ax)
