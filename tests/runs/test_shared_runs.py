"""Runs that share frozen activations, and heads trained together: the same as one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bench.core import processor
from bench.core.errors import GridError
from bench.grid.expand import load_grid
from bench.planning.plan import batches
from bench.planning.workspace import open_session
from bench.results.history import read_history
from bench.results.leaderboard import rows
from bench.results.store import RunFolder, Store
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.runs.fused_heads import fuse_key
from bench.specs.data import DataSpec, SourceCategories
from bench.specs.run import FromRun, ModelSpec, RunSpec, Seeds, TrainSpec, run_id
from bench.training.activations import Activations
from bench.training.domain_batches import Feed
from bench.training.fused import Head, train_heads
from bench.training.optimizers import lr_factor

Runs = Sequence[RunSpec]


def _data(side: Any, n: int | None, images: int) -> DataSpec:
    return DataSpec(
        dataset="digits",
        classes=SourceCategories(side=side, target_n=4, n=n),
        images_per_class=images,
        val_per_class=4,
        test_per_class=8,
    )


MODEL = ModelSpec(name="narrow8_32", drop_rate=0.0)
RECIPE = TrainSpec(epochs=3, batch_size=16, lr=0.02, augment="none")
PARENT = RunSpec(data=_data("source", 5, 12), model=MODEL, pattern="R(1-8)", train=RECIPE)


def child(pattern: str = "F(1-7)R(8)", seed: int = 0, **train: Any) -> RunSpec:
    model = train.pop("model", MODEL)
    parent = PARENT.model_copy(update={"model": model})
    return RunSpec(
        data=_data("target", None, 12),  # steps of 16 images: fewer may take another kernel
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
        ("F(1-5)T(6-7)R(8)", {"prefix_tolerance": 1e-5}, "cached: layers 1 to 5 of 8"),
        ("F(1-5)T(6-7)R(8)", {"augment": "crop_flip"}, "recomputed: augment crop_flip"),
        ("F(1-5)T(6-7)R(8)", {"tuned": "lora", "lora_rank": 2}, "cached"),
        ("F(1-5)T(6-7)R(8)", {"unfreeze_every": 1}, "cached"),
        ("F(1-5)T(6-7)R(8)", {"policy": "randaugment"}, "recomputed: train.policy gives ever new"),
        ("F(1-5)T(6-7)R(8)", {"random_erasing": 0.5}, "recomputed: train.random_erasing gives"),
        ("F(1-7)R(8)", {"mixup": 0.3}, "recomputed: mixing of images gives ever new images"),
        (
            "F(1-5)T(6-7)R(8)",
            {"ema": 0.9, "clip_norm": 1.0, "sampling": "balanced", "class_weights": "balanced"},
            "cached",
        ),
        (
            "F(1-5)T(6-7)R(8)",
            {"augment": "crop_flip", "cached_views": 2},
            "cached: layers 1 to 5 of 8, 97% of the forward pass, once per image and view of 2, ",
        ),
        (
            "F(1-7)R(8)",
            {"policy": "randaugment", "random_erasing": 0.5, "cached_views": 5, "refit": True},
            "cached: layers 1 to 7 of 8",
        ),
        (
            "F(1-2)T(3-7)R(8)",
            {"augment": "crop_flip", "cached_views": 2},
            "recomputed: layers 1 to 2 are 38% of the forward pass",
        ),
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


def test_views_are_computed_once_for_all_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    def counted(feed: Feed, **options: Any) -> Activations:
        made.append((feed.domain.size, feed.cached_rows))
        return cache_prefix(feed, **options)

    cache_prefix = Feed.cache_prefix
    monkeypatch.setattr(Feed, "cache_prefix", counted)
    here = Bench(tmp_path)
    views = {"augment": "crop_flip", "cached_views": 2}
    runs = [child(lr=rate, **views) for rate in (0.01, 0.02, 0.04)]
    assert here.run(runs) == ["done"] * 3
    assert made == [(48, 96), (16, 16), (32, 32)]  # training, validation and test images, once
    here.run([child(seed=1, **views)])
    assert made[3:] == [(48, 96), (16, 16), (32, 32)]  # another batch, and other views


@pytest.mark.parametrize(("error", "kept"), [(0.0, True), (5e-6, True), (2e-5, False)])
def test_kept_views_may_differ_from_a_batch_by_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float, kept: bool
) -> None:
    """Kernels for few images add in another order than those for many."""

    def other_order(feed: Feed, **options: Any) -> Activations:
        made = cache_prefix(feed, **options)
        made.data.add_(error * made.data.abs().max())
        return made

    cache_prefix = Feed.cache_prefix
    monkeypatch.setattr(Feed, "cache_prefix", other_order)
    here = Bench(tmp_path)
    views, plain = child(augment="crop_flip", cached_views=2), child(augment="flip")
    assert here.run([views, plain]) == ["done"] * 2
    assert here.sharing(views)["prefix"].startswith("cached" if kept else "recomputed: a training")
    assert here.sharing(plain)["prefix"].startswith("recomputed: a " if error else "cached")


def test_epochs_show_one_view_after_the_other(tmp_path: Path) -> None:
    here = Bench(tmp_path)
    runs = [child(augment="crop_flip", cached_views=views) for views in (2, 3, 9)]
    here.run([*runs, child(augment="crop_flip")])
    _, three, nine = (here.weights(run) for run in runs)
    assert all(torch.equal(three[name], nine[name]) for name in three)  # there are three epochs
    histories = [read_history(here.folder(run)) for run in runs]
    assert histories[0][:2] == histories[1][:2]
    assert histories[0][2] != histories[1][2]
    assert histories[1] == histories[2]


@pytest.mark.parametrize(
    ("pattern", "changes", "message"),
    [
        ("T(1-7)R(8)", {}, "train.cached_views is 4, but pattern T(1-7)R(8) freezes no first "),
        ("T(1)F(2-7)R(8)", {}, "train.cached_views is 4, but pattern T(1)F(2-7)R(8) freezes no"),
        ("F(1-7)R(8)", {"augment": "flip"}, "cached_views is 4, but augment is flip, which needs"),
        ("F(1-7)R(8)", {"mixup": 0.2}, "cached_views is 4, but mixup or cutmix mixes images anew"),
        ("F(1-7)R(8)", {"cached_views": 0}, "train.cached_views is 0: must be at least 1"),
        (
            "F(1-7)R(8)",
            {"method": "probe"},
            "train.cached_views is 4, but method probe does not train on them alone",
        ),
    ],
)
def test_views_that_nothing_could_keep_are_an_error_of_the_grid(
    tmp_path: Path, pattern: str, changes: dict[str, Any], message: str
) -> None:
    method = changes.pop("method", "plain")
    train = {"epochs": 2, "augment": "crop_flip", "cached_views": 4} | changes
    cell = {
        "target": {"dataset": "digits", "images_per_class": 5, "image_size": 32},
        "model": "narrow8_32",
        "source": "self",
        "pattern": pattern,
        "train": train,
        "method": method,
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"experiments": {"a": {"set": cell}}}))
    with pytest.raises(GridError) as caught:
        load_grid(tmp_path / "grid.yaml")
    assert caught.value.message.startswith(message), caught.value.message
    assert caught.value.place is not None


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


def test_what_a_gpu_needs_changes_no_bit_here(
    pair: tuple[Bench, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_bfloat16", lambda: False)
    on, _ = pair
    files = []
    for changes in ({}, {"prefix_tolerance": 1e-3}, {"precision": "auto"}):
        runs = [child(seed=6, lr=lr, **changes) for lr in (0.03, 0.3)]
        assert set(on.run(runs)) == {"done"}
        assert all("fused" in on.sharing(spec) for spec in runs)
        assert all("within" not in on.sharing(spec)["prefix"] for spec in runs)
        files.append([on.record(spec)["files"] for spec in runs])
    assert files[0] == files[1] == files[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_runs_on_a_gpu_that_is_not_there_fail_one_by_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.context = replace(bench.context, device="cuda")
    assert bench.run(GROUP[:2]) == ["failed"] * 2
    assert "torch finds no GPU" in bench.folder(GROUP[0]).failures()[0]["message"]


def test_a_head_that_diverges_ends_alone(pair: tuple[Bench, Bench]) -> None:
    on, off = pair
    runs = [child(seed=5, lr=lr, epochs=4) for lr in (0.02, 1e30, 0.05)]
    assert on.run(runs) == off.run(runs) == ["done", "diverged", "done"]
    for spec in runs:
        assert "fused" in on.sharing(spec)
        ours, theirs = on.record(spec)["row"], off.record(spec)["row"]
        for column in ("reason", "steps", "best_epoch", "epochs_run", "top1_accuracy"):
            assert ours.get(column) == theirs.get(column)


def test_a_stopped_group_starts_again(pair: tuple[Bench, Bench]) -> None:
    on, off = pair
    runs = [child(seed=seed, lr=0.03) for seed in (7, 8, 9)]
    on.run([child(seed=7, lr=0.9)])  # the parent
    turns = iter([False] * 6)
    assert on.run(runs, stop=lambda: next(turns, True)) == ["stopped"] * 3
    assert all(on.folder(spec).record() is None for spec in runs)
    assert on.run(runs) == off.run(runs) == ["done"] * 3
    for spec in runs:
        mine, theirs = on.weights(spec), off.weights(spec)
        assert max(float((mine[k] - theirs[k]).abs().max()) for k in theirs) <= 1e-5


def test_one_that_cannot_be_published_does_not_touch_the_others(
    pair: tuple[Bench, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    on, _ = pair
    runs = [child(seed=seed, lr=0.04) for seed in (1, 2, 3)]
    on.run(runs[:1])
    broken, kept = on.folder(runs[1]).path, RunFolder.keep

    def keep(self: RunFolder, name: str, content: bytes | Path) -> Any:
        if self.path == broken:
            raise OSError("no space left")
        return kept(self, name, content)

    monkeypatch.setattr(RunFolder, "keep", keep)
    assert sorted(on.run(runs)) == ["already", "done", "failed"]
    assert "no space left" in on.folder(runs[1]).failures()[0]["message"]


def key_of(**changes: Any) -> str | None:
    return fuse_key(child(**changes), torch.device("cpu"))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"augment": "flip"},
        {"optimizer": "adamw"},
        {"expand_to": 20},
        {"refit": True},
        {"policy": "trivialaugment"},
        {"random_erasing": 0.1},
        {"mixup": 0.1},
        {"cutmix": 0.1},
        {"clip_norm": 1.0},
        {"ema": 0.9},
        {"class_weights": "balanced"},
        {"drop_path": 0.1},
        {"pattern": "F(1-6)T(7)R(8)"},
        {"pattern": "T(1-7)R(8)"},
    ],
)
def test_only_heads_on_the_same_features_are_fused(changes: dict[str, Any]) -> None:
    assert key_of() == key_of(seed=3, lr=0.5, weight_decay=0.0)
    assert key_of(**changes) is None
    for other in (
        {"epochs": 9},
        {"sampling": "balanced"},
        {"restart_every": 1},
        {"batch_size": 8},
        {"momentum": 0.0},
        {"select": "last"},
        {"prefix_tolerance": 1e-5},
    ):
        assert key_of(**other) not in (None, key_of())


@pytest.mark.parametrize("native", ["float32", "bfloat16"])
def test_heads_are_fused_where_auto_is_float32(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_bfloat16", lambda: native == "bfloat16")
    assert key_of(precision="auto") == (key_of() if native == "float32" else None)


GRID = """\
defaults:
  target:
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 4}
    images_per_class: 6
    val_per_class: 5
    test_per_class: 8
  model: {name: narrow8_32, drop_rate: 0.0}
  train: {epochs: 2, batch_size: 16, augment: none}
  pretrain: {epochs: 2, batch_size: 16, lr: 0.03}
sources:
  some: {classes: {side: source, n: 5}, images_per_class: 20}
experiments:
  a:
    axes: {source: [some], pattern: [tune, freeze, F(1-5)T(6-7)R(8)], train.lr: [0.01, 0.03]}
    include: [{source: none, pattern: scratch}]
"""
COSTS = {"seconds", "images_per_s", "peak_memory_mib", "finished"}


def test_the_leaderboard_of_a_grid_is_the_same_without_sharing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    boards = []
    for share in (True, False):
        file = tmp_path / "grid.yaml"
        file.write_text(GRID)
        results = tmp_path / str(share)
        session = open_session(file, results=results)
        context = Context(results=str(results), device="cpu", share=share)
        runs = [run for run in session.plan.runs.values() if run.role != "extract"]
        for batch in batches(runs, cost_s=lambda run: 1.0, limit_s=100):
            execute_batch(
                [(run.id, run.spec) for run in batch.runs],
                context,
                report=lambda event: None,
                should_stop=lambda: False,
            )
        boards.append(rows(session.plan, session.store))
    assert len(boards[0]) == len(boards[1]) > 6
    for mine, theirs in zip(*boards, strict=True):
        assert mine["status"] == theirs["status"] == "done"
        for column in mine.keys() - COSTS:
            same = mine[column] == theirs[column]
            assert same or mine[column] == pytest.approx(theirs[column], abs=1e-5), column


@given(
    images=st.integers(3, 20),
    heads=st.integers(1, 4),
    nesterov=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    schedule=st.sampled_from(["constant", "cosine", "step"]),
)
@settings(max_examples=15, deadline=None)
def test_heads_equal_torch_one_by_one(
    images: int, heads: int, nesterov: bool, smoothing: float, schedule: Any
) -> None:
    """The slow twin: autograd and torch's own SGD, a head at a time."""
    rng = np.random.default_rng(images)
    features = torch.from_numpy(rng.normal(size=(images, 5)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, images))
    recipe = TrainSpec(
        epochs=3,
        select="last",
        nesterov=nesterov,
        label_smoothing=smoothing,
        schedule=schedule,
        step_epochs=1,
    )
    starts = [torch.from_numpy(rng.normal(size=(3, 5)).astype(np.float32)) for _ in range(heads)]
    rates = [((0.1 * (k + 1), 0.01 * k), (0.2 * (k + 1), 0.0)) for k in range(heads)]
    orders = [rng.permuted(np.arange(images)) for _ in range(heads)]

    def order(k: int) -> Any:
        return lambda epoch: np.array_split(np.roll(orders[k], epoch), 2)

    group = [Head(starts[k], torch.zeros(3), recipe, *rates[k], order(k)) for k in range(heads)]
    found = train_heads(features, labels, group)
    for k, outcome in enumerate(found):
        linear = torch.nn.Linear(5, 3)
        with torch.no_grad():
            linear.weight.copy_(starts[k])
            linear.bias.zero_()
        names = (linear.weight, linear.bias)
        sgd = torch.optim.SGD(
            [
                {"params": [p], "lr": r[0], "weight_decay": r[1]}
                for p, r in zip(names, rates[k], strict=True)
            ],
            lr=1.0,
            momentum=0.9,
            nesterov=nesterov,
        )
        for epoch in range(3):
            for step, part in enumerate(order(k)(epoch)):
                for group_, (lr, _) in zip(sgd.param_groups, rates[k], strict=True):
                    group_["lr"] = lr * lr_factor(recipe, epoch, step, 2)
                sgd.zero_grad()
                torch.nn.functional.cross_entropy(
                    linear(features[part]), labels[part], label_smoothing=smoothing
                ).backward()
                sgd.step()
        assert outcome.weight is not None
        torch.testing.assert_close(outcome.weight, linear.weight.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(outcome.bias, linear.bias.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "train",
    [
        {"tuned": "lora", "ema": 0.9, "mixup": 0.4, "clip_norm": 1.0},
        {"unfreeze_every": 1, "policy": "trivialaugment", "optimizer": "lamb", "ema": 0.5},
        {"sampling": "balanced", "cutmix": 1.0, "random_erasing": 0.5, "refit": True},
        {"augment": "crop_flip", "cached_views": 3},
    ],
)
def test_recipes_of_today_resume_to_the_bit(
    tmp_path: Path, pair: tuple[Bench, Bench], train: dict[str, Any]
) -> None:
    spec = child("F(1-5)T(6-7)R(8)", **train)
    whole, stopped = pair[0], Bench(tmp_path / "stopped")
    assert whole.run([spec]) == ["done"]
    for steps in (2, 3):
        left = iter(range(steps + 1))  # asked once before the run
        assert stopped.run([spec], stop=lambda left=left: next(left, None) is None) == ["stopped"]
    assert stopped.run([spec]) == ["done"]
    assert same_bits(whole, stopped, spec)
    assert any("resumed" in note for note in stopped.record(spec)["notes"]["training"])


@pytest.mark.parametrize("share", [True, False])
def test_a_run_that_cannot_be_claimed_fails_alone(tmp_path: Path, share: bool) -> None:
    bench = Bench(tmp_path, share=share)
    first, second, third = (child(seed=seed, epochs=1) for seed in range(3))
    blocked = bench.folder(second).path
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file in the folder's place, as a full disk leaves no room for it")
    bench.run([first, second, third])
    ended = {e["id"]: (e["status"], e["message"]) for e in bench.events if e["event"] == "ended"}
    assert ended[blocked.name.rpartition("-")[2]] == (
        "failed",
        f"{blocked}: File exists; a folder is needed here, and this is a file",
    )
    assert [status for status, _ in ended.values()].count("done") == 2
