"""Selective joint fine-tuning: pairs, rounds, labels, and what must be refused (GE-4 to GE-7)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import BenchError, DataError, GridError, ModelError
from bench.methods import Ingredients, build, check, resolved
from bench.methods.finetuning.selective import Selective, SoftSelective
from bench.methods.retrieval.nearest import NearestStream, random_order
from bench.methods.retrieval.neighbours import (
    SelectionOptions,
    pool_of,
    round_starts,
)
from bench.methods.retrieval.search import Neighbours
from bench.models.heads import MultiHead
from bench.specs.run import TrainSpec
from bench.training import checkpoints
from bench.training.domain import Domain
from bench.training.job import Outcome, TrainingJob
from bench.training.loop import train

RNG = np.random.default_rng(0)
TARGETS, SOURCES = 24, 60
_cache = tempfile.TemporaryDirectory()  # retrievals are made once for all tests


def _domain(count: int, classes: int, seed: int) -> Domain:
    """Images whose class is their stripes' orientation."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    y, x = np.mgrid[:16, :16]
    angle = np.pi * labels[:, None, None] / classes
    wave = np.cos(1.2 * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6, (count, 1, 1)))
    images = 127 + 60 * wave[..., None] + rng.normal(0, 20, (count, 16, 16, 3))
    return Domain("toy", images.clip(0, 255).astype(np.uint8), labels, classes)


TARGET, SOURCE = _domain(TARGETS, 3, 1), _domain(SOURCES, 6, 2)
PREDICT = lambda domain: np.tile(np.array([[9.0, 0.0, 0.0]], np.float32), (TARGETS, 1))  # noqa: E731


def _ingredients(seed: int = 0, epochs: int = 10, **more: Any) -> Ingredients:
    recipe = TrainSpec(batch_size=8, epochs=epochs, lr=0.05)
    given = {"sources": (SOURCE,), "cache": Path(_cache.name), **more}
    return Ingredients(TARGET, recipe, seed, **given)


def _build(name: str = "selective", seed: int = 0, epochs: int = 10, **options: Any) -> Any:
    network = options.pop("network", None)
    sources = options.pop("sources", (SOURCE,))
    options = {"bank": "gabor", "bins": 10, "k0": 2, **options}
    ingredients = _ingredients(seed, epochs, network=network, sources=sources)
    return build(name, options, ingredients)


def _pairs(method: Any, epoch: int, predict: Any = PREDICT) -> list[tuple[int, int]]:
    steps = method.steps(epoch, predict)
    for step in steps:
        target, source = step
        assert (target.domain, source.domain) == (0, 1)
        assert len(target.indices) == len(source.indices)  # half and half
    return [(int(i), int(s)) for t, b in steps for i, s in zip(t.indices, b.indices, strict=True)]


@pytest.mark.parametrize("name", ["selective", "soft_selective"])
def test_every_source_image_is_a_neighbour_of_its_partner(name: str) -> None:
    method = _build(name)
    (stream,) = method.nearest if name == "selective" else (method.nearest,)
    for epoch in range(7):
        for i, s in _pairs(method, epoch):
            k = stream.k[i]
            assert s in stream.neighbours.indices[i, :k]
    assert stream.round == 3
    assert (stream.k[TARGET.labels != 0] == 2 + 3 * 4 * 2).all()  # wrong each time: capped at 17 K0
    assert (stream.k[TARGET.labels == 0] == 2).all()  # right and sure
    assert stream.neighbours.stored == 34


def test_all_neighbours_have_the_same_chance() -> None:
    method = _build(adaptive=False, k0=5)
    count = np.zeros((TARGETS, SOURCES))
    for epoch in range(10):
        method.restore(method.state())
        for i, s in _pairs(method, epoch):
            count[i, s] += 1
    near = method.nearest[0].neighbours.indices
    ranks = np.take_along_axis(count, near[:, :5], 1).sum(0)
    assert ranks.sum() == 10 * TARGETS
    assert (abs(ranks - 48) < 4 * np.sqrt(48)).all()


def test_fixed_k_never_grows() -> None:
    method = _build(adaptive=False)
    for epoch in range(10):
        _pairs(method, epoch, predict=None)
    assert (method.nearest[0].k == 2).all()
    assert method.nearest[0].neighbours.stored == 2


@pytest.mark.parametrize("options", [{}, {"partners": "random"}, {"adaptive": False}])
@pytest.mark.parametrize("name", ["selective", "soft_selective"])
def test_the_images_of_each_round_are_those_that_it_can_show(
    name: str, options: dict[str, Any]
) -> None:
    """Literal twin: the neighbours within K of every target image, after each look."""
    method = _build(name, k0=1, **options)
    (stream,) = method.nearest if name == "selective" else (method.nearest,)
    able: list[set[int]] = []
    for epoch in range(7):  # soft_selective's source fades out later
        drawn = {s for _, s in _pairs(method, epoch)}
        if epoch % 2 == 0:
            if "partners" in options:
                count = int(stream.log[-1]["source_images"])
                order = random_order(stream.name, SOURCES)
                shown = [s for s in order if stream.shown[s]]
                able.append({int(s) for s in shown[:count]})
            else:
                near = stream.neighbours.indices
                able.append({int(s) for i in range(TARGETS) for s in near[i, : stream.k[i]]})
        assert drawn <= able[-1]
        method.restore(method.state())  # a run that is interrupted forgets nothing
    first = method.first_rounds[0]
    assert first.shape == (SOURCES,)
    for number, images in enumerate(able, start=1):
        assert {int(s) for s in np.flatnonzero((first > 0) & (first <= number))} == images
    assert len(able[0]) < len(able[-1]) or options == {"adaptive": False}


def test_an_image_that_is_never_shown_is_in_no_round() -> None:
    """Neighbours of a class that is left out were near, but not trained on."""
    method = _build(k0=3, least_images_per_class=6)
    (first,), (stream,) = method.first_rounds, method.nearest
    assert not first[~stream.shown].any()
    near = stream.neighbours.indices[:, :3]
    assert {int(s) for s in np.flatnonzero(first == 1)} == {
        int(s) for s in near.ravel() if stream.shown[s]
    }


def test_random_partners_are_as_many_as_the_union_of_each_round() -> None:
    """GE §4.6: the same number of source images, chosen at random; nothing else changes."""
    method, nearest = _build(partners="random"), _build()
    shown: list[set[int]] = [set() for _ in range(5)]
    for epoch in range(10):
        pairs = _pairs(method, epoch)
        _pairs(nearest, epoch)
        assert [i for i, _ in pairs] == [i for i, _ in _pairs(nearest, epoch)]
        shown[epoch // 2] |= {s for _, s in pairs}
    stream, twin = method.nearest[0], nearest.nearest[0]
    assert [entry["source_images"] for entry in stream.log] == [
        entry["source_images"] for entry in twin.log
    ]
    order = random_order(stream.name, SOURCE.size)
    for seen, entry in zip(shown, stream.log, strict=True):
        assert seen <= set(order[: int(entry["source_images"])].tolist())
    near = {int(s) for row in twin.neighbours.indices[:, :2] for s in row}
    assert not shown[0] <= near
    classes = np.unique(SOURCE.labels[order[: int(stream.log[-1]["source_images"])]])
    assert set(classes) <= set(method.heads[1].classes)


def test_rounds_share_the_epochs() -> None:
    assert round_starts(10, 5) == (0, 2, 4, 6, 8)
    assert round_starts(5, 5) == (0, 1, 2, 3, 4)
    assert round_starts(7, 3) == (0, 3, 5)
    with pytest.raises(BenchError, match=r"no option 'restart'[\s\S]*train.restart_every"):
        _build(restart=False)
    with pytest.raises(GridError, match="5 rounds do not fit in 4 epochs"):
        _build(epochs=4)


def test_predictions_are_asked_for_once_per_round_and_not_again_after_a_stop() -> None:
    calls: list[int] = []

    def predict(domain: int) -> np.ndarray:
        calls.append(domain)
        return PREDICT(domain)

    method = _build()
    for epoch in range(5):
        method.steps(epoch, predict)
    assert calls == [0, 0]  # before epochs 2 and 4
    again = _build()
    again.restore(method.state())
    assert _pairs(again, 4, predict) == _pairs(method, 4, predict)
    assert calls == [0, 0]
    assert again.notes([]) == method.notes([])
    assert [entry["round"] for entry in again.notes([])["selection"][0]["rounds"]] == [1, 2, 3]


def test_notes_tell_the_rounds() -> None:
    method = _build()
    for epoch in range(3):
        method.steps(epoch, PREDICT)
    (selection,) = method.notes([])["selection"]
    assert selection["k0"] == 2
    assert selection["bin_edges"] == "exact quantiles"
    first, second = selection["rounds"]
    assert first["mean_k"] == 2
    assert second["wrong"] == pytest.approx(2 / 3)
    assert second["largest_k"] == 10
    assert first["source_images"] < second["source_images"] <= SOURCES


def test_k0_is_the_smallest_that_gives_enough() -> None:
    from bench.methods.retrieval.adaptive import union_sizes

    for wanted in (7, 30):
        method = _build(k0=None, min_source=wanted)
        sizes = union_sizes(method.nearest[0].neighbours)
        k0 = method.notes([])["selection"][0]["k0"]
        assert sizes[k0 - 1] >= wanted
        assert k0 == 1 or sizes[k0 - 2] < wanted
    assert _build(k0=None).nearest[0].log[0]["source_images"] >= SOURCES / 4


# --- labels -----------------------------------------------------------------------------------


def test_labels_are_numbered_anew_without_a_gap() -> None:
    rows = np.flatnonzero(np.isin(SOURCE.labels, [1, 4, 5]))[2:]
    pool = pool_of(SOURCE, rows, reindex=True)
    assert pool.classes.tolist() == [1, 4, 5]
    assert (pool.classes[pool.domain.labels[rows]] == SOURCE.labels[rows]).all()
    assert pool.domain.num_classes == 3
    assert np.flatnonzero(pool.shown).tolist() == rows.tolist()
    assert pool.domain.images is SOURCE.images  # a source of a million images is not copied


def test_rare_classes_are_left_out() -> None:
    rows = np.concatenate([np.flatnonzero(SOURCE.labels == 0)[:6], np.array([1, 2])])
    pool = pool_of(SOURCE, rows, reindex=True, least=2)
    assert pool.classes.tolist() == [0]
    assert pool.shown.sum() == 6
    with pytest.raises(DataError, match="no class of the 8 selected images has 7"):
        pool_of(SOURCE, rows, reindex=True, least=7)


def test_images_of_classes_left_out_are_not_shown() -> None:
    near = Neighbours(np.array([[0, 1, 2], [1, 2, 0]]), np.zeros((2, 3), np.float32), 3)
    shown = np.array([True, False, True])

    def stream(k0: int) -> NearestStream:
        labels = np.zeros(2, np.int64)
        return NearestStream(near, shown, k0, labels, (0,), SelectionOptions(), "s")

    chunks = [np.array([0, 1] * 50)]
    drawn = stream(2).draw(0, chunks, PREDICT)[0].reshape(50, 2)
    assert set(drawn[:, 0].tolist()) == {0}
    assert set(drawn[:, 1].tolist()) == {2}
    drawn = stream(3).draw(0, chunks, PREDICT)[0].reshape(50, 2)
    assert set(drawn.ravel().tolist()) == {0, 2}
    with pytest.raises(DataError, match="1 target images have no neighbour left"):
        stream(1)


def test_heads_know_which_classes_they_stand_for() -> None:
    method = _build(k0=1, rounds=1)
    head = method.heads[1]
    assert not head.kept
    assert len(head.classes) == method.domains[1].num_classes
    near = method.nearest[0].neighbours.indices
    shown = sorted(set(SOURCE.labels[near.ravel()].tolist()))
    assert head.classes.tolist() == shown
    whole = _build(k0=1, rounds=1, reindex=False)
    assert whole.domains[1].num_classes == 6
    assert _build("soft_selective").heads[1].kept


# --- banks and errors ---------------------------------------------------------------------------


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 6, 3, padding=1))
    net.add_module("act1", nn.ReLU())
    net.add_module("conv2", nn.Conv2d(6, 8, 3, stride=2, padding=1))
    net.add_module("act2", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    return net


def test_kernels_of_the_network_are_a_bank() -> None:
    method = _build(bank="kernels", layers="conv1, conv2", network=_net())
    named = {"bank": "kernels", "layers": "conv1"}
    with pytest.raises(ModelError, match=r"no layer 'conv9'"):
        _build(**{**named, "layers": "conv1,conv9"}, network=_net())
    assert method.notes([])["selection"][0]["bank"] == ["conv1: 6 filters", "conv2: 8 filters"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k0": 61}, DataError, "k0 is 61, but the source has 60 images"),
        ({"k0": None, "min_source": 61}, DataError, "min_source is 61, but the source has 60"),
        ({"stored": 61}, DataError, "stored is 61"),
        ({"k0": 5, "stored": 4}, DataError, "stored is 4, fewer than the 5"),
        ({"min_source": 5}, GridError, "k0 and method.min_source both"),
        ({"k0": 0}, GridError, "k0 is 0"),
        ({"bank": "kernels"}, ModelError, r"starts from nothing[\s\S]*bank: gabor"),
        ({"bank": "kernel"}, GridError, "bank is 'kernel'"),
        ({"bins": 1}, GridError, "bins is 1"),
        ({"sources": ()}, DataError, "no source image"),
    ],
)
def test_bad_input_is_refused_before_training(
    options: dict[str, Any], kind: type[BenchError], message: str
) -> None:
    for name in ("selective", "soft_selective"):
        with pytest.raises(kind, match=message):
            _build(name, **options)


def test_results_of_the_retrieval_are_kept(tmp_path: Path) -> None:
    options = {"bank": "gabor", "bins": 10, "k0": 2}
    first = build("selective", options, _ingredients(cache=tmp_path))
    files = {path: path.stat().st_ino for path in (tmp_path / "retrieval").iterdir()}
    second = build("selective", options, _ingredients(cache=tmp_path))
    assert files == {path: path.stat().st_ino for path in (tmp_path / "retrieval").iterdir()}
    assert len(files) == 5  # edges, responses, descriptors of both sides, neighbours
    assert isinstance(first, Selective)
    assert isinstance(second, Selective)
    assert np.array_equal(first.nearest[0].neighbours.indices, second.nearest[0].neighbours.indices)


def test_it_trains() -> None:
    """Through the loop, rounds and all; and the trunk learns the target."""
    method = _build(epochs=20)
    net = MultiHead(_net(), [nn.Linear(8, 3), nn.Linear(8, method.domains[1].num_classes)])
    job = TrainingJob(
        model=net,
        method=method,
        groups=[{"params": list(net.parameters())}],
        forward=net,
        train=TrainSpec(batch_size=8, epochs=20, lr=0.02, augment="none"),
        validation=TARGET,
    )
    outcome = train(job)
    assert outcome.status == "done"
    assert outcome.history[-1]["train_loss"] < outcome.history[0]["train_loss"]
    assert len(method.notes(outcome.history)["selection"][0]["rounds"]) == 5
    assert isinstance(_build("soft_selective"), SoftSelective)


def test_a_checkpoint_without_the_images_of_the_rounds_is_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def outcome() -> Outcome:
        method = _build(epochs=5)
        net = MultiHead(_net(), [nn.Linear(8, 3), nn.Linear(8, method.domains[1].num_classes)])
        return train(
            TrainingJob(
                model=net,
                method=method,
                groups=[{"params": list(net.parameters())}],
                forward=net,
                train=TrainSpec(batch_size=8, epochs=5, lr=0.001, augment="none", select="last"),
                identity="run",
                checkpoint=path,
                checkpoint_every_s=0.0,
            )
        )

    outcome()
    assert outcome().notes == ("resumed in epoch 5 after step 3",)
    found = checkpoints.read(path, "run")
    assert isinstance(found, checkpoints.Checkpoint)
    earlier = {k: v for k, v in found.tensors.items() if not k.endswith("first_round")}
    assert len(earlier) == len(found.tensors) - 1
    checkpoints.write(path, "run", earlier, found.meta)
    assert outcome().notes == (f"checkpoint not used, started anew: {path} is of an old version",)


def test_hard_images_are_shown_as_often_as_their_level() -> None:
    """GE's released code repeats a target image; the steps of an epoch stay as many and as long."""
    plain, hard = _build(), _build(oversample_hard=True)
    assert _pairs(plain, 0) == _pairs(hard, 0)
    assert _pairs(plain, 1) == _pairs(hard, 1)  # the first round has seen no prediction
    sizes = [len(step[0].indices) for step in plain.steps(2, PREDICT)]
    shown = np.zeros(TARGETS, int)
    pairs = [pair for epoch in (2, 3) for pair in _pairs(hard, epoch)]
    np.add.at(shown, [i for i, _ in pairs], 1)
    assert [len(step[0].indices) for step in hard.steps(2, PREDICT)] == sizes
    stream, wrong = hard.nearest[0], TARGET.labels != 0
    assert stream.level.tolist() == np.where(wrong, 5, 1).tolist()
    assert all(s in stream.neighbours.indices[i, : stream.k[i]] for i, s in pairs)
    for epoch in range(4, 6):
        _pairs(hard, epoch)
    assert stream.level.tolist() == np.where(wrong, 9, 1).tolist()
    # A list of 16 x 9 + 8 x 1 images, gone through without repetition: 152 shown in 6.33 epochs.
    row = [i for epoch in (4, 5) for i, _ in _pairs(hard, epoch)]
    assert max(np.bincount(row, minlength=TARGETS)[~wrong]) <= 1
    assert hard.notes([])["selection"][0]["rounds"][-1]["mean_level"] == (16 * 9 + 8) / 24


def test_a_stopped_run_repeats_its_hard_images() -> None:
    hard = _build("soft_selective", oversample_hard=True)
    first = _pairs(hard, 4)
    again = _build("soft_selective", oversample_hard=True)
    again.restore(hard.state())
    assert _pairs(again, 4, predict=None) == first


def test_levels_need_rounds_that_look() -> None:
    for options in ({"adaptive": False}, {"rounds": 1}):
        with pytest.raises(GridError, match="oversample_hard"):
            check("selective", {"oversample_hard": True, **options})


def test_a_later_option_at_its_default_is_no_part_of_an_id() -> None:
    assert "oversample_hard" not in resolved("selective", {})
    assert resolved("selective", {"oversample_hard": True})["oversample_hard"] is True
    assert resolved("soft_selective", {"k0": 3})["k0"] == 3
