"""The report's tables beside the answers: advice, measurements, ambiguities, machines, gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.advice import recommend
from analysis.advice.types import Situation
from analysis.comparisons import curves as tables
from analysis.findings.parts import UNDECIDED
from analysis.leaderboard.labels import number
from analysis.leaderboard.read import NOT_CONVERGED
from analysis.measurements.tables import Measurements
from analysis.measurements.transferability_ranking import rankings
from analysis.papers.ambiguities import AMBIGUITIES
from analysis.report.figures import Numbers
from analysis.report.tables import is_known
from analysis.text_tables import DASH, Table
from bench.core.errors import DataError
from bench.core.text import counted


def advice(n: Numbers) -> tuple[list[Table], list[str]]:
    """Advice for the sizes that were tried, and CHU's table as printed and as derived here."""
    evidence, made, said = n.evidence, [], []
    try:
        for situation in _situations(n):
            lines = recommend.advise(situation, evidence, n.tests)
            rows = tuple(
                (line.topic, line.answer, line.because, line.verdict, number(line.n))
                for line in lines
            )
            made.append(
                Table(
                    f"With {number(situation.images_per_class)} images per class",
                    ("topic", "advice", "because", "basis", "comparisons"),
                    rows,
                    (4,),
                )
            )
        made.append(_derived(recommend.derived(evidence, n.tests)))
    except DataError as error:
        said.append(f"No advice: {error.message}.")
    return made, said


def _situations(n: Numbers) -> list[Situation]:
    board = n.evidence.board
    runs = board[(board["role"] != "source") & (board["status"] == "done")]
    runs = runs[runs["target_classes"].notna() & runs["n_per_class"].notna()]
    if runs.empty:
        return []
    target = runs["target"].value_counts().index[0]
    of = runs[runs["target"] == target]
    sizes = sorted({float(v) for v in of["n_per_class"]})
    classes, model = int(of["target_classes"].iloc[0]), str(of["model"].mode().iloc[0])
    cosine = _nearest_cosine(n.evidence.distances, target)
    picked = dict.fromkeys([sizes[0], sizes[-1]])
    return [Situation(size, classes, cosine=cosine, model=model) for size in picked]


def _nearest_cosine(distances: pd.DataFrame | None, target: Any) -> float | None:
    if distances is None or distances.empty or "cosine" not in distances.columns:
        return None
    known = distances[distances["cosine"].notna()]
    if "target" in known.columns:
        known = known[known["target"] == target]
    if known.empty or "source" not in known.columns:
        return None
    return float(known.groupby("source")["cosine"].mean().min())


def _derived(table: pd.DataFrame) -> Table:
    rows = []
    for row in table.to_dict("records"):
        ends = (
            f"{row['low']:.2f} to {row['high']:.2f}"
            if is_known(row["low"]) and is_known(row["high"])
            else DASH
        )
        rows.append(
            (
                f"{row['distance']} distance, {row['images_per_class']} data"
                + (f", {row['source']}" if row["source"] else ""),
                str(row["advice"]) if is_known(row["advice"]) else "no evidence",
                f"{row['ratio']:.2f}" if is_known(row["ratio"]) else DASH,
                ends,
                counted(int(row["pairs"]), "pair"),
                str(row["printed"]) if is_known(row["printed"]) else DASH,
                counted(int(row["splits"]), "split"),
            )
        )
    return Table(
        "Freeze or tune, by distance and images per class (CHU Table 3)",
        (
            "cell",
            "from these runs",
            "tuned / frozen",
            "95 % interval",
            "runs",
            "as printed",
            "splits of the paper",
        ),
        tuple(rows),
        (2, 3),
        "Bands: distance low below 0.2, medium below 0.4, large from 0.4; data low to 20 images "
        "per class, medium to 99, large from 100. A cell without a split has no experiment of the "
        "paper behind it.",
    )


_MOST_ROWS = 60


def measured(board: pd.DataFrame, found: Measurements | None) -> tuple[list[Table], list[str]]:
    """Tables of what was measured on features, and sentences about what was not.

    Args:
        found: None where the report is of a leaderboard alone.
    """
    if found is None:
        return [], [
            "This report was made from a leaderboard alone; distances, filters and scores are read "
            "from the records: run bench report with the grid file where the results folder is."
        ]
    said = [f"Not measured: {sentence.rstrip('.')}." for sentence in found.missing]
    made = []
    for title, table, columns in (
        ("Distances", found.distances, "source class_draw distance value low high n layer notes"),
        (
            "Filter sensitivity",
            found.sensitivities,
            "a b layer percentage ties_percentage n_classes",
        ),
        ("Transferability", found.transferability, "source class_draw score value n static notes"),
        ("Concepts never trained", found.concepts, "source layer nmi ari purity ari_p_value n"),
    ):
        if table is not None and len(table):
            made.append(_plain_table(title, table, columns.split()))
    ranked = rankings(board, found.transferability)
    if ranked is not None:
        made.append(_rankings_table(ranked))
    if not made and not said:
        said.append("Nothing was measured: the grid has no measure: section.")
    return made, said


def _rankings_table(table: pd.DataFrame) -> Table:
    """Of `analysis.measurements.transferability_ranking.rankings`."""
    rows = tuple(
        (
            str(row["score"]),
            "no" if row["static"] else "yes",
            counted(row["targets"], "target"),
            row["candidates"],
            f"{row['regret_points']:.1f}",
            *(f"{row[m]:+.2f}" if is_known(row[m]) else DASH for m in ("weighted_tau", "spearman")),
        )
        for row in table.to_dict("records")
    )
    ranked = int(table["ranked_targets"].max())
    return Table(
        "Does a score without training find the best source?",
        (
            "score",
            "looks at target images",
            "n",
            "sources of a target",
            "points lost by its choice",
            "weighted tau",
            "Spearman",
        ),
        rows,
        (3, 4, 5, 6),
        "Points lost: accuracy of the best source less that of the source with the highest score, "
        "each at its best condition by validation among those that all sources were tried with. "
        f"Rank correlations need three sources: {counted(ranked, 'target has', 'targets have')} "
        "them. These are means without an interval or a test: with few targets they describe these "
        "targets and do not say which score is better. Compare a score with the rows that look at "
        "no target image.",
    )


def _plain_table(title: str, table: pd.DataFrame, wanted: Sequence[str]) -> Table:
    columns = [name for name in wanted if name in table.columns]
    shown = table[columns].head(_MOST_ROWS)
    rows = tuple(tuple(_cell(row[name]) for name in columns) for row in shown.to_dict("records"))
    kinds = [pd.api.types.is_numeric_dtype(table[name]) for name in columns]
    more = len(table) - len(shown)
    return Table(
        title,
        tuple(name.replace("_", " ") for name in columns),
        rows,
        tuple(i for i, numeric in enumerate(kinds) if numeric and i),
        f"{more} more rows are not shown." if more > 0 else "",
    )


def _cell(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "; ".join(map(str, value)) or DASH
    return number(value) if is_known(value) and value != "" else DASH


def ambiguities() -> Table:
    """The register of what the papers leave open."""
    rows = tuple((a.id, a.question, a.option, a.default) for a in AMBIGUITIES)
    return Table(
        "Ambiguities resolved",
        ("id", "what is open", "where to choose", "default"),
        rows,
        note="Options of methods and training stand in every record, and those of methods in the "
        "leaderboard's column method_options.",
    )


def machines(board: pd.DataFrame) -> tuple[list[Table], list[str]]:
    """What ran where, with which versions, in which time and memory."""
    try:
        known = tables.machines(board)
    except DataError as error:
        return [], [f"Not known: {error.message}."]
    rows = tuple(
        (
            str(row["device"]),
            number(row["threads"]),
            str(row["versions"]),
            number(row["runs"]),
            f"{row['hours']:.2f}",
            number(round(row["peak_memory_mib"])) if is_known(row["peak_memory_mib"]) else DASH,
        )
        for row in known.to_dict("records")
    )
    if not rows:
        return [], ["Not known: no run has a time."]
    table = Table(
        "Hardware, versions and cost",
        ("device", "threads", "versions", "runs", "hours of training", "peak memory, MiB"),
        rows,
        (1, 3, 4, 5),
        "Hours are the sum over runs, sources included; several run at once.",
    )
    return [table], []


def gaps(n: Numbers) -> tuple[list[Table], list[str]]:
    """Runs without a result, and what would decide each undecided claim."""
    board = n.evidence.board
    bad = tables.unfinished(board)
    made = []
    if len(bad):
        rows = tuple(
            (str(r["status"]), number(r["runs"]), str(r["experiments"]), str(r["reason"]) or DASH)
            for r in bad.to_dict("records")
        )
        head = ("status", "runs", "experiments", "reason")
        made.append(
            Table(
                "Runs without a result, and runs that diverged or learned nothing", head, rows, (1,)
            )
        )
        away = int(bad.loc[bad["status"] == "diverged", "runs"].sum())
        stuck = int(bad.loc[bad["status"] == NOT_CONVERGED, "runs"].sum())
        lost = int(bad["runs"].sum()) - away - stuck
        said = [f"{lost} of the leaderboard's {len(board):,} runs have no result."]
        said += [f"{counted(away, 'run')} diverged; diverged runs count at chance."] if away else []
        said += [f"{counted(stuck, 'run')} never left chance in training."] if stuck else []
    else:
        said = [f"Each of the leaderboard's {len(board):,} runs has a result."]
    undecided = n.findings[n.findings["verdict"] == UNDECIDED]
    if len(undecided):
        needs = tuple(
            (str(r["claim"]), str(r["needed"]) or "more repetitions", str(r["detail"]) or DASH)
            for r in undecided.to_dict("records")
        )
        made.append(
            Table(
                "Claims not decided, and what would decide them",
                ("claim", "run", "so far"),
                needs,
            )
        )
    return made, said
