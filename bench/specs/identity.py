"""Ids of many runs: what their specs have in common is written as JSON once.

Canonical JSON sorts its keys, so the text of a run's identity is a frame, which runs of a condition
share, with two gaps: the fingerprint of the images, and the seeds. The bytes, and so the ids, are
those of `bench.specs.run.run_id`.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterator

from bench.specs.run import Fingerprint, RunSpec, canonical_json, identity_of

_MANY_OBJECTS = 200_000
_SHARED = tuple(name for name in RunSpec.model_fields if name != "seeds")
_Frame = tuple[str, str, str]


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection: a large plan is millions of objects that stay, and looking for cycles
    among them again and again takes longer than making them. They are not looked at later either.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > _MANY_OBJECTS:
            gc.freeze()
        if running:
            gc.enable()


class RunIds:
    """Ids of runs, as `bench.specs.run.run_id`; parents that many runs share are hashed once.

    >>> from bench.specs.run import DataSpec, ModelSpec, run_id
    >>> spec = RunSpec(data=DataSpec(dataset="digits"), model=ModelSpec(name="x"), pattern="R(1)")
    >>> RunIds(lambda run: "abc")(spec) == run_id(spec, lambda run: "abc")
    True
    """

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._fingerprint = fingerprint
        self._known: dict[int, tuple[RunSpec, str]] = {}
        self._frames: dict[tuple[int, ...], tuple[RunSpec, _Frame]] = {}

    def __call__(self, spec: RunSpec) -> str:
        """The id, 32 hexadecimal digits."""
        known = self._known.get(id(spec))
        if known is not None:
            return known[1]
        before, between, after = self._frame(spec)
        images = canonical_json(self._fingerprint(spec))
        seeds = canonical_json(spec.seeds.__dict__)
        text = f"{before}{images}{between}{seeds}{after}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._known[id(spec)] = (spec, key)
        return key

    def known(self, spec: RunSpec) -> str | None:
        """The id if it was computed before."""
        found = self._known.get(id(spec))
        return None if found is None else found[1]

    def _frame(self, spec: RunSpec) -> _Frame:
        """The text before, between and after the gaps; shared by specs of the same objects."""
        fields = spec.__dict__
        key = tuple([id(fields[name]) for name in _SHARED])
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = (spec, self._new_frame(spec))
        return found[1]

    def _new_frame(self, spec: RunSpec) -> _Frame:
        parent_id, bank_id = (
            None if needed is None else self(needed) for needed in (spec.parent, spec.bank)
        )
        identity = identity_of(spec, parent_id, bank_id, "")
        before, between, after = (
            canonical_json({k: v for k, v in identity.items() if low < k < high})[1:-1]
            for low, high in (("", "images"), ("images", "seeds"), ("seeds", "~"))
        )
        return f'{{{before},"images":', f',{between},"seeds":', f",{after}}}"
