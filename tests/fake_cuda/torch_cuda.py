"""The functions of `torch.cuda` on GPUs that are not there, see `devices`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from tests.fake_cuda.devices import Gpus, Stream


class _Event:
    """A place in a stream's order."""

    def __init__(self, gpus: Gpus) -> None:
        self.gpus, self.at = gpus, (gpus.streams[gpus.current], 0)

    def record(self, stream: _Handle | None = None) -> None:
        found = self.gpus.streams[self.gpus.current] if stream is None else stream.fake
        self.at = (found, found.clock)

    def wait(self, stream: _Handle | None = None) -> None:
        found = self.gpus.streams[self.gpus.current] if stream is None else stream.fake
        found.wait_for(*self.at)

    def synchronize(self) -> None:
        self.gpus.waited("event")

    def query(self) -> bool:
        return True


class _Handle:
    """What Python has of a stream."""

    def __init__(self, gpus: Gpus, fake: Stream) -> None:
        self.gpus, self.fake = gpus, fake

    def wait_stream(self, other: _Handle) -> None:
        self.fake.wait_for(other.fake, other.fake.clock)

    def wait_event(self, event: _Event) -> None:
        self.fake.wait_for(*event.at)

    def record_event(self, event: _Event | None = None) -> _Event:
        event = event or _Event(self.gpus)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.gpus.waited("stream")


class _Functions:
    """Replacements of the same names in `torch.cuda`."""

    def __init__(self, gpus: Gpus) -> None:
        self.gpus = gpus
        self.states = {n: torch.zeros(16, dtype=torch.uint8) for n in range(gpus.count)}

    def _number(self, device: Any) -> int:
        if device is None:
            return self.gpus.current
        found = self.gpus.index(device)
        if found is None:
            raise ValueError(f"Expected a cuda device, but got: {device}")
        return found

    def is_available(self) -> bool:
        return self.gpus.count > 0

    def is_initialized(self) -> bool:
        return True

    def _lazy_init(self) -> None:
        pass

    def device_count(self) -> int:
        return self.gpus.count

    def current_device(self) -> int:
        return self.gpus.current

    def set_device(self, device: Any) -> None:
        self.gpus.current = self._number(device)

    def synchronize(self, device: Any = None) -> None:
        self.gpus.waited("synchronize")

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        number = self._number(device)
        self.gpus.allocated(number)
        return self.gpus.memory - self.gpus.reserved[number], self.gpus.memory

    def memory_allocated(self, device: Any = None) -> int:
        return self.gpus.allocated(self._number(device))

    def memory_reserved(self, device: Any = None) -> int:
        return self.gpus.reserved[self._number(device)]

    def max_memory_allocated(self, device: Any = None) -> int:
        return self.gpus.peak[self._number(device)]

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.gpus.reserved[self._number(device)]

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self.gpus.reset_peak(self._number(device))

    def empty_cache(self) -> None:
        self.gpus.empty_cache()

    def get_device_name(self, device: Any = None) -> str:
        return "Fake GPU"

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return 9, 0

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        memory = self.gpus.memory
        return SimpleNamespace(name=self.get_device_name(), total_memory=memory, L2_cache_size=0)

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def get_rng_state(self, device: Any = "cuda") -> Tensor:
        return self.states[self._number(device)].clone()

    def set_rng_state(self, state: Tensor, device: Any = "cuda") -> None:
        if state.dtype != torch.uint8 or self.gpus.of(state) is not None:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        self.states[self._number(device)] = state.clone()

    def manual_seed(self, seed: int) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def is_current_stream_capturing(self) -> bool:
        return False

    def current_stream(self, device: Any = None) -> _Handle:
        return _Handle(self.gpus, self.gpus.streams[self._number(device)])

    def Stream(self, device: Any = None, **_: Any) -> _Handle:  # noqa: N802
        return _Handle(self.gpus, Stream(self._number(device)))

    def Event(self, **_: Any) -> _Event:  # noqa: N802
        return _Event(self.gpus)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, self.gpus.current = self.gpus.current, self._number(device)
        try:
            yield
        finally:
            self.gpus.current = before

    @contextmanager
    def stream(self, handle: _Handle | None) -> Iterator[None]:
        if handle is None:
            yield
            return
        number = handle.fake.gpu
        before, self.gpus.streams[number] = self.gpus.streams[number], handle.fake
        try:
            yield
        finally:
            self.gpus.streams[number] = before


class _Autocast(torch.amp.autocast_mode.autocast):
    """The CPU's choice of operations stands in for CUDA's."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


class _Generator(torch.Generator):
    """A generator of the CPU that claims to be a GPU's."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.claimed = torch.device(device)
        return made

    claimed: torch.device

    @property
    def device(self) -> torch.device:
        return self.claimed


@contextmanager
def in_place_of_torch_cuda(gpus: Gpus) -> Iterator[None]:
    """While inside, `torch.cuda` speaks of these GPUs."""
    functions = _Functions(gpus)
    usual_group = torch.distributed.init_process_group

    def group(backend: str | None = None, **more: Any) -> Any:
        return usual_group("gloo" if backend and "nccl" in backend else backend, **more)

    usual_groups = torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype

    def groups(lists: Any, *more: Any) -> Any:
        """By device and type, found in C++, where every device is the CPU."""
        return {
            (members[0][0].device, dtype): (members, numbers)
            for (_, dtype), (members, numbers) in usual_groups(lists, *more).items()
        }

    new: dict[tuple[Any, str], Any] = {
        (torch.cuda, name): getattr(functions, name)
        for name in dir(functions)
        if hasattr(torch.cuda, name) and (not name.startswith("_") or name == "_lazy_init")
    }
    new[torch, "autocast"] = _Autocast
    new[torch, "Generator"] = _Generator
    new[torch.Tensor, "record_stream"] = lambda x, stream: gpus.record(x, stream.fake)
    new[torch.distributed, "init_process_group"] = group
    new[torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype"] = groups
    new[torch.optim.Optimizer, "_accelerator_graph_capture_health_check"] = lambda self: None
    with contextlib.ExitStack() as stack:
        for (owner, name), value in new.items():
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield
