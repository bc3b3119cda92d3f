"""Tidy tables that figures draw and the report prints: curves, costs, machines, gaps.

A curve goes through conditions that differ in one factor only. Its points are means over the same
repetitions, so that a rise is not a change of classes or seeds; values of the factor that were
tried with far fewer repetitions are left out of the curve, and its note says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import TASK, best_lr
from analysis.comparisons.units import Kind, summarise
from analysis.leaderboard import arms
from analysis.leaderboard.labels import number, recipe, settings, start_and_recipe
from analysis.leaderboard.read import (
    PATTERN,
    SEEDS,
    SIZES,
    SOURCE,
    finished,
    key_of,
    repetition,
    varies,
    varying,
)
from bench.core.errors import DataError
from bench.results.intervals import clipped

Line = Callable[[Mapping[Any, Any]], str]


def _plain(board: pd.DataFrame) -> pd.DataFrame:
    """Finished plain runs on the target, nothing added."""
    rows = arms.is_method(board, "plain") & (board["role"] != "source")
    for name in ("tuned", "layer_lr_decay", "l2_sp"):
        rows &= board[name].isna()
    return _finished(board[rows])


def _finished(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with an outcome; those that diverged are at chance, and are counted."""
    done = rows[finished(rows)]
    return done.assign(diverged=(done["status"] == "diverged").astype(int))


def shared_runs(group: pd.DataFrame, least: int, metric: str) -> tuple[pd.DataFrame, str]:
    """The runs that a curve goes through, and what was left out; empty for fewer values.

    Args:
        group: rows of one condition but for `x`.
        least: values of x that a curve needs.
        metric: a run without it is left out.
    """
    runs: dict[float, set[tuple[str, str]]] = {}
    for x, task, seed in zip(group["x"], group["task"], group["seed"], strict=True):
        runs.setdefault(float(x), set()).add((task, seed))
    ordered = sorted(runs, key=lambda x: (-len(runs[x]), x))
    best, size = 0, 0
    for k in range(least, len(ordered) + 1):
        shared = set.intersection(*(runs[x] for x in ordered[:k]))
        if shared and k * len(shared) >= size:
            best, size = k, k * len(shared)
    if not best:
        return group.iloc[:0], ""
    shared = set.intersection(*(runs[x] for x in ordered[:best]))
    pairs = zip(group["task"], group["seed"], strict=True)
    inside = pd.Series([pair in shared for pair in pairs], index=group.index)
    kept = group[group["x"].isin(ordered[:best]) & inside & group[metric].notna()]
    out = ", ".join(number(x) for x in sorted(ordered[best:]))
    return kept, f"without {out}: fewer repetitions" if out else ""


def _summaries(kept: pd.DataFrame, line: str, setting: str, metric: str, said: str) -> list[Any]:
    rows = []
    first = kept.iloc[0].to_dict()
    done = {"tune": "tuned", "freeze": "frozen"}.get(str(first["treatment"]), recipe(first))
    scratch = first["source_origin"] == "none"
    of_all = {
        "start": "scratch" if scratch else str(first["source_origin"]),
        "done": recipe(first) if first["method"] != "plain" or scratch else done,
        "n_per_class": first["n_per_class"] if kept["n_per_class"].nunique() == 1 else None,
    }
    for x, group in kept.groupby("x", sort=True):
        accuracy = metric == "top1_accuracy"
        kind: Kind = "accuracy" if accuracy else "other"
        e = summarise(group, metric, f"{line} {setting} {x} {metric}", kind)
        e = clipped(e, 0.0, 1.0) if accuracy else e
        rows.append(
            {
                "line": line,
                "setting": setting,
                "x": x,
                "mean": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "unit": e.unit,
                "repetitions": len(group[["task", "seed"]].drop_duplicates()),
                "lr": ", ".join(number(v) for v in sorted(set(group["lr"].dropna()))),
                "diverged": e.diverged,
                "note": "; ".join(text for text in (said, e.note) if text),
            }
            | of_all
        )
    return rows


_COLUMNS = (
    *("line", "setting", "x", "mean", "low", "high", "n", "unit", "repetitions", "lr", "diverged"),
    *("note", "start", "done", "n_per_class"),
)


def _curves(
    rows: pd.DataFrame,
    x: str,
    line: Line,
    said: Sequence[str],
    vary: Sequence[str],
    least: int,
    metric: str = "top1_accuracy",
) -> pd.DataFrame:
    """Curves through conditions that differ in `vary` alone.

    Args:
        line: a curve's name; `said` are the factors that it tells.
        least: values of x that a curve needs.
    """
    known = rows[rows[x].notna()]
    found: list[Any] = []
    if not known.empty:
        held = [n for n in varying(rows) if not varies(n, vary) and not repetition(n)]
        known = known.assign(x=known[x], condition=key_of(known, held))
        several = known.groupby("condition")["x"].transform("nunique") >= least
        kept = known[several]
        kept = kept.assign(line=[line(row) for row in kept.to_dict("records")])
        named = [n for n in varying(rows) if varies(n, vary)]
        kept = kept.assign(setting=settings(kept, [*named, *said], ["line"]))
        for _, group in kept.groupby("condition", sort=False):
            shared, out = shared_runs(group, least, metric)
            if len(shared):
                first = shared.iloc[0]
                found += _summaries(shared, first["line"], first["setting"], metric, out)
    return pd.DataFrame(found, columns=list(_COLUMNS))


def runs_of_curves(evidence: Evidence, least: int = 3) -> pd.DataFrame:
    """The runs that learning curves go through, with x (images per class), line, setting, said.

    Each line is at the learning rate that is best on validation images, where there are several,
    among those tried with the most repetitions. Lines with fewer than `least` numbers of images
    are left out; `said` is what else was.
    """
    named = _named_runs(evidence)
    parts = []
    for _, group in named.groupby(["line", "setting", "condition"], sort=False):
        kept, said = shared_runs(group, least, "top1_accuracy")
        if len(kept):
            parts.append(kept.assign(said=said))
    return pd.concat(parts, ignore_index=True) if parts else named.iloc[:0].assign(said=[])


def _named_runs(evidence: Evidence) -> pd.DataFrame:
    rows = _plain(evidence.board)
    rows = rows[rows["expand_to"].isna() & rows["n_per_class"].notna()]
    if rows.empty:
        return rows.assign(x=[], line=[], setting=[], condition=[])
    named = _named(rows, ["source", "pattern", "images_per_class", "lr"])
    return _at_best_rate(evidence, named.assign(condition=key_of(named, _of_conditions(named))))


def _named(rows: pd.DataFrame, said: Sequence[str]) -> pd.DataFrame:
    """Runs by images per class, `x`, with the names of their line and setting.

    Args:
        said: settings that the line's name tells.
    """
    lines = [start_and_recipe(row) for row in rows.to_dict("records")]
    named = rows.assign(x=rows["n_per_class"], line=lines)
    return named.assign(setting=settings(named, said, ["line", "x"]))


def _of_conditions(rows: pd.DataFrame) -> list[str]:
    return [n for n in varying(rows) if n not in (*SIZES, "lr") and not repetition(n)]


def _at_best_rate(evidence: Evidence, named: pd.DataFrame) -> pd.DataFrame:
    every = pd.Series(True, index=evidence.board.index)
    return best_lr(_most_repeated(named)) if evidence.lr_rule(every) == "best" else named


def _most_repeated(named: pd.DataFrame) -> pd.DataFrame:
    """Learning rates with as many repetitions as any of their condition; others decide nothing."""
    names = [name for name in varying(named) if name != "lr" and not repetition(name)]
    condition = key_of(named, names)
    counts = named.groupby([condition, named["lr"]])["lr"].transform("size")
    return named[counts == counts.groupby(condition).transform("max")]


def data_curves(evidence: Evidence, least: int = 3) -> pd.DataFrame:
    """Accuracy against images per class: x is images per class, a line per source and recipe.

    Returns:
        line, setting, x, mean, low, high (95 %; None without), n, unit, repetitions, lr, note.
    """
    runs = runs_of_curves(evidence, least)
    found: list[Any] = []
    for (name, setting, _), group in runs.groupby(["line", "setting", "condition"], sort=False):
        said = str(group.iloc[0]["said"])
        found += _summaries(group, str(name), str(setting), "top1_accuracy", said)
    return pd.DataFrame(found, columns=list(_COLUMNS))


def lr_curves(evidence: Evidence, least: int = 3, metric: str = "top1_accuracy") -> pd.DataFrame:
    """Accuracy (or another metric) against the learning rate; columns as `data_curves`."""
    rows = _finished(evidence.board[evidence.board["role"] != "source"])
    said = ("source", "source_classes", "source_epochs", "pattern", "images_per_class")
    return _curves(rows, "lr", _start_images, said, ("lr",), least, metric)


def _images(row: Mapping[Any, Any]) -> str:
    n = row.get("n_per_class")
    return f", {number(n)} images per class" if n is not None and n == n else ""


def _start_images(row: Mapping[Any, Any]) -> str:
    return start_and_recipe(row) + _images(row)


def _source_images(row: Mapping[Any, Any]) -> str:
    return f"{row['source']}{_images(row)}"


def frozen_curves(evidence: Evidence, least: int = 3) -> pd.DataFrame:
    """Accuracy against the number of frozen layers (LI Fig. 13); all but the last are copied."""
    rows = _plain(evidence.board)
    rows = rows[(rows["reinit"] == 1) & rows["treatment"].isin(["tune", "freeze", "partly"])]
    said = ("source", "source_classes", "source_epochs", "images_per_class")
    return _curves(rows, "frozen", _source_images, said, PATTERN, least)


def copied_curves(evidence: Evidence, least: int = 2) -> pd.DataFrame:
    """Accuracy against the number of copied layers (CHU's R(8), R(6-8), R(4-8))."""
    rows = _plain(evidence.board)
    rows = rows[rows["treatment"].isin(["tune", "freeze"]) & (rows["reinit"] >= 1)]
    rows = rows.assign(copied=rows["depth"] - rows["reinit"])

    def line(row: Mapping[Any, Any]) -> str:
        word = {"tune": "tuned", "freeze": "frozen"}[str(row["treatment"])]
        return f"{row['source']}, {word}{_images(row)}"

    said = ("source", "source_classes", "source_epochs", "images_per_class")
    parts = [rows[rows["treatment"] == treatment] for treatment in ("tune", "freeze")]
    curves = [_curves(part, "copied", line, said, PATTERN, least) for part in parts]
    return pd.concat(curves, ignore_index=True)


def source_size_curves(evidence: Evidence, least: int = 3) -> pd.DataFrame:
    """Accuracy against the number of source classes (LI Fig. 5, Table 2)."""
    rows = _plain(evidence.board)
    rows = rows[rows["source_classes"].notna() & (rows["reinit"] == 1)]
    rows = rows[(rows["source_side"] != "self") & (rows["source_links"] == 1)]
    # The seeds of a source are not those of another one: a repetition is one of the target's.
    rows = rows.assign(seed=key_of(rows, SEEDS))

    def line(row: Mapping[Any, Any]) -> str:
        n = row.get("n_per_class")
        return f"{recipe(row)}, {number(n)} images per class"

    return _curves(rows, "source_classes", line, ("pattern", "images_per_class"), SOURCE, least)


def costs(evidence: Evidence) -> pd.DataFrame:
    """Mean time and accuracy of each recipe, and which of them nothing beats on both.

    Times are of a run's own training and evaluation, not of the source's. Only runs on the
    commonest device are compared, each recipe at its best learning rate on validation images, and
    only recipes that were repeated as often as any other of their panel.

    Returns:
        line, setting, n_per_class, seconds, accuracy, n (runs), best (on the Pareto front of its
        setting and number of images), device. Empty without times.
    """
    board = evidence.board
    if "seconds" not in board.columns or "device" not in board.columns:
        return pd.DataFrame(columns=list(_COST_COLUMNS))
    rows = _finished(board[(board["role"] != "source") & ~arms.is_method(board, "probe")])
    rows = rows.dropna(subset=["seconds", "n_per_class", "device"])
    if rows.empty:
        return pd.DataFrame(columns=list(_COST_COLUMNS))
    device = str(rows["device"].mode().iloc[0])  # of several, the first by name
    rows = rows[rows["device"] == device]
    named = _named(
        rows, ["source", "pattern", "method", "method_options", "images_per_class", "lr"]
    )
    held = [n for n in _of_conditions(named) if not varies(n, TASK)]
    named = named.assign(condition=key_of(named, held))
    several = named.groupby(["line", "setting"])["condition"].transform("nunique") > 1
    named["line"] = named["line"].where(~several, named["line"] + ", " + named["pattern"])
    named = _at_best_rate(evidence, named)
    by = ["line", "setting", "condition", "x"]
    found: list[dict[str, Any]] = [
        {
            "line": line,
            "setting": setting,
            "n_per_class": float(group["x"].iloc[0]),
            "seconds": float(group["seconds"].mean()),
            "accuracy": float(group["top1_accuracy"].mean()),
            "n": len(group),
            "device": device,
        }
        for (line, setting, _, _), group in named.groupby(by, sort=True)
    ]
    most: dict[Any, int] = {}
    for row in found:
        panel = row["setting"], row["n_per_class"]
        most[panel] = max(row["n"], most.get(panel, 0))
    alike = [row for row in found if row["n"] == most[row["setting"], row["n_per_class"]]]
    return pd.DataFrame(_fronts(alike), columns=list(_COST_COLUMNS))


_COST_COLUMNS = ("line", "setting", "n_per_class", "seconds", "accuracy", "n", "best", "device")


def _fronts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the rows that no other of their panel is both faster than and as accurate as."""

    def beaten(row: Mapping[str, Any]) -> bool:
        return any(
            other["seconds"] <= row["seconds"]
            and other["accuracy"] >= row["accuracy"]
            and (other["seconds"], -other["accuracy"]) != (row["seconds"], -row["accuracy"])
            for other in rows
            if (other["setting"], other["n_per_class"]) == (row["setting"], row["n_per_class"])
        )

    return [row | {"best": not beaten(row)} for row in rows]


def machines(board: pd.DataFrame) -> pd.DataFrame:
    """What the runs ran on: device, threads, versions, runs, hours, peak_memory_mib.

    Raises:
        DataError: when the leaderboard has no cost columns.
    """
    names = ["device", "threads", "versions"]
    if any(name not in board.columns for name in (*names, "seconds", "peak_memory_mib")):
        raise DataError(
            "the leaderboard has no cost columns", hint="give the CSV that bench grid wrote"
        )
    done = board[board["status"].isin(["done", "diverged"]) & board["seconds"].notna()]
    rows = [
        {name: group[name].iloc[0] for name in names}
        | {"runs": len(group), "hours": float(group["seconds"].sum()) / 3600}
        | {"peak_memory_mib": float(group["peak_memory_mib"].max())}
        for _, group in done.groupby(key_of(done, names) if len(done) else [], sort=True)
    ]
    return pd.DataFrame(rows, columns=[*names, "runs", "hours", "peak_memory_mib"])


def unfinished(board: pd.DataFrame) -> pd.DataFrame:
    """Runs without a result or that diverged: status, reason, experiments and how many."""
    bad = board[board["status"] != "done"].copy()
    for name in ("reason", "experiments"):
        known = bad[name] if name in bad.columns else pd.Series(index=bad.index, dtype=object)
        bad[name] = ["" if value is None or value != value else str(value) for value in known]
    rows = [
        {"status": status, "reason": reason, "experiments": experiments, "runs": len(group)}
        for (status, reason, experiments), group in bad.groupby(
            ["status", "reason", "experiments"], sort=True
        )
    ]
    return pd.DataFrame(rows, columns=["status", "reason", "experiments", "runs"])
