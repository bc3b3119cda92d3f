"""`bench findings`: which of the papers' claims hold on a user's runs, and what would decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import (
    DataRoot,
    GridChoice,
    Results,
    Set,
    VerdictRules,
    as_path,
    console,
    doing,
    grouped,
)
from bench.core.errors import BenchError
from bench.core.files import write_atomic
from bench.core.paths import grid_file
from bench.core.text import counted, p_value

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from analysis.comparisons.evidence import Evidence
    from analysis.findings.parts import Finding, Part


_Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="[GRID|FOLDER|CSV]",
        help="a grid, a results folder or a leaderboard; the results folder if left out",
        parser=as_path,
    ),
]


@dataclass(frozen=True)
class Shown:
    """Which claims are shown, and in which form."""

    published: Annotated[
        bool, typer.Option("--published", help="the papers' own numbers instead of runs")
    ] = False
    claim: Annotated[
        list[str] | None, typer.Option(help="a claim such as LI-C4; may be repeated")
    ] = None
    csv: Annotated[
        Path | None,
        typer.Option(help="write all numbers to this CSV file", parser=as_path),
    ] = None
    details: Annotated[
        bool, typer.Option("--details", help="every claim, its parts and what each would need")
    ] = False
    tables: Annotated[
        bool,
        typer.Option(
            "--tables", help="of a paper's grid its tables, published beside measured, not claims"
        ),
    ] = False


@grouped
def findings(
    source: _Source = None,
    *,
    shown: Shown,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    set_: Set = None,
    rules: VerdictRules,
    with_not_converged: Annotated[
        bool,
        typer.Option(
            "--with-not-converged",
            help="count runs whose training never left chance, and those that start from them",
        ),
    ] = False,
) -> None:
    """Show which of the papers' claims hold here, with interval and n, and what is not decided."""
    if shown.published and source is not None:
        raise BenchError(
            "--published looks at the papers' numbers alone",
            hint="leave it out: the papers' verdicts stand beside those on your runs in any case",
        )
    if shown.tables:
        from bench.commands.paper_tables import check_grid, print_tables

        name = check_grid(source)
        print_tables(
            name, *evidence_of(source or results, results, data_root, set_ or ()), shown.csv
        )
        return
    from analysis.findings import evaluate

    claims = [evaluate.find_claim(name) for name in shown.claim or ()] or evaluate.CLAIMS
    claims = [c for c in evaluate.CLAIMS if c in claims]
    in_print = evaluate.on_published(claims)
    out = console()
    measured: list[Finding] = []
    needed: list[str] = []
    if shown.published:
        out.print("the papers' claims on the papers' own numbers", highlight=False)
    else:
        with doing(f"reading the runs of {source or results}"):
            evidence, heading = evidence_of(
                source or results, results, data_root, set_ or (), with_not_converged
            )
        for line in heading:
            out.print(line, highlight=False)
        evidence = rules.applied_to(evidence)
        with doing("testing the claims on these runs"):
            examined = evaluate.examine(evidence)
        measured = [f for f in examined.findings if f.claim in {c.id for c in claims}]
        family = len({t.hypothesis for t in examined.tests if t.p is not None})
        needed = [f"{evidence.rules.sentence()} These runs allow {family}."]
    for part in findings_text(measured, in_print, shown.details or bool(shown.claim), needed):
        out.print(part, highlight=False)
    if shown.csv is not None:
        write_atomic(shown.csv, evaluate.table(measured, in_print).to_csv(index=False))
        out.print(f"all numbers: {shown.csv}", highlight=False)


def evidence_of(
    source: Path,
    results: Path,
    data_root: Path | None,
    overrides: Sequence[str] = (),
    with_not_converged: bool = False,
) -> tuple[Evidence, list[str]]:
    """Runs and measurements of a grid file, a results folder or a leaderboard, and what they are.

    Returns:
        The evidence, and lines on how much there is and what is missing.

    Raises:
        BenchError: the source does not exist, is no leaderboard, or has no row.
    """
    from analysis.findings.designed import as_designed
    from analysis.leaderboard import read as boards
    from analysis.leaderboard.folder import read_folder
    from analysis.measurements import beside
    from analysis.measurements import tables as measuring

    remarks = []
    if source.suffix in (".yaml", ".yml"):
        from analysis.leaderboard.of_grid import grid_board
        from bench.commands._summary import damage_lines, open_or_written

        chosen = GridChoice(source, results, data_root, set_=list(overrides))
        session, written = open_or_written(chosen)
        if written is None:
            board = grid_board(session.plan, session.store, str(source))
            board = boards.with_not_converged(board) if with_not_converged else board
            found = measuring.measurements(session.plan, session.store)
            heading = [_counts(board, str(source)), *_not_measured(found.missing)]
            heading += beside.save(found, session.leaderboard())
            heading += [str(line) for line in damage_lines(session)]
            judged = as_designed(measuring.evidence(board, found), session.leaderboard())
            return judged, heading
        source, overrides, remarks = session.leaderboard(), (), [str(written)]
    if overrides:
        raise BenchError("--set belongs to a grid", hint="give a grid file, or leave --set out")
    if source.is_dir():
        board = read_folder(source)
        grids = sorted(set(board["grid"]))
        names = ", ".join(grids)
        said = f"{source}: {len(grids)} leaderboards ({names})" if grids[1:] else f"{source}"
    else:
        board, said = boards.read(source), str(source)
    board = boards.with_not_converged(board) if with_not_converged else board
    notes = [f"note: {note}" for note in board.attrs.get("notes", [])]
    measured = None if source.is_dir() else beside.load(source)
    judged = as_designed(measuring.evidence(board, measured), source)
    if judged.designed:
        claims = ", ".join(sorted(judged.designed))
        place = source.with_name("designed.csv")
        notes.append(
            f"note: {claims}: judged by the parts that {place} names, where they are there"
        )
    return judged, [_counts(board, said), *notes, *remarks]


def _not_measured(sentences: Sequence[str], most: int = 2) -> list[str]:
    """The first sentences, and how many more there are."""
    lines = [f"not measured: {sentence}" for sentence in sentences[:most]]
    rest = len(sentences) - most
    return [*lines, f"and {rest} measurements more"] if rest > 0 else lines


def _counts(board: pd.DataFrame, place: str) -> str:
    from analysis.leaderboard.read import NOT_CONVERGED, SEEDS, finished, key_of
    from analysis.report.tables import images_text

    done = board[finished(board)]
    tuned = done[done["role"] != "source"]
    stuck = int((board["status"] == NOT_CONVERGED).sum())
    if not len(tuned):
        statuses = board.loc[board["role"] != "source", "status"]
        text = f"{place}: none of {counted(len(statuses), 'run')} on a target"
        at_chance = int((statuses == NOT_CONVERGED).sum())
        if not at_chance:
            grid = place if place.endswith((".yaml", ".yml")) else grid_file(Path(place).stem)
            return f"{text} has a result; run: bench grid {grid}"
        rest = len(statuses) - at_chance
        return (
            f"{text} can be compared: {at_chance} never left chance in training, or start from one "
            f"that did not{f'; {rest} without a result' if rest else ''}. Train for more epochs or "
            "at another learning rate; --with-not-converged counts them"
        )
    tasks = tuned["task"].nunique()
    text = f"{place}: {counted(len(tuned), 'finished run')}, {counted(tasks, 'task')}"
    text += " (targets and class draws)" if tasks > 1 else ""
    if away := int((done["status"] == "diverged").sum()):
        text += (
            f"; {counted(away, 'run')} diverged and {'counts' if away == 1 else 'count'} at chance"
        )
    if stuck:
        text += (
            f"; {counted(stuck, 'run')} never left chance in training, or start from one that did "
            "not, and are left out (--with-not-converged counts them)"
        )
    if without := len(board) - len(done) - stuck:
        text += f"; {counted(without, 'run')} without a result"
    if key_of(tuned, ["task", *SEEDS]).nunique() == 1:
        text += "; one seed only, so no interval and no verdict: add seed: [0, 1, 2] to the grid"
    return f"{text}\n{images_text(tuned)}"


# --- what is printed ---


def findings_text(
    measured: Sequence[Finding],
    published: Sequence[Finding],
    details: bool = False,
    rules: Sequence[str] = (),
) -> list[Table | str]:
    """The table and the lines below it.

    Args:
        measured: on a user's runs; empty shows the published numbers alone.
        published: the same claims on the papers' numbers.
        details: below the table every claim with its parts, also those without a run.
        rules: what a verdict needs, below the table.
    """
    from analysis.findings.parts import UNDECIDED

    found = list(measured) or list(published)
    ranked = sorted(found, key=lambda f: (f.verdict == UNDECIDED, f.main.effect is None))
    shown = [f for f in ranked if any(p.effect is not None for p in f.parts)]
    left = [f for f in ranked if f not in shown]
    parts: list[Table | str] = []
    if shown:
        parts.append(_table(shown, {f.claim: f for f in published}, bool(measured)))
        parts += ["", *([_SIGNS, *rules] if measured else [_AS_PRINTED])]
    return parts + (_details(ranked) if details else _below(shown, left, bool(measured)))


_SIGNS = (
    "An effect is positive in the direction that the claim predicts; points are percentage points "
    "of accuracy, × a ratio of accuracies."
)
_AS_PRINTED = (
    f"{_SIGNS}\nPublished numbers are single values, so an ordering is read as printed; intervals "
    "are over the rows of a table and decide nothing."
)


def _table(shown: Sequence[Finding], printed: Mapping[str, Finding], measured: bool) -> Table:
    from rich.table import Table

    view = Table("claim", "what it says", "verdict", box=None, pad_edge=False)
    if measured:
        view.add_column("on these tasks")
    view.add_column("effect, 95 % interval")
    view.add_column("n", no_wrap=True)
    if measured:
        view.add_column("p (Holm)", justify="right", no_wrap=True)
        view.add_column("in the paper")
    for f in shown:
        here = [f.here if f.main.counted != "seed" else "see verdict"] if measured else []
        cells = [f.claim, f.text, _verdict(f), *here, _main(f), _n(f.main)]
        if measured:
            cells += [p_value(f.main.p_holm), _in_print(printed[f.claim])]
        view.add_row(*cells)
    return view


def _verdict(f: Finding) -> str:
    """The verdict, and of a claim with several parts how many bear it."""
    from analysis.findings.parts import UNDECIDED

    scope = f" {f.main.scope}" if f.main.scope and f.verdict != UNDECIDED else ""
    if len(f.parts) == 1:
        return f"{f.verdict}{scope}"
    same = sum(part.verdict == f.verdict for part in f.parts)
    on = "on " if f.verdict == UNDECIDED else ""
    return f"{f.verdict}{scope} ({on}{same} of {len(f.parts)} parts)"


def _main(f: Finding) -> str:
    """The effect of the part that decides; its name where there are several."""
    if f.main.effect is None:
        return "–"
    return f"{_name(f)}{effect_text(f.main)}"


def effect_text(part: Part) -> str:
    """Effect with interval and unit; a logarithm of ratios as the ratio.

    >>> from analysis.findings.evaluate import find_claim, on_published
    >>> effect_text(on_published([find_claim("SFT-C1")])[0].main)
    '+9.9 (+5.9 to +14.0) points'
    """
    from analysis.statistics.decisions import LOG_RATIO

    if part.effect is None:
        return "–"
    ends = [part.effect, part.low, part.high]
    if part.unit == LOG_RATIO:
        value, *limits = [None if v is None else f"{math.exp(v / 100):.2f}" for v in ends]
        text, unit = f"× {value}", ""
    else:
        wide = abs(part.effect) >= 0.1
        form = ".2f" if part.unit == "Spearman" else "+.1f" if wide else "+.2f"
        value, *limits = [None if v is None else f"{v:{form}}" for v in ends]
        text, unit = str(value), f" {part.unit}"
    between = "" if None in limits else f" ({limits[0]} to {limits[1]})"
    return f"{text}{between}{unit}"


def _n(part: Part) -> str:
    text = counted(part.n, part.counted) if part.n else "–"
    return f"{text}, {part.look}" if part.look else text


def _in_print(f: Finding) -> str:
    from analysis.findings.parts import FAILS, UNDECIDED

    if f.verdict == UNDECIDED and f.main.effect is None:
        return "not printed as numbers"
    if f.main.effect is None:
        return f.verdict
    return f"{f.verdict}: {_main(f) if f.verdict == FAILS else effect_text(f.main)}"


def _details(found: Sequence[Finding]) -> list[str]:
    lines = []
    for f in found:
        lines += ["", f"{f.claim}  {f.verdict}: {f.text}", *(f"  {p}" for p in _parts(f))]
        lines += [f"  to decide it, run: {f.needed}"] if f.needed else []
    return lines


def _below(shown: Sequence[Finding], left: Sequence[Finding], measured: bool) -> list[str]:
    from analysis.findings.parts import FAILS, UNDECIDED

    lines = []
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
        lines[-1] += "; to see what each needs, add --details, or --claim ID" if measured else ""
    return lines


def _name(f: Finding) -> str:
    return f"{f.main.name}: " if len(f.parts) > 1 else ""


def _parts(f: Finding) -> list[str]:
    """A line for each part of a claim; of a claim with one part, its details."""
    from analysis.findings.parts import UNDECIDED

    if len(f.parts) == 1:
        return [f.detail] if f.detail else []
    lines = []
    for part in f.parts:
        numbers = [] if part.effect is None else [effect_text(part), f"n {part.n}"]
        numbers += [] if part.p_holm is None else [f"p (Holm) {p_value(part.p_holm)}"]
        said = [*numbers, *([part.detail] if part.detail else [])]
        where = "" if part.here in (UNDECIDED, part.verdict) else f", on these tasks {part.here}"
        verdict = f"{part.verdict}{where}"
        lines.append(f"{part.name}: {verdict}" + (f" ({'; '.join(said)})" if said else ""))
    return lines


def _short(text: str, most: int = 200) -> str:
    """What to run, cut where it gets long; --details has all of it."""
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(findings)
