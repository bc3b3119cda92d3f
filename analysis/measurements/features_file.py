"""Reading what an extraction left: features by layer, labels, and which images they are of."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError, StoreError, nearest
from bench.core.files import file_digest
from bench.results.store import RunFolder

_LAYER = "layer."


@dataclass(frozen=True, eq=False)
class Extracted:
    """The features of N images.

    Attributes:
        layers: name to (N, …) float32; those that were asked for.
        labels: (N,) places in `classes`.
        classes: names, in the order of the selection.
        images: (N,) keys of the images; `sha256` (N,) of their content.
        split: (N,) train, val or test.
        pixels: (N, P, P, 3) uint8 where the extraction kept them.
        record: of the run.
    """

    layers: Mapping[str, npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    images: tuple[str, ...]
    sha256: tuple[str, ...]
    split: tuple[str, ...]
    pixels: npt.NDArray[np.uint8] | None
    record: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


def read_extracted(folder: RunFolder, layers: Sequence[str] | None = None) -> Extracted | None:
    """The features that a run of the method `extract` published; None while it is not done.

    Args:
        folder: of the run, from `Store.folder` or `Store.find`.
        layers: which of them; all by default.

    Raises:
        StoreError: the record or the file is damaged, or the run is no extraction.
        DataError: the extraction has no such layer.
    """
    record = folder.record()
    if record is None or record["row"]["status"] != "done":
        return None
    path = folder.file_named(record, "features")
    if path is None:
        raise StoreError(
            f"run {folder.run_id[:12]} left no features", place=str(folder.path), hint=_ASK
        )
    try:
        digest = file_digest(path)
    except OSError as error:
        raise StoreError(
            f"the features cannot be read: {error.strerror}", place=str(path), hint=_AGAIN
        ) from None
    if digest != record["files"][path.name]:
        raise StoreError(
            "the features are damaged: they are not those that the record names",
            place=str(path),
            hint=_AGAIN,
        )
    return read_features(path, layers, record)


def read_features(
    path: Path, layers: Sequence[str] | None = None, record: Mapping[str, Any] | None = None
) -> Extracted:
    """The features in a file, as `bench.methods.features.extract` writes them.

    Raises:
        StoreError: the file is torn.
        DataError: it has no such layer.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _read(arrays, layers, record or {})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"these are no features: {error}", place=str(path), hint=_AGAIN) from None


_ASK = "only runs of the method extract leave features: add measure: to the grid"
_AGAIN = "delete the run's folder and run the grid again: the extraction is repeated"


def _read(arrays: Any, layers: Sequence[str] | None, record: Mapping[str, Any]) -> Extracted:
    there = [name.removeprefix(_LAYER) for name in arrays.files if name.startswith(_LAYER)]
    for name in layers or ():
        if name not in there:
            raise DataError(
                f"the extraction has no layer {name!r}", hint=f"it has {nearest(name, there)}"
            )
    return Extracted(
        layers={name: arrays[f"{_LAYER}{name}"] for name in (layers or there)},
        labels=arrays["labels"],
        classes=tuple(arrays["classes"].tolist()),
        images=tuple(arrays["images"].tolist()),
        sha256=tuple(arrays["sha256"].tolist()),
        split=tuple(arrays["split"].tolist()),
        pixels=arrays["pixels"] if "pixels" in arrays.files else None,
        record=record,
    )
