"""`bench recommend`: how to fine-tune a target from a source, each line with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import DataRoot, Results, as_path, console, doing, grouped
from bench.commands.findings import evidence_of
from bench.core.errors import BenchError, DataError
from bench.core.files import write_csv

if TYPE_CHECKING:
    from rich.table import Table

    from analysis.advice.tune_or_freeze import Regret
    from analysis.advice.types import AdviceLine, Situation
    from analysis.comparisons.evidence import Evidence


def _as_fraction(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise BenchError(f"--accuracy {value:g} is not a fraction", hint="write 0.8 for 80 %")
    return value


@dataclass(frozen=True)
class SourceDetails:
    """What is to be known of some sources beside their name."""

    network: Annotated[
        str | None, typer.Option(help="for a selection as source: RUN, timm:NAME or scratch:NAME")
    ] = None
    source_images: Annotated[
        str | None,
        typer.Option(help="for timm: or package: the selection it learned from"),
    ] = None
    image_size: Annotated[
        int | None, typer.Option(min=8, help="side of the images; the source's if left out")
    ] = None


@dataclass(frozen=True)
class Asked:
    """What the advice is for, and how many images it is measured on."""

    images_per_class: Annotated[
        int | None, typer.Option(min=1, help="advice for so many instead of those counted")
    ] = None
    accuracy: Annotated[
        float | None,
        typer.Option(help="a fraction: how many labels would it take?", callback=_as_fraction),
    ] = None
    images: Annotated[
        int, typer.Option(min=4, help="at most so many of each side for distances")
    ] = 1000


@dataclass(frozen=True)
class OwnRuns:
    """Where the user's runs are read from."""

    grid: Annotated[
        list[Path] | None,
        typer.Option(help="take this grid's runs and distances as evidence; may be repeated"),
    ] = None
    results: Results = Path("results")
    data_root: DataRoot = None


@grouped
def recommend(
    target: Annotated[
        str, typer.Option(help="a folder with a folder per class, or a selection as YAML")
    ],
    source: Annotated[
        str,
        typer.Option(help="what is copied: a run, a selection, timm:MODEL or package:NAME"),
    ],
    *,
    details: SourceDetails,
    asked: Asked,
    regret: Annotated[
        bool, typer.Option("--regret", help="print the regret of the advice, or why there is none")
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(help="write the advice to this file", parser=as_path),
    ] = None,
    runs: OwnRuns,
) -> None:
    """Advise how to fine-tune a target from a source, with the experiments behind each line."""
    from analysis.advice.recommend import advise
    from analysis.advice.target import describe_target
    from bench.commands import _selections as given

    with doing(f"reading the runs below {runs.results}"):
        evidence, heading = gather(runs.grid or (), runs.results, runs.data_root)
    places, device = given.places_and_device(runs.results, runs.data_root)
    origin = given.find_source(source, details.network, details.source_images, runs.results)
    size = details.image_size or origin.image_size
    data = given.read_selection("target", target, places, size)
    model = None
    if origin.data is not None:
        model, _ = given.named_network(origin.network, data.image_size, runs.results)
    with doing("measuring how far the target is from the source"):
        situation, lines = describe_target(
            data,
            origin,
            model,
            places,
            device,
            asked.images,
            asked.images_per_class,
            asked.accuracy,
        )
    with doing("comparing what the experiments say"):
        advice = advise(situation, evidence)
    print_advice([*lines, *heading], advice, situation, evidence, regret)
    if csv is not None:
        write_csv(csv, [_csv_row(line) for line in advice])
        console().print(f"the advice: {csv}", highlight=False)


def gather(
    grids: Sequence[Path], results: Path, data_root: Path | None
) -> tuple[Evidence | None, list[str]]:
    """The user's runs: of the grids named, or of all leaderboards in the results folder.

    Returns:
        None where there are none, and lines on what is there.

    Raises:
        BenchError: a grid that is wrong or has no row.
    """
    if not grids:
        has_any = results.is_dir() and any(results.glob("*.csv"))
        try:
            return evidence_of(results, results, data_root) if has_any else (None, [_NOTHING])
        except DataError as problem:
            if "no leaderboard" not in problem.message:
                raise
            return None, [_NOTHING]
    import pandas as pd

    from analysis.comparisons.evidence import Evidence
    from analysis.comparisons.ratios import DISTANCE_KEYS
    from analysis.leaderboard.folder import join

    found = {path.stem: evidence_of(path, results, data_root) for path in grids}
    heading = [line for _, lines in found.values() for line in lines]
    tables = [one.distances for one, _ in found.values() if one.distances is not None]
    distances = None
    if tables:
        distances = pd.concat(tables, ignore_index=True)
        keys = [name for name in DISTANCE_KEYS if name in distances]
        distances = distances.drop_duplicates(keys)
    board = join({name: one.board for name, (one, _) in found.items()})
    return Evidence(board, distances=distances), heading


_NOTHING = (
    "there are no runs here, so only the papers' numbers are used: run a grid, or give "
    "--results FOLDER"
)


# --- what is printed ------------------------------------------------------------------------------


def print_advice(
    heading: Sequence[str],
    advice: Sequence[AdviceLine],
    situation: Situation,
    evidence: Evidence | None,
    insist: bool,
) -> None:
    """Prints the heading, the advice, CHU's table and the regret.

    Args:
        heading: sentences about target, source and runs.
        advice: all lines.
        situation: of the target.
        evidence: the user's runs, if there are any.
        insist: whether to print why there is no regret.
    """
    out = console()
    for text in heading:
        out.print(text, highlight=False)
    curves = [line for line in advice if line.topic in ("more labels", "crossing")]
    others = [line for line in advice if line not in curves]
    for parts in ([advice_table(others)], curve_tables(curves)):
        out.print()
        for part in parts:
            out.print(part, highlight=False)
    for table in band_tables(situation, evidence):
        out.print()
        out.print(table)
    out.print()
    for part in _regret(evidence, insist):
        out.print(part, highlight=False)


def advice_table(lines: Sequence[AdviceLine]) -> Table:
    """A row per line of advice: what to do, how sure, why, and which experiments support it."""
    from rich.table import Table

    table = Table("about", "advice", "evidence", box=None, pad_edge=False)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("why")
    table.add_column("experiments")
    for line in lines:
        behind = _behind(line)
        n = str(line.n) if line.n else "–"
        cells = (line.topic, line.answer, line.verdict, n, line.because, behind)
        table.add_row(*cells)
    return table


def curve_tables(lines: Sequence[AdviceLine], most: int = 5) -> list[Table | str]:
    """The learning curves of the user's runs, of whatever data, below a heading of their own.

    Args:
        most: rows shown; of more their number is shown.
    """
    measured = [line for line in lines if line.supporting]
    if not measured:
        return [advice_table(lines)] if lines else []
    heading = "learning curves of your runs, which may be of other data than this target:"
    left = len(measured) - most
    rest = [f"and {left} more: --csv FILE writes all"] if left > 0 else []
    return [heading, advice_table(measured[:most]), *rest]


def _behind(line: AdviceLine, most: int = 3) -> str:
    shown = [f"{name} ({n})" for name, n in line.supporting[:most]]
    rest = line.supporting[most:]
    if rest:
        shown.append(f"{len(rest)} more ({sum(n for _, n in rest)})")
    return ", ".join(shown) or "none"


def band_tables(situation: Situation, evidence: Evidence | None) -> list[Table]:
    """CHU's Table 3 as printed and from the user's runs; an arrow marks the target's cell."""
    from analysis.advice.recommend import derived, printed
    from analysis.papers.chu2016_bands import data_band, distance_band

    here = (
        None if situation.cosine is None else distance_band(situation.cosine),
        data_band(situation.images_per_class),
    )
    cells = {
        (row["distance"], row["images_per_class"]): f"{row['advice']} ({row['splits']})"
        for row in printed().to_dict("records")
    }
    title = "CHU Table 3 as printed (splits of the paper behind each cell)"
    tables = [_bands(title, cells, ("low", "medium", "large"), here)]
    if evidence is None:
        return tables
    rows = derived(evidence).to_dict("records")
    own: dict[Any, str] = {}
    for row in rows:
        cell = row["distance"], row["images_per_class"]
        own[cell] = "\n".join(text for text in (own.get(cell, ""), _own_cell(row)) if text)
    known = [
        d for d in ("low", "medium", "large", "between", "unknown") if any(d == r for r, _ in own)
    ]
    title = "the same from your runs: tune / freeze, 95 % interval (pairs)"
    where = here if here[0] is not None else ("unknown", here[1])
    table = _bands(title, own, known, where)
    if evidence.distances is None and "unknown" in known:
        table.caption = (
            "not measured: leaderboards hold no distances; --grid GRID brings in those that its "
            "measure: section asks for"
        )
        table.caption_justify = "left"
    return [*tables, table]


def _own_cell(row: dict[Any, Any]) -> str:
    if not row["pairs"]:
        return "no evidence"
    low, high = row["low"], row["high"]
    ends = "no interval" if low is None or low != low else f"{low:.2f} to {high:.2f}"
    return f"{row['source']}: {row['advice']}, {row['ratio']:.2f}, {ends} ({row['pairs']})"


def _bands(
    title: str, cells: dict[Any, str], distances: Sequence[str], here: tuple[str | None, str]
) -> Table:
    from rich.table import Table

    names = {
        "low": "low, below 0.2",
        "medium": "medium, below 0.4",
        "large": "large, 0.4 and more",
        "between": "reaches over a band's edge",
        "unknown": "not measured",
    }
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("cosine distance", no_wrap=True)
    for heading in ("1 to 20", "21 to 99", "100 and more"):
        table.add_column(f"{heading} images per class")
    for distance in distances:
        row = [names[distance]]
        for data in ("low", "medium", "large"):
            mark = "→ " if (distance, data) == here else ""
            row.append(mark + cells.get((distance, data), "no evidence"))
        table.add_row(*row)
    return table


def _regret(evidence: Evidence | None, insist: bool) -> list[Table | str]:
    from analysis.advice.tune_or_freeze import regret

    if evidence is None:
        return ["the regret of this advice is not known: there are no runs"] if insist else []
    try:
        return regret_table(regret(evidence))
    except DataError as problem:
        reason = f"the regret of this advice is not known: {problem.message}; run more targets"
        return [reason] if insist else []


def regret_table(found: Regret) -> list[Table | str]:
    """Points that each way of deciding loses, and what was left out in turn."""
    from rich.table import Table

    title = (
        f"what following it would have cost on your {found.groups} {found.held_out}s, each decided "
        "by the others"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("decision")
    for heading in ("points lost", "n", "better arm taken", "trainings"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.table.to_dict("records"):
        plural = row["unit"] if row["n"] == 1 else f"{row['unit']}s"
        table.add_row(
            row["strategy"],
            f"{row['regret_points']:.2f}",
            f"{row['n']} {plural}",
            f"{100 * row['better_arm']:.0f} %",
            f"{row['trainings']:.2f}",
        )
    lines: list[Table | str] = [table]
    lines.append(
        "the better arm is chosen on half of the seeds and scored on the others, both ways round: "
        "where arms do not differ, every decision loses 0 on average; no interval is given, since "
        "many single values are exactly 0 and one called 95 % held the truth in 90 %"
    )
    if found.without_halves:
        lines.append(f"{found.without_halves} pairs with one seed are left out")
    if found.without_validation:
        lines.append(f"{found.without_validation} pairs without validation accuracy are left out")
    return lines


def _csv_row(line: AdviceLine) -> dict[str, object]:
    names = ("topic", "answer", "verdict", "n", "because")
    supporting = "; ".join(f"{name} ({n})" for name, n in line.supporting)
    return {name: getattr(line, name) for name in names} | {"supporting": supporting}


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(recommend)
