"""Leaderboard rows to conditions: means over tasks with intervals, differences to a baseline.

Rows of one `condition_id` repeat each other. Where a condition was repeated over several tasks, the
interval is over tasks; where there is one, it is over its seeds, with the sampling error of its
test images, and speaks of this task only (`bench.results.intervals`). A run that diverged counts at
chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.errors import BenchError, nearest
from bench.results.conditions import is_repetition
from bench.results.intervals import Estimate, Observation, clipped, estimate
from bench.results.records import COLUMNS, METRIC_COLUMNS
from bench.specs.planned import Plan

Row = dict[str, Any]

REPETITION_COLUMNS = ("class_draw", "seed_draw", "seed_init", "seed_order")
_METRICS = ("top1_accuracy", "mean_class_accuracy", "test_loss", "val_top1_accuracy")
_VERIFICATION = tuple(name for name in METRIC_COLUMNS if name.startswith("tar_at_far"))
_OF_A_RUN = (
    *("experiments", "status", "not_converged", "reason", "verification_warning"),
    *("run_id", "parent_id"),
)
_FIXED = frozenset(column.name for column in COLUMNS)
_FACTORS = tuple(column.name for column in COLUMNS if column.kind == "factor")
_IDENTITIES = tuple(
    c.name for c in COLUMNS if c.kind == "identity" and c.name not in (*_OF_A_RUN, "task_id")
)


def describe_order() -> tuple[str, ...]:
    """The factor columns in leaderboard order."""
    return _FACTORS


def setting_columns(table: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that only some leaderboards have: settings that differ among their runs.

    >>> setting_columns([{"lr": 0.1, "train.momentum": 0.9}])
    ['train.momentum']
    """
    names = dict.fromkeys(name for row in table for name in row)
    return [name for name in names if name not in _FIXED and "." in name]


def outcome(row: Mapping[str, Any], metric: str) -> float | None:
    """A run's value of a metric; of one that diverged what guessing gives. None: no result.

    >>> outcome({"status": "diverged", "target_classes": 20}, "top1_accuracy")
    0.05
    >>> outcome({"status": "diverged", "target_classes": 20}, "tar_at_far_1e-2")
    0.01
    """
    if row["status"] == "done":
        value = row.get(metric)
        return None if value is None else float(value)
    classes = row.get("target_classes")
    if row["status"] != "diverged" or not classes:
        return None
    if metric == "test_loss":
        return math.log(float(classes))
    if metric.startswith("tar_at_far_"):  # chance accepts as many pairs of one identity as others
        return float(metric.removeprefix("tar_at_far_"))
    return 1 / float(classes) if metric.endswith("accuracy") else None


# --- conditions ---------------------------------------------------------------------------------


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
    """One row per condition: mean over tasks, standard deviation, counts and a 95 % interval.

    Returns:
        The settings of the condition, then `n` runs with a result (`n_diverged` of them at
        chance, `n_not_converged` whose training, or source, never left it), `n_missing` without
        one, `tasks`, and `unit`: what the interval counts. Each
        metric has `_mean`, `_std` (over the units, ddof 1), `_low`, `_high`; accuracies' intervals
        are cut at 0 and 1. `top1_over_baseline` is the mean difference to the baseline of the same
        task and seeds, over `n_pairs` pairs, with an interval by the same rule.
    """
    by_id = {str(row["run_id"]): row for row in table}
    held = [*_FACTORS, *setting_columns(table)]
    held = [n for n in held if n not in REPETITION_COLUMNS and not is_repetition(n)]
    groups: dict[Any, list[Row]] = {}
    for row in table:
        own = row.get("condition_id")
        key = (row.get("role"), own) if own else tuple(row.get(name) for name in held)
        groups.setdefault(key, []).append(row)
    return [
        {name: members[0].get(name) for name in (*held, *_IDENTITIES)}
        | _summary(members)
        | _paired(members, by_id, baselines or {})
        for members in groups.values()
    ]


def _summary(members: Sequence[Row]) -> Row:
    done = [row for row in members if row["status"] == "done"]
    used = [row for row in members if outcome(row, "top1_accuracy") is not None]
    summary: Row = {
        "n": len(used),
        "n_diverged": sum(row["status"] == "diverged" for row in members),
        "n_not_converged": sum(bool(row.get("not_converged")) for row in used),
        "n_missing": sum(row["status"] not in ("done", "diverged") for row in members),
        "class_draws": len({row["class_draw"] for row in used}),
        "tasks": len({_task(row) for row in used}),
        "unit": None,
        "train_images_used": images_used(members),
    }
    for name in ("train_images", "val_images", "test_images"):
        counts = sorted({int(row[name]) for row in done if row.get(name) is not None})
        summary[name] = counts[0] if len(counts) == 1 else " to ".join(map(str, counts)) or None
    verified = any(row.get("verification") for row in members)
    for name in (*_METRICS, *(_VERIFICATION if verified else ())):
        known = [row for row in done if row.get(name) is not None]
        # Chance stands for diverged runs beside results, not where no run has the metric at all.
        used_rows = members if known or not done else []
        found = _estimate([_observation(row, name) for row in used_rows])
        if found is not None and name != "test_loss":
            found = clipped(found, 0.0, 1.0)
        summary |= _ends(name, found)
        summary[f"{name}_std"] = _spread(used_rows, name)
        if name == "top1_accuracy" and found is not None:
            summary["unit"] = found.unit
    return summary


def _ends(name: str, found: Estimate | None) -> Row:
    if found is None:
        return dict.fromkeys((f"{name}_mean", f"{name}_std", f"{name}_low", f"{name}_high"))
    return {
        f"{name}_mean": found.value,
        f"{name}_std": None,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
    }


def _spread(members: Sequence[Row], metric: str) -> float | None:
    """Sample standard deviation over the units: means of tasks, or the seeds of one."""
    tasks: dict[Any, list[float]] = {}
    for row in members:
        value = outcome(row, metric)
        if value is not None:
            tasks.setdefault(_task(row), []).append(value)
    values = [math.fsum(v) / len(v) for v in tasks.values()]
    values = next(iter(tasks.values())) if len(tasks) == 1 else values
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _estimate(found: Iterable[Observation | None]) -> Estimate | None:
    known = [one for one in found if one is not None]
    return estimate(known) if known else None


def _task(row: Mapping[str, Any]) -> str:
    named = row.get("task_id")
    return str(named or [row.get(name) for name in ("dataset", "target", "class_draw")])


def _seeds(row: Mapping[str, Any]) -> str:
    names = [*REPETITION_COLUMNS, *sorted(n for n in row if "." in n and is_repetition(n))]
    return str([row.get(name) for name in names])


def _overlap(row: Mapping[str, Any]) -> float | None:
    """The share of the images to draw from that the training images are."""
    used, available = row.get("train_images"), row.get("available_images")
    return float(used) / float(available) if used and available else None


def _observation(row: Row, metric: str) -> Observation | None:
    value = outcome(row, metric)
    if value is None:
        return None
    images = row.get("val_images" if metric.startswith("val") else "test_images")
    counted = metric.endswith("accuracy") and images
    exact = metric == "top1_accuracy" and row.get("correct") is not None
    return Observation(
        _task(row),
        _seeds(row),
        value,
        per_image=row["correct"].astype(float) if exact else None,
        image_variance=value * (1 - value) / float(images) if counted and images else None,
        overlap=_overlap(row),
        diverged=int(row["status"] == "diverged"),
    )


def _paired(members: Sequence[Row], by_id: Mapping[str, Row], baselines: Mapping[str, str]) -> Row:
    """Differences in top-1 accuracy to the baseline's run with the same task and seeds."""
    found = []
    for row in members:
        other = by_id.get(baselines.get(str(row["run_id"]), ""))
        if other is None or other is row:
            continue
        left, right = (_observation(side, "top1_accuracy") for side in (row, other))
        if left is not None and right is not None:
            found.append(_difference(left, right))
    result = _ends("top1_over_baseline", _estimate(found))
    del result["top1_over_baseline_std"]
    return {"n_pairs": len(found) or None} | result


def _difference(left: Observation, right: Observation) -> Observation:
    bounds = [left.image_variance, right.image_variance]
    known = [bound for bound in bounds if bound is not None]
    images = left.per_image, right.per_image
    both = images[0] is not None and images[1] is not None and images[0].size == images[1].size
    return Observation(
        left.task,
        left.repetition,
        left.value - right.value,
        per_image=images[0] - images[1] if both else None,  # type: ignore[operator]
        image_variance=math.fsum(known) if len(known) == 2 else None,
        overlap=left.overlap,
        diverged=left.diverged + right.diverged,
    )


def best_of(found: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Of conditions that differ in `columns` alone, the one with the best mean validation accuracy.

    Test accuracies play no part in the choice. A condition with runs that diverged is chosen only
    where all of its group have some; its diverged runs count at chance. One without a result is
    left out only where another one of its group has one.

    Raises:
        BenchError: for a column that conditions do not have.
    """
    settings = [*_FACTORS, *setting_columns(found)]
    for column in columns:
        if found and (column not in found[0] or column not in settings):
            raise BenchError(
                f"conditions have no column {column!r}",
                hint=f"factors: {nearest(column, settings)}",
            )
    free = set(columns)
    if "method_options" in free:
        free |= {name for name in settings if name.startswith("method.")}
    elif any(name.startswith("method.") for name in free):
        free.add("method_options")  # it repeats the options that have columns
    held = [name for name in settings if name not in free]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(tuple(row.get(name) for name in held), []).append(row)
    return [max(group, key=_merit) for group in groups.values()]


def _merit(row: Row) -> tuple[bool, bool, float]:
    mean = row["val_top1_accuracy_mean"]
    return mean is not None, not row["n_diverged"], -1.0 if mean is None else mean


def images_used(members: Sequence[Row]) -> str | None:
    """How many training images there were where they are not as many as asked for: `51 of 60`."""
    counts: set[tuple[int, int]] = set()
    for row in members:
        if row["status"] != "done":
            continue
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
