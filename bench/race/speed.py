"""How many images a second a network trains on, by a step of it at each size on this machine.

On a GPU it is a step of the race's own recipe, as forecasts measure it. On a CPU it is forward and
backward of eight images, of which a step takes about as long for each.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    model: str,
    sizes: Sequence[int],
    device: str = "auto",
    *,
    of_cpu: bool = False,
    train: Mapping[str, Any] | None = None,
) -> Speed:
    """Tries some steps of a network at each size, in a process of its own.

    Args:
        model: the network.
        sizes: sides of the images.
        device: auto, cpu or cuda.
        of_cpu: seconds of a step on a CPU are those of the processor, whatever else it does.
        train: the recipe of a step on a GPU, as a grid has it.

    Raises:
        BenchError: the network cannot be trained here.
    """
    asked = {"model": model, "sizes": list(sizes), "device": device, "of_cpu": of_cpu}
    asked["train"] = dict(train or {})
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
    from bench.runs.build import Context

    started = time.monotonic()
    device = Context(results=".", device=asked["device"]).torch_device()
    rates = _on_gpu(asked) if device.type == "cuda" else _on_cpu(asked)
    return {"rates": rates, "measuring_s": time.monotonic() - started}


def _on_gpu(asked: Any) -> dict[str, float]:
    """By steps of the recipe; a size at which it cannot be trained is left out."""
    from bench.planning.step_times import measured
    from bench.specs.run import TrainSpec

    recipe = TrainSpec(**asked["train"])
    network = {
        "model": {"name": asked["model"]},
        "frozen": 0,
        "train": asked["train"],
        "images": [max(1, recipe.batch_size // recipe.accumulate)],
    }
    networks = [network | {"image_size": size} for size in asked["sizes"]]
    answers = measured({"threads": 1, "device": "cuda", "networks": networks})
    rates = {}
    for size, answer in zip(asked["sizes"], answers, strict=True):
        if answer is not None:
            count, seconds = answer["train_s"][0]
            rates[str(size)] = count / seconds
    if not rates:
        raise RuntimeError("no size of the images can be trained")
    return rates


def _on_cpu(asked: Any) -> dict[str, float]:
    import torch

    from bench.models.layers import create
    from bench.specs.run import ModelSpec

    torch.set_num_threads(1)
    now, found = time.process_time if asked["of_cpu"] else time.monotonic, {}
    for size in asked["sizes"]:
        network = create(ModelSpec(name=asked["model"]), 2, seed=0, image_size=size)
        network.to(memory_format=torch.channels_last).train()
        images = torch.randn(_BATCH, 3, size, size)
        images = images.contiguous(memory_format=torch.channels_last)
        network(images).sum().backward()  # the first step is slower: memory, choice of kernels
        steps, begun = 0, now()
        while not steps or (now() - begun < 0.5 and steps < 20):
            network(images).sum().backward()
            steps += 1
        found[str(size)] = steps * _BATCH / (now() - begun)
    return found


if __name__ == "__main__":
    answer_one(_answer)
