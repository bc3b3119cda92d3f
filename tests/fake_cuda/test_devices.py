"""The imitation itself: it raises where CUDA would, and counts what costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.fake_cuda.devices import Gpus, MixedDevicesError, StreamRaceError

GPU = torch.device("cuda", 0)


def test_tensors_claim_to_be_where_they_were_put(gpus: Gpus) -> None:
    x = torch.zeros(2, 3, device="cuda")
    assert x.device == GPU
    assert x.is_cuda
    assert (x + 1)[0].device == GPU
    assert x.cpu().device.type == "cpu"
    assert torch.ones(2).to(x).device == GPU
    assert torch.ones(2, dtype=torch.float64).to(x).dtype == torch.float32
    assert torch.zeros_like(x).device == GPU
    assert nn.Linear(3, 2).to(GPU).weight.device == GPU


def test_mixed_devices_raise_forward_and_backward(gpus: Gpus) -> None:
    net = nn.Linear(3, 2).to(GPU)
    with pytest.raises(MixedDevicesError, match="cpu"):
        net(torch.zeros(1, 3))
    with pytest.raises(MixedDevicesError):
        torch.cat([torch.zeros(2, device=GPU), torch.zeros(2)])

    class Strays(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x * 2

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            return grad * torch.ones(3, 2)

    with pytest.raises(MixedDevicesError):
        Strays.apply(net.weight.T).sum().backward()


def test_numbers_and_indices_of_the_host_are_allowed_as_on_cuda(gpus: Gpus) -> None:
    x = torch.arange(4.0, device=GPU)
    assert (x * torch.tensor(2.0)).device == GPU
    gpus.counts.clear()
    assert x[torch.tensor([1, 2])].tolist() == [1.0, 2.0]
    assert sum(gpus.counts.copies.values()) == 1
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
        np.asarray(x)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x[0].item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.new_tensor([1, 2]),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.from_numpy(np.zeros(3)).to(x.device),
    ],
)
def test_what_makes_the_host_wait_is_counted(gpus: Gpus, ask) -> None:  # type: ignore[no-untyped-def]
    x = torch.arange(4.0, device=GPU)
    gpus.counts.clear()
    ask(x)
    assert sum(gpus.counts.waits.values()) == 1, gpus.counts.table()


def test_pinned_memory_is_copied_without_waiting(gpus: Gpus) -> None:
    host = torch.empty(4, pin_memory=True)
    assert host.is_pinned()
    host.to(GPU, non_blocking=True)
    torch.empty(4, device=GPU).copy_(host, non_blocking=True)
    assert not gpus.counts.waits
    assert sum(gpus.counts.copies.values()) == 2


def test_launches_are_operations_and_no_views(gpus: Gpus) -> None:
    x = torch.zeros(4, 4, device=GPU)
    gpus.counts.clear()
    x.view(2, 8)[:, 2:].mT.relu().add_(1)
    assert sorted(what for what, _ in gpus.counts.launches) == ["add_", "relu"]


def test_streams_that_do_not_wait_race(gpus: Gpus) -> None:
    side, host = torch.cuda.Stream(), torch.zeros(4).pin_memory()
    with torch.cuda.stream(side):
        x = host.to(GPU, non_blocking=True)
        done = side.record_event()
    with pytest.raises(StreamRaceError, match="without waiting"):
        x + 1
    torch.cuda.current_stream().wait_event(done)
    with pytest.raises(StreamRaceError, match="record_stream"):
        x + 1
    x.record_stream(torch.cuda.current_stream())
    assert (x + 1).device == GPU


def test_the_allocator_keeps_what_was_freed(gpus: Gpus) -> None:
    free, total = torch.cuda.mem_get_info()
    assert free == total
    x = torch.zeros(1000, device=GPU)
    assert torch.cuda.memory_allocated() == 4000
    del x
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.max_memory_allocated() == 4000
    assert torch.cuda.mem_get_info()[0] == total - 4000
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info()[0] == total


def test_there_is_so_much_memory(gpus: Gpus) -> None:
    gpus.memory = 5000
    kept = torch.zeros(1000, device=GPU)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of memory"):
        torch.zeros(1000, device=GPU)
    del kept
