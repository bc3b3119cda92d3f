"""Records to CSV: one row per run, and one per condition with an interval over its seeds.

Deterministic columns first, rows sorted by them, cost columns last; a run without a result has a
row that says why. The leaderboard is a view: it can be deleted and written again.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import BenchError, StoreError, nearest
from bench.plan import Plan
from bench.records import COLUMNS, METRIC_COLUMNS, describe_run
from bench.store import Store, write_atomic

__all__ = [
    "aggregate",
    "baselines_of",
    "best_of",
    "conditions",
    "of_experiment",
    "rows",
    "save",
    "to_csv",
    "write",
]

Row = dict[str, Any]

_SEED_COLUMNS = ("class_draw", "seed_draw", "seed_init", "seed_order")
_AGGREGATED_METRICS = ("top1_accuracy", "mean_class_accuracy", "test_loss", "val_top1_accuracy")
_VERIFICATION_METRICS = tuple(name for name in METRIC_COLUMNS if name.startswith("tar_at_far"))
_NOT_CONDITIONS = (
    *METRIC_COLUMNS,
    *_SEED_COLUMNS,
    "experiments",
    "status",
    "reason",
    "verification_warning",
    "run_id",
    "parent_id",
)


def rows(plan: Plan, store: Store) -> list[Row]:
    """A row for every training of the plan, sorted by its deterministic columns.

    Extractions train nothing and have no row; see `analysis.measured`.
    """
    published = store.published()
    empty: Row = dict.fromkeys(column.name for column in COLUMNS)
    found: dict[str, Row] = {}
    for run in plan.runs.values():
        if run.role == "extract":
            continue
        folder = store.folder(run.id, run.spec)
        record, damage = None, None
        try:
            record = folder.record() if run.id in published else None
        except StoreError as error:
            damage = error
        row = empty | describe_run(run.spec)
        row |= {
            "experiments": ";".join(sorted(run.experiments)),
            "role": run.role,
            "run_id": run.id,
            "parent_id": run.parent_id,
            "target_classes": len(run.facts.classes),
            "source_classes": _source_classes(plan, run.parent_id),
            "train_images": run.facts.train_images,
        }
        if record is not None:
            row |= {name: value for name, value in record["row"].items() if name in row}
        elif damage is not None:
            row["status"], row["reason"] = "damaged", str(damage).replace("\n  ", "; ")
        else:
            failures = folder.failures()
            row["status"] = "failed" if failures else "missing"
            row["reason"] = _one_line(failures[-1]) if failures else None
        found[run.id] = row
    _mark_blocked(plan, found)
    return sorted(found.values(), key=_sort_key)


def _source_classes(plan: Plan, parent_id: str | None) -> int | None:
    return len(plan.runs[parent_id].facts.classes) if parent_id else None


def _mark_blocked(plan: Plan, found: Mapping[str, Row]) -> None:
    """A missing run below one that ended without weights is blocked, and by whom is said."""
    bad = [key for key, row in found.items() if row["status"] in ("failed", "diverged", "damaged")]
    for key, blocker in plan.descendants(bad).items():
        if key in found and found[key]["status"] == "missing":
            found[key]["status"] = "blocked"
            found[key]["reason"] = f"by {blocker}, {found[blocker]['status']}"


def _one_line(failure: Mapping[str, Any]) -> str:
    text = f"{failure.get('reason', 'unknown')}: {failure.get('message', '')}"
    return " ".join(text.split())[:200]


def _sort_key(row: Row) -> list[tuple[int, float, str]]:
    """Numbers by size, text by letters, nothing first; the id last settles what is left."""
    return [_orderable(row.get(name)) for name in _ORDER]


def describe_order() -> tuple[str, ...]:
    """The factor columns in leaderboard order."""
    return tuple(column.name for column in COLUMNS if column.kind == "factor")


_ORDER = ("role", "experiments", *describe_order(), "run_id")


def _orderable(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, (int, float)):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def aggregate(table: Sequence[Row], plan: Plan | None = None) -> list[Row]:
    """One row per experiment and condition; a run of two experiments counts in both.

    Sources come last, under no experiment's name. See `conditions` for the columns. With the
    plan, conditions are compared with the baselines that it names.
    """
    names = sorted({name for row in table for name in str(row["experiments"]).split(";")})
    return [
        {"experiment": name} | {k: v for k, v in condition.items() if k != "train_images_used"}
        for name in sorted(names, key=lambda name: (not name, name))
        for condition in conditions(of_experiment(table, name), baselines_of(name, plan))
    ]


def baselines_of(experiment: str, plan: Plan | None) -> dict[str, str]:
    """Run ids of an experiment with the ids that they are compared with."""
    pairs = plan.baselines.items() if plan else ()
    return {run: baseline for (name, run), baseline in pairs if name == experiment}


def of_experiment(table: Sequence[Row], name: str) -> list[Row]:
    """The rows of one experiment."""
    return [row for row in table if name in str(row["experiments"]).split(";")]


def conditions(table: Sequence[Row], baselines: Mapping[str, str] | None = None) -> list[Row]:
    """One row per condition: mean, sample standard deviation (ddof 1), n and a 95 % interval.

    Rows that differ only in seeds and class draws are one condition. The interval is Student's t
    on n - 1 degrees of freedom over the finished repetitions; it is empty when n is 1 and when all
    are equal. `n_missing` counts repetitions without a result, `n_diverged` those that
    diverged. `top1_over_baseline` is the mean difference to the baseline of the same draw and
    seeds, over `n_pairs` pairs.
    """
    accuracy = {row["run_id"]: row["top1_accuracy"] for row in table if row["status"] == "done"}
    factors = [c.name for c in COLUMNS if c.kind in ("factor", "identity")]
    factors = [name for name in factors if name not in _NOT_CONDITIONS]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table:
        groups.setdefault(tuple(row.get(name) for name in factors), []).append(row)
    return [
        dict(zip(factors, key, strict=True))
        | _summary(members)
        | _paired(members, accuracy, baselines or {})
        for key, members in groups.items()
    ]


def _paired(
    members: Sequence[Row], accuracy: Mapping[str, float], baselines: Mapping[str, str]
) -> Row:
    """Differences in top-1 accuracy to the baseline's run with the same draw and seeds."""
    pairs = [(row["run_id"], baselines.get(row["run_id"])) for row in members]
    values = [
        accuracy[run] - accuracy[other]
        for run, other in pairs
        if other is not None and run != other and run in accuracy and other in accuracy
    ]
    mean, _, half = mean_interval(values)
    return {
        "n_pairs": len(values) or None,
        "top1_over_baseline_mean": mean,
        "top1_over_baseline_low": None if half is None or mean is None else mean - half,
        "top1_over_baseline_high": None if half is None or mean is None else mean + half,
    }


def best_of(found: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Of conditions that differ in `columns` alone, the one with the best mean validation accuracy.

    Test accuracies play no part in the choice. Conditions without a finished run are left out only
    where another one of their group has one.

    Raises:
        BenchError: for a column that conditions do not have.
    """
    for column in columns:
        if found and column not in found[0]:
            raise BenchError(
                f"conditions have no column {column!r}",
                hint=f"factors: {nearest(column, describe_order())}",
            )
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in found:
        key = [row.get(name) for name in describe_order() if name not in columns]
        groups.setdefault(tuple(key), []).append(row)
    return [
        max(group, key=lambda row: -1.0 if (v := row["val_top1_accuracy_mean"]) is None else v)
        for group in groups.values()
    ]


def _summary(members: Sequence[Row]) -> Row:
    done = [row for row in members if row["status"] == "done"]
    summary: Row = {
        "n": len(done),
        "n_diverged": sum(row["status"] == "diverged" for row in members),
        "n_missing": sum(row["status"] not in ("done", "diverged") for row in members),
        "class_draws": len({row["class_draw"] for row in done}),
        "train_images_used": _images_used(done),
    }
    verified = any(row.get("verification") for row in members)
    for name in (*_AGGREGATED_METRICS, *(_VERIFICATION_METRICS if verified else ())):
        values = [float(row[name]) for row in done if row.get(name) is not None]
        mean, deviation, half = mean_interval(values)
        summary[f"{name}_mean"] = mean
        summary[f"{name}_std"] = deviation
        summary[f"{name}_low"] = None if half is None or mean is None else mean - half
        summary[f"{name}_high"] = None if half is None or mean is None else mean + half
    return summary


def _images_used(done: Sequence[Row]) -> str | None:
    """How many training images there were where they are not as many as asked for: `51 of 60`."""
    counts: set[tuple[int, int]] = set()
    for row in done:
        asked, classes, used = (
            row.get(name) for name in ("images_per_class", "target_classes", "train_images")
        )
        if asked is not None and classes is not None and used is not None:
            counts.add((int(used), int(asked) * int(classes)))
    if all(used == asked for used, asked in counts):
        return None
    least, most = min(counts), max(counts)
    used = f"{least[0]}" if least[0] == most[0] else f"{least[0]} to {most[0]}"
    return f"{used} of {most[1]}"


def mean_interval(
    values: Sequence[float], level: float = 0.95
) -> tuple[float | None, float | None, float | None]:
    """Mean, sample standard deviation and half width of Student's interval; None where undefined.

    Equal values have no interval: that they agree is luck, and a spread of 0 no certainty.

    >>> mean_interval([1.0]), mean_interval([1.0, 1.0])
    ((1.0, None, None), (1.0, 0.0, None))
    """
    n = len(values)
    if n == 0:
        return None, None, None
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None, None
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if max(values) - min(values) <= 1e-9 * max(*map(abs, values), 1e-3):
        return mean, 0.0, None
    quantile = float(stdtrit(n - 1, 0.5 + level / 2))
    return mean, deviation, quantile * deviation / math.sqrt(n)


def to_csv(table: Iterable[Row], columns: Sequence[str] | None = None) -> str:
    """The table as CSV; floats with six significant decimals, nothing for None."""
    table = list(table)
    names = list(columns or dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in table:
        writer.writerow([_cell(row.get(name)) for name in names])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return (
            f"{value:.6f}".rstrip("0").rstrip(".")
            if abs(value) >= 1e-4 or value == 0
            else repr(value)
        )
    return str(value)


def write(plan: Plan, store: Store, name: str | None = None) -> list[Row]:
    """Writes both leaderboards of a grid; gives the rows back.

    Args:
        name: of the files, `Session.board`; else the grid's.

    Raises:
        StoreError: the results folder cannot be written.
    """
    table = rows(plan, store)
    save(table, plan, store, name)
    return table


def save(table: Sequence[Row], plan: Plan, store: Store, name: str | None = None) -> None:
    """Writes rows that `rows` gave, and their conditions.

    Raises:
        StoreError: the results folder cannot be written.
    """
    columns = [column.name for column in COLUMNS]
    name = name or plan.name
    try:
        write_atomic(store.leaderboard(name), to_csv(table, columns))
        write_atomic(store.leaderboard(name, "-aggregated"), to_csv(aggregate(table, plan)))
    except OSError as error:
        raise StoreError(
            f"the leaderboard cannot be written: {error.strerror}",
            place=str(store.leaderboard(name)),
            hint="the results themselves are safe; free the folder, then: bench leaderboard GRID",
        ) from None
