"""What a soup averages are fine-tunings: in plans, in dry runs and on clusters."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from typer.testing import CliRunner

from bench.commands.app import app
from bench.launch.slurm.ledger import Ledger
from bench.launch.slurm.packing import pack
from bench.launch.slurm.settings import SlurmSettings
from bench.launch.slurm.states import RunView
from bench.planning.workspace import open_session
from bench.results.leaderboard import describe

GRID = """\
defaults:
  target: {dataset: digits, images_per_class: 4, val_per_class: 2, test_per_class: 5}
  model: narrow8_32
  pattern: tune
  train: {epochs: 1}
  pretrain: {epochs: 1}
experiments:
  soup: {set: {source: self, method: {name: soup, over: {train.lr: [0.1, 0.2, 0.3]}}}}
  one: {set: {source: self, train.lr: 0.1}}
"""


def test_ingredients_are_no_sources(tmp_path: Path) -> None:
    path, results = tmp_path / "grid.yaml", tmp_path / "results"
    path.write_text(GRID)
    session = open_session(path, results=results)
    runs = session.plan.runs
    roles = Counter(run.role for run in runs.values())
    assert roles == {"source": 1, "ingredient": 2, "finetune": 2}  # one is asked for by itself
    views = [RunView(run, "missing") for run in runs.values()]
    kinds: Counter[str] = Counter()
    for piece in pack(views, SlurmSettings(), [], Ledger(), session.store):
        kinds[piece.kind] += len(piece.runs)
    assert kinds == {"source": 1, "finetune": 4}
    rows = describe(session.plan).values()
    assert Counter(row["role"] for row in rows) == {"source": 3, "finetune": 2}  # as nobody asked

    dry = CliRunner().invoke(app, ["grid", str(path), "--dry-run", "--results", str(results)])
    lines = [line.split() for line in dry.output.splitlines()]
    counts = {line[0]: line[-5] for line in lines if line and line[0].startswith("(")}
    assert counts == {"(sources)": "1", "(ingredients)": "2"}, dry.output


def test_a_run_that_others_start_from_is_a_source_though_a_soup_has_it(tmp_path: Path) -> None:
    """Only what it is there for counts: here also as the parent of an experiment's run."""
    path = tmp_path / "grid.yaml"
    child = "parent: {source: self, pattern: tune, train: {lr: 0.2, epochs: 1}}, pattern: freeze"
    path.write_text(
        GRID.replace("one: {set: {source: self, train.lr: 0.1}}", f"child: {{set: {{{child}}}}}")
    )
    roles = Counter(run.role for run in open_session(path, results=tmp_path).plan.runs.values())
    assert roles == {"source": 2, "ingredient": 2, "finetune": 2}
