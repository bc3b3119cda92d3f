"""`bench findings`: which of the papers' claims hold on a user's runs, and what would decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError, nearest
from bench.options import DataRoot, Results, Set, as_path, console

if TYPE_CHECKING:
    from rich.table import Table

    from analysis.evidence import Evidence, Finding, Part

__all__ = ["effect_text", "evidence_of", "findings_text", "register"]


def findings(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[GRID|FOLDER|CSV]",
            help="a grid, a results folder or a leaderboard; the results folder if left out",
            callback=as_path,
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="the papers' own numbers instead of runs")
    ] = False,
    claim: Annotated[
        list[str] | None, typer.Option(help="a claim such as LI-C4; may be repeated")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="write all numbers to this CSV file", callback=as_path)
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="every claim, its parts and what each would need")
    ] = False,
    tables: Annotated[
        bool,
        typer.Option(
            "--tables", help="of a paper's grid its tables, published beside measured, not claims"
        ),
    ] = False,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    set_: Set = None,
) -> None:
    """Say which of the papers' claims hold here, with interval and n, and what is not decided."""
    if published and source is not None:
        raise BenchError(
            "--published looks at the papers' numbers alone",
            hint="leave it out: the papers' verdicts stand beside those on your runs in any case",
        )
    if tables:
        from bench.tables_cli import check_grid, print_tables

        name = check_grid(source)
        print_tables(name, *evidence_of(source or results, results, data_root, set_ or ()), csv)
        return
    from analysis import findings as tests

    known = [c.id for c in tests.CLAIMS]
    claim = [name.upper() for name in claim or ()]
    for name in claim:
        if name not in known:
            raise BenchError(f"there is no claim {name!r}", hint=nearest(name, known, len(known)))
    claims = [c for c in tests.CLAIMS if not claim or c.id in claim]
    in_print = tests.on_published(claims)
    out = console()
    measured: list[Finding] = []
    if published:
        out.print("the papers' claims on the papers' own numbers", highlight=False)
    else:
        evidence, heading = evidence_of(source or results, results, data_root, set_ or ())
        for line in heading:
            out.print(line, highlight=False, markup=False)
        measured = tests.on_runs(evidence, claims)
    for part in findings_text(measured, in_print, details=details or bool(claim)):
        out.print(part, highlight=False, markup=False)
    if csv is not None:
        from bench.store import write_atomic

        write_atomic(csv, tests.table(measured, in_print).to_csv(index=False))
        out.print(f"all numbers: {csv}", highlight=False, markup=False)


def evidence_of(
    source: Path, results: Path, data_root: Path | None, overrides: Sequence[str] = ()
) -> tuple[Evidence, list[str]]:
    """Runs and measurements of a grid file, a results folder or a leaderboard, and what they are.

    Returns:
        The evidence, and lines that say how much there is and what is missing.

    Raises:
        BenchError: the source does not exist, is no leaderboard, or has no row.
    """
    from analysis import board as boards
    from analysis import measured as measuring
    from analysis.board_folder import read_folder

    if source.suffix in (".yaml", ".yml"):
        from bench.leaderboard import rows, to_csv
        from bench.session import open_session

        session = open_session(
            source,
            results=results,
            data_root=data_root,
            overrides=overrides,
            folder="existing",
        )
        board = boards.parse(to_csv(rows(session.plan, session.store)), str(source))
        found = measuring.measurements(session.plan, session.store)
        heading = [_counts(board, str(source)), *_not_measured(found.missing)]
        return measuring.evidence(board, found), heading
    if overrides:
        raise BenchError("--set belongs to a grid", hint="give a grid file, or leave --set out")
    if source.is_dir():
        board = read_folder(source)
        grids = sorted(set(board["grid"]))
        names = ", ".join(grids)
        said = f"{source}: {len(grids)} leaderboards ({names})" if grids[1:] else f"{source}"
    else:
        board, said = boards.read(source), str(source)
    notes = [f"note: {note}" for note in board.attrs.get("notes", [])]
    return measuring.evidence(board), [_counts(board, said), *notes]


def _not_measured(sentences: Sequence[str], most: int = 2) -> list[str]:
    """The first sentences, and how many more there are."""
    lines = [f"not measured: {sentence}" for sentence in sentences[:most]]
    rest = len(sentences) - most
    return [*lines, f"and {rest} measurements more"] if rest > 0 else lines


def _counts(board: object, place: str) -> str:
    import pandas as pd

    from analysis.board import SEEDS, key_of

    if not isinstance(board, pd.DataFrame):
        raise TypeError("a board is a table")
    done = board[board["status"] == "done"]
    tuned = done[done["role"] != "source"] if "role" in done.columns else done
    if not len(tuned):
        return f"{place}: none of {len(board)} runs has a result; run: bench grid GRID"
    text = f"{place}: {len(tuned)} finished runs, {tuned['task'].nunique()} class draws or targets"
    if len(done) < len(board):
        text += f"; {len(board) - len(done)} runs have no result"
    if len(tuned) and key_of(tuned, ["task", *SEEDS]).nunique() == 1:
        text += "; one seed only, so no interval and no verdict: add seed: [0, 1, 2] to the grid"
    return text


# --- what is printed ---


def findings_text(
    measured: Sequence[Finding], published: Sequence[Finding], details: bool = False
) -> list[Table | str]:
    """The table and the lines below it.

    Args:
        measured: on a user's runs; empty shows the published numbers alone.
        published: the same claims on the papers' numbers.
        details: every claim with its parts, also those without a run.
    """
    from analysis.evidence import UNDECIDED
    from analysis.findings import table

    found = list(measured) or list(published)
    rows = table(measured, published).to_dict("records")
    adjusted = {str(row["claim"]): row["p_holm"] for row in rows} if measured else {}
    ranked = sorted(found, key=lambda f: (f.verdict == UNDECIDED, f.effect is None))
    shown = [f for f in ranked if details or any(p.effect is not None for p in f.parts)]
    left = [f for f in ranked if f not in shown]
    parts: list[Table | str] = []
    if shown:
        parts.append(_table(shown, {f.claim: f for f in published}, adjusted))
        parts += ["", *(_footnotes(found, adjusted) if measured else [_AS_PRINTED])]
    return parts + _below(shown, left, details, bool(measured))


_SIGNS = (
    "An effect is positive in the direction that the claim predicts; points are percentage points "
    "of accuracy, × a ratio of accuracies."
)
_AS_PRINTED = (
    f"{_SIGNS}\nPublished numbers are single values, so an ordering is read as printed; intervals "
    "are over the rows of a table and decide nothing."
)


def _table(
    shown: Sequence[Finding], printed: Mapping[str, Finding], adjusted: Mapping[str, object]
) -> Table:
    from rich.table import Table

    view = Table("claim", "what it says", "verdict", box=None, pad_edge=False)
    view.add_column("effect, 95 % interval")
    view.add_column("n", no_wrap=True)
    if adjusted:
        view.add_column("p (Holm)", justify="right", no_wrap=True)
        view.add_column("in the paper")
    for f in shown:
        cells = [f.claim, f.text, _verdict(f), _main(f), _n(f)]
        if adjusted:
            cells += [_p(adjusted[f.claim]), _in_print(printed[f.claim])]
        view.add_row(*cells)
    return view


def _verdict(f: Finding) -> str:
    """The verdict, and of a claim with several parts how many bear it."""
    from analysis.evidence import UNDECIDED

    if len(f.parts) == 1:
        return f.verdict
    same = sum(part.verdict == f.verdict for part in f.parts)
    on = "on " if f.verdict == UNDECIDED else ""
    return f"{f.verdict} ({on}{same} of {len(f.parts)} parts)"


def _main(f: Finding) -> str:
    """The effect of the part that decides; its name where there are several."""
    if f.effect is None:
        return "–"
    return f"{f.main.name}: {effect_text(f)}" if len(f.parts) > 1 else effect_text(f)


def effect_text(f: Finding | Part) -> str:
    """Effect with interval and unit; a logarithm of ratios as the ratio.

    >>> from analysis.findings import claim, on_published
    >>> effect_text(on_published([claim("SFT-C1")])[0])
    '+9.9 (+5.9 to +14.0) points'
    """
    if f.effect is None:
        return "–"
    logarithm = "log ratio" in f.unit and " per " not in f.unit
    ends = [f.effect, f.low, f.high]
    if logarithm:
        value, *limits = [None if v is None else f"{math.exp(v / 100):.2f}" for v in ends]
        text, unit = f"× {value}", ""
    else:
        form = ".2f" if f.unit == "Spearman" else "+.1f" if _is_wide(f.effect) else "+.2f"
        value, *limits = [None if v is None else f"{v:{form}}" for v in ends]
        text, unit = str(value), f" {f.unit}"
    between = "" if None in limits else f" ({limits[0]} to {limits[1]})"
    return f"{text}{between}{unit}"


def _is_wide(effect: float) -> bool:
    return abs(effect) >= 0.1


def _n(f: Finding) -> str:
    plural = f.counted if f.n == 1 else f"{f.counted}s".replace("classs", "classes")
    return f"{f.n} {plural}" if f.n else "–"


def _p(value: object) -> str:
    if not isinstance(value, float) or math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _in_print(f: Finding) -> str:
    from analysis.evidence import FAILS, UNDECIDED

    if f.verdict == UNDECIDED and f.effect is None:
        return "not printed as numbers"
    if f.effect is None:
        return f.verdict
    return f"{f.verdict}: {_main(f) if f.verdict == FAILS else effect_text(f)}"


def _footnotes(found: Sequence[Finding], adjusted: Mapping[str, object]) -> list[Table | str]:
    from analysis.evidence import UNDECIDED

    tested = {name: p for name, p in adjusted.items() if isinstance(p, float) and p == p}
    weak = [f.claim for f in found if f.verdict != UNDECIDED and tested.get(f.claim, 0.0) > _CHANCE]
    if not weak:
        return [_SIGNS]
    return [
        _SIGNS,
        f"Verdicts go by each claim's own interval. With {len(tested)} claims tested at once, "
        f"{', '.join(weak)} could be chance: p after Holm is above {_CHANCE:g}.",
    ]


_CHANCE = 0.05


def _below(
    shown: Sequence[Finding], left: Sequence[Finding], details: bool, measured: bool
) -> list[Table | str]:
    from analysis.evidence import FAILS, UNDECIDED

    lines: list[Table | str] = []
    if details:
        for f in shown:
            lines += ["", f"{f.claim}  {f.verdict}: {f.text}", *(f"  {p}" for p in _parts(f))]
            lines += [f"  to decide it, run: {f.needed}"] if f.needed else []
        return lines
    for f in shown:
        if f.verdict == FAILS and not measured:
            lines.append(f"{f.claim} fails: {_name(f)}{f.main.detail}")
    open_ = [f for f in shown if f.verdict == UNDECIDED and measured]
    if open_:
        lines += ["", "Not decided; to decide, run:"]
        lines += [f"  {f.claim:7}{_short(f.needed or 'more repetitions')}" for f in open_]
    partly = [f.claim for f in shown if f.verdict == UNDECIDED]
    if left or (partly and not measured):
        ids = [f.claim for f in left] + ([] if measured else [f"{name} in part" for name in partly])
        what = "have no runs here" if measured else "rest on values that are only drawn"
        lines += ["", f"{len(ids)} claims {what}: {', '.join(ids)}"]
        lines += ["What each needs: add --details, or --claim ID"] if measured else []
    return lines


def _name(f: Finding) -> str:
    return f"{f.main.name}: " if len(f.parts) > 1 else ""


def _parts(f: Finding) -> list[str]:
    """A line for each part of a claim; of a claim with one part, what there is to know."""
    if len(f.parts) == 1:
        return [f.detail] if f.detail else []
    lines = []
    for part in f.parts:
        numbers = [] if part.effect is None else [effect_text(part), f"n {part.n}"]
        said = [*numbers, *([part.detail] if part.detail else [])]
        lines.append(f"{part.name}: {part.verdict}" + (f" ({'; '.join(said)})" if said else ""))
    return lines


def _short(text: str, most: int = 200) -> str:
    """What to run, cut where it gets long; --details has all of it."""
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(findings)
