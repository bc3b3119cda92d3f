"""What to do, in three sentences from the data; and gains in words.

A recommendation is made only where a difference is decided together with all others
(`analysis.statistics.decisions`). Everything else is called undecided, with the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.leaderboard.labels import number
from analysis.statistics.sample_size import MOST_REPETITIONS, repetitions_wanted
from bench.core.text import counted
from bench.results.intervals import Estimate

Row = Mapping[Any, Any]


def _known(value: Any) -> bool:
    return value is not None and value == value


def interval_text(row: Row) -> str:
    """The interval of a row and what it counts.

    >>> interval_text({"low": 1.0, "high": 2.5, "n": 3, "unit": "task"})
    '+1.0 to +2.5, 3 tasks'
    >>> interval_text({"low": None, "high": None, "n": 1, "unit": "seed"})
    'no interval, 1 seed'
    """
    units = counted(int(row["n"]), str(row["unit"]))
    if not _known(row["low"]) or not _known(row["high"]):
        return f"no interval, {units}"
    return f"{row['low']:+.1f} to {row['high']:+.1f}, {units}".replace("-", "−")


def gain_text(row: Row, sign: int = 1) -> str:
    """A gain with its interval; `sign` -1 gives it from the other arm's side.

    >>> gain_text({"gain_points": -2.0, "low": -3.0, "high": -1.0, "n": 3, "unit": "seed"}, -1)
    '+2.0 points (+1.0 to +3.0, 3 seeds)'
    """
    turned = dict(row)
    if sign < 0:
        turned["low"], turned["high"] = (
            -row[end] if _known(row[end]) else None for end in ("high", "low")
        )
    points = f"{sign * row['gain_points']:+.1f}".replace("-", "−")
    return f"{points} points ({interval_text(turned)})"


def headline(
    gains: pd.DataFrame, crossings: pd.DataFrame, lr: pd.DataFrame, race: bool = False
) -> list[str]:
    """Three sentences: whether to copy, whether to tune or freeze, and what else matters most.

    A sentence about sources or methods is about what the sentence on tuning and freezing advises,
    so that no two sentences contradict each other.

    Args:
        gains: of `analysis.findings.evaluate.examine`.
        crossings: of `analysis.comparisons.ratio_tables.crossings`.
        lr: of `analysis.comparisons.curves.lr_curves`.
        race: whether the runs are those of `bench finetune`, see `is_race`.
    """
    main = gains[gains["main"]] if len(gains) else gains
    treatment = _Treatment.of(main)
    said = [_start(main, treatment), _treatment(treatment, crossings)]
    others = [_method(main), _source(main, treatment), _rate(lr)]
    found = [text for text in said if text] + [text for text in others if text]
    missing = [
        what
        for text, what in zip(said, ("training from scratch", "freezing"), strict=True)
        if not text
    ]
    if len(found) < 3 and race:
        found.append(_A_RACE)
    elif len(found) < 3:
        more = " and ".join(missing) or "another source, another method or other learning rates"
        what = "The rest was not compared" if found else "No two recipes are compared here"
        found.append(f"{what}: add {more} to the grid.")
    return found[:3]


_STAGE = re.compile(r"(floor|rung-\d+|scratch|final)-.+")
_A_RACE = (
    "These runs are a race, in which validation images stop all recipes but the best, so no two "
    "are compared to the end: which one won, and its accuracy, stand in the model's card "
    "(models/NAME/README.md in the results folder); to compare recipes with intervals, run "
    "grids/own-images.yaml."
)


def is_race(board: pd.DataFrame) -> bool:
    """Whether all runs are of the stages of `bench finetune`."""
    cells = list(board["experiments"].dropna()) if "experiments" in board.columns else []
    names = {name for cell in cells for name in str(cell).split(";") if name}
    return bool(names) and all(_STAGE.fullmatch(name) for name in names)


def unfinished(board: pd.DataFrame) -> list[str]:
    """That runs are still to come, and that there is one draw of images alone; else nothing.

    >>> unfinished(pd.DataFrame({"status": ["done", "missing"], "role": ["finetune"] * 2}))
    ['Half finished: 1 of 2 runs has a result (1 missing); what follows may change.']
    """
    runs = board[board["role"] == "finetune"] if "role" in board.columns else board
    left = runs["status"].value_counts()
    left = left[[state in ("missing", "failed", "blocked", "damaged") for state in left.index]]
    if not len(left):
        return []
    done = len(runs) - int(left.sum())
    states = ", ".join(f"{int(n)} {state}" for state, n in left.items())
    text = f"Half finished: {done} of {counted(len(runs), 'run')} {'has' if done == 1 else 'have'}"
    text += f" a result ({states}); what follows may change."
    drawn = runs.loc[runs["status"] == "done"]
    if "seed_draw" in drawn.columns and drawn["seed_draw"].nunique() == 1:
        text += " All have the same draw of images, so nothing says yet how much draws differ."
    return [text]


@dataclass(frozen=True)
class _Treatment:
    """Rows on tuning and freezing the first source, and what they advise at each size."""

    rows: list[dict[Any, Any]]
    advice: Mapping[Any, str]

    @classmethod
    def of(cls, main: pd.DataFrame) -> _Treatment:
        rows = _of(main, "treatment")
        rows = [r for r in rows if r["label"] == rows[0]["label"]]  # that of the nearest source
        words = {"higher": "tuned", "lower": "frozen"}
        decided = {r["n_per_class"]: words[r["verdict"]] for r in rows if r["verdict"] in words}
        return cls(rows, decided)

    def fits(self, row: Row) -> bool:
        """Whether a row is about what is advised at its size, or nothing else is advised there."""
        return bool(self.advice.get(row["n_per_class"], row["treatment"]) == row["treatment"])


def _of(main: pd.DataFrame, question: str) -> list[dict[Any, Any]]:
    return main[main["question"] == question].to_dict("records") if len(main) else []


def _images(row: Row) -> str:
    n = row["n_per_class"]
    return f"at {number(n)} images per class" if _known(n) else "at the images it was tried with"


def _where(row: Row) -> str:
    return _images(row) + (f", {row['setting']}" if row["setting"] else "")


def _scope(row: Row) -> str:
    """The tasks that a decided row holds for, unless it is a general statement."""
    return "" if row["scope"] in ("", "in general") else f", {row['scope']}"


def _start(main: pd.DataFrame, treatment: _Treatment) -> str:
    rows = [r for r in _of(main, "start") if r["source"] and treatment.fits(r)]
    if not rows:
        return ""
    higher = [r for r in rows if r["verdict"] == "higher"]
    best = max(higher or rows, key=lambda r: (r["n"], r["pairs"], r["gain_points"]))
    arm = best["left_name"]
    if higher:
        return (
            f"Start from a pretrained network: {arm}, it is {gain_text(best)} over training from "
            f"scratch {_where(best)}{_scope(best)}{_rate_chosen(best)}."
        )
    if all(r["verdict"] == "lower" for r in rows):
        return (
            f"Train from scratch: {arm}, copying is {gain_text(best)} {_where(best)}"
            f"{_scope(best)}{_rate_chosen(best)}."
        )
    return (
        f"Whether copying pays is undecided: {arm}, it is {gain_text(best)} {_where(best)}"
        f"{_rate_chosen(best)}; {_would_do(best)}."
    )


def _treatment(found: _Treatment, crossings: pd.DataFrame) -> str:
    rows = found.rows
    if not rows:
        return ""
    source = rows[0]["source"]
    frozen = [r for r in rows if r["verdict"] == "lower"]
    tuned = [r for r in rows if r["verdict"] == "higher"]
    most = max(tuned, key=lambda r: r["gain_points"]) if tuned else None
    least = min(frozen, key=lambda r: r["gain_points"]) if frozen else None
    if most and least:
        return (
            f"Of a network pretrained on {source}, freeze all layers but the last "
            f"{_where(least)} ({gain_text(least, -1)} over tuning{_scope(least)}) and tune them "
            f"{_where(most)} ({gain_text(most)} over freezing{_scope(most)})"
            f"{_cross(crossings, rows[0])}."
        )
    if most or least:
        word, row, sign, over = (
            ("Tune", most, 1, "freezing") if most else ("Freeze", least, -1, "tuning")
        )
        assert row is not None
        return (
            f"{word} the copied layers of {source}: {gain_text(row, sign)} over {over} "
            f"{_where(row)}{_scope(row)}{_others(rows)}."
        )
    widest = max(rows, key=lambda r: abs(r["gain_points"]))
    return (
        f"Whether to tune or to freeze {source} is undecided: tuning less freezing is "
        f"{gain_text(widest)} {_where(widest)}; {_would_do(widest)}."
    )


def _would_do(row: Row) -> str:
    """How many repetitions would decide a comparison, should effect and spread stay."""
    ends = [float(row[name]) if _known(row[name]) else None for name in ("low", "high")]
    n, unit = int(row["n"]), str(row["unit"])
    wanted = repetitions_wanted(Estimate(float(row["gain_points"]), ends[0], ends[1], n, unit))
    if wanted is None:
        return "more repetitions are needed to judge it by"
    if wanted > MOST_REPETITIONS:
        return f"over {counted(MOST_REPETITIONS, unit)} instead of {n} would be needed to decide it"
    return f"about {counted(wanted, unit)} instead of {n} would decide it, tested alone"


def _rate_chosen(row: Row) -> str:
    """That the learning rate was chosen, so that the gain is not the leaderboard's difference."""
    if row.get("lr") != "best":
        return ""
    edge = row.get("edge")
    said = f"; its best is the {edge} tried, so try beyond it" if edge else ""
    return f" (each arm at the learning rate that validation chose{said})"


def _others(rows: Sequence[Row]) -> str:
    open_ = [number(r["n_per_class"]) for r in rows if r["verdict"] == "undecided"]
    return f"; undecided at {', '.join(open_)}" if open_ else ""


def _cross(crossings: pd.DataFrame, row: Row) -> str:
    if crossings.empty:
        return ""
    same = crossings[
        (crossings["label"] == row["label"])
        & (crossings["setting"] == row["setting"])
        & crossings["images"].notna()
        & crossings["decided"]
    ]
    if same.empty:
        return ""
    at = same.iloc[0]
    ends = f" ({number(at['low'], 2)} to {number(at['high'], 2)})" if _known(at["low"]) else ""
    return f"; the curves cross at about {number(at['images'], 2)} images per class{ends}"


def _source(main: pd.DataFrame, treatment: _Treatment) -> str:
    rows = [r for r in _of(main, "source") if treatment.fits(r)]
    if not rows:
        return ""
    decided = [r for r in rows if r["verdict"] != "undecided"]
    row = max(decided or rows, key=lambda r: (r["n"], r["pairs"], abs(r["gain_points"])))
    if not decided:
        return (
            f"Which source is better is undecided: {row['left_name']} less {row['right_name']}, "
            f"{row['treatment']}, is {gain_text(row)} {_where(row)}."
        )
    names = row["left_name"], row["right_name"]
    sign = 1 if row["verdict"] == "higher" else -1
    better, worse = names[::sign]
    return (
        f"Take {better} rather than {worse} as the source: {gain_text(row, sign)} "
        f"{_where(row)}, {row['treatment']}{_scope(row)}."
    )


def _method(main: pd.DataFrame) -> str:
    rows = [r for r in _of(main, "method") if r["left_name"] not in ("scratch", "frozen")]
    if not rows:
        return ""
    sure = [r for r in rows if r["verdict"] == "higher"]
    if sure:
        best = max(sure, key=lambda r: r["gain_points"])
        return (
            f"Of the methods, take {best['left_name']}: {gain_text(best)} over plain tuning "
            f"{_where(best)}{_scope(best)}."
        )
    best = max(rows, key=lambda r: r["gain_points"])
    tried = counted(len({r["left_name"] for r in rows}), "other method")
    return (
        f"Stay with plain tuning unless more repetitions decide otherwise: of {tried} none is "
        f"shown to be above it; the highest is {best['left_name']}, {gain_text(best)} "
        f"{_where(best)}."
    )


def _rate(lr: pd.DataFrame) -> str:
    if lr.empty:
        return ""
    line = lr[lr["line"] == lr.iloc[0]["line"]]
    best = line.loc[line["mean"].idxmax()]
    worst = line.loc[line["mean"].idxmin()]
    return (
        f"Tune the learning rate: of {len(line)} tried for {best['line']}, {number(best['x'])} "
        f"reaches {100 * best['mean']:.1f} % on test images, {number(worst['x'])} "
        f"{100 * worst['mean']:.1f} %."
    )
