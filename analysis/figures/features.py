"""Charts of what was measured on features: distances, filters, similarity maps, clusters.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", Table 2 as bars; "A Multifaceted
Analysis …", Figs. 8 (precision and recall of filters) and 9 (sensitivity percentages); "Effective
Domain Knowledge Transfer with Soft Fine-tuning", Figs. 1 (clusters of concepts that the network
never learned) and 4 (similarity at each position). A tidy table in, an axis drawn; nothing is
computed here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.charts import require
from analysis.figures.style import COLOURS, GREY, INK, MARKERS, finish, looks
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


def precision_recall_curves(table: pd.DataFrame, ax: Axes, title: str = "") -> Axes:
    """LI Fig. 8: precision against recall of single filters as detectors of one class.

    Args:
        table: label (such as network and filter), recall, precision, ap; a row per threshold,
            the highest first.
    """
    require(table, "precision and recall", ("label", "recall", "precision", "ap"))
    names = list(dict.fromkeys(table["label"]))
    styles = looks({name: (name, "") for name in names})
    for name in names:
        rows, look = table[table["label"] == name], styles[name]
        label = f"{name} (AP {rows['ap'].iloc[0]:.2f})"
        ax.plot(
            rows["recall"], rows["precision"], color=look.colour, linestyle=look.dash, label=label
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("recall")
    ax.set_ylabel("precision")
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
    said = [f"{row['label']} (n = {number(row['n_classes'])})" for row in table.to_dict("records")]
    ax.set_yticks(range(len(table)), said)
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


def similarity_map(
    similarity: npt.ArrayLike, undefined: npt.ArrayLike, ax: Axes, title: str = ""
) -> Axes:
    """SFT Fig. 4: cosine similarity of two images' features at each position.

    Args:
        similarity, undefined: (H, W), of `analysis.measurements.clustering.position_similarity`;
            positions without a direction are hatched grey.
    """
    values, hidden = np.asarray(similarity, dtype=np.float64), np.asarray(undefined, dtype=bool)
    if values.ndim != 2 or values.shape != hidden.shape:
        raise DataError(
            f"maps have shapes {values.shape} and {hidden.shape}", hint="one pair: (H, W) both"
        )
    if hidden.all():
        raise DataError("no position has features in both images", hint="take another layer")
    ax.set_facecolor(GREY)
    shown = np.ma.masked_array(values, mask=hidden)
    image = ax.imshow(shown, cmap="cividis", vmin=-1, vmax=1, interpolation="nearest")
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(image, ax=ax, shrink=0.85)
        bar.set_label("cosine similarity")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.set_title(title)
    return ax
