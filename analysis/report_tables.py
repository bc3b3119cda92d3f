"""The report's tables: what numbers become when they are read. Every cell is a text.

A number that does not exist is a dash, and the row's note or the table's says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import tables
from analysis.ambiguities import AMBIGUITIES
from analysis.contrasts import QUESTIONS
from analysis.evidence import UNDECIDED
from analysis.gallery import Numbers
from analysis.labels import count, number
from analysis.measured import Measurements
from bench.errors import DataError

__all__ = [
    "FINDINGS_TEXT",
    "Table",
    "about",
    "advice",
    "ambiguities",
    "answers",
    "findings",
    "gaps",
    "how_to_read",
    "machines",
    "measured",
]

DASH = "–"


@dataclass(frozen=True)
class Table:
    """A table to be read.

    Attributes:
        numbers: places of columns that are aligned to the right.
        rows: texts, as many as there are heads; the first names the row.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()
    note: str = ""

    def decided(self, row: Sequence[str]) -> bool:
        """Whether the row's verdict is one."""
        if "verdict" not in self.head:
            return False
        return row[self.head.index("verdict")] in ("higher", "lower", "holds", "fails")


def _known(value: Any) -> bool:
    return value is not None and value == value


def _signed(value: Any, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if _known(value) else DASH


def _ends(low: Any, high: Any, digits: int = 1) -> str:
    if not _known(low) or not _known(high):
        return DASH
    return f"{_signed(low, digits)} to {_signed(high, digits)}"


def _p(value: Any) -> str:
    if not _known(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}" if _known(value) else DASH


def about(board: pd.DataFrame) -> str:
    """One sentence: how many runs, on what."""
    runs = board[board["role"] != "source"]
    parts = [
        f"{name}: {', '.join(sorted(set(runs[column].dropna().map(str))))}"
        for name, column in (("data", "dataset"), ("target", "target"), ("network", "model"))
    ]
    repeated = runs.drop_duplicates(["task", "seed_draw", "seed_init", "seed_order"])
    draws = runs.drop_duplicates(["dataset", "target", "class_draw"])
    return (
        f"{count(len(runs), 'run')} and {count(len(board) - len(runs), 'source network')} behind "
        f"them; {'; '.join(parts)}; {count(len(draws), 'target and class draw')}, "
        f"{count(len(repeated), 'repetition')}."
    )


# --- answers -------------------------------------------------------------------------------------


def how_to_read(n: Numbers) -> tuple[str, ...]:
    """What the columns of the answers mean."""
    best = len(n.gains) and (n.gains["lr"] == "best").any()
    rate = (
        " Each arm is at its best learning rate on validation images, among those both tried."
        if best
        else " Learning rates are equal in a pair."
    )
    return (
        "Gains are in percentage points of test accuracy, the first arm less the second, paired by "
        f"data, classes, draw and seeds.{rate} A verdict is given only where the 95 % interval "
        "excludes zero and there are three pairs or more; p is adjusted after Holm within the "
        "question, for the usual setting and for others apart.",
    )


def answers(n: Numbers) -> list[Table]:
    """A table per question, the crossings, and how many more labels would be needed."""
    found = []
    for question, title in QUESTIONS.items():
        rows = n.gains[n.gains["question"] == question]
        if len(rows):
            rows = rows.sort_values("main", ascending=False, kind="stable")
            found.append(_gains_table(rows, title))
    if not found:
        found.append(
            Table(
                "No question can be answered",
                ("what is missing",),
                (
                    (
                        "no two finished runs differ in one thing only: add a second pattern, "
                        "source or method to the grid",
                    ),
                ),
            )
        )
    if len(n.crossings):
        found.append(_crossing_table(n.crossings))
    if len(n.laws):
        found.append(_law_table(n.laws))
    return found


def _gains_table(rows: pd.DataFrame, title: str) -> Table:
    method = rows["question"].iloc[0] == "method"
    head = ("setting", "images per class", "accuracy, %", "gain", "95 % interval")
    lines = []
    for row in rows.to_dict("records"):
        label = f"{row['label']} − tuned ({row['about']})" if method else str(row["label"])
        lines.append(
            (
                label,
                str(row["setting"]) or "usual",
                number(row["n_per_class"]) if _known(row["n_per_class"]) else DASH,
                f"{_percent(row['left'])} − {_percent(row['right'])}",
                _signed(row["gain_points"]),
                _ends(row["low"], row["high"]),
                f"{count(int(row['n']), row['unit'])}, {count(int(row['pairs']), 'pair')}",
                _p(row["p_holm"]),
                str(row["verdict"]),
            )
        )
    left_out = rows[["label", "about", "unpaired", "unfinished"]].drop_duplicates()
    unpaired, unfinished = int(left_out["unpaired"].sum()), int(left_out["unfinished"].sum())
    notes = [
        f"{count(unpaired, 'run')} without a partner" if unpaired else "",
        f"{count(unfinished, 'run')} without a result" if unfinished else "",
        *sorted({str(note) for note in rows["note"] if note}),
    ]
    note = "; ".join(text for text in notes if text)
    return Table(
        title,
        ("first − second", *head, "n", "p (Holm)", "verdict"),
        tuple(lines),
        (2, 3, 4, 5, 7),
        f"Note: {note}." if note else "",
    )


def _crossing_table(crossings: pd.DataFrame) -> Table:
    lines = []
    for row in crossings.to_dict("records"):
        first, _, second = str(row["label"]).partition(" − ")
        better = {"left": first, "right": second, "neither": "neither"}[row["above"]]
        at = number(row["images"], 2) if _known(row["images"]) else "none"
        ends = (
            f"{number(row['low'], 2)} to {number(row['high'], 2)}" if _known(row["low"]) else DASH
        )
        lines.append(
            (
                str(row["label"]),
                str(row["setting"]) or "usual",
                f"{number(row['smallest'])} to {number(row['largest'])}",
                at,
                ends,
                better,
                count(int(row["n"]), "repetition"),
            )
        )
    return Table(
        "Where the better arm changes, in images per class",
        (
            "first − second",
            "setting",
            "measured",
            "crossing",
            "95 % of resamples",
            "beyond, better",
            "n",
        ),
        tuple(lines),
        (2, 3, 4),
        "The difference is interpolated between the sizes measured; nothing is said beyond them.",
    )


def _law_table(laws: pd.DataFrame) -> Table:
    lines = []
    for row in laws.to_dict("records"):
        ends = [
            number(round(row[name]), 2) if _known(row[name]) else DASH
            for name in ("images", "images_low", "images_high")
        ]
        lines.append(
            (
                str(row["line"]),
                str(row["setting"]) or "usual",
                f"{row['exponent']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                _percent(row["wanted"]),
                ends[0],
                f"{ends[1]} to {ends[2]}" if _known(row["images"]) else DASH,
                str(row["note"]),
            )
        )
    return Table(
        "How many more labels?",
        (
            "network",
            "setting",
            "exponent (95 %)",
            "wanted, %",
            "images per class",
            "95 % interval",
            "note",
        ),
        tuple(lines),
        (2, 3, 4, 5),
        "Error = scale · n^−exponent fitted to the runs; wanted is the best accuracy that any line "
        "of the setting reaches at the most images it was tried with. Intervals treat runs as "
        "independent and the law as true: beyond what was measured they say little.",
    )


# --- findings ------------------------------------------------------------------------------------

FINDINGS_TEXT = (
    "Each claim of the four papers as a test. A claim holds or fails only where its interval lies "
    "wholly on one side. Effects are positive in the direction that the claim predicts. Published "
    "numbers are single values, so an ordering is read as printed."
)


def findings(table: pd.DataFrame) -> Table:
    """Of `analysis.findings.table`: measured beside published."""
    lines = []
    for row in table.to_dict("records"):
        lines.append(
            (
                f"{row['claim']}: {row['text']}",
                str(row["verdict"]),
                _effect(row["effect"], row["unit"]),
                _effect_ends(row),
                count(int(row["n"]), str(row["counted"])) if row["n"] else DASH,
                _p(row["p_holm"]),
                str(row["published_verdict"]),
                _effect(row["published_effect"], row["published_unit"]),
            )
        )
    return Table(
        "The papers' claims, here and as published",
        (
            "claim",
            "verdict",
            "effect",
            "95 % interval",
            "n",
            "p (Holm)",
            "published",
            "published effect",
        ),
        tuple(lines),
        (3, 5),
        "No effect: the runs or the published numbers that it needs do not exist. What would "
        "decide a claim stands under Gaps.",
    )


def _is_log(unit: Any) -> bool:
    return "log ratio" in str(unit) and " per " not in str(unit)


def _effect(value: Any, unit: Any) -> str:
    if not _known(value):
        return DASH
    if _is_log(unit):
        return f"× {math.exp(value / 100):.2f}"
    digits = 2 if str(unit) == "Spearman" or abs(value) < 0.1 else 1
    return f"{_signed(value, digits)} {unit}"


def _effect_ends(row: Mapping[Any, Any]) -> str:
    low, high = row["low"], row["high"]
    if not _known(low) or not _known(high):
        return DASH
    if _is_log(row["unit"]):
        return f"× {math.exp(low / 100):.2f} to {math.exp(high / 100):.2f}"
    return _ends(low, high, 2 if abs(high - low) < 1 else 1)


# --- advice --------------------------------------------------------------------------------------


def advice(n: Numbers) -> tuple[list[Table], list[str]]:
    """Advice for the sizes that were tried, and CHU's table as printed and as derived here."""
    from analysis import recommend

    evidence, made, said = n.evidence, [], []
    try:
        for situation in _situations(n):
            lines = recommend.advise(situation, evidence)
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
        made.append(_derived(recommend.derived(evidence)))
    except DataError as error:
        said.append(f"No advice: {error.message}.")
    return made, said


def _situations(n: Numbers) -> list[Any]:
    from analysis.recommend import Situation

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
            if _known(row["low"]) and _known(row["high"])
            else DASH
        )
        rows.append(
            (
                f"{row['distance']} distance, {row['images_per_class']} data",
                str(row["advice"]) if _known(row["advice"]) else "no evidence",
                f"{row['ratio']:.2f}" if _known(row["ratio"]) else DASH,
                ends,
                count(int(row["pairs"]), "pair"),
                str(row["printed"]) if _known(row["printed"]) else DASH,
                count(int(row["splits"]), "split"),
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
            "behind the print",
        ),
        tuple(rows),
        (2, 3),
        "Bands: distance low below 0.2, medium below 0.4, large from 0.4; data low to 20 images "
        "per class, medium to 99, large from 100. A cell without a split has no experiment of the "
        "paper behind it.",
    )


# --- the rest ------------------------------------------------------------------------------------

_MOST_ROWS = 60


def measured(found: Measurements | None) -> tuple[list[Table], list[str]]:
    """Tables of what was measured on features, and sentences about what was not."""
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
    if not made and not said:
        said.append("Nothing was measured: the grid has no measure: section.")
    return made, said


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
    return number(value) if _known(value) and value != "" else DASH


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


def machines(board: pd.DataFrame) -> Table:
    """What ran where, with which versions, and what it took."""
    rows = tuple(
        (
            str(row["device"]),
            number(row["threads"]),
            str(row["versions"]),
            number(row["runs"]),
            f"{row['hours']:.2f}",
            number(round(row["peak_memory_mib"])),
        )
        for row in tables.machines(board).to_dict("records")
    )
    return Table(
        "Hardware, versions and cost",
        ("device", "threads", "versions", "runs", "hours of training", "peak memory, MiB"),
        rows,
        (1, 3, 4, 5),
        "Hours are the sum over runs, sources included; several run at once.",
    )


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
        made.append(Table("Runs without a result", head, rows, (1,)))
        said = [f"{count(int(bad['runs'].sum()), 'run')} of {len(board):,} have no result."]
    else:
        said = [f"Each of the leaderboard's {len(board):,} runs has a result."]
    undecided = n.findings[n.findings["verdict"] == UNDECIDED]
    if len(undecided):
        rows = tuple(
            (str(r["claim"]), str(r["needed"]) or "more repetitions", str(r["detail"]) or DASH)
            for r in undecided.to_dict("records")
        )
        made.append(
            Table(
                "Claims not decided, and what would decide them", ("claim", "run", "so far"), rows
            )
        )
    return made, said
