"""Records to CSV: one row per run, and one per condition with an interval
(`bench.results.aggregate`).

Deterministic columns first, rows sorted by them, cost columns last; a run without a result has a
row with the reason. Every setting that differs among the runs has a column of its own, found from
the specs (`bench.results.conditions`). The leaderboard is a view: it can be deleted and made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.core.errors import StoreError
from bench.core.files import csv_text, write_atomic
from bench.core.paths import read_regular
from bench.core.tables import csv_rows, utf8_text
from bench.results.aggregate import (
    aggregate,
    describe_order,
    images_used,
    of_experiment,
    setting_columns,
)
from bench.results.conditions import Settings, differing
from bench.results.predictions import add_predictions
from bench.results.records import COLUMNS, describe_run, same_selection
from bench.results.resolved import PRECISION, Values, specs_as_run
from bench.results.states import Records, blocked
from bench.results.store import Store
from bench.specs.data import DataSpec
from bench.specs.planned import Plan, PlannedRun

Row = dict[str, Any]


def rows(plan: Plan, store: Store, records: Records | None = None) -> list[Row]:
    """A row for every training of the plan, sorted by its deterministic columns.

    Rows of conditions with one task also have `correct`, see `bench.results.predictions`; it is no
    column.

    Extractions train nothing and have no row; see `analysis.measurements.tables`.

    Args:
        records: those of the plan, where they are known already.
    """
    records = records or Records(plan, store)
    readings = records.read()
    done = {key: one.record for key, one in readings.items() if one.record is not None}
    found = describe(plan, {key: record["resolved"] for key, record in done.items()})
    for key, row in found.items():
        reading = readings.get(key)
        if reading is None:
            failures = records.folder(plan.runs[key]).failures()
            row["status"] = "failed" if failures else "missing"
            row["reason"] = _one_line(failures[-1]) if failures else None
        elif reading.record is None:
            row["status"] = reading.state
            row["reason"] = str(reading.error).replace("\n  ", "; ")
        else:
            row |= {n: value for n, value in reading.record["row"].items() if n in row}
    for key, by in blocked(plan, {key: row["status"] for key, row in found.items()}).items():
        found[key] |= {"status": "blocked", "reason": f"by {by}, {found[by]['status']}"}
    _mark_children(found, plan)
    add_predictions(list(found.values()), records, readings)
    return sort_rows(found.values())


def _mark_children(found: Mapping[str, Row], plan: Plan) -> None:
    """Marks the runs that start from one whose training never left chance, and soups of such."""

    def stuck(key: str | None) -> bool:
        row = found.get(key or "", {})
        return row.get("not_converged") == "run" or bool(row and stuck(row["parent_id"]))

    for row in found.values():
        if row["not_converged"] is None and row["status"] == "done":
            averaged = plan.runs[row["run_id"]].ingredient_ids
            if stuck(row["parent_id"]) or (averaged and all(map(stuck, averaged))):
                row["not_converged"] = "source"


def describe(plan: Plan, resolved: Mapping[str, Values] = MappingProxyType({})) -> dict[str, Row]:
    """A row for every training of the plan by run id, with what is known before it has run.

    Beside the fixed columns a row has one for each setting that differs among the plan's runs of
    one role, for options of methods and of borrowed selections that are not at their default, and
    for settings that were left to the device.

    Args:
        plan: of a grid.
        resolved: what the settings left to the device were, by run id.
    """
    runs = [run for run in plan.runs.values() if run.role != "extract"]
    data_sets = _data_sets(plan)
    known = Settings(lambda data: data_sets.get(data))
    specs = specs_as_run(plan, resolved)
    parts = {run.id: known.parts(specs[run.id]) for run in runs}
    conditions = {run.id: known.condition(specs[run.id]) for run in runs}
    roles = {run.id: "finetune" if run.experiments else "source" for run in runs}
    shown = differing([(roles[run.id], conditions[run.id], parts[run.id]) for run in runs])
    left = [PRECISION] if any(run.spec.train.precision == "auto" for run in runs) else []
    shown = list(dict.fromkeys([*shown, *_unusual(runs), *left]))
    columns = _Columns(shown)
    empty: Row = dict.fromkeys(column.name for column in COLUMNS)
    return {
        run.id: {
            **empty,
            **describe_run(run.spec),
            **columns(parts[run.id]),
            "experiments": ";".join(sorted(run.experiments)),
            "role": roles[run.id],
            "run_id": run.id,
            "condition_id": conditions[run.id],
            "recipe_id": known.recipe(specs[run.id]),
            "task_id": known.task(run.spec),
            "parent_id": run.parent_id,
            "target_classes": len(run.facts.classes),
            "source_classes": _source_classes(plan, run.parent_id),
            "source_class_overlap": _class_overlap(plan, run),
            "train_images": run.facts.train_images,
            "available_images": run.facts.available_images or None,
        }
        for run in runs
    }


def _data_sets(plan: Plan) -> dict[DataSpec, str]:
    """Fingerprints of the data sets behind selections with a folder of their own."""
    found: dict[DataSpec, str] = {}
    for run in plan.runs.values():
        pairs = [(run.spec.data, run.facts)]
        pairs += zip((b.data for b in run.spec.borrow), run.facts.borrowed, strict=False)
        for data, facts in pairs:
            if data.root is not None and facts.dataset_fingerprint:
                found[data] = facts.dataset_fingerprint
    return found


class _Columns:
    """The settings that a leaderboard shows, of runs by their parts; a part is looked at once."""

    def __init__(self, shown: Sequence[str]) -> None:
        self._empty: Row = dict.fromkeys(shown)
        self._of_part: dict[int, Row] = {}

    def __call__(self, parts: Iterable[Mapping[str, Any]]) -> Row:
        found = dict(self._empty)
        for part in parts:
            if id(part) not in self._of_part:
                self._of_part[id(part)] = {n: part[n] for n in self._empty if n in part}
            found.update(self._of_part[id(part)])
        return found


def _unusual(runs: Sequence[PlannedRun]) -> list[str]:
    """Options of methods and of what is borrowed that are not at their default, in any run."""
    from bench.methods import defaults_of

    found: dict[str, None] = {}
    for run in runs:
        if run.spec.method.options:
            defaults = defaults_of(run.spec.method.name)
            for name, value in run.spec.method.options:
                if defaults.get(name, value) != value:
                    found[f"method.{name}"] = None
        for number, borrowed in enumerate(run.spec.borrow, start=1):
            for name in ("categories", "images", "total_images", "exclude_overlap"):
                if getattr(borrowed, name) not in (None, False):
                    found[f"borrow{number if number > 1 else ''}.{name}"] = None
    return list(found)


def _source_classes(plan: Plan, parent_id: str | None) -> int | None:
    return len(plan.runs[parent_id].facts.classes) if parent_id else None


def _class_overlap(plan: Plan, run: PlannedRun) -> int | None:
    """Target classes that the run's sources or what it borrows have too (LI-A3).

    None where nothing is copied or borrowed but the target itself, or no names can be compared.
    """
    own, others = run.spec.data, list(run.facts.borrowed)
    parent = plan.runs.get(run.parent_id or "")
    while parent is not None:
        others += [] if same_selection(parent.spec.data, own) else [parent.facts]
        others += parent.facts.borrowed
        parent = plan.runs.get(parent.parent_id or "")
    named = [set(facts.classes) for facts in others if facts.key_space == run.facts.key_space]
    return len(set(run.facts.classes) & set().union(*named)) if named else None


def _one_line(failure: Mapping[str, Any]) -> str:
    text = f"{failure.get('reason', 'unknown')}: {failure.get('message', '')}"
    return " ".join(text.split())[:200]


def sort_rows(table: Iterable[Row]) -> list[Row]:
    """The rows in the order of a leaderboard: by `_ORDER`, then by settings, the id last.

    Numbers by size, text by letters, nothing first.
    """
    table = list(table)
    settings = dict.fromkeys(name for row in table for name in row if "." in name)
    order = [(name, _place_of({row.get(name) for row in table})) for name in (*_ORDER, *settings)]
    differing = [(name, places) for name, places in order if len(places) > 1]

    def key(row: Row) -> tuple[list[int], str]:
        return [places[row.get(name)] for name, places in differing], row["run_id"]

    return sorted(table, key=key)


_ORDER = ("role", "experiments", *describe_order())


def _place_of(values: Iterable[Any]) -> dict[Any, int]:
    """The place of each value of a column in its order; equal ones have one place."""
    order = {value: _orderable(value) for value in values}
    places = {one: place for place, one in enumerate(sorted(set(order.values())))}
    return {value: places[one] for value, one in order.items()}


def _orderable(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, (int, float)):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def to_csv(table: Iterable[Row], columns: Sequence[str] | None = None) -> str:
    """The table as CSV; floats with six significant decimals, nothing for None."""
    wanted = set(columns) if columns else None  # rows hold arrays that no column shows
    cells = (
        {name: _cell(value) for name, value in row.items() if wanted is None or name in wanted}
        for row in table
    )
    return csv_text(cells, columns)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return (
            f"{value:.6f}".rstrip("0").rstrip(".")
            if abs(value) >= 1e-4 or value == 0
            else repr(value)
        )
    return str(value)


def write(
    plan: Plan, store: Store, name: str | None = None, records: Records | None = None
) -> list[Row]:
    """Writes both leaderboards of a grid; gives the rows back.

    Args:
        records: see `rows`.
        name: of the files, `Session.board`; else the grid's.

    Raises:
        StoreError: the results folder cannot be written.
    """
    table = rows(plan, store, records)
    save(table, plan, store, name)
    return table


def save(table: Sequence[Row], plan: Plan, store: Store, name: str | None = None) -> None:
    """Writes rows that `rows` gave, and their conditions.

    Raises:
        StoreError: the results folder cannot be written.
    """
    name = name or plan.name
    try:
        write_atomic(store.leaderboard(name), to_csv(table, columns_of(table)))
        write_atomic(store.leaderboard(name, "-aggregated"), to_csv(aggregate(table, plan)))
    except OSError as error:
        raise StoreError(
            f"the leaderboard cannot be written: {error.strerror}",
            place=str(store.leaderboard(name)),
            hint="the results themselves are safe; free the folder, then: bench leaderboard GRID",
        ) from None


def columns_of(table: Sequence[Row]) -> list[str]:
    """The columns of a leaderboard in order: factors, the settings that differ, metrics, costs."""
    names = [column.name for column in COLUMNS]
    place = 1 + max(i for i, column in enumerate(COLUMNS) if column.kind == "factor")
    return [*names[:place], *setting_columns(table), *names[place:]]


# --- what lies there already ---

_MOST_CSV = 1 << 30


def read_rows(path: Path, needed: Iterable[str] = ("experiments", "run_id", "status")) -> list[Row]:
    """The rows of a leaderboard as it was written: numbers as numbers, None for an empty cell.

    Raises:
        StoreError: it is not there, or is no leaderboard with the columns `needed`.
    """
    try:
        text = utf8_text(read_regular(path, _MOST_CSV), str(path), StoreError)
        rows = [row for _, row in csv_rows(text, str(path), StoreError)]
        columns = rows[0] if rows else []
        lacking = sorted(set(needed) - set(columns)) if len(rows) > 1 else []
        reason, place = f"there is no column {lacking[0]!r}" if lacking else None, str(path)
    except OSError as error:
        reason, place = error.strerror or str(error), str(path)
    except StoreError as error:
        reason, place = error.message, error.place or str(path)
    if reason:
        raise StoreError(
            f"the leaderboard cannot be read: {reason}",
            place=place,
            hint="where the grid's images lie, bench leaderboard GRID writes it anew",
        )
    return [
        {name: _value(cell) for name, cell in zip_longest(columns, row, fillvalue="") if name}
        for row in rows[1:]
    ]


def _value(cell: str) -> Any:
    """What `_cell` wrote; text that only looks like a number, such as 007, stays text."""
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in (int, float):
        try:
            value = kind(cell)
        except ValueError:
            continue
        if _cell(value) == cell:
            return value
    return cell


_OF_CONDITIONS = ("experiment", "condition_id", "method", "unit", "top1_over_baseline_mean")


def read_conditions(store: Store, name: str) -> list[Row]:
    """The conditions that `save` wrote, one row for each experiment that a condition is part of.

    Raises:
        StoreError: they or their runs are not there, or are no leaderboard.
    """
    of_condition: dict[Any, list[Row]] = {}
    for row in read_rows(store.leaderboard(name)):
        of_condition.setdefault(row.get("condition_id"), []).append(row)
    found = read_rows(store.leaderboard(name, "-aggregated"), _OF_CONDITIONS)
    for condition in found:
        own = str(condition.get("experiment"))
        runs = of_experiment(of_condition.get(condition.get("condition_id"), []), own)
        condition["train_images_used"] = images_used(runs)
    return found
