"""GPUs that are not there: CPU tensors that claim to be on `cuda:N`, checked and counted.

Every tensor is an ordinary CPU tensor; a table says which storages lie on which GPU. Two of torch's
modes keep it true: one answers Python's questions (`.device`, `.to`, factories), the other sees
each operation, forward and backward, and raises where operands lie on different devices. The
arithmetic is real, so whole programs run and give real numbers.

Counted, each with the line of the project that asked for it:

* launches: operations on the GPU that are no views;
* copies between host and GPU;
* waits: what makes the host wait for the GPU (`.item()`, `.cpu()`, a boolean mask, an upload from
  memory that is not pinned).

Streams have clocks: a tensor that is used on another stream than the one that wrote it, without
waiting for that stream, raises, and so does one that is used there without `record_stream`. The
allocator keeps what was freed until `empty_cache`, as CUDA's does.

Not imitated: kernels and their rounding, cuDNN's choice of algorithm, the time that anything takes,
NCCL (gloo stands in, see `torch_cuda`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.fake_cuda import sync_batch_norm

_OWN = ("/bench/", "/analysis/", "/benchmarks/")
_SWEEP_EVERY = 4096


class MixedDevicesError(RuntimeError):
    """Operands on different devices, where CUDA has no kernel for it."""


class StreamRaceError(RuntimeError):
    """A tensor is used before the stream that writes it has finished, or may be freed too early."""


def place() -> str:
    """The innermost line of the project that is being executed: `bench/training/loop.py:12 run`."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        for room in _OWN:
            if room in name and "site-packages" not in name:
                short = name[name.rindex(room) + 1 :]
                return f"{short}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


@dataclass(eq=False)
class Stream:
    """An order of work: `clock` counts what was launched, `waited` how far it waited for others."""

    gpu: int
    clock: int = 0
    waited: dict[Stream, int] = field(default_factory=dict)

    def wait_for(self, other: Stream, clock: int) -> None:
        """What comes now starts after the first `clock` launches of another stream."""
        self.waited[other] = max(self.waited.get(other, 0), clock)


@dataclass
class _Resident:
    """A storage on a GPU: its size, who may use it, and when it was last written."""

    reference: StorageWeakRef
    gpu: int
    size: int
    home: Stream
    writer: Stream
    written: int
    recorded: set[int] = field(default_factory=set)


@dataclass
class Counts:
    """What was asked of the GPUs, by (what, place)."""

    launches: Counter[tuple[str, str]] = field(default_factory=Counter)
    copies: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent_bytes: int = 0

    def clear(self) -> None:
        """Begins anew."""
        for counter in (self.launches, self.copies, self.waits):
            counter.clear()
        self.sent_bytes = 0

    def table(self) -> str:
        """What is most, for the message of a test that fails."""
        lines = []
        for name in ("waits", "copies", "launches"):
            counter: Counter[tuple[str, str]] = getattr(self, name)
            lines.append(f"{name}: {sum(counter.values())}")
            lines += [f"{n:6d}  {what:24s} {where}" for (what, where), n in counter.most_common(20)]
        return "\n".join(lines)


class Gpus:
    """The GPUs of a process.

    Args:
        count: how many there are.
        memory: bytes of each; more raises `torch.cuda.OutOfMemoryError`.
    """

    def __init__(self, count: int = 1, memory: int = 1 << 40) -> None:
        self.count, self.memory, self.current = count, memory, 0
        self.counts = Counts()
        self.streams = [Stream(number) for number in range(count)]
        self._table: dict[int, _Resident] = {}
        self.pinned: dict[int, StorageWeakRef] = {}
        self.reserved, self.peak = [0] * count, [0] * count
        self._bound = [0] * count

    # --- where tensors lie ---

    def of(self, tensor: Tensor) -> int | None:
        """The number of the tensor's GPU; None is the CPU."""
        found = self._resident(tensor)
        return None if found is None else found.gpu

    def _resident(self, tensor: Tensor) -> _Resident | None:
        try:
            return self._table.get(tensor.untyped_storage()._cdata)
        except (RuntimeError, NotImplementedError):  # sparse, or without a storage
            return None

    def put(self, tensor: Tensor, gpu: int) -> Tensor:
        """The tensor's storage lies on a GPU from now on, written by the current stream."""
        storage, stream = tensor.untyped_storage(), self.streams[gpu]
        known = self._table.get(storage._cdata)
        if known is None:
            size = storage.nbytes()
            reference = StorageWeakRef(storage)
            self._table[storage._cdata] = _Resident(
                reference, gpu, size, stream, stream, stream.clock
            )
            self._count_memory(gpu, size)
        else:
            known.writer, known.written = stream, stream.clock
        return tensor

    def drop(self, tensor: Tensor) -> Tensor:
        """The tensor's storage lies on the CPU."""
        self._table.pop(tensor.untyped_storage()._cdata, None)
        return tensor

    def allocated(self, gpu: int) -> int:
        """Bytes of tensors that live on a GPU."""
        self._table = {k: r for k, r in self._table.items() if not r.reference.expired()}
        return sum(r.size for r in self._table.values() if r.gpu == gpu)

    def _count_memory(self, gpu: int, size: int) -> None:
        self._bound[gpu] += size  # never less than what is there
        if self._bound[gpu] > self.peak[gpu]:
            self._bound[gpu] = self.allocated(gpu)
            self.peak[gpu] = max(self.peak[gpu], self._bound[gpu])
            self.reserved[gpu] = max(self.reserved[gpu], self._bound[gpu])
            if self._bound[gpu] > self.memory:
                raise torch.cuda.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size} bytes. GPU {gpu} has a total "
                    f"capacity of {self.memory} bytes"
                )

    def reset_peak(self, gpu: int) -> None:
        """The most that is allocated is what is now."""
        self._bound[gpu] = self.peak[gpu] = self.allocated(gpu)

    def empty_cache(self) -> None:
        """What was freed goes back to the device."""
        self.reserved = [self.allocated(gpu) for gpu in range(self.count)]

    # --- what is counted ---

    def launched(self, what: str, gpu: int) -> None:
        """One more kernel on the current stream."""
        self.streams[gpu].clock += 1
        self.counts.launches[what, place()] += 1

    def waited(self, what: str) -> None:
        """The host waits for the GPU."""
        self.counts.waits[what, place()] += 1

    def copied(self, source: int | None, target: int | None, *, waits: bool, size: int = 0) -> None:
        """`size` bytes go from one device to another."""
        self.counts.sent_bytes += size if source is None else 0
        ends = ["host" if end is None else "GPU" for end in (source, target)]
        self.counts.copies[" to ".join(ends), place()] += 1
        if waits:
            self.waited(" to ".join(ends))

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether `pin_memory` gave the tensor's storage."""
        found = self.pinned.get(tensor.untyped_storage()._cdata)
        return found is not None and not found.expired()

    # --- streams ---

    def check_order(self, tensor: Tensor, what: str) -> None:
        """Raises where the current stream may run before what it reads is written."""
        resident = self._resident(tensor)
        if resident is None:
            return
        now = self.streams[resident.gpu]
        late = resident.writer is not now and now.waited.get(resident.writer, 0) < resident.written
        if late:
            raise StreamRaceError(f"{what} reads what another stream writes, without waiting")
        if resident.home is not now and id(now) not in resident.recorded:
            raise StreamRaceError(f"{what} uses another stream's memory without record_stream")

    def record(self, tensor: Tensor, stream: Stream) -> None:
        """The allocator keeps the tensor's memory until a stream is done with it."""
        resident = self._resident(tensor)
        if resident is not None:
            resident.recorded.add(id(stream))

    def index(self, device: Any) -> int | None:
        """The number of the GPU that a device names, None where it names none."""
        if device is None:
            return None
        if isinstance(device, int) and not isinstance(device, bool):
            device = torch.device("cuda", device)
        device = torch.device(device)
        if device.type != "cuda":
            return None
        number = self.current if device.index is None else device.index
        if number >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return int(number)


# --- Python's questions ---------------------------------------------------------------------------


class Questions(TorchFunctionMode):
    """Answers what Python code asks of tensors, and makes those that are asked for."""

    def __init__(self, gpus: Gpus) -> None:
        super().__init__()
        self.gpus = gpus
        self._handlers: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: self._device,
            Tensor.is_cuda.__get__: lambda func, x: self.gpus.of(x) is not None,
            Tensor.is_cpu.__get__: lambda func, x: self.gpus.of(x) is None,
            Tensor.get_device: lambda func, x: -1 if self.gpus.of(x) is None else self.gpus.of(x),
            Tensor.to: self._to,
            Tensor.cpu: lambda func, x, **_: self._move(x, None),
            Tensor.cuda: lambda func, x, device="cuda", **more: self._move(x, device, **more),
            Tensor.numpy: self._numpy,
            Tensor.__array__: self._numpy,
            Tensor.tolist: self._tolist,
            Tensor.pin_memory: self._pin,
            Tensor.is_pinned: lambda func, x, *_: self.gpus.is_pinned(x),
            Tensor.new_tensor: self._new_tensor,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = self._handlers.get(func)
        if handler is not None:
            return handler(func, *args, **kwargs)
        gpu = self.gpus.index(kwargs.get("device"))
        if gpu is not None:
            return self._made(func, args, kwargs, gpu)
        if kwargs.get("pin_memory"):
            return self._pin(None, func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any], gpu: int) -> Any:
        """What a factory gives; numbers from the host are copied, and the host waits."""
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        own = bool(args) and isinstance(args[0], Tensor) and self.gpus.of(args[0]) is not None
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not own:
            self.gpus.copied(None, gpu, waits=True)
        made = func(*args, **{**kwargs, "device": "cpu"})
        if func in (torch.as_tensor, torch.asarray) and not own:
            made = made.clone()
        if func not in (torch.empty, torch.empty_strided, torch.empty_like) and not own:
            self.gpus.launched(getattr(func, "__name__", "factory"), gpu)
        return tree_map_only(Tensor, lambda t: self.gpus.put(t, gpu), made)

    def _device(self, func: Any, x: Tensor) -> torch.device:
        gpu = self.gpus.of(x)
        return func(x) if gpu is None else torch.device("cuda", gpu)  # type: ignore[no-any-return]

    def _to(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`to(device)`, `to(dtype)`, `to(device, dtype)`, `to(other)`, and their keywords."""
        rest = list(args)
        device = kwargs.pop("device", None)
        other = kwargs.pop("other", None)
        if rest and isinstance(rest[0], Tensor):
            other = rest.pop(0)
        elif rest and not isinstance(rest[0], torch.dtype):
            device = rest.pop(0)
        if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
            kwargs["dtype"] = rest.pop(0)
        kwargs |= dict(zip(("non_blocking", "copy"), rest, strict=False))
        if other is not None:
            gpu = self.gpus.of(other)  # this mode is off in here, so `other.device` is the CPU
            device, kwargs["dtype"] = "cpu" if gpu is None else gpu, other.dtype
        if device is None:
            return func(x, **kwargs)  # type: ignore[no-any-return]
        quick = bool(kwargs.pop("non_blocking", False))
        here = self.gpus.of(x)
        if self.gpus.index(device) == here:
            return func(x, **kwargs) if kwargs else x  # type: ignore[no-any-return]
        kwargs.pop("copy", None)
        format_ = kwargs.pop("memory_format", torch.preserve_format)
        if kwargs.get("dtype") is not None:
            x = x.to(kwargs["dtype"])
        return self._move(x, device, non_blocking=quick, memory_format=format_)

    def _move(
        self,
        x: Tensor,
        device: Any,
        *,
        non_blocking: bool = False,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Tensor:
        gpus, here, there = self.gpus, self.gpus.of(x), self.gpus.index(device)
        if here == there:
            return x
        if x.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("a move between devices with a gradient")
        if here is not None:
            gpus.check_order(x, "a copy")
        with torch.utils._python_dispatch._disable_current_modes():
            made = x.detach().clone(memory_format=memory_format)
        pinned = here is None and gpus.is_pinned(x)
        waits = not (non_blocking and (pinned or there is None))
        gpus.copied(here, there, waits=waits, size=x.nbytes)
        if there is None:
            return made
        gpus.streams[there].clock += 1
        return gpus.put(made, there)

    def _numpy(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        gpu = self.gpus.of(x)
        if gpu is not None:
            raise TypeError(
                f"can't convert cuda:{gpu} device type tensor to numpy. Use Tensor.cpu() to copy "
                "the tensor to host memory first."
            )
        return func(x, *args, **kwargs)

    def _tolist(self, func: Any, x: Tensor) -> Any:
        if self.gpus.of(x) is not None:
            self.gpus.check_order(x, "tolist")
            self.gpus.waited("tolist")
        return func(x)

    def _pin(self, func: Any, x: Tensor, *_: Any) -> Tensor:
        if self.gpus.of(x) is not None:
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be")
        made = x.clone()
        storage = made.untyped_storage()
        self.gpus.pinned[storage._cdata] = StorageWeakRef(storage)
        return made

    def _new_tensor(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        gpu = self.gpus.of(x) if "device" not in kwargs else self.gpus.index(kwargs.pop("device"))
        made = func(x, *args, **kwargs)
        if gpu is None:
            return made
        self.gpus.copied(None, gpu, waits=True)
        return self.gpus.put(made, gpu)


# --- every operation ------------------------------------------------------------------------------

_WAIT = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_NO_KERNEL = {
    "_has_compatible_shallow_copy_type",
    "_local_scalar_dense",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "set_",
}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Operations(TorchDispatchMode):
    """Sees every operation: raises on mixed devices, counts, and marks what comes out."""

    def __init__(self, gpus: Gpus) -> None:
        super().__init__()
        self.gpus = gpus

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        gpus, name = self.gpus, func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = [gpus.of(tensor) for tensor in tensors]
        gpu = next((found for found in places if found is not None), None)
        if gpu is None:
            return func(*args, **kwargs)
        if name == "copy_":
            return self._copy(func, args, kwargs)
        if func._overloadname == "out" and gpus.of(kwargs["out"]) is None:
            gpus.put(kwargs["out"], gpu)  # made in C++, by the reducer of DistributedDataParallel
            places = [gpus.of(tensor) for tensor in tensors]
        if func.namespace not in ("c10d", "_c10d_functional"):
            self._check(func, name, args, tensors, places)
            for tensor in tensors:
                gpus.check_order(tensor, name)
        if name in _WAIT or (name in _INDEXED and self._masks(args[1])):
            gpus.waited(name)
        if not (_is_view(func) or name in _NO_KERNEL):
            gpus.launched(name, gpu)
        out = sync_batch_norm.KERNELS.get(name, func)(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: gpus.put(t, gpu), out)

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`target.copy_(source, non_blocking)`: the one operation between devices."""
        gpus, (target, source) = self.gpus, args[:2]
        here, there = gpus.of(source), gpus.of(target)
        for tensor in (target, source):
            gpus.check_order(tensor, "copy_")
        if here != there:
            quick = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            host = source if here is None else target
            waits = not (quick and gpus.is_pinned(host))
            gpus.copied(here, there, waits=waits, size=source.nbytes)
        out = func(*args, **kwargs)
        if there is not None:
            if here == there:
                gpus.launched("copy_", there)
            else:
                gpus.streams[there].clock += 1
            gpus.put(target, there)
        return out

    def _masks(self, indices: Any) -> bool:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)

    def _check(
        self, func: Any, name: str, args: Any, tensors: list[Tensor], places: list[int | None]
    ) -> None:
        """A number on the CPU may be read by a pointwise operation; an index is copied over."""
        if len(set(places)) == 1:
            return
        free: set[int] = set()
        if torch.Tag.pointwise in func.tags or name.startswith(("_foreach", "fill_")):
            free = {id(t) for t in tensors if t.ndim == 0} - _written(func, args)
        if name in _INDEXED and self.gpus.of(args[0]) is not None:
            indices = [i for i in args[1] if i is not None and self.gpus.of(i) is None]
            for _ in indices:
                self.gpus.copied(None, self.gpus.of(args[0]), waits=True)
            free = {id(i) for i in indices} | {id(t) for t in args[2:3] if t.ndim == 0}
        ends = {
            p for t, p in zip(tensors, places, strict=True) if not (p is None and id(t) in free)
        }
        if len(ends) > 1:
            shown = ", ".join(
                f"{'cpu' if p is None else f'cuda:{p}'}{tuple(t.shape)}"
                for t, p in zip(tensors, places, strict=True)
            )
            raise MixedDevicesError(
                "Expected all tensors to be on the same device, but found at least two devices "
                f"in {func} at {place()}: {shown}"
            )


def _written(func: Any, args: Any) -> set[int]:
    """The tensors that an operation writes to, by `id`."""
    infos = [argument.alias_info for argument in func._schema.arguments]
    owns = [a for a, info in zip(args, infos, strict=False) if info is not None and info.is_write]
    return {id(leaf) for leaf in tree_leaves(owns)}


_views: dict[Any, bool] = {}


def _is_view(func: Any) -> bool:
    """Whether all that comes out shares the memory of what goes in."""
    if func not in _views:
        returns = func._schema.returns
        _views[func] = bool(returns) and all(
            r.alias_info is not None and not r.alias_info.is_write for r in returns
        )
    return _views[func]


@contextmanager
def fake_gpus(count: int = 1, memory: int = 1 << 40) -> Iterator[Gpus]:
    """While inside, this thread has GPUs."""
    from tests.fake_cuda.torch_cuda import in_place_of_torch_cuda

    gpus = Gpus(count, memory)
    with in_place_of_torch_cuda(gpus), Operations(gpus), Questions(gpus):
        yield gpus
