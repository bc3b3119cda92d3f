"""The network that a finished run left, ready to be asked: weights, classes and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError, nearest
from bench.results.lookup import read_network
from bench.results.records import selection_label, source_label
from bench.results.store import RunFolder
from bench.specs.run import RunSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's network.

    Attributes:
        name: in a word or two, as the filters' tables call it: near, FT-near, self.
        model: in evaluation mode, with the weights of the epoch that was kept, on the CPU.
        spec, classes, run_id: of the run.
        mean, std: per colour channel, as fractions of 255; what the network was trained with.
    """

    name: str
    model: nn.Module
    spec: RunSpec
    classes: tuple[str, ...]
    run_id: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> int:
        """Side of its images in pixels."""
        return self.spec.data.image_size

    def class_number(self, name: str) -> int:
        """The output of a class.

        Raises:
            DataError: with the nearest of its classes.
        """
        if name not in self.classes:
            raise DataError(
                f"run {self.run_id[:12]} has no class {name!r}",
                hint=f"its {len(self.classes)} classes: {nearest(name, self.classes)}",
            )
        return self.classes.index(name)

    def inputs(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Images (N, S, S, 3) uint8 as the network sees them: float32 (N, 3, S, S)."""
        import torch

        from bench.data.transforms.augment import normalise

        return normalise(torch.from_numpy(np.array(pixels)), self.mean, self.std)


def network_name(spec: RunSpec) -> str:
    """What LI calls a network: `FT-` and its source's name once fine-tuned; near, far, self.

    From the run alone: a network from scratch is called by the side of its classes (near, far;
    self for the target's), and scratch where its recipe has no sides.

    >>> from bench.specs.run import DataSpec, ModelSpec
    >>> data, model = DataSpec(dataset="digits"), ModelSpec(name="narrow8_32")
    >>> network_name(RunSpec(data=data, model=model, pattern="R(1-8)"))
    'scratch'
    """
    if spec.init.kind == "scratch":
        side = getattr(spec.data.classes, "side", None)
        names = {"near": "near", "far": "far", "target": "self", None: "scratch"}
        return names.get(side) or selection_label(spec.data)
    tuned = spec.layers.frozen_prefix < spec.layers.depth - 1
    method = "" if spec.method.name == "plain" else f" {spec.method.name}"
    return f"{'FT' if tuned else 'frozen'}-{source_label(spec)}{method}"


def read_trained(folder: RunFolder) -> Trained:
    """The network that a run published.

    Raises:
        StoreError: the run is not done, its files are damaged, or it left no network.
        DataError: its samples have several views, so that no single image has a score.
    """
    from bench.models.inputs import attached

    network = read_network(folder)
    model, spec, classes = network.model, network.spec, network.classes
    if spec.data.views:
        raise DataError(
            f"a sample of {spec.data.dataset!r} has the views {', '.join(spec.data.views)}",
            place=str(folder.path),
            hint="name a run on single images",
        )
    model.eval().requires_grad_(False)
    inputs = attached(model)
    return Trained(network_name(spec), model, spec, classes, folder.run_id, inputs.mean, inputs.std)
