"""What to do, in three sentences from the data; and gains in words.

A recommendation is made only where an interval excludes zero. Everything else is called undecided,
with the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.labels import count, number
from analysis.repetitions import MOST_REPETITIONS, repetitions_wanted
from analysis.statistics import Estimate

__all__ = ["gain_text", "headline", "interval_text"]

Row = Mapping[Any, Any]


def _known(value: Any) -> bool:
    return value is not None and value == value


def interval_text(row: Row) -> str:
    """The interval of a row and what it counts.

    >>> interval_text({"low": 1.0, "high": 2.5, "n": 3, "unit": "class draw"})
    '+1.0 to +2.5, 3 class draws'
    >>> interval_text({"low": None, "high": None, "n": 1, "unit": "seed"})
    'no interval, 1 seed'
    """
    units = count(int(row["n"]), str(row["unit"]))
    if not _known(row["low"]) or not _known(row["high"]):
        return f"no interval, {units}"
    return f"{row['low']:+.1f} to {row['high']:+.1f}, {units}".replace("-", "−")


def gain_text(row: Row, sign: int = 1) -> str:
    """A gain with its interval; `sign` -1 tells it from the other arm's side.

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


def headline(gains: pd.DataFrame, crossings: pd.DataFrame, lr: pd.DataFrame) -> list[str]:
    """Three sentences: whether to copy, whether to tune or freeze, and what else matters most.

    Args:
        gains: of `analysis.contrasts.gain_table`.
        crossings: of `analysis.ratio_tables.crossings`.
        lr: of `analysis.tables.lr_curves`.
    """
    main = gains[gains["main"]] if len(gains) else gains
    said = [_start(main), _treatment(main, crossings)]
    others = [_method(main), _source(main), _rate(lr)]
    found = [text for text in said if text] + [text for text in others if text]
    missing = [
        what
        for text, what in zip(said, ("training from scratch", "freezing"), strict=True)
        if not text
    ]
    if len(found) < 3:
        more = " and ".join(missing) or "another source, another method or other learning rates"
        found.append(f"Nothing can be said of the rest: add {more} to the grid to compare.")
    return found[:3]


def _of(main: pd.DataFrame, question: str) -> list[dict[Any, Any]]:
    return main[main["question"] == question].to_dict("records") if len(main) else []


def _images(row: Row) -> str:
    n = row["n_per_class"]
    return f"at {number(n)} images per class" if _known(n) else "at the images it was tried with"


def _where(row: Row) -> str:
    return _images(row) + (f", {row['setting']}" if row["setting"] else "")


def _start(main: pd.DataFrame) -> str:
    rows = [r for r in _of(main, "start") if not r["label"].startswith("scratch")]
    if not rows:
        return ""
    higher = [r for r in rows if r["verdict"] == "higher"]
    best = max(higher or rows, key=lambda r: (r["pairs"], r["gain_points"]))
    arm = str(best["label"]).removesuffix(" − scratch")
    if higher:
        return (
            f"Start from a pretrained network: {arm}, it is {gain_text(best)} over training from "
            f"scratch {_where(best)}{_rate_chosen(best)}."
        )
    if all(r["verdict"] == "lower" for r in rows):
        return (
            f"Train from scratch: {arm}, copying is {gain_text(best)} {_where(best)}"
            f"{_rate_chosen(best)}."
        )
    return (
        f"Whether copying pays is undecided: {arm}, it is {gain_text(best)} {_where(best)}"
        f"{_rate_chosen(best)}; {_would_do(best)}."
    )


def _treatment(main: pd.DataFrame, crossings: pd.DataFrame) -> str:
    rows = _of(main, "treatment")
    if not rows:
        return ""
    # The first label is that of the nearest source.
    rows = [r for r in rows if r["label"] == rows[0]["label"]]
    source = str(rows[0]["label"]).removesuffix(", tuned − frozen")
    frozen = [r for r in rows if r["verdict"] == "lower"]
    tuned = [r for r in rows if r["verdict"] == "higher"]
    most = max(tuned, key=lambda r: r["gain_points"]) if tuned else None
    least = min(frozen, key=lambda r: r["gain_points"]) if frozen else None
    if most and least:
        return (
            f"Of a network pretrained on {source}, freeze all layers but the last "
            f"{_where(least)} ({gain_text(least, -1)} over tuning) and tune them {_where(most)} "
            f"({gain_text(most)} over freezing){_cross(crossings, rows[0])}."
        )
    if most or least:
        word, row, sign, over = (
            ("Tune", most, 1, "freezing") if most else ("Freeze", least, -1, "tuning")
        )
        assert row is not None
        return (
            f"{word} the copied layers of {source}: {gain_text(row, sign)} over {over} "
            f"{_where(row)}{_others(rows)}."
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
        return f"over {count(MOST_REPETITIONS, unit)} instead of {n} would be needed to decide it"
    return f"about {count(wanted, unit)} instead of {n} would decide it"


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
    ]
    if same.empty:
        return ""
    at = same.iloc[0]
    ends = f" ({number(at['low'], 2)} to {number(at['high'], 2)})" if _known(at["low"]) else ""
    return f"; the curves cross at about {number(at['images'], 2)} images per class{ends}"


def _source(main: pd.DataFrame) -> str:
    rows = _of(main, "source")
    if not rows:
        return ""
    decided = [r for r in rows if r["verdict"] != "undecided"]
    if not decided:
        row = max(rows, key=lambda r: (r["pairs"], abs(r["gain_points"])))
        return f"Which source is better is undecided: {row['label']} is {gain_text(row)}."
    row = max(decided, key=lambda r: (r["pairs"], abs(r["gain_points"])))
    names, _, how = str(row["label"]).partition(", ")
    better, worse = names.split(" − ")[:: 1 if row["verdict"] == "higher" else -1]
    sign = 1 if row["verdict"] == "higher" else -1
    how = f", {how}" if how else ""
    return (
        f"Take {better} rather than {worse} as the source: {gain_text(row, sign)} "
        f"{_where(row)}{how}."
    )


def _method(main: pd.DataFrame) -> str:
    rows = [r for r in _of(main, "method") if r["label"] not in ("scratch", "frozen")]
    if not rows:
        return ""
    sure = [
        r for r in rows if r["verdict"] == "higher" and _known(r["p_holm"]) and r["p_holm"] < 0.05
    ]
    if sure:
        best = max(sure, key=lambda r: r["gain_points"])
        return (
            f"Of the methods, take {best['label']}: {gain_text(best)} over plain tuning "
            f"{_where(best)}."
        )
    best = max(rows, key=lambda r: r["gain_points"])
    tried = count(len({r["label"] for r in rows}), "other method")
    return (
        f"Stay with plain tuning unless more repetitions decide otherwise: of {tried} none is "
        f"above it after correction for {len(rows)} comparisons; the highest is {best['label']}, "
        f"{gain_text(best)} {_where(best)}."
    )


def _rate(lr: pd.DataFrame) -> str:
    if lr.empty:
        return ""
    line = lr[lr["line"] == lr.iloc[0]["line"]]
    best = line.loc[line["mean"].idxmax()]
    worst = line.loc[line["mean"].idxmin()]
    return (
        f"Tune the learning rate: of {len(line)} tried for {best['line']}, {number(best['x'])} "
        f"reaches {100 * best['mean']:.1f} %, {number(worst['x'])} {100 * worst['mean']:.1f} %."
    )
