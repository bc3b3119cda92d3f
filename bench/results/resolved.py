"""Settings that a spec leaves to the device (`precision: auto`), as they were when runs ran.

A record says under `resolved` what they were, by the names of settings: `train.precision` of the
run itself, `source.train.precision` of its parent and so on. A condition is that of the spec with
these values, so runs that computed differently are never taken for repetitions or pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.specs.planned import Plan
from bench.specs.run import FromRun, RunSpec, TrainSpec

PRECISION = "train.precision"
Values = Mapping[str, str]
"""Values of settings by their names."""


def specs_as_run(plan: Plan, resolved: Mapping[str, Values]) -> dict[str, RunSpec]:
    """The specs of a plan's runs with what `auto` was.

    A run without a result has the value that all others have; where these differ, or there are
    none, it keeps `auto`.

    Args:
        plan: parents before children.
        resolved: of the runs that have a record.
    """
    seen = {value for values in resolved.values() for value in values.values()}
    usual = seen.pop() if len(seen) == 1 else "auto"
    known: dict[str, Values] = {}
    result, specs = {}, _Resolved()
    for run in plan.runs.values():
        values = {PRECISION: usual} if run.spec.train.precision == "auto" else {}
        for prefix, needed in (("source.", run.parent_id), ("bank.", run.bank_id)):
            values |= {f"{prefix}{k}": v for k, v in known.get(needed or "", {}).items()}
        known[run.id] = values = {**values, **resolved.get(run.id, {})}
        result[run.id] = specs(run.spec, values)
    return result


def leaves_to_device(spec: RunSpec) -> bool:
    """Whether the run, or one that it needs, has a setting that depends on the device."""
    return spec.train.precision == "auto" or any(map(leaves_to_device, spec.needs))


class _Resolved:
    """Specs with values filled in; parts that specs share stay shared."""

    def __init__(self) -> None:
        self._runs: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[RunSpec, RunSpec]] = {}
        self._trains: dict[tuple[int, str], TrainSpec] = {}
        self._inits: dict[int, FromRun] = {}

    def __call__(self, spec: RunSpec, values: Values) -> RunSpec:
        if not values:
            return spec
        key = (id(spec), tuple(sorted(values.items())))
        if key not in self._runs:
            update = dict(self._changes(spec, values))
            self._runs[key] = (spec, spec.model_copy(update=update) if update else spec)
        return self._runs[key][1]

    def _changes(self, spec: RunSpec, values: Values) -> Iterator[tuple[str, object]]:
        precision = values.get(PRECISION, "auto")
        if spec.train.precision == "auto" and precision != "auto":
            own = (id(spec.train), precision)
            if own not in self._trains:
                self._trains[own] = spec.train.model_copy(update={"precision": precision})
            yield "train", self._trains[own]
        if spec.parent is not None:
            parent = self(spec.parent, _below("source.", values))
            if parent is not spec.parent:
                yield "init", self._inits.setdefault(id(parent), FromRun(run=parent))
        if spec.bank is not None:
            yield "bank", self(spec.bank, _below("bank.", values))


def _below(prefix: str, values: Values) -> Values:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
