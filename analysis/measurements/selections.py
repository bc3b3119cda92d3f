"""Two selections of images under one network, without a grid: distances and nearest neighbours."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from analysis.measurements.features_file import Extracted, read_features
from analysis.measurements.rows import Row, distance_rows
from bench.core.errors import BenchError
from bench.data import catalog
from bench.data.rows import Rows
from bench.methods import Ingredients, check
from bench.models.inputs import attached
from bench.specs.data import DataSpec
from bench.specs.measures import DistancesAsked
from bench.specs.run import TrainSpec
from bench.training.domain import Domain

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.methods.retrieval.neighbours import SelectionOptions
    from bench.methods.retrieval.search import Neighbours

PIXELS = 32
"""Side of the images that the convolutional domain classifier sees."""


class Places(TypedDict):
    """Where data sets and decoded images lie, as `bench.data.catalog` takes them."""

    data_root: Path | None
    cache_dir: Path


@dataclass(frozen=True, eq=False)
class SelectedImages:
    """The images of a selection: which they are, and decoded."""

    resolved: catalog.Resolved
    loaded: catalog.Loaded

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Of the training images, in the order of `train`."""
        return tuple(image.key for image in self.resolved.train)

    def train(self, name: str, network: nn.Module | None, most: int | None = None) -> Domain:
        """The training images, with the normalisation of a network."""
        loaded, inputs = self.loaded, attached(network)
        rows = loaded.train[:most]
        return Domain(
            name,
            Rows(loaded.images, rows),
            loaded.labels[rows],
            len(loaded.classes),
            inputs.mean,
            inputs.std,
            views=loaded.images.shape[1] // loaded.images.shape[2],
            crop=loaded.crop,
        )


def load_selection(data: DataSpec, places: Places, draw: int = 0) -> SelectedImages:
    """The images of a selection, decoded; `draw` seeds the draw of images."""
    resolved = catalog.resolve(data, draw, **places)
    return SelectedImages(resolved, catalog.load(resolved, data, **places))


# --- distances --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SelectionDistances:
    """The distances between two selections.

    Attributes:
        rows: distance, value, low, high, p_value, n, notes; see `analysis.measurements.rows`.
        images: of each side, before they are drawn to equal numbers.
        shared: images that are in both selections, by content.
    """

    rows: tuple[Row, ...]
    images: tuple[int, int]
    shared: int


def measure_selections(
    source: DataSpec,
    target: DataSpec,
    network: nn.Module,
    asked: DistancesAsked,
    places: Places,
    device: torch.device,
) -> SelectionDistances:
    """Every distance between two selections under one network, as a grid's `measure:` has it.

    Raises:
        BenchError: no such layer, or images of two sizes.
    """
    check_sizes(source, target)
    sides = [_features(data, network, asked, places, device) for data in (source, target)]
    (first, first_wnids), (second, second_wnids) = sides
    return SelectionDistances(
        rows=tuple(distance_rows(first, second, asked, first_wnids and second_wnids)),
        images=(len(first), len(second)),
        shared=len(set(first.sha256) & set(second.sha256)),
    )


def check_sizes(source: DataSpec, target: DataSpec) -> None:
    """Refuses selections that no one network can see.

    Raises:
        BenchError: the images of the two sides differ in size.
    """
    if source.image_size != target.image_size:
        raise BenchError(
            f"source images of {source.image_size} pixels and target images of {target.image_size}",
            hint="one network sees both: give both the same image_size",
        )


def _features(
    data: DataSpec, network: nn.Module, asked: DistancesAsked, places: Places, device: torch.device
) -> tuple[Extracted, bool]:
    """The features of one selection, and whether its classes are WordNet ids."""
    from bench.methods.features.extract import Extract
    from bench.methods.features.task import FeatureTask, Selected

    options: Any = check(
        "extract",
        {"layers": asked.layer, "split": asked.split, "images": asked.images, "pixels": PIXELS},
    )
    images = load_selection(data, places)
    loaded = images.loaded
    rows = {"train": loaded.train, "val": loaded.val, "test": loaded.test}
    everything = Selected(
        loaded.images, loaded.labels, rows, tuple(images.resolved.images), loaded.classes
    )
    with tempfile.TemporaryDirectory() as folder:
        sample = images.train("sample", network, 1)
        task = FeatureTask(network, sample, None, device, Path(folder), everything)
        path = Extract(options).fit(task).files["features.npz"]
        assert isinstance(path, Path)
        return read_features(path), images.resolved.wnid_keyed


# --- neighbours -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ImageNeighbours:
    """The nearest source images of each target image.

    Attributes:
        nearest: places among the training images of the source, and distances.
        target, source: the two selections.
        bank: descriptions of the filters that describe the images.
        bin_edges: how the bins of their histograms were chosen.
    """

    nearest: Neighbours
    target: SelectedImages
    source: SelectedImages
    bank: tuple[str, ...]
    bin_edges: str

    @property
    def borrowed(self) -> int:
        """Source images that are a neighbour of some target image."""
        return len(np.unique(self.nearest.indices))

    def rows(self) -> list[Row]:
        """A row per target image and rank (from 1), with both images, classes and distance."""
        rows = []
        keys, names = self.source.train_keys, self.source.loaded.classes
        labels = self.source.loaded.labels[self.source.loaded.train]
        ours = self.target.loaded
        for place, key in enumerate(self.target.train_keys):
            name = ours.classes[int(ours.labels[ours.train[place]])]
            pairs = zip(self.nearest.indices[place], self.nearest.distances[place], strict=True)
            for rank, (index, distance) in enumerate(pairs, start=1):
                rows.append(
                    {
                        "target_image": key,
                        "target_class": name,
                        "rank": rank,
                        "source_image": keys[int(index)],
                        "source_class": names[int(labels[index])],
                        "distance": f"{distance:.6g}",
                    }
                )
        return rows


def find_neighbours(
    source: DataSpec,
    target: DataSpec,
    network: nn.Module | None,
    options: SelectionOptions,
    places: Places,
    device: torch.device,
) -> ImageNeighbours:
    """The nearest source images of each target image (GE §3.2), training images of both.

    Args:
        source, target: the two selections.
        network: whose kernels describe images; None for Gabor filters.
        options: of the search, with `k0` neighbours.
        places: of data sets and decoded images.
        device: where images are described.

    Raises:
        BenchError: the source has fewer images than neighbours are asked for.
    """
    from bench.methods.retrieval.neighbours import select

    ours, theirs = load_selection(target, places), load_selection(source, places)
    domain, others = ours.train("target", network), theirs.train("source", network)
    if options.k0 is not None and options.k0 > others.size:
        raise BenchError(
            f"--k is {options.k0}, but the source has {others.size} images to train on",
            hint=f"give at most {others.size}, or a larger source",
        )
    ingredients = Ingredients(
        domain, TrainSpec(), network=network, cache=places["cache_dir"], device=device
    )
    nearest, _, notes = select(ingredients, others, options)
    return ImageNeighbours(nearest, ours, theirs, tuple(notes["bank"]), str(notes["bin_edges"]))
