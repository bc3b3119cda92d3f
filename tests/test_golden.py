"""The shipped grids' specs, conditions and dry runs, and the findings on committed results, stay.

What changes on purpose is written anew by `python scripts/golden.py`; the commands for the findings
stand in `results/README.md`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("golden", ROOT / "scripts" / "golden.py")
assert _spec is not None
assert _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
GOLDEN = json.loads((ROOT / "tests" / "golden.json").read_text())


def test_every_shipped_grid_has_its_golden_values() -> None:
    assert sorted(map(script.name_of, script.GRIDS)) == sorted(GOLDEN)


@pytest.mark.parametrize("path", script.GRIDS, ids=script.name_of)
def test_specs_conditions_and_dry_runs_are_as_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert script.golden(path) == GOLDEN[script.name_of(path)]


@pytest.mark.parametrize(
    "name", ["best-practices", "multifaceted", "selective-joint", "soft-fine-tuning"]
)
def test_findings_on_the_committed_results_are_as_before(
    name: str, committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "results"
    here.symlink_to(committed, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    board = f"results/papers/{name}.csv"
    said = [
        CliRunner().invoke(app, ["findings", board, *more], env={"COLUMNS": "80"}).output
        for more in ([], ["--tables"])
    ]
    text = "\n".join(line.rstrip() for line in "\n".join(said).splitlines())
    known = (committed / "papers" / f"{name}-findings.txt").read_text()
    assert text.split() == known.split()
