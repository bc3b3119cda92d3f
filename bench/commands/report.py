"""`bench report`: one page with answers, figures, findings and advice from a grid's results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import (
    DataRoot,
    GridChoice,
    Results,
    Set,
    VerdictRules,
    console,
    doing,
    grouped,
)
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from analysis.comparisons.evidence import Evidence
    from analysis.measurements.tables import Measurements
    from analysis.report.build import Mistakes
    from analysis.report.figures import Picture
    from bench.planning.workspace import Session


@grouped
def report(
    source: Annotated[
        Path,
        typer.Argument(metavar="GRID|CSV", help="a grid, or a leaderboard that bench grid wrote"),
    ],
    results: Results = Path("results"),
    data_root: DataRoot = None,
    set_: Set = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder to write to; else RESULTS/reports/NAME, as leaderboards are named"
        ),
    ] = None,
    png: Annotated[bool, typer.Option(help="figures as PNG too, beside the SVG")] = True,
    *,
    rules: VerdictRules,
) -> None:
    """Write one page: what to do, answers, figures, the papers' claims, advice and gaps."""
    with doing(f"reading the runs of {source}"):
        name, evidence, measured, more, wrong = _material(source, results, data_root, set_ or [])
    evidence = rules.applied_to(evidence)
    from analysis.report.build import build, write

    with doing("testing comparisons and claims, and drawing the figures"):
        answer = _answer_beside(source)
        made = build(name, evidence, measured, png, more, wrong, answer)
    folder = out if out is not None else results / "reports" / name
    before = _figures(folder)
    index = write(made, folder)
    for old in sorted(before - set(made.files)):  # of an earlier report; this one does not draw it
        (folder / old).unlink(missing_ok=True)
    screen = console()
    for sentence in made.headline:
        screen.print(sentence, highlight=False)
    drawn = sum(figure.endswith(".svg") for figure in made.files)
    screen.print(f"report: {index} ({drawn} figures beside it)", highlight=False)


def _answer_beside(source: Path) -> tuple[str, ...]:
    """What `bench finetune` has answered, where the grid is that of its race."""
    if source.suffix not in (".yaml", ".yml"):
        return ()
    from bench.race.decisions import Decisions

    return Decisions.answer_beside(source)


_OURS, _FIGURE = "<title>How to fine-tune: ", re.compile(r'<figure id="figure-([\w.+-]+)"')


def _figures(folder: Path) -> set[str]:
    """Names of the figure files of the report that lies in a folder; other files are not ours."""
    try:
        page = (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    names = _FIGURE.findall(page) if _OURS in page else []
    return {f"{name}{kind}" for name in names for kind in (".svg", ".png")}


def _material(
    source: Path, results: Path, data_root: Path | None, overrides: list[str]
) -> tuple[str, Evidence, Measurements | None, list[Picture], Mistakes | None]:
    """The name of the report, the leaderboard, a grid's measurements, pictures and errors."""
    from analysis.findings.designed import as_designed
    from analysis.leaderboard import read as boards
    from analysis.measurements import beside
    from analysis.measurements import tables as measuring

    if source.suffix in (".yaml", ".yml"):
        from bench.commands._summary import open_or_written

        session, written = open_or_written(
            GridChoice(source, results, data_root, set_=overrides), folder="any"
        )
        if written is None:
            return _of_grid(session)
        console().print(written, highlight=False)
        source, overrides = session.leaderboard(), []
    if overrides:
        raise BenchError("--set belongs to a grid", hint="give a grid file, or leave it out")
    if source.is_dir():
        raise BenchError(
            f"{source} is a folder", hint="give a grid file, or one leaderboard of the folder"
        )
    measured = beside.load(source)
    judged = as_designed(measuring.evidence(boards.read(source), measured), source)
    return source.stem, judged, measured, [], None


def _of_grid(
    session: Session,
) -> tuple[str, Evidence, Measurements | None, list[Picture], Mistakes | None]:
    from analysis.findings.designed import as_designed
    from analysis.leaderboard.of_grid import grid_board
    from analysis.measurements import tables as measuring
    from analysis.report import epoch_figures
    from analysis.report.mistakes import mistakes
    from analysis.report.run_figures import figures
    from bench.commands._summary import damage_lines

    for line in damage_lines(session):
        console().print(line, highlight=False, soft_wrap=True)
    board = grid_board(session.plan, session.store, str(session.grid.path))
    found = measuring.measurements(session.plan, session.store)
    drawn = figures(session.plan, session.store, found, session.data_root)
    drawn = [*epoch_figures.figures(session.plan, session.store, board), *drawn]
    wrong = mistakes(session.plan, session.store)
    name = session.board or session.plan.name
    judged = as_designed(measuring.evidence(board, found), session.leaderboard())
    return name, judged, found, drawn, wrong


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(report)
