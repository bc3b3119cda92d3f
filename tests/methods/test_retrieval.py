"""Distances against literal loops and scipy, neighbours against a full sort (GE-3, GE-4, GE-5)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from bench.core.errors import DataError
from bench.methods.retrieval import search as retrieval
from bench.methods.retrieval.adaptive import auto_k0, chosen, grow, prediction_entropy, union_sizes
from bench.methods.retrieval.descriptors import Descriptors, describe, edges_of
from bench.methods.retrieval.filter_banks import GaborBank, Group
from bench.methods.retrieval.search import EPSILON, Neighbours, nearest_sources, pair_distances
from bench.training.domain import Domain

RNG = np.random.default_rng(0)
BINS, PLACES = 10, 60
GROUPS = (Group("a", 3, PLACES), Group("b", 5, PLACES))


def _descriptors(
    count: int,
    key: str = "x",
    *,
    positive: bool = False,
    seed: int = 0,
    groups: tuple[Group, ...] = GROUPS,
) -> Descriptors:
    rng = np.random.default_rng(seed)
    filters = sum(group.filters for group in groups)
    shares = rng.dirichlet(np.full(BINS, 0.7), (count, filters))
    counts = np.stack(
        [[rng.multinomial(PLACES - BINS * positive, p) for p in row] for row in shares]
    )
    counts = (counts + positive).reshape(count, -1).astype(np.uint16)
    return Descriptors(counts, groups, BINS, f"{key}-{seed}-{count}")


def _literal(t: Descriptors, s: Descriptors, epsilon: float) -> np.ndarray:
    """Eq. 1 as it stands: pairs, layers, filters, bins."""
    distances = np.zeros((t.size, s.size))
    for i in range(t.size):
        for j in range(s.size):
            at = 0
            for group in t.groups:
                for _ in range(group.filters):
                    p = t.counts[i, at : at + BINS] / group.places
                    q = s.counts[j, at : at + BINS] / group.places
                    for a, b in zip(p, q, strict=True):
                        ratio = math.log((a + epsilon) / (b + epsilon))
                        distances[i, j] += (a * ratio - b * ratio) / group.filters
                    at += BINS
    return distances


def _all(t: Descriptors, s: Descriptors, epsilon: float = EPSILON, **options: int) -> np.ndarray:
    """Distances of all pairs by the search."""
    near = nearest_sources(t, s, s.size, epsilon=epsilon, **options)
    full = np.empty((t.size, s.size))
    np.put_along_axis(full, near.indices, near.distances, 1)
    return full


@pytest.mark.parametrize("epsilon", [EPSILON, 1e-6, 1e-2])
def test_distances_equal_the_literal_loops(epsilon: float) -> None:
    t, s = _descriptors(6), _descriptors(9, seed=1)
    expected = _literal(t, s, epsilon)
    rows = np.repeat(np.arange(6), 9), np.tile(np.arange(9), 6)
    exact = pair_distances(t, s, *rows, epsilon=epsilon).reshape(6, 9)
    assert np.abs(exact - expected).max() < 1e-12
    assert np.abs(_all(t, s, epsilon) / expected - 1).max() < 1e-5


def test_distances_equal_scipys_entropies() -> None:
    t, s = _descriptors(4, positive=True), _descriptors(5, positive=True, seed=1)
    p, q = (d.histograms().reshape(d.size, 8, BINS) for d in (t, s))
    weights = np.array([1 / 3] * 3 + [1 / 5] * 5)
    both = np.array([[entropy(a.T, b.T) + entropy(b.T, a.T) for b in q] for a in p]) @ weights
    assert np.allclose(_all(t, s), both, rtol=1e-5)


def test_the_distance_is_symmetric_positive_and_0_to_itself() -> None:
    t = _descriptors(12)
    full = _all(t, t)
    assert np.abs(full - full.T).max() <= 1e-5 * full.max()
    assert (full >= 0).all()
    assert (np.diag(full) == 0).all()


def test_doubling_a_layers_filters_changes_nothing() -> None:
    t, s = _descriptors(5), _descriptors(7, seed=1)

    def doubled(d: Descriptors) -> Descriptors:
        first = d.counts[:, : 3 * BINS]
        counts = np.concatenate([first, first, d.counts[:, 3 * BINS :]], 1)
        return Descriptors(counts, (Group("a", 6, PLACES), GROUPS[1]), BINS, d.key + "2")

    assert np.allclose(_all(t, s), _all(doubled(t), doubled(s)), rtol=1e-5)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.data())
@settings(deadline=None, max_examples=40)
def test_neighbours_are_those_of_a_full_sort(
    targets: int, sources: int, k: int, data: st.DataObject
) -> None:
    """With planted copies, so that distances tie exactly; blocks of every size."""
    k = min(k, sources)
    t = _descriptors(targets, seed=2)
    base = _descriptors(sources, seed=3).counts
    copies = data.draw(st.lists(st.integers(0, sources - 1), min_size=sources, max_size=sources))
    s = Descriptors(base[copies], GROUPS, BINS, "copies")
    rows = np.repeat(np.arange(targets), sources), np.tile(np.arange(sources), targets)
    exact = pair_distances(t, s, *rows).reshape(targets, sources)
    expected = np.argsort(exact, axis=1, kind="stable")[:, :k]
    blocks = retrieval.Blocks(data.draw(st.integers(1, 50)), data.draw(st.integers(1, 70)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "plan_blocks", lambda *_: blocks)
        found = nearest_sources(t, s, k)
    values = np.take_along_axis(exact, found.indices, 1)
    assert np.allclose(values, np.take_along_axis(exact, expected, 1), rtol=1e-5)
    assert np.allclose(found.distances, values, rtol=1e-5)
    assert all(len(set(row)) == k for row in found.indices.tolist())


@pytest.mark.parametrize("blocks", [(1, 1), (3, 4), (50, 7), (50, 50)])
def test_equal_values_are_in_the_order_of_their_places(blocks: tuple[int, int]) -> None:
    values = torch.tensor(RNG.integers(0, 4, (20, 41)), dtype=torch.float32)
    for k in (1, 5, 40, 41):
        best = retrieval._Best(20, k, torch.device("cpu"))
        for start in range(0, 41, blocks[1]):
            best.add(values[:, start : start + blocks[1]], start)
        expected = np.argsort(values.numpy(), axis=1, kind="stable")[:, :k]
        assert np.array_equal(best.indices.numpy(), expected)


def test_planted_duplicates_come_first_with_distance_0() -> None:
    t, s = _descriptors(8), _descriptors(50, seed=1)
    counts = s.counts.copy()
    places = RNG.permutation(50)[:8]
    counts[places] = t.counts
    found = nearest_sources(t, Descriptors(counts, GROUPS, BINS, "planted"), 5)
    assert np.array_equal(found.indices[:, 0], places)
    assert (found.distances[:, 0] == 0).all()
    assert (found.distances[:, 1] > 0.1).all()


def test_memory_bounds_the_blocks() -> None:
    for memory in (2, 16, 300):
        blocks = retrieval.plan_blocks(5632, 100, 2000, 20_000, memory)
        used = blocks.target * (8 * 5632 + 4800) + blocks.source * 8 * 5632
        used += blocks.target * blocks.source * 8
        assert used <= memory * 2**20
    with pytest.raises(DataError, match=r"1 MiB hold no image[\s\S]*at least"):
        retrieval.plan_blocks(352_000, 100, 10, 10, 1)


def test_gratings_retrieve_their_orientation() -> None:
    """Ledger section 12: a target of one orientation finds it in a source of many."""
    rng = np.random.default_rng(5)

    def gratings(angles: np.ndarray) -> Domain:
        y, x = np.mgrid[:48, :48]
        phase = rng.uniform(0, 2 * np.pi, len(angles))[:, None, None]
        c, s = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
        wave = 127 + 50 * np.cos(2 * np.pi * 0.2 * (x * c + y * s) + phase)
        wave = wave + rng.normal(0, 15, wave.shape)
        images = np.repeat(wave.clip(0, 255).astype(np.uint8)[..., None], 3, 3)
        return Domain("gratings", images, np.zeros(len(angles), np.int64), 1)

    target = gratings(np.full(6, np.pi / 6))
    angles = np.repeat(np.arange(6) * np.pi / 6, 10)
    bank = GaborBank(48)
    edges, _ = edges_of(bank, target, 20)
    found = nearest_sources(
        describe(bank, target, edges), describe(bank, gratings(angles), edges), 10
    )
    assert (angles[found.indices] == np.pi / 6).mean() > 0.95


def test_neighbours_are_kept_by_content_and_more_serve_fewer(tmp_path: Path) -> None:
    t, s = _descriptors(5), _descriptors(30, seed=1)
    many = nearest_sources(t, s, 20, cache=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_search", None)
        few = nearest_sources(t, s, 7, cache=tmp_path)
    assert np.array_equal(few.indices, many.indices[:, :7])
    assert nearest_sources(t, s, 25, cache=tmp_path).stored == 25
    assert len(list(tmp_path.iterdir())) == 1
    other = nearest_sources(t, s, 7, epsilon=1e-2, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.array_equal(other.distances, few.distances)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(nearest_sources(t, s, 7, cache=tmp_path).indices, few.indices)


def test_k_beyond_the_source_is_an_error() -> None:
    with pytest.raises(DataError, match=r"9 neighbours[\s\S]*8 images[\s\S]*1 to 8"):
        nearest_sources(_descriptors(3), _descriptors(8), 9)
    other = _descriptors(8, groups=(Group("c", 8, PLACES),))
    with pytest.raises(DataError, match="different filters"):
        nearest_sources(_descriptors(3), other, 2)


# --- how many neighbours ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "entropy_", "more"),
    [
        (True, 0.0, 4), (True, 0.1, 4), (True, 2.0, 4),
        (False, 0.0999, 0), (False, 0.1, 2), (False, 2.0, 2),
    ],
)  # fmt: skip
def test_equation_3(wrong: bool, entropy_: float, more: int) -> None:
    k = grow(np.array([7]), np.array([wrong]), np.array([entropy_]), k0=5, cap=1000)
    assert k.tolist() == [7 + 5 * more]


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 3)), min_size=1, max_size=20),
    st.integers(1, 9),
    st.integers(9, 60),
)
def test_k_never_falls_and_never_exceeds_what_is_stored(
    answers: list[tuple[bool, float]], k0: int, cap: int
) -> None:
    wrong, unsure = (np.array(part) for part in zip(*answers, strict=True))
    k = np.full(len(answers), k0)
    for _ in range(4):
        grown = grow(k, wrong, unsure, k0=k0, cap=cap)
        assert (grown >= k).all()
        assert (grown <= cap).all()
        k = grown
    assert (k[wrong] == min(cap, 17 * k0)).all()
    assert (k[~wrong & (unsure < 0.1)] == k0).all()


def test_r_updates_reach_1_plus_4r_times_k0() -> None:
    k = np.array([3])
    for r in range(1, 6):
        k = grow(k, np.array([True]), np.array([0.0]), k0=3, cap=10**6)
        assert k.tolist() == [(1 + 4 * r) * 3]


def test_entropy_is_scipys_in_nats() -> None:
    logits = RNG.normal(0, 5, (50, 7)).astype(np.float32)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    found = prediction_entropy(logits)
    assert np.allclose(found, entropy(shares, axis=1), atol=1e-12)
    assert (found >= 0).all()
    assert found.max() <= math.log(7)
    assert prediction_entropy(np.zeros((1, 7))) == pytest.approx(math.log(7))
    assert prediction_entropy(np.array([[1000.0, 0.0]])) == pytest.approx(0)


def test_unions_against_sets_and_the_smallest_k0() -> None:
    near = nearest_sources(_descriptors(6), _descriptors(40, seed=1), 30)
    sizes = union_sizes(near)
    for k in range(1, 31):
        union = set(near.indices[:, :k].ravel().tolist())
        assert sizes[k - 1] == len(union)
        assert chosen(near, np.full(6, k)).tolist() == sorted(union)
    assert (np.diff(sizes) >= 0).all()
    for wanted in (1, 10, int(sizes[-1])):
        k0 = auto_k0(near, wanted)
        assert k0 is not None
        assert sizes[k0 - 1] >= wanted
        assert k0 == 1 or sizes[k0 - 2] < wanted
    assert auto_k0(Neighbours(near.indices[:, :1], near.distances[:, :1], 40), 20) is None
    with pytest.raises(DataError, match="41 source images"):
        auto_k0(near, 41)


def test_the_factors_are_the_same_on_a_processor_and_on_a_device() -> None:
    """The device's way, on the CPU: both prepare the same numbers."""
    data = _descriptors(37)
    side = retrieval._Side(data, EPSILON, torch.device("cpu"))
    joined, own = side.rows(3, 37, logs_first=True)
    columns = data.counts.shape[1]
    logs, shares, theirs = torch.empty(34, columns), torch.empty(34, columns), torch.empty(34)
    side._fill_on_device(3, logs, shares, theirs)
    assert torch.allclose(joined, torch.cat([logs, shares], 1), rtol=1e-5, atol=1e-5)
    assert torch.allclose(own, theirs, rtol=1e-4)
