"""The four papers' tables with the numbers of a leaderboard beside those in print.

Each published cell that a training of the paper's own stands behind is looked up among the runs
of the paper's grid (`grids/papers/`), whatever data they were made on. On other data or another
network the runs follow the paper's protocol; they do not reproduce its numbers, and every line says
which of the two it is. Cells without a run, and runs without a cell, have lines of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.advice import recommend
from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.labels import recipe, settings
from analysis.leaderboard.read import key_of, repetition, varying
from analysis.paper_tables import chu2016, ge2017, li2019, sft2019
from analysis.paper_tables.basis import Basis, basis_of
from analysis.paper_tables.cells import (
    Advised,
    Arm,
    Averaged,
    Cell,
    Difference,
    Distance,
    Drawn,
    PaperTable,
    Sensitivity,
    rows_of,
)
from analysis.paper_tables.drawn import drawn_cells
from analysis.paper_tables.scores import (
    COUNTS,
    Score,
    averaged,
    fact_of,
    of_class,
    score_of,
    several,
)
from analysis.papers.published import Published, cells
from bench.core.errors import DataError, nearest
from bench.core.text import counted


@dataclass(frozen=True)
class PaperGrid:
    """A paper's tables and figures; `prefix` is how its claims and ambiguities begin."""

    paper: str
    prefix: str
    tables: tuple[PaperTable, ...]
    figures: tuple[Drawn, ...] = ()


GRIDS: Mapping[str, PaperGrid] = {
    "soft-fine-tuning": PaperGrid("soft-ft-2019", "SFT", sft2019.TABLES),
    "selective-joint": PaperGrid("ge-yu-2017", "GE", ge2017.TABLES, ge2017.FIGURES),
    "multifaceted": PaperGrid("li-2019", "LI", li2019.TABLES, li2019.FIGURES),
    "best-practices": PaperGrid("chu-2016", "CHU", chu2016.TABLES, chu2016.FIGURES),
}
"""By the name of the grid file."""

_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "soft-ft-2019": ("3", "4.1"),
    "li-2019": ("3", "4", "4.1", "4.2", "4.3", "4.3.1", "4.3.2", "4.4", "4.5", "4.6"),
    "ge-yu-2017": ("3.2", "4.1", "4.2", "4.6"),
    "chu-2016": ("3", "4"),
}
"""Sections whose numbers are settings or counts of the protocol, which stand in the grid files."""
ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("soft-ft-2019", "text Sec. 4.4 / Fig. 5"): "training curves: see the figures and claim SFT-C7",
    ("li-2019", "Table 1"): "the network itself, whose layers the harness's tests count",
    ("ge-yu-2017", "text Sec. 4.3"): "counts, and differences of rows of Tables 2 and 3",
    ("ge-yu-2017", "text Sec. 4.4"): "counts, and differences of rows of Table 4",
    ("ge-yu-2017", "text Sec. 4.5"): "counts, and differences of rows of Table 5",
}
"""Tables and other sections that hold no number of a training of the paper's own, and why."""
WITHOUT_RUNS = {
    *ELSEWHERE,
    *((paper, f"text Sec. {name}") for paper, names in _SETTINGS.items() for name in names),
    ("li-2019", "text Fig. 6 / Sec. 4.3"),
}
"""Everything in print that is not compared with runs."""


@dataclass(frozen=True)
class Line:
    """One cell, published and measured.

    Attributes:
        paper, table, row, column: of `published.csv`, or words for runs without a number in print.
        published: None where nothing is printed; `published_spread` beside it.
        unit: of both; shares are in percent.
        measured: mean over repetitions, or text; None where there is none. `low` and `high` are
            its 95 % interval, `spread` the sample standard deviation, `n` the `counted` things.
        status: `measured`, `not run` (none is finished, or the grid has none: see the note), `not
            measured` (the runs do not record it), `prior work` (quoted by the paper), `elsewhere`
            (no run can be beside it), `no published number`, `several conditions` (no mean over
            what differs in more than seeds: see the note).
        basis: what the runs are to the paper's own: the protocol on other data, …
        details: in what they differ, a text for each setting.
        note: what is to be known of the cell.
    """

    paper: str
    table: str
    row: str
    column: str
    published: float | str | None
    unit: str
    status: str
    published_spread: float | None = None
    measured: float | str | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    n: int = 0
    counted: str = ""
    basis: str = ""
    details: tuple[str, ...] = ()
    note: str = ""


def paper_grid(name: str) -> PaperGrid | None:
    """The paper whose grid a leaderboard's name is; of any variant (`multifaceted--miniature`).

    >>> paper_grid("multifaceted--miniature").prefix, paper_grid("factors")
    ('LI', None)
    """
    return GRIDS.get(name.split("--")[0])


def table(name: str, evidence: Evidence) -> pd.DataFrame:
    """`lines` as a tidy table, a row per cell, in the papers' order."""
    found = [vars(line) | {"details": ", ".join(line.details)} for line in lines(name, evidence)]
    return pd.DataFrame(found)


def lines(name: str, evidence: Evidence) -> list[Line]:
    """Every cell of the tables of a grid's paper, and every run that no cell is about.

    Args:
        name: of the grid, see `paper_grid`.
        evidence: its leaderboard and what was measured (`analysis.measurements.tables.evidence`).

    Raises:
        DataError: the grid is none of the papers'.
    """
    grid = paper_grid(name)
    if grid is None:
        raise DataError(f"{name} is not the grid of a paper", hint=f"grids: {nearest(name, GRIDS)}")
    advice, taken = _advice(grid, evidence), _behind_cells(grid, evidence.board)
    found: list[Line] = []
    for one in grid.tables:
        found += _table_lines(one, grid.paper, evidence, advice)
        found += _without_number(one, grid, evidence.board, taken)
    for figure in grid.figures:
        found += _figure_lines(figure, grid.paper, evidence.board)
    return found


# --- cells in print ------------------------------------------------------------------------------


def _table_lines(one: PaperTable, paper: str, evidence: Evidence, advice: Advice) -> Iterator[Line]:
    mapped = {(cell.row, cell.column): cell for cell in one.cells}
    spreads = {(cell.row, cell.spread): cell for cell in one.cells if cell.spread}
    of_table = [c for c in cells() if (c.paper, c.table) == (paper, one.name)]
    quoted = {c.row for c in of_table if "prior work quoted" in c.note}
    known = {(c.row, c.column): c for c in of_table}
    for printed in of_table:
        key = (printed.row, printed.column)
        if key in spreads:
            continue
        blank = _blank(printed)
        if key in mapped:
            beside = known.get((printed.row, mapped[key].spread))
            if beside is not None:
                blank = replace(blank, published_spread=beside.number)
            yield _filled(blank, mapped[key], one, evidence, advice)
        elif printed.row in quoted:
            yield replace(blank, status="prior work")
        elif printed.unit != "name":
            yield replace(blank, status="elsewhere", note=one.elsewhere.get(printed.row, ""))


def _blank(printed: Published) -> Line:
    note = printed.note if "misprint" in printed.note or "contradict" in printed.note else ""
    place = printed.paper, printed.table, printed.row, printed.column
    return Line(*place, printed.value, printed.unit, "", note=note)


def _filled(blank: Line, cell: Cell, one: PaperTable, evidence: Evidence, advice: Advice) -> Line:
    match cell.of:
        case Arm() | Difference():
            return _scored(blank, cell, one, evidence)
        case Averaged():
            return _averaged(blank, cell.of, one, evidence)
        case Distance():
            return _distance(blank, cell.of, one, evidence.distances)
        case Sensitivity():
            return _sensitivity(blank, cell.of, one, evidence)
        case Advised():
            line = _advised(blank, advice.get((cell.of.distance, cell.of.data)))
            return _of_basis(line, basis_of(_tuned(evidence), one.standard))


def _of_basis(line: Line, basis: Basis) -> Line:
    return replace(line, basis=basis.text, details=basis.details) if line.n else line


def _figure_lines(figure: Drawn, paper: str, board: pd.DataFrame) -> Iterator[Line]:
    """The cells of a figure that the paper only draws, as far as the grid has them."""
    for cell in drawn_cells(figure, board):
        blank = Line(paper, figure.name, cell.row, cell.column, None, "%", "not run")
        if cell.score is not None:
            blank = replace(_with(blank, cell.score), status="no published number")
        elif cell.mixed:
            blank = replace(blank, status="several conditions")
        note = cell.mixed if cell.score is None else cell.score.note
        yield replace(blank, basis=cell.basis.text, details=cell.basis.details, note=note)


_ENDED = ("done", "diverged")
"""Runs with an outcome: one that diverged counts at chance."""


def _arms(of: Arm | Difference | Averaged) -> tuple[Arm, ...]:
    return (of,) if isinstance(of, Arm) else (of.first, of.second)


def _scored(blank: Line, cell: Cell, one: PaperTable, evidence: Evidence) -> Line:
    assert isinstance(cell.of, Arm | Difference)
    arms = _arms(cell.of)
    rows = [rows_of(evidence.board, which) for which in arms]
    if any(one_arm.empty for one_arm in rows):
        return replace(blank, status="not run", note=_joined(blank.note, "not in this grid"))
    done = [one_arm[one_arm["status"].isin(_ENDED)] for one_arm in rows]
    if any(one_arm.empty for one_arm in done):
        states = pd.concat(rows)["status"].value_counts().to_dict()
        said = ", ".join(f"{n} {state}" for state, n in states.items())
        return replace(blank, status="not run", note=_joined(blank.note, f"runs: {said}"))
    if cell.class_name:
        if evidence.class_precisions is None:
            said = "a leaderboard has no column for single classes: give the grid"
            return replace(blank, status="not measured", note=_joined(blank.note, said))
        done = [of_class(one_arm, cell, evidence.class_precisions) for one_arm in done]
    mixed = "; ".join(filter(None, map(several, done)))
    if mixed and cell.metric not in COUNTS:
        return replace(blank, status="several conditions", note=_joined(blank.note, mixed))
    score = fact_of(done[0], cell.metric) if cell.metric in COUNTS else score_of(done, cell.metric)
    if score is None:
        return replace(blank, status="not measured", note=_joined(blank.note, "not recorded"))
    line = _with(blank, score)
    basis = basis_of(pd.concat(done), one.standard, arms)
    left = sum(len(a) - len(d) for a, d in zip(rows, done, strict=True))
    missing = f"{counted(left, 'run')} without a result" if left else ""
    return _of_basis(replace(line, note=_joined(blank.note, score.note, missing)), basis)


def _averaged(blank: Line, of: Averaged, one: PaperTable, evidence: Evidence) -> Line:
    """The mean of two networks' outputs, whose runs must have left their predictions."""
    rows = [rows_of(evidence.board, which) for which in _arms(of)]
    done = [one_arm[one_arm["status"] == "done"] for one_arm in rows]
    if any(one_arm.empty for one_arm in done):
        return replace(blank, status="not run", note=_joined(blank.note, "not in this grid"))
    if evidence.outputs is None:
        said = "a leaderboard has no outputs of single images: give the grid"
        return replace(blank, status="not measured", note=_joined(blank.note, said))
    score = averaged(done, evidence.outputs)
    if score is None:
        said = "the predictions of one of the two are gone"
        return replace(blank, status="not measured", note=_joined(blank.note, said))
    return _of_basis(_with(blank, score), basis_of(pd.concat(done), one.standard, _arms(of)))


def _with(blank: Line, score: Score) -> Line:
    return replace(
        blank,
        status="measured",
        measured=score.value,
        low=score.low,
        high=score.high,
        spread=score.spread,
        n=score.n,
        counted=score.counted,
    )


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


# --- distances, filters, advice ------------------------------------------------------------------


def _distance(blank: Line, of: Distance, one: PaperTable, distances: pd.DataFrame | None) -> Line:
    nothing = replace(blank, status="not run", note=_joined(blank.note, "distances: not measured"))
    if distances is None or distances.empty or of.name not in distances.columns:
        return nothing
    rows = rows_of(distances.assign(role="finetune", experiments=""), Arm("", (("data", of.data),)))
    rows = rows[rows[of.name].notna()]
    if rows.empty:
        return nothing
    scale = 100.0 if of.name in ("svm", "cnn") else 1.0
    ends = [rows[f"{of.name}_{end}"] for end in ("low", "high")]
    low, high = (float(e.iloc[0]) * scale if len(rows) == 1 else None for e in ends)
    value = float(rows[of.name].mean()) * scale
    line = _with(blank, Score(value, low, high, None, len(rows), "pair of data sets"))
    return _of_basis(line, basis_of(rows, one.standard, (Arm("", (("data", of.data),)),)))


def _sensitivity(blank: Line, of: Sensitivity, one: PaperTable, evidence: Evidence) -> Line:
    found = evidence.sensitivities
    here = None if found is None else found[(found["a"] == of.a) & (found["b"] == of.b)]
    if here is None or here.empty:
        return replace(blank, status="not run", note=_joined(blank.note, "filters: not measured"))
    row = here.iloc[0]
    ties = f"{row['ties_percentage']:.0f} % ties" if row.get("ties_percentage") else ""
    score = Score(float(row["percentage"]), None, None, None, int(row["n_classes"]), "class")
    line = replace(_with(blank, score), note=_joined(blank.note, ties))
    return _of_basis(line, basis_of(rows_of(evidence.board, of.runs), one.standard))


def _tuned(evidence: Evidence) -> pd.DataFrame:
    board = evidence.board
    return board[(board["role"] != "source") & (board["status"] == "done")]


def _advised(blank: Line, row: Mapping[Any, Any] | None) -> Line:
    """A cell of CHU's Table 3 derived from the runs."""
    advice = None if row is None else row["advice"]
    if row is None or advice is None or advice != advice:
        why = "no pair of runs falls into this cell"
        return replace(blank, status="not run", note=_joined(blank.note, why))
    ratio = f"tuned / frozen {row['ratio']:.2f}"
    if row["low"] == row["low"] and row["low"] is not None:
        ratio += f" ({row['low']:.2f} to {row['high']:.2f})"
    score = Score(str(advice), None, None, None, int(row["pairs"]), "pair")
    return replace(_with(blank, score), note=_joined(blank.note, ratio))


Advice = Mapping[tuple[str, str], Mapping[Any, Any]]


def _advice(grid: PaperGrid, evidence: Evidence) -> Advice:
    """Rows of `analysis.advice.recommend.derived` by their bands, if the paper gives advice.

    The comparison that was repeated most comes first in a cell.
    """
    if not any(isinstance(cell.of, Advised) for table in grid.tables for cell in table.cells):
        return {}
    try:
        rows = recommend.derived(evidence).to_dict("records")
    except DataError:
        return {}
    found: dict[tuple[str, str], Mapping[Any, Any]] = {}
    for row in rows:
        found.setdefault((str(row["distance"]), str(row["images_per_class"])), row)
    return found


# --- runs that no cell is about ------------------------------------------------------------------


def _behind_cells(grid: PaperGrid, board: pd.DataFrame) -> set[Any]:
    """The rows of the leaderboard that stand behind a cell of the paper, by their index.

    Cells of single classes do not count: the runs behind them have a score over all classes too.
    """
    arms = {
        which
        for table in grid.tables
        for cell in table.cells
        if isinstance(cell.of, Arm | Difference) and not cell.class_name
        for which in _arms(cell.of)
    }
    return {index for which in arms for index in rows_of(board, which).index}


def _without_number(
    one: PaperTable, grid: PaperGrid, board: pd.DataFrame, taken: set[Any]
) -> Iterator[Line]:
    """The conditions of a table's experiments that stand behind none of the paper's cells."""
    drawn = {figure.experiment for figure in grid.figures}
    for experiment in one.experiments:
        if experiment in drawn:
            continue
        rows = rows_of(board, Arm(experiment, ()))
        rows = rows[rows["status"].isin(_ENDED) & ~rows.index.isin(taken)]
        for label, group in _conditions(rows):
            score = score_of([group], one.metric)
            if score is not None:
                blank = Line(grid.paper, one.name, label, one.metric, None, "%", "")
                line = replace(_with(blank, score), status="no published number", note=score.note)
                yield _of_basis(line, basis_of(group, one.standard))


def _conditions(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Repetitions of one condition together, with what was done and what sets it apart."""
    if rows.empty:
        return
    condition = [name for name in varying(rows) if not repetition(name)]
    apart = settings(rows, ("pattern", "method", "method_options", "borrowed"))
    for _, group in rows.assign(_apart=apart).groupby(key_of(rows, condition), sort=False):
        first = group.iloc[0].to_dict()
        yield ", ".join(text for text in (recipe(first), first["_apart"]) if text), group
