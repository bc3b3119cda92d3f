"""The section `borrow:` of a cell: further selections that a run trains on beside its target.

borrow: parent                                   # the images that the parent was trained on
borrow: near                                     # a name of sources:
borrow: {name: parent, categories: 0.1}          # a tenth of its classes, all their images
borrow: [parent, {dataset: dogs}]                # several, a domain each
borrow: {pool: [parent, {dataset: dogs}]}        # several as one domain
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from bench.grid.errors import CellError, cell_error
from bench.specs.data import Borrowed, DataSpec
from bench.specs.run import FromRun, Init

RESERVED = ("parent", "none")
"""Words that are no names of sources here."""

_OWN_KEYS = ("draw", "categories", "images", "total_images", "exclude_overlap")


def read_borrow(
    raw: Any,
    init: Init,
    *,
    image_size: int,
    draw: int,
    read_data: Callable[[Mapping[str, Any]], DataSpec],
) -> tuple[Borrowed, ...]:
    """The borrowed selections of a cell, in the order of the file.

    Args:
        raw: what stands under `borrow:`, with definitions in place of names of sources.
        init: where the weights come from; `parent` means its data.
        image_size: the target's.
        draw: seed of the draw of images where the file gives none: that of the sources.
        read_data: turns a mapping into a selection, with what it inherits from the target.

    Raises:
        CellError: naming the key that is wrong.
    """
    if raw in (None, "none", []):
        return ()
    if is_pool(raw):
        raw = raw["pool"]
        if not isinstance(raw, list):
            raise CellError(
                ("borrow", "pool"),
                f"borrow.pool: expected a list of selections, found {raw!r}",
                "write for example borrow: {pool: [near, far]}",
            )
    items = raw if isinstance(raw, list) else [raw]
    return tuple(_one(item, init, image_size, draw, read_data) for item in items)


def is_pool(raw: Any) -> bool:
    """Whether `borrow:` makes one domain of several selections."""
    return isinstance(raw, Mapping) and set(raw) == {"pool"}


def _one(
    item: Any,
    init: Init,
    image_size: int,
    draw: int,
    read_data: Callable[[Mapping[str, Any]], DataSpec],
) -> Borrowed:
    given = {"name": item} if isinstance(item, str) else item
    if not isinstance(given, Mapping):
        raise CellError(
            ("borrow",),
            f"borrow: expected parent, a name, a mapping or a list of them, found {item!r}",
        )
    own = {key: value for key, value in given.items() if key in _OWN_KEYS}
    rest = {key: value for key, value in given.items() if key not in _OWN_KEYS}
    if "name" in rest:
        data, draw = _of_parent(rest, init, image_size)
    else:
        data = read_data(rest)
    if data.image_size != image_size:
        raise CellError(
            ("borrow", "image_size"),
            f"borrowed images of {data.image_size} pixels beside a target of {image_size}",
            "one network sees both: leave image_size out of borrow, or make it the target's",
        )
    try:
        return Borrowed.model_validate({"draw": draw, **own, "data": data})
    except ValidationError as error:
        raise cell_error(error, ("borrow",)) from None


def _of_parent(rest: Mapping[str, Any], init: Init, image_size: int) -> tuple[DataSpec, int]:
    """The selection and the draw that the parent was trained on, at the target's size."""
    name, more = rest["name"], sorted(set(rest) - {"name"})
    if name != "parent":
        raise CellError(
            ("borrow",),
            f"borrow {name!r} is not defined",
            "give it a name under sources:, or write parent, none or a mapping",
        )
    if more:
        raise CellError(
            ("borrow", more[0]),
            f"borrow: {', '.join(more)} cannot be changed in the parent's own data",
            f"beside name: parent there may be {', '.join(_OWN_KEYS)}",
        )
    if not isinstance(init, FromRun):
        raise CellError(
            ("borrow",),
            "borrow: parent, but this run starts from no parent run",
            "give it a source, or name the selection to borrow",
        )
    data = init.run.data
    if data.image_size != image_size:
        data = data.model_copy(update={"image_size": image_size})
    return data, init.run.seeds.draw
