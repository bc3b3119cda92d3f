"""A grid file: named experiments, each a product of axes, expanded to run specs.

    defaults:                       # laid under every experiment
      target: {dataset: …}
      train: {lr: 0.01}
    sources:                        # names for sources (and targets:) used below
      near: {classes: {side: near}}
    experiments:
      near-far:
        about: LI §4.3
        set: {pattern: tune}        # laid over the defaults
        axes:                       # all combinations
          source: [near]
          train.lr: [0.01, 0.001]
        zip:                        # lists that go together
          - {target.images_per_class: [5, 50], train.epochs: [40, 10]}
        include:                    # further cells, crossed with the axes they do not name
          - {source: none, pattern: scratch}
        exclude:                    # cells to leave out
          - {train.lr: 0.001, source: none}
        baseline: {source: none, pattern: scratch}   # what each cell is compared with, in pairs

Expansion is pure and imports no torch. Every error carries file and line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.core.errors import BenchError, GridError, nearest, refuse_repeated
from bench.core.text import brief
from bench.grid.cell import SECTIONS, RunBuilder, merge
from bench.grid.cells import Assignment, Place, Value, assign, matches, product, undot
from bench.grid.errors import CellError, known_keys
from bench.grid.measures import read_measures
from bench.grid.names import Names, check_name
from bench.grid.other_files import no_grid
from bench.grid.overrides import Origins, Override, check_laid, laid_over, read_override, sweeps
from bench.grid.presets import split_presets, with_presets
from bench.grid.seed_repeats import Repeats
from bench.grid.yaml import Document, read_yaml
from bench.specs.identity import collector_paused
from bench.specs.measures import Measure
from bench.specs.problems import shown, way_out, words
from bench.specs.race import TIME, RaceSpec
from bench.specs.run import RunSpec, Seeds, canonical_json

MAX_CELLS = 200_000
"""Of one experiment; a hundred thousand are planned in seconds."""
_SHOWN = 80
_TEXTS = ("name", "about", "root")
_TOP = (
    *(*_TEXTS, "defaults", "sources", "targets", "experiments"),
    *("presets", "measure", "slurm", "race"),
)
_EXPERIMENT = ("about", "set", "axes", "zip", "include", "exclude", "baseline")


@dataclass(frozen=True)
class Experiment:
    """A named question, the runs that answer it in the order of the file, and its line.

    `baselines` has the run that each of `runs` is compared with; it is empty without `baseline:`.
    `find` gives the place of a text in the experiment or in what it uses, None where it is not.
    """

    name: str
    about: str
    runs: tuple[RunSpec, ...]
    place: str
    baselines: tuple[RunSpec, ...] = ()
    find: Callable[[str], str | None] = field(default=lambda text: None, repr=False, compare=False)

    def place_of(self, text: str | None) -> str:
        """Where a text of the experiment stands; the experiment's line where that is not known."""
        return (text and self.find(text)) or self.place


@dataclass(frozen=True)
class Grid:
    """An expanded grid file.

    `root` is where its data lie, if it gives one; `race_place` is the line of its `race:`.
    """

    name: str
    path: Path
    about: str
    root: str | None
    experiments: tuple[Experiment, ...]
    slurm: Mapping[str, Any]
    measures: tuple[Measure, ...] = ()
    race: RaceSpec | None = None
    race_place: str = ""

    @property
    def runs(self) -> list[RunSpec]:
        """The runs of all experiments; a run of two experiments appears twice."""
        return [run for experiment in self.experiments for run in experiment.runs]


@collector_paused()
def load_grid(path: Path | str, *, overrides: Sequence[str] = ()) -> Grid:
    """Reads and expands a grid file.

    Args:
        path: the YAML file.
        overrides: `key.key=value` texts, laid over every cell (`--set`); `preset=NAME` lays a
            preset over the file first (see `bench.grid.presets`).

    Raises:
        GridError: with file and line, before anything has run.
    """
    path = Path(path)
    presets, overrides = split_presets(overrides)
    refuse_repeated(overrides, "--set")
    try:
        document = with_presets(_with_roots(read_yaml(path), path), presets)
        top = _mapping(document, (), document.value, _TOP)
        experiments = _mapping(document, ("experiments",), top.get("experiments"), None)
    except GridError as error:
        raise no_grid(path) or error from None
    if not experiments:
        raise document.error((), "there are no experiments", "add experiments:")
    _texts(document, top)
    builder = RunBuilder()
    changes = [read_override(text, SECTIONS) for text in overrides]
    expanders = [_Expander(document, name, builder, changes) for name in experiments]
    expanded = tuple(one.experiment() for one in expanders)
    check_laid(changes, {text for one in expanders for text in one.laid})
    return Grid(
        name=str(top.get("name", path.stem)),
        path=path,
        about=str(top.get("about", "")),
        root=top.get("root"),
        experiments=expanded,
        slurm=_mapping(document, ("slurm",), top.get("slurm") or {}, None),
        measures=read_measures(document, {each.name: each.runs for each in expanded}),
        race=_race(document),
        race_place=document.place(("race",)),
    )


def _race(document: Document) -> RaceSpec | None:
    """The section `race:`, if there is one."""
    given = document.value.get("race")
    if given is None:
        return None
    given = _mapping(document, ("race",), given, tuple(RaceSpec.model_fields))
    if "budget" not in given:
        raise document.error(
            ("race",), "race: there is no budget", f"race: {{budget: 30m}}; {TIME}"
        )
    try:
        return RaceSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        text = f"race.{key} is {shown(given[key])}: {words(first).removeprefix('value error, ')}"
        hint = TIME if key == "budget" else way_out(first)
        raise document.error(("race", key), text, hint) from None


def _with_roots(document: Document, path: Path) -> Document:
    """The grid with a selection's `root:` made absolute where it lies beside the grid file."""

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, dict):  # below classes, a root is a synset
            return (
                value if key.endswith("classes") else {k: walk(v, str(k)) for k, v in value.items()}
            )
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        if not isinstance(value, str) or key.split(".")[-1] != "root":
            return value
        beside = path.parent / value
        return str(beside.resolve()) if _exists(beside) else value

    if not isinstance(document.value, dict):
        return document
    inside = {k: v if k == "root" else walk(v, str(k)) for k, v in document.value.items()}
    return replace(document, value=inside)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no path at all, or a folder that may not be read
        return False


def check_experiments(only: Sequence[str], grid: Grid) -> None:
    """Refuses a name that is no experiment of the grid."""
    names = [experiment.name for experiment in grid.experiments]
    for name in only:
        if name not in names:
            raise GridError(
                f"there is no experiment {name!r}",
                place=str(grid.path),
                hint=f"experiments: {nearest(name, names)}",
            )


def _mapping(
    document: Document, path: Place, value: Any, known: Sequence[str] | None
) -> dict[str, Any]:
    """`value` as a mapping with known keys, or an error at its line."""
    what = str(path[-1]) if path else "the grid"
    what = f"experiment {what}" if path[:1] == ("experiments",) and len(path) == 2 else what
    if not isinstance(value, dict):
        hint = f"keys: {', '.join(known)}" if known else "write {key: value}"
        found = brief(shown(value), _SHOWN)
        raise document.error(path, f"{what}: expected a mapping, found {found}", hint)
    for key in value:
        if known is not None and key not in known:
            hint = f"known: {nearest(key, known, 12)}"
            raise document.error((*path, key), f"unknown key {key!r} in {what}", hint)
    return value


def _texts(document: Document, top: Mapping[str, Any]) -> None:
    """Looks at name, about and root; the name becomes that of files."""
    for key in _TEXTS:
        value = top.get(key)
        if value is not None and not isinstance(value, str):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            hint = f"write it in quotes: '{value}'" if number else "write a text"
            raise document.error((key,), f"{key} is {shown(value)}: expected text", hint)
    check_name(str(top.get("name", Path(document.name).stem)), document.place(("name",)))
    for name in top["experiments"]:
        check_name(name, document.place(("experiments", name)), "experiment")


def _in_order(assignment: Assignment, overrides: Sequence[Override]) -> list[tuple[str, Any]]:
    """What a cell is assigned: whole sections first, then dotted keys of them."""
    given = [*assignment.items(), *((one.key, one.value) for one in overrides)]
    return sorted(given, key=lambda item: "." in item[0])


def _holds(value: Any, text: str) -> bool:
    """Whether a value is a text, or has it somewhere inside."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(value == text) or any(_holds(part, text) for part in parts)


class _Expander:
    """Expands one experiment; errors get the line that each value came from."""

    def __init__(
        self, document: Document, name: str, builder: RunBuilder, overrides: Sequence[Override]
    ) -> None:
        self.document, self.name, self.builder = document, name, builder
        self.path: Place = ("experiments", name)
        self.given = overrides
        self.overrides = [one for one in overrides if not sweeps(one)]
        self.laid: set[str] = set()  # the overrides that a cell has taken
        self.axis_keys: list[str] = []
        self.repeats = Repeats(self._seeds)
        top = document.value
        self.raw = _mapping(document, self.path, top["experiments"][name], _EXPERIMENT)
        self.defaults = self._nested(("defaults",), top.get("defaults") or {})
        self.set = self._nested((*self.path, "set"), self.raw.get("set") or {})
        self.names = Names(
            _mapping(document, ("sources",), top.get("sources") or {}, None),
            _mapping(document, ("targets",), top.get("targets") or {}, None),
        )

    def experiment(self) -> Experiment:
        base = merge(self.defaults, self.set)
        excluded, baseline = self._list("exclude"), self._baseline()
        runs: list[RunSpec] = []
        baselines: list[RunSpec] = []
        used = [0] * len(excluded)
        for assignment, values in self._cells():
            hits = [n for n, pattern in enumerate(excluded) if matches(pattern, assignment)]
            for n in hits:
                used[n] += 1
            if not hits:
                runs.append(self._build(base, assignment, values))
                if baseline is not None:
                    shared = {key: assignment[key] for key in self.axis_keys if key in assignment}
                    baselines.append(self._build(base, shared | baseline, values))
        if 0 in used:
            n = used.index(0)
            raise self.document.error(
                (*self.path, "exclude", n),
                f"exclude {excluded[n]} matches no cell",
                "name values that the axes have, or take it out",
            )
        if not runs:
            raise self.document.error(
                self.path,
                f"experiment {self.name} has no runs",
                "exclude fewer cells, or add axes:",
            )
        place = self.document.place(self.path)
        about = str(self.raw.get("about", ""))
        return Experiment(self.name, about, tuple(runs), place, tuple(baselines), self._find)

    def _find(self, text: str) -> str | None:
        """The `--set` that gives a text, or its line."""
        by_set = (one.text for one in self.given if _holds(one.value, text))
        homes: list[Place] = [self.path, ("sources",), ("targets",), ("defaults",)]
        return next(by_set, None) or self.document.place_of(text, homes)

    def _baseline(self) -> Assignment | None:
        """What distinguishes the baseline from the experiment's own cells; {} is its base cell."""
        if "baseline" not in self.raw:
            return None
        return dict(self._sections((*self.path, "baseline"), self.raw["baseline"]))

    # --- cells: assignments of dotted keys ---

    def _cells(self) -> Iterator[tuple[Assignment, tuple[Value, ...]]]:
        axes = self._axes()
        self.axis_keys = [key for axis in axes for key in axis[0][0]]
        yield from self._product(axes, (*self.path, "axes"))
        for n, extra in enumerate(self._list("include")):
            place: Place = (*self.path, "include", n)
            fixed = [[({key: value}, {key: (*place, key)})] for key, value in extra.items()]
            others = [axis for axis in axes if not set(axis[0][0]) & set(extra)]
            clash = {key for axis in axes for key in axis[0][0] if len(axis[0][0]) > 1} & set(extra)
            if clash and not all(set(a[0][0]) <= set(extra) for a in axes if set(a[0][0]) & clash):
                raise self.document.error(
                    place,
                    f"include names {sorted(clash)} but not what is zipped with it",
                    "name all keys of the zip:, or none",
                )
            yield from self._product(others + fixed, place)

    def _product(
        self, axes: Sequence[Sequence[Value]], place: Place
    ) -> Iterator[tuple[Assignment, tuple[Value, ...]]]:
        lengths = [len(axis) for axis in axes]
        if math.prod(lengths) > MAX_CELLS:
            raise self.document.error(
                place,
                f"{' × '.join(map(str, lengths))} values make {math.prod(lengths):,} cells, more "
                f"than {MAX_CELLS:,}",
                "take fewer values, or let some go together under zip:",
            )
        yield from product(axes)

    def _axes(self) -> list[list[Value]]:
        axes: list[list[Value]] = []
        path: Place = (*self.path, "axes")
        for key, values in self._sections(path, self.raw.get("axes") or {}).items():
            self._values(values, (*path, key))
            axes.append([({key: v}, {key: (*path, key, n)}) for n, v in enumerate(values)])
        for z, group in enumerate(self._list("zip")):
            axes.append(self._zipped(group, (*self.path, "zip", z)))
        keys = [key for axis in axes for key in axis[0][0]]
        for key in keys:
            if keys.count(key) > 1:
                raise self.document.error(
                    (*path, key), f"{key} is an axis twice", "keep it under axes: or under zip:"
                )
        for one in filter(sweeps, self.given):
            axes = self._swept(axes, one)
        return axes

    def _swept(self, axes: list[list[Value]], one: Override) -> list[list[Value]]:
        """The axes with the values of a `--set` in place of those of its key."""
        zipped = [
            sorted(axis[0][0]) for axis in axes if one.key in axis[0][0] and len(axis[0][0]) > 1
        ]
        if zipped or not one.value:
            text = f"{' and '.join(zipped[0])} go together" if zipped else "the list is empty"
            hint = "set one value, or change the zip: of the grid" if zipped else "write [a, b, …]"
            raise GridError(text, place=one.text, hint=hint)
        self.laid.add(one.text)
        kept = [axis for axis in axes if one.key not in axis[0][0]]
        return [*kept, [({one.key: value}, {}) for value in one.value]]

    def _zipped(self, group: Mapping[str, Any], path: Place) -> list[Value]:
        for key, values in group.items():
            self._values(values, (*path, key), zipped=True)
        lengths = {key: len(values) for key, values in group.items()}
        if len(set(lengths.values())) != 1:
            raise self.document.error(
                path, f"zipped lists differ in length: {lengths}", "give each as many values"
            )
        return [
            (
                {key: values[n] for key, values in group.items()},
                {key: (*path, key, n) for key in group},
            )
            for n in range(next(iter(lengths.values())))
        ]

    def _list(self, key: str) -> list[dict[str, Any]]:
        value = self.raw.get(key) or []
        if isinstance(value, dict):
            value = [value]
        path: Place = (*self.path, key)
        if not isinstance(value, list):
            raise self.document.error(
                path,
                f"{key}: expected a list of mappings, found {shown(value)}",
                "write [{…}, {…}]",
            )
        return [dict(self._sections((*path, n), item)) for n, item in enumerate(value)]

    def _sections(self, path: Place, value: Any) -> dict[str, Any]:
        """`value` as a mapping whose keys, dotted or not, begin with a section of a cell."""
        for key in _mapping(self.document, path, value, None):
            if key.split(".")[0] not in SECTIONS:
                known = known_keys(key, SECTIONS)
                raise self.document.error((*path, key), f"unknown key {key!r}", known)
        return value  # type: ignore[no-any-return]

    def _values(self, values: Any, path: Place, zipped: bool = False) -> None:
        if not isinstance(values, list) or not values:
            alone = values not in ([], {}, None)
            raise self.document.error(
                path,
                f"{path[-1]}: expected a list of values, found {brief(shown(values), _SHOWN)}",
                f"write [{shown(values)}], or put it under set:" if alone else "write [a, b, …]",
            )
        seen: list[str] = []
        for n, value in enumerate(values):
            text = canonical_json(value)
            if text in seen and not zipped:
                raise self.document.error(
                    (*path, n), f"{path[-1]} has {value!r} twice", "an axis has different values"
                )
            seen.append(text)

    def _nested(self, path: Place, value: Any) -> dict[str, Any]:
        """A mapping of sections in which keys may be dotted."""
        result: dict[str, Any] = {}
        for key, item in self._sections(path, value).items():
            named = "." in key and isinstance(result.get(key.split(".")[0]), str)
            result = assign(result, key, item) if named else merge(result, undot(key, item))
        return result

    # --- one cell ---

    def _build(
        self, base: Mapping[str, Any], assignment: Assignment, values: Sequence[Value]
    ) -> RunSpec:
        return self.repeats.get(assignment) or self._read(base, assignment, values)

    def _seeds(self, assignment: Assignment) -> Seeds:
        """Of a cell that sets these seed keys."""
        cell: Mapping[str, Any] = merge(self.defaults, self.set)
        for key, value in _in_order(assignment, self.overrides):
            cell = assign(cell, key, value) if key.startswith("seed") else cell
        return self.builder.seeds(cell)

    def _read(
        self, base: Mapping[str, Any], assignment: Assignment, values: Sequence[Value]
    ) -> RunSpec:
        cell: Mapping[str, Any] = base
        laid = laid_over(self.overrides, assignment.get("pattern", base.get("pattern")))
        self.laid |= {one.text for one in laid}
        given = _in_order(assignment, laid)
        for key, value in given:
            cell = assign(cell, key, value)
        named: dict[str, Place] = {}
        try:
            cell = self.names.resolve(cell, named)
            for key, value in given:
                if "." in key and key.split(".")[0] in named:
                    cell = assign(cell, key, value)
            run = self.builder.build(cell)
            self.repeats.add(assignment, cell, run)
            return run
        except BenchError as error:
            hint = error.hint
            if isinstance(error, CellError):
                axes = {key: place for _, where in values for key, place in where.items()}
                origins = Origins(self.document, self.path, self.given, axes, named)
                place = origins.place(error.key)
                section = error.key[0] if error.key else ""
                hint = hint or (f"{section}: {SECTIONS[section]}" if section in SECTIONS else None)
            else:
                place = self.document.place(self.path)
            message = f"{error.message} (experiment {self.name})"
            raise GridError(message, place=place, hint=hint) from None
