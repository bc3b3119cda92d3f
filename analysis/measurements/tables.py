"""What a grid measured, as tidy tables: distances, filters, transferability and concepts.

The extractions that `measure:` of a grid asked for (`bench.grid.measures`) are runs like others;
here their features become the tables that ratio charts, findings and the report read. Nothing is
trained here. What has no extraction yet is a sentence in `missing`, with the command that provides
it, and its table is None. Rows once computed are kept below the results' `cache/`, by what they
were computed from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from analysis.comparisons.evidence import ClassPrecisions, Evidence, Outputs
from analysis.comparisons.ratios import DISTANCE_KEYS
from analysis.leaderboard import arms
from analysis.leaderboard.read import LOSS, SIZES, key_of, repetition, varies, varying
from analysis.measurements.distances import DISTANCES
from analysis.measurements.features_file import Extracted, read_extracted
from analysis.measurements.filters import sensitivity
from analysis.measurements.rows import concept_rows, distance_rows, filter_rows, score_rows
from bench.core.errors import BenchError
from bench.core.files import write_atomic
from bench.results.conditions import task_id
from bench.results.leaderboard import describe
from bench.results.predictions import read_scores
from bench.results.store import Store
from bench.specs.measures import (
    DistancesAsked,
    FiltersAsked,
    Measure,
    Part,
    TransferabilityAsked,
)
from bench.specs.planned import Plan, PlannedRun
from bench.specs.run import canonical_json

Row = dict[str, Any]
_VERSION = 1
"""Raise it when what a row says changes, so that kept rows are not taken for new ones."""


@dataclass(frozen=True)
class Measurements:
    """Tables of one grid; None where the grid does not ask for them or nothing is there yet.

    A number that could not be had is missing in its row, and `notes` says why.

    Attributes:
        distances: a row per target, source and distance: the columns of
            `analysis.comparisons.ratios.DISTANCE_KEYS` (dataset, target, class_draw, source,
            model), then network, layer, distance (its name in
            `analysis.measurements.distances.measure`), value, low, high, p_value, n (images of each
            side, or target classes), notes.
        filters: a row per network, seed, layer and class: dataset, target, class_draw, model,
            images_per_class, network (near, far, self, FT-near, FT-far, …), seed, layer,
            class_name, mean_ap (of its top filters), best_filters (numbers joined by ;),
            prevalence, notes.
        sensitivities: a row per layer and pair of networks: layer, a, b, percentage (of classes
            for which a's filters are the better ones), reverse_percentage, ties_percentage,
            n_classes. Seeds are averaged, the classes of all targets pooled.
        transferability: a row per target, candidate source and score: `DISTANCE_KEYS`,
            images_per_class, layer, score, value, n, static (true for scores that look at no
            target image), notes.
        concepts: a row per target and source whose network never learned the target's classes:
            `DISTANCE_KEYS`, network, layer, nmi, ari, purity, ari_p_value, n (images), classes,
            notes (SFT Fig. 1).
        concept_points: for the picture of it a row per image: `DISTANCE_KEYS`, network, layer, x,
            y, class_name, cluster.
        missing: what is not there yet and which command provides it, a sentence each.
        class_precisions: average precision by class of a finished run, by its id (SFT §4.2).
        outputs: its scores on the test images and their labels (GE Table 5).
    """

    distances: pd.DataFrame | None = None
    filters: pd.DataFrame | None = None
    sensitivities: pd.DataFrame | None = None
    transferability: pd.DataFrame | None = None
    concepts: pd.DataFrame | None = None
    concept_points: pd.DataFrame | None = None
    missing: tuple[str, ...] = ()
    class_precisions: ClassPrecisions | None = field(default=None, compare=False)
    outputs: Outputs | None = field(default=None, compare=False)


def measurements(plan: Plan, store: Store) -> Measurements:
    """Every table that the finished extractions of a plan allow; costs seconds to minutes, once.

    Args:
        plan: of the whole grid (`bench.planning.workspace.Session.plan`).
        store: its results folder.
    """

    def precisions(run_id: str) -> Mapping[str, float]:
        record = store.folder(run_id, plan.runs[run_id].spec).record()
        found: Mapping[str, float] = (record or {}).get("average_precision", {})
        return found

    def outputs(run_id: str) -> Any:
        return read_scores(store.folder(run_id, plan.runs[run_id].spec))

    if not plan.measures:
        text = "distances, filters and transferability: the grid has no measure: section; add one"
        return Measurements(missing=(text,), class_precisions=precisions, outputs=outputs)
    reading = _Reading(plan, store)
    tables: dict[str, list[Row]] = {}
    for measure, ids in plan.measures:
        for table, row in _ROWS[measure.name](measure, dict(enumerate(ids)), reading):
            tables.setdefault(table, []).append(row)
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    pairs = _sensitivities(frames["filters"]) if "filters" in frames else None
    return Measurements(
        **frames,
        sensitivities=pairs,
        missing=tuple(reading.missing),
        class_precisions=precisions,
        outputs=outputs,
    )


class _Reading:
    """Features of the plan's extractions; remembers what is missing, and rows once computed."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.missing: list[str] = []
        rows = describe(plan)
        self._tasks = {task_id(plan.runs[key].spec): row["task_id"] for key, row in rows.items()}

    def keys(self, part: Part) -> Row:
        """Its `DISTANCE_KEYS`, the task by the id that it has on the leaderboard."""
        task = part.task
        return asdict(task) | {"task_id": self._tasks[task.task_id]}

    def run(self, key: str) -> PlannedRun:
        return self.plan.runs[key]

    def features(self, key: str, what: str, place: str) -> Extracted | None:
        """The features of an extraction; None with a sentence in `missing`."""
        run = self.run(key)
        folder = self.store.folder(run.id, run.spec)
        command = f"bench grid {place.rpartition(':')[0]}"
        try:
            found = read_extracted(folder)
        except BenchError as error:
            self._miss(f"{what}: {error.message} ({error.place}); {error.hint}")
            return None
        if found is None:
            failures = folder.failures()
            said = "the features are not there yet"
            if failures:
                said = f"the extraction failed: {str(failures[-1].get('message'))[:120]}"
            again = f"{command} --retry-failed" if failures else command
            self._miss(f"{what}: {said}; run: {again}")
        return found

    def _miss(self, sentence: str) -> None:
        line = " ".join(sentence.split())
        if line not in self.missing:
            self.missing.append(line)

    def accuracy(self, run_id: str | None) -> float | None:
        """Test accuracy of the run whose network it is, on its own task."""
        if run_id is None:
            return None
        run = self.run(run_id)
        record = self.store.folder(run.id, run.spec).record()
        return record["row"].get("top1_accuracy") if record else None

    def kept(self, what: object, compute: Callable[[], list[Row] | None]) -> list[Row]:
        """The rows that were computed from `what` before, or else now; none where it cannot be."""
        digest = hashlib.sha256(canonical_json([_VERSION, what]).encode()).hexdigest()
        path = self.store.cache / "measured" / f"{digest}.json"
        try:
            rows: list[Row] | None = json.loads(path.read_text())
        except (OSError, ValueError):
            rows = compute()
            if rows is not None:
                write_atomic(path, json.dumps(rows))
        return rows or []


def _options(measure: Measure) -> dict[str, Any]:
    return measure.asked.model_dump(mode="json", exclude={"experiments", "where"})


def _words(part: Part) -> str:
    task = part.task
    draw = "" if task.class_draw is None else f" draw {task.class_draw}"
    return f"{task.dataset} {task.target}{draw}, {task.source}"


Rows = Iterator[tuple[str, Row]]


def _distance_tables(measure: Measure, ids: Mapping[int, str], reading: _Reading) -> Rows:
    asked = measure.asked
    assert isinstance(asked, DistancesAsked)
    pairs: dict[Any, dict[str, tuple[Part, str]]] = {}
    for number, part in enumerate(measure.parts):
        pairs.setdefault(part.task, {})[part.role] = (part, ids[number])
    for pair in pairs.values():
        part, both = pair["target"][0], [pair[side][1] for side in ("source", "target")]
        wnids = all(reading.run(key).facts.key_space == "wordnet" for key in both)

        def compute(
            both: list[str] = both, wnids: bool = wnids, what: str = _words(part)
        ) -> list[Row] | None:
            place = measure.place
            sides = [reading.features(key, f"distance of {what}", place) for key in both]
            if sides[0] is None or sides[1] is None:
                return None
            rows = distance_rows(sides[0], sides[1], asked, wnids)
            concept, points = concept_rows(sides[0], sides[1], asked.layer)
            named = [("distances", row) for row in rows] + [("concepts", concept)]
            named += [("concept_points", point) for point in points]
            return [{"table": table, **row} for table, row in named]

        keys = reading.keys(part) | {"network": part.network, "layer": asked.layer}
        names = [distance.__name__ for distance in DISTANCES]
        for row in reading.kept(["distances", names, _options(measure), both, wnids], compute):
            table = str(row.pop("table"))
            if table == "distances" or asked.network == "source":
                yield table, keys | row


_OF_FILTERS = ("dataset", "target", "class_draw", "model", "task_id")


def _filter_tables(measure: Measure, ids: Mapping[int, str], reading: _Reading) -> Rows:
    asked = measure.asked
    assert isinstance(asked, FiltersAsked)
    nets: dict[Any, dict[str, tuple[Part, str]]] = {}
    for number, part in enumerate(measure.parts):
        task = part.task
        key = (task.task_id, task.model, part.network, part.seed)
        nets.setdefault(key, {})[part.role] = (part, ids[number])
    for net in nets.values():
        part = net["judged"][0]
        wanted = [net[role][1] for role in ("judged", "chosen") if role in net]

        def compute(
            wanted: list[str] = wanted, what: str = f"{_words(part)}: {part.network}"
        ) -> list[Row] | None:
            found = [reading.features(key, f"filters of {what}", measure.place) for key in wanted]
            present = [one for one in found if one is not None]
            if len(present) < len(wanted):
                return None
            return filter_rows(present[0], present[1] if len(present) > 1 else None, asked)

        keys = {name: reading.keys(part)[name] for name in _OF_FILTERS}
        keys |= {"images_per_class": part.images_per_class}
        keys |= {"network": part.network, "seed": part.seed}
        for row in reading.kept(["filters", _options(measure), wanted], compute):
            yield "filters", keys | row


def _score_tables(measure: Measure, ids: Mapping[int, str], reading: _Reading) -> Rows:
    asked = measure.asked
    assert isinstance(asked, TransferabilityAsked)
    for number, part in enumerate(measure.parts):
        key = ids[number]
        name = f"{part.task.model} {part.task.source}"
        accuracy = reading.accuracy(reading.run(key).parent_id)

        def compute(
            key: str = key,
            name: str = name,
            accuracy: float | None = accuracy,
            what: str = _words(part),
        ) -> list[Row] | None:
            found = reading.features(key, f"transferability of {what}", measure.place)
            if found is None:
                return None
            return score_rows(found, asked, name=name, source_accuracy=accuracy)

        keys = reading.keys(part) | {
            "images_per_class": part.images_per_class,
            "layer": asked.layer,
        }
        what = ["transferability", _options(measure), key, name, accuracy]
        for row in reading.kept(what, compute):
            yield "transferability", keys | row


_ROWS: Mapping[str, Callable[[Measure, Mapping[int, str], _Reading], Rows]] = {
    "distances": _distance_tables,
    "filters": _filter_tables,
    "transferability": _score_tables,
}


def _sensitivities(filters: pd.DataFrame) -> pd.DataFrame | None:
    """Every ordered pair of networks, layer by layer (LI Fig. 9); None without two networks."""
    known = filters[filters["mean_ap"].notna()]
    known = known.assign(place=key_of(known, [n for n in _OF_FILTERS if n in known.columns]))
    rows: list[Row] = []
    for layer in known["layer"].drop_duplicates():
        here = known[known["layer"] == layer]
        means = here.groupby(["network", "place", "class_name"], sort=True)["mean_ap"].mean()
        networks = list(here["network"].drop_duplicates())
        for a in networks:
            for b in networks:
                left, right = means[a], means[b]
                both = left.index.intersection(right.index)
                if a != b and len(both):
                    found = sensitivity(left[both].to_numpy(), right[both].to_numpy())
                    rows.append({"layer": layer, "a": a, "b": b, **asdict(found)})
    return pd.DataFrame(rows) if rows else None


# --- for findings and ratio charts --------------------------------------------------------------


def evidence(board: pd.DataFrame, measured: Measurements | None = None) -> Evidence:
    """The leaderboard and what was measured, as `analysis.findings.evaluate.examine` takes them.

    Args:
        board: from `analysis.leaderboard.read.prepare` or `read`.
        measured: None, for a results folder without a grid, leaves out what needs features.
    """
    verified = _verification(board)
    if measured is None:
        return Evidence(board, verification=verified)
    return Evidence(
        board,
        distances=wide_distances(measured.distances),
        verification=verified,
        sensitivities=_of_last_layer(measured.sensitivities),
        class_precisions=measured.class_precisions,
        outputs=measured.outputs,
    )


def _of_last_layer(sensitivities: pd.DataFrame | None) -> pd.DataFrame | None:
    """LI judges the last convolution; of several layers measured, the last one asked for."""
    if sensitivities is None or sensitivities.empty:
        return None
    last: pd.DataFrame = sensitivities[sensitivities["layer"] == sensitivities["layer"].iloc[-1]]
    return last


_WIDE = {
    "cosine": "cosine",
    "linear MMD": "mmd",
    "linear SVM accuracy": "svm",
    "CNN accuracy": "cnn",
}
"""Names of `analysis.measurements.distances.measure` and of the columns that claims read (CHU Table
2)."""


def wide_distances(distances: pd.DataFrame | None) -> pd.DataFrame | None:
    """One row per target and source: `DISTANCE_KEYS`, cosine, mmd, svm, cnn, each with its ends.

    The ends are `<name>_low` and `<name>_high`. This is what
    `analysis.comparisons.ratios.with_distance` and `Evidence.distances` take; targets without a
    cosine have no row. None gives None.
    """
    if distances is None:
        return None
    rows: dict[tuple[Any, ...], Row] = {}
    for row in distances.to_dict("records"):
        name = _WIDE.get(str(row["distance"]))
        if name is not None and pd.notna(row["value"]):
            keys = {key: row[key] for key in DISTANCE_KEYS if key in row}
            wide = rows.setdefault(tuple(str(v) for v in keys.values()), keys)
            ends = {"": "value", "_low": "low", "_high": "high"}
            wide |= {f"{name}{end}": row[column] for end, column in ends.items()}
    known = [row for row in rows.values() if "cosine" in row]
    return pd.DataFrame(known) if known else None


_TAR = re.compile(r"tar_(?:at_)?(?:far_)?(?P<far>[0-9.]+(?:e-?[0-9]+)?)")


def _verification(board: pd.DataFrame) -> pd.DataFrame | None:
    """Rates of true acceptance in the leaderboard's columns, as SFT-C5 and C6 read them.

    `expressions` is two where the training images are of two expressions (`train_where`), all
    where they are not restricted.
    """
    columns = {name: m for name in board.columns if (m := _TAR.fullmatch(str(name)))}
    if not columns:
        return None
    done = board[board["status"] == "done"]
    held = [n for n in varying(board) if not (repetition(n) or varies(n, LOSS) or n in SIZES)]
    settings = key_of(done, [n for n in held if n != "train_where"])
    found: list[Row] = []
    for arm, which in (("fine-tuning", arms.fine_tuned(done)), ("soft", arms.soft(done))):
        for row, setting, mine in zip(done.to_dict("records"), settings, which, strict=True):
            for name, match in columns.items():
                if mine and pd.notna(row[name]):
                    said = _expressions(row.get("train_where"))
                    rate = {"far": float(match["far"]), "tar": float(row[name])}
                    unit = {"task": row["task"], "seed": row["seed"], "setting": setting}
                    found.append({"arm": arm, "expressions": said, **rate, **unit})
    return pd.DataFrame(found) if found else None


def _expressions(restriction: object) -> str:
    """What `train_where` leaves of the expressions, as SFT Table 5 words it.

    The slant of digits stands in for the expression of a person.

    >>> _expressions("expression=Sadness,Surprise"), _expressions(None)
    ('two', 'all')
    """
    if not isinstance(restriction, str) or not restriction:
        return "all"
    column, _, values = restriction.partition("=")
    count = len(values.split(","))
    return "two" if column in ("expression", "slant") and count == 2 else restriction
