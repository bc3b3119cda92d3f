"""How figures look, in one place: colours, markers, sizes, and files that are the same every time.

Colours are told apart by readers with any colour vision and, since each has its own marker and
dash, in greyscale too. Text in SVG stays text: it can be searched, and printed at any size.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#C24E00", "#117733", "#882255", "#6F6F6F", "#3B2A8C", "#8A6A00")
"""Dark enough on white (3:1 or more), and apart under the common kinds of colour blindness."""
INK, GREY = "#1A1A1A", "#6F6F6F"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
_FIXED = {"near": 0, "far": 1, "timm": 0, "scratch": 4}
_RC = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    # A class may be called $x$ or <b>; it is a name, not a formula.
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of one line or group."""

    colour: str
    marker: str
    dash: Any


def looks(lines: Mapping[str, tuple[str, str]]) -> dict[str, Look]:
    """A look for each line: what it starts from chooses the colour, what was done the form.

    Args:
        lines: by name, where each starts and what was done ("" where that is not shown).

    >>> found = looks({"a": ("near", "tuned"), "b": ("near", "frozen"), "c": ("scratch", "")})
    >>> found["a"].colour == found["b"].colour, found["a"].marker == found["b"].marker
    (True, False)
    """
    heads = list(dict.fromkeys(head for head, _ in lines.values()))
    tails = list(dict.fromkeys(tail for _, tail in lines.values()))
    free = [i for i in range(len(COLOURS)) if i not in {_FIXED.get(h) for h in heads}] or [0]
    others = [head for head in heads if head not in _FIXED]
    colour = {head: free[i % len(free)] for i, head in enumerate(others)}
    colour |= {head: _FIXED[head] for head in heads if head in _FIXED}
    result = {}
    for label, (head, tail) in lines.items():
        form = tails.index(tail) if len(tails) > 1 else colour[head]
        result[label] = Look(
            COLOURS[colour[head]], MARKERS[form % len(MARKERS)], DASHES[form % len(DASHES)]
        )
    return result


@contextmanager
def styled() -> Iterator[None]:
    """The style of every figure, for the time of a block; nothing global is changed."""
    settings: Any = {**sns.axes_style("ticks"), **_RC}
    with mpl.rc_context(settings):
        yield


def canvas(
    rows: int = 1, columns: int = 1, width: float = 7.2, height: float = 3.2, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes; sizes in inches. Call it inside `styled`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    return figure, [ax for row in grid for ax in row]


def finish(ax: Axes) -> Axes:
    """Takes the needless frame away."""
    sns.despine(ax=ax)
    return ax


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG: text as text, the same bytes every time."""
    out = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled():
        _printable(figure, FigureCanvasSVG).print_svg(out, metadata=nothing)
    text = out.getvalue().decode()
    # Verdana has the widths of DejaVu Sans, where that is not installed.
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif").encode()


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, 150 dots per inch."""
    out = io.BytesIO()
    with styled():
        _printable(figure, FigureCanvasAgg).print_png(out, metadata={"Software": None})
    return out.getvalue()


_SVG_DPI = 72


def _printable(figure: Figure, kind: type[FigureCanvasSVG | FigureCanvasAgg]) -> Any:
    """The canvas of a figure, which is laid out once: `savefig` does it for each format anew, and
    draws everything twice.
    """
    made = kind(figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        figure.dpi = _SVG_DPI if kind is FigureCanvasSVG else mpl.rcParams["savefig.dpi"]
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.dpi = mpl.rcParams["savefig.dpi"]
    return made


_ID = re.compile(r'(\bid="|url\(#|href="#)')


def inline_svg(svg: bytes, name: str, title: str, description: str) -> str:
    """An SVG made by `to_svg` as an element of an HTML page.

    Ids get the figure's name in front, for they must be unique in a page; the drawing scales with
    the page; a title and a description are read to those who cannot see it.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.S)
    text = _ID.sub(rf"\g<1>{name}-", text)
    head, _, body = text.partition(">")
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    head += f' role="img" aria-labelledby="{name}-title {name}-desc" class="figure"'
    said = f'<title id="{name}-title">{_escaped(title)}</title>'
    said += f'<desc id="{name}-desc">{_escaped(description)}</desc>'
    return f"{head}>{said}{body}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
