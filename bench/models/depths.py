"""How many layers a network has, asked by name and answered without importing torch.

The table beside this file was made by `scripts/build_depths.py` with one release of timm. A network
that is not in it is built in a process of its own.
"""

from __future__ import annotations

import csv
import functools
from importlib import metadata, resources

from bench.core.child_process import ChildDiedError, answer_one, ask
from bench.core.errors import ModelError, nearest

TABLE_TIMM = "1.0.31"
"""The release of timm that the table was made with; with it, the table knows every name."""

_MOST_S = 600.0
_OURS = ("caffenet", "narrow8_32", "resnet18")


def depth_of(name: str) -> int:
    """The number of layers of a network, as `bench.models.numbering.depth` counts them.

    Raises:
        ModelError: when there is no such network, or its layers cannot be numbered.

    >>> depth_of("caffenet"), depth_of("resnet18")
    (8, 10)
    """
    known = _table()
    if name in known:
        depth, reason = known[name]
        if depth is None:
            raise ModelError(
                f"the layers of {name!r} cannot be numbered: {reason}",
                hint="choose another network, for example " + ", ".join(_OURS),
            )
        return depth
    if "." not in name and metadata.version("timm") != TABLE_TIMM:
        return _ask(name)
    plain, _, tag = name.partition(".")
    if tag and plain in known:
        raise ModelError(
            f"network {name!r}: {tag!r} names pretrained weights, not a network",
            hint=f"write {plain!r} here, and the tag {tag!r} in the source that weights come from",
        )
    raise _unknown(name)


@functools.cache
def _table() -> dict[str, tuple[int | None, str]]:
    """Depth by name, and why there is none."""
    text = resources.files("bench.models").joinpath("depths.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {r["name"]: (int(r["depth"]) if r["depth"] else None, r["reason"]) for r in rows}


def _ask(name: str) -> int:
    """Builds the network in another process, without memory for its weights, and counts."""
    try:
        found: int | None = ask("bench.models.depths", name, timeout_s=_MOST_S)
    except ChildDiedError as error:
        raise ModelError(
            f"the layers of {name!r} cannot be numbered: {str(error)[-500:]}",
            hint="choose another network, for example " + ", ".join(_OURS),
        ) from None
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> ModelError:
    return ModelError(
        f"there is no network {name!r}; nearest: {nearest(name, _table())}",
        hint="give a name from timm.list_models(), or " + ", ".join(_OURS),
    )


def _answer(name: str) -> int | None:
    """The depth of one network; None where timm does not know it."""
    import timm
    import torch

    from bench.models.layers import create, register_networks
    from bench.models.numbering import depth
    from bench.specs.run import ModelSpec

    register_networks()
    if not timm.is_model(name):
        return None
    with torch.device("meta"):
        return depth(create(ModelSpec(name=name), 10, seed=0))


if __name__ == "__main__":
    answer_one(_answer)
