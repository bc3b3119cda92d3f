"""Planning, identities, records and start-up: what the harness itself costs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sized
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.grid.expand import Grid, load_grid
from bench.planning.plan import make_plan
from bench.results.leaderboard import rows
from bench.results.store import Store
from bench.specs.identity import RunIds, collector_paused
from bench.specs.planned import DataFacts, Plan
from bench.specs.run import RunSpec
from benchmarks.compare import Case, Pair

HEAD = """\
defaults:
  target:
    dataset: wordnet-shapes
    classes: {recipe: near_far, root: dog.n.01, side: target, target_n: 5, source_n: 10}
  model: narrow8_32
sources:
  near: {classes: {side: near}}
  far: {classes: {side: far}}
experiments:
  all:
    axes:
      source: [near, far]
      pattern: [tune, freeze, F(1-3)T(4-7)R(8), F(1-5)T(6-7)R(8), T(1-5)R(6-8)]
      target.images_per_class: [5, 10, 20, 50, 100]
"""


def grid_text(cells: int) -> str:
    """A grid of so many cells, a multiple of 1,000: 50 times up to 100 recipes, and seeds."""
    rates = [round(0.001 * (n + 1), 6) for n in range(10)]
    decays = [round(1e-4 * (n + 1), 6) for n in range(10 if cells >= 10_000 else 1)]
    seeds = list(range(cells // (500 * len(decays))))
    more = {"train.lr": rates, "train.weight_decay": decays, "seed": seeds}
    return HEAD + "".join(f"      {key}: {values}\n" for key, values in more.items())


def _facts(spec: RunSpec) -> DataFacts:
    """Images that are not there; a selection is told by its classes and its draw."""
    side = getattr(spec.data.classes, "side", "")
    return DataFacts(f"{side} {spec.seeds.draw}", (side,), spec.data.dataset, 100, 50)


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-harness-")


def _grid(cells: int) -> Grid:
    path = Path(_home().name) / f"grid{cells}.yaml"
    path.write_text(grid_text(cells))

    return load_grid(path)


def planned(cells: int) -> Plan:
    """The grid expanded, validated, hashed and planned."""
    return make_plan(_grid(cells), _facts)


def hashed(cells: int) -> set[str]:
    """The ids of a grid's cells: expanded, validated, hashed."""
    with collector_paused():
        id_of = RunIds(lambda run: _facts(run).fingerprint)
        return {id_of(run) for one in _grid(cells).experiments for run in one.runs}


def _expand(cells: int, sample: int, ours: Callable[[int], Sized]) -> Pair:
    """The peer writes each configuration as a mapping, validates it and hashes its JSON."""
    runs = [run.spec.model_dump(mode="json") for run in planned(1000).runs.values()][:sample]

    def peer() -> list[str]:
        found = []
        for run in runs:
            spec = RunSpec.model_validate(run)
            text = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
            found.append(hashlib.sha256(text.encode()).hexdigest())
        return found

    def check(found: Sized, theirs: list[str]) -> None:
        assert len(found) >= cells
        assert len(set(theirs)) == sample

    return Pair(partial(ours, cells), peer, check, cells / sample)


def _runs(cells: int) -> Sized:
    return planned(cells).runs


# --- records -------------------------------------------------------------------------------------


@cache
def _board(count: int) -> tuple[Plan, Store]:
    """A plan with a record for each run, as large as those of trainings are."""
    plan = planned(count)
    store = Store(Path(_home().name) / "results")
    for run in plan.runs.values():
        row = {"status": "done", "top1_accuracy": 0.5, "seconds": 1.0, "val_images": 10}
        record = {
            "run_id": run.id,
            "row": row | {f"column_{n}": n / 7 for n in range(60)},
            "files": {}, "sizes": {}, "classes": [f"n{n:08d}" for n in range(20)],
            "images": "0" * 64,
            "notes": {"data": {"dropped": [str(n) for n in range(20)]}, "training": []},
        }  # fmt: skip
        store.folder(run.id, run.spec).publish(record, [], run.spec)
    return plan, store


def _read(count: int) -> Pair:
    plan, store = _board(count)

    def peer() -> list[dict[str, Any]]:
        found = [json.loads(path.read_text())["row"] for path in store.runs.glob("*/record.json")]
        return sorted(found, key=lambda row: -row["top1_accuracy"])

    def check_rows(ours: list[Any], theirs: list[Any]) -> None:
        assert len(ours) == len(theirs) >= count

    return Pair(lambda: rows(plan, store), peer, check_rows)


# --- start-up ------------------------------------------------------------------------------------


def _help() -> Pair:
    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    return Pair(partial(run, "-m", "bench", "--help"), partial(run, "-c", "import torch, timm"))


def _cases() -> Iterator[Case]:
    peer = "pydantic and json.dumps + SHA-256 of each, 1,000 x 100"
    yield Case(
        "expand, validate and hash 100,000 configurations",
        peer,
        5.5,
        partial(_expand, 100_000, 1000, hashed),
        note="5,000 conditions of 20 seeds",
    )
    yield Case(
        "the same, planned: parents, data, equal cells",
        peer,
        3.5,
        partial(_expand, 100_000, 1000, _runs),
        note="the peer does not plan",
    )
    yield Case(
        "10,000 records into a leaderboard",
        "json.loads of each file and a sort, nothing verified",
        0.15,
        partial(_read, 10_000),
        note="target: under 2 s warm; every record's digest is checked",
    )
    yield Case(
        "bench --help",
        "a process that imports torch and timm",
        5,
        _help,
        note="start-up time",
    )


CASES = tuple(_cases())
