"""Numbers that are computed once and read in each step or pass: where they lie on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.methods.features.solvers import Blocks, Loss, fit_streaming
from bench.runs import execute as runs
from bench.runs.execution import Execution
from bench.training.activations import Activations, ActivationStore
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions, Shown
from tests.fake_cuda.devices import Gpus
from tests.fake_cuda.test_faults import execute, spec_of

GPU = torch.device("cuda", 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
DATA = Domain("toy", IMAGES, np.arange(24) % 3, 3)
BYTES = 24 * 3 * 8 * 8 * 4


def feed_of() -> Feed:
    layer = nn.Conv2d(3, 3, 3, padding=1).to(GPU)

    def prefix(x: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x)  # type: ignore[no-any-return]

    return Feed(DATA, FeedOptions(GPU), prefix)


def test_kept_activations_of_a_gpu_lie_there_and_a_step_waits_for_nothing(
    gpus: Gpus, tmp_path: Path
) -> None:
    feed, store = feed_of(), ActivationStore(tmp_path, memory_bytes=BYTES - 1)
    room = store.room_for(BYTES, GPU)
    assert room is not None
    store.put("a", feed.cache_prefix(room=room))
    shown = Shown.of(np.array([3, 20, 3]), torch.zeros(3, 8), GPU)
    gpus.counts.clear()
    found = feed.training_batch(shown)
    assert not gpus.counts.waits, gpus.counts.table()
    assert not gpus.counts.copies, gpus.counts.table()
    assert torch.equal(found, feed.without_cache().training_batch(shown))
    kept = store.get("a")
    assert kept is not None
    assert kept.data.device == GPU
    assert not list(tmp_path.iterdir())


def test_without_a_room_activations_lie_on_the_device_too(gpus: Gpus) -> None:
    assert feed_of().cache_prefix().data.device == GPU


def keep(store: ActivationStore, key: str) -> bool:
    """Keeps `BYTES` on the GPU, if there is room."""
    room = store.room_for(BYTES, GPU)
    if room is not None:
        store.put(key, Activations(room((BYTES // 4,), torch.float32), False))
    return room is not None


def test_activations_take_half_of_the_gpu_memory_that_nothing_else_takes(
    gpus: Gpus, tmp_path: Path
) -> None:
    store = ActivationStore(tmp_path)
    gpus.memory = 2 * BYTES - 1
    assert not keep(store, "a")
    gpus.memory = 2 * BYTES
    assert keep(store, "a")
    used = store.get("a")
    assert not keep(store, "b")  # what leaves the store is still in use
    del used
    assert keep(store, "b")
    assert store.get("a") is None


def test_the_least_recently_used_activations_leave_a_gpu_first(gpus: Gpus, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path)
    gpus.memory = 5 * BYTES
    for key in ("a", "b", "c"):
        assert keep(store, key)
        store.get("a")
    assert [store.get(key) is not None for key in ("a", "b", "c")] == [True, False, True]


def test_a_run_with_too_little_memory_keeps_no_activations(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Execution) -> str:
        assert run.activations is not None
        rooms.append(run.activations.room_for(4, GPU) is not None)
        if len(rooms) == 1:
            run.activations.put("a", feed_of().cache_prefix())
            first.append(run.activations)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        assert first[0].get("a") is None
        return "done"

    rooms: list[bool] = []
    first: list[ActivationStore] = []
    monkeypatch.setattr(runs, "_execute_once", full)
    _, events = execute(tmp_path, spec_of("narrow8_32", 8))
    assert rooms == [True, False]
    assert events[-1]["status"] == "done"


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
@pytest.mark.parametrize("fits", [True, False])
def test_passes_over_features_wait_neither_for_copies_nor_for_blocks(
    gpus: Gpus, loss: Loss, fits: bool
) -> None:
    """What fits is sent once; else each pass sends it once, from pinned memory."""
    rng = np.random.default_rng(0)
    x, y = rng.random((400, 60), np.float32), rng.integers(0, 3, 400)
    if not fits:
        gpus.memory = 2 * x.nbytes - 1
    found = {}
    for rows in (400, 50):
        gpus.counts.clear()
        blocks = Blocks(rows=rows, device=GPU)
        (one,) = fit_streaming(x, y, 3, loss=loss, c=[1.0], max_iter=4, blocks=blocks)
        found[rows] = sum(gpus.counts.waits.values())
        passes = 1 if fits else one.passes
        assert gpus.counts.sent_bytes <= passes * x.nbytes + 2 * y.nbytes, gpus.counts.table()
    assert one.passes > 1
    assert found[400] == found[50], gpus.counts.table()
    (on_cpu,) = fit_streaming(x, y, 3, loss=loss, c=[1.0], max_iter=4, blocks=Blocks(rows=50))
    assert np.array_equal(one.weight, on_cpu.weight)
