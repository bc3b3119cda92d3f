"""The figures of a report, each with a sentence on what it shows; or why there is none.

Tables are made here and handed to the functions of `analysis.figures.charts` and its neighbours.
Where there is nothing to draw, a picture holds a statement of what is missing and which command
provides it, never an empty chart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparisons import curves as tables
from analysis.comparisons import ratio_tables
from analysis.comparisons.contrasts import Question
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.ratios import Ratios
from analysis.figures import charts as figures
from analysis.figures.style import canvas, styled
from analysis.leaderboard.labels import number
from analysis.measurements.tables import Measurements
from analysis.report.captions import gains_caption, moved
from analysis.statistics.decisions import Hypothesis
from bench.core.errors import BenchError, DataError
from bench.core.text import counted


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure of a report, or the statement in its place.

    Attributes:
        name: of its files.
        caption: one sentence: what to see.
        figure: None where `missing` gives the reason.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None
    missing: str = ""


@dataclass(frozen=True, eq=False)
class Numbers:
    """Everything that the pictures and the report's tables show, computed once."""

    evidence: Evidence
    gains: pd.DataFrame
    crossings: pd.DataFrame
    curves: pd.DataFrame
    fitted: pd.DataFrame
    laws: pd.DataFrame
    findings: pd.DataFrame
    tests: tuple[Hypothesis, ...] = ()
    measured: Measurements | None = None

    @cached_property
    def charts(self) -> Mapping[str, Ratios]:
        """Of `analysis.comparisons.ratio_tables.ratio_charts`."""
        return ratio_tables.ratio_charts(self.evidence)

    @cached_property
    def rates(self) -> pd.DataFrame:
        """Accuracy by learning rate, of `analysis.comparisons.curves.lr_curves`."""
        return tables.lr_curves(self.evidence)


def numbers(evidence: Evidence, measured: Measurements | None = None) -> Numbers:
    """Contrasts, curves, fits, crossings and findings of a leaderboard."""
    from analysis.findings import evaluate as findings

    examined = findings.examine(evidence)
    fitted, laws = ratio_tables.fits(evidence)
    return Numbers(
        evidence,
        examined.gains,
        ratio_tables.crossings(examined.answers, examined.gains),
        tables.data_curves(evidence),
        fitted,
        laws,
        findings.table(examined.findings),
        examined.tests,
        measured,
    )


def gallery(n: Numbers) -> list[Picture]:
    """Every figure, in the order of the report."""
    from analysis.report import feature_figures as features

    drawn: Sequence[tuple[str, str, Callable[[], tuple[Figure, str]]]] = (
        ("start", "Pretrained or from scratch?", partial(_gains, n, "start")),
        ("treatment", "Tune or freeze?", partial(_gains, n, "treatment")),
        ("source", "Which source?", partial(_gains, n, "source")),
        ("methods", "Methods against plain tuning", partial(_gains, n, "method")),
        ("images", "Accuracy against images per class", partial(_images, n)),
        ("tune-freeze", "Tune over freeze (CHU Fig. 2)", partial(_tune_freeze, n)),
        ("pretrained-scratch", "Pretrained over scratch", partial(_over_scratch, n)),
        ("copy-reinitialise", "Copying over reinitialising (CHU Fig. 1)", partial(_copy, n)),
        ("copied-depth", "Number of copied layers", partial(_copied, n)),
        (
            "layer-probes",
            "Probes of every layer (LI Fig. 10a)",
            partial(features.probes, n.evidence),
        ),
        (
            "layer-gains",
            "Gains layer by layer (LI Fig. 10b)",
            partial(features.probe_gains, n.evidence),
        ),
        ("frozen-depth", "Number of frozen layers (LI Fig. 13)", partial(_frozen, n)),
        ("source-classes", "Number of source classes (LI Fig. 5)", partial(_source_classes, n)),
        ("learning-rate", "Learning rate (LI Fig. 4)", partial(_rates, n)),
        ("augmentation", "Offline augmentation (LI Fig. 14)", partial(_gains, n, "augment")),
        ("cost", "Cost against accuracy", partial(features.cost, n.evidence)),
        ("distances", "Distance of target and source", partial(features.distances, n.measured)),
        ("filters", "Filter sensitivity (LI Fig. 9)", partial(features.filters, n.evidence)),
        ("findings", "The papers' claims", partial(features.claims, n.findings)),
    )
    return [draw_picture(name, title, draw) for name, title, draw in drawn]


def draw_picture(name: str, title: str, draw: Callable[[], tuple[Figure, str]]) -> Picture:
    """The figure that a function draws, or the statement of what it lacks."""
    try:
        with styled():
            figure, caption = draw()
    except BenchError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Picture(name, title, "", None, f"{error.message}{hint}")
    return Picture(name, title, caption, figure)


# --- gains ---------------------------------------------------------------------------------------


def _gains(n: Numbers, question: Question) -> tuple[Figure, str]:
    from analysis.comparisons.contrasts import QUESTIONS

    main = n.gains[(n.gains["question"] == question) & n.gains["main"]]
    if question == "method":
        # Far below, it would press the methods together; it has its rows in the table.
        main = main[~main["left_name"].isin(["scratch"])]
    if main.empty:
        what = QUESTIONS[question]
        raise DataError(f"no pair of finished runs answers: {what}", hint=_NEEDED[question])
    return draw_gains(main, question)


_NEEDED = {
    "start": "add {source: none, pattern: scratch} to the grid's include:",
    "treatment": "add pattern: [tune, freeze] to the grid's axes:",
    "source": "add source: [near, far] to the grid's axes:",
    "method": "add {borrow: parent, method: soft} and the like to the grid's include:",
    "copy": "add pattern: [T(1-7)R(8), T(1-5)R(6-8)] to the grid's axes:",
    "freeze": "add pattern: [tune, F(1-3)T(4-7)R(8)] to the grid's axes:",
    "augment": "add train.expand_to: [null, 100] to the grid's axes:",
}


def draw_gains(main: pd.DataFrame, question: Question) -> tuple[Figure, str]:
    """The dot plot of one question, with its caption."""
    settings = _setting_text(main)
    about = main["about"].map(lambda s: f" ({s})" if main["about"].nunique() > 1 else "")
    known = main.assign(
        row=main["label"] + about + settings, n_per_class=main["n_per_class"].fillna(0.0)
    )
    if question == "method":
        best = known.groupby("row")["gain_points"].transform("max")
        known = known.assign(best=best).sort_values(
            ["best", "row", "n_per_class"], ascending=[False, True, True]
        )
    rows = known["row"].nunique()
    sizes = known["n_per_class"].nunique()
    height = 1.2 + rows * (0.14 + 0.12 * sizes)
    figure, (ax,) = canvas(height=min(max(height, 2.1), 9.6))
    label = "gain over plain tuning, points" if question == "method" else "gain, percentage points"
    figures.gain_dots(known, ax, labels="row", x_label=label)
    return figure, gains_caption(known, question)


def _setting_text(table: pd.DataFrame) -> pd.Series[str]:
    """The setting of each row, to be put behind a name where there are several settings."""
    several = table["setting"].nunique() > 1
    return table["setting"].map(lambda s: f", {s}" if s and several else "")


# --- curves --------------------------------------------------------------------------------------

_MOST_PANELS = 4


def _images(n: Numbers) -> tuple[Figure, str]:
    table = n.curves
    if table.empty:
        raise DataError(
            "no line has three numbers of images per class with the same repetitions",
            hint="add target.images_per_class: [5, 20, 100] to the grid's axes:",
        )
    settings = list(dict.fromkeys(table["setting"]))[:_MOST_PANELS]
    shown = table[table["setting"].isin(settings)]
    styles = figures.line_looks(shown)
    wide = len(settings) > 1
    figure, axes = canvas(
        (len(settings) + 1) // 2 if wide else 1,
        2 if wide else 1,
        height=3.1 * ((len(settings) + 1) // 2) + 0.8,
    )
    for ax, setting in zip(axes, settings, strict=False):
        rows = shown[shown["setting"] == setting]
        marks = None
        if len(n.crossings):
            marks = n.crossings[(n.crossings["setting"] == setting) & n.crossings["decided"]]
        law = n.fitted[n.fitted["setting"] == setting]
        title = f"{setting or _target(n)}, {_n_text(rows)}"
        figures.curves(rows, ax, fitted=law, marks=marks, styles=styles, title=title)
    for ax in axes[len(settings) :]:
        ax.set_visible(False)
    figures.legend_below(axes[0])
    return figure, _images_caption(n)


def _n_text(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"n = {counted(int(first['n']), str(first['unit']))}"


def _target(n: Numbers) -> str:
    board = n.evidence.board
    return str(board[board["role"] != "source"]["target"].mode().iloc[0])


def _images_caption(n: Numbers) -> str:
    known = n.crossings[n.crossings["images"].notna()] if len(n.crossings) else n.crossings
    known = known[(known["setting"] == "") & known["decided"]] if len(known) else known
    if known.empty:
        said = "no crossing of two curves is decided within what was measured"
    else:
        said = "; ".join(
            f"{row['left_name']} and {row['right_name']} cross at about {number(row['images'], 2)}"
            for row in known.to_dict("records")
        )
    return (
        f"Means with 95 % intervals and fitted power laws of the error; {said} (grey: interval of "
        "the crossing, in images per class)."
    )


def _curve_figure(table: pd.DataFrame, x: figures.XKind) -> Figure:
    figure, (ax,) = canvas(height=3.3)
    rows = table.assign(line=table["line"] + _setting_text(table))
    figures.curves(rows, ax, x, title=_n_text(rows))
    figures.legend_below(ax)
    return figure


def _frozen(n: Numbers) -> tuple[Figure, str]:
    table = tables.frozen_curves(n.evidence)
    if table.empty:
        raise DataError("no source has three numbers of frozen layers", hint=_NEEDED["freeze"])
    return _curve_figure(table, "frozen"), moved(table, "frozen layers")


def _copied(n: Numbers) -> tuple[Figure, str]:
    table = tables.copied_curves(n.evidence)
    if table.empty:
        raise DataError("no source has two numbers of copied layers", hint=_NEEDED["copy"])
    sizes = list(dict.fromkeys(table["n_per_class"]))[:_MOST_PANELS]
    figure, axes = canvas(1, len(sizes), height=3.4)
    table = table.assign(line=table["start"] + ", " + table["done"] + _setting_text(table))
    styles = figures.line_looks(table)
    for ax, size in zip(axes, sizes, strict=True):
        rows = table[table["n_per_class"] == size]
        title = f"{number(size)} images per class, {_n_text(rows)}"
        figures.curves(rows, ax, "copied", title=title, styles=styles)
    figures.legend_below(axes[0])
    return figure, moved(table, "copied layers")


def _source_classes(n: Numbers) -> tuple[Figure, str]:
    table = tables.source_size_curves(n.evidence)
    if table.empty:
        raise DataError(
            "no target has sources of three sizes",
            hint="add sources of several n to the grid's axes: see grids/factors.yaml",
        )
    return _curve_figure(table, "classes"), moved(table, "source classes")


def _rates(n: Numbers) -> tuple[Figure, str]:
    table = n.rates
    if table.empty:
        raise DataError(
            "no condition was tried with three learning rates",
            hint="add train.lr: [0.03, 0.01, 0.003] to the grid's axes:",
        )
    losses = pd.DataFrame()
    if "train_loss" in n.evidence.board.columns:
        losses = tables.lr_curves(n.evidence, metric="train_loss")
    table, losses = (_first_lines(t) for t in (table, losses))
    figure, axes = canvas(1, 2 if len(losses) else 1, height=3.3)
    styles = figures.line_looks(table)
    figures.curves(table, axes[0], "lr", styles=styles, title=_n_text(table))
    if len(losses):
        figures.curves(losses, axes[1], "lr", y="loss", styles=styles)
    figures.legend_below(axes[0])
    return figure, moved(table, "the learning rate")


def _first_lines(table: pd.DataFrame, most: int = 7) -> pd.DataFrame:
    if table.empty:
        return table
    said = table["setting"].map(lambda s: f", {s}" if s else "")
    named = table.assign(line=table["line"] + said)
    return named[named["line"].isin(list(dict.fromkeys(named["line"]))[:most])]


# --- ratio charts --------------------------------------------------------------------------------


def _charts(n: Numbers, names: Sequence[str], needed: str) -> dict[str, Ratios]:
    kept = {name: r for name, r in n.charts.items() if name.startswith(tuple(names))}
    if not kept:
        raise DataError("no pair of finished runs for this chart", hint=needed)
    return kept


def _tune_freeze(n: Numbers) -> tuple[Figure, str]:
    chart = _charts(n, ["tune / freeze"], _NEEDED["treatment"])
    return ratio_figure(chart, "tuned / frozen", short=True)


def _over_scratch(n: Numbers) -> tuple[Figure, str]:
    chart = _charts(n, ["tuned / scratch", "frozen / scratch"], _NEEDED["start"])
    return ratio_figure(chart, "pretrained / scratch")


def _copy(n: Numbers) -> tuple[Figure, str]:
    chart = _charts(n, ["tuned: ", "frozen: "], _NEEDED["copy"])
    return ratio_figure(chart, "ratio of accuracies")


def ratio_figure(charts: dict[str, Ratios], label: str, short: bool = False) -> tuple[Figure, str]:
    """A panel per chart against images per class, and against distance where that was measured.

    Args:
        charts: of `analysis.comparisons.ratio_tables.ratio_charts`; tuned left, frozen right where
            both are.
        label: what is divided by what.
        short: one chart only: its distance stands beside it instead of below.
    """
    far = {k: r for k, r in charts.items() if r.frame["distance"].notna().any()}
    panels: list[tuple[str, ratio_tables.By]] = [(name, "data") for name in charts]
    panels += [(name, "distance") for name in far]
    columns = min(len(panels), 2)
    rows = (len(panels) + 1) // 2
    figure, axes = canvas(rows, columns, height=2.9 * rows + 0.6)
    for ax, (name, by) in zip(axes, panels, strict=False):
        points = ratio_tables.point_table(charts[name], by)
        bands = ratio_tables.band_table(charts[name], by)
        title = "" if short else name
        figures.ratio_chart(points, bands, ax, by, label=label, title=title)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figures.legend_below(axes[0])
    return figure, _ratio_caption(charts, bool(far))


def _ratio_caption(charts: dict[str, Ratios], measured: bool) -> str:
    said = []
    for name, ratios in list(charts.items())[:2]:
        bands = ratio_tables.band_table(ratios, "data")
        known = bands[bands["ratio"].notna()]
        parts = [f"{row['ratio']:.2f} with {_BAND[row['band']]}" for _, row in known.iterrows()]
        said.append(f"{name}: {', '.join(parts)}" if len(charts) > 1 else ", ".join(parts))
    zero = sum(r.zero for r in charts.values())
    out = f" {zero} pairs with an accuracy of zero are left out." if zero else ""
    far = "" if measured else " Distances were not measured (bench distance)."
    return (
        f"Above 1 the first is better; black lines are averages of the bands ({'; '.join(said)}), "
        "dashed ones geometric means over tasks, which the tests use, with their 95 % intervals."
        f"{out}{far}"
    )


_BAND = {
    "low": "1–20 images per class",
    "medium": "21–99",
    "large": "100 or more",
}
