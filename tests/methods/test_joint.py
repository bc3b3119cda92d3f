"""Joint training, and the streams that say which source images a step shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.core.errors import DataError, GridError
from bench.core.seeding import rng_from
from bench.methods import Ingredients, build, check
from bench.methods.finetuning.joint import Joint, JointOptions, spread
from bench.methods.finetuning.soft import Soft, SoftOptions
from bench.methods.streams import Shuffled, endless, reindexed
from bench.specs.run import TrainSpec
from bench.training.domain import Domain


def domain(labels: Sequence[int], classes: int) -> Domain:
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Domain("d", np.tile(images, (1, 2, 2, 3)), np.array(labels, np.int64), classes)


TARGET = domain([0, 1] * 10, 2)
SOURCE = domain([2, 5, 7] * 11, 9)
RECIPE = TrainSpec(batch_size=6, accumulate=2)


def predict(number: int) -> Any:
    raise AssertionError("costly, and not needed here")


def test_every_step_is_half_target_half_source_at_equal_weights() -> None:
    """GE §3.2: 10 + 10 images, the two losses summed."""
    for step in build("joint", {}, Ingredients(TARGET, RECIPE, sources=(SOURCE,))).steps(
        0, predict
    ):
        target, source = step
        assert (target.domain, source.domain) == (0, 1)
        assert len(target.indices) == len(source.indices)
        assert (target.weight, source.weight) == (1.0, 1.0)


def test_the_weights_of_the_released_code_are_an_option() -> None:
    options = {"target_weight": 0.5, "source_weight": 0.5}
    (step, *_) = build("joint", options, Ingredients(TARGET, RECIPE, sources=(SOURCE,))).steps(
        0, predict
    )
    assert [part.weight for part in step] == [0.5, 0.5]


def test_target_steps_are_those_of_plain_training() -> None:
    ingredients = Ingredients(TARGET, RECIPE, 4, sources=(SOURCE,))
    for joint, plain in zip(
        build("joint", {}, ingredients).steps(2, predict),
        build("plain", {}, ingredients).steps(2, predict),
        strict=True,
    ):
        assert np.array_equal(joint[0].indices, plain[0].indices)


@given(st.lists(st.integers(0, 5), min_size=12, max_size=40), st.integers(1, 3))
def test_a_class_too_often_in_a_step_gives_way_to_absent_ones(labels: list[int], most: int) -> None:
    """GE's released code, option of GE-6 (b)."""
    all_labels, chunk = np.array(labels), np.arange(8)
    found = spread(chunk, all_labels, most, np.random.default_rng(0))
    before, after = Counter(labels[:8]), Counter(all_labels[found].tolist())
    absent = set(labels) - set(before)
    surplus = sum(max(0, n - most) for n in before.values())
    assert len(found) == 8
    assert sum(found != chunk) == min(surplus, len(absent))
    assert set(after) - set(before) <= absent
    assert all(after[label] >= min(n, most) for label, n in before.items())


def test_spreading_is_an_option_of_the_steps() -> None:
    target = domain([0] * 30 + list(range(1, 7)), 7)
    ingredients = Ingredients(target, TrainSpec(batch_size=6), sources=(SOURCE,))
    most = []
    for options in ({}, {"most_per_class": 2}):
        steps = build("joint", options, ingredients).steps(0, predict)
        counts = [Counter(target.labels[step[0].indices].tolist()) for step in steps]
        most.append(max(max(count.values()) for count in counts))
    assert most[0] > 2 == most[1]


def test_several_sources_stand_side_by_side() -> None:
    method = build("joint", {}, Ingredients(TARGET, RECIPE, sources=(SOURCE, domain([0] * 5, 1))))
    assert [d.num_classes for d in method.domains] == [2, 3, 1]
    assert {len(step) for step in method.steps(0, predict)} == {3}
    assert not any(head.kept for head in method.heads.values())


# --- re-indexing ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 4))
def test_new_class_numbers_are_a_bijection_onto_0_to_n(labels: list[int], least: int) -> None:
    old = domain(labels, 9)
    count = Counter(labels)
    kept = sorted(label for label, n in count.items() if n >= max(1, least))
    if not kept:
        with pytest.raises(DataError, match="least_images_per_class"):
            reindexed(old, least)
        return
    new, classes = reindexed(old, least)
    assert classes.tolist() == kept
    assert (
        sorted(set(new.labels.tolist())) == list(range(len(kept))) == list(range(new.num_classes))
    )
    assert classes[new.labels].tolist() == [label for label in labels if label in kept]


def test_classes_without_images_leave_the_head_only_if_asked() -> None:
    ingredients = Ingredients(TARGET, RECIPE, sources=(SOURCE,))
    assert build("joint", {}, ingredients).heads[1].classes.tolist() == [2, 5, 7]
    whole = build("joint", {"reindex": False}, ingredients)
    assert whole.heads[1].classes.tolist() == list(range(9))
    assert whole.domains[1].num_classes == 9


def test_notes_say_what_was_trained_on() -> None:
    method = build("joint", {}, Ingredients(TARGET, RECIPE, sources=(SOURCE,)))
    assert method.notes([]) == {"source_images": [33], "source_classes": [3]}


# --- streams ----------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 40), st.integers(1, 30))
@settings(deadline=None)
def test_an_endless_row_is_shuffled_passes_one_after_the_other(
    size: int, start: int, length: int
) -> None:
    literal: list[int] = []
    number = 0
    while len(literal) < start + length:
        literal += rng_from(f"x|{number}").permutation(size).tolist()
        number += 1
    assert endless("x", size, start, length).tolist() == literal[start : start + length]


@given(st.integers(1, 50), st.integers(1, 6))
@settings(deadline=None)
def test_source_images_are_shown_equally_often(size: int, epochs: int) -> None:
    stream = Shuffled(size, "s")
    chunks = [np.arange(7), np.arange(7), np.arange(6)]
    shown: Counter[int] = Counter()
    for epoch in range(epochs):
        drawn = stream.draw(epoch, chunks, predict)
        assert [len(d) for d in drawn] == [7, 7, 6]
        shown.update(int(i) for d in drawn for i in d)
    times = [shown[i] for i in range(size)]
    assert max(times) - min(times) <= 1


class Partner:
    """A stream like that of retrieval: each target image has its own source image."""

    def __init__(self) -> None:
        self.offset = 3

    def draw(self, epoch: int, chunks: Sequence[Any], predict: Any) -> list[Any]:
        return [chunk + self.offset for chunk in chunks]

    def state(self) -> Mapping[str, Tensor]:
        return {"offset": torch.tensor(self.offset)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.offset = int(state["offset"])


def test_a_chosen_source_goes_with_any_loss() -> None:
    """The soft schedule with a selected source: the stream is handed in."""
    ingredients = Ingredients(TARGET, RECIPE, sources=(SOURCE,))
    for method in (
        Joint(ingredients, JointOptions(), [Partner()]),
        Soft(ingredients, SoftOptions(), Partner()),
    ):
        for target, source in method.steps(0, predict):
            assert np.array_equal(source.indices, target.indices + 3)


def test_the_state_of_streams_is_the_methods() -> None:
    ingredients = Ingredients(TARGET, RECIPE, sources=(SOURCE, SOURCE))
    first, second = (Joint(ingredients, JointOptions(), [Partner(), Partner()]) for _ in range(2))
    first.streams[1].restore({"offset": torch.tensor(9)})
    second.restore(first.state())
    assert [stream.offset for stream in second.streams] == [3, 9]  # type: ignore[attr-defined]


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["joint", "soft"])
@pytest.mark.parametrize("sources", [(), (domain([], 3),)])
def test_a_source_without_images_is_an_error(name: str, sources: tuple[Domain, ...]) -> None:
    with pytest.raises(DataError, match=rf"'{name}' has no source image[\s\S]*borrow: parent"):
        build(name, {}, Ingredients(TARGET, RECIPE, sources=sources))


def test_wrong_options_are_errors() -> None:
    for options in ({"source_weight": -1.0}, {"batch_norm": "none"}, {"reindex": 1}):
        with pytest.raises(GridError, match="method 'joint'"):
            check("joint", options)
