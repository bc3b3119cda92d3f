"""Charts that show pictures, maps and trees: one axis each, nothing computed.

"A Multifaceted Analysis of Fine-tuning in Deep Model for Visual Recognition", Figs. 3 and 6 (the
class tree), 8 (precision and recall of the best filters) and 11 (class images); "Effective Domain
Knowledge Transfer with Soft Fine-tuning", Fig. 4 (similarity at each position).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from analysis.figures.charts import require
from analysis.figures.style import COLOURS, DASHES, GREY, INK, MARKERS, Look, finish
from analysis.networks.class_tree import TreeRow
from bench.core.errors import DataError

ROW_INCH = 0.165
"""Height of a line of the tree; its text is 8 points."""
_INDENT, _DIGIT, _MARK = 0.15, 0.075, 0.13

_GROUPS = {"near": 0, "far": 1, "target": 2}


def group_looks(groups: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of each group of classes; near and far as in every other figure.

    Raises:
        DataError: more groups than can be told apart.

    >>> group_looks(["target", "near"])["near"].marker
    'o'
    """
    free = [i for i in range(len(COLOURS)) if i not in _GROUPS.values()]
    others = [name for name in groups if name not in _GROUPS]
    if len(others) > len(free):
        raise DataError(
            f"{len(groups)} groups of classes cannot be told apart in one tree",
            hint=f"show {len(free)} or fewer sources",
        )
    place = _GROUPS | dict(zip(others, free, strict=False))
    return {name: Look(COLOURS[place[name]], MARKERS[place[name]], "-") for name in groups}


def tree_column(
    rows: Sequence[TreeRow], ax: Axes, looks: Sequence[Look], start: int, end: int, width: float
) -> Axes:
    """Lines `start` to `end` of a class tree, a marker for each group that a class is of.

    Args:
        rows: the whole tree, of `analysis.networks.class_tree.class_tree`.
        looks: of its groups, in their order.
        width: of the axis, in inches; what the tree is drawn in.
    """
    if not start < end <= len(rows):
        raise DataError(f"lines {start} to {end} of a tree of {len(rows)}")
    for parent, row in enumerate(rows):
        below = _children(rows, parent)
        if row.kind == "open" and below:
            x = row.depth * _INDENT + 0.05
            top, bottom = max(parent + 0.4, start - 0.5), min(below[-1], end - 0.5)
            if top < bottom:
                ax.plot([x, x], [top, bottom], color="#BDBDBD", linewidth=0.7, zorder=1)
            for child in below:
                if start <= child < end:
                    ax.plot([x, x + 0.08], [child, child], color="#BDBDBD", linewidth=0.7, zorder=1)
    for y in range(start, end):
        _tree_row(rows[y], ax, looks, y)
    ax.set_xlim(-0.05, width - 0.05)
    ax.set_ylim(end - 0.5, start - 0.5)
    ax.set_axis_off()
    return ax


def _children(rows: Sequence[TreeRow], parent: int) -> list[int]:
    found = []
    for place in range(parent + 1, len(rows)):
        if rows[place].depth <= rows[parent].depth:
            break
        if rows[place].depth == rows[parent].depth + 1:
            found.append(place)
    return found


def _tree_row(row: TreeRow, ax: Axes, looks: Sequence[Look], y: int) -> None:
    x = row.depth * _INDENT
    if row.kind != "open":
        for count, look in zip(row.counts, looks, strict=True):
            if not count:
                continue
            ax.plot(x + 0.05, y, marker=look.marker, color=look.colour, markersize=5)
            x += _MARK
            if row.kind == "closed":
                ax.text(x, y, str(count), fontsize=8, color=look.colour, va="center")
                x += _DIGIT * len(str(count)) + 0.07
    words = row.name if row.kind == "class" else f"{row.name} ({row.total})"
    slant = "italic" if row.kind == "closed" else "normal"
    weight = "bold" if row.kind == "open" else "normal"
    ax.text(x + 0.02, y, words, fontsize=8, va="center", style=slant, weight=weight, color=INK)


def picture(
    pixels: npt.NDArray[np.uint8] | None, ax: Axes, title: str = "", side: str = "", words: str = ""
) -> Axes:
    """One picture of a sheet; where there is none, words that say why.

    Args:
        pixels: (H, W, 3) uint8 or None.
        title: above it; side: to its left; words: below it, or in its place.
    """
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if pixels is None:
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_aspect("equal")
        text = textwrap.fill(words, 16)
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, color=GREY)
    else:
        ax.imshow(pixels, interpolation="nearest")
        ax.set_xlabel(words, fontsize=8, labelpad=2)
    ax.set_title(title, loc="center", fontsize=9)
    if side:
        side = textwrap.fill(side, 18)
        ax.set_ylabel(side, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    return ax


def heat_map(
    similarity: npt.ArrayLike,
    undefined: npt.ArrayLike,
    ax: Axes,
    low: float,
    title: str = "",
    words: str = "",
) -> AxesImage:
    """SFT Fig. 4: similarity at each position; grey where an image has no features.

    Args:
        similarity, undefined: (H, W), of `analysis.measurements.clustering.position_similarity`.
        low: where the scale begins, the same for all maps of a sheet; it ends at 1.
    """
    values, hidden = np.asarray(similarity, dtype=np.float64), np.asarray(undefined, dtype=bool)
    if values.ndim != 2 or values.shape != hidden.shape:
        raise DataError(
            f"maps have shapes {values.shape} and {hidden.shape}", hint="one pair: (H, W) both"
        )
    ax.set_facecolor("#B0B0B0")
    shown = np.ma.masked_array(values, mask=hidden)
    image = ax.imshow(shown, cmap="cividis", vmin=low, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.set_title(title, loc="center", fontsize=9)
    ax.set_xlabel(words, fontsize=8, labelpad=2)
    return image


def network_looks(networks: Sequence[str]) -> dict[str, Look]:
    """LI Figs. 8 to 10: the source chooses the colour; dashed before fine-tuning, solid after.

    >>> looks = network_looks(["near", "FT-near", "self"])
    >>> looks["near"].colour == looks["FT-near"].colour, looks["near"].dash, looks["FT-near"].dash
    (True, '--', '-')
    """
    known = {"near": 0, "far": 1, "self": 2}
    heads = list(dict.fromkeys(name.removeprefix("FT-") for name in networks))
    free = [i for i in range(len(COLOURS)) if i not in known.values()]
    others = [head for head in heads if head not in known]
    place = known | {head: free[i % len(free)] for i, head in enumerate(others)}
    found = {}
    for name in networks:
        head = name.removeprefix("FT-")
        tuned = name.startswith("FT-") or name == "self"
        look = place[head]
        found[name] = Look(COLOURS[look], MARKERS[look], DASHES[0] if tuned else DASHES[1])
    return found


def best_filters(table: pd.DataFrame, ax: Axes, looks: Mapping[str, Look], title: str = "") -> Axes:
    """LI Fig. 8: the curves of each network's best filters as detectors of one class.

    Args:
        table: network, filter, recall, precision; a row per threshold, the highest first.
        looks: by network.
    """
    require(table, "precision and recall", ("network", "filter", "recall", "precision"))
    for network, of in table.groupby("network", sort=False):
        look = looks[str(network)]
        for number, (_, rows) in enumerate(of.groupby("filter", sort=False)):
            ax.plot(
                rows["recall"],
                rows["precision"],
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.0,
                alpha=0.85,
                label=str(network) if number == 0 else "_",
            )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("recall")
    ax.set_ylabel("precision")
    ax.set_title(title)
    return finish(ax)


def mean_precisions(table: pd.DataFrame, ax: Axes, looks: Mapping[str, Look]) -> Axes:
    """LI Fig. 8, last column: the mean AP of each network's best filters for one class.

    Args:
        table: network, mean_ap, and prevalence, the mean AP of a filter that says nothing.
    """
    require(table, "mean precisions", ("network", "mean_ap", "prevalence"))
    for y, row in enumerate(table.to_dict("records")):
        look = looks[row["network"]]
        solid = look.dash == "-"
        ax.barh(
            y,
            row["mean_ap"],
            height=0.62,
            color=look.colour if solid else "white",
            edgecolor=look.colour,
            hatch=None if solid else "////",
            linewidth=0.9,
        )
        ax.annotate(
            f"{row['mean_ap']:.2f}",
            (row["mean_ap"], y),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    chance = float(table["prevalence"].iloc[0])
    ax.axvline(chance, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    ax.set_xlim(0, min(1.0, float(table["mean_ap"].max()) * 1.25 + 0.01))
    ax.set_yticks(range(len(table)), list(table["network"]))
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("mean AP of these filters")
    return finish(ax)
