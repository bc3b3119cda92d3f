"""What every method must do, and what plain training shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.core.errors import DataError, GridError
from bench.methods import METHODS, Ingredients, build, build_features, check
from bench.methods.features.task import FeatureTask
from bench.methods.finetuning.plain import Plain
from bench.models import layers
from bench.specs.batches import natural_steps, smallest_batch
from bench.specs.data import DataSpec
from bench.specs.planned import DataFacts
from bench.specs.run import ModelSpec, RunSpec, TrainSpec
from bench.training import evaluation as evaluate
from bench.training.domain import Domain, Step, images_in

STEPPED = [name for name, entry in METHODS.items() if entry.kind == "steps"]
FITTED = [name for name, entry in METHODS.items() if entry.kind == "features"]
_cache = tempfile.TemporaryDirectory()  # what methods look up in the images, once for all tests


def _domain(count: int, side: int = 2) -> Domain:
    return Domain("d", np.zeros((count, side, side, 3), np.uint8), np.zeros(count, np.int64), 1)


def _ingredients(count: int = 23, seed: int = 0, steps: int | None = None) -> Ingredients:
    recipe = TrainSpec(batch_size=4, accumulate=2)
    return Ingredients(
        _domain(count, 32),
        recipe,
        seed,
        steps,
        sources=(_domain(31, 32),),
        network=layers.create(ModelSpec(name="narrow8_32"), 2, seed=0),
        cache=Path(_cache.name),
    )


def _predict(domain: int) -> np.ndarray:
    return np.zeros((_domain(23).size, 1), np.float32)


@pytest.mark.parametrize("name", STEPPED)
def test_steps_are_a_function_of_seed_and_epoch(name: str) -> None:
    def shown(seed: int, epoch: int) -> list:
        steps = build(name, {}, _ingredients(seed=seed)).steps(epoch, _predict)
        return [[(p.domain, p.indices.tolist(), p.weight) for p in step] for step in steps]

    assert shown(0, 1) == shown(0, 1)
    assert shown(0, 1) != shown(1, 1)
    assert shown(0, 1) != shown(0, 2)


@pytest.mark.parametrize("name", STEPPED)
def test_steps_name_images_that_exist_with_finite_weights(name: str) -> None:
    method = build(name, {}, _ingredients())
    assert 0 <= method.target < len(method.domains)
    for epoch in range(3):
        steps = method.steps(epoch, _predict)
        assert steps
        for part in (part for step in steps for part in step):
            assert part.indices.dtype == np.int64
            assert len(part.indices)
            assert 0 <= part.indices.min() <= part.indices.max()
            assert part.indices.max() < method.domains[part.domain].size
            assert np.isfinite(part.weight)


@pytest.mark.parametrize("name", STEPPED)
def test_each_further_domain_has_a_head_whose_outputs_are_classes(name: str) -> None:
    method = build(name, {}, _ingredients())
    assert set(method.heads) == set(range(len(method.domains))) - {method.target}
    for number, head in method.heads.items():
        assert head.classes.dtype == np.int64
        assert len(head.classes) == method.domains[number].num_classes
        assert len(set(head.classes.tolist())) == len(head.classes)
    assert method.batch_norm in ("joint", "separate", "frozen")


@pytest.mark.parametrize("name", STEPPED)
def test_notes_are_json(name: str) -> None:
    method = build(name, {}, _ingredients())
    rows: list = [{"epoch": n, "val_top1_accuracy": v} for n, v in enumerate((None, 0.25))]
    for history in ([], rows):
        json.dumps(dict(method.notes(history)), allow_nan=False)


@pytest.mark.parametrize("name", STEPPED)
def test_methods_say_how_much_they_borrow(name: str) -> None:
    least, most = METHODS[name].borrows
    assert 0 <= least <= most
    assert len(build(name, {}, _ingredients()).domains) == 1 + bool(most)


@pytest.mark.parametrize("name", STEPPED)
def test_a_restored_method_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    first, second = (build(name, {}, _ingredients()) for _ in range(2))
    for epoch in range(2):
        first.steps(epoch, _predict)
    second.restore(first.state())
    for a, b in zip(first.steps(1, _predict), second.steps(1, _predict), strict=True):
        assert [p.indices.tolist() for p in a] == [p.indices.tolist() for p in b]


@pytest.mark.parametrize("name", FITTED)
def test_fitted_methods_score_every_class_and_leave_the_network_as_it_is(
    name: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), np.arange(24) % 3
    data = Domain("d", images, labels, 3)
    net = layers.create(ModelSpec(name="narrow8_32"), 2, seed=0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    method = build_features(name, {})
    fitted = method.fit(FeatureTask(net, data, None, torch.device("cpu"), tmp_path))
    assert fitted.outcome.status == "done"
    assert evaluate.predict(fitted.model, data).shape == (24, 3)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not list(tmp_path.iterdir())


NEEDED = {"soup": {"over": {"train.lr": [0.1]}}}
"""Options that a method cannot do without."""


@pytest.mark.parametrize("name", METHODS)
def test_options_are_checked_without_torch(name: str) -> None:
    code = (
        f"import sys; from bench.methods import check; check({name!r}, {NEEDED.get(name, {})});"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("name", METHODS)
def test_options_are_frozen_and_complete(name: str) -> None:
    options = check(name, NEEDED.get(name, {}))
    assert options.model_config.get("frozen")
    assert options.model_config.get("extra") == "forbid"
    assert METHODS[name].summary


def test_wrong_names_and_options_are_errors_with_the_alternatives() -> None:
    with pytest.raises(GridError, match=r"there is no method 'plian'[\s\S]*plain"):
        check("plian", {})
    with pytest.raises(GridError, match="method 'plain' has no option 'alpha'"):
        check("plain", {"alpha": 1})


# --- plain ------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 16), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None)
def test_plain_shows_each_image_once_per_epoch_in_even_steps(
    count: int, batch_size: int, accumulate: int, epoch: int
) -> None:
    recipe = TrainSpec(batch_size=batch_size, accumulate=accumulate)
    steps = Plain(Ingredients(_domain(count), recipe)).steps(epoch)
    sizes = [images_in([step]) for step in steps]
    shown = np.concatenate([part.indices for (part,) in steps])
    assert sorted(shown.tolist()) == list(range(count))
    assert len(steps) == natural_steps(count, batch_size, accumulate)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size * accumulate


@given(st.integers(1, 30), st.integers(1, 16), st.integers(1, 4), st.integers(0, 40), st.booleans())
@example(1, 2, 2, 4, False)  # steps of 3, 3 and 4 images, and passes of 3, 3, 2 and 2
@settings(deadline=None)
def test_the_smallest_batch_is_known_before_anything_runs(
    images: int, batch_size: int, accumulate: int, more: int, equal: bool
) -> None:
    """Two classes of `images`, expanded to `more` above them."""
    size, to = {"batch_size": batch_size, "accumulate": accumulate}, images + more
    recipe = TrainSpec.model_validate({**size, "expand_to": to, "equal_steps": equal})
    data = DataSpec(dataset="digits", images_per_class=images, val_per_class=0)
    model = ModelSpec(name="narrow8_32")
    spec = RunSpec(data=data, model=model, pattern="R(1-8)", train=recipe)
    facts = DataFacts("", ("a", "b"), "digits", 2 * images, 0)
    fixed = natural_steps(2 * images, **size) if equal else None
    method = Plain(Ingredients(_domain(2 * to), recipe, 0, fixed))
    passes = [piece for step in method.steps(0) for piece in _cut(step, accumulate)]
    assert smallest_batch(spec, facts) == min(passes)


def _cut(step: Step, accumulate: int) -> list[int]:
    """Images of the forward passes of a step: as many as asked for that have two images each."""
    for passes in range(accumulate, 1, -1):
        pieces = np.array_split(step[0].indices, passes)
        if min(map(len, pieces)) > 1:
            return [len(piece) for piece in pieces]
    return [len(step[0].indices)]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 12), st.integers(1, 6))
@settings(deadline=None)
def test_a_fixed_number_of_steps_shows_all_images_equally_often(
    count: int, batch_size: int, steps_per_epoch: int, epochs: int
) -> None:
    """LI §4.6, equal_steps: the expanded set gets the steps of the set as it was."""
    recipe = TrainSpec(batch_size=batch_size)
    method = Plain(Ingredients(_domain(count), recipe, 0, steps_per_epoch))
    shown: Counter[int] = Counter()
    for epoch in range(epochs):
        steps = method.steps(epoch)
        assert len(steps) == steps_per_epoch
        shown.update(int(i) for (part,) in steps for i in part.indices)
    if steps_per_epoch != natural_steps(count, batch_size):
        assert shown.total() == epochs * steps_per_epoch * batch_size
    times = [shown[i] for i in range(count)]
    assert max(times) - min(times) <= 1


def test_equal_steps_change_nothing_when_nothing_was_expanded() -> None:
    """LI-12: the gain where the set is large enough already is 0 by construction."""
    recipe = TrainSpec(batch_size=8)
    free, fixed = (Plain(Ingredients(_domain(30), recipe, 0, n)) for n in (None, 4))
    for a, b in zip(free.steps(3), fixed.steps(3), strict=True):
        assert np.array_equal(a[0].indices, b[0].indices)


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="no image to train on"):
        Plain(Ingredients(_domain(0), TrainSpec()))
