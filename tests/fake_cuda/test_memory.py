"""What lies on the GPU, how it gets there, and that nothing stays once a run has ended."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.rows import Rows
from bench.methods import build_features
from bench.methods.features.kept import KeptFeatures
from bench.methods.features.task import FeatureTask
from bench.methods.retrieval.descriptors import describe, edges_of
from bench.methods.retrieval.filter_banks import GaborBank, KernelBank
from bench.models import layers
from bench.specs.run import ModelSpec, TrainSpec
from bench.training import domain_batches, frozen_prefix_cache
from bench.training.activations import ActivationStore
from bench.training.domain import Domain, DomainBatch
from bench.training.domain_batches import DeviceRows, Feed, FeedOptions, most_images_per_pass
from bench.training.frozen_prefix_cache import FrozenPrefix
from bench.training.process import deterministic
from tests.fake_cuda.devices import Gpus
from tests.fake_cuda.test_training import CELLS, FROZEN, execute, session_of

GPU = torch.device("cuda", 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed here is freed by the end of its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


ENDED = {name: [cell] for name, cell in CELLS.items() if name in ("plain", "selective", "svm")}
ENDED |= {name: [CELLS[name]] for name in ("frozen", "joint", "averaged", "extract")}
ENDED["fused"] = [f"{FROZEN}, train.lr: {lr}" for lr in (0.01, 0.003)]
SHARED = {"frozen": "cached: layers 1 to 5 of 8", "fused": "with 1 other run"}


@pytest.mark.parametrize("name", ENDED)
@pytest.mark.usefixtures("no_collector")
def test_a_finished_run_leaves_nothing_on_the_gpu(gpus: Gpus, tmp_path: Path, name: str) -> None:
    records, _ = execute(session_of(tmp_path, tmp_path / "results", *ENDED[name]))
    assert SHARED.get(name, "") in str(records[-1]["notes"].get("sharing"))
    assert torch.cuda.memory_allocated() == 0


class Keeping:
    """Runs of a batch on one device that share what a frozen layer gives of 50 images."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.store, self.device = ActivationStore(folder), device
        self.passes: list[int] = []

    def prefix(self, x: torch.Tensor) -> torch.Tensor:
        self.passes.append(len(x))
        return x.flatten(1)

    def run(self, **recipe: Any) -> str:
        """What one more run notes; `passes` are its own."""
        self.passes.clear()
        data = Domain("toy", IMAGES, np.zeros(50, np.int64), 1)
        cut = FrozenPrefix(
            nn.Identity(),
            self.prefix,
            nn.Identity(),
            layers=1,
            depth=2,
            share=1.0,
            identity="toy",
            recipe=TrainSpec(augment="none", batch_size=20, **recipe),
            store=self.store,
            set_modes=lambda: None,
            first_steps=lambda: [(DomainBatch(0, np.arange(20)),)],
        )
        cut([Feed(data, FeedOptions(self.device, resident=False), self.prefix)], None)
        return cut.notes["prefix"]


def test_rows_that_are_refused_do_not_stay(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they computed again, and those that a run with a tolerance has taken do stay."""
    monkeypatch.setattr(frozen_prefix_cache, "_difference", lambda kept, computed: 1e-4)
    runs = Keeping(tmp_path, GPU)
    for size in (50, 0):
        assert runs.run().startswith("recomputed: a training batch gives other values")
        assert max(runs.passes, default=0) == size
        assert torch.cuda.memory_allocated() == 0
    for tolerance, note in ((2e-4, "cached"), (0.0, "recomputed")):
        assert runs.run(prefix_tolerance=tolerance).startswith(note)
        assert torch.cuda.memory_allocated() == 4 * IMAGES.size


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=str)
def test_a_deterministic_run_takes_what_deterministic_runs_have_kept(
    gpus: Gpus, tmp_path: Path, device: torch.device
) -> None:
    """On a CPU there are no other algorithms, and all of them share."""
    runs, net = Keeping(tmp_path, device), nn.Linear(2, 2).to(device)
    computed, identities = [], []
    for is_on in (False, True, True):
        with deterministic(device, is_on):
            assert runs.run(deterministic=is_on).startswith("cached")
            computed.append(50 in runs.passes)
            kept = KeptFeatures.of(tmp_path, net, nn.Module(), "penultimate", device)
            identities.append(kept.identity)
    assert computed == [True, device == GPU, False]
    assert (identities[0] != identities[1]) is (device == GPU)
    assert identities[1] == identities[2]


def test_what_the_allocator_keeps_for_later_is_free(gpus: Gpus) -> None:
    gpus.memory = 4 * IMAGES.nbytes
    del_me = torch.empty(3 * IMAGES.nbytes, dtype=torch.uint8, device=GPU)
    del del_me
    assert torch.cuda.mem_get_info()[0] == IMAGES.nbytes
    DeviceRows(IMAGES, GPU, resident=True)
    assert torch.cuda.max_memory_allocated() == 3 * IMAGES.nbytes
    assert gpus.counts.sent_bytes == IMAGES.nbytes


@pytest.mark.parametrize("method", ["selective", "soft_selective"])
def test_with_too_little_memory_for_its_bank_a_run_has_smaller_passes(
    gpus: Gpus, tmp_path: Path, method: str
) -> None:
    cell = f"borrow: shapes, method: {{name: {method}, bank: gabor, k0: 2, rounds: 2}}"
    records, _ = execute(session_of(tmp_path, tmp_path / "results", cell))
    gpus.memory = int(0.8 * gpus.peak[0])  # of the bank: training takes less
    (*_, less), events = execute(session_of(tmp_path, tmp_path / "less", cell))
    assert less["row"]["status"] == "done"
    *_, note = less["notes"]["training"]
    assert "at most 64 images in a pass without gradients" in note
    tries = [event["message"] for event in events if event["event"] == "note"]
    assert ["at most 128 images" in text for text in tries] == [False, True, False]
    assert records[-1]["notes"]["method"]["selection"] == less["notes"]["method"]["selection"]


@pytest.mark.parametrize("memory_mib", [1024, 1], ids=["exact quantiles", "sketch"])
@pytest.mark.parametrize("kind", ["kernels", "gabor"])
def test_a_bank_follows_the_limit_of_images(
    gpus: Gpus, tmp_path: Path, kind: str, memory_mib: int
) -> None:
    """What smaller passes give is kept apart: it may differ in the last bits."""
    data = Domain("toy", IMAGES, np.zeros(50, np.int64), 1)
    net = layers.create(ModelSpec(name="narrow8_32"), 3, seed=0)
    bank = GaborBank(32, device=GPU) if kind == "gabor" else KernelBank(net, [1], 32, device=GPU)
    found, peaks = [], []
    for most in (256, 64):
        gc.collect()
        torch.cuda.empty_cache()
        gpus.reset_peak(0)
        with most_images_per_pass(most):
            edges, _ = edges_of(bank, data, 20, memory_mib=memory_mib, cache=tmp_path)
            described = describe(bank, data, edges, cache=tmp_path, responses_mib=1024)
        found.append((edges, described))
        peaks.append(gpus.peak[0])
    assert peaks[1] < 0.6 * peaks[0]
    assert len(list(tmp_path.glob("edges-*"))) == len(list(tmp_path.glob("responses-*"))) == 2
    (edges, whole), (close, less) = found
    np.testing.assert_allclose(edges, close, rtol=1e-4, atol=1e-4)
    assert whole.key != less.key
    assert np.abs(whole.counts.astype(int) - less.counts).mean() < 0.05


class Watched(Rows):
    """Rows that remember how many were read at once."""

    most = 0

    def __getitem__(self, which):  # type: ignore[no-untyped-def]
        found = super().__getitem__(which)
        Watched.most = max(Watched.most, len(found))
        return found


def test_images_move_block_by_block_through_pinned_memory(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_batches, "_BLOCK_BYTES", 7 * IMAGES[0].nbytes)
    order = np.random.default_rng(1).permutation(50)
    whole = DeviceRows(Watched(IMAGES, order), GPU, resident=True)
    assert Watched.most == 7
    assert np.array_equal(whole.between(0, 50).cpu().numpy(), IMAGES[order])
    chosen = np.array([3, 49, 3])
    found = whole.rows(chosen, torch.from_numpy(chosen).to(GPU))
    assert np.array_equal(found.cpu().numpy(), IMAGES[order][chosen])


@pytest.mark.parametrize("memory", [1, 1 << 40], ids=["too small", "large enough"])
def test_images_are_the_same_wherever_they_lie(gpus: Gpus, memory: int) -> None:
    chosen = np.array([3, 49, 3])
    on_device = torch.from_numpy(chosen).to(GPU)
    whole = DeviceRows(IMAGES, GPU, resident=memory > 1)
    for found, expected in [
        (whole.rows(chosen, on_device), IMAGES[chosen]),
        (whole.between(45, 60), IMAGES[45:]),
    ]:
        assert found.device == GPU
        assert np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("name", ["svm", "probe"])
def test_classifiers_on_features_send_each_image_once(
    gpus: Gpus, tmp_path: Path, name: str
) -> None:
    many = np.tile(IMAGES, (12, 1, 1, 1))  # 600: three blocks
    data = Domain("d", many, np.arange(600) % 3, 3)
    net = layers.create(ModelSpec(name="narrow8_32"), 3, seed=0).to(GPU)
    gpus.counts.clear()
    build_features(name, {"c": 1.0}).fit(FeatureTask(net, data, None, GPU, tmp_path))
    assert gpus.counts.sent_bytes < 1.2 * many.nbytes


def test_the_peak_is_that_of_the_run(gpus: Gpus, tmp_path: Path) -> None:
    torch.empty(1 << 30, dtype=torch.uint8, device=GPU)
    records, _ = execute(session_of(tmp_path, tmp_path / "results", CELLS["plain"]))
    assert 0 < records[-1]["row"]["peak_memory_mib"] < 100
    assert records[-1]["notes"]["arithmetic"]["tf32"] == ["convolutions"]
    assert records[-1]["notes"]["arithmetic"]["deterministic"] is False


def test_bits_that_repeat_can_be_asked_for(gpus: Gpus, tmp_path: Path) -> None:
    cell = f"{CELLS['plain']}, train.deterministic: true"
    records, _ = execute(session_of(tmp_path, tmp_path / "results", cell))
    arithmetic = [record["notes"]["arithmetic"]["deterministic"] for record in records]
    assert arithmetic == [False, False, True]
    assert not torch.are_deterministic_algorithms_enabled()
