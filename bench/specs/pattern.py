"""Layer patterns: one treatment for every numbered layer of a network."""

from __future__ import annotations

import functools
import re
from typing import Literal

from pydantic import Field

from bench.core.errors import ModelError
from bench.specs.data import Count, Frozen


class LayerGroup(Frozen):
    """A run of layers that are treated alike: `kind` is T, F or R; layers count from 1."""

    kind: Literal["T", "F", "R"]
    first: Count
    last: Count


_GROUP = re.compile(r"([TFR])\(\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?\)")


class LayerPattern(Frozen):
    """CHU's notation: T copied and tuned, F copied and frozen, R random; one treatment a layer.

    >>> pattern = LayerPattern.parse("T(1-7)R(8)")
    >>> pattern.depth, str(pattern), [pattern.kind(layer) for layer in (7, 8)]
    (8, 'T(1-7)R(8)', ['T', 'R'])
    """

    groups: tuple[LayerGroup, ...] = Field(min_length=1)

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def parse(text: str) -> LayerPattern:
        """Reads `T(1-7)R(8)`; groups must follow each other from layer 1 without gap or overlap.

        Raises:
            ModelError: with the place in the pattern, when the text is not a pattern.
        """
        example = 'write for example "T(1-7)R(8)", "F(1-3)T(4-7)R(8)" or "R(1-8)"'
        groups: list[LayerGroup] = []
        at, expected = 0, 1
        compact = text.strip()
        while at < len(compact):
            match = _GROUP.match(compact, at)
            if match is None:
                raise ModelError(
                    f"layer pattern {text!r}: cannot read {compact[at:]!r}", hint=example
                )
            kind, first = match[1], int(match[2])
            last = int(match[3]) if match[3] else first
            if first != expected or last < first:
                raise ModelError(
                    f"layer pattern {text!r}: group {match[0]!r} should begin at layer {expected}"
                    if first != expected
                    else f"layer pattern {text!r}: group {match[0]!r} ends before it begins",
                    hint=f"every layer is named exactly once, from layer 1 on; {example}",
                )
            if groups and groups[-1].kind == kind:
                first = groups.pop().first
            groups.append(LayerGroup.model_validate({"kind": kind, "first": first, "last": last}))
            at, expected = match.end(), last + 1
        if not groups:
            raise ModelError("the layer pattern is empty", hint=example)
        return LayerPattern(groups=tuple(groups))

    @property
    def depth(self) -> int:
        """The number of layers that the pattern covers."""
        return self.groups[-1].last

    @property
    def is_scratch(self) -> bool:
        """Whether nothing is copied."""
        return all(group.kind == "R" for group in self.groups)

    def kind(self, layer: int) -> str:
        """T, F or R for `layer`, counted from 1."""
        return next(g.kind for g in self.groups if g.first <= layer <= g.last)

    def layers(self, kinds: str) -> list[int]:
        """The layers whose treatment is one of `kinds`, ascending."""
        return [n for g in self.groups if g.kind in kinds for n in range(g.first, g.last + 1)]

    @property
    def frozen_prefix(self) -> int:
        """How many layers from the first on are frozen without a break."""
        return self.groups[0].last if self.groups[0].kind == "F" else 0

    def __str__(self) -> str:
        def span(group: LayerGroup) -> str:
            return str(group.first) if group.first == group.last else f"{group.first}-{group.last}"

        return "".join(f"{group.kind}({span(group)})" for group in self.groups)
