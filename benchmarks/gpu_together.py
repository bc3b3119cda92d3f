"""Small runs at once on one GPU: what batching them, or a CUDA graph, would gain.

A small network's step is bound by the launches of its kernels, not by its arithmetic. Two remedies
are tried here before anything of the kind is built into the harness: K networks of one shape as
one batched model (`torch.func.stack_module_state` and `vmap`, as PyTorch's tutorial on ensembling
puts them together), and one network's step recorded as a CUDA graph. Both take the steps that the
networks take one after another, which a test holds them to.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from bench.models import layers
from bench.specs.run import ModelSpec

Step = Callable[[Tensor, Tensor], None]
"""Takes images (K, N, 3, H, W) and labels (K, N), a batch for each network."""
_REPEATS = 5
COUNTS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Small:
    """Runs of one shape: their network, the side of their images, their batch and rates."""

    network: str = "narrow8_32"
    side: int = 32
    batch: int = 32
    classes: int = 20
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def models(self, count: int, device: torch.device) -> list[nn.Module]:
        """`count` networks with weights of their own."""
        spec = ModelSpec(name=self.network)
        return [
            layers.create(spec, self.classes, seed=n, image_size=self.side).to(device).train()
            for n in range(count)
        ]

    def data(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """A batch for each network: images (K, N, 3, H, W), labels (K, N)."""
        random = torch.Generator().manual_seed(0)
        shape = (count, self.batch, 3, self.side, self.side)
        labels = torch.randint(self.classes, shape[:2], generator=random)
        return torch.randn(shape, generator=random).to(device), labels.to(device)

    def optimiser(self, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
        """SGD, as all ways have it."""
        return torch.optim.SGD(weights, self.lr, self.momentum, weight_decay=self.weight_decay)


def apart(small: Small, models: Sequence[nn.Module]) -> Step:
    """The networks one after another, each with an optimiser of its own."""
    pairs = [(model, small.optimiser(list(model.parameters()))) for model in models]

    def step(images: Tensor, labels: Tensor) -> None:
        for (model, sgd), shown, wanted in zip(pairs, images, labels, strict=True):
            sgd.zero_grad()
            cross_entropy(model(shown), wanted).backward()  # type: ignore[no-untyped-call]
            sgd.step()

    return step


def batched(
    small: Small, models: Sequence[nn.Module]
) -> tuple[Step, dict[str, Tensor], dict[str, Tensor]]:
    """The networks as one; its weights and buffers by name, (K, ...) each."""
    weights, buffers = stack_module_state(list(models))
    shape = copy.deepcopy(models[0]).to("meta")
    sgd = small.optimiser(list(weights.values()))

    def loss(
        own: dict[str, Tensor], state: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> Tensor:
        return cross_entropy(functional_call(shape, (own, state), (images,)), labels)

    def step(images: Tensor, labels: Tensor) -> None:
        sgd.zero_grad()
        # The sum over networks: each one's gradient is that of its own loss.
        vmap(loss)(weights, buffers, images, labels).sum().backward()  # type: ignore[no-untyped-call]
        sgd.step()

    return step, weights, buffers


def recorded(small: Small, model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One network's step on images (1, N, 3, H, W) as a CUDA graph; no data are copied."""
    step = apart(small, [model])
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is allocated or chosen once is not recorded
        for _ in range(3):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(images, labels)
    return graph.replay


def rate(step: Step, data: tuple[Tensor, Tensor], steps: int = 20) -> float:
    """Images per second: the best of a few repeats."""
    images, labels = data
    found = []
    for repeat in range(_REPEATS + 1):
        begun = time.perf_counter()
        for _ in range(steps if repeat else 3):
            step(images, labels)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        found.append((time.perf_counter() - begun) / steps)
    return labels.numel() / min(found[1:])


def measured(small: Small, device: torch.device, counts: Sequence[int] = COUNTS) -> list[list[str]]:
    """A line per number of networks: images/s one after another, batched, as graphs; the gains."""
    lines = []
    for count in counts:
        data = small.data(count, device)
        plain = rate(apart(small, small.models(count, device)), data)
        whole = rate(batched(small, small.models(count, device))[0], data)
        cells = [str(count), f"{plain:,.0f}", f"{whole:,.0f}", f"{whole / plain:.2f}"]
        if device.type == "cuda" and count == 1:
            replay = recorded(small, small.models(1, device)[0], *data)
            graph = rate(lambda *_, replay=replay: replay(), data)
            cells += [f"{graph:,.0f}", f"{graph / plain:.2f}"]
        else:
            cells += ["", ""]
        lines.append([small.network, str(small.side), str(small.batch), *cells])
    return lines
