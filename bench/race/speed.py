"""How many images a second a network trains on, by a step of it at each size on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.child_process import ChildDiedError, answer_one, ask
from bench.core.errors import BenchError

_BATCH = 8


@dataclass(frozen=True)
class Speed:
    """How fast this machine is.

    Attributes:
        images_per_s: of one process with one thread, forward and backward, by image size.
        start_s: wall-clock seconds until a new process can train: Python and its libraries.
    """

    images_per_s: dict[int, float]
    start_s: float


def measure_speed(
    model: str, sizes: Sequence[int], device: str = "auto", *, of_cpu: bool = False
) -> Speed:
    """Tries some steps of a network at each size, in a process of its own.

    Args:
        model: the network.
        sizes: sides of the images.
        device: auto, cpu or cuda.
        of_cpu: seconds of a step are those of the processor, whatever else it does.

    Raises:
        BenchError: the network cannot be trained here.
    """
    asked = {"model": model, "sizes": list(sizes), "device": device, "of_cpu": of_cpu}
    begun = time.monotonic()
    try:
        found = ask("bench.race.speed", asked)
    except ChildDiedError as error:
        raise BenchError(
            f"{model} cannot be trained on this machine: the process {error.how}",
            hint=error.hint or "choose a smaller network or smaller images",
        ) from None
    rates = {int(size): float(rate) for size, rate in found["rates"].items()}
    return Speed(rates, time.monotonic() - begun - float(found["measuring_s"]))


# --- in the process of its own ---


def _answer(asked: Any) -> dict[str, Any]:
    import torch

    from bench.models.layers import create
    from bench.runs.build import Context
    from bench.specs.run import ModelSpec

    started = time.monotonic()
    torch.set_num_threads(1)
    device = Context(results=".", device=asked["device"]).torch_device()
    now, found = time.process_time if asked["of_cpu"] else time.monotonic, {}
    for size in asked["sizes"]:
        network = create(ModelSpec(name=asked["model"]), 2, seed=0, image_size=size)
        network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        images = torch.randn(_BATCH, 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        network(images).sum().backward()  # the first step is slower: memory, choice of kernels
        steps, begun = 0, now()
        while not steps or (now() - begun < 0.5 and steps < 20):
            network(images).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            steps += 1
        found[str(size)] = steps * _BATCH / (now() - begun)
    return {"rates": found, "measuring_s": time.monotonic() - started}


if __name__ == "__main__":
    answer_one(_answer)
