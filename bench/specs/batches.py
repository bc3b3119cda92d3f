"""How the images of an epoch are cut into optimiser steps, and these into forward passes."""

from __future__ import annotations

import math

from bench.specs.planned import DataFacts
from bench.specs.run import RunSpec, TrainSpec


def natural_steps(images: int, batch_size: int, accumulate: int = 1) -> int:
    """Optimiser steps of one pass over `images`, at most batch_size x accumulate images each.

    >>> natural_steps(130, 64), natural_steps(130, 64, accumulate=2)
    (3, 2)
    """
    return math.ceil(images / (batch_size * accumulate))


def smallest_pass(images: int, accumulate: int) -> tuple[int, int]:
    """Forward passes of a step of so many images, and the fewest images that one of them has.

    >>> smallest_pass(32, 8), smallest_pass(3, 8), smallest_pass(1, 8)
    ((8, 4), (1, 3), (1, 1))
    """
    passes = max(1, min(accumulate, images // 2))
    return passes, images // passes


def smallest_batch(spec: RunSpec, facts: DataFacts) -> int | None:
    """The fewest of a run's own images that one of its forward passes has; with `train.refit` in
    either of the two trainings.

    None where that is not known: the images are missing, or `train.expand_to` adds to classes of
    any size. The method is taken to show each image once an epoch, in even steps, as plain
    training does.
    """
    counts = [facts.train_images]
    if spec.train.refit:
        counts.append(facts.train_images + facts.validation_images)
    if facts.missing or not min(counts):
        return None
    grown = 0
    if spec.train.expand_to is not None:
        if spec.data.images_per_class is None:
            return None
        grown = spec.train.expand_to * len(facts.classes)
    return min(_smallest(spec.train, count, grown) for count in counts)


def _smallest(train: TrainSpec, images: int, grown: int) -> int:
    shown, full = max(images, grown), train.batch_size * train.accumulate
    steps = natural_steps(shown, train.batch_size, train.accumulate)
    fewer = train.equal_steps and natural_steps(images, train.batch_size, train.accumulate) != steps
    sizes = {full} if fewer else {shown // steps, math.ceil(shown / steps)}
    return min(smallest_pass(size, train.accumulate)[1] for size in sizes)
