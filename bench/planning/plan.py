"""The de-duplicated graph of a grid's runs, its batches and its forecast.

Parents come out of the specs, never out of the file: two cells with an equal source share one
pre-training because its id is equal. Pure; facts about the data come in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from bench.core.errors import DataError, GridError
from bench.grid.expand import Experiment, Grid
from bench.results.records import selection_label, source_label
from bench.specs.data import DataSpec
from bench.specs.identity import RunIds, collector_paused
from bench.specs.measures import Measure
from bench.specs.planned import DataFacts, Plan, PlannedRun
from bench.specs.run import RunSpec, canonical_json


@dataclass(frozen=True)
class Batch:
    """Runs that share parent, data and network; one process works through them in order."""

    name: str
    runs: tuple[PlannedRun, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """The runs that must be published before any of the batch can start."""
        return self.runs[0].needs


@collector_paused()
def make_plan(
    grid: Grid, facts: Callable[[RunSpec], DataFacts], only: Collection[str] = ()
) -> Plan:
    """The plan of a grid; `facts` gives those of a run's data, or raises a DataError.

    The plan is that of the whole grid. Where `only` names experiments, what is wrong with the data
    of others is no error: their runs are planned as those of missing data are.

    Raises:
        DataError: if the data are not there or cannot be selected so, with the experiment's line.
        GridError: if a source and its target share classes without `allow_overlap: true`.
    """
    planner = _Planner(facts)
    if only:
        _want_alone(planner, grid, only)
        planner = planner.lenient()
    cells = 0
    baselines: dict[tuple[str, str], str] = {}
    for experiment in grid.experiments:
        keys = [planner.want(spec, experiment) for spec in experiment.runs]
        cells += len(keys)
        for key, spec in zip(keys, experiment.baselines, strict=False):
            baselines[experiment.name, key] = planner.want(spec, experiment)
    measures = tuple((measure, planner.measure(measure)) for measure in grid.measures)
    return Plan(grid.name, planner.runs(), cells, baselines, measures)


def unknown_facts(data: DataSpec, draw: int) -> DataFacts:
    """Of images that are not there or cannot be selected; the fingerprint is made up."""
    made_up = f"missing {canonical_json(data.identity())} {draw}"
    return DataFacts(made_up, (), made_up, data.images_per_class or 0, 0, missing=True)


def _want_alone(planner: _Planner, grid: Grid, only: Collection[str]) -> None:
    """Adds the runs that were asked for, so that their errors are raised."""
    for experiment in grid.experiments:
        if experiment.name in only:
            for spec in (*experiment.runs, *experiment.baselines):
                planner.want(spec, experiment)
    for measure in grid.measures:
        asked = tuple(part for part in measure.parts if set(part.experiments) & set(only))
        if asked:
            planner.measure(replace(measure, parts=asked))


class _Planner:
    """Collects runs, each once and after those that it needs; `facts` as for `make_plan`."""

    def __init__(self, facts: Callable[[RunSpec], DataFacts]) -> None:
        self._find = facts
        self._strict = True
        self._facts: dict[int, tuple[RunSpec, DataFacts]] = {}
        self._id_of = RunIds(lambda run: self._facts_of(run).fingerprint)
        self._found: dict[str, tuple[RunSpec, Sequence[str | None]]] = {}
        self._experiments: dict[str, dict[str, None]] = {}
        self._measured: dict[str, dict[str, None]] = {}
        self._disjoint: set[tuple[int, int]] = set()

    def lenient(self) -> _Planner:
        """Another one, which has the facts of this one, and for which data may be wrong."""
        other = _Planner(self._find)
        other._strict, other._facts = False, self._facts
        return other

    def want(self, spec: RunSpec, experiment: Experiment) -> str:
        """Adds a run of an experiment; its id."""
        key = self._placed(spec, experiment)
        self._experiments.setdefault(key, {})[experiment.name] = None
        return key

    def measure(self, measure: Measure) -> tuple[str, ...]:
        """Adds the extractions of a measurement; their ids."""
        ids = tuple(self._placed(part.run, measure) for part in measure.parts)
        for key, part in zip(ids, measure.parts, strict=True):
            self._measured.setdefault(key, {}).update(dict.fromkeys(part.experiments))
        return ids

    def runs(self) -> dict[str, PlannedRun]:
        """Everything that was added, by id."""
        needs = [ids for _, ids in self._found.values()]
        started_from = {key for parent_id, bank_id, *_ in needs for key in (parent_id, bank_id)}
        averaged = {key for _, _, *ingredients in needs for key in ingredients} - started_from
        return {
            key: PlannedRun(
                key,
                spec,
                parent_id,
                tuple(self._experiments.get(key, ())),
                self._facts_of(spec),
                tuple(self._measured.get(key, ())),
                bank_id,
                tuple(key for key in ingredients if key),
                key in averaged,
            )
            for key, (spec, (parent_id, bank_id, *ingredients)) in self._found.items()
        }

    def _facts_of(self, spec: RunSpec) -> DataFacts:
        key = id(spec)
        if key not in self._facts:
            try:
                found = self._find(spec)
            except DataError:
                if self._strict:
                    raise
                borrowed = tuple(unknown_facts(b.data, b.draw) for b in spec.borrow)
                found = replace(unknown_facts(spec.data, spec.seeds.draw), borrowed=borrowed)
            self._facts[key] = (spec, found)
        return self._facts[key][1]

    def _placed(self, spec: RunSpec, asked: Experiment | Measure) -> str:
        """Adds a run; errors of its data get the line of what asks for it."""
        try:
            return self._add(spec, asked)
        except DataError as error:
            what = "measure" if isinstance(asked, Measure) else "experiment"
            where = f"{error.place}: " if error.place else ""
            message = f"{where}{error.message} ({what} {asked.name})"
            place = asked.place if isinstance(asked, Measure) else asked.place_of(error.value)
            raise type(error)(message, place=place, hint=error.hint) from None

    def _add(self, spec: RunSpec, asked: Experiment | Measure) -> str:
        needs = [
            None if needed is None else self._id_of.known(needed) or self._add(needed, asked)
            for needed in (spec.parent, spec.bank, *spec.ingredients)
        ]
        if self._strict and not spec.allow_overlap:
            self._check_overlap(spec, asked)
        key = self._id_of(spec)
        self._found.setdefault(key, (spec, needs))
        return key

    def _check_overlap(self, spec: RunSpec, asked: Experiment | Measure) -> None:
        """Refuses classes that the target shares with its source or with what is borrowed."""
        parent, pair = spec.parent, (id(spec.parent), id(spec.data))
        if parent is not None and pair not in self._disjoint:
            if parent.data.identity() != spec.data.identity():
                what = f"source {source_label(spec)} and target share"
                _check_disjoint(what, self._facts_of(parent), self._facts_of(spec), asked)
            self._disjoint.add(pair)
        for number, borrowed in enumerate(spec.borrow):
            facts = self._facts_of(spec)
            what = f"the borrowed {selection_label(borrowed.data)} and the target share"
            _check_disjoint(what, facts.borrowed[number], facts, asked)


def _check_disjoint(
    what: str, one: DataFacts, target: DataFacts, asked: Experiment | Measure
) -> None:
    shared = sorted(set(one.classes) & set(target.classes))
    if one.key_space == target.key_space and shared:
        some = ", ".join(shared[:5]) + (" …" if len(shared) > 5 else "")
        raise GridError(
            f"{what} {len(shared)} classes: {some} (experiment {asked.name})",
            place=asked.place,
            hint="draw both by one recipe (near_far, categories, half), or set allow_overlap: true",
        )


def batches(
    runs: Sequence[PlannedRun],
    *,
    cost_s: Callable[[PlannedRun], float],
    limit_s: float,
    most_runs: int = 200,
) -> list[Batch]:
    """Groups runs that share parent, data and network, in pieces of about `limit_s` seconds.

    Args:
        runs: what is to be done, parents before children.
        cost_s: forecast of one run in seconds.
        limit_s, most_runs: a piece is closed once it has so much work, or so many runs.
    """
    groups: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(_batch_key(run), []).append(run)
    result: list[Batch] = []
    for group in groups.values():
        piece: list[PlannedRun] = []
        total = 0.0
        for run in group:
            if piece and (total + cost_s(run) > limit_s or len(piece) >= most_runs):
                result.append(_batch(piece))
                piece, total = [], 0.0
            piece.append(run)
            total += cost_s(run)
        result.append(_batch(piece))
    return result


def _batch_key(run: PlannedRun) -> tuple[str, ...]:
    data = run.spec.data
    selection = canonical_json(data.classes.model_dump(mode="json"))
    size, model = str(data.image_size), run.spec.model.name
    needs = (run.parent_id or "", run.bank_id or "", *run.ingredient_ids)
    return (*needs, data.dataset, selection, size, model)


def _batch(runs: Sequence[PlannedRun]) -> Batch:
    return Batch(f"{runs[0].id[:12]}-{len(runs)}", tuple(runs))
