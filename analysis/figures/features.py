"""Charts of what was measured on features: distances, filters, similarity maps, clusters.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", Table 2 as bars; "A Multifaceted
Analysis …", Figs. 8 (precision and recall of filters) and 9 (sensitivity percentages); "Effective
Domain Knowledge Transfer with Soft Fine-tuning", Figs. 1 (clusters of concepts that the network
never learned) and 4 (similarity at each position). A tidy table in, an axis drawn; nothing is
computed here.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.charts import require
from analysis.figures.style import COLOURS, INK, MARKERS, finish
from analysis.leaderboard.labels import number
from bench.core.errors import DataError


def distance_bars(table: pd.DataFrame, ax: Axes, unit: str = "", title: str = "") -> Axes:
    """One kind of distance for several pairs of target and source, with intervals.

    Args:
        table: label, value, low, high, n (images of each side); values that are missing have no
            bar but the word "not measured".
    """
    require(table, "distances", ("label", "value", "low", "high"))
    known = table["value"].notna()
    if not known.any():
        raise DataError("none of the distances could be measured", hint="see their notes")
    for y, row in enumerate(table.to_dict("records")):
        if row["value"] is None or row["value"] != row["value"]:
            ax.text(0, y, " not measured", va="center", fontsize=8, color=INK)
            continue
        ax.barh(y, row["value"], height=0.6, color=COLOURS[0], alpha=0.35)
        ax.plot(row["value"], y, marker="o", color=COLOURS[0], markersize=4)
        if row["low"] is not None and row["low"] == row["low"]:
            ax.plot([row["low"], row["high"]], [y, y], color=COLOURS[0], linewidth=1.4)
    ax.set_yticks(range(len(table)), list(table["label"]))
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(unit)
    ax.set_title(title)
    return finish(ax)


def sensitivity_bars(table: pd.DataFrame, ax: Axes, title: str = "") -> Axes:
    """LI Fig. 9: of how many classes in a hundred one network's filters beat the other's.

    Args:
        table: label ("A over B"), percentage, reverse_percentage, n_classes; what is left of 100
            are ties.
    """
    require(table, "sensitivity", ("label", "percentage", "reverse_percentage", "n_classes"))
    for y, row in enumerate(table.to_dict("records")):
        won, lost = row["percentage"], row["reverse_percentage"]
        ax.barh(y, won, height=0.62, color=COLOURS[0], label="first" if not y else None)
        ties = 100 - won - lost
        ax.barh(y, ties, left=won, height=0.62, color="#D9D9D9", label="" if y else "tie")
        ax.barh(
            y,
            lost,
            left=won + ties,
            height=0.62,
            color="white",
            edgecolor=COLOURS[1],
            hatch="////",
            linewidth=0.8,
            label="" if y else "second",
        )
        ax.annotate(
            f"{won:.0f}",
            (won, y),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color="white" if won > 8 else INK,
            fontsize=8,
        )
    ax.axvline(50, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    words = [f"{row['label']} (n = {number(row['n_classes'])})" for row in table.to_dict("records")]
    ax.set_yticks(range(len(table)), words)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("classes whose top filters are better in the first network, %")
    ax.set_title(title)
    return finish(ax)


def clusters(table: pd.DataFrame, ax: Axes, title: str = "") -> Axes:
    """SFT Fig. 1: images in the plane of two principal components, by concept.

    Args:
        table: x, y, concept, cluster; a row per image. A wrong cluster is an empty marker only if
            the table says so in a boolean column `apart`.
    """
    require(table, "clusters", ("x", "y", "concept"))
    for i, (concept, rows) in enumerate(table.groupby("concept", sort=True)):
        # Another marker for each round of the colours: 49 concepts look unlike.
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        apart = rows["apart"] if "apart" in rows.columns else pd.Series(False, index=rows.index)
        for part, filling in ((rows[~apart], colour), (rows[apart], "none")):
            ax.plot(
                part["x"],
                part["y"],
                linestyle="none",
                marker=marker,
                markersize=4,
                color=colour,
                markerfacecolor=filling,
                label=f"{concept} (n = {len(rows)})" if filling == colour else "_",
            )
    ax.set_xlabel("first principal component")
    ax.set_ylabel("second principal component")
    ax.set_title(title)
    return finish(ax)
