"""Runs that do not read their test images, and the tested run that takes their weights."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import StoreError
from bench.planning.workspace import Session
from bench.results import leaderboard
from bench.results.mistakes import read_predictions
from bench.results.predictions import right_on_validation
from bench.results.records import COST_COLUMNS, sign
from bench.results.store import RunFolder
from tests.data.test_catalog import make_folder

Run = Callable[[Path, Path], Session]
GRID = """
name: untested
defaults:
  target: {dataset: digits, classes: {recipe: listed, names: ['0', '1', '2']}, images_per_class: 12,
           val_per_class: 10, test_per_class: 20, image_size: 16, tested: TESTED}
  model: narrow8_32
  train: {epochs: 2, batch_size: 12, lr: 0.05}
experiments:
  scratch: {set: {pattern: scratch}, axes: {seed: [0, 1]}}
  probe: {set: {pattern: scratch, method: {name: probe, c: 1.0}}}
"""
FROM_SOURCE = """
name: untested
defaults:
  source: {dataset: folder, root: ROOT, val_per_class: 2, test_per_class: 2, image_size: 16}
  target: {dataset: digits, classes: {recipe: listed, names: ['0', '1', '2']}, images_per_class: 12,
           val_per_class: 10, test_per_class: 20, image_size: 16, tested: TESTED}
  model: narrow8_32
  train: {epochs: 2, batch_size: 12, lr: 0.05}
experiments:
  tune: {set: {pattern: tune}}
"""


def _folders(tmp_path: Path, results: str, tested: str, run_here: Run) -> dict[str, RunFolder]:
    path = tmp_path / f"{tested}.yaml"
    path.write_text(GRID.replace("TESTED", tested))
    session = run_here(path, tmp_path / results)
    leaderboard.write(session.plan, session.store, session.board, session.records)
    return {
        f"{run.spec.method.name} {run.spec.seeds.order}": session.store.folder(run.id, run.spec)
        for run in session.plan.runs.values()
    }


def _record(folder: RunFolder) -> dict[str, Any]:
    record = folder.record()
    assert record is not None
    return record


def test_an_untested_run_has_weights_and_no_test_metric(tmp_path: Path, run_here: Run) -> None:
    for folder in _folders(tmp_path, "results", "false", run_here).values():
        record = _record(folder)
        row = record["row"]
        assert row["status"] == "done"
        assert row["val_top1_accuracy"] is not None
        assert row["test_images"] == 0
        for name in ("top1_accuracy", "mean_class_accuracy", "mean_average_precision", "test_loss"):
            assert row.get(name) is None
        assert record["average_precision"] == {}
        assert folder.weights_path.is_file()
        with pytest.raises(StoreError, match="kept no predictions: it was not tested"):
            read_predictions(folder)
    with (tmp_path / "results" / "untested-aggregated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["top1_accuracy_mean"] for row in rows] == ["", ""]
    assert all(float(row["val_top1_accuracy_mean"]) > 0.3 for row in rows)


def test_an_untested_run_keeps_its_answers_to_the_validation_images(
    tmp_path: Path, run_here: Run
) -> None:
    path = tmp_path / "grid.yaml"
    refit = "  refit: {set: {pattern: scratch, method: {name: probe, c: 1.0}, train.refit: true}}\n"
    path.write_text(GRID.replace("TESTED", "false") + refit)
    session = run_here(path, tmp_path / "results")
    found: dict[str, list[dict[str, bool]]] = {}
    for run in session.plan.runs.values():
        folder = session.store.folder(run.id, run.spec)
        right, row = right_on_validation(folder), _record(folder)["row"]
        assert right is not None
        assert len(right) == row["val_images"] == 30
        # Of the classifier that was judged, where another one was fitted to these images too.
        assert np.mean(list(right.values())) == pytest.approx(row["val_top1_accuracy"])
        found.setdefault(str(run.spec.seeds.order), []).append(right)
    assert len({frozenset(right) for right in found["0"]}) == 1  # of one draw the same images
    for folder in _folders(tmp_path, "results", "true", run_here).values():
        assert right_on_validation(folder) is None  # what was tested has its test images


def test_the_tested_run_takes_the_weights_and_is_what_training_gives(
    tmp_path: Path, run_here: Run
) -> None:
    untested = _folders(tmp_path, "results", "false", run_here)
    taken = _folders(tmp_path, "results", "true", run_here)
    trained = _folders(tmp_path, "other", "true", run_here)
    assert taken.keys() == trained.keys()
    for name, folder in taken.items():
        mine, theirs = _record(folder), _record(trained[name])
        again = f"weights of run {untested[name].run_id}, not trained again"
        assert (again in mine["notes"]["training"]) == name.startswith("plain")
        assert mine["run_id"] == theirs["run_id"]
        assert mine["files"] == theirs["files"]  # by their contents: weights and predictions
        cost = {"seconds", "images_per_s", "peak_memory_mib"}
        assert {k: v for k, v in mine["row"].items() if k not in cost} == {
            k: v for k, v in theirs["row"].items() if k not in cost
        }
        history = [(f.path / "history.csv").read_bytes() for f in (folder, trained[name])]
        assert history[0] == history[1]
        assert np.isfinite(mine["row"]["top1_accuracy"])


def test_weights_that_began_from_other_source_images_are_not_taken(
    tmp_path: Path, run_here: Run
) -> None:
    def run(results: str, tested: str) -> RunFolder:
        path = tmp_path / f"{tested}.yaml"
        path.write_text(FROM_SOURCE.replace("ROOT", str(source)).replace("TESTED", tested))
        session = run_here(path, tmp_path / results)
        (run,) = (run for run in session.plan.runs.values() if run.role == "finetune")
        return session.store.folder(run.id, run.spec)

    source = make_folder(tmp_path / "source", n=12)
    run("results", "false")
    shutil.rmtree(source)
    make_folder(source, n=14)
    taken, trained = run("results", "true"), run("other", "true")
    assert taken.run_id == trained.run_id
    assert _record(taken)["files"] == _record(trained)["files"]


def test_the_tested_run_has_the_device_of_its_training_and_notes_that_of_its_test(
    tmp_path: Path, run_here: Run
) -> None:
    untested = _folders(tmp_path, "results", "false", run_here)
    there = {"device": "GPU of another machine", "threads": 7, "versions": "torch 2.0, timm 1.0"}
    for folder in untested.values():  # as if trained elsewhere
        record = _record(folder)
        here = record["row"]
        record |= {"row": here | there, "resolved": {"train.precision": "bfloat16"}}
        record["notes"]["arithmetic"] = {"tf32": ["convolutions"]}
        folder.record_path.write_text(json.dumps(sign(record)))
    for name, folder in _folders(tmp_path, "results", "true", run_here).items():
        record, was = _record(folder), _record(untested[name])
        if not name.startswith("plain"):  # fitted anew
            assert record["row"]["device"] == here["device"]
            assert record.get("resolved") != was["resolved"]
            continue
        for column in COST_COLUMNS:
            assert record["row"][column] == was["row"][column]
        assert record["resolved"] == was["resolved"]
        assert record["notes"]["arithmetic"] == was["notes"]["arithmetic"]
        assert record["notes"]["training"][-1] == (
            f"weights of run {untested[name].run_id}, not trained again; tested on "
            f"{here['device']}, {here['threads']} thread, {here['versions']}"
        )
