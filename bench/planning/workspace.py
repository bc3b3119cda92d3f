"""A grid file, its plan and its results folder, opened together; what commands have in common."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core.errors import DataError
from bench.core.paths import user_path
from bench.grid.expand import Experiment, Grid, check_experiments, load_grid
from bench.grid.validate import described
from bench.methods import METHODS, options_of
from bench.planning.plan import make_plan, unknown_facts
from bench.planning.table_names import board_name
from bench.results.lookup import Folder, check_results
from bench.results.states import Records
from bench.results.store import Store
from bench.specs.batches import smallest_batch
from bench.specs.data import DataSpec
from bench.specs.planned import DataFacts, Plan, PlannedRun
from bench.specs.run import RunSpec, Seeds, canonical_json, joint_fingerprint


@dataclass(frozen=True)
class Session:
    """An opened grid.

    Attributes:
        grid, plan, store: of the whole file; a leaderboard is always of the whole file.
        data_root: where data sets lie.
        only: names of the experiments that were asked for; all when empty.
        missing_data: what a dry run of these went on without.
        board: name of the leaderboard's files, see `bench.planning.table_names.board_name`.
        given: the options that the grid was opened with, as they are typed.
        chosen: ids of the runs that are wanted beside what they start from; None: all asked for.
        tensorboard: whether its runs write event files, see `bench.exports.tensorboard`.
    """

    grid: Grid
    plan: Plan
    store: Store
    data_root: Path | None
    only: tuple[str, ...] = ()
    missing_data: tuple[str, ...] = ()
    board: str = ""
    given: tuple[str, ...] = ()
    chosen: frozenset[str] | None = None
    tensorboard: bool = False

    def leaderboard(self, suffix: str = "") -> Path:
        """The CSV of these runs; with `-aggregated` that of their conditions."""
        return self.store.leaderboard(self.board or self.plan.name, suffix)

    def command(self, name: str, *more: str) -> str:
        """A command about the same runs in the same folder, to be typed as it is."""
        return shlex.join(["bench", name, str(self.grid.path), *self.given, *more])

    @property
    def experiments(self) -> list[Experiment]:
        """The experiments that were asked for."""
        return [e for e in self.grid.experiments if not self.only or e.name in self.only]

    @functools.cached_property
    def wanted(self) -> list[PlannedRun]:
        """The runs that were asked for, and what they start from; parents first."""
        if not self.only and self.chosen is None:
            return list(self.plan.runs.values())
        kept = set(self.chosen or ())
        for run in reversed(list(self.plan.runs.values())):
            asked = self.chosen is None and {*run.experiments, *run.measures} & set(self.only)
            if run.id in kept or asked:
                kept |= {run.id, *run.needs}
        return [run for run in self.plan.runs.values() if run.id in kept]

    @functools.cached_property
    def records(self) -> Records:
        """The records of the plan's runs, each read once."""
        return Records(self.plan, self.store)

    def states(self) -> dict[str, str]:
        """The state of every run, see `bench.results.states`."""
        return self.records.states()

    def try_networks(self) -> None:
        """Tries out networks and files of weights of the wanted runs, in another process.

        Raises a GridError for a network that does not take the images, or weights that do not fit.
        """
        from bench.models.compatibility import check_networks

        places = {experiment.name: experiment.place for experiment in self.grid.experiments}
        here = str(self.grid.path)
        runs, seen = [], []
        for run in self.wanted:
            place = places.get(next(iter(run.experiments), ""), here)
            least = _smallest_batch(run.spec, run.facts)
            runs.append((run.spec, len(run.facts.classes), least, place))
            if found := described(run.spec):
                seen.append((*found, place))
        check_networks(runs, self.store.cache, seen)


class FactFinder:
    """Finds the facts of a run's data that a plan needs; each selection is resolved once.

    Args:
        data_root: where data sets lie.
        cache: folder for indices.
        allow_missing: go on without the images (a dry run), see `missing`.
    """

    def __init__(self, data_root: Path | None, cache: Path, *, allow_missing: bool = False) -> None:
        self.data_root, self.cache, self.allow_missing = data_root, cache, allow_missing
        self._absent: dict[tuple[str, str | None, object], str] = {}
        self._of_data: dict[tuple[int, int], tuple[DataSpec, DataFacts]] = {}  # by object and draw
        self._known: dict[str, DataFacts] = {}  # by what is selected
        self._identities: dict[str, str] = {}

    def __call__(self, spec: RunSpec) -> DataFacts:
        """The facts of the run's own data and of what it borrows.

        Raises:
            DataError: if the data are not there or cannot be selected as asked.
        """
        facts = self._own(spec)
        if spec.borrow:
            facts = self._borrowing(spec, facts)
        _check_parts(spec, facts)
        return facts if spec.evaluate is None or facts.missing else self._verified(spec, facts)

    def _verified(self, spec: RunSpec, facts: DataFacts) -> DataFacts:
        """With the images that the run is verified on."""
        from bench.data.identities import with_identities

        assert spec.evaluate is not None
        chain = [(run.data, run.seeds.draw, run.borrow) for run in (spec, *spec.ancestors())]
        key = f"{facts.fingerprint} {spec.evaluate.model_dump_json()} {chain!r}"
        if key not in self._identities:
            self._identities[key] = with_identities(
                spec, facts.fingerprint, data_root=self.data_root, cache_dir=self.cache
            )
        return replace(facts, fingerprint=self._identities[key])

    def _borrowing(self, spec: RunSpec, own: DataFacts) -> DataFacts:
        """With what the run borrows, after checking that its method can use it."""
        borrowed = [b.model_dump(mode="json") for b in spec.borrow]
        key = canonical_json([own.fingerprint, spec.seeds.draw, borrowed])
        if key not in self._known:
            self._known[key] = self._with_borrowed(spec, own)
        facts = self._known[key]
        options = options_of(spec.method)
        if options.keeps_source_head and spec.parent is not None:
            self._check_kept_classifier(spec, self._own(spec.parent), facts.borrowed[0])
        if not facts.missing:
            sizes = [one.train_images for one in facts.borrowed]
            options.check_sources([sum(sizes)] if spec.borrow_pooled else sizes)
        return facts

    @staticmethod
    def _check_kept_classifier(spec: RunSpec, parent: DataFacts, source: DataFacts) -> None:
        """The parent's classifier must have the classes that it is kept for (SFT)."""
        unknown = sorted(set(source.classes) - set(parent.classes))
        if unknown and not (parent.missing or source.missing):
            raise DataError(
                f"method {spec.method.name!r} keeps the parent's classifier, and it lacks "
                f"{len(unknown)} of {len(source.classes)} borrowed classes: "
                f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                hint="borrow: parent, or set method.source_head: random",
            )

    def missing(self, runs: Iterable[RunSpec]) -> tuple[str, ...]:
        """What was not found of the data that these runs and their parents select, in words."""
        named = ((data.dataset, data.root, data.options) for data in _selections(runs, set()))
        texts = (self._absent[key] for key in named if key in self._absent)
        return tuple(dict.fromkeys(texts))

    def _own(self, spec: RunSpec) -> DataFacts:
        key = (id(spec.data), spec.seeds.draw)
        if key not in self._of_data:
            text = f"{spec.seeds.draw} {spec.data.model_dump_json()}"
            if text not in self._known:
                self._known[text] = self._find(spec)
            self._of_data[key] = (spec.data, self._known[text])
        return self._of_data[key][1]

    def _with_borrowed(self, spec: RunSpec, own: DataFacts) -> DataFacts:
        from bench.data.borrow import resolve_borrowed
        from bench.data.catalog import resolve

        alone = [
            self._own(spec.model_copy(update={"data": b.data, "seeds": Seeds(draw=b.draw)}))
            for b in spec.borrow
        ]
        missing = own.missing or any(facts.missing for facts in alone)
        if not missing:
            places = {"data_root": self.data_root, "cache_dir": self.cache}
            target = resolve(spec.data, spec.seeds.draw, **places)  # type: ignore[arg-type]
            found = resolve_borrowed(spec, target, **places)  # type: ignore[arg-type]
            alone = [
                replace(facts, train_images=len(images.rows))
                for facts, images in zip(alone, found, strict=True)
            ]
        joint = joint_fingerprint(own.fingerprint, [facts.fingerprint for facts in alone])
        return replace(own, fingerprint=joint, missing=missing, borrowed=tuple(alone))

    def _find(self, spec: RunSpec) -> DataFacts:
        from bench.data.catalog import resolve
        from bench.data.places import MissingDataError

        try:
            found = resolve(
                spec.data, spec.seeds.draw, data_root=self.data_root, cache_dir=self.cache
            )
        except MissingDataError as error:
            if not self.allow_missing:
                raise
            self._absent[spec.data.dataset, spec.data.root, spec.data.options] = str(error)
            return unknown_facts(spec.data, spec.seeds.draw)
        return DataFacts(
            fingerprint=found.fingerprint,
            classes=found.classes,
            key_space="wordnet" if found.wnid_keyed else found.dataset_fingerprint,
            train_images=len(found.train),
            held_out_images=len(found.val) + len(found.test),
            available_images=found.available_images,
            dataset_fingerprint=found.dataset_fingerprint,
            validation_images=len(found.val),
        )


def _smallest_batch(spec: RunSpec, facts: DataFacts) -> int | None:
    """See `smallest_batch`; None for methods without training steps."""
    return smallest_batch(spec, facts) if METHODS[spec.method.name].kind == "steps" else None


def _check_parts(spec: RunSpec, facts: DataFacts) -> None:
    """Looks whether BatchNorm has two images for each of its parts in every batch."""
    parts, size = spec.train.batch_norm_parts, spec.train.batch_size
    least = _smallest_batch(spec, facts)
    if parts > 1 and least is not None and least < 2 * parts:
        more = " (with train.refit also of those for validation)" if spec.train.refit else ""
        raise DataError(
            f"train.batch_norm_parts is {parts}, and the smallest batch of {facts.train_images} "
            f"training images{more} at train.batch_size {size} has {least}: each part needs two "
            "images or more",
            hint=f"set it to at most {max(1, least // 2)}, or choose another train.batch_size: "
            "an epoch is cut into even batches of at most as many images",
        )


def open_session(
    path: Path,
    *,
    results: Path,
    data_root: Path | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    allow_missing: bool = False,
    folder: Folder = "any",
) -> Session:
    """Reads a grid and plans it.

    Args:
        folder: what the results folder has to be, see `check_results`.

    Raises:
        BenchError: if the grid is wrong, or its data or the results folder are not there.
    """

    grid = load_grid(path, overrides=overrides)
    check_results(results, folder)
    check_experiments(only, grid)
    root = _data_root(grid, data_root)
    store = Store(results)
    if folder == "writable":
        store.sweep()
    if not allow_missing:
        _check_data_are_there([e for e in grid.experiments if not only or e.name in only], root)
    finder = FactFinder(root, store.cache, allow_missing=allow_missing or bool(only))
    plan = make_plan(grid, finder, only)
    session = Session(
        grid,
        plan,
        store,
        root,
        tuple(only),
        board=board_name(grid, overrides),
        given=_as_typed(results, data_root, only, overrides),
    )
    missing = finder.missing(run.spec for run in session.wanted)
    if missing and not allow_missing:
        raise DataError(missing[0], place=str(path))
    return replace(session, missing_data=missing)


def _check_data_are_there(experiments: Sequence[Experiment], root: Path | None) -> None:
    """Looks whether the files of all data sets are there, before any is read.

    Raises a MissingDataError for the first that are not, with the way to run what needs others.
    """
    from bench.data.boxes import box_file
    from bench.data.places import MissingDataError, resolve_root

    @functools.cache
    def missing(dataset: str, place: str | None, boxes: str) -> MissingDataError | None:
        try:
            found = resolve_root(dataset, place, root)
            if found is not None and boxes:
                box_file(found, boxes)
        except MissingDataError as error:
            return error
        except DataError:  # an error of the plan has the experiment's line
            return None
        return None

    lacking: dict[str, tuple[Experiment, MissingDataError]] = {}
    for experiment in experiments:
        looked: set[int] = set()
        for data in _selections((*experiment.runs, *experiment.baselines), looked):
            boxes = str(dict(data.options).get("boxes", ""))
            error = missing(data.dataset, data.root, boxes)
            if error is not None and experiment.name not in lacking:
                lacking[experiment.name] = (experiment, error)
    if not lacking:
        return
    first, error = next(iter(lacking.values()))
    rest = [f"--only {each.name}" for each in experiments if each.name not in lacking]
    go_on = f"; {' '.join(rest)} runs the experiments that have theirs" if rest else ""
    asking = f"experiment{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
    message = f"{error.message} ({asking})"
    place = first.place_of(error.value)
    raise MissingDataError(message, place=place, hint=f"{error.hint}{go_on}")


def _selections(runs: Iterable[RunSpec], looked: set[int]) -> Iterator[DataSpec]:
    """What the runs select and borrow, and those that they start from; each run once."""
    for run in runs:
        if id(run) not in looked:
            looked.add(id(run))
            yield run.data
            yield from (borrowed.data for borrowed in run.borrow)
            yield from _selections(run.needs, looked)


def _data_root(grid: Grid, given: Path | None) -> Path | None:
    """`--data-root`, else the grid's `root:` (relative to the grid file), else BENCH_DATA."""
    if given is not None:
        return given
    if grid.root is not None:
        return (grid.path.parent / user_path(grid.root, str(grid.path))).resolve()
    from_environment = os.environ.get("BENCH_DATA")
    return user_path(from_environment, "BENCH_DATA") if from_environment else None


def _as_typed(
    results: Path, data_root: Path | None, only: Sequence[str], overrides: Sequence[str]
) -> tuple[str, ...]:
    """The options that another command needs to speak of the same runs."""
    usual = results.absolute() == Path("results").absolute()
    named = [] if usual else [("--results", str(results))]
    named += [("--data-root", str(data_root))] if data_root is not None else []
    named += [("--only", name) for name in only] + [("--set", text) for text in overrides]
    return tuple(part for pair in named for part in pair)
