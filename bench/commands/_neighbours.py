"""What `bench retrieve` does: the nearest source images of each target image, as CSV and a picture.

The picture is that of GE Fig. 2: a target image, then its 1st, 10th, 20th, 30th and 40th neighbour.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from bench.core.errors import BenchError, DataError
from bench.core.files import csv_text, write_atomic
from bench.core.paths import user_path
from bench.grid.yaml import scalar
from bench.results.lookup import find_run, read_network
from bench.specs.data import DataSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from bench.methods.retrieval.search import Neighbours


RANKS = (1, 10, 20, 30, 40)
"""Neighbours that the picture shows, from 1."""


@dataclass(frozen=True)
class Retrieval:
    """What `retrieve` is asked for, beside the two selections.

    Attributes:
        run: beginning of the id of a run whose network gives the kernels; None for Gabor filters.
        layers: numbers or names of layers of that network, separated by commas.
        stage: kernels before (`pre`) or after (`post`) their activation.
        k: neighbours of each target image.
        bins: of each filter's histogram.
        epsilon: added to the shares before the logarithm.
        crop: side of the central part that is described, as a fraction.
        rows: target images in the picture.
        memory_mib: bound on the memory of the search.
        device: auto, cpu or cuda.
    """

    run: str | None = None
    layers: str = "1,2"
    stage: Literal["pre", "post"] = "pre"
    k: int = 40
    bins: int = 100
    epsilon: float = 2.2204e-16
    crop: float = 0.875
    rows: int = 8
    memory_mib: int = 1024
    device: str = "auto"


def retrieve(
    target: str,
    source: str,
    out: Path,
    *,
    results: Path,
    data_root: Path | None = None,
    asked: Retrieval | None = None,
) -> list[str]:
    """Writes `neighbours.csv` and `neighbours.png` into `out`; lines to print.

    Args:
        target, source: selections as YAML, such as `{dataset: digits, images_per_class: 5,
            test_per_class: 20}`, or folders of images; their training images are taken.
        out: folder to write to.
        results: where runs and caches lie.
        data_root: where data sets lie.
        asked: bank and numbers.

    Raises:
        BenchError: a selection, a run or a number that does not fit, with the alternatives.
    """
    from bench.methods import Ingredients
    from bench.methods.retrieval.neighbours import SelectionOptions, select
    from bench.runs.build import Context
    from bench.specs.run import TrainSpec

    asked = asked or Retrieval()
    context = Context(str(results), str(data_root) if data_root else None, asked.device)
    network = read_network(find_run(asked.run, results)).model if asked.run else None
    options = _options(SelectionOptions, asked)
    places: dict[str, Any] = {"data_root": context.root, "cache_dir": context.cache}
    sides = read_selections({"target": target, "source": source}, places)
    ours, theirs = (_load(name, data, context, network) for name, data in sides.items())
    if asked.k > theirs.domain.size:
        raise BenchError(
            f"--k is {asked.k}, but the source has {theirs.domain.size} images to train on",
            hint=f"give at most {theirs.domain.size}, or a larger source",
        )
    ingredients = Ingredients(
        ours.domain,
        TrainSpec(),
        network=network,
        cache=context.cache,
        device=context.torch_device(),
    )
    found, _, notes = select(ingredients, theirs.domain, options)
    write_atomic(out / "neighbours.csv", neighbour_table(found, ours, theirs))
    write_atomic(out / "neighbours.png", neighbour_picture(found, ours, theirs, asked.rows))
    union = len(set(found.indices.ravel().tolist()))
    return [
        f"bank: {'; '.join(notes['bank'])}; bins: {asked.bins} ({notes['bin_edges']})",
        f"{ours.domain.size} target images, {found.stored} neighbours of each, "
        f"{union} of {theirs.domain.size} source images in all",
        f"{out / 'neighbours.csv'}",
        f"{out / 'neighbours.png'}",
    ]


@dataclass(frozen=True, eq=False)
class Side:
    """Images of one selection, with their names.

    Attributes:
        domain: a `bench.training.domain.Domain`.
        keys: of the images, in its order.
        classes: names by label.
    """

    domain: Any
    keys: tuple[str, ...]
    classes: tuple[str, ...]


def _options(kind: Any, asked: Retrieval) -> Any:
    try:
        return kind(
            bank="kernels" if asked.run else "gabor",
            layers=asked.layers,
            stage=asked.stage,
            k0=asked.k,
            bins=asked.bins,
            epsilon=asked.epsilon,
            crop=asked.crop,
            rounds=1,
            memory_mib=asked.memory_mib,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = {"k0": "k"}.get(str(first["loc"][0]), str(first["loc"][0]))
        raise BenchError(f"{name} is {first['input']!r}", hint=first["msg"]) from None


def parse_selection(name: str, text: str) -> DataSpec:
    """A selection as YAML on the command line: a data set's name, or a mapping.

    Raises:
        BenchError: naming the key that is wrong.

    >>> parse_selection("target", "{dataset: digits, images_per_class: 5}").images_per_class
    5
    """
    value = scalar(text)
    raw = {"dataset": value} if isinstance(value, str) else value
    try:
        return DataSpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or name
        raise BenchError(
            f"{name} {text}: {place}: {first['msg']}",
            hint="write for example '{dataset: digits, images_per_class: 5, test_per_class: 20}'",
        ) from None


_HELD_OUT = 0.2
"""Share of the smallest class that is held out for the test where a folder has no test images; half
as much for validation."""


def folder_selection(path: Path, image_size: int | None, places: Mapping[str, Any]) -> DataSpec:
    """All training images of a folder, an archive or a manifest.

    Where it has no test images, some of each class are held out, so that counts and overlap are
    those of a grid.

    Args:
        path: of the folder, the archive or the manifest.
        image_size: in pixels; None is a selection's default.
        places: data_root and cache_dir, as `bench.data.catalog.open_dataset` takes them.

    Raises:
        DataError: it is not laid out as a data set.
    """
    from bench.data.catalog import open_dataset

    kind = "manifest" if path.suffix.lower() == ".csv" else "folder"
    raw: dict[str, Any] = {"dataset": kind, "root": str(path)}
    raw |= {"on_short": "cap", "on_corrupt": "skip"}
    raw["image_size"] = image_size or DataSpec.model_fields["image_size"].default
    dataset = open_dataset(kind, str(path), **places)
    smallest = min(len(dataset.images_of(label)) for label in dataset.classes)
    raw["val_per_class"] = min(10, max(1, round(_HELD_OUT / 2 * smallest)))
    if not dataset.has_test:
        raw["test_per_class"] = max(1, round(_HELD_OUT * smallest))
    return DataSpec.model_validate(raw)


def read_selections(texts: Mapping[str, str], places: Mapping[str, Any]) -> dict[str, DataSpec]:
    """Selections that are compared: YAML, names of data sets, or paths of folders of images.

    A folder's images get the size of the selections that say one.

    Args:
        texts: by what to call them.
        places: see `folder_selection`.

    Raises:
        BenchError: naming the key that is wrong, or a folder that is not there.
    """
    folders = {name: found for name, text in texts.items() if (found := _folder(text))}
    said = {n: parse_selection(n, text) for n, text in texts.items() if n not in folders}
    size = next((data.image_size for data in said.values()), None)
    return {
        name: said[name] if name in said else folder_selection(folders[name], size, places)
        for name in texts
    }


def _folder(text: str) -> Path | None:
    """The path that a text is; None for YAML and names of data sets."""
    from bench.data.datasets import DATASETS

    if text.lstrip().startswith("{") or text.strip() in DATASETS:
        return None
    path = user_path(text)
    if path.exists():
        return path
    if "/" in text:
        raise DataError(
            "there is no such folder", place=text, hint="give a folder with a folder per class"
        )
    return None


def _load(name: str, data: DataSpec, context: Any, network: nn.Module | None) -> Side:
    from bench.data import catalog
    from bench.data.rows import Rows
    from bench.models.inputs import attached
    from bench.training.domain import Domain

    resolved = catalog.resolve(data, 0, data_root=context.root, cache_dir=context.cache)
    loaded = catalog.load(resolved, data, data_root=context.root, cache_dir=context.cache)
    inputs = attached(network)
    images, labels = Rows(loaded.images, loaded.train), loaded.labels[loaded.train]
    domain = Domain(name, images, labels, len(loaded.classes), inputs.mean, inputs.std)
    keys = tuple(image.key for image in resolved.train)
    return Side(domain, keys, loaded.classes)


def neighbour_table(found: Neighbours, target: Side, source: Side) -> str:
    """CSV: target_image, target_class, rank (from 1), source_image, source_class, distance."""
    names = ("target_image", "target_class", "rank", "source_image", "source_class", "distance")
    rows = []
    for row, (indices, distances) in enumerate(zip(found.indices, found.distances, strict=True)):
        name = target.classes[int(target.domain.labels[row])]
        for rank, (index, distance) in enumerate(zip(indices, distances, strict=True), start=1):
            label = source.classes[int(source.domain.labels[index])]
            key = source.keys[int(index)]
            cells = (target.keys[row], name, rank, key, label, f"{distance:.6g}")
            rows.append(dict(zip(names, cells, strict=True)))
    return csv_text(rows, names)


def shown_rows(labels: NDArray[np.int64], most: int) -> list[int]:
    """Target images for the picture: the first of each class, then the second, up to `most`.

    >>> import numpy as np
    >>> shown_rows(np.array([0, 0, 1, 2]), 4)
    [0, 2, 3, 1]
    """
    turn: dict[int, int] = {}
    order = []
    for row, label in enumerate(labels.tolist()):
        order.append((turn.setdefault(label, 0), row))
        turn[label] += 1
    return [row for _, row in sorted(order)[:most]]


def shown_images(
    found: Neighbours, rows: Sequence[int], ranks: Sequence[int] = RANKS
) -> list[tuple[int, list[int]]]:
    """(target image, source images) of each row of the picture; ranks that are stored."""
    kept = [rank for rank in ranks if rank <= found.stored]
    return [(row, [int(found.indices[row, rank - 1]) for rank in kept]) for row in rows]


def neighbour_picture(found: Neighbours, target: Side, source: Side, rows: int) -> bytes:
    """PNG: in each row a target image and its neighbours of rank 1, 10, 20, 30 and 40."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = shown_images(found, shown_rows(target.domain.labels, max(1, rows)))
    titles = ["target", *(_ordinal(rank) for rank in RANKS if rank <= found.stored)]
    figure = Figure(figsize=(1.3 * len(titles), 1.5 * len(lines) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), len(titles), squeeze=False)
    for line, (row, images) in zip(axes, lines, strict=True):
        shown = [(target, row), *((source, index) for index in images)]
        for ax, (side, place) in zip(line, shown, strict=True):
            ax.imshow(side.domain.images[place], interpolation="nearest")
            ax.set_axis_off()
            word = _word(side.classes[int(side.domain.labels[place])])
            ax.text(0.5, -0.03, word, transform=ax.transAxes, ha="center", va="top", **_CAPTION)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


_CAPTION: dict[str, Any] = {"fontsize": 7, "parse_math": False}


def _word(name: str) -> str:
    """What people call a class, short enough to stand below its picture.

    >>> _word("n02088364"), _word("a name as long as nobody would wish")
    ('beagle', 'a name as long as …')
    """
    from bench.data.wordnet.hierarchy import taxonomy

    words = taxonomy()
    text = words.name(name) if name in words.synsets else name
    return text if len(text) <= 20 else f"{text[:18].rstrip()} …"


def _ordinal(rank: int) -> str:
    return "1st" if rank == 1 else f"{rank}th"
