"""What can be extracted: options, and which images a limit leaves. Nothing here needs torch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, Strict, field_validator

from bench.methods.options import MethodOptions
from bench.specs.data import Count

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bench.data.dataset import Image


SPLITS = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test",),
    "trainval": ("train", "val"),
    "all": ("train", "val", "test"),
}


def layer_names(layers: str) -> list[str]:
    """The layers of the option, each once, in order.

    >>> layer_names("7, penultimate,7")
    ['7', 'penultimate']
    """
    return list(dict.fromkeys(part.strip() for part in layers.split(",") if part.strip()))


class ExtractOptions(MethodOptions):
    """Options of an extraction.

    Attributes:
        layers: separated by commas: numbers, names of modules, `penultimate` (what the classifier
            is given), or `scores` (what the network's classifier gives).
        stage: what of a numbered or named layer, see `bench.training.features.extract`.
        pool: of maps: `flatten` keeps all places, `max` and `mean` one number for each filter,
            `none` the maps as they are (N, C, H, W).
        split: images of which split of the selection; `trainval` and `all` join them.
        images: at most so many, as many of each class as can be; None takes all.
        pixels: side in pixels of the images kept beside the features; None keeps none.
    """

    whole_images: ClassVar[bool] = True

    layers: str = "penultimate"
    stage: Literal["pre", "post", "end", "output"] = "end"
    pool: Literal["none", "max", "mean", "flatten"] = "flatten"
    split: Literal["train", "val", "test", "trainval", "all"] = "train"
    images: Count | None = None
    pixels: Annotated[int, Strict(), Field(ge=8)] | None = None

    @field_validator("layers")
    @classmethod
    def _named(cls, text: str) -> str:
        names = layer_names(text)
        if not names:
            raise ValueError("no layer is named: penultimate, scores, a number or a module's name")
        return ",".join(names)


def taken_rows(
    images: Sequence[Image], rows: NDArray[np.int64], limit: int | None
) -> NDArray[np.int64]:
    """The rows that `limit` leaves: the same number of each class, or one more; ascending.

    Within a class the first in the order of SHA-256 of (label, key) stay, so a smaller limit takes
    a subset of what a larger one takes. `rows` are places in `images`.
    """
    import numpy as np

    if limit is None or limit >= len(rows):
        return np.sort(rows)

    def rank(row: int) -> bytes:
        text = f"extract|{images[row].label}|{images[row].key}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    turns: list[tuple[int, bytes, int]] = []
    seen: dict[str, int] = {}
    for row in sorted(rows.tolist(), key=rank):
        turn = seen.setdefault(images[row].label, 0)
        seen[images[row].label] += 1
        turns.append((turn, rank(row), row))
    return np.array(sorted(row for _, _, row in sorted(turns)[:limit]), dtype=np.int64)
