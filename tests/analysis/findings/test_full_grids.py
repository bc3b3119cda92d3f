"""At full size, without any data, each paper's grid has the pairs that the paper's claims need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.findings.evaluate import CLAIMS
from analysis.leaderboard.of_grid import table_of
from analysis.leaderboard.read import prepare
from analysis.measurements.tables import evidence
from bench.planning.workspace import open_session
from bench.results.leaderboard import describe, sort_rows
from bench.results.records import COLUMNS
from bench.specs.run import RunSpec

FOLDER = Path(__file__).parents[3] / "grids" / "papers"
GRIDS = {
    "soft-fine-tuning": "SFT",
    "selective-joint": "GE",
    "multifaceted": "LI",
    "best-practices": "CHU",
}
MEASURED = {
    "LI-C11": "filters",
    "CHU-C3": "distances",
    "CHU-C4": "distances",
    "CHU-C5": "distances",
}
"""Claims on features, which `measure:` of the grid has extracted."""
CLASSES = {"all": 1000, "near_far": 500}


def board(name: str, folder: Path) -> pd.DataFrame:
    """The leaderboard of a grid as if all its runs were done, with numbers by chance."""
    session = open_session(FOLDER / f"{name}.yaml", results=folder, allow_missing=True)
    rows, rng = describe(session.plan), np.random.default_rng(0)
    for key, row in rows.items():
        spec = session.plan.runs[key].spec
        row |= {"status": "done", "train_images": 1000, "test_images": 500}
        row |= {c.name: float(rng.uniform(0.2, 0.9)) for c in COLUMNS if c.better == "higher"}
        if not spec.data.val_per_class:
            row["val_top1_accuracy"] = None
        if spec.evaluate is None:
            row |= {name: None for name in row if name.startswith("tar_at_far")}
        row |= {"train_loss": float(rng.uniform(0.1, 2)), "target_classes": number(spec)}
        row |= {"source_classes": None if spec.parent is None else number(spec.parent)}
        epochs = ("epochs_to_threshold", "epochs_to_converge")
        row |= {name: int(rng.integers(1, 50)) for name in epochs}
    return prepare(table_of(sort_rows(rows.values())))


def number(spec: RunSpec) -> int:
    """Of classes, which images that are not there do not tell."""
    classes = spec.data.classes
    asked = classes.take or getattr(classes, "n", None)
    if getattr(classes, "side", None) == "target":
        asked = asked or 100
    return int(asked or CLASSES.get(classes.recipe, 100))


@pytest.mark.parametrize("name", list(GRIDS))
def test_every_claim_of_a_paper_finds_its_pairs_in_the_papers_grid(
    name: str, tmp_path: Path
) -> None:
    found = evidence(board(name, tmp_path))
    asked = {
        m.name
        for m, _ in open_session(
            FOLDER / f"{name}.yaml", results=tmp_path, allow_missing=True
        ).plan.measures
    }
    for claim in CLAIMS:
        if not claim.id.startswith(GRIDS[name]):
            continue
        lacking = [part.name for part in claim.on_runs(found) if part.effect is None]
        if claim.id in MEASURED:
            assert MEASURED[claim.id] in asked
        else:
            assert not lacking, claim.id
