"""Runs that share frozen activations, and heads trained together: the same as one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.execute import Context, execute_batch
from bench.spec import (
    DataSpec,
    FromRun,
    ModelSpec,
    RunSpec,
    Seeds,
    SourceCategories,
    TrainSpec,
    run_id,
)
from bench.store import RunFolder, Store

Runs = Sequence[RunSpec]


def _data(side: Any, n: int | None, images: int) -> DataSpec:
    return DataSpec(
        dataset="digits",
        classes=SourceCategories(side=side, target_n=4, n=n),
        images_per_class=images,
        val_per_class=5,
        test_per_class=8,
    )


MODEL = ModelSpec(name="narrow8_32", drop_rate=0.0)
RECIPE = TrainSpec(epochs=3, batch_size=16, lr=0.02, augment="none")
PARENT = RunSpec(data=_data("source", 5, 12), model=MODEL, pattern="R(1-8)", train=RECIPE)


def child(pattern: str = "F(1-7)R(8)", seed: int = 0, **train: Any) -> RunSpec:
    model = train.pop("model", MODEL)
    parent = PARENT.model_copy(update={"model": model})
    return RunSpec(
        data=_data("target", None, 10),
        model=model,
        pattern=pattern,
        init=FromRun(run=parent),
        train=RECIPE.model_copy(update=train),
        seeds=Seeds(init=seed, order=seed),
    )


class Bench:
    """The same runs with and without sharing."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.context = Context(results=str(folder), device="cpu", **options)
        self.store = Store(folder)
        self.events: list[dict[str, Any]] = []

    def keyed(self, runs: Runs) -> list[tuple[str, RunSpec]]:
        return [(run_id(spec, self.context.fingerprint), spec) for spec in runs]

    def run(self, runs: Runs, stop: Any = lambda: False) -> list[str]:
        self.events = []
        parents = {spec.parent.model_dump_json(): spec.parent for spec in runs if spec.parent}
        execute_batch(
            self.keyed(list(parents.values())),
            self.context,
            report=lambda event: None,
            should_stop=lambda: False,
        )
        batch = self.keyed(runs)
        execute_batch(batch, self.context, report=self.events.append, should_stop=stop)
        return [str(e["status"]) for e in self.events if e["event"] == "ended"]

    def folder(self, spec: RunSpec) -> RunFolder:
        ((key, _),) = self.keyed([spec])
        return self.store.folder(key, spec)

    def record(self, spec: RunSpec) -> dict[str, Any]:
        record = self.folder(spec).record()
        assert record is not None
        return record

    def weights(self, spec: RunSpec) -> dict[str, torch.Tensor]:
        return load_file(self.folder(spec).weights_path)

    def sharing(self, spec: RunSpec) -> dict[str, str]:
        found: dict[str, str] = self.record(spec)["notes"].get("sharing", {})
        return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shared")
    return Bench(folder / "on"), Bench(folder / "off", share=False)


def same_bits(on: Bench, off: Bench, spec: RunSpec) -> bool:
    mine, theirs = on.record(spec), off.record(spec)
    return mine["files"] == theirs["files"] and (
        (on.folder(spec).path / "history.csv").read_bytes()
        == (off.folder(spec).path / "history.csv").read_bytes()
    )


@pytest.mark.parametrize(
    ("pattern", "changes", "prefix"),
    [
        ("F(1-5)T(6-7)R(8)", {}, "cached: layers 1 to 5 of 8"),
        ("F(1-7)R(8)", {}, "cached: layers 1 to 7 of 8"),
        ("F(1-5)T(6-7)R(8)", {"augment": "flip"}, "cached"),
        ("F(1-5)T(6-7)R(8)", {"precision": "bfloat16"}, "cached"),
        ("F(1-5)T(6-7)R(8)", {"accumulate": 2}, "cached"),
        ("F(1-5)T(6-7)R(8)", {"augment": "crop_flip"}, "recomputed: augment crop_flip"),
        ("F(1-2)T(3-7)R(8)", {}, "recomputed: layers 1 to 2 are 38% of the forward pass"),
    ],
)
def test_kept_activations_change_no_bit(
    pair: tuple[Bench, Bench], pattern: str, changes: dict[str, Any], prefix: str
) -> None:
    on, off = pair
    spec = child(pattern, **changes)
    assert on.run([spec]) == off.run([spec]) == ["done"]
    assert same_bits(on, off, spec)
    assert on.sharing(spec)["prefix"].startswith(prefix)
    assert not off.sharing(spec)


def test_active_dropout_in_frozen_layers_is_not_kept(pair: tuple[Bench, Bench]) -> None:
    on, off = pair
    noisy = ModelSpec(name="narrow8_32", drop_rate=0.5)
    spec = child(model=noisy)
    still = child(model=noisy, frozen_dropout=False)
    assert on.run([spec, still]) == off.run([spec, still]) == ["done", "done"]
    assert on.sharing(spec)["prefix"] == (
        "recomputed: dropout in frozen layers is active (frozen_dropout: true)"
    )
    assert on.sharing(still)["prefix"].startswith("cached")
    assert same_bits(on, off, spec)
    assert same_bits(on, off, still)


def test_without_room_it_is_recomputed_and_files_are_used_before(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    spec = child("F(1-4)T(5-7)R(8)")
    none, files = Bench(tmp_path / "a", activations_mib=0), Bench(tmp_path / "b")
    assert none.run([spec]) == ["done"]
    assert "exceed the room" in none.sharing(spec)["prefix"]
    assert files.run([spec]) == ["done"]
    assert same_bits(none, files, spec)


GROUP = [
    child(seed=seed, lr=lr, weight_decay=decay)
    for seed in (0, 1)
    for lr, decay in ((0.02, 5e-4), (0.2, 0.0), (0.2, 5e-4))
]


def test_fused_heads_equal_separate_ones(pair: tuple[Bench, Bench]) -> None:
    on, off = pair
    other = child("F(1-5)T(6-7)R(8)")
    assert set(on.run([*GROUP, other])) <= {"done", "already"}
    assert set(off.run(GROUP)) <= {"done", "already"}
    print([e for e in on.events if e["event"] == "note"])
    for spec in GROUP[1:]:
        assert on.sharing(spec)["fused"].startswith("with ")
        mine, theirs = on.weights(spec), off.weights(spec)
        assert max(float((mine[k] - theirs[k]).abs().max()) for k in theirs) <= 1e-5
        ours, its = on.record(spec)["row"], off.record(spec)["row"]
        exact = ["top1_accuracy", "val_top1_accuracy", "best_epoch", "steps", "status"]
        exact += ["mean_class_accuracy", "trainable_parameters", "epochs_to_threshold"]
        assert [ours[k] for k in exact] == [its[k] for k in exact]
        for column in ("train_loss", "test_loss", "mean_average_precision"):
            assert ours[column] == pytest.approx(its[column], abs=1e-5)
        assert "fused" not in on.sharing(other)
