"""How many workers this machine gets, and which GPU each of them sees.

Found without torch, which the command does not import: NVIDIA's own tool lists the GPUs; a slice of
a GPU (MIG) is one. Whether torch finds them is asked in a process of its own, and only where
something is to be run; so is their number where there is a driver without that tool, though always.
A worker sees one GPU, so runs never choose one themselves, and a GPU that several workers share is
shared because `--workers` or `--workers-per-gpu` asks for more of them than there are.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.launch.preflight import count_gpus, finds_gpu
from bench.planning.workspace import Session

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
_LISTED = re.compile(r"^GPU (\d+):|^\s+MIG .*\(UUID: *(MIG-[^)\s]+)\)", re.M)
"""A GPU, or a slice of the GPU above it, as `nvidia-smi -L` lists them."""
_BUILT = re.compile(r"^(?:cuda|hip)\b.*= *['\"]", re.M)
"""The release of CUDA or ROCm in torch's `version.py`."""


@dataclass(frozen=True)
class Machine:
    """What a process computes on.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads.
        gpus: how many train a run together.
    """

    device: str = "auto"
    threads: int = 1
    gpus: int = 1


def context_of(session: Session, machine: Machine, **more: Any) -> dict[str, Any]:
    """The context in which a process executes runs, as JSON; see `bench.runs.build.Context`."""
    root = session.data_root
    places = {
        "results": str(session.store.root.resolve()),
        "data_root": str(root.resolve()) if root else None,
    }
    return {**places, **asdict(machine), "tensorboard": session.tensorboard, **more}


@dataclass(frozen=True)
class Placement:
    """The workers of a command.

    Attributes:
        workers: how many there are at most.
        cards: the GPUs that they take in turn; none is the CPU.
        team: GPUs of a worker that trains what other runs start from; where it is more than one,
            no two workers share a GPU.
        most: so many workers at most once they are seen to fit on the GPUs, see `SeenMemory`; None
            leaves it at `workers`.
        without: how many workers there are where torch finds none of the GPUs, see `confirmed`;
            None where they are asked for by GPU.
    """

    workers: int
    cards: tuple[str, ...] = ()
    team: int = 1
    most: int | None = None
    without: int | None = field(default=1, compare=False)


def placement(workers: int | None, machine: Machine, per_gpu: int | None = 1) -> Placement:
    """Where the runs of a command are trained; `confirmed` asks torch about GPUs that are listed.

    Args:
        workers: as asked for; None is one for each GPU or, without one, for each core.
        machine: where several GPUs train a run together, as many runs at a time as have room.
        per_gpu: how many workers share a GPU, where `workers` is None; None is as many as fit, up
            to one for each `machine.threads` cores.

    Raises:
        BenchError: workers are to share GPUs, and there is none.
    """
    on_gpus = machine.device == "cuda" or (machine.device == "auto" and made_for_gpus())
    cards = visible_gpus(os.environ) if on_gpus else ()
    if not cards and VISIBLE not in os.environ and on_gpus:
        asks = machine.device == "cuda" or any(map(Path.exists, _DRIVERS))
        cards = tuple(map(str, range(count_gpus() if asks else 0)))
    if machine.gpus > 1:
        enough = len(cards) >= machine.gpus  # else the check before the first run refuses it
        return Placement(workers or len(cards), cards, machine.gpus) if enough else Placement(1)
    if per_gpu != 1 and not cards:
        raise BenchError(
            f"--workers-per-gpu is {per_gpu or 'auto'}, and no GPU is seen here",
            hint="leave it out; --workers N says how many processes there are",
        )
    if per_gpu is None:
        most = max(len(cards), _cores() // max(1, machine.threads))
        return Placement(len(cards), cards, most=most, without=None)
    without = (workers or _cores()) if per_gpu == 1 else None
    return Placement(workers or len(cards) * per_gpu or _cores(), cards, without=without)


def confirmed(where: Placement, machine: Machine, say: Callable[[str], None]) -> Placement:
    """The same, or the CPU where torch finds none of the GPUs; for what is about to run.

    It starts torch, which takes seconds, in a process of its own.

    Args:
        where: as `placement` gave it.
        machine: with `auto` the CPU is as good; that there is a GPU for `cuda` is checked for all.
        say: receives a line where it is the CPU.

    Raises:
        BenchError: workers are to share GPUs, and torch finds none.
    """
    if not where.cards or machine.device != "auto" or _finds_one_of(os.environ.get(VISIBLE)):
        return where
    listed = ", ".join(where.cards)
    if where.without is None:
        raise BenchError(
            f"--workers-per-gpu is given, and torch finds none of the GPUs {listed}",
            hint="leave it out to train on the CPU; or see nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    say(f"torch finds none of the GPUs {listed}: runs train on the CPU")
    return Placement(where.without)


@functools.cache
def _finds_one_of(visible: str | None) -> bool:
    """Whether torch finds a GPU; a command that runs stage after stage asks once."""
    return finds_gpu()


def made_for_gpus() -> bool:
    """Whether the installed torch was built for GPUs, as a file of it says; torch is not loaded."""
    found = importlib.util.find_spec("torch")
    for folder in (found and found.submodule_search_locations) or ():
        try:
            text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        except OSError:
            return True
        return "cuda" not in text or _BUILT.search(text) is not None
    return False


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may name: what it names now, or else all GPUs of the machine.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 0"})
    ('2', '0')
    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": ""})
    ()
    """
    named = environment.get(VISIBLE)
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip() not in ("", "-1"))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=dict(environment),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = _LISTED.finditer(listed.stdout if listed.returncode == 0 else "")
    cards: list[str] = []
    whole = False
    for gpu, piece in (match.groups() for match in found):
        if piece and whole:  # a GPU that is cut up is used by its slices alone
            cards.pop()
        cards.append(gpu or piece)
        whole = gpu is not None
    return tuple(cards)


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
