"""Figures of costs, of what was measured on features and layers, and of the papers' claims."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparisons import curves as tables
from analysis.comparisons import layer_probes
from analysis.comparisons.evidence import Evidence
from analysis.figures import charts as figures
from analysis.figures import features as figures_features
from analysis.figures import overview as figures_overview
from analysis.figures.style import canvas
from analysis.findings.parts import UNDECIDED
from analysis.leaderboard.labels import number
from analysis.measurements.tables import Measurements
from analysis.report.captions import moved
from bench.core.errors import DataError
from bench.core.text import counted

_MEASURE = "ask for them in the grid's measure: section and run: bench grid GRID"


def cost(evidence: Evidence) -> tuple[Figure, str]:
    """Accuracy against training time, a panel per number of images per class."""
    table = tables.costs(evidence)
    if table.empty:
        raise DataError("no times in the leaderboard", hint="give the CSV that bench grid wrote")
    sizes = table.groupby(["setting", "n_per_class"])["line"].nunique()
    if int(sizes.max()) < 2:
        raise DataError(
            "no two recipes were tried on the same images", hint="add a pattern or a method"
        )
    panels = [key for key in sizes.index if sizes[key] > 2 and key[0] == ""]
    panels = panels or list(sizes.sort_values(ascending=False).index[:1])
    panels = panels[-4:]
    rows = (len(panels) + 1) // 2
    names = int(table[table["best"]].groupby(["setting", "n_per_class"]).size().max())
    columns = min(len(panels), 2)
    figure, axes = canvas(rows, columns, height=(2.7 + 0.15 * names) * rows)
    for ax, (setting, n) in zip(axes, panels, strict=False):
        shown = table[(table["setting"] == setting) & (table["n_per_class"] == n)]
        runs = f"n = {counted(int(shown['n'].iloc[0]), 'run')} each"
        title = f"{number(n)} images per class, {runs}"
        figures_overview.pareto(shown, ax, title)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    device = table["device"].iloc[0]
    most = panels[-1]
    shown = table[(table["setting"] == most[0]) & (table["n_per_class"] == most[1])]
    best = shown.loc[shown["accuracy"].idxmax()]
    return figure, (
        f"Nothing is both faster and more accurate than the filled, numbered points; with "
        f"{number(most[1])} images per class the most accurate, {best['line']}, takes "
        f"{best['seconds']:.1f} s ({device}; training the source is not counted)."
    )


_OF_CHU = ("cosine", "linear MMD", "linear SVM accuracy", "CNN accuracy")
_MOST_PANELS = 6


def distances(measured: Measurements | None) -> tuple[Figure, str]:
    """Each distance of target and source, a panel per kind."""
    table = None if measured is None else measured.distances
    if table is None or table.empty:
        raise DataError("no distance of target and source was measured", hint=_MEASURE)
    table = table[table["value"].notna()]
    every = list(dict.fromkeys(table["distance"]))
    names = [name for name in _OF_CHU if name in every]
    names += [name for name in every if name not in names][: _MOST_PANELS - len(names)]
    left = [name for name in every if name not in names]
    if not names:
        raise DataError("none of the distances could be measured", hint="see their notes")
    labels = table["source"] + " (draw " + table["class_draw"].map(number) + ")"
    shown = table.assign(label=labels)
    rows = (len(names) + 1) // 2
    most = int(shown.groupby("distance")["label"].size().max())
    figure, axes = canvas(rows, 2 if len(names) > 1 else 1, height=rows * (0.9 + 0.22 * most))
    for ax, name in zip(axes, names, strict=False):
        part = shown[shown["distance"] == name]
        figures_features.distance_bars(part, ax, title=f"{name}, n = {_sizes(part)} images each")
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    first = shown[shown["distance"] == names[0]].sort_values("value")
    near, far = first.iloc[0], first.iloc[-1]
    return figure, (
        f"Longer is farther: by {names[0]}, {near['label']} is nearest ({near['value']:.3g}) and "
        f"{far['label']} farthest ({far['value']:.3g}). Lines: 95 % intervals over images."
        + (f" In the table alone: {', '.join(left)}." if left else "")
    )


def _sizes(part: pd.DataFrame) -> str:
    sizes = sorted({int(n) for n in part["n"]})
    return number(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"


def filters(evidence: Evidence) -> tuple[Figure, str]:
    """Sensitivity percentages of pairs of networks."""
    table = evidence.sensitivities
    if table is None or table.empty:
        raise DataError("no filter was measured", hint=_MEASURE)
    means = table.groupby(["a", "b"], sort=False)[
        ["percentage", "reverse_percentage", "n_classes"]
    ].mean()
    shown = means.reset_index()
    shown["label"] = shown["a"] + " over " + shown["b"]
    figure, (ax,) = canvas(height=1.2 + 0.3 * len(shown))
    figures_features.sensitivity_bars(shown, ax)
    figures.legend_below(ax, "better top filters: ")
    top = shown.sort_values("percentage").iloc[-1]
    return figure, (
        f"Right of the dashed line most classes have better top-five filters in the first network; "
        f"most so {top['label']} ({top['percentage']:.0f} %)."
    )


def claims(table: pd.DataFrame) -> tuple[Figure, str]:
    """The verdict on every claim, published and here."""
    figure, (ax,) = canvas(height=0.9 + 0.23 * len(table))
    figures_overview.verdicts(table, ax)
    figures.legend_below(ax)
    counts = [table[name].value_counts() for name in ("verdict", "here")]
    here, alone = (
        ", ".join(f"{n} {word}" for word, n in count.items() if word != UNDECIDED) or "none"
        for count in counts
    )
    return figure, (
        f"Verdicts on {len(table)} claims, from the left on the papers' own numbers, here (as a "
        "statement about tasks of this kind where there are three or more), and on these tasks "
        f"alone. Decided here: {here}. On these tasks: {alone}."
    )


# --- probes of layers (LI Fig. 10) ---------------------------------------------------------------


def probes(evidence: Evidence) -> tuple[Figure, str]:
    """Accuracy of a classifier on each layer of each network.

    Raises:
        DataError: fewer than two layers are probed.
    """
    table = layer_probes.accuracies(_probed(evidence))
    figure, (ax,) = canvas(height=3.5)
    figures.curves(table, ax, "layer", title=_repeated(table))
    figures.legend_below(ax)
    return figure, moved(table, "layer probed")


def probe_gains(evidence: Evidence) -> tuple[Figure, str]:
    """What near has over far, before and after fine-tuning; and what fine-tuning adds to each.

    Raises:
        DataError: no two networks are probed at the same layer, task and seed.
    """
    table = layer_probes.gains(_probed(evidence))
    named = [[f"{one} − {other}" for one, other in panel] for panel in layer_probes.PANELS]
    sides = [side for names in named if len(side := table[table["line"].isin(names)])]
    if not sides:
        raise DataError("no two networks are probed at the same layer, task and seed", hint=_PROBES)
    figure, axes = canvas(1, len(sides), height=3.5)
    styles = figures.line_looks(table)
    for ax, side in zip(axes, sides, strict=True):
        figures.curves(side, ax, "layer", y="gain", title=_repeated(side), styles=styles)
    figures.legend_below(axes[0])
    best = table.loc[table.groupby("line", sort=False)["mean"].idxmax()]
    said = [
        f"{row['line']} is largest at layer {number(row['x'])} ({100 * row['mean']:+.1f})"
        for row in best.to_dict("records")
    ]
    return figure, f"In percentage points, {'; '.join(said)}. Bars: 95 % intervals."


_PROBES = "add method: [{name: probe, layer: 1}, …] with pattern: F(1-8) to the grid's axes:"


def _probed(evidence: Evidence) -> pd.DataFrame:
    table = layer_probes.probed(evidence)
    if table["x"].nunique() < 2:
        raise DataError("no layers of near, far or self are probed", hint=_PROBES)
    return table


def _repeated(table: pd.DataFrame) -> str:
    return f"n = {counted(int(table['n'].iloc[0]), str(table['unit'].iloc[0]))}"
