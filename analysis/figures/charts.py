"""The papers' charts from a user's runs: ratios, curves, gains. A tidy table in, an axis drawn.

Functions here compute nothing: what is drawn stands in the table (`analysis.comparisons.curves`,
`analysis.comparisons.ratio_tables`, `analysis.comparisons.contrasts`). A table without a row is an
error, never an empty chart. Charts follow "Best Practices for Fine-tuning Visual Classifiers to New
Domains", Figs. 1 and 2, and "A Multifaceted Analysis of Fine-tuning in Deep Model for Visual
Recognition", Figs. 4, 5, 12 and 13; unlike theirs they show intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from analysis.figures.style import COLOURS, GREY, INK, MARKERS, Look, finish, looks
from analysis.leaderboard.labels import number
from bench.core.errors import DataError


def require(table: pd.DataFrame, what: str, columns: Sequence[str] = ()) -> None:
    """Makes sure that there is something to draw.

    Raises:
        DataError: for a table without rows, or without one of the columns.
    """
    if table.empty:
        raise DataError(f"nothing to draw for {what}", hint="run the experiments it needs first")
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise DataError(f"the table for {what} has no column {', '.join(absent)}")


def _images_axis(ax: Axes, values: Sequence[float]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(sorted(set(values)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("images per class (log scale)")


def ratio_chart(
    points: pd.DataFrame,
    bands: pd.DataFrame,
    ax: Axes,
    by: Literal["data", "distance"] = "data",
    label: str = "ratio of accuracies",
    title: str = "",
) -> Axes:
    """CHU Figs. 1 and 2: a point per pair, and the average of each band.

    Dashed beside the average stands the geometric mean, with its interval.

    Args:
        points: of `analysis.comparisons.ratio_tables.point_table`.
        bands: of `analysis.comparisons.ratio_tables.band_table`.
        label: what is divided by what.
    """
    require(points, "a ratio chart", ("x", "shown_x", "ratio", "source"))
    ax.axhline(1, color=INK, linewidth=1, zorder=1)
    sources = sorted(set(points["source"]), key=lambda s: (s != "near", s))
    styles = looks({source: (source, "") for source in sources})
    for source, look in styles.items():
        rows = points[points["source"] == source]
        ax.plot(
            rows["shown_x"],
            rows["ratio"],
            linestyle="none",
            marker=look.marker,
            markersize=3.6,
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markeredgewidth=0.9,
            label=source,
        )
    for row in bands[bands["ratio"].notna()].to_dict("records"):
        ends = [row["start"], row["end"]]
        ax.plot(ends, [row["ratio"]] * 2, color=INK, linewidth=2.2, zorder=3)
        mean = [row["geometric_mean"]] * 2
        ax.plot(ends, mean, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), zorder=3)
        if row["low"] is not None and row["low"] == row["low"]:
            ax.fill_between(ends, row["low"], row["high"], color=INK, alpha=0.13, linewidth=0)
    ax.set_yscale("log")
    low, high = float(points["ratio"].min()), float(points["ratio"].max())
    _ratio_ticks(ax, min(low, 0.97) / 1.04, max(high, 1.03) * 1.04)
    if by == "data":
        _images_axis(ax, list(points["x"]))
    else:
        ax.set_xlabel("cosine distance of source and target")
    ax.set_ylabel(f"{label} (log scale)")
    pairs = f"n = {len(points):,} pairs"
    ax.set_title(f"{title}, {pairs}" if title else pairs)
    return finish(ax)


def _ratio_ticks(ax: Axes, low: float, high: float) -> None:
    steps = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16)
    ax.set_ylim(low, high)
    ticks = [s for s in steps if low <= s <= high]
    ax.set_yticks(ticks)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())


def line_looks(table: pd.DataFrame) -> dict[str, Look]:
    """Looks of a table's lines, by `start` and `done` where it has these columns."""
    rows = table.drop_duplicates("line")
    if "start" not in table.columns:
        return looks({str(line): (str(line), "") for line in rows["line"]})
    sizes = [number(n) if n is not None and n == n else "" for n in rows["n_per_class"]]
    forms = [f"{done} {size}" for done, size in zip(rows["done"], sizes, strict=True)]
    named = zip(rows["line"], zip(rows["start"], forms, strict=True), strict=True)
    return looks({str(line): (str(start), form) for line, (start, form) in named})


XKind = Literal["images", "lr", "frozen", "copied", "classes", "layer"]
YKind = Literal["accuracy", "loss", "gain"]
_X_LABELS: Mapping[XKind, str] = {
    "images": "images per class (log scale)",
    "lr": "learning rate (log scale)",
    "frozen": "layers frozen, from the first on",
    "copied": "layers copied, the rest random",
    "classes": "source classes (log scale)",
    "layer": "layer probed, from the first on",
}
_Y_LABELS: Mapping[YKind, tuple[float, str]] = {
    "accuracy": (100.0, "test accuracy, %"),
    "loss": (1.0, "training loss, nats"),
    "gain": (100.0, "gain, percentage points"),
}
"""What means are multiplied with, and what they are then."""


def curves(
    table: pd.DataFrame,
    ax: Axes,
    x: XKind = "images",
    fitted: pd.DataFrame | None = None,
    marks: pd.DataFrame | None = None,
    y: YKind = "accuracy",
    title: str = "",
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """Means with 95 % intervals against one factor, a line per condition.

    Args:
        table: of `analysis.comparisons.curves.data_curves` and its like: line, x, mean, low, high.
        fitted: line, n_per_class, accuracy: curves drawn instead of straight joins.
        marks: crossing points: images, low, high, label.
        y: what the means are of.
        styles: looks by line, to be the same in several panels.

    Intervals wider than the frame leave it; the frame holds all means.
    """
    require(table, "curves", ("line", "x", "mean"))
    scale, y_label = _Y_LABELS[y]
    styles = styles or line_looks(table)
    lines = list(dict.fromkeys(table["line"]))
    for place, line in enumerate(lines):
        rows, look = table[table["line"] == line], styles[line]
        joined = fitted is None or fitted.empty or line not in set(fitted["line"])
        aside = _aside(ax, 3.2 * (place - (len(lines) - 1) / 2))
        _one_curve(ax, rows, look, scale, str(line), joined, aside)
        if not joined and fitted is not None:
            law = fitted[fitted["line"] == line]
            heights = law["accuracy"] * scale
            ax.plot(
                law["n_per_class"], heights, color=look.colour, linestyle=look.dash, linewidth=1.2
            )
    means = table["mean"] * scale
    room = max(float(means.max() - means.min()), 0.04 * scale) * 0.22
    ax.set_ylim(float(means.min()) - room, float(means.max()) + room)
    if y == "gain":
        ax.axhline(0, color=INK, linewidth=1, zorder=1)
    _x_axis(ax, x, sorted(set(table["x"])))
    if marks is not None:
        _crossing_marks(ax, marks)
    ax.set_ylabel(y_label)
    ax.set_title(title)
    return finish(ax)


def epoch_curves(
    table: pd.DataFrame,
    ax: Axes,
    label: str,
    scale: float = 100.0,
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """A line over epochs for each condition: thick the mean of its runs, thin each run.

    Args:
        table: of `analysis.comparisons.epochs.over_epochs`.
        label: of the vertical axis.
        scale: what values are multiplied with, 100 for shares in percent.
        styles: looks by line, to be the same in several panels.
    """
    require(table, "curves over epochs", ("line", "run_id", "x", "y"))
    styles = styles or line_looks(table)
    for line in dict.fromkeys(table["line"]):
        look, rows = styles[line], table[table["line"] == line]
        single = rows[rows["run_id"] != ""]
        for _, run in single.groupby("run_id", sort=True):
            ax.plot(run["x"], run["y"] * scale, color=look.colour, linewidth=0.6, alpha=0.35)
        mean = rows[rows["run_id"] == ""]
        every = max(len(mean) // 8, 1)
        ax.plot(
            mean["x"],
            mean["y"] * scale,
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            markevery=every,
            label=str(line),
        )
    ax.set_xlabel("epochs")
    ax.set_ylabel(label)
    return finish(ax)


def _aside(ax: Axes, points: float) -> Transform:
    """The data's place moved sideways by so many points, so that intervals stand side by side."""
    figure = ax.get_figure(root=True)
    scale = figure.dpi_scale_trans if figure is not None else None
    return ax.transData + ScaledTranslation(points / 72, 0, scale) if scale else ax.transData


def _one_curve(
    ax: Axes,
    rows: pd.DataFrame,
    look: Look,
    scale: float,
    label: str,
    joined: bool,
    aside: Transform,
) -> None:
    known = rows[rows["low"].notna()]
    if len(known):
        mean = known["mean"] * scale
        ax.errorbar(
            known["x"],
            mean,
            yerr=[mean - known["low"] * scale, known["high"] * scale - mean],
            fmt="none",
            ecolor=look.colour,
            elinewidth=0.9,
            capsize=2,
            alpha=0.6,
            transform=aside,
        )
    ax.plot(
        rows["x"],
        rows["mean"] * scale,
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash if joined else "none",
        transform=aside,
    )
    ax.plot([], [], color=look.colour, marker=look.marker, linestyle=look.dash, label=label)


def _x_axis(ax: Axes, x: XKind, values: Sequence[float]) -> None:
    first, last = min(values), max(values)
    if x in ("frozen", "copied", "layer"):
        room = max(0.06 * (last - first), 0.35)
        ax.set_xlim(first - room, last + room)
    else:
        room = max((last / first) ** 0.07, 1.15)
        ax.set_xscale("log")
        ax.set_xlim(first / room, last * room)
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(values)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    ax.set_xlabel(_X_LABELS[x])


def _crossing_marks(ax: Axes, marks: pd.DataFrame) -> None:
    for row in marks[marks["images"].notna()].to_dict("records"):
        if row["low"] is not None and row["low"] == row["low"]:
            ax.axvspan(row["low"], row["high"], color=GREY, alpha=0.16, linewidth=0)
        ax.axvline(row["images"], color=GREY, linewidth=1.2, linestyle=(0, (2, 2)))
        ax.annotate(
            f"{row['label']}: {number(row['images'], 2)}",
            (row["images"], 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            rotation=90,
            va="bottom",
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
        )


def gain_dots(
    table: pd.DataFrame,
    ax: Axes,
    labels: str = "label",
    groups: str = "n_per_class",
    group_label: str = "images per class",
    x_label: str = "gain, percentage points",
    legend: bool = True,
) -> Axes:
    """Paired differences with intervals, a row per contrast: LI's gains, and methods compared.

    Args:
        table: of `analysis.comparisons.contrasts.gain_rows`, in the order to be drawn.
        labels: column that names the rows.
        groups: column shown as colour and marker.

    The thin bar is the interval over tasks (over seeds where there is one task), the thick one
    that for these tasks alone; filled points are those that are decided after Holm. `n` of the
    rows stands at the right edge. Bars that leave the frame end in an arrow.
    """
    needed = (labels, groups, "gain_points", "low", "high", "here_low", "here_high")
    require(table, "gains", (*needed, "n", "unit", "verdict"))
    names = list(dict.fromkeys(table[labels]))
    sizes = sorted(set(table[groups].dropna()))
    low, high = _frame(table)
    step = 0.76 / max(len(sizes), 1)
    ax.axvline(0, color=INK, linewidth=1)
    for i, size in enumerate(sizes):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        for row in table[table[groups] == size].to_dict("records"):
            y = names.index(row[labels]) + step * (i - (len(sizes) - 1) / 2)
            _interval(ax, y, row["low"], row["high"], (low, high), colour, 0.9)
            _interval(ax, y, row["here_low"], row["here_high"], (low, high), colour, 2.8)
            decided = row["verdict"] != "undecided"
            ax.plot(
                row["gain_points"],
                y,
                marker=marker,
                color=colour,
                markerfacecolor=colour if decided else "white",
                linestyle="none",
                zorder=4,
            )
        ax.plot([], [], marker=marker, color=colour, linestyle="none", label=number(size))
    ax.set_xlim(low, high)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.set_yticks(range(len(names)), names)
    _counts(ax, table, labels, names)
    ax.grid(axis="y", visible=False)
    for y in range(1, len(names)):
        ax.axhline(y - 0.5, color="#E6E6E6", linewidth=0.6)
    ax.set_xlabel(x_label)
    if legend:
        legend_below(ax, group_label)
    return finish(ax)


def _counts(ax: Axes, table: pd.DataFrame, labels: str, names: Sequence[str]) -> None:
    """What each row's interval counts, at the right edge: 3 tasks, or 5 seeds of one task."""
    for y, name in enumerate(names):
        rows = table[table[labels] == name]
        counts = dict.fromkeys(zip(rows["n"], rows["unit"], strict=True))
        text = ", ".join(f"{int(n)} {unit}{'' if n == 1 else 's'}" for n, unit in counts)
        ax.annotate(
            f"n = {text}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            ha="left",
            fontsize=7.5,
            color=GREY,
            annotation_clip=False,
        )


def _frame(table: pd.DataFrame) -> tuple[float, float]:
    """Ends that hold zero, every point and every thick interval, unless that is huge."""
    gains = table["gain_points"]
    span = max(float(gains.max()), 0.0) - min(float(gains.min()), 0.0)
    room = max(span * 0.6, 2.0)
    ends = [table["here_low"].dropna(), table["here_high"].dropna()]
    least = min([*ends[0], float(gains.min()), 0.0])
    most = max([*ends[1], float(gains.max()), 0.0])
    return (
        min(max(least, float(gains.min()) - room, -105.0), 0.0) - 0.04 * span - 0.2,
        max(min(most, float(gains.max()) + room, 105.0), 0.0) + 0.04 * span + 0.2,
    )


def _interval(
    ax: Axes,
    y: float,
    low: float | None,
    high: float | None,
    frame: tuple[float, float],
    colour: str,
    width: float,
) -> None:
    if low is None or high is None or low != low or high != high:
        return
    start, end = max(low, frame[0]), min(high, frame[1])
    ax.plot([start, end], [y, y], color=colour, linewidth=width, solid_capstyle="butt", zorder=2)
    for cut, place, marker in ((low < frame[0], start, "<"), (high > frame[1], end, ">")):
        if cut:
            ax.plot(place, y, marker=marker, color=colour, markersize=4.5, clip_on=False)


def legend_below(ax: Axes, title: str = "", letters: int = 88) -> None:
    """One legend under the whole figure, where it covers nothing."""
    figure = ax.get_figure(root=True)
    if figure is None:
        return
    found: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= {label: h for label, h in zip(labels, handles, strict=True) if label not in found}
    if found:
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=max(1, min(len(found), letters // (max(map(len, found)) + 7))),
            title=title or None,
        )
