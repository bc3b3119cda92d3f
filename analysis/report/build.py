"""One self-contained page for one leaderboard: what to do, the numbers, the figures, the gaps.

The page needs no network and no script; its figures stand in it as SVG with text as text, and lie
beside it as files. Every text that comes from data is escaped by the template library. What could
not be computed is named in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from analysis.comparisons.evidence import Evidence
from analysis.figures.style import inline_svg, to_png, to_svg
from analysis.leaderboard.read import NOT_CONVERGED
from analysis.measurements.tables import Measurements
from analysis.paper_tables.text import TITLE, paper_tables
from analysis.report import other_tables as rest_of
from analysis.report import tables as tables_of
from analysis.report.figures import Numbers, Picture, gallery, numbers
from analysis.report.summary import headline, is_race, unfinished
from analysis.text_tables import Table
from bench.core.errors import DataError
from bench.core.files import write_atomic
from bench.core.paths import grid_file
from bench.core.text import counted

Mistakes = tuple[Sequence[str], Sequence[Table], Sequence[Picture]]
"""Sentences, tables and pictures."""


@dataclass(frozen=True)
class Drawn:
    """A figure in the page; `svg` is None where `missing` gives the reason."""

    name: str
    title: str
    caption: str
    svg: Markup | None
    missing: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: texts, then tables, then figures, then a list; folded until asked for."""

    id: str
    title: str
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Drawn, ...] = ()
    items: tuple[str, ...] = ()
    is_folded: bool = False


@dataclass(frozen=True)
class Report:
    """The page's contents, and the figures' files by name."""

    title: str
    about: str
    headline: tuple[str, ...]
    sections: tuple[Section, ...]
    files: dict[str, bytes]
    png: bool


def build(
    name: str,
    evidence: Evidence,
    measured: Measurements | None = None,
    png: bool = True,
    more: Sequence[Picture] = (),
    mistakes: Mistakes | None = None,
    answer: Sequence[str] = (),
) -> Report:
    """Computes a report.

    Args:
        name: of the grid or leaderboard.
        evidence: a leaderboard and what was measured (`analysis.measurements.tables.evidence`).
        measured: all tables of measurements; None where there is a leaderboard alone.
        png: whether figures are also made as PNG.
        more: pictures that need weights or images (`analysis.report.run_figures.figures`).
        mistakes: of the best run on own photographs (`analysis.report.mistakes.mistakes`).
        answer: lines of the race that the runs are of, which stand first.

    Raises:
        DataError: when no run of the leaderboard is finished.
    """
    board = evidence.board
    done = board[(board["status"] == "done") & board["top1_accuracy"].notna()]
    stuck = int((board["status"] == NOT_CONVERGED).sum())
    if done.empty and stuck:
        raise DataError(
            f"{name}: none of {counted(len(board), 'run')} can be compared; {stuck} never left "
            "chance in training, or start from a run that did not",
            hint="train for more epochs or at another learning rate",
        )
    if done.empty:
        raise DataError(
            f"{name}: none of {counted(len(board), 'run')} is finished",
            hint=f"run: bench grid {grid_file(name)}",
        )
    return compose(name, numbers(evidence, measured), png, more, mistakes, answer)


def compose(
    name: str,
    found: Numbers,
    png: bool,
    more: Sequence[Picture] = (),
    mistakes: Mistakes | None = None,
    answer: Sequence[str] = (),
) -> Report:
    """The report of numbers that are computed; arguments as of `build`."""
    board = found.evidence.board
    texts, tables, sheets = mistakes or ((), (), ())
    pictures = [*sheets, *gallery(found), *more]
    saved: dict[str, bytes] = {}
    for picture in pictures:
        if picture.figure is not None:
            saved[f"{picture.name}.svg"] = to_svg(picture.figure)
            if png:
                saved[f"{picture.name}.png"] = to_png(picture.figure)
    drawn = [_drawn(picture, saved.get(f"{picture.name}.svg")) for picture in pictures]
    return Report(
        title=f"How to fine-tune: {name}",
        about=tables_of.about(board),
        headline=(
            *unfinished(board),
            *headline(found.gains, found.crossings, found.rates, is_race(board)),
        ),
        sections=tuple(
            _own_first(
                _sections(name, found, drawn[len(sheets) :]),
                Section("errors", "Errors", tuple(texts), tuple(tables), _there(drawn, sheets)),
                answer,
            )
        ),
        files=saved,
        png=png,
    )


def _drawn(picture: Picture, data: bytes | None) -> Drawn:
    if data is None:
        return Drawn(picture.name, picture.title, "", None, picture.missing.rstrip("."))
    svg = inline_svg(data, picture.name, picture.title, picture.caption)
    # Made by matplotlib, which escapes the texts in it; title and caption are escaped there.
    return Drawn(picture.name, picture.title, picture.caption, Markup(svg))


def _there(drawn: Sequence[Drawn], sheets: Sequence[Picture]) -> tuple[Drawn, ...]:
    """The sheets of errors among what was drawn; they stand first."""
    return tuple(drawn[: len(sheets)])


def _own_first(sections: list[Section], errors: Section, answer: Sequence[str]) -> list[Section]:
    """The sections; with errors, those follow the answers, and what papers say is folded.

    A race has its own answer: the rest compares what a race does not train to the end.
    """
    if answer:
        lines = tuple(" ".join(line.split()) for line in answer if line.strip())
        first, rest = Section("race", "Answer of the race", lines), sections
        folded = [one.id for one in sections if one.id != "figures"]
    elif errors.texts:
        first, *rest = sections
        folded = ["paper", "findings", "ambiguities"]
    else:
        return sections
    return [
        first,
        *([errors] if errors.texts else []),
        *(replace(one, is_folded=one.id in folded) for one in rest),
    ]


def _sections(name: str, found: Numbers, drawn: list[Drawn]) -> list[Section]:
    there = tuple(figure for figure in drawn if figure.svg is not None)
    not_there = tuple(
        f"Not drawn: {figure.title}: {figure.missing}." for figure in drawn if not figure.svg
    )
    claims = next((f for f in drawn if f.name == "findings"), None)
    others = tuple(f for f in there if f.name != "findings")
    of_paper = _texts_first(paper_tables(name, found.evidence))
    return [
        Section(
            "answers",
            "Answers",
            texts=tables_of.how_to_read(found),
            tables=tuple(tables_of.answers(found)),
        ),
        Section("figures", "Figures", figures=others),
        *([Section("paper", TITLE, *of_paper)] if any(of_paper) else []),
        Section(
            "findings",
            "Do the papers' claims hold here?",
            texts=(tables_of.FINDINGS_TEXT,),
            tables=(tables_of.findings(found.findings),),
            figures=(claims,) if claims is not None else (),
        ),
        Section("advice", "Advice", *_texts_first(rest_of.advice(found))),
        Section(
            "measured",
            "What was measured",
            *_texts_first(rest_of.measured(found.evidence.board, found.measured)),
        ),
        Section(
            "ambiguities",
            "What the papers leave open, and how it is read here",
            tables=(rest_of.ambiguities(),),
        ),
        Section(
            "machines",
            "Hardware, versions and cost",
            *_texts_first(rest_of.machines(found.evidence.board)),
        ),
        Section("gaps", "Gaps", *_texts_first(rest_of.gaps(found)), items=not_there),
    ]


def _texts_first(
    made: tuple[Sequence[Table], Sequence[str]],
) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    return tuple(made[1]), tuple(made[0])


@cache
def _environment() -> Environment:
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def page(report: Report) -> str:
    """The report as HTML."""
    text = files("analysis.report").joinpath("templates/report.html").read_text(encoding="utf-8")
    return _environment().from_string(text).render(report=report)


def write(report: Report, folder: Path) -> Path:
    """Writes `index.html` and the figures beside it; the page last. Its path is returned."""
    for name, data in report.files.items():
        write_atomic(folder / name, data)
    index = folder / "index.html"
    write_atomic(index, page(report))
    return index
