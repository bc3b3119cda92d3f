"""Features that this process has computed before.

Classifiers on features come in rows: a probe and an SVM, values of C, draws that share test images,
a classifier that is fitted first in each of several recipes. What is kept is what the same network
gave for the same batch, so it is the same to the last bit, whatever ran before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn


class FeatureMemo:
    """The features of batches, the least recently used leave first.

    Args:
        most_bytes: that are kept.
    """

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self._most, self._kept = most_bytes, OrderedDict[bytes, Tensor]()
        self.computed = 0
        """Images of which features were computed."""

    def of(
        self, network: nn.Module, but: nn.Module, images: Tensor, compute: Callable[[], Tensor]
    ) -> Tensor:
        """What `compute` gives for a network in evaluation mode and a batch on the CPU.

        Args:
            network: what computes; its structure and its values count.
            but: a part of it that is not asked, the classifier; its values do not count.
            images: (n, …), the batch.
            compute: gives (n, D).
        """
        key = _digest(network, but, images)
        kept = self._kept.get(key)
        if kept is None:
            kept = compute()
            self.computed += len(images)
            self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > self._most:
            self._kept.popitem(last=False)
        return kept.clone()


MEMO = FeatureMemo()
"""Of this process."""


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _digest(network: nn.Module, but: nn.Module, images: Tensor) -> bytes:
    unasked = {id(value) for value in but.state_dict(keep_vars=True).values()}
    values = network.state_dict(keep_vars=True).items()
    parts = [(name, value) for name, value in values if id(value) not in unasked]
    digest = hashlib.blake2b(digest_size=16)
    layout = images.is_contiguous(memory_format=torch.channels_last)
    digest.update(repr((network, torch.get_num_threads(), layout)).encode())
    for name, value in [*parts, ("", images)]:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
