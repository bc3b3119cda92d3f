"""Whole runs that borrow: executed as a worker would, on a few scanned digits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.models.layers import apply_pattern, create
from bench.results.store import RunFolder, Store
from bench.runs.build import Context, Loader
from bench.runs.execute import execute_batch
from bench.specs.data import Borrowed, DataSpec, SourceCategories
from bench.specs.run import FromRun, MethodSpec, ModelSpec, RunSpec, Scratch, TrainSpec, run_id


def _data(side: Any, n: int | None, images: int) -> DataSpec:
    return DataSpec(
        dataset="digits",
        classes=SourceCategories(side=side, target_n=4, n=n),
        images_per_class=images,
        val_per_class=4,
        test_per_class=5,
    )


TARGET, SOURCE = _data("target", None, 4), _data("source", 5, 6)
MODEL = ModelSpec(name="narrow8_32", drop_rate=0.3)
RECIPE = TrainSpec(epochs=2, batch_size=8, lr=0.02, augment="none")
PARENT = RunSpec(data=SOURCE, model=MODEL, pattern="R(1-8)", train=RECIPE)
PARENTS = Borrowed(data=SOURCE)


def tuned(method: str = "plain", *, pattern: str = "T(1-7)R(8)", **changes: Any) -> RunSpec:
    options = changes.pop("options", {})
    return RunSpec(
        data=TARGET,
        model=MODEL,
        pattern=pattern,
        init=FromRun(run=changes.pop("parent", PARENT)),
        method=MethodSpec(name=method, options=tuple(sorted(options.items()))),
        train=RECIPE.model_copy(update=changes.pop("train", {})),
        **changes,
    )


class Bench:
    """A results folder, and runs executed in it."""

    def __init__(self, folder: Path) -> None:
        self.context = Context(results=str(folder), device="cpu")
        self.store = Store(folder)

    def run(self, spec: RunSpec) -> RunFolder:
        key = run_id(spec, self.context.fingerprint)
        events: list[dict[str, Any]] = []
        execute_batch([(key, spec)], self.context, report=events.append, should_stop=lambda: False)
        assert events[-1]["status"] in ("done", "already"), events[-1]
        return self.store.folder(key, spec)

    def weights(self, spec: RunSpec) -> dict[str, torch.Tensor]:
        return load_file(self.run(spec).weights_path)

    def record(self, spec: RunSpec) -> dict[str, Any]:
        record = self.run(spec).record()
        assert record is not None
        return record


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    made = Bench(tmp_path_factory.mktemp("results"))
    made.run(PARENT)
    return made


def test_a_weightless_source_with_separate_batch_norm_changes_no_bit(bench: Bench) -> None:
    """X-7 (d), with dropout, from the parent to the saved file."""
    plain = bench.weights(tuned())
    options = {"source_weight": 0.0, "batch_norm": "separate"}
    joint = bench.weights(tuned("joint", options=options, borrow=(PARENTS,)))
    assert plain.keys() == joint.keys()
    assert all(torch.equal(value, joint[name]) for name, value in plain.items())
    mixed = bench.weights(tuned("joint", options={"source_weight": 0.0}, borrow=(PARENTS,)))
    assert not all(torch.equal(value, mixed[name]) for name, value in plain.items())


def test_the_record_says_what_was_borrowed_and_when_alpha_was_one(bench: Bench) -> None:
    spec = tuned("soft", options={"ramp_epochs": 1.0, "source_head": "kept"}, borrow=(PARENTS,))
    record = bench.record(spec)
    assert record["row"]["borrowed"] == "parent"
    assert (record["row"]["borrowed_classes"], record["row"]["borrowed_images"]) == (5, 30)
    assert record["borrowed"][0]["classes"] == bench.record(PARENT)["classes"]
    notes = record["notes"]["method"]
    assert notes["alpha_is_1_from_epoch"] == 2
    assert notes["val_top1_accuracy_at_the_end"] is not None
    history = (bench.run(spec).path / "history.csv").read_text().splitlines()
    place = history[0].split(",").index("borrowed_1_weight")
    assert [line.split(",")[place] for line in history[1:]] == ["1.0", "0.0"]


def test_only_the_networks_own_weights_are_saved(bench: Bench) -> None:
    """A child copies from a soft run as from any other."""
    soft = tuned("soft", options={"source_head": "kept"}, borrow=(PARENTS,))
    assert bench.weights(soft).keys() == bench.weights(tuned()).keys()
    assert bench.record(tuned(parent=soft, pattern="T(1-8)"))["row"]["status"] == "done"


def test_a_tenth_of_the_images_and_a_second_target(bench: Bench) -> None:
    other = Borrowed(data=_data("source", 3, 4), images=0.5)
    few = Borrowed(data=SOURCE, categories=0.4)
    record = bench.record(tuned("soft", options={"source_head": "kept"}, borrow=(few, other)))
    assert [part["images"] for part in record["borrowed"]] == [12, 6]
    assert [part["classes_used"] for part in record["borrowed"]] == [2, 3]
    assert record["row"]["borrowed"] == "parent, 0.4 of classes;categories 3, 0.5 of images"


def test_from_scratch_joint_training_needs_no_parent(bench: Bench) -> None:
    """GE-7: selective joint from scratch has both heads and the trunk at random."""
    spec = RunSpec(
        data=TARGET,
        model=MODEL,
        pattern="R(1-8)",
        init=Scratch(),
        method=MethodSpec(name="joint"),
        train=RECIPE,
        borrow=(PARENTS,),
    )
    assert bench.record(spec)["row"]["source"] == "none"


def test_frozen_layers_stay_frozen_beside_a_source(bench: Bench) -> None:
    spec = tuned("joint", pattern="F(1-3)T(4-7)R(8)", borrow=(PARENTS,))
    before, after = bench.weights(PARENT), bench.weights(spec)
    for name, value in before.items():
        if name.startswith(("conv1", "conv2", "conv3")):
            assert torch.equal(value, after[name]), name


def _chain(parent: RunSpec) -> RunSpec:
    return tuned(parent=parent, pattern="T(1-8)")


def test_lp_ft_starts_with_the_probes_outputs(bench: Bench) -> None:
    """Kumar et al. 2022: before its first step the network tuned next gives the same outputs."""
    probe = tuned(pattern="F(1-7)R(8)")
    folder = bench.run(probe)
    model = create(MODEL, 4, seed=11)
    apply_pattern(model, _chain(probe).layers, bench.weights(probe))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    probed = create(MODEL, 4, seed=0)
    probed.load_state_dict(load_file(folder.weights_path))
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), probed.eval()(images))
    assert bench.record(_chain(probe))["row"]["source"] == "categories 5 > self F(1-7)R(8)"


def test_sf_ft_continues_the_targets_own_scratch_model(bench: Bench) -> None:
    """LI-5: same classes, whole network copied, classifier included."""
    scratch = RunSpec(data=TARGET, model=MODEL, pattern="R(1-8)", train=RECIPE)
    first, second = bench.record(scratch), bench.record(_chain(scratch))
    assert second["row"]["source"] == "self"
    assert second["classes"] == first["classes"]
    assert second["row"]["source_test_overlap"] == 0
    before, after = bench.weights(scratch), bench.weights(_chain(scratch))
    moved = float((after["fc8.fc.weight"] - before["fc8.fc.weight"]).norm())
    assert 0 < moved < float(before["fc8.fc.weight"].norm())


def test_rows_of_today_run(bench: Bench) -> None:
    counts = {}
    for name, change in {
        "all": {},
        "norm": {"tuned": "norm"},
        "bias": {"tuned": "bias"},
        "l2_sp": {"l2_sp": 0.1},
        "decay": {"layer_lr_decay": 0.5},
        "lora": {"tuned": "lora", "lora_rank": 2, "ema": 0.5},
        "unfrozen": {"unfreeze_every": 1, "clip_norm": 1.0},
    }.items():
        row = bench.record(tuned(train=change))["row"]
        assert row["status"] == "done"
        assert np.isfinite(row["top1_accuracy"])
        counts[name] = row["trainable_parameters"]
    assert counts["all"] == counts["l2_sp"] == counts["decay"]
    assert max(counts["norm"], counts["bias"], counts["lora"]) < counts["all"] / 10
    assert counts["lora"] > counts["norm"]
    assert counts["bias"] < counts["unfrozen"] < counts["all"]  # 2 epochs: one layer has joined


def test_adapted_weights_are_published_as_the_networks_own(bench: Bench) -> None:
    """The difference to the parent has the rank that was asked for, and a child can start there."""
    spec = tuned(train={"tuned": "lora", "lora_rank": 2})
    assert spec.parent is not None
    bench.run(spec)
    before, after = bench.weights(spec.parent), bench.weights(spec)
    assert before.keys() == after.keys()
    for name in ("conv2.conv.weight", "fc6.fc.weight"):
        moved = (after[name] - before[name]).flatten(1).double()
        values = torch.linalg.svdvals(moved)
        assert values[1] > 0
        assert values[2] < 1e-3 * values[1]
    assert torch.equal(before["fc6.fc.bias"], after["fc6.fc.bias"])
    assert bench.record(_chain(spec))["row"]["status"] == "done"
    recipe = {"tuned": "lora", "mixup": 0.5, "ema": 0.5}
    joint = tuned("joint", borrow=(PARENTS,), train=recipe)
    assert bench.weights(joint).keys() == before.keys()


def _predictions(bench: Bench, spec: RunSpec) -> np.ndarray:
    folder = bench.run(spec)
    path = folder.file_named(bench.record(spec), "predictions")
    assert path is not None
    with np.load(path) as file:
        scores: np.ndarray = file["logits"]
    return scores


def test_fusing_identical_models_is_the_model(bench: Bench) -> None:
    """GE-7: the mean of the rounds' outputs. Without movement all rounds are one model."""
    options = {"bank": "gabor", "bins": 8, "k0": 2, "rounds": 2}
    still = {"lr": 1e-30, "select": "last"}
    spec = tuned("selective", options=options, train=still, borrow=(PARENTS,), pattern="F(1-7)R(8)")
    fused = spec.model_copy(
        update={"method": MethodSpec(name="selective", options=(*options.items(), ("fuse", True)))}
    )
    alone, together = _predictions(bench, spec), _predictions(bench, fused)
    shares = np.exp(alone - np.logaddexp.reduce(alone, 1, keepdims=True))
    assert np.allclose(np.exp(together), shares, atol=1e-6)
    rounds = bench.record(fused)["notes"]["method"]["selection"][0]["rounds"]
    assert len(rounds) == 2


@pytest.mark.parametrize(("method", "pooled"), [("selective", False), ("selective", True)])
def test_a_record_names_the_images_that_each_round_selected(
    bench: Bench, method: str, pooled: bool
) -> None:
    options = {"bank": "gabor", "bins": 8, "k0": 1, "rounds": 2}
    other = Borrowed(data=_data("source", 3, 4), draw=1)
    spec = tuned(method, options=options, borrow=(PARENTS, other), borrow_pooled=pooled)
    folder, record = bench.run(spec), bench.record(spec)
    path = folder.file_named(record, "selected")
    assert path is not None
    assert record["files"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    data = Loader(bench.context)(spec)
    with np.load(path) as file:
        names, places, rounds = file["images"], file["borrowed"], file["rounds"]
    assert set(places.tolist()) <= {1, 2}
    for place, (_, images) in enumerate(data.borrowed, start=1):
        theirs = {image.key.encode() for image in images.images}
        named = names[places == place].tolist()
        assert len(set(named)) == len(named)
        assert set(named) <= theirs
    for number, notes in enumerate(record["notes"]["method"]["selection"], start=1):
        mine = rounds if pooled else rounds[places == number]
        counted = [int(entry["source_images"]) for entry in notes["rounds"]]
        assert counted == [int((mine <= entry).sum()) for entry in (1, 2)]


def test_only_what_selects_names_selected_images(bench: Bench) -> None:
    spec = tuned("joint", borrow=(PARENTS,))
    assert bench.run(spec).file_named(bench.record(spec), "selected") is None


def test_fused_scores_are_the_mean_of_the_rounds_outputs(bench: Bench) -> None:
    options = {"bank": "gabor", "bins": 8, "k0": 2, "rounds": 2, "fuse": True}
    spec = tuned("selective", options=options, train={"select": "last"}, borrow=(PARENTS,))
    plain = tuple(sorted((options | {"fuse": False}).items()))
    alone = spec.model_copy(update={"method": MethodSpec(name="selective", options=plain)})
    fused = _predictions(bench, spec)
    last = _predictions(bench, alone)
    last = np.exp(last - np.logaddexp.reduce(last, 1, keepdims=True))
    assert np.allclose(np.exp(fused).sum(1), 1, atol=1e-5)
    assert not np.allclose(np.exp(fused), last, atol=1e-3)
    first = 2 * np.exp(fused) - last  # the weights of round one must have been a network's too
    assert (first > -1e-6).all()
    assert np.allclose(first.sum(1), 1, atol=1e-5)


def test_validation_images_can_be_added_to_training(bench: Bench) -> None:
    """GE-7, the last row of its Flowers table: nothing is held out, the last epoch counts."""
    data = TARGET.model_copy(update={"val_per_class": 0, "images_per_class": 8})
    options = {"bank": "gabor", "bins": 8, "k0": 2, "rounds": 2}
    spec = tuned("selective", options=options, train={"select": "last"}, borrow=(PARENTS,))
    row = bench.record(spec.model_copy(update={"data": data}))["row"]
    assert (row["train_images"], row["val_images"], row["best_epoch"]) == (32, 0, 2)
    assert row["val_top1_accuracy"] is None


def test_a_pool_is_one_domain_with_one_classifier(bench: Bench) -> None:
    """GE Table 5: the hybrid source is one source; each target image has one partner of both."""
    other = Borrowed(data=_data("source", 3, 5), draw=1)
    apart = tuned("joint", borrow=(PARENTS, other))
    pooled = tuned("joint", borrow=(PARENTS, other), borrow_pooled=True)
    data = Loader(bench.context)(pooled)
    model = create(MODEL, 4, seed=0)
    (domain,) = data.sources(model, pooled=True)
    parts = data.sources(model)
    assert domain.size == sum(part.size for part in parts) == 30 + 15
    assert domain.num_classes == 5 + 3
    assert domain.labels.tolist() == [*parts[0].labels, *(parts[1].labels + 5)]
    np.testing.assert_array_equal(
        np.asarray(domain.images), np.concatenate([np.asarray(part.images) for part in parts])
    )
    one, two = bench.record(pooled), bench.record(apart)
    assert one["run_id"] != two["run_id"]
    assert one["notes"]["method"]["source_images"] == [45]
    assert two["notes"]["method"]["source_images"] == [30, 15]
    history = (bench.run(pooled).path / "history.csv").read_text().splitlines()[0]
    assert "borrowed_1_loss" in history
    assert "borrowed_2_loss" not in history
    with pytest.raises(ValueError, match="a pool is made of two or more"):
        tuned("joint", borrow=(PARENTS,), borrow_pooled=True)
