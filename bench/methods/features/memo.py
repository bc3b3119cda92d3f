"""Features that this process has computed before.

Classifiers on features come in rows: a probe and an SVM, values of C, draws that share test images,
a classifier that is fitted first in each of several recipes. What is kept is what the same network
gave for the same batch, so it is the same to the last bit, whatever ran before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary

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
        layout = images.is_contiguous(memory_format=torch.channels_last)
        digest = hashlib.blake2b(digest_of_network(network, but), digest_size=16)
        digest.update(repr((torch.get_num_threads(), layout)).encode())
        _add(digest, "", images)
        key = digest.digest()
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


_DIGESTS = WeakKeyDictionary[nn.Module, tuple[list[Tensor], object, bytes]]()
"""Of networks: the tensors that they are of, held so that no other takes a place, and versions."""


def digest_of_network(network: nn.Module, but: nn.Module) -> bytes:
    """Of the structure and the values of a network, but those of a part of it.

    Values that are written through `.data`, past torch's count of changes, are not seen.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> before = digest_of_network(net, net[1])
    >>> _ = nn.init.zeros_(net[1].weight)
    >>> digest_of_network(net, net[1]) == before
    True
    >>> _ = nn.init.zeros_(net[0].weight)
    >>> digest_of_network(net, net[1]) == before
    False
    """
    unasked = {id(value) for value in but.state_dict(keep_vars=True).values()}
    values = network.state_dict(keep_vars=True).items()
    parts = [(name, value) for name, value in values if id(value) not in unasked]
    tensors, structure = [value for _, value in parts], repr(network)
    # Changes in place count the version up, those by `.data` another place, all but writes into it.
    versions = (structure, [(v._version, v.data_ptr(), v.dtype, v.device) for v in tensors])
    held, earlier, found = _DIGESTS.get(network, ([], None, b""))
    if found and list(map(id, held)) == list(map(id, tensors)) and earlier == versions:
        return found
    digest = hashlib.blake2b(structure.encode(), digest_size=16)
    for name, value in parts:
        _add(digest, name, value)
    _DIGESTS[network] = tensors, versions, digest.digest()
    return digest.digest()


def _add(digest: hashlib.blake2b, name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    flat = value.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
