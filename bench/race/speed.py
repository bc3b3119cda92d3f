"""How many images a second a network trains on, by a step of it at each size on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.core.child_process import ChildDiedError, answer_one, ask
from bench.core.errors import BenchError

_BATCH = 16


def training_rates(model: str, sizes: Sequence[int], device: str = "auto") -> dict[int, float]:
    """Images per second of one process with one thread, forward and backward, by image size.

    Raises:
        BenchError: the network cannot be trained here.
    """
    asked = {"model": model, "sizes": list(sizes), "device": device}
    try:
        found = ask("bench.race.speed", asked)
    except ChildDiedError as error:
        raise BenchError(
            f"{model} cannot be trained on this machine: the process {error.how}",
            hint=error.hint or "choose a smaller network or smaller images",
        ) from None
    return {int(size): float(rate) for size, rate in found.items()}


# --- in the process of its own ---


def _answer(asked: Any) -> dict[str, float]:
    import torch

    from bench.models.layers import create
    from bench.runs.build import Context
    from bench.specs.run import ModelSpec

    torch.set_num_threads(1)
    device = Context(results=".", device=asked["device"]).torch_device()
    found = {}
    for size in asked["sizes"]:
        network = create(ModelSpec(name=asked["model"]), 2, seed=0, image_size=size)
        network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        images = torch.randn(_BATCH, 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        steps, begun = 0, time.monotonic()
        network(images).sum().backward()  # the first step is slower: memory, choice of kernels
        begun = time.monotonic()
        while steps < 2 or (time.monotonic() - begun < 0.5 and steps < 20):
            network(images).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            steps += 1
        found[str(size)] = steps * _BATCH / (time.monotonic() - begun)
    return found


if __name__ == "__main__":
    answer_one(_answer)
