"""Figures draw what stands in their tables, need no colour to be read, and are never empty."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import charts as figures
from analysis.figures import features as figures_features
from analysis.figures import overview as figures_overview
from analysis.figures.style import (
    COLOURS,
    GREY,
    INK,
    canvas,
    inline_svg,
    looks,
    styled,
    to_png,
    to_svg,
)
from analysis.measurements.filters import precision_recall
from bench.core.errors import DataError


def linear(colour: str) -> np.ndarray:
    """sRGB to linear light."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(rgb: np.ndarray) -> float:
    """Relative luminance of WCAG 2."""
    return float(rgb @ [0.2126, 0.7152, 0.0722])


# Machado, Oliveira and Fernandes (2009), severity 1, on linear light.
BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("colour", [*COLOURS, GREY, INK])
def test_colours_are_dark_enough_on_white(colour: str) -> None:
    assert 1.05 / (luminance(linear(colour)) + 0.05) >= 3


@pytest.mark.parametrize("kind", BLIND)
def test_the_colours_used_most_differ_for_the_colour_blind(kind: str) -> None:
    seen = [np.clip(np.array(BLIND[kind]) @ linear(c), 0, 1) ** (1 / 2.2) for c in COLOURS[:4]]
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(a - b) > 0.12


def test_lines_differ_in_marker_or_dash_too() -> None:
    lines = {f"{s}, {t}": (s, t) for s in ("near", "far") for t in ("tuned", "frozen")}
    found = looks(lines | {"scratch": ("scratch", "scratch")})
    forms = [(look.colour, look.marker) for look in found.values()]
    assert len(set(forms)) == len(forms) == 5
    # What a line starts from is its colour, what was done its marker and dash.
    for name, (start, done) in lines.items():
        for other, (other_start, other_done) in lines.items():
            assert (found[name].colour == found[other].colour) == (start == other_start)
            assert (found[name].marker == found[other].marker) == (done == other_done)
            assert (found[name].dash == found[other].dash) == (done == other_done)
    sources = looks({source: (source, "") for source in ("near", "far", "none", "other")})
    assert len({look.marker for look in sources.values()}) == 4
    assert len({look.colour for look in sources.values()}) == 4


def test_lines_of_a_table_start_and_do_what_its_columns_say() -> None:
    table = pd.DataFrame(
        {
            "line": ["A", "A", "B", "C", "D"],
            "start": ["near", "near", "near", "far", "far"],
            "done": ["tuned", "tuned", "frozen", "tuned", "tuned"],
            "n_per_class": [5.0, 5.0, 5.0, 5.0, None],
        }
    )
    found = figures.line_looks(table)
    assert list(found) == ["A", "B", "C", "D"]
    assert found["A"].colour == found["B"].colour != found["C"].colour
    assert found["A"].marker == found["C"].marker != found["B"].marker
    # Equal in start and treatment, but of another number of images.
    assert found["C"].colour == found["D"].colour
    assert found["C"].marker != found["D"].marker


def points() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "x": [5.0, 5.0, 100.0],
            "shown_x": [4.9, 5.1, 100.0],
            "ratio": [0.9, 1.1, 1.5],
            "source": ["near", "far", "near"],
            "near_chance": [False] * 3,
        }
    )


def bands() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "start": [4.0, 100.0],
            "end": [21.0, 125.0],
            "ratio": [1.0, None],
            "geometric_mean": [0.98, None],
            "low": [0.9, None],
            "high": [1.1, None],
        }
    )


def curve() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": ["near, tuned"] * 2 + ["scratch"] * 2,
            "x": [5.0, 20.0] * 2,
            "mean": [0.2, 0.3, 0.1, 0.2],
            "low": [0.1, 0.2, None, None],
            "high": [0.3, 0.4, None, None],
        }
    )


def gains() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": ["a − b", "a − b", "c − d"],
            "n_per_class": [5.0, 20.0, 5.0],
            "gain_points": [2.0, -1.0, 0.5],
            "low": [1.0, -30.0, None],
            "high": [3.0, 28.0, None],
            "here_low": [1.5, -2.0, None],
            "here_high": [2.5, 0.0, None],
            "n": [3, 3, 1],
            "unit": ["task", "task", "seed"],
            "verdict": ["higher", "undecided", "undecided"],
        }
    )


def costs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": ["frozen", "tuned", "soft"],
            "seconds": [1.0, 5.0, 6.0],
            "accuracy": [0.3, 0.4, 0.35],
            "best": [True, True, False],
            "n": [3, 3, 3],
        }
    )


def claims() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "claim": ["LI-C1", "LI-C2"],
            "text": ["more is better", "few is worse"],
            "verdict": ["holds", "fails"],
            "here": ["holds", "not enough evidence"],
            "published_verdict": ["not enough evidence", "holds"],
        }
    )


def distances() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": ["near", "far"],
            "value": [0.1, None],
            "low": [0.05, None],
            "high": [0.15, None],
        }
    )


def sensitivities() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": ["near over self"],
            "percentage": [51.0],
            "reverse_percentage": [40.0],
            "n_classes": [100],
        }
    )


def recall() -> pd.DataFrame:
    found = precision_recall([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0])
    return pd.DataFrame(
        {
            "label": "near, filter 3",
            "recall": found.recall,
            "precision": found.precision,
            "ap": found.average_precision,
        }
    )


def groups() -> pd.DataFrame:
    return pd.DataFrame(
        {"x": [0.0, 1.0], "y": [0.0, 1.0], "concept": ["a", "b"], "apart": [False, True]}
    )


Draw = Callable[[pd.DataFrame, Axes], Axes]
EVERY: list[tuple[Draw, Callable[[], pd.DataFrame]]] = [
    (lambda table, ax: figures.ratio_chart(table, bands(), ax), points),
    (figures.curves, curve),
    (figures.gain_dots, gains),
    (figures_overview.pareto, costs),
    (figures_overview.verdicts, claims),
    (figures_features.distance_bars, distances),
    (figures_features.sensitivity_bars, sensitivities),
    (figures_features.clusters, groups),
]
NAMES = ["ratio", "curves", "gains", "pareto", "verdicts", "distances", "filters", "clusters"]


@pytest.mark.parametrize(("draw", "table"), EVERY, ids=NAMES)
def test_a_figure_draws_on_the_axis_it_is_given_and_leaves_its_table_alone(
    draw: Draw, table: Callable[[], pd.DataFrame]
) -> None:
    given = table()
    with styled():
        figure, (ax,) = canvas()
        assert draw(given, ax) is ax
    pd.testing.assert_frame_equal(given, table())
    svg = to_svg(figure).decode()
    assert "<text" in svg
    assert "nan" not in re.sub(r"<text.*?</text>", "", svg).lower()
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(("draw", "table"), EVERY, ids=NAMES)
def test_a_figure_that_is_laid_out_once_is_the_one_that_savefig_writes(
    draw: Draw, table: Callable[[], pd.DataFrame]
) -> None:
    def made() -> Figure:
        figure, (ax,) = canvas()
        draw(table(), ax)
        return figure

    with styled():
        svg, png = io.BytesIO(), io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        made().savefig(svg, format="svg", metadata=nothing)
        made().savefig(png, format="png", metadata={"Software": None})
        figure, other = made(), made()
    fonts = b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif"
    assert to_svg(figure) == svg.getvalue().replace(*fonts)
    assert to_png(other) == png.getvalue()
    places = [ax.get_position().bounds for ax in figure.axes]
    to_png(figure)
    assert [ax.get_position().bounds for ax in figure.axes] == places


@pytest.mark.parametrize(("draw", "table"), EVERY, ids=NAMES)
def test_an_empty_table_is_an_error_and_no_chart(
    draw: Draw, table: Callable[[], pd.DataFrame]
) -> None:
    with pytest.raises(DataError, match="nothing to draw"):
        draw(table().iloc[:0], Figure().subplots())


@pytest.mark.parametrize("column", ["low", "here_low", "here_high", "n", "unit", "verdict"])
def test_a_table_of_gains_without_a_column_is_an_error_that_names_it(column: str) -> None:
    with pytest.raises(DataError, match=f"the table for gains has no column {column}"):
        figures.gain_dots(gains().drop(columns=column), Figure().subplots())


def test_verdicts_are_drawn_in_print_here_and_on_these_tasks() -> None:
    with styled():
        _, (ax,) = canvas()
        figures_overview.verdicts(claims(), ax)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["published", "here", "on these\ntasks"]
    drawn = {
        (int(x), int(y)): (line.get_marker(), line.get_markerfacecolor() != "none")
        for line in ax.lines
        if line.get_linestyle() == "None" and len(line.get_xdata())
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    ring, disc, cross = ("o", False), ("o", True), ("X", True)
    assert drawn == {
        (0, 0): ring,
        (1, 0): disc,
        (2, 0): disc,
        (0, 1): disc,
        (1, 1): cross,
        (2, 1): ring,
    }


def test_the_drawn_values_are_the_tables() -> None:
    with styled():
        _, (ax,) = canvas()
        figures.curves(curve(), ax)
    drawn = {tuple(np.asarray(line.get_ydata(), dtype=float).round(6)) for line in ax.lines}
    assert {(20.0, 30.0), (10.0, 20.0)} <= drawn
    low, high = ax.get_xlim()
    assert low < 5 < 20 < high


def test_filled_points_are_the_decided_ones() -> None:
    with styled():
        _, (ax,) = canvas()
        figures.gain_dots(gains(), ax)
    at = {
        float(line.get_xdata()[0]): line.get_markerfacecolor()
        for line in ax.lines
        if len(line.get_xdata()) == 1 and line.get_marker() in "os"
    }
    assert at[2.0] != "white"
    assert at[-1.0] == at[0.5] == "white"


def test_thin_bars_are_over_tasks_and_thick_ones_for_these_tasks_alone() -> None:
    with styled():
        _, (ax,) = canvas()
        figures.gain_dots(gains(), ax)
    low, high = ax.get_xlim()
    bars = [
        (*map(float, line.get_xdata()), float(line.get_linewidth()))
        for line in ax.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1]
        if line.get_transform() == ax.transData
    ]
    thin, thick = sorted({width for *_, width in bars})
    assert sorted(bars) == sorted(
        [(1.0, min(3.0, high), thin), (1.5, 2.5, thick), (low, high, thin), (-2.0, 0.0, thick)]
    )
    assert thick > 2 * thin


def test_rows_of_gains_say_how_many_units_their_intervals_count() -> None:
    with styled():
        _, (ax,) = canvas()
        figures.gain_dots(gains(), ax)
    beside = {text.get_text(): text.xy[1] for text in ax.texts}
    assert beside == {"n = 3 tasks": 0, "n = 1 seed": 1}


def test_the_frame_of_gains_holds_zero() -> None:
    far = gains().assign(gain_points=12.0, low=11.0, high=13.0, here_low=11.5, here_high=12.5)
    for table in (far, far.assign(gain_points=-12.0, here_low=-12.5, here_high=-11.5)):
        with styled():
            _, (ax,) = canvas()
            figures.gain_dots(table, ax)
        low, high = ax.get_xlim()
        assert low < 0 < high


def test_an_interval_out_of_the_frame_ends_in_an_arrow() -> None:
    with styled():
        _, (ax,) = canvas()
        figures.gain_dots(gains(), ax)
    assert {"<", ">"} <= {line.get_marker() for line in ax.lines}


def test_files_are_the_same_every_time() -> None:
    def make() -> bytes:
        with styled():
            figure, (ax,) = canvas()
            figures.curves(curve(), ax)
        return to_svg(figure)

    assert make() == make()


def test_names_are_text_and_no_formula_and_no_markup() -> None:
    table = curve().replace({"near, tuned": "<script>alert(1)</script> $x$"})
    with styled():
        figure, (ax,) = canvas()
        figures.curves(table, ax)
        figures.legend_below(ax)
    svg = to_svg(figure)
    said = [element.text or "" for element in ET.fromstring(svg).iter() if element.text]
    assert any("<script>alert(1)</script> $x$" in text for text in said)
    assert b"<script" not in svg


def test_inline_svg_has_a_name_for_those_who_cannot_see_it_and_ids_of_its_own() -> None:
    with styled():
        figure, (ax,) = canvas()
        figures.curves(curve(), ax)
    text = inline_svg(to_svg(figure), "one", "A <title>", "What & why")
    assert text.startswith("<svg ")
    assert 'role="img"' in text
    assert "A &lt;title&gt;" in text
    assert "What &amp; why" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert set(used) <= set(ids)
    assert "<metadata" not in text
    ET.fromstring(text)
