"""The networks that a run reads: that of its parent, and that of its bank of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from bench.core.errors import StoreError
from bench.core.files import file_digest
from bench.models import layers, weights
from bench.models.inputs import attach, statistics_of
from bench.results.store import Store
from bench.runs.build import Context
from bench.specs.pattern import LayerPattern
from bench.specs.run import RunSpec, run_id


def bank_network(spec: RunSpec, context: Context) -> nn.Module | None:
    """The network whose kernels describe images, where it is not the run's own (GE-1).

    Raises:
        StoreError: as `trained_state`.
    """
    bank = spec.bank
    if bank is None:
        return None
    state, size = trained_state(bank, context), bank.data.image_size
    outputs = len(context.resolve_data(bank).classes)
    network = layers.create(bank.model, outputs, seed=0, image_size=size)
    attach(network, statistics_of(bank))
    layers.apply_pattern(network, LayerPattern.parse(f"T(1-{bank.layers.depth})"), state)
    return network.to(context.torch_device()).eval()


def trained_state(parent: RunSpec, context: Context) -> Mapping[str, Tensor]:
    """The weights of a run that is done, from its published record only.

    Raises:
        StoreError: it has no result or keeps no weights, or they are gone or damaged.
    """
    key = run_id(parent, context.fingerprint)
    folder = Store(Path(context.results)).folder(key, parent)
    record = folder.record()
    if record is None or record["row"]["status"] != "done":
        raise StoreError(
            "the run to start from has no result",
            place=str(folder.path),
            hint="it must be done first; see bench status",
        )
    path = folder.file_named(record, "model")
    if path is None:
        raise StoreError("the run to start from keeps no weights", place=str(folder.path))
    again = "then bench grid with --retry-failed trains the source once more, and goes on"
    if not path.exists():
        raise StoreError(
            f"the weights of the source {folder.path.name} are gone",
            place=str(path),
            hint=f"nothing need be deleted; {again.removeprefix('then ')}",
        )
    if file_digest(path) != record["files"][path.name]:
        raise StoreError(
            f"the weights of the source {folder.path.name} are damaged: they are not those "
            "that the record names",
            place=str(path),
            hint=f"delete this one file, which is the source's; {again}",
        )
    return weights.read_state(path)
