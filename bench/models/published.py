"""Which networks have published weights, and which images they take: known without torch.

The table of tags beside this file was made by `scripts/build_depths.py` with one release of timm;
with another one the question is left to the run.
"""

from __future__ import annotations

import csv
import functools
from importlib import metadata, resources

from bench.core.errors import ModelError, nearest
from bench.models.depths import TABLE_TIMM

SMALLEST = {"caffenet": 39, "narrow8_32": 16, "narrow8_64": 32}
"""Side in pixels of the smallest images that our own networks take; a test builds them."""

LARGEST = 2048
"""More pixels a side are taken for a slip: 12 MB an image, and hours for each network."""

_WAYS = (
    "pretrain it in the grid (source: a selection), name a local file (weights: {file: …}), or "
    "choose a network that has some, for example resnet18"
)


def check_tag(model: str, tag: str | None) -> None:
    """Looks whether timm publishes weights for a network.

    Args:
        model: its name.
        tag: which of its weights; None is timm's default.

    Raises:
        ModelError: with the tags that there are.

    >>> check_tag("resnet18", None)
    >>> check_tag("resnet18", "a1_in1k")
    """
    if metadata.version("timm") != TABLE_TIMM:
        return
    tags = _table().get(model)
    if tags is None:
        raise ModelError(f"timm publishes no weights for {model!r}", hint=_WAYS)
    if tag is not None and tag not in tags:
        raise ModelError(
            f"timm publishes no weights {tag!r} for {model!r}",
            hint=f"tags: {nearest(tag, tags, len(tags))}; weights: timm takes {tags[0]!r}",
        )


def check_size(model: str, image_size: int) -> None:
    """Looks whether a network of ours takes images of a size, and whether anybody would want it.

    Raises:
        ModelError: with the sizes that will do.

    >>> check_size("narrow8_32", 32)
    """
    smallest = SMALLEST.get(model, 1)
    if image_size < smallest:
        raise ModelError(
            f"images of {image_size} pixels are too small for {model!r}",
            hint=f"set image_size to at least {smallest}"
            + ("" if model == "narrow8_32" else ", or model: narrow8_32 for small images"),
        )
    if image_size > LARGEST:
        raise ModelError(
            f"image_size is {image_size}: no more than {LARGEST} pixels a side are taken",
            hint="image_size is the side of the square that each image is scaled to, such as 32, "
            "64 or 224",
        )


@functools.cache
def _table() -> dict[str, tuple[str, ...]]:
    """Tags by network, the default one first."""
    text = resources.files("bench.models").joinpath("published.csv").read_text(encoding="utf-8")
    return {row["name"]: tuple(row["tags"].split()) for row in csv.DictReader(text.splitlines())}
