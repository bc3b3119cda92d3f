"""The work of `bench.methods.features.extract`: forward passes block by block into one file.

Unfinished features lie in a hidden folder beside the result: a memory map for each layer, and the
number of rows that are written for good. Blocks always hold the same images, so an extraction that
was interrupted gives the bytes of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.core.errors import DataError
from bench.core.files import reserve, temporary_beside, write_atomic
from bench.data.dataset import Image
from bench.data.rows import Rows
from bench.methods.features.extract_options import (
    SPLITS,
    ExtractOptions,
    layer_names,
    taken_rows,
)
from bench.methods.features.task import FeatureTask, Fitted, Selected
from bench.models.domains import classifier_name
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions, images_per_pass
from bench.training.features import LayerTap, pooled
from bench.training.job import Interrupted, Outcome
from bench.training.process import peak_memory_bytes

BATCH_SIZE = 256
BATCHES_PER_MARK = 16
"""How many batches are lost at most when the process is killed."""

_WORKPLACE = ".extraction"
_OF_CLASSIFIER = ("penultimate", "scores")


def extract_to_file(task: FeatureTask, options: ExtractOptions) -> Fitted:
    """See `bench.methods.features.extract.Extract.fit`."""
    begun = time.monotonic()
    whole = task.selection or _of_domain(task.train)
    given = np.concatenate([whole.rows[name] for name in SPLITS[options.split]])
    rows = taken_rows(whole.images, given, options.images)
    if not len(rows):
        raise DataError(
            f"the selection has no {options.split} image to extract features of",
            hint="choose another split, or give val_per_class or images_per_class",
        )
    workplace = task.folder / _WORKPLACE
    forward = _Forward(task, options)
    arrays = _Arrays(workplace, forward, _inputs(task, whole, rows[:1]), _key(whole, rows, options))
    arrays.fill(forward, lambda at: _inputs(task, whole, rows[at]), len(rows), task.should_stop)
    small = _small_arrays(whole, rows, options)
    path = temporary_beside(task.folder / "features.npz")
    _write_npz(path, arrays, small)
    shutil.rmtree(workplace)
    outcome = Outcome(
        status="done",
        history=[],
        best_epoch=None,
        state={},
        steps=0,
        images_seen=len(rows),
        seconds=time.monotonic() - begun,
        peak_memory_bytes=peak_memory_bytes(task.device),
    )
    notes = {
        "images": len(rows),
        "split": options.split,
        "layers": {name: list(array.shape[1:]) for name, array in arrays.maps.items()},
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
    }
    return Fitted(None, outcome, notes, logits=False, files={"features.npz": path})


def _of_domain(data: Domain) -> Selected:
    """A domain on its own: all its images are training images, named by their number."""
    rows = np.arange(data.size, dtype=np.int64)
    images = tuple(
        Image(f"{data.name}/{n}", str(data.labels[n]), "train", _sha256(data.images[n]))
        for n in rows.tolist()
    )
    nothing = rows[:0]
    classes = tuple(str(n) for n in range(data.num_classes))
    parts = {"train": rows, "val": nothing, "test": nothing}
    return Selected(data.images, data.labels, parts, images, classes)


def _sha256(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _inputs(task: FeatureTask, whole: Selected, rows: NDArray[np.int64]) -> Tensor:
    """Normalised network inputs (n, 3, S, S) of some images."""
    like = task.train
    block = Domain(
        "block", whole.pixels[rows], whole.labels[rows], len(whole.classes), like.mean, like.std
    )
    block = replace(block, crop=like.crop)
    return Feed(block, FeedOptions(task.device, resident=False)).plain_batch(0, len(rows))


class _Forward:
    """Network inputs to what each layer gives, pooled, in the order of the option."""

    def __init__(self, task: FeatureTask, options: ExtractOptions) -> None:
        self.names, self.options = layer_names(options.layers), options
        self.model = task.model.to(task.device)
        self._tapped = [name for name in self.names if name not in _OF_CLASSIFIER]
        self._tap: LayerTap | None = None

    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        height, width = inputs.shape[-2:]
        size = images_per_pass(height, width, inputs.device)
        passes = [self._one_pass(some) for some in torch.split(inputs, size)]
        return {name: torch.cat([found[name] for found in passes]) for name in self.names}

    def _one_pass(self, inputs: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self._tapped:
            if self._tap is None:
                places = [int(name) if name.isdigit() else name for name in self._tapped]
                self._tap = LayerTap(self.model, places, self.options.stage, inputs[:1])
            found |= dict(zip(self._tapped, self._tap(inputs), strict=True))
        if len(self._tapped) < len(self.names):
            found |= zip(_OF_CLASSIFIER, _around_classifier(self.model, inputs), strict=True)
        return {name: self._shaped(name, found[name].float()) for name in self.names}

    def _shaped(self, name: str, value: Tensor) -> Tensor:
        return value.flatten(1) if name in _OF_CLASSIFIER else pooled(value, self.options.pool)


def _around_classifier(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The classifier's input and the network's scores, in one forward pass."""
    handed: list[Tensor] = []
    classifier = model.get_submodule(classifier_name(model))
    handle = classifier.register_forward_pre_hook(lambda _, given: handed.append(given[0].clone()))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            scores: Tensor = model(inputs)
    finally:
        handle.remove()
        for module, training in modes:
            module.training = training
    return handed[-1], scores


class _Arrays:
    """The memory maps of an unfinished extraction, and how far they are written.

    What was written for another `key` is thrown away; the shapes are those of one `sample`.
    """

    def __init__(self, folder: Path, forward: _Forward, sample: Tensor, key: str) -> None:
        self.folder, self.key = folder, key
        self.shapes = {name: tuple(v.shape[1:]) for name, v in forward(sample).items()}
        self.maps: dict[str, np.memmap[Any, np.dtype[np.float32]]] = {}

    def fill(
        self,
        forward: _Forward,
        inputs: Callable[[slice], Tensor],
        count: int,
        should_stop: Callable[[], bool],
    ) -> None:
        """Writes all rows, from where the last attempt ended."""
        done = self._open(count)
        for number, start in enumerate(range(done, count, BATCH_SIZE), start=1):
            if should_stop():
                self._mark(start)
                raise Interrupted
            block = slice(start, min(start + BATCH_SIZE, count))
            for name, value in forward(inputs(block)).items():
                self.maps[name][block] = value.cpu().numpy()
            if number % BATCHES_PER_MARK == 0:
                self._mark(block.stop)
        self._mark(count)

    def _open(self, count: int) -> int:
        """Opens the maps; how many of their rows are right."""
        done = self._marked()
        if done is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        for number, (name, shape) in enumerate(self.shapes.items()):
            path = self.folder / f"{number}.f32"
            mode: Literal["w+", "r+"] = "w+" if done is None else "r+"
            self.maps[name] = np.memmap(path, np.float32, mode, shape=(count, *shape))
            reserve(path)
        return done or 0

    def _marked(self) -> int | None:
        try:
            mark = json.loads((self.folder / "mark.json").read_text())
        except (OSError, ValueError):
            return None
        return int(mark["rows"]) if mark.get("key") == self.key else None

    def _mark(self, rows: int) -> None:
        """The mark is only there once the rows are on the disk."""
        for array in self.maps.values():
            array.flush()
        write_atomic(self.folder / "mark.json", json.dumps({"key": self.key, "rows": rows}))


def _key(whole: Selected, rows: NDArray[np.int64], options: ExtractOptions) -> str:
    """What is extracted; the network is that of the run whose folder this is."""
    text = "\n".join([options.model_dump_json(), *(whole.images[row].sha256 for row in rows)])
    return hashlib.sha256(text.encode()).hexdigest()


# --- the file ---------------------------------------------------------------------------------


def _small_arrays(
    whole: Selected, rows: NDArray[np.int64], options: ExtractOptions
) -> dict[str, NDArray[Any]]:
    splits = {int(row): name for name, places in whole.rows.items() for row in places}
    small: dict[str, NDArray[Any]] = {
        "labels": whole.labels[rows],
        "classes": np.array(whole.classes, dtype=np.str_),
        "images": np.array([whole.images[row].key for row in rows], dtype=np.str_),
        "sha256": np.array([whole.images[row].sha256 for row in rows], dtype=np.str_),
        "split": np.array([splits[int(row)] for row in rows], dtype=np.str_),
    }
    if options.pixels is not None:
        small["pixels"] = _resized(whole.pixels, rows, options.pixels)
    return small


def _resized(
    pixels: NDArray[np.uint8] | Rows, rows: NDArray[np.int64], side: int
) -> NDArray[np.uint8]:
    """(n, side, side, 3): bilinear with anti-aliasing; as they are where they have the size."""
    result = np.empty((len(rows), side, side, 3), dtype=np.uint8)
    for start in range(0, len(rows), BATCH_SIZE):
        block = pixels[rows[start : start + BATCH_SIZE]]
        if block.shape[1] != side:
            x = torch.from_numpy(block).permute(0, 3, 1, 2).float()
            x = torch.nn.functional.interpolate(
                x, size=(side, side), mode="bilinear", antialias=True
            )
            block = x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        result[start : start + BATCH_SIZE] = block
    return result


def _write_npz(path: Path, arrays: _Arrays, small: dict[str, NDArray[Any]]) -> None:
    """An uncompressed npz without pickle; equal content gives equal bytes."""
    everything = {f"layer.{name}": array for name, array in arrays.maps.items()} | small
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in everything.items():
            # A name alone has the date 1980-01-01, so bytes do not depend on when they are written.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
