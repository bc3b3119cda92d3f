"""One trunk, a classifier per domain (SFT Fig. 3, GE §3.1).

How BatchNorm treats a batch of several domains is left open in the papers. GE mixes the domains in
each mini-batch and parts them after the average pooling, which is `joint`; it is the default.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.core.errors import ModelError
from bench.core.seeding import seed_from
from bench.specs.run import BatchNormMode


class MultiHead(nn.Module):
    """A trunk whose features (n, D) go to the head of each image's own domain.

    Args:
        trunk: inputs (n, ...) to features (n, D), as a timm network without its classifier.
        heads: one classifier per domain, in the order of the domains.
        batch_norm: `joint`, one pass, statistics of the whole batch; `separate`, a pass per domain,
            each with its own statistics, of which only the main domain's enter the running ones;
            `frozen`, one pass with the running statistics, which stay as they are.
        main: the domain that the network is for.
        views: images of a sample, by domain; a head is handed their features side by side. None is
            one image everywhere.

    >>> net = MultiHead(nn.Flatten(), [nn.Linear(4, 2), nn.Linear(4, 3)])
    >>> [tuple(out.shape) for out in net(torch.zeros(5, 1, 2, 2), ((0, 3), (1, 2)))]
    [(3, 2), (2, 3)]
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Sequence[nn.Module],
        *,
        batch_norm: BatchNormMode = "joint",
        main: int = 0,
        views: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)
        self.views = tuple(views or (1 for _ in heads))
        self.batch_norm, self.main = batch_norm, main

    def train(self, mode: bool = True) -> MultiHead:
        """As `nn.Module.train`; frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in _norms(self.trunk):
                module.eval()
        return self

    def forward(self, inputs: Tensor, parts: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Logits (n, C_domain) of each part.

        Args:
            inputs: the parts' images one after the other.
            parts: (domain, number of samples).

        Raises:
            ModelError: the numbers do not add up to the batch.
        """
        counts = [count * self.views[domain] for domain, count in parts]
        if sum(counts) != len(inputs):
            raise ModelError(f"parts of {counts} images, but a batch of {len(inputs)}")
        if self.batch_norm == "separate":
            features = [
                self._pass(chunk, domain)
                for chunk, (domain, _) in zip(torch.split(inputs, counts), parts, strict=True)
            ]
        else:
            features = list(torch.split(self.trunk(inputs), counts))
        logits = [
            self.heads[domain](side_by_side(x, count))
            for x, (domain, count) in zip(features, parts, strict=True)
        ]
        return [x.flatten(1) for x in logits]  # a classifier may be a 1 x 1 convolution

    def _pass(self, inputs: Tensor, domain: int) -> Tensor:
        if not self.training or domain == self.main:
            features: Tensor = self.trunk(inputs)
            return features
        with _unrecorded(self.trunk), _own_dropout(inputs.device, domain):
            quiet: Tensor = self.trunk(inputs)
        return quiet


def side_by_side(features: Tensor, samples: int) -> Tensor:
    """(n V, D) to (n, V D): a sample's views one after the other; one view stays as it is.

    >>> side_by_side(torch.arange(4.0)[:, None], 2).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    return features if len(features) == samples else features.reshape(samples, -1)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def _own_dropout(device: torch.device, domain: int) -> Iterator[None]:
    """Random numbers for dropout that leave those of the main domain as they would be without.

    They follow from the present state and the domain, so a resumed run draws them again.
    """
    cuda = [device] if device.type == "cuda" else []
    state = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()
    text = f"domain|{domain}|{hashlib.sha256(state.numpy().tobytes()).hexdigest()}"
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed_from(text))
        yield


@contextlib.contextmanager
def _unrecorded(model: nn.Module) -> Iterator[None]:
    """Normalises by the batch's own statistics without touching the running ones."""
    recording = [
        module for module in _norms(model) if module.training and module.track_running_stats
    ]
    for module in recording:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in recording:
            module.track_running_stats = True
