"""The key `pattern:` of a cell: CHU's notation, or a name for any depth."""

from __future__ import annotations

from typing import Any

from bench.core.errors import BenchError, nearest
from bench.grid.errors import CellError, at_key
from bench.specs.pattern import LayerPattern

_NAMED = {
    "tune": lambda depth: f"T(1-{depth - 1})R({depth})",
    "freeze": lambda depth: f"F(1-{depth - 1})R({depth})",
    "scratch": lambda depth: f"R(1-{depth})",
}
_MEANT = "T copied and tuned, F copied and frozen, R random; or tune, freeze, scratch"


def is_scratch(raw: Any) -> bool:
    """Whether `pattern:` copies no layer; False for what is no pattern.

    >>> is_scratch("scratch"), is_scratch("R(1-8)"), is_scratch("tune"), is_scratch(None)
    (True, True, False, False)
    """
    if not isinstance(raw, str) or raw in _NAMED:
        return bool(raw == "scratch")
    try:
        return LayerPattern.parse(raw).is_scratch
    except BenchError:
        return False


def read_pattern(raw: Any, network: str, depth: int) -> str:
    """The pattern in its shortest form.

    Raises:
        CellError: when it is missing, no pattern, or of another depth.

    >>> read_pattern("freeze", "narrow8_32", 8)
    'F(1-7)R(8)'
    """
    example = _NAMED["tune"](depth)
    if raw is None:
        raise CellError(
            ("pattern",),
            "pattern is missing: it says what happens to each layer",
            f"pattern: tune, freeze, scratch, or for example {example}",
        )
    if not isinstance(raw, str):
        raise CellError(("pattern",), f"pattern: expected text, found {raw!r}", _MEANT)
    if raw in _NAMED:
        return _NAMED[raw](depth)
    if raw.isalpha() and len(raw) > 1:  # a name, mistyped
        raise CellError(
            ("pattern",),
            f"there is no pattern {raw!r}",
            f"{nearest(raw, _NAMED, len(_NAMED))}, or for example {example}",
        )
    with at_key("pattern"):
        pattern = LayerPattern.parse(raw)
    if pattern.depth != depth:
        raise CellError(
            ("pattern",),
            f"pattern {raw} covers {pattern.depth} layers, but {network} has {depth}",
            f"for example {example}, or the names tune, freeze, scratch",
        )
    return str(pattern)
