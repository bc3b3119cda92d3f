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


def count_images(
    target: DataSpec, source: Source, places: Places, images_per_class: int | None = None
) -> tuple[Situation, str]:
    """The target's classes and training images, and a sentence about them.

    Args:
        target: the selection.
        source: of the weights.
        places: of data sets and decoded images.
        images_per_class: instead of those counted, to ask what more labels would change.
    """
    resolved = resolve(target, 0, **places)
    counts = Counter(image.label for image in resolved.train)
    per_class = [counts.get(label, 0) for label in resolved.classes]
    low, high = min(per_class), max(per_class)
    situation = Situation(
        images_per_class=float(images_per_class or sum(per_class) / len(per_class)),
        classes=len(per_class),
        model=source.model,
        source_images=source.data is not None,
        fewest=None if images_per_class else low,
        most=None if images_per_class else high,
    )
    each = f"{low}" if low == high else f"{low} to {high}"
    text = (
        f"target: {len(per_class)} classes, {len(resolved.train)} training images ({each} per "
        f"class), {len(resolved.val)} for validation, {len(resolved.test)} for the test"
    )
    if images_per_class:
        text += f"; advice is for {images_per_class} per class, as asked"
    return situation, text


def compare_images(
    situation: Situation,
    target: DataSpec,
    source: Source,
    network: nn.Module,
    asked: DistancesAsked,
    places: Places,
    device: torch.device,
) -> tuple[Situation, list[str]]:
    """The situation with distance and overlap of the source's images, and sentences about both.

    Args:
        situation: of the target alone, see `count_images`.
        target: its selection.
        source: with images.
        network: the source's.
        asked: sizes and seeds of distances.
        places: of data sets and decoded images.
        device: where features are extracted.

    Raises:
        BenchError: images that are not there, or that the network cannot see.
    """
    assert source.data is not None
    theirs = source.data.model_copy(update={"image_size": target.image_size})
    rows = measure_selections(theirs, target, network, asked, places, device).rows
    cosine = next(row for row in rows if row["distance"] == "cosine")
    if cosine["value"] is not None:
        situation = replace(
            situation,
            cosine=max(0.0, float(cosine["value"])),  # below zero can only be rounding
            cosine_low=cosine["low"],
            cosine_high=cosine["high"],
        )
    ours, origin = load_selection(target, places), load_selection(theirs, places, source.draw)
    overlap = images_in_both(ours, origin)
    training = len(ours.resolved.train)  # they come first among the target's images
    situation = replace(
        situation,
        overlap=len(overlap.matches),
        overlap_test=sum(match.target >= training for match in overlap.matches),
    )
    return situation, [
        _distance_line(rows),
        *_overlap_lines(overlap, ours.resolved, origin.resolved),
    ]


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
