"""Every method as if on CUDA: nothing mixes devices, and a step waits for nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from bench.launch.devices import Machine, context_of
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.planning.workspace import Session, open_session
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.run import Optimizer, TrainSpec
from bench.training import frozen_prefix_cache
from bench.training.domain import Domain
from bench.training.job import Interrupted, TrainingJob
from bench.training.loop import train
from tests.fake_cuda.devices import Gpus

GRID = """\
defaults:
  target: {dataset: digits, classes: {recipe: random, n: 4}, image_size: 24, images_per_class: 4, val_per_class: 2, test_per_class: 2}
  model: narrow8_32
  source: shapes
  pattern: tune
  train: {epochs: 2, batch_size: 8}
  pretrain: {epochs: 1, batch_size: 8}
sources:
  shapes: {dataset: wordnet-shapes, classes: {recipe: random, n: 3}, images_per_class: 6, val_per_class: 2, test_per_class: 2}
experiments:
  a:
"""  # noqa: E501
BORROWS = "borrow: shapes, "
CELLS = {
    "plain": "method: plain",
    "frozen": "method: plain, pattern: F(1-5)T(6-7)R(8), train.augment: flip",
    "bfloat16": "method: plain, train.precision: bfloat16",
    "auto": "method: plain, train.precision: auto",
    "adamw": "method: plain, train.lr: 0.001, train.optimizer: adamw",
    "clipped": "method: plain, train.clip_norm: 1.0, train.accumulate: 2",
    "averaged": "method: plain, train.ema: 0.9, train.class_weights: balanced, train.l2_sp: 0.1",
    "mixed": "method: plain, train.mixup: 0.2, train.cutmix: 1.0, train.random_erasing: 0.5",
    "policy": "method: plain, train.policy: randaugment",
    "scaled": "method: plain, train.augment: scale_flip_color, train.scale_antialias: true",
    "low-rank": "method: plain, train.tuned: lora",
    "refit": "method: plain, train.refit: true",
    "probed": "method: plain, train.head: probe",
    "wise": "pattern: F(1-8), source: none, parent: {source: shapes, pattern: tune}, method: wise",
    "soup": "method: {name: soup, choose: greedy, over: {train.lr: [0.01, 0.003]}}",
    "joint": BORROWS + "method: joint",
    "separate": BORROWS + "method: {name: joint, batch_norm: separate}",
    "soft": BORROWS + "method: soft",
    "selective": BORROWS + "method: {name: selective, layers: '1', k0: 2, rounds: 2, fuse: true}",
    "gabor": BORROWS + "method: {name: selective, bank: gabor, k0: 2, rounds: 2}",
    "soft_selective": BORROWS + "method: {name: soft_selective, layers: '1', k0: 2, rounds: 2}",
    "svm": "method: svm, pattern: freeze",
    "probe": "method: probe, pattern: freeze",
    "streaming svm": "method: {name: svm, solver: streaming}, pattern: freeze",
    "streaming probe": "method: {name: probe, solver: streaming, layer: '1'}, pattern: freeze",
    "extract": "method: {name: extract, layers: '1,penultimate,scores'}, pattern: freeze",
}


Records = list[dict[str, Any]]


def session_of(folder: Path, results: Path, *cells: str) -> Session:
    """A grid of cells, its sources included."""
    path = folder / "grid.yaml"
    path.write_text(GRID + "    include:\n" + "".join(f"      - {{{cell}}}\n" for cell in cells))
    return open_session(path, results=results)


def execute(
    session: Session, stop: Callable[[Records], bool] = lambda events: False, **more: Any
) -> tuple[Records, list[dict[str, Any]]]:
    """Runs a grid in this process, what starts from the same run as one batch; records, events."""
    context = Context(**context_of(session, Machine("cuda"), **more))
    events: list[dict[str, Any]] = []
    for _, runs in itertools.groupby(session.plan.runs.values(), lambda run: run.needs):
        batch = [(run.id, run.spec) for run in runs]
        execute_batch(batch, context, report=events.append, should_stop=lambda: stop(events))
    records = []
    for run in session.plan.runs.values():
        folder = session.store.folder(run.id, run.spec)
        for path in folder.path.glob("failed-*.json"):
            pytest.fail(json.loads(path.read_text())["message"])
        records.append(folder.record() or {})
    return records, events


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests, so that the source is trained once."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_trains(gpus: Gpus, tmp_path: Path, results: Path, cell: str) -> None:
    records, _ = execute(session_of(tmp_path, results, cell))
    assert records[-1]["row"]["status"] == "done"


FROZEN = "method: plain, pattern: freeze, train.augment: none, train.batch_size: 16"


def test_classifiers_are_fused(gpus: Gpus, tmp_path: Path, results: Path) -> None:
    cells = [f"{FROZEN}, train.lr: {lr}" for lr in (0.01, 0.003, 0.001)]
    records, events = execute(session_of(tmp_path, results, *cells))
    assert [event["message"] for event in events if event["event"] == "note"] == []
    assert all("with 2 other runs" in one["notes"]["sharing"]["fused"] for one in records[-3:])


@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
def test_classifiers_are_fused_within_a_tolerance(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> None:
    """On a GPU the size of a batch may decide last bits of what the frozen layers give."""
    monkeypatch.setattr(frozen_prefix_cache, "_difference", lambda kept, computed: 1e-6)
    cell = f"{FROZEN}, train.prefix_tolerance: {tolerance}"
    cells = [f"{cell}, train.lr: {lr}" for lr in (0.01, 0.003)]
    records, _ = execute(session_of(tmp_path, tmp_path / "results", *cells))
    for sharing in (record["notes"]["sharing"] for record in records[-2:]):
        assert ("fused" in sharing) is (tolerance > 0)
        assert ("within 1.0e-06 of what a training batch" in sharing["prefix"]) is (tolerance > 0)


SCRATCH = {
    "plain": "source: none, pattern: scratch, method: plain",
    "averaged": "source: none, pattern: scratch, method: plain, train.ema: 0.9",
    "selective": "source: none, pattern: scratch, borrow: shapes, "
    "method: {name: selective, bank: gabor, k0: 2, rounds: 2, fuse: true}",
}


@pytest.mark.parametrize("cell", SCRATCH)
def test_resumes(gpus: Gpus, tmp_path: Path, results: Path, cell: str) -> None:
    """Interrupted within an epoch, and gone on with, the weights are those of one go."""
    (*_, whole), _ = execute(session_of(tmp_path, tmp_path / "whole", SCRATCH[cell]))
    parts = session_of(tmp_path, tmp_path / "parts", SCRATCH[cell])

    *_, key = parts.plan.runs

    def after_first_epoch(events: Records) -> bool:
        return any(event["event"] == "epoch" and event["id"] == key for event in events)

    _, events = execute(parts, after_first_epoch)
    assert events[-1]["status"] == "stopped"
    (*_, resumed), _ = execute(parts)
    assert "resumed in epoch 2 after step 1" in resumed["notes"]["training"]
    assert resumed["files"] == whole["files"]  # named by their content


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_resumes_with_every_optimizer(gpus: Gpus, tmp_path: Path, name: Optimizer) -> None:
    """What an optimiser keeps comes back where it was, single numbers and factors included."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    data = Domain("toy", images, np.arange(24) % 3, 3)
    recipe = TrainSpec(optimizer=name, lr=1e-3, epochs=2, batch_size=8, augment="none")

    def trained(checks: int) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Linear(20, 3))
        groups, left = [{"params": list(net.parameters())}], iter(range(checks))
        job = TrainingJob(
            net,
            Plain(Ingredients(data, recipe)),
            groups,
            recipe,
            validation=data,
            device=torch.device("cuda", 0),
            checkpoint=tmp_path / f"{checks > 6}.safetensors",
            should_stop=lambda: next(left, None) is None,
        )
        outcome = train(job)
        return outcome.state, outcome.notes

    whole, _ = trained(100)
    with pytest.raises(Interrupted):
        trained(3)
    resumed, notes = trained(6)
    assert notes == ("resumed in epoch 2 after step 1",)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
