"""The papers' tables, published beside measured, as texts for a page or a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.labels import number
from analysis.paper_tables.basis import OTHER_DATA, SAME
from analysis.paper_tables.cells import Drawn, PaperTable
from analysis.paper_tables.compare import ELSEWHERE, Line, PaperGrid, lines, paper_grid
from analysis.papers.published import PAPERS
from analysis.text_tables import DASH, Table
from bench.core.text import counted

TITLE = "The paper's tables, published and measured"
_NONE = "no published number"


def paper_tables(name: str, evidence: Evidence) -> tuple[list[Table], list[str]]:
    """Tables to be read, and sentences to be read before them; none for another grid.

    Args:
        name: of the grid, see `analysis.paper_tables.compare.paper_grid`.
        evidence: its leaderboard and what was measured.
    """
    grid = paper_grid(name)
    if grid is None:
        return [], []
    found = lines(name, evidence)
    made = []
    for table in grid.tables:
        mine = [line for line in found if line.table == table.name]
        made.append(_table(table, mine, grid.prefix))
    for figure in grid.figures:
        mine = [line for line in found if line.table == figure.name]
        if mine:
            made.append(_matrix(figure, mine, grid.prefix))
    return made, list(_sentences(grid, found))


def _sentences(grid: PaperGrid, found: Sequence[Line]) -> Iterator[str]:
    yield (
        f"Published numbers are those printed in {PAPERS[grid.paper]}, on its data and networks. "
        "Measured ones are this leaderboard's runs. Where the column is headed “measured, "
        f"{OTHER_DATA}”, they follow the paper's protocol on other images, often with another "
        "network and a shorter training: they are no reproduction of the number beside them, and "
        "only the order of a table's rows can be compared, as the papers' claims do."
    )
    shown = [line for line in found if line.published is not None and line.status != "prior work"]
    measured = sum(line.status == "measured" for line in shown)
    own = sum(line.status == "measured" and line.basis == SAME for line in shown)
    beside = sum(line.status == "elsewhere" for line in shown)
    yield (
        f"{counted(len(shown) - beside, 'published cell')}: {measured} measured, {own} of them on "
        f"the paper's data and network; {len(shown) - beside - measured} not run or not recorded."
    )
    for (paper, table), why in ELSEWHERE.items():
        if paper == grid.paper and table.startswith("Table"):
            yield f"{grid.prefix} {table} has no measured column: {why}."


# --- a published table ---------------------------------------------------------------------------


def _table(table: PaperTable, found: Sequence[Line], prefix: str) -> Table:
    shown = [line for line in found if line.status not in ("prior work", "elsewhere")]
    common, head = _common(shown), _measured_head(shown)
    columns = {line.column for line in shown if line.published is not None}
    several = len(columns) > 1
    intervals = any(line.low is not None for line in shown)
    notes = [_note(line, common, says_basis=head == "measured") for line in shown]
    heads = ["row", *(["column"] if several else []), "published", head]
    heads += ["95 % interval"] if intervals else []
    heads += ["n", *(["note"] if any(notes) else [])]
    rows = []
    for line, note in zip(shown, notes, strict=True):
        texts = [line.row, *([line.column if line.published is not None else ""] * several)]
        texts += [_published(line), _measured(line)]
        texts += [_ends(line)] if intervals else []
        texts += [counted(line.n, line.counted) if line.n else DASH]
        texts += [note or DASH] if any(notes) else []
        rows.append(tuple(texts))
    first = 1 + several
    return Table(
        f"{prefix} {table.name}: {table.title}",
        tuple(heads),
        tuple(rows),
        tuple(range(first, first + 2 + intervals)),
        " ".join(_below(table, found, common)),
    )


def _measured_head(shown: Sequence[Line]) -> str:
    """What the measured column is, where all of it is the same."""
    bases = {line.basis for line in shown if line.status == "measured" and line.basis}
    return f"measured, {bases.pop()}" if len(bases) == 1 else "measured"


def _below(table: PaperTable, found: Sequence[Line], common: Sequence[str]) -> Iterator[str]:
    bases = {line.basis for line in found if line.status == "measured" and line.basis}
    if common:
        yield f"Measured here: {', '.join(common)}."
    if len(bases) > 1:
        yield "What a measured number is to the paper's stands in its note."
    units = {line.unit for line in found if line.published is not None and "%" in line.unit}
    named = sorted(unit.removeprefix("% ") for unit in units if unit != "%")
    if named:
        yield f"In percent: {', '.join(named)}."
    quoted = {line.row for line in found if line.status == "prior work"}
    if quoted:
        yield f"{counted(len(quoted), 'row')} of prior work that the paper quotes left out."
    beside: dict[str, list[str]] = {}
    for line in found:
        if line.status == "elsewhere":
            beside.setdefault(line.note, []).append(f"{line.row}, {line.column}")
    for why, cells in beside.items():
        yield f"Not beside a run: {'; '.join(cells)} ({why})."
    if table.note:
        yield table.note


def _published(line: Line) -> str:
    if line.published is None:
        return _NONE
    if isinstance(line.published, str):
        return line.published
    text = _value(line.published, line.unit)
    if "%" in line.unit:  # as many digits as are printed
        text = max(text, f"{line.published:.4g}", key=len)
    return f"{text} ± {line.published_spread:g}" if line.published_spread is not None else text


def _measured(line: Line) -> str:
    if line.measured is None:
        return line.status
    if isinstance(line.measured, str):
        return line.measured
    text = _value(line.measured, line.unit)
    wanted = line.published_spread is not None and line.spread is not None
    return f"{text} ± {line.spread:.2f}" if wanted else text


def _ends(line: Line) -> str:
    if line.low is None or line.high is None:
        return DASH
    return f"{_value(line.low, line.unit)} to {_value(line.high, line.unit)}"


def _value(value: float, unit: str) -> str:
    """A number as its unit is read: counts whole, points with a sign, distances to three digits."""
    if unit == "count":
        return number(value)
    if unit == "percentage points":
        return f"{value:+.1f}".replace("-", "−")
    text = f"{value:.3g}" if unit == "distance" else f"{value:.1f}"
    return text.replace("-", "−")


def _common(shown: Sequence[Line]) -> list[str]:
    """In what all measured runs of a table differ from the paper's."""
    each = [line.details for line in shown if line.status == "measured" and line.n]
    return [part for part in each[0] if all(part in other for other in each)] if each else []


def _note(line: Line, common: Sequence[str], says_basis: bool) -> str:
    """What sets a line apart from the others of its table, and what is to be known of it."""
    if line.status != "measured":
        return line.note
    own = ", ".join(part for part in line.details if part not in common)
    basis = line.basis if says_basis else ""
    return "; ".join(text for text in (basis, own, line.note) if text)


# --- a figure that is only drawn -----------------------------------------------------------------


def _matrix(figure: Drawn, found: Sequence[Line], prefix: str) -> Table:
    rows = list(dict.fromkeys(line.row for line in found))
    columns = list(dict.fromkeys(line.column for line in found))
    at = {(line.row, line.column): line for line in found}
    body = [(row, *(_cell(at.get((row, column))) for column in columns)) for row in rows]
    bases = {line.basis for line in found}
    details = {line.details for line in found if line.details}
    said = [f"No published number: the paper draws this figure. In percent, {'; '.join(bases)}"]
    said[0] += f" ({', '.join(details.pop())})." if len(details) == 1 else "."
    nouns = {line.n: line.counted for line in found if line.n > 1}
    if nouns:
        most = max(nouns)
        said.append(f"In brackets the 95 % interval over {counted(most, nouns[most])}.")
    return Table(
        f"{prefix} {figure.name}: {figure.title}",
        ("", *columns),
        tuple(body),
        tuple(range(1, len(columns) + 1)),
        " ".join([*said, *([figure.note] if figure.note else [])]),
    )


def _cell(line: Line | None) -> str:
    if line is None:
        return DASH
    if line.measured is None:
        return line.status
    ends = f" ({line.low:.1f} to {line.high:.1f})" if line.low is not None else ""
    return f"{line.measured:.1f}{ends}"
