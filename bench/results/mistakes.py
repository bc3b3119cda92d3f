"""What a run got wrong: counts of each class, confused pairs, and the images by name."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import StoreError
from bench.results.store import RunFolder


@dataclass(frozen=True)
class ClassCounts:
    """How one class fared among the test images.

    Attributes:
        name: of the class.
        images: test images that are of it.
        named: test images that were called so.
        right: images of both.
    """

    name: str
    images: int
    named: int
    right: int

    @property
    def recall(self) -> float | None:
        """right / images; None where there is no image."""
        return self.right / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """right / named; None where nothing was called so."""
        return self.right / self.named if self.named else None


@dataclass(frozen=True)
class Wrong:
    """A test image that was called another class.

    Attributes:
        image: its key in the data set: the path below the folder.
        is_class, named: its label, and what it was called.
        probability: of `named`, as the run computed it.
        of_label: probability of `is_class`.
    """

    image: str
    is_class: str
    named: str
    probability: float
    of_label: float


@dataclass(frozen=True, eq=False)
class Predictions:
    """The test images of a run with their scores.

    Attributes:
        classes: C names.
        images: N keys; empty for runs of releases that did not keep them.
        labels: int64 (N,).
        logits: float32 (N, C).
    """

    classes: tuple[str, ...]
    images: tuple[str, ...]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]

    @property
    def named(self) -> NDArray[np.int64]:
        """(N,) the class with the highest score; ties go to the lower class."""
        best: NDArray[np.int64] = self.logits.argmax(1)
        return best

    def confusion(self) -> NDArray[np.int64]:
        """(C, C) counts, rows are labels, columns what images were called.

        >>> logits = np.array([[2, 1], [0, 3], [1, 0]], np.float32)
        >>> Predictions(("a", "b"), (), np.array([0, 0, 1]), logits).confusion().tolist()
        [[1, 1], [1, 0]]
        """
        many = len(self.classes)
        pairs: NDArray[np.int64] = np.bincount(
            self.labels * many + self.named, minlength=many * many
        )
        table: NDArray[np.int64] = pairs.reshape(many, many)
        return table

    def by_class(self) -> list[ClassCounts]:
        """A line for each class, in the run's order."""
        counts = self.confusion()
        rows, columns = counts.sum(1), counts.sum(0)
        return [
            ClassCounts(name, int(rows[i]), int(columns[i]), int(counts[i, i]))
            for i, name in enumerate(self.classes)
        ]

    def confused(self) -> list[tuple[str, str, int]]:
        """(label, called, images) of all pairs that came up, the most frequent first."""
        counts = self.confusion()
        pairs = [
            (self.classes[i], self.classes[j], int(counts[i, j]))
            for i, j in zip(*np.nonzero(counts), strict=True)
            if i != j
        ]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))

    def wrong(self) -> list[Wrong]:
        """The images that were called another class, the surest mistake first."""
        shifted = self.logits - self.logits.max(1, keepdims=True)
        shares = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        found = [
            Wrong(
                self.images[n] if self.images else f"test image {n + 1}",
                self.classes[self.labels[n]],
                self.classes[self.named[n]],
                float(shares[n, self.named[n]]),
                float(shares[n, self.labels[n]]),
            )
            for n in np.nonzero(self.named != self.labels)[0]
        ]
        return sorted(found, key=lambda one: (-one.probability, one.image))


def read_predictions(folder: RunFolder) -> Predictions:
    """The predictions that a run published.

    Raises:
        StoreError: no result, or the file is gone or damaged.
    """
    record = folder.record()
    if record is None:
        raise StoreError(
            "the run has no result yet", place=str(folder.path), hint="run its grid again"
        )
    path = folder.file_named(record, "predictions")
    if path is None:
        tested = record["row"].get("test_images") != 0
        why = f"its status is {record['row']['status']}" if tested else "it was not tested"
        raise StoreError(
            f"the run kept no predictions: {why}",
            place=str(folder.path),
            hint="name a run that is done, without target.tested: false",
        )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            labels, logits = file["labels"], file["logits"]
            keys: Sequence[bytes] = list(file["images"]) if "images" in file else []
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StoreError(
            f"the predictions cannot be read: {error}",
            place=str(path),
            hint="bench grid with --retry-failed brings them back",
        ) from None
    names = tuple(key.decode("utf-8", "replace") for key in keys)
    return Predictions(tuple(record["classes"]), names, labels, logits)


def paired_interval(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Difference of two shares on the same images, with its 95 % interval: estimate, low, high.

    The interval is Agresti and Min's (2005, Statistics in Medicine 24) for paired proportions: half
    an image is added to each cell of the table of right and wrong, so with b images that only the
    first has right, c that only the second has, and n images,
    d ± 1.96 sqrt(b + c - (b - c)²/n) / n.

    >>> first, second = np.array([True] * 9 + [False]), np.array([True] * 7 + [False] * 3)
    >>> [round(value, 2) for value in paired_interval(first, second)]
    [0.2, -0.1, 0.43]
    """
    b, c = float((one & ~other).sum()) + 0.5, float((~one & other).sum()) + 0.5
    n = len(one) + 2.0
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    middle = (b - c) / n
    return float(one.mean() - other.mean()), middle - half, middle + half


def paired_difference(one: Predictions, other: Predictions) -> str:
    """How much more often `one` is right than `other` on the same images, in points of accuracy."""
    if one.images != other.images or not np.array_equal(one.labels, other.labels):
        return "not comparable: other test images"
    found = paired_interval(one.named == one.labels, other.named == other.labels)
    point, low, high = (100 * value for value in found)
    return f"{point:+.1f} ({low:+.1f} to {high:+.1f}) points"
