"""Curves over epochs, against sums by hand: which runs they go through, and what a mean is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.comparisons import epochs
from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.read import prepare
from bench.results.records import COLUMNS

TUNE, SCRATCH = "T(1-7)R(8)", "R(1-8)"


def row(key: str, **given: Any) -> dict[str, Any]:
    task = given.pop("task", 0)
    return (
        dict.fromkeys((c.name for c in COLUMNS), None)
        | {"status": "done", "role": "finetune", "source": "c 10", "source_classes": 10}
        | {"source_side": "source", "source_links": 1, "source_origin": "c 10", "dataset": "d"}
        | {"target": "t", "class_draw": task, "task_id": str(task), "images_per_class": 5}
        | {"model": "m", "pattern": TUNE, "method": "plain", "lr": 0.01, "borrowed_sets": 0}
        | {"seed_draw": task, "seed_init": task, "seed_order": task, "run_id": key}
        | {"top1_accuracy": 0.5, "target_classes": 4}
        | given
    )


def evidence(rows: list[dict[str, Any]]) -> Evidence:
    return Evidence(prepare(pd.DataFrame(rows)))


def runs_of(lines: pd.DataFrame) -> dict[str, list[str]]:
    return {str(line): sorted(group["run_id"]) for line, group in lines.groupby("line", sort=False)}


def from_nothing(key: str, **given: Any) -> dict[str, Any]:
    none = {"source": "none", "source_classes": None, "source_side": None, "source_links": 0}
    return row(key, **none | {"source_origin": "none", "pattern": SCRATCH} | given)


def again(key: str, **given: Any) -> dict[str, Any]:
    self = {"source": "self", "source_classes": 4, "source_side": "self", "source_origin": "self"}
    return row(key, **self | {"pattern": "T(1-8)"} | given)


def test_lines_of_rates_are_runs_equal_in_all_else() -> None:
    rates = (0.02, 0.01, 0.001)
    rows = [row(f"{rate}-{task}", lr=rate, task=task) for rate in rates for task in (0, 1)]
    rows[0] |= {"status": "diverged"}
    rows[1] |= {"not_converged": "run"}
    more = [row("other", source="c 80", lr=0.1), row("stuck", lr=0.5, not_converged="source")]
    frozen = [row(f"f{rate}", lr=rate, pattern="F(1-7)R(8)") for rate in rates]
    lines = epochs.rate_lines(evidence([*rows, *more, *frozen, from_nothing("s")]))
    assert runs_of(lines) == {f"rate {r:g}": [f"{r}-0", f"{r}-1"] for r in rates}
    assert epochs.rate_lines(evidence(rows[:4])).empty


def test_lines_of_sources_have_scratch_and_its_second_training_beside_them() -> None:
    """LI Fig. 5; scratch has another rate there, and the sources seeds of their own."""
    rows = [
        row(f"{n}-{task}", source=f"c {n}", source_classes=n, task=task)
        | {"source.seeds.init": 7 * n}
        for n in (10, 20, 80)
        for task in (0, 1)
    ]
    stuck = {"not_converged": "run"}  # a curve shows it
    rows += [from_nothing(f"scratch-{task}", lr=0.1, task=task, **stuck) for task in (0, 1, 2)]
    rows += [again(f"again-{task}", task=task) for task in (0, 1)]
    wanted = {f"{n} source classes": [f"{n}-0", f"{n}-1"] for n in (80, 20, 10)}
    wanted |= {"scratch model, tuned again": ["again-0", "again-1"]}
    wanted |= {"scratch": ["scratch-0", "scratch-1"]}
    assert runs_of(epochs.source_lines(evidence(rows))) == wanted


def test_lines_of_soft_fine_tuning_are_pairs() -> None:
    soft = {"method": "soft", "borrowed": "parent", "borrowed_sets": 1}
    rows = [row(f"soft-{task}", task=task, **soft) for task in (0, 1)]
    rows += [row(f"plain-{task}", task=task) for task in (1, 2)]
    found = runs_of(epochs.soft_lines(evidence(rows)))
    assert found == {"soft fine-tuning": ["soft-1"], "fine-tuning": ["plain-1"]}
    assert epochs.soft_lines(evidence(rows[:2])).empty


def test_a_mean_is_of_all_runs_and_ends_where_one_ends() -> None:
    lines = pd.DataFrame({"line": ["a", "a", "b"], "run_id": ["1", "2", "3"]})
    nan = float("nan")
    histories = {
        "1": pd.DataFrame({"epoch": [0, 1, 2, 3], "v": [nan, 0.2, nan, 0.4]}),
        "2": pd.DataFrame({"epoch": [0, 1], "v": [nan, 0.6]}),  # diverged
    }
    table = epochs.over_epochs(lines, histories, "v")
    mean = table[table["run_id"] == ""]
    assert mean[["line", "x", "y", "runs"]].to_numpy().tolist() == [["a", 2.0, 0.4, 2]]
    one = table[table["run_id"] == "1"]
    assert (one["x"].tolist(), one["y"].tolist()) == ([2.0, 4.0], [0.2, 0.4])
    assert epochs.over_epochs(lines, histories, "none").empty


def table(**lines: list[float]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"line": line, "run_id": "", "x": np.arange(1.0, len(y) + 1), "y": y})
        for line, y in lines.items()
    ]
    return pd.concat(parts)


def test_the_lead_is_counted_from_70_percent_on() -> None:
    soft = [0.5, 0.72, 0.8, 0.85, 0.9, 0.93, 0.95]
    plain = [0.4, 0.55, 0.6, 0.65, 0.71, 0.7, 0.8]
    found = epochs.lead(table(soft=soft, plain=plain), "soft", "plain")
    # 71 % in epoch 5 against 2, 80 % in epoch 7 against 3.
    assert found.epochs == 3
    assert found.gain == pytest.approx(np.mean(np.subtract(soft, plain)))
    assert found.least_gain == pytest.approx(0.1)
    assert epochs.lead(table(soft=soft, plain=plain[:3]), "soft", "plain").epochs is None
