"""Equal-mass bins and descriptors against numpy (GE-2)."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import BenchError, DataError
from bench.data.catalog import load, resolve
from bench.data.rows import Rows
from bench.methods.retrieval import descriptors
from bench.methods.retrieval.descriptors import content_key, describe, edges_of
from bench.methods.retrieval.filter_banks import GaborBank, Group
from bench.methods.retrieval.histograms import (
    QuantileSketch,
    count_responses,
    counts_dtype,
    equal_mass_edges,
    learn_edges,
)
from bench.methods.retrieval.responses import count_sorted, describe_sorted, sorted_mib
from bench.runs import build
from bench.runs.build import Data, pool
from bench.specs.data import DataSpec
from bench.training.domain import Domain

RNG = np.random.default_rng(0)


class PixelBank:
    """Two groups: the red channel, and green and blue; a response per pixel."""

    groups = (Group("red", 1, 64), Group("rest", 2, 64))

    def __init__(self, transform: str = "plain") -> None:
        self.transform, self.identity, self.calls = transform, f"pixels {transform}", 0

    def responses(self, data: Domain, start: int, stop: int) -> list[torch.Tensor]:
        self.calls += 1
        x = torch.from_numpy(data.images[start:stop]).float().flatten(1, 2).movedim(2, 1)
        if self.transform == "monotone":
            x = (x / 40).exp()
        return [x[:, :1].contiguous(), x[:, 1:].contiguous()]


def _domain(count: int, name: str = "toy") -> Domain:
    images = RNG.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Domain(name, images, np.zeros(count, np.int64), 1)


def test_edges_are_numpys_quantiles() -> None:
    pool = RNG.normal(size=(3, 5000)).astype(np.float32)
    edges = equal_mass_edges(pool, 100)
    for row, values in zip(edges, pool, strict=True):
        expected = np.quantile(values, np.linspace(0, 1, 101))
        assert np.allclose(row, expected, atol=1e-6)
        shares = np.histogram(values, row.astype(np.float64))[0] / len(values)
        assert np.abs(shares - 0.01).max() <= 1 / 5000 + 1e-9


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 12), st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_counts_are_numpys_histogram_with_open_ends(
    seed: int, filters: int, bins: int, places: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (2, filters, places)).astype(np.float32)
    edges = np.sort(rng.integers(-2, 3, (filters, bins + 1)), 1).astype(np.float32)
    found = count_responses(torch.from_numpy(values), torch.from_numpy(edges)).numpy()
    for image, h in itertools.product(range(2), range(filters)):
        row, ends = values[image, h], edges[h]
        expected = np.histogram(row[(row >= ends[0]) & (row <= ends[-1])], ends)[0]
        expected[0] += (row < ends[0]).sum()
        expected[-1] += (row > ends[-1]).sum()
        assert (found[image, h] == expected).all()
    assert (found.sum(2) == places).all()


def test_the_sketch_is_exact_on_few_and_close_on_many() -> None:
    pool = np.concatenate([RNG.standard_cauchy((2, 30_000)), RNG.normal(size=(2, 30_000))], 1)
    pool = pool.astype(np.float32)
    small, large = QuantileSketch(points=4096), QuantileSketch(points=4096)
    small.add(torch.from_numpy(pool[:, :3000]))
    assert np.allclose(small.edges(50), equal_mass_edges(pool[:, :3000], 50), atol=1e-6)
    for part in np.array_split(pool, 37, axis=1):
        large.add(torch.from_numpy(part))
    edges = large.edges(100)
    assert np.array_equal(edges[:, [0, -1]], np.stack([pool.min(1), pool.max(1)], 1))
    for row, values in zip(edges, pool, strict=True):
        shares = np.histogram(values, row.astype(np.float64))[0] / len(values)
        assert np.abs(shares - 0.01).max() <= 1 / 2000
    ranks = np.array(
        [(values[None] < row[:, None]).mean(1) for row, values in zip(edges, pool, strict=True)]
    )
    levels = np.ceil(np.log2(37))
    assert np.abs(ranks[:, 1:-1] - np.linspace(0, 1, 101)[1:-1]).max() <= (levels + 1) / 2 / 4096


def test_the_sketch_takes_portions_of_any_size() -> None:
    pool = RNG.normal(size=(1, 7001)).astype(np.float32)
    sketch = QuantileSketch(points=1000)
    for part in np.split(pool, [1, 5, 900, 4000, 6999], axis=1):
        sketch.add(torch.from_numpy(part))
    ranks = (pool[0][None] < sketch.edges(20)[0][:, None]).mean(1)
    assert np.abs(ranks[1:-1] - np.linspace(0, 1, 21)[1:-1]).max() < 0.003


def test_learned_edges_are_those_of_the_whole_pool_and_of_the_target_alone() -> None:
    target = _domain(70)
    edges, how = learn_edges(PixelBank(), target, 10)
    pool = target.images.reshape(-1, 3).T.astype(np.float32)
    assert how == "exact quantiles"
    assert np.array_equal(edges, equal_mass_edges(pool, 10))


def test_little_memory_means_a_sketch() -> None:
    target = _domain(3000)
    exact, _ = learn_edges(PixelBank(), target, 10)
    edges, how = learn_edges(PixelBank(), target, 10, memory_mib=1)
    assert how.startswith("sketch")
    assert np.abs(edges - exact).max() <= 1


def test_descriptors_sum_to_one_per_filter_whatever_lies_outside() -> None:
    target = _domain(40)
    dark = Domain("dark", target.images // 3, target.labels, 1)
    edges, _ = learn_edges(PixelBank(), dark, 10)
    found = describe(PixelBank(), target, edges)
    shares = found.histograms().reshape(40, 3, 10)
    assert found.counts.dtype == np.uint16
    assert (shares >= 0).all()
    assert np.allclose(shares.sum(2), 1)
    assert shares[:, :, -1].mean() > 0.5  # brighter than all of the target: in the end bin


def test_a_filters_scale_does_not_matter() -> None:
    """GE-2: monotone transforms of one filter's response leave its histogram unchanged."""
    target, source = _domain(64), _domain(20)
    found = []
    for bank in (PixelBank(), PixelBank("monotone")):
        edges = _order_edges(bank, target)
        found.append(describe(bank, source, edges).counts)
    assert np.array_equal(*found)


def _order_edges(bank: PixelBank, target: Domain) -> np.ndarray:
    """Quantiles that are responses themselves, so that ranks are all that counts."""
    maps = bank.responses(target, 0, target.size)
    pools = [m.movedim(0, 1).flatten(1).numpy() for m in maps]
    steps = np.linspace(0, 1, 11)
    return np.concatenate([np.quantile(p, steps, axis=1, method="lower").T for p in pools])


def test_kept_descriptors_are_used_again_and_broken_ones_made_anew(tmp_path: Path) -> None:
    target, bank = _domain(40), PixelBank()
    edges, _ = edges_of(bank, target, 10, cache=tmp_path)
    first = np.array(describe(bank, target, edges, cache=tmp_path).counts)
    calls = bank.calls
    again, _ = edges_of(bank, target, 10, cache=tmp_path)
    assert np.array_equal(again, edges)
    assert np.array_equal(describe(bank, target, edges, cache=tmp_path).counts, first)
    assert bank.calls == calls
    path = next(tmp_path.glob("descriptors-*.npy"))
    good = path.read_bytes()
    for broken in (good[:-100], good[:200], good[:-3000] + b"\1" * 3000, b""):
        path.write_bytes(broken)
        assert np.array_equal(describe(bank, target, edges, cache=tmp_path).counts, first)
    assert {p.suffix for p in tmp_path.iterdir()} == {".npy", ".npz"}


def test_the_key_follows_the_content(tmp_path: Path) -> None:
    target, bank = _domain(5), PixelBank()
    edges, _ = learn_edges(bank, target, 10)
    renamed = Domain("another", target.images.copy(), target.labels, 7)
    assert content_key(target) == content_key(renamed)
    assert describe(bank, target, edges).key == describe(bank, renamed, edges).key
    changed = target.images.copy()
    changed[4, 7, 7, 2] ^= 1
    other = Domain("toy", changed, target.labels, 1)
    keys = {
        describe(b, d, e).key
        for b, d, e in [
            (bank, target, edges),
            (bank, other, edges),
            (bank, target, edges + 1),
            (PixelBank("monotone"), target, edges),
        ]
    }
    assert len(keys) == 4


def test_images_whose_content_is_known_are_not_read_for_their_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source of 262 GB was read as a whole by each run, though its descriptors were kept."""
    places = {"data_root": None, "cache_dir": tmp_path}

    class Unread(Rows):
        def __getitem__(self, which: Any) -> Any:
            raise AssertionError("pixels are read")

    normalised = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    monkeypatch.setattr(build, "attached", lambda model: normalised)

    def domain(kind: type[Rows], rows: slice = slice(None), **more: Any) -> Domain:
        monkeypatch.setattr(build, "Rows", kind)
        data = DataSpec(dataset="digits", images_per_class=5, test_per_class=20, **more)
        resolved = resolve(data, 0, **places)  # type: ignore[arg-type]
        loaded = load(resolved, data, **places)  # type: ignore[arg-type]
        loaded = replace(loaded, train=loaded.train[rows])
        return Data(loaded, resolved).domain("train", torch.nn.Identity())

    one, same = domain(Unread), domain(Unread)
    assert content_key(one) == content_key(same) == content_key(pool([one]))
    pixels = replace(one, images=np.array(domain(Rows).images))
    monkeypatch.setattr(build, "Rows", Unread)
    others = [
        domain(Unread, slice(None, None, -1)),
        domain(Unread, slice(0, 40)),
        domain(Unread, stored_as="jpeg"),
        domain(Unread, image_size=16),
        pool([one, same]),
        pixels,
    ]
    assert len({content_key(data) for data in (one, *others)}) == 1 + len(others)
    assert content_key(pixels) == content_key(replace(pixels, images=np.array(pixels.images)))


def test_large_maps_get_a_larger_type() -> None:
    assert counts_dtype([Group("a", 1, 2**16 - 1)]) == np.uint16
    assert counts_dtype([Group("a", 1, 2**16)]) == np.uint32


def test_wrong_input_is_an_error() -> None:
    with pytest.raises(DataError, match="1 bins"):
        learn_edges(PixelBank(), _domain(3), 1)
    with pytest.raises(DataError, match="no image to take bin edges from"):
        learn_edges(PixelBank(), _domain(0), 10)
    with pytest.raises(DataError, match="2 filters, but the bank has 3"):
        describe(PixelBank(), _domain(3), np.zeros((2, 11), np.float32))

    class Broken(PixelBank):
        def responses(self, data: Domain, start: int, stop: int) -> list[torch.Tensor]:
            return [part / 0 for part in super().responses(data, start, stop)]

    with pytest.raises(DataError, match="not finite"):
        learn_edges(Broken(), _domain(3), 10)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(2, 12),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_sorted_responses_give_the_same_counts(
    seed: int, filters: int, places: int, bins: int, coarse: bool
) -> None:
    """With ties among responses, edges that are responses, and edges that are equal."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, filters, places)).astype(np.float32)
    values = np.round(values, 0 if coarse else 6)
    edges = np.sort(rng.choice(values.ravel(), (filters, bins + 1)), 1)
    responses, cut = torch.from_numpy(values), torch.from_numpy(edges)
    expected = count_responses(responses, cut)
    assert torch.equal(count_sorted(responses.sort(dim=2).values, cut), expected)


def test_a_second_target_bins_the_kept_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def domain(count: int) -> Domain:
        images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        return Domain("toy", images, np.zeros(count, np.int64), 1)

    source, targets, bank = domain(40), (domain(5), domain(6)), GaborBank(16)
    edges = [equal_mass_edges_of(bank, target) for target in targets]
    plain = [describe(bank, source, cut).counts for cut in edges]
    first = describe(bank, source, edges[0], cache=tmp_path, responses_mib=100)
    assert np.array_equal(first.counts, plain[0])
    monkeypatch.setattr(bank, "responses", None)  # what would be asked for images
    second = describe(bank, source, edges[1], cache=tmp_path, responses_mib=100)
    assert np.array_equal(second.counts, plain[1])
    assert len(list(tmp_path.glob("responses-*.npy"))) == 1


def test_damaged_responses_are_made_again_and_large_ones_are_not_kept(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    source, bank = Domain("toy", images, np.zeros(9, np.int64), 1), GaborBank(16)
    edges = equal_mass_edges_of(bank, source)
    describe(bank, source, edges, cache=tmp_path, responses_mib=0)
    assert not list(tmp_path.glob("responses-*"))
    (tmp_path / next(tmp_path.glob("descriptors-*")).name).unlink()
    whole = describe(bank, source, edges, cache=tmp_path, responses_mib=9)
    (path,) = tmp_path.glob("responses-*")
    np.save(path, np.load(path)[:, ::-1])
    next(tmp_path.glob("descriptors-*")).unlink()
    again = describe(bank, source, edges, cache=tmp_path, responses_mib=9)
    assert np.array_equal(again.counts, whole.counts)


def test_all_responses_together_are_bounded_and_the_longest_unused_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    bank = GaborBank(16)

    def domain(count: int) -> Domain:
        images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        return Domain("toy", images, np.zeros(count, np.int64), 1)

    sources, target = [domain(40) for _ in range(4)], domain(5)
    edges = equal_mass_edges_of(bank, target)
    plain = [describe(bank, source, edges).counts for source in sources]
    kept: list[set[Path]] = []
    size = sorted_mib(bank, sources[0]) / 1024
    monkeypatch.setenv("BENCH_RESPONSES_GIB", str(2.1 * size))  # two of them
    for number in (0, 1, 0, 2, 3):
        for old in tmp_path.glob("descriptors-*"):
            old.unlink()
        found = describe(bank, sources[number], edges, cache=tmp_path, responses_mib=100)
        assert np.array_equal(found.counts, plain[number])
        kept.append(set(tmp_path.glob("responses-*.npy")))
        time.sleep(0.02)  # a file system's clock may have ticks of 10 ms
    (first,), second = kept[0], kept[1] - kept[0]
    assert [len(files) for files in kept] == [1, 2, 2, 2, 2]
    assert kept[3] == {first, *(kept[3] - kept[2])}  # the second was unused for longer
    assert not kept[4] & (second | {first})
    monkeypatch.setenv("BENCH_RESPONSES_GIB", "0")
    found = describe(bank, domain(9), edges, cache=tmp_path, responses_mib=100)
    assert not set(tmp_path.glob("responses-*.npy"))
    monkeypatch.setenv("BENCH_RESPONSES_GIB", "ten")
    with pytest.raises(BenchError, match="BENCH_RESPONSES_GIB is 'ten'\n  write the GiB that"):
        describe(bank, domain(8), edges, cache=tmp_path, responses_mib=100)


def test_descriptors_count_too_and_go_once_no_run_can_be_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, bank = np.random.default_rng(0), GaborBank(16)
    images = rng.integers(0, 256, (4, 40, 16, 16, 3), dtype=np.uint8)
    sources = [Domain("toy", some, np.zeros(40, np.int64), 1) for some in images]
    edges = equal_mass_edges_of(bank, sources[0])

    def kept() -> set[Path]:
        return set(tmp_path.glob("descriptors-*.npy"))

    def told_old(path: Path) -> None:
        os.utime(path, (time.time() - 2 * 86400,) * 2)

    describe(bank, sources[0], edges, cache=tmp_path)
    (first,) = kept()
    size = first.stat().st_size
    monkeypatch.setenv("BENCH_RESPONSES_GIB", str(2.5 * size / 2**30))  # two of them
    describe(bank, sources[1], edges, cache=tmp_path)
    (second,) = kept() - {first}
    describe(bank, sources[2], edges, cache=tmp_path)
    assert len(kept()) == 3  # those of today may be mapped on another machine
    told_old(first)
    told_old(second)
    describe(bank, sources[0], edges, cache=tmp_path)  # used again, so it is not old any more
    describe(bank, sources[3], edges, cache=tmp_path)
    assert first in kept()
    assert second not in kept()


@pytest.mark.parametrize("loss", ["removed", "cut"])
def test_responses_that_go_while_they_are_read_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3), dtype=np.uint8)
    source, bank = Domain("toy", images, np.zeros(600, np.int64), 1), GaborBank(16)
    edges = equal_mass_edges_of(bank, Domain("toy", images[:9], np.zeros(9, np.int64), 1))
    plain = describe(bank, source, edges).counts
    describe(bank, source, edges, cache=tmp_path, responses_mib=999)
    next(tmp_path.glob("descriptors-*")).unlink()
    (path,) = tmp_path.glob("responses-*")

    def going(*arguments: Any) -> Any:
        path.unlink() if loss == "removed" else os.truncate(path, path.stat().st_size // 2)
        yield from describe_sorted(*arguments)

    monkeypatch.setattr(descriptors, "describe_sorted", going)
    found = describe(bank, source, edges, cache=tmp_path, responses_mib=999)
    assert np.array_equal(found.counts, plain)


def equal_mass_edges_of(bank: GaborBank, target: Domain) -> Any:
    return learn_edges(bank, target, 10)[0]
