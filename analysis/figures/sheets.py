"""Sheets of several pictures: class images, similarity maps and class trees, each as one figure.

Every function takes what was computed and returns a figure with a sentence that says what to see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import images as draw
from analysis.measurements.clustering import SimilarityMap
from analysis.networks.class_tree import ROWS, TreeRow, class_tree
from bench.core.errors import DataError
from bench.core.text import counted

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture with the words below it; without pixels the words stand in its place."""

    pixels: Pixels | None
    words: str = ""


def picture_sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> Figure:
    """Pictures in a grid: a row per class, a column per network (LI Fig. 11).

    Args:
        columns: headings.
        rows: name, which stands at the left, and as many cells as columns.

    Raises:
        DataError: nothing to show, or a row of another length.
    """
    if not rows or not columns:
        raise DataError("a sheet without pictures", hint="name a class and a run")
    for name, cells in rows:
        if len(cells) != len(columns):
            raise DataError(f"row {name!r} has {len(cells)} pictures for {len(columns)} columns")
    size = (1.2 + 1.32 * len(columns), 0.35 + 1.5 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for y, (name, cells) in enumerate(rows):
        for x, cell in enumerate(cells):
            title, side = (columns[x] if y == 0 else ""), (name if x == 0 else "")
            draw.picture(cell.pixels, grid[y][x], title, side, cell.words)
    return figure


def similarity_sheet(
    pairs: Mapping[str, tuple[Cell, Cell]], maps: Mapping[str, Mapping[str, SimilarityMap]]
) -> tuple[Figure, str]:
    """SFT Fig. 4: each pair of images, and their similarity at each position under each network.

    Args:
        pairs: two images by the pair's name.
        maps: by pair and network, (H, W) each; every pair under the same networks.
    """
    if not pairs or not all(maps.get(name) for name in pairs):
        raise DataError("no pair of images under a network", hint="name a run and two images")
    networks = list(next(iter(maps.values())))
    known = [m.similarity[~m.undefined] for of in maps.values() for m in of.values()]
    values = np.concatenate(known)
    if not values.size:
        raise DataError("no position has features in both images", hint="take another layer")
    low = 0.0 if values.min() >= 0 else -1.0
    columns = 2 + len(networks)
    # A colour bar of its own column, as high as the maps, whatever their number.
    names = 1.0 if any(pairs) else 0.0
    size = (1.4 * columns + 0.7 + names, 0.3 + 1.55 * len(pairs))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(pairs), columns, squeeze=False)
    image = None
    for y, (name, cells) in enumerate(pairs.items()):
        for x, (cell, title) in enumerate(zip(cells, ("first image", "second image"), strict=True)):
            side = "" if x else name
            draw.picture(cell.pixels, grid[y][x], "" if y else title, side, cell.words)
        for x, network in enumerate(networks, start=2):
            found, title = maps[name][network], "" if y else network
            words = f"mean {found.mean:.2f}" if not found.undefined.all() else "no features"
            image = draw.heat_map(found.similarity, found.undefined, grid[y][x], low, title, words)
    assert image is not None
    bar = figure.colorbar(image, ax=[row[-1] for row in grid], shrink=0.8, fraction=0.08)
    bar.set_label("cosine similarity")
    return figure, _similarity_caption(maps)


def _similarity_caption(maps: Mapping[str, Mapping[str, SimilarityMap]]) -> str:
    means: dict[str, list[float]] = {}
    hidden = 0
    for of in maps.values():
        for network, found in of.items():
            if not found.undefined.all():
                means.setdefault(network, []).append(found.mean)
            hidden += int(found.undefined.sum())
    words = ", ".join(f"{name} {sum(m) / len(m):.2f}" for name, m in means.items())
    grey = f" {counted(hidden, 'position')} without features are grey." if hidden else ""
    over = f" over {counted(len(maps), 'pair')}" if len(maps) > 1 else ""
    return f"Brighter: the network's features are more alike there; mean{over}: {words}.{grey}"


_COLUMN_ROWS = 46


def tree_sheet(
    groups: Mapping[str, Sequence[str]], rows: int = ROWS, title: str = ""
) -> tuple[Figure, str]:
    """LI Figs. 3 and 6: the tree of some groups of classes, in columns of lines.

    Args:
        groups: wnids by group (target, near, far, …).
        rows: lines at most; see `analysis.networks.class_tree.class_tree`.
    """
    tree = class_tree(groups, rows)
    looks = draw.group_looks(list(groups))
    columns = min(3, math.ceil(len(tree) / _COLUMN_ROWS))
    height = math.ceil(len(tree) / columns)
    width = _needed_width(tree)
    size = (width * columns + 0.1, height * draw.ROW_INCH + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for number, ax in enumerate(axes):
        start = number * height
        end = min(start + height, len(tree))
        draw.tree_column(tree, ax, list(looks.values()), start, end, width)
        ax.set_ylim(start + height - 0.5, start - 0.5)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="none")
        for look in looks.values()
    ]
    words = [f"{name}: {counted(len(set(wnids)), 'class')}" for name, wnids in groups.items()]
    figure.legend(handles, words, loc="outside lower center", ncols=min(4, len(words)))
    if title:
        figure.suptitle(title, fontsize=9.5)
    return figure, _tree_caption(tree, groups)


def _needed_width(tree: Sequence[TreeRow]) -> float:
    """Inches that the longest line takes at 8 points, counts and markers included."""
    longest = 0.0
    for row in tree:
        marks = sum(0.13 + 0.075 * len(str(c)) + 0.07 for c in row.counts if c)
        letters = 0.068 if row.kind != "open" else 0.078
        before = 0.0 if row.kind == "open" else marks
        longest = max(longest, row.depth * 0.15 + before + letters * (len(row.name) + 6))
    return longest


def _tree_caption(tree: Sequence[TreeRow], groups: Mapping[str, Sequence[str]]) -> str:
    closed = [row for row in tree if row.kind == "closed"]
    total = tree[0].total
    several = sum(sum(c > 0 for c in row.counts) > 1 for row in tree if row.kind == "class")
    parts = [f"{counted(total, 'class')} below {tree[0].name} by WordNet's first hypernyms"]
    if closed:
        parts.append(f"{counted(len(closed), 'branch')} in italics stand for several classes each")
    if several:
        parts.append(f"{counted(several, 'class')} of several groups have several markers")
    return "; ".join(parts) + "."
