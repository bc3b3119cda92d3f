"""Features that were computed before are not computed again, and are the same to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.data.rows import Rows
from bench.methods.features import linear_probe
from bench.methods.features.linear_probe import features_of, fit
from bench.methods.features.memo import FeatureMemo
from bench.methods.features.probe import ProbeOptions
from bench.methods.features.task import FeatureTask
from bench.models import layers
from bench.models.domains import classifier_name
from bench.specs.run import ModelSpec
from bench.training.domain import Domain
from bench.training.process import one_thread

CPU = torch.device("cpu")


def _network(seed: int = 0) -> torch.nn.Module:
    return layers.create(ModelSpec(name="narrow8_32"), 3, seed=seed, image_size=32).eval()


def _domain(count: int, first: int = 0) -> Domain:
    rng = np.random.default_rng(first)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return Domain("toy", images, np.arange(count) % 3, 3)


def _part(data: Domain, rows: slice) -> Domain:
    return replace(data, images=data.images[rows], labels=data.labels[rows])


@pytest.fixture
def memo(monkeypatch: pytest.MonkeyPatch) -> FeatureMemo:
    fresh = FeatureMemo()
    monkeypatch.setattr(linear_probe, "MEMO", fresh)
    return fresh


def test_the_same_batch_is_computed_once_whatever_the_classifier(memo: FeatureMemo) -> None:
    network, images = _network(), torch.randn(4, 3, 32, 32)
    features = features_of(network, "penultimate", "post", _domain(4), CPU)
    first = features(images)
    with torch.no_grad():
        for value in network.get_submodule(classifier_name(network)).parameters():
            value.add_(1.0)
    assert torch.equal(features(images), first)
    assert memo.computed == 4
    features(images.flip(0))
    features(images[:2])
    assert memo.computed == 10


def test_other_weights_or_running_statistics_are_another_network(memo: FeatureMemo) -> None:
    images, network = torch.randn(4, 3, 32, 32), _network()
    features = features_of(network, "penultimate", "post", _domain(4), CPU)
    first = features(images)
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    second = features(images)
    assert not torch.equal(first, second)
    other = features_of(_network(1), "penultimate", "post", _domain(4), CPU)(images)
    assert not torch.equal(first, other)
    assert memo.computed == 12


def test_what_is_kept_is_bounded() -> None:
    memo, network = FeatureMemo(most_bytes=400), torch.nn.Linear(2, 2)
    for value in range(5):
        memo.of(
            network,
            torch.nn.Identity(),
            torch.full((10, 2), float(value)),
            lambda: torch.ones(10, 5),
        )
    memo.of(network, torch.nn.Identity(), torch.full((10, 2), 4.0), lambda: torch.zeros(10, 5))
    assert memo.computed == 50
    memo.of(network, torch.nn.Identity(), torch.full((10, 2), 0.0), lambda: torch.zeros(10, 5))
    assert memo.computed == 60


def test_a_refit_takes_the_features_of_the_choice(memo: FeatureMemo, tmp_path: Path) -> None:
    train, held = _domain(30), _domain(9, first=1)
    both = Domain(
        "toy",
        np.concatenate([held.images[:], train.images[:]]),
        np.concatenate([held.labels, train.labels]),
        3,
    )
    fitted = fit(
        FeatureTask(_network(), train, held, CPU, tmp_path, refit=both),
        "logistic",
        (0.1, 1.0),
        ProbeOptions(),
    )
    assert memo.computed == 30 + 9 + 1  # one image tells how many columns there are
    c = fitted.notes["c"]
    alone = fit(
        FeatureTask(_network(), both, None, CPU, tmp_path), "logistic", (c,), ProbeOptions(c=c)
    )
    for name, value in alone.outcome.state.items():
        assert torch.allclose(fitted.outcome.state[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("known", "reads"), [(True, 1), (False, 2)])
def test_pixels_are_read_for_their_features_and_not_for_their_names(
    memo: FeatureMemo, tmp_path: Path, known: bool, reads: int
) -> None:
    """Where the hashes of what they were made from are known; the classifier is the same."""
    seen: list[int] = []

    class Counted(Rows):
        def __getitem__(self, which):  # type: ignore[no-untyped-def]
            found = super().__getitem__(which)
            seen.append(len(found))
            return found

    data = _domain(39)
    content = np.random.default_rng(2).integers(0, 256, (39, 40), np.uint8) if known else None

    def part(rows: NDArray[np.int64]) -> Domain:
        return replace(data, images=Counted(data.images, rows, content), labels=data.labels[rows])

    order = np.arange(39)
    task = FeatureTask(
        *(_network(), part(order[9:]), part(order[:9]), CPU, tmp_path), refit=part(order)
    )
    fitted = fit(task, "logistic", (0.1, 1.0), ProbeOptions())
    named = 2 * 39 * (reads - 1)  # of each division once
    assert sum(seen) == 39 + named + 1  # one image tells how many columns there are
    assert memo.computed == 39 + 1
    task = replace(task, train=_part(data, slice(9, None)), validation=_part(data, slice(9)))
    plain = fit(replace(task, refit=data), "logistic", (0.1, 1.0), ProbeOptions())
    for name, value in plain.outcome.state.items():
        assert torch.allclose(fitted.outcome.state[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("held", "parts"), [(0, 0), (9, 0), (0, 2), (9, 2)])
def test_another_process_takes_what_is_kept_on_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: int, parts: int
) -> None:
    """With a choice of C and a fit to all images, and without; with parts of images too."""
    monkeypatch.setattr(linear_probe, "LEAST_S", 0.0)
    torch.set_num_threads(1)
    train, validation, both = _domain(30), None, None
    if held:
        both = _domain(30 + held)
        train, validation = _part(both, slice(held, None)), _part(both, slice(held))

    def count(cache: Path | None, seed: int = 0) -> tuple[int, dict[str, torch.Tensor]]:
        """Images of which features were computed, and the classifier."""
        fresh = FeatureMemo()  # as in a new process
        monkeypatch.setattr(linear_probe, "MEMO", fresh)
        task = FeatureTask(
            _network(seed), train, validation, CPU, tmp_path, refit=both, cache=cache
        )
        options = ProbeOptions(parts=parts)
        state = fit(task, "logistic", (0.1, 1.0), options).outcome.state
        return fresh.computed, state

    cache = tmp_path / "features"
    none, plain = count(None)
    first, kept = count(cache)
    again, taken = count(cache)
    assert (
        none == first == (1 + parts) * (30 + held) + 1
    )  # one image tells how many columns there are
    assert again == 1
    for name, value in plain.items():
        assert torch.equal(kept[name], value)
        assert torch.equal(taken[name], value)
    assert count(cache, seed=1)[0] == first  # of another network
    for damage in (lambda whole: whole[:-5], lambda whole: whole[:70] + b"?" + whole[71:]):
        for path in cache.iterdir():
            path.write_bytes(damage(path.read_bytes()))
        assert count(cache)[0] == first
    if both is not None:  # another division of the same images, and what looks at the labels
        train, validation = _part(both, slice(29)), _part(both, slice(29, None))
        assert count(cache)[0] == 1
        fresh = FeatureMemo()
        monkeypatch.setattr(linear_probe, "MEMO", fresh)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)  # as in a command, whose workers have one each
        with one_thread():
            linear_probe.penultimate_features(_network(), both, CPU, cache)
        torch.set_num_threads(threads)
        assert fresh.computed == 1
