"""Sheets by class: class images of networks (LI Fig. 11), nearest neighbours (GE Fig. 2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from analysis.figures.sheets import Cell, picture_sheet
from analysis.networks.class_images import Ascent, Contrast, shown
from analysis.networks.class_images import class_images as ascend
from analysis.networks.trained import Trained
from bench.core.errors import DataError
from bench.core.text import counted

if TYPE_CHECKING:
    from analysis.measurements.selections import ImageNeighbours

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ClassSheet:
    """A sheet, its caption and its numbers.

    Attributes:
        rows: a mapping per class and network: class_name, word, network, run_id, start_score (of
            the mean image), score, probability (after softmax), objective, rms (of the values),
            l2, steps, cut_share (of values cut off at black or white in the picture).
    """

    figure: Figure
    caption: str
    rows: tuple[Mapping[str, Any], ...]


def class_word(name: str) -> str:
    """What people call a class: the word of a WordNet id, other names as they are.

    >>> class_word("n02088364"), class_word("robin")
    ('beagle', 'robin')
    """
    from bench.data.wordnet.hierarchy import taxonomy

    words = taxonomy()
    known = re.fullmatch(r"n\d{8}", name) and name in words.synsets
    return words.name(name) if known else name


def example_images(
    networks: Mapping[str, Trained],
    classes: Sequence[str],
    data_root: Path | None,
    cache_dir: Path,
) -> dict[str, Pixels]:
    """A test image of each class from the data that the first network with it was trained on.

    Classes without a test image show a training image; (S, S, 3) each.

    Raises:
        DataError: the data are not there; see `bench.data.catalog`.
    """
    from bench.data import catalog

    found: dict[str, Pixels] = {}
    for network in networks.values():
        missing = [name for name in classes if name in network.classes and name not in found]
        if not missing:
            continue
        data, draw = network.spec.data, network.spec.seeds.draw
        places: dict[str, Any] = {"data_root": data_root, "cache_dir": cache_dir}
        loaded = catalog.load(catalog.resolve(data, draw, **places), data, **places)
        order = np.concatenate([loaded.test, loaded.val, loaded.train])
        for name in missing:
            label = loaded.classes.index(name)
            rows = order[loaded.labels[order] == label]
            if len(rows):
                found[name] = np.array(loaded.images[rows[0]])
    return found


def class_sheet(
    networks: Mapping[str, Trained],
    classes: Sequence[str],
    options: Ascent | None = None,
    examples: Mapping[str, Pixels] | None = None,
    contrast: Contrast = "stretched",
) -> ClassSheet:
    """Class images of every network for every class that it knows.

    Args:
        networks: by the name to show.
        classes: names; a network that does not know one says so in its place.
        examples: photographs by class, a first column; see `example_images`.
        contrast: see `analysis.networks.class_images.shown`.

    Raises:
        DataError: no class, or one that no network knows.
    """
    options = options or Ascent()
    unknown = [c for c in classes if not any(c in n.classes for n in networks.values())]
    if unknown or not classes:
        what = f"no network knows class {unknown[0]!r}" if unknown else "no class is asked for"
        raise DataError(what, hint="name classes that the runs were trained on")
    cells: dict[str, dict[str, Cell]] = {name: {} for name in classes}
    rows: list[dict[str, Any]] = []
    for title, network in networks.items():
        mine = [name for name in classes if name in network.classes]
        for name in set(classes) - set(mine):
            cells[name][title] = Cell(None, "not a class of this network")
        if not mine:
            continue
        places = [network.class_number(name) for name in mine]
        found = ascend(network.model, places, network.size, options)
        pixels, cut = shown(found.images, network.mean, network.std, contrast)
        for i, name in enumerate(mine):
            cells[name][title] = Cell(pixels[i], f"score {found.scores[i]:.1f}")
            row = {"class_name": name, "word": class_word(name), "network": title}
            rows.append(row | {"run_id": network.run_id} | _numbers(found, i, cut, options))
    columns = list(networks)
    if examples:
        columns = ["an image", *columns]
        for name in classes:
            photo = examples.get(name)
            words = "" if photo is not None else "no image"
            cells[name] = {"an image": Cell(photo, words), **cells[name]}
    sheet = [(class_word(name), [cells[name][c] for c in columns]) for name in classes]
    return ClassSheet(picture_sheet(columns, sheet), _caption(rows, options, contrast), tuple(rows))


def _numbers(found: Any, i: int, cut: npt.NDArray[np.float64], options: Ascent) -> dict[str, Any]:
    return {
        "start_score": round(float(found.start_scores[i]), 4),
        "score": round(float(found.scores[i]), 4),
        "probability": round(float(found.probabilities[i]), 6),
        "objective": round(float(found.objectives[i]), 4),
        "rms": round(float(found.rms[i]), 4),
        "l2": found.l2,
        "steps": options.steps,
        "cut_share": round(float(cut[i]), 4),
    }


def _caption(rows: Sequence[Mapping[str, Any]], options: Ascent, contrast: Contrast) -> str:
    sure = sum(row["probability"] > 0.99 for row in rows)
    tricks = [f"jitter {options.jitter} px"] if options.jitter else []
    tricks += [f"blur {options.blur:g} px"] if options.blur else []
    penalty = min(row["l2"] for row in rows)
    strength = "contrast stretched" if contrast == "stretched" else "contrast as it is"
    flat = sum(row["rms"] == 0 for row in rows)
    grey = f" {counted(flat, 'image')} stayed grey: the score did not move it." if flat else ""
    how = ", ".join([f"λ from {penalty:.2g} on", f"{options.steps} steps", *tricks, strength])
    return (
        f"What each network takes for the idea of a class: the image of highest score less a "
        f"penalty for contrast ({how}); {sure} of {counted(len(rows), 'image')} are of their class "
        f"with a probability above 0.99.{grey}"
    )


# --- neighbours -------------------------------------------------------------------------------

RANKS = (1, 10, 20, 30, 40)
"""Neighbours that a sheet shows, from 1 (GE Fig. 2)."""


def neighbour_sheet(neighbours: ImageNeighbours, most: int = 8) -> Figure:
    """A row per target image: the image and its neighbours of rank 1, 10, 20, 30 and 40.

    Args:
        neighbours: of `analysis.measurements.selections.find_neighbours`.
        most: target images, of every class in turn.
    """
    target, source = neighbours.target.loaded, neighbours.source.loaded
    ranks = [rank for rank in RANKS if rank <= neighbours.nearest.stored]
    lines = []
    for row in shown_rows(target.labels[target.train], most):
        near = source.train[[neighbours.nearest.indices[row, rank - 1] for rank in ranks]]
        pictures = [(target, target.train[row]), *((source, place) for place in near)]
        cells = [
            Cell(np.array(side.images[place]), _short(class_word(side.classes[side.labels[place]])))
            for side, place in pictures
        ]
        lines.append(("", cells))
    names = ["1st" if rank == 1 else f"{rank}th" for rank in ranks]
    return picture_sheet(["target", *names], lines)


def shown_rows(labels: npt.NDArray[np.int64], most: int) -> list[int]:
    """Images to show: the first of each class, then the second, up to `most`.

    >>> shown_rows(np.array([0, 0, 1, 2]), 4)
    [0, 2, 3, 1]
    """
    earlier: Counter[int] = Counter()
    order = []
    for row, label in enumerate(labels.tolist()):
        order.append((earlier[label], row))
        earlier[label] += 1
    return [row for _, row in sorted(order)[:most]]


def _short(text: str) -> str:
    """The text, short enough to stand below a picture."""
    return text if len(text) <= 20 else f"{text[:18].rstrip()} …"
