"""A training's state on disk: one safetensors file, replaced atomically, verified when read.

The JSON beside the tensors travels in the file's own header, so the two cannot come apart. A file
that is torn, altered or another run's is never used: the caller gets the reason and starts anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from bench.core.files import write_atomic

SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """What `read` found: named tensors on the CPU, and the JSON beside them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix/`, without the prefix."""
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}


def write(
    path: Path, identity: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Writes a checkpoint of the run `identity`, atomically.

    Args:
        path: the file; its folder exists.
        identity: the run's id; a reader must ask for the same.
        tensors: any names; copied to the CPU.
        meta: JSON values; floats come back bit for bit.

    Raises:
        OSError: the folder cannot be written.
    """
    copies = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }
    header = {
        "schema": str(SCHEMA),
        "identity": identity,
        "meta": json.dumps(dict(meta)),
        "digest": _digest(copies, json.dumps(dict(meta))),
    }
    data = save_bytes(copies, metadata=header)
    write_atomic(path, data)


def read(path: Path, identity: str) -> Checkpoint | str | None:
    """The checkpoint of the run `identity`; None when there is no file; else why it is unusable.

    >>> read(Path("/nonexistent/checkpoint.safetensors"), "run") is None
    True
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        tensors = load_bytes(data)
    except (ValueError, SafetensorError, AttributeError) as error:
        return f"{path} is torn or not a checkpoint ({type(error).__name__})"
    if header.get("schema") != str(SCHEMA):
        return f"{path} has schema {header.get('schema')!r}, not {SCHEMA}"
    if header.get("identity") != identity:
        return f"{path} belongs to run {header.get('identity')}, not to {identity}"
    if header.get("digest") != _digest(tensors, header.get("meta", "")):
        return f"{path} is altered: its digest does not match"
    return Checkpoint(tensors, json.loads(header["meta"]))


def remove(path: Path) -> None:
    """Deletes a checkpoint and the temporary files that killed writers left beside it."""
    path.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], meta: str) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names, and the JSON."""
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
