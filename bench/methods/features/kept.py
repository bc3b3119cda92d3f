"""Features of images on disk, so that another process need not compute them again.

A race on photographs asks for the features of the same images several times: to choose a
classifier, to fit it to all labels, to look at the labels. A file's name is a hash of the images,
the network and what computed them, so nothing has to be invalidated; on another machine, where the
last bit may differ, they are computed anew. A file begins with the digest of what follows, and is
not taken where that is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from bench.core.files import write_atomic
from bench.methods.features.memo import digest_of_network
from bench.methods.retrieval.responses import make_room, most_bytes
from bench.training.domain import Domain
from bench.training.domain_batches import images_at_most

LEAST_S = 2.0
"""Seconds of computing from which on features are kept."""

_VERSION = 1
"""Counts up where the same images and network give other features in a new version."""

_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class KeptFeatures:
    """Features that one network gives at one place.

    Attributes:
        folder: where they are kept; None keeps nothing.
        identity: of the network, the place and the machine.
    """

    folder: Path | None
    identity: str

    @classmethod
    def of(
        cls,
        folder: Path | None,
        network: nn.Module,
        but: nn.Module,
        place: object,
        device: torch.device,
    ) -> KeptFeatures:
        """Args: see `FeatureMemo.of`; `place` is whatever else decides the values.

        Raises:
            BenchError: the environment variable BENCH_RESPONSES_GIB is no size.
        """
        if folder is None:
            return cls(None, "")
        most_bytes()
        software = (_VERSION, torch.__version__, timm.__version__)
        facts = (place, software, platform.node(), *_machine(device))
        return cls(folder, f"{digest_of_network(network, but).hex()} {facts}")

    def key(self, data: Domain, content: str) -> str:
        """The name of what is kept of images of a domain; `content` says which, in which order."""
        text = repr((self.identity, content, data.form))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def read(self, key: str, images: int, columns: int) -> NDArray[np.float32] | None:
        """Float32 (images, columns); None where they are not there."""
        if self.folder is None:
            return None
        path = self.folder / f"features-{key}.f32"
        try:
            whole = path.read_bytes()
        except OSError:
            return None
        said, data = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != said or len(data) != 4 * images * columns:
            return None
        found = np.frombuffer(data, "<f4").reshape(images, columns).astype(np.float32)
        with contextlib.suppress(OSError):
            os.utime(path)  # those that are longest unused leave first
        return found

    def write(self, key: str, features: NDArray[np.float32]) -> None:
        """Keeps them where there is room; a full disk is no error."""
        if self.folder is None or features.nbytes > most_bytes():
            return
        data = np.ascontiguousarray(features, "<f4").tobytes()
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            make_room(self.folder, features.nbytes, most_bytes())
            write_atomic(self.folder / f"features-{key}.f32", hashlib.sha256(data).digest() + data)


def _machine(device: torch.device) -> tuple[object, ...]:
    """What of the machine may move the last bit."""
    if device.type == "cpu":
        return torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic
    name = torch.cuda.get_device_name(device)
    return name, *tf32, cudnn, deterministic, images_at_most()
