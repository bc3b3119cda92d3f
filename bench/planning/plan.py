"""The de-duplicated graph of a grid's runs, its batches and its forecast.

Parents come out of the specs, never out of the file: two cells with an equal source share one
pre-training because its id is equal. Pure; what is known of the data comes in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.core.errors import DataError, GridError
from bench.grid.expand import Experiment, Grid
from bench.methods.features.cost import fit_s
from bench.results.records import selection_label, source_label
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
def make_plan(grid: Grid, facts: Callable[[RunSpec], DataFacts]) -> Plan:
    """The plan of a grid.

    Args:
        grid: the expanded grid.
        facts: what is known of a run's data; may raise DataError.

    Raises:
        DataError: if the data are not there or cannot be selected so, with the experiment's line.
        GridError: if a source and its target share classes without `allow_overlap: true`.
    """
    known: dict[int, tuple[RunSpec, DataFacts]] = {}
    found: dict[str, tuple[RunSpec, str | None, str | None, DataFacts]] = {}
    wanted: dict[str, list[str]] = {}
    checked: set[tuple[int, int]] = set()

    def facts_of(spec: RunSpec) -> DataFacts:
        key = id(spec)
        if key not in known:
            known[key] = (spec, facts(spec))
        return known[key][1]

    id_of = RunIds(lambda run: facts_of(run).fingerprint)

    def add(spec: RunSpec, experiment: Experiment | Measure) -> str:
        parent = spec.parent
        parent_id = None
        if parent is not None:
            parent_id = id_of.known(parent) or add(parent, experiment)
            pair = (id(parent), id(spec.data))
            if pair not in checked and not spec.allow_overlap:
                _check_disjoint(parent, spec, facts_of(parent), facts_of(spec), experiment)
                checked.add(pair)
        bank_id = None
        if spec.bank is not None:
            bank_id = id_of.known(spec.bank) or add(spec.bank, experiment)
        if spec.borrow and not spec.allow_overlap:
            _check_borrowed(spec, facts_of(spec), experiment)
        key = id_of(spec)
        found.setdefault(key, (spec, parent_id, bank_id, facts_of(spec)))
        return key

    def placed(spec: RunSpec, experiment: Experiment | Measure) -> str:
        try:
            return add(spec, experiment)
        except DataError as error:
            what = "measure" if isinstance(experiment, Measure) else "experiment"
            where = f"{error.place}: " if error.place else ""
            message = f"{where}{error.message} ({what} {experiment.name})"
            raise type(error)(message, place=experiment.place, hint=error.hint) from None

    def want(spec: RunSpec, experiment: Experiment) -> str:
        key = placed(spec, experiment)
        names = wanted.setdefault(key, [])
        if experiment.name not in names:
            names.append(experiment.name)
        return key

    cells = 0
    baselines: dict[tuple[str, str], str] = {}
    for experiment in grid.experiments:
        keys = [want(spec, experiment) for spec in experiment.runs]
        cells += len(keys)
        for key, spec in zip(keys, experiment.baselines, strict=False):
            baselines[experiment.name, key] = want(spec, experiment)
    measured: dict[str, list[str]] = {}
    measures = []
    for measure in grid.measures:
        ids = tuple(placed(part.run, measure) for part in measure.parts)
        measures.append((measure, ids))
        for key, part in zip(ids, measure.parts, strict=True):
            measured.setdefault(key, []).extend(part.experiments)
    runs = {
        key: PlannedRun(
            key,
            spec,
            parent_id,
            tuple(wanted.get(key, ())),
            facts_,
            tuple(dict.fromkeys(measured.get(key, ()))),
            bank_id,
        )
        for key, (spec, parent_id, bank_id, facts_) in found.items()
    }
    return Plan(grid.name, runs, cells, baselines, tuple(measures))


def _check_disjoint(
    parent: RunSpec,
    child: RunSpec,
    source: DataFacts,
    target: DataFacts,
    experiment: Experiment | Measure,
) -> None:
    if source.key_space != target.key_space or parent.data.identity() == child.data.identity():
        return
    shared = sorted(set(source.classes) & set(target.classes))
    if shared:
        some = ", ".join(shared[:5]) + (" …" if len(shared) > 5 else "")
        raise GridError(
            f"source {source_label(child)} and target share {len(shared)} classes: {some}"
            f" (experiment {experiment.name})",
            place=experiment.place,
            hint="draw both by one recipe (near_far, categories, half), or set allow_overlap: true",
        )


def _check_borrowed(spec: RunSpec, facts: DataFacts, experiment: Experiment | Measure) -> None:
    for borrowed, its in zip(spec.borrow, facts.borrowed, strict=True):
        shared = sorted(set(its.classes) & set(facts.classes))
        if its.key_space == facts.key_space and shared:
            some = ", ".join(shared[:5]) + (" …" if len(shared) > 5 else "")
            raise GridError(
                f"the borrowed {selection_label(borrowed.data)} and the target share {len(shared)} "
                f"classes: {some} (experiment {experiment.name})",
                place=experiment.place,
                hint="draw both by one recipe (near_far, categories, half), or set "
                "allow_overlap: true",
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
        limit_s: a piece is closed once it has reached this much work.
        most_runs: a piece is closed once it has so many runs.
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
    return (run.parent_id or "", run.bank_id or "", data.dataset, selection, size, model)


def _batch(runs: Sequence[PlannedRun]) -> Batch:
    return Batch(f"{runs[0].id[:12]}-{len(runs)}", tuple(runs))


# --- how long it will take ---------------------------------------------------------------------

Rates = Mapping[tuple[str, int], float]
"""Training images per second by (model, image size), from records."""

_FALLBACK_RATES = {"narrow8_32": 1500.0, "narrow8_64": 350.0}
_OVERHEAD_S = 0.4


def forecast_s(run: PlannedRun, rates: Rates) -> float | None:
    """Seconds that a run will take on one worker; None when nothing like it was measured or
    its images are not there to be counted.

    A frozen prefix saves the backward pass below it, two thirds of that part's work; held-out
    images cost a forward pass, a third of a training image, at each evaluation.
    """
    spec = run.spec
    if run.facts.missing:  # the number of images is not known
        return None
    rate = rates.get((spec.model.name, spec.data.image_size)) or _FALLBACK_RATES.get(
        spec.model.name
    )
    if rate is None:
        return None
    if run.role == "extract" or spec.method.name in ("probe", "svm"):  # one forward pass
        seconds = (run.facts.train_images + run.facts.held_out_images) / 3 / rate + _OVERHEAD_S
        if run.role == "extract":
            return seconds
        return seconds + fit_s(spec, run.facts.train_images, len(run.facts.classes))
    frozen = spec.layers.frozen_prefix / spec.layers.depth
    images = max(run.facts.train_images, (spec.train.expand_to or 0) * len(run.facts.classes))
    val = _validation_images(run)
    evaluations = spec.train.epochs / spec.train.evaluate_every
    images *= 1 + spec.source_domains  # as many borrowed images as its own stand in each step
    work = images * spec.train.epochs * (1 - 0.6 * frozen)
    work += (val * evaluations + run.facts.held_out_images) / 3
    if spec.train.refit:  # of as many epochs at the most
        work += (images + val) * spec.train.epochs * (1 - 0.6 * frozen)
    return work / rate + _OVERHEAD_S


def _validation_images(run: PlannedRun) -> float:
    data = run.spec.data
    if data.val_from == "budget":
        return run.facts.train_images * data.val_share / (1 - data.val_share)
    return data.val_per_class * len(run.facts.classes)
