"""The report's tables: what numbers become when they are read. Every cell is a text.

A number that does not exist is a dash, and the row's note or the table's gives the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.comparisons.contrasts import QUESTIONS
from analysis.findings.parts import UNDECIDED
from analysis.leaderboard.labels import number
from analysis.report.figures import Numbers
from analysis.text_tables import DASH, Table
from bench.core.text import counted, p_value


def is_known(value: Any) -> bool:
    """Neither missing nor not a number."""
    return value is not None and value == value


def _signed(value: Any, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if is_known(value) else DASH


def ends_text(low: Any, high: Any, digits: int = 1) -> str:
    """The ends of an interval, with signs; a dash where there is none."""
    if not is_known(low) or not is_known(high):
        return DASH
    return f"{_signed(low, digits)} to {_signed(high, digits)}"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}" if is_known(value) else DASH


def about(board: pd.DataFrame) -> str:
    """One sentence: how many runs, on what."""
    runs = board[board["role"] != "source"]
    parts = [
        f"{name}: {', '.join(sorted(set(runs[column].dropna().map(str))))}"
        for name, column in (("data", "dataset"), ("target", "target"), ("network", "model"))
    ]
    repeated = runs.drop_duplicates(["task", "seed_draw", "seed_init", "seed_order"])
    away = int((runs["status"] == "diverged").sum())
    said = f" {counted(away, 'run')} diverged and {'counts' if away == 1 else 'count'} at chance."
    return (
        f"{counted(len(runs), 'run')} and {counted(len(board) - len(runs), 'source network')} "
        f"behind them; {'; '.join(parts)}; {counted(runs['task'].nunique(), 'task')} (targets and "
        f"class draws), {counted(len(repeated), 'repetition')}. {images_text(runs)}"
        f"{said if away else ''}"
        f"{_NEAR if runs['source_side'].isin(['near', 'far']).any() else ''}"
    )


_NEAR = (
    " A near source has classes below the same WordNet node as the target's, a far one has classes "
    "elsewhere (LI §4.3)."
)


def images_text(runs: pd.DataFrame) -> str:
    """Sizes of the sets. Validation images are labels too: they choose the epoch and the rate."""
    sizes = {}
    for name in ("train_images", "val_images", "test_images"):
        known = runs[name].dropna() if name in runs.columns else pd.Series(dtype=float)
        values = sorted({int(v) for v in known})
        if name == "test_images":  # a race's recipes are not tested
            values = [value for value in values if value] or values
        shown = values if len(values) <= 4 else [values[0], values[-1]]
        joint = ", " if len(values) <= 4 else " to "
        sizes[name] = joint.join(f"{v:,}" for v in shown) or "an unknown number of"
    return (
        f"Images of a run: {sizes['train_images']} to train on; {sizes['val_images']} more with "
        f"labels for validation, which choose epoch and learning rate; {sizes['test_images']} to "
        "test on."
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
    family = len({test.hypothesis for test in n.tests if test.p is not None})
    return (
        "Gains are in percentage points of test accuracy, the first arm less the second; the two "
        "are equal in everything else: data, classes, draw, seeds and all settings of the run and "
        f"of its source.{rate} Intervals are 95 %, over tasks where there are two or more, else "
        "over the seeds of the one task with the error of its test images; a run that diverged "
        "counts at chance.",
        f"{n.evidence.rules.sentence()} Tested here: {counted(family, 'comparison')}, this page's "
        "answers and claims together. A verdict holds in general, for tasks of this kind, or on "
        "these tasks alone. The interval in general comes from how much the tasks' means differ, "
        "that of these tasks from seeds and test images: of few tasks the means may agree by "
        "chance, and the interval in general is then the narrower one.",
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
    head = ("setting", "images per class", "accuracy, %", "gain", "95 % interval")
    alone = "these tasks alone"
    lines = []
    for row in rows.to_dict("records"):
        label = f"{row['left_name']} − {row['right_name']}"
        label += f" ({row['about']})" if row["about"] else ""
        label += f", {row['treatment']}" if row["question"] in ("source", "copy") else ""
        lines.append(
            (
                label,
                str(row["setting"]) or "usual",
                number(row["n_per_class"]) if is_known(row["n_per_class"]) else DASH,
                f"{_percent(row['left'])} − {_percent(row['right'])}",
                _signed(row["gain_points"]),
                ends_text(row["low"], row["high"]),
                ends_text(row["here_low"], row["here_high"]) if row["unit"] == "task" else DASH,
                f"{counted(int(row['n']), row['unit'])}, {counted(int(row['pairs']), 'pair')}",
                p_value(row["p_holm"]),
                str(row["verdict"]),
                str(row["scope"]) or DASH,
            )
        )
    left_out = rows[["label", "about", "unpaired", "unfinished"]].drop_duplicates()
    unpaired, unfinished = int(left_out["unpaired"].sum()), int(left_out["unfinished"].sum())
    notes = [
        f"{counted(unpaired, 'run')} without a partner" if unpaired else "",
        f"{counted(unfinished, 'run')} without a result" if unfinished else "",
        f"{counted(int(rows['diverged'].sum()), 'diverged run')} at chance"
        if rows["diverged"].any()
        else "",
        *sorted({str(note) for note in rows["note"] if note}),
    ]
    note = "; ".join(text for text in notes if text)
    return Table(
        title,
        ("first − second", *head, alone, "n", "p (Holm)", "verdict", "holds"),
        tuple(lines),
        (2, 3, 4, 5, 6, 8),
        f"Note: {note}." if note else "",
    )


def _crossing_table(crossings: pd.DataFrame) -> Table:
    lines = []
    for row in crossings.to_dict("records"):
        names = {"left": row["left_name"], "right": row["right_name"]}
        better = names.get(row["above"], "neither") if row["decided"] else DASH
        at = number(row["images"], 2) if is_known(row["images"]) else "none"
        ends = (
            f"{number(row['low'], 2)} to {number(row['high'], 2)}" if is_known(row["low"]) else DASH
        )
        lines.append(
            (
                str(row["label"]),
                str(row["setting"]) or "usual",
                f"{number(row['smallest'])} to {number(row['largest'])}",
                at,
                ends,
                better,
                counted(int(row["n"]), str(row["unit"])),
                "decided" if row["decided"] else "undecided",
            )
        )
    return Table(
        "Where the better arm changes, in images per class",
        (
            "first − second",
            "setting",
            "measured",
            "crossing",
            "95 % interval",
            "beyond, better",
            "n",
            "crossing is",
        ),
        tuple(lines),
        (2, 3, 4),
        "A crossing is decided where one arm is better at the fewest images and the other at the "
        "most, each with a verdict above. The difference is interpolated between the sizes; the "
        "interval holds the sizes at which no difference is not excluded.",
    )


def _law_table(laws: pd.DataFrame) -> Table:
    lines = []
    for row in laws.to_dict("records"):
        ends = [
            number(round(row[name]), 2) if is_known(row[name]) else DASH
            for name in ("images", "images_low", "images_high")
        ]
        lines.append(
            (
                str(row["line"]),
                str(row["setting"]) or "usual",
                _exponent(row),
                _percent(row["wanted"]),
                ends[0],
                f"{ends[1]} to {ends[2]}" if is_known(row["images"]) else DASH,
                counted(int(row["n"]), str(row["unit"])),
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
            "n",
            "note",
        ),
        tuple(lines),
        (2, 3, 4, 5),
        "Error = scale · n^−exponent, fitted to each repetition; intervals are over tasks, or over "
        "the seeds of one. Wanted is the best accuracy that any line of the setting reaches at the "
        "most images it was tried with. Intervals take the law as true: beyond what was measured "
        "they mean little.",
    )


def _exponent(row: Mapping[Any, Any]) -> str:
    if not is_known(row["low"]) or not is_known(row["high"]):
        return f"{row['exponent']:.3f}"
    return f"{row['exponent']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


# --- findings ------------------------------------------------------------------------------------

FINDINGS_TEXT = (
    "Each claim of the four papers as a test, corrected for everything that this page tests. A "
    "verdict speaks of tasks of this kind where there are three or more, with one task of this "
    "task; beside it stands the verdict on these tasks alone. Effects are positive in the "
    "direction that the claim predicts. Published numbers are single values, so an ordering is "
    "read as printed."
)


def findings(table: pd.DataFrame) -> Table:
    """Of `analysis.findings.evaluate.table`: measured beside published, where there are runs."""
    lines, without = [], []
    for row in table.to_dict("records"):
        if not is_known(row["effect"]) and row["verdict"] == row["here"] == UNDECIDED:
            without.append(str(row["claim"]))
            continue
        lines.append(
            (
                f"{row['claim']}: {row['text']}",
                str(row["verdict"]),
                str(row["here"]),
                _effect(row["effect"], row["unit"]),
                _effect_ends(row),
                counted(int(row["n"]), str(row["counted"])) if row["n"] else DASH,
                p_value(row["p_holm"]),
                str(row["published_verdict"]),
                _effect(row["published_effect"], row["published_unit"]),
            )
        )
    return Table(
        "The papers' claims, here and as published",
        (
            "claim",
            "verdict",
            "on these tasks",
            "effect",
            "95 % interval",
            "n",
            "p (Holm)",
            "published",
            "published effect",
        ),
        tuple(lines),
        (4, 6),
        "No effect: the published numbers that it needs do not exist. What would decide a claim "
        "stands under Gaps."
        + (
            f" {counted(len(without), 'claim has', 'claims have')} no runs here "
            f"({', '.join(without)}); bench findings --published lists what the papers' numbers "
            "say of them."
            if without
            else ""
        ),
    )


def _is_log(unit: Any) -> bool:
    return "log ratio" in str(unit) and " per " not in str(unit)


def _effect(value: Any, unit: Any) -> str:
    if not is_known(value):
        return DASH
    if _is_log(unit):
        return f"× {math.exp(value / 100):.2f}"
    digits = 2 if str(unit) == "Spearman" or abs(value) < 0.1 else 1
    return f"{_signed(value, digits)} {unit}"


def _effect_ends(row: Mapping[Any, Any]) -> str:
    low, high = row["low"], row["high"]
    if not is_known(low) or not is_known(high):
        return DASH
    if _is_log(row["unit"]):
        return f"× {math.exp(low / 100):.2f} to {math.exp(high / 100):.2f}"
    return ends_text(low, high, 2 if abs(high - low) < 1 else 1)
