"""What the shipped grids are and print, so that a change of the code cannot move it unseen.

    python scripts/golden.py            # writes tests/golden.json

`tests/test_golden.py` compares. A run's id is a digest of its spec and of the images that it
selects; grids whose data everybody has (made up, or part of a library) have ids here, others the
digest of their specs.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bench.commands.app import app
from bench.grid.expand import load_grid
from bench.results.conditions import Settings
from bench.specs.data import Frozen
from bench.specs.run import RunSpec, canonical_json

ROOT = Path(__file__).parents[1]
GRIDS = sorted((ROOT / "grids").rglob("*.yaml"))
OUT = ROOT / "tests" / "golden.json"
_TIME = re.compile(r"\b\d+ (min|s|h)( \d\d (min|s))?\b")


def golden(path: Path) -> dict[str, Any]:
    """Number and digests of a grid's specs and conditions, and its dry run without times."""
    grid = load_grid(path)
    specs: dict[RunSpec, None] = {}
    for experiment in grid.experiments:
        for run in experiment.runs:
            for parent in run.ancestors():
                specs.setdefault(parent)
            specs.setdefault(run)
    settings = Settings()
    return {
        "specs": len(specs),
        "specs_sha256": _digest(canonical_json(_written(spec)) for spec in specs),
        "conditions": len({settings.condition(spec) for spec in specs}),
        "conditions_sha256": _digest({settings.condition(spec) for spec in specs}),
        "recipes_sha256": _digest({settings.recipe(spec) for spec in specs}),
        "dry_run": _dry_run(path),
    }


def _written(value: Any) -> Any:
    """A spec as JSON values, without options that came later and are at their default.

    Where a package of weights is installed says nothing of the run.
    """
    if isinstance(value, Frozen):
        fields = set(type(value).model_fields) - value.quiet_fields()
        fields -= {"path"} if getattr(value, "package", None) else set()
        return {name: _written(getattr(value, name)) for name in fields}
    return [_written(one) for one in value] if isinstance(value, tuple) else value


def _dry_run(path: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as results:
        arguments = ["grid", str(path.relative_to(ROOT)), "--dry-run", "--results", results]
        said = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "BENCH_DATA": ""}).output
    lines = [_TIME.sub("TIME", line) for line in said.splitlines()]
    lines = [line.removesuffix(", TIME of it to decode images") for line in lines]
    return [re.sub(r"  +", "  ", line).rstrip() for line in lines]


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def name_of(path: Path) -> str:
    """A grid's place below the repository, the key in the file."""
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    OUT.write_text(json.dumps({name_of(p): golden(p) for p in GRIDS}, indent=1) + "\n")
    print(OUT)
