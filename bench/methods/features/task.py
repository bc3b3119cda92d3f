"""What a method on features is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.data.dataset import Image
from bench.data.rows import Rows
from bench.training.domain import Domain
from bench.training.job import Outcome


@dataclass(frozen=True, eq=False)
class Selected:
    """All images of a run's selection, as they lie in the cache.

    Attributes:
        pixels: (N, S, S, 3) uint8, a memory map: read block by block.
        labels: (N,) places in `classes`.
        rows: of each split, train, val and test.
        images: (N,) what they are.
        classes: names.
    """

    pixels: NDArray[np.uint8] | Rows
    labels: NDArray[np.int64]
    rows: Mapping[str, NDArray[np.int64]]
    images: tuple[Image, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FeatureTask:
    """What is to be learned, on which network.

    Attributes:
        model: stays as it is, on `device`.
        train: images to fit to.
        validation: images that choose C; None when there are none.
        device: where the network runs.
        folder: for features that do not fit in memory; they are removed afterwards.
        selection: all images of the run, for methods of kind `extraction`; None: those of `train`.
        should_stop: asked between blocks by methods that can go on later.
        refit: training and validation images, to fit to once C is chosen; None keeps the
            classifier that was chosen.
        cache: for features that another process may ask for again; None keeps none.
    """

    model: nn.Module
    train: Domain
    validation: Domain | None
    device: torch.device
    folder: Path
    selection: Selected | None = None
    should_stop: Callable[[], bool] = lambda: False
    refit: Domain | None = None
    cache: Path | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """The classifier and what became of the fit.

    Attributes:
        model: images to scores, the network's features and the classifier in one module; None
            for an extraction, which fits none.
        outcome: its history has a row for each C, numbered as epochs are, in the order tried.
        notes: for the record.
        logits: whether the softmax of the scores is a probability.
        files: to publish besides: name (`features.npz`) and bytes, or a file in the run's folder.
    """

    model: nn.Module | None
    outcome: Outcome
    notes: dict[str, Any]
    logits: bool
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
