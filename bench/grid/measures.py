"""The section `measure:` of a grid: what is to be measured of its targets, sources and networks.

measure:
  distances:                      # CHU §3.1: how far is each target from each of its sources?
    experiments: [near-far]       # whose runs; all experiments when left out
    where: {class_draw: 0}        # only runs with these values in the leaderboard's columns
    layer: penultimate            # of the network trained on the source
    images: 500                   # at most so many of each side
    network: source               # or {timm: resnet18}, or scratch
  filters:                        # LI §4.3.1: do filters detect the target's classes?
    where: {lr: 0.01, seed_order: 0}
    layers: [5]
  transferability:                # LogME, LEEP, …: scores of each source without training on it

Every measurement names the images whose features it needs as extractions: runs of the method
`extract`, which are planned, shared and launched like all others. Pure; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.core.errors import BenchError, nearest
from bench.grid.extractions import PARTS, Wanted
from bench.grid.yaml import Document
from bench.results.conditions import Settings
from bench.results.records import describe_run
from bench.specs.measures import KINDS, Asked, Measure
from bench.specs.problems import shown, way_out, words
from bench.specs.run import RunSpec


def read_measures(
    document: Document, experiments: Mapping[str, Sequence[RunSpec]]
) -> tuple[Measure, ...]:
    """The measurements of a grid file, with the extractions that they need.

    Raises:
        GridError: with file and line.
    """
    section = document.value.get("measure")
    if section is None:
        return ()
    if not isinstance(section, dict):
        raise document.error(
            ("measure",), f"measure: expected a mapping, found {section!r}", _known()
        )
    found, settings = [], Settings()
    for name, given in section.items():
        if name not in KINDS:
            raise document.error(
                ("measure", name), f"measure: nothing is called {name!r}", _known(name)
            )
        asked = _asked(document, name, given)
        wanted = _wanted_runs(document, name, asked, experiments, settings)
        try:
            parts = tuple(PARTS[name](wanted, asked))
        except BenchError as error:
            raise document.error(("measure", name), error.message, error.hint) from None
        if not parts:
            wider = "name other experiments, or widen where:"
            raise document.error(("measure", name), f"measure.{name}: {_NOTHING[name]}", wider)
        found.append(Measure(name, asked, parts, document.place(("measure", name))))
    return tuple(found)


_NOTHING = {
    "distances": "no run starts from a source whose images are known (a run on other data)",
    "filters": "no run fine-tunes all its copied layers from a source, or trains from scratch",
    "transferability": "no run starts from a source",
}


def _known(near: str = "") -> str:
    return f"measurements: {nearest(near, KINDS)}"


def _asked(document: Document, name: str, given: Any) -> Asked:
    kind = KINDS[name]
    if not isinstance(given, dict) and given is not None:
        raise document.error(
            ("measure", name), f"measure.{name}: expected a mapping, found {given!r}", _keys(kind)
        )
    try:
        return kind.model_validate(given or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            text, hint = f"unknown key {key!r} in measure.{name}", _keys(kind, key)
        else:
            text = f"measure.{name}.{key} is {shown((given or {}).get(key))}: {words(first)}"
            hint = way_out(first) or _keys(kind)
        raise document.error(("measure", name, key), text, hint) from None


def _keys(kind: type[BaseModel], near: str = "") -> str:
    return f"known: {nearest(near, kind.model_fields, 16)}"


def _wanted_runs(
    document: Document,
    name: str,
    asked: Asked,
    experiments: Mapping[str, Sequence[RunSpec]],
    settings: Settings,
) -> list[Wanted]:
    """The runs of the experiments named that have the values of `where`, each once."""
    for n, experiment in enumerate(asked.experiments):
        if experiment not in experiments:
            text = f"there is no experiment {experiment!r}"
            raise document.error(
                ("measure", name, "experiments", n),
                text,
                f"experiments: {nearest(experiment, experiments)}",
            )
    found: dict[int, tuple[RunSpec, list[str]]] = {}
    for name_, runs in experiments.items():
        for run in runs if not asked.experiments or name_ in asked.experiments else ():
            of = found.setdefault(id(run), (run, []))[1]
            of += [name_] if name_ not in of else []
    wanted = [Wanted(run, describe_run(run), tuple(of), settings) for run, of in found.values()]
    for column, values in asked.where.items():
        path = ("measure", name, "where", column)
        if column not in wanted[0].row:
            known = nearest(column, wanted[0].row, 30)
            raise document.error(path, f"where: no column {column!r}", f"columns: {known}")
        allowed = values if isinstance(values, tuple) else (values,)
        left = [one for one in wanted if one.row[column] in allowed]
        if not left:
            there = ", ".join(sorted({str(one.row[column]) for one in wanted})[:8])
            text = f"where: no run has {column} {values!r}"
            raise document.error(path, text, f"there are: {there}")
        wanted = left
    return wanted
