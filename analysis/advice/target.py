"""A target as advice needs it: counts, distance to a source and images that both have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.advice.types import Situation
from analysis.measurements.rows import Row
from analysis.measurements.selections import (
    Places,
    SelectedImages,
    load_selection,
    measure_selections,
)
from bench.data.catalog import Resolved, resolve
from bench.data.inspection.overlap import Kind, Overlap, Pictures, find_overlap
from bench.specs.data import DataSpec
from bench.specs.measures import DistancesAsked

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        network: as `bench distance --network` takes it.
        words: for people.
        model: name of the network; None where it is random.
        data: the images it learned from; None: not at hand.
        draw: seed of the draw of these images.
        image_size: that the network was trained on; None: any.
    """

    network: str
    words: str
    model: str | None
    data: DataSpec | None
    draw: int = 0
    image_size: int | None = None


def describe_target(
    target: DataSpec,
    source: Source,
    network: nn.Module | None,
    places: Places,
    device: torch.device,
    images: int = 1000,
    images_per_class: int | None = None,
    accuracy: float | None = None,
) -> tuple[Situation, list[str]]:
    """What advice needs of a target and its source, and sentences about both.

    Distance and overlap are measured where the source's images are at hand.

    Args:
        target: its selection.
        source: of the weights.
        network: the source's; None where its images are not at hand.
        places: of data sets and decoded images.
        device: where features are extracted.
        images: at most so many of each side for distances.
        images_per_class: instead of those counted, to ask what more labels would change.
        accuracy: wanted, a fraction.

    Raises:
        BenchError: images that are not there, or that the network cannot see.
    """
    resolved = resolve(target, 0, **places)
    counts = Counter(image.label for image in resolved.train)
    per_class = [counts.get(label, 0) for label in resolved.classes]
    situation = Situation(
        images_per_class=float(images_per_class or sum(per_class) / len(per_class)),
        classes=len(per_class),
        model=source.model,
        accuracy=accuracy,
        source_images=source.data is not None,
        fewest=None if images_per_class else min(per_class),
        most=None if images_per_class else max(per_class),
    )
    lines = [_count_line(resolved, per_class, images_per_class), f"source: {source.words}"]
    if source.data is None or network is None:
        return situation, [*lines, _NO_SOURCE_IMAGES]
    theirs = source.data.model_copy(update={"image_size": target.image_size})
    asked = DistancesAsked(images=images)
    rows = measure_selections(theirs, target, network, asked, places, device).rows
    origin = load_selection(theirs, places, source.draw)
    overlap = images_in_both(load_selection(target, places), origin)
    situation = replace(
        _with_cosine(situation, rows),
        overlap=len(overlap.matches),  # training images come first among the target's
        overlap_test=sum(match.target >= len(resolved.train) for match in overlap.matches),
    )
    shared = _overlap_lines(overlap, resolved, origin.resolved)
    return situation, [*lines, _distance_line(rows), *shared]


def _with_cosine(situation: Situation, rows: tuple[Row, ...]) -> Situation:
    """The situation with the cosine distance; below zero can only be rounding."""
    row = next(row for row in rows if row["distance"] == "cosine")
    if row["value"] is None:
        return situation
    value, low, high = max(0.0, float(row["value"])), row["low"], row["high"]
    return replace(situation, cosine=value, cosine_low=low, cosine_high=high)


_NO_SOURCE_IMAGES = (
    "the source's images are not at hand: no distance and no overlap (name them with "
    "--source-images, such as '{dataset: imagenet}')"
)


def _count_line(target: Resolved, per_class: list[int], asked: int | None) -> str:
    low, high = min(per_class), max(per_class)
    each = f"{low}" if low == high else f"{low} to {high}"
    text = (
        f"target: {len(per_class)} classes, {len(target.train)} training images ({each} per "
        f"class), {len(target.val)} for validation, {len(target.test)} for the test"
    )
    return text if asked is None else f"{text}; advice is for {asked} per class, as asked"


def images_in_both(target: SelectedImages, source: SelectedImages) -> Overlap:
    """Images of the target, all splits, that are among the source's training images."""
    loaded = source.loaded
    return find_overlap(
        Pictures(
            [image.key for image in target.resolved.images],
            [image.sha256 for image in target.resolved.images],
            target.loaded.images,
        ),
        Pictures(
            list(source.train_keys),
            [image.sha256 for image in source.resolved.train],
            loaded.images[loaded.train],
        ),
    )


def _distance_line(rows: tuple[Row, ...]) -> str:
    values = []
    for row in rows:
        if row["value"] is not None:
            ends = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
            values.append(f"{row['distance']} {row['value']:.3g}{ends}")
    n = max((row["n"] or 0) for row in rows)
    return f"distances at the last hidden layer, {n} images of each: {'; '.join(values)}"


_KINDS: dict[Kind, str] = {
    "exact": "the same file",
    "similar": "the same picture",
    "mirrored": "mirrored",
}


def _overlap_lines(
    overlap: Overlap, target: Resolved, source: Resolved, most: int = 3
) -> list[str]:
    lines = []
    if matches := overlap.matches:
        numbers = {words: overlap.count(kind) for kind, words in _KINDS.items()}
        counts = ", ".join(f"{n} {words}" for words, n in numbers.items() if n)
        some = "; ".join(
            f"{target.images[match.target].key} = {source.train[match.source].key}"
            for match in matches[:most]
        )
        lines.append(f"shared images: {counts}; {some}{' …' if len(matches) > most else ''}")
    if overlap.flat:
        lines.append(f"{overlap.flat} target images are of one colour and compared by bytes alone")
    return lines
