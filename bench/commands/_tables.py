"""Tables for the terminal: what would run, how a grid stands, what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from bench.commands.record_details import record_lines
from bench.core.text import counted, duration
from bench.planning.forecast import Forecast
from bench.planning.workspace import Session
from bench.results.aggregate import (
    baselines_of,
    best_of,
    conditions,
    describe_order,
    of_experiment,
    setting_columns,
)
from bench.results.leaderboard import read_conditions
from bench.results.states import to_do
from bench.specs.planned import PlannedRun

if TYPE_CHECKING:
    from rich.console import Console


_WITHOUT_EXPERIMENT = {
    "(sources)": ("source", "trained once, shared by the runs that start from them"),
    "(ingredients)": ("ingredient", "trained once, averaged by soups"),
    "(features)": ("extract", "what measure: asks for; nothing is trained"),
}
"""Rows of runs that no experiment names, their role and what they are."""
_STYLES = {"done": "green", "diverged": "yellow", "failed": "red", "blocked": "magenta"}
_STYLES |= {"damaged": "red"}
_FEW_S = 5.0
"""Seconds of decoding that are not told apart."""
_WITHOUT_RESULT = ("diverged", "failed", "damaged", "blocked")


def plan_table(
    session: Session,
    states: Mapping[str, str],
    workers: int,
    forecast: Forecast,
    *,
    retry_failed: bool = False,
) -> tuple[Table, str]:
    """What `--dry-run` shows: a row per experiment, and a sentence of totals."""
    todo = to_do(states, retry_failed)
    table = Table("experiment", "about", box=None, pad_edge=False)
    given_up = any(states[r.id] != "done" and r.id not in todo for r in session.wanted)
    headings = ("runs", "done", "to do", "work", *(("no result",) if given_up else ()))
    for heading in headings:
        table.add_column(heading, justify="right")
    groups: dict[str, list[PlannedRun]] = {e.name: [] for e in session.experiments}
    for run in session.wanted:
        for name in set(run.experiments) & set(groups):
            groups[name].append(run)
    about = {e.name: e.about for e in session.experiments}
    alone = [run for run in session.wanted if not run.experiments]
    for name, (role, text) in _WITHOUT_EXPERIMENT.items():
        if found := [run for run in alone if run.role == role]:
            groups[name], about[name] = found, text
    for name, runs in groups.items():
        left = [run for run in runs if run.id in todo]
        done = sum(states[run.id] == "done" for run in runs)
        others = len(runs) - done - len(left)
        table.add_row(
            name,
            about[name],
            str(len(runs)),
            str(done),
            str(len(left)),
            _work([forecast.seconds(run) for run in left]),
            *([str(others) if others else ""] if given_up else []),
        )
    return table, _totals(session, states, forecast, workers, todo)


def _work(costs: Sequence[float | None]) -> str:
    known = [cost for cost in costs if cost is not None]
    if len(known) == len(costs):
        return duration(sum(known))
    return f"{duration(sum(known))} + ?" if known else "?"


def _totals(
    session: Session,
    states: Mapping[str, str],
    forecast: Forecast,
    workers: int,
    todo: Collection[str],
) -> str:
    runs = session.wanted
    left = [run for run in runs if run.id in todo]
    costs = [forecast.seconds(run) for run in left]
    known = sum(cost for cost in costs if cost is not None)
    counts = Counter(states[run.id] for run in runs if run.id not in todo)
    ended = [f"{counts[s]} {s}" for s in _WITHOUT_RESULT if counts[s]]
    parts = [counted(len(runs), "run"), f"{counts['done']} done", *ended, f"{len(left)} to do"]
    text = ", ".join(parts)
    children = sum(run.parent_id is not None for run in runs)
    parents = len({run.parent_id for run in runs if run.parent_id})
    if parents:
        shared = "a shared one" if parents == 1 else f"{parents} shared ones"
        text += f"; {counted(children, 'run starts', 'runs start')} from {shared}"
    if again := session.plan.repeated:
        text += (
            f"; {counted(again, 'cell is', 'cells are')} equal to others, which run once for all"
        )
    if any(run.facts.missing for run in left):
        return f"{text}; how long it takes is not known without the data"
    if known:
        decoding_s = forecast.decoding.seconds(left, workers)
        about = duration(forecast.of_all(left, workers) + decoding_s)
        on = counted(workers, "worker")
        text += f"; about {about} on {on} at the speed measured here"
        if decoding_s > _FEW_S:
            text += f", {duration(decoding_s)} of it to decode images"
    unknown = sum(cost is None for cost in costs)
    if unknown:
        text += f"; {counted(unknown, 'run')} of unknown cost: a step could not be measured"
    return text


class RunState(NamedTuple):
    """What became of a run, and which experiments want it."""

    experiments: Collection[str]
    role: str
    state: str


def status_table(experiments: Sequence[str], runs: Sequence[RunState]) -> Table:
    """Counts of states per experiment."""
    names: tuple[str, ...] = ("done", "diverged", "failed", "damaged", "blocked", "missing")
    if not any(run.state == "damaged" for run in runs):
        names = tuple(name for name in names if name != "damaged")
    table = Table("experiment", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", style=_STYLES.get(name))
    for experiment in (*experiments, *_WITHOUT_EXPERIMENT):
        role = _WITHOUT_EXPERIMENT.get(experiment, ("", ""))[0]
        counts = Counter(
            run.state
            for run in runs
            if experiment in run.experiments or (not run.experiments and role == run.role)
        )
        if counts:
            table.add_row(experiment, *(str(counts[name]) for name in names))
    return table


class ExperimentView(NamedTuple):
    """The table of an experiment and what stands above it."""

    heading: tuple[str, ...]
    table: Table

    def show(self, out: Console) -> None:
        """Prints both."""
        for line in self.heading:
            out.print(line, highlight=False)
        out.print(self.table)
        out.print()


def leaderboard_tables(
    session: Session, table: Sequence[dict[str, Any]], choose: Sequence[str] = ()
) -> list[ExperimentView]:
    """A view of each experiment, best condition first; only the columns that vary are shown.

    Columns in `choose` are settled by the validation accuracy first, see `aggregate.best_of`, and
    are always shown.
    """
    return [
        experiment_table(e.name, e.about, best_of(found, choose), choose)
        for e in session.experiments
        for found in [conditions(of_experiment(table, e.name), baselines_of(e.name, session.plan))]
    ]


def written_tables(session: Session, choose: Sequence[str] = ()) -> list[ExperimentView]:
    """As `leaderboard_tables`, of the leaderboard as it was written last."""
    rows = read_conditions(session.store, session.board or session.plan.name)
    views = []
    for experiment in session.experiments:
        name, about = experiment.name, experiment.about
        if found := [row for row in rows if row["experiment"] == name]:
            views.append(experiment_table(name, about, best_of(found, choose), choose))
        else:
            text = f"{name}: {session.leaderboard()} has no row of this experiment"
            views.append(ExperimentView((text,), Table()))
    return views


def experiment_table(
    name: str, about: str, found: Sequence[Mapping[str, Any]], choose: Sequence[str] = ()
) -> ExperimentView:
    """Conditions of one experiment, best first, with the columns in which they differ.

    Args:
        choose: columns that validation settled; they are always shown.
    """
    found = [_with_options(row, choose) for row in found]
    keys = _telling(found)
    keys += [key for key in choose if key not in keys]
    title = f"{name}: {about}" if about else name
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(key, no_wrap=True)
    for heading in ("top-1 %", "95 % interval", "over", "runs"):
        table.add_column(heading, justify="right", no_wrap=True)
    compared = any(row["n_pairs"] for row in found)
    if compared:
        table.add_column("over baseline, paired", justify="right", no_wrap=True)
    short = any(row.get("train_images_used") for row in found)
    if short:
        table.add_column("training images", justify="right", no_wrap=True)
    gaps = any(_without(row) for row in found)
    if gaps:
        table.add_column("without result")
    for row in sorted(found, key=lambda c: -(c["top1_accuracy_mean"] or -1.0)):
        mean, low, high = (row[f"top1_accuracy_{end}"] for end in ("mean", "low", "high"))
        table.add_row(
            *(_value(row[key]) for key in keys),
            "" if mean is None else f"{100 * mean:.1f}",
            _percentages(low, high, row["n"]),
            _units(row),
            str(row["n"]),
            *([_difference(row)] if compared else []),
            *([row.get("train_images_used") or "as asked"] if short else []),
            *([_without(row)] if gaps else []),
        )
    return ExperimentView((title, _images(found)), table)


ABOUT_INTERVALS = (
    "Intervals are over tasks (class draws, targets); where there is one task, over its seeds with "
    "the error of its test images, and speak of this task only. They are cut at 0 and 100 %."
)


def _images(found: Sequence[Mapping[str, Any]]) -> str:
    """Sizes of the sets. Validation images have labels too: they choose the epoch and the rate."""
    sizes = []
    for name in ("train_images", "val_images", "test_images"):
        words = dict.fromkeys(str(row.get(name)) for row in found if row.get(name) is not None)
        counts = sorted(words, key=lambda word: (len(word), word))
        if name == "test_images":  # a race's recipes are not tested
            counts = [count for count in counts if count != "0"] or counts
        sizes.append(", ".join(counts) or "?")
    return (
        f"images: {sizes[0]} to train on; {sizes[1]} more with labels for validation, which choose "
        f"epoch and rate; {sizes[2]} to test on"
    )


def _units(row: Mapping[str, Any]) -> str:
    """What the interval counts: 3 tasks, or 5 seeds."""
    if row["unit"] == "task":
        return counted(row["tasks"], "task")
    return counted(row["n"], "seed") if row["n"] else ""


_GATHERED = ("method_options", "tuned", "layer_lr_decay", "l2_sp", "source_epochs")
"""Columns that few conditions fill; shown as one."""
_TYPED = ("source_kind", "source_side", "source_origin", "source_links", "source_pattern")
"""The parts of the source's label, as values for analyses."""


def _with_options(row: Mapping[str, Any], choose: Sequence[str]) -> dict[str, Any]:
    """The row with one column of what is not usual about its method and recipe.

    What is in `choose` stays a column of its own.
    """
    from bench.methods import defaults_of

    defaults = defaults_of(str(row["method"]))
    parts = [
        f"{name.removeprefix('method.')}={_value(value)}"
        for name, value in row.items()
        if name.startswith("method.") and value is not None and name not in choose
        if defaults.get(name.removeprefix("method.")) != value
    ]
    for name, unset in (("tuned", "all"), ("layer_lr_decay", 1.0), ("l2_sp", 0.0)):
        if row.get(name) not in (None, unset) and name not in choose:
            parts.append(f"{name}={_value(row[name])}")
    gathered = {k for k in row if k in _GATHERED or k.startswith("method.")} - set(choose)
    kept = {key: value for key, value in row.items() if key not in gathered}
    return kept | {"options": "; ".join(parts) or None}


def _telling(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns in which conditions differ, without those that only repeat an earlier one.

    Of the settings that only some leaderboards have, those in which rows differ that still look
    alike.
    """
    kept: dict[tuple[int, ...], str] = {}
    hidden = (*_TYPED, "borrowed_sets")
    for key in (*(k for k in describe_order() if k not in hidden), "options"):
        values = [str(row.get(key)) for row in found]
        lacking = "None" in values and key == "source_classes"
        if len(set(values) - ({"None"} if lacking else set())) > 1:
            places = {value: place for place, value in reversed(list(enumerate(values)))}
            kept.setdefault(tuple(places[value] for value in values), key)
    keys = list(kept.values())
    for key in [*setting_columns(found), *hidden]:
        looks = {tuple(str(row.get(k)) for k in keys) for row in found}
        more = {tuple(str(row.get(k)) for k in (*keys, key)) for row in found}
        keys += [key] if len(more) > len(looks) else []
    return keys


def _percentages(low: float | None, high: float | None, n: int) -> str:
    """An interval of accuracies; one from 0 to 100 means nothing.

    >>> _percentages(0.5, 0.6, 3), _percentages(0.9, 1.0, 3), _percentages(0.0, 1.0, 2)
    ('50.0 – 60.0', '90.0 – 100.0', '–')
    """
    if low is None or high is None:
        return "–" if n else ""
    if low <= 0 and high >= 1:
        return "–"
    return f"{100 * low:.1f} – {100 * high:.1f}"


def _difference(row: Mapping[str, Any]) -> str:
    """Points over the baseline with their interval; a dash for the baseline itself."""
    mean, low, high = (row[f"top1_over_baseline_{end}"] for end in ("mean", "low", "high"))
    if mean is None:
        return "–"
    interval = "" if low is None else f" ({100 * low:+.1f} – {100 * high:+.1f})"
    return f"{100 * mean:+.1f}{interval}"


def _without(row: Mapping[str, Any]) -> str:
    parts = [
        (row["n_diverged"], "diverged"),
        (row["n_not_converged"], "never left chance, or start from one that did not"),
        (row["n_missing"], "missing or failed"),
    ]
    return ", ".join(f"{count} {word}" for count, word in parts if count)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def run_table(record: Mapping[str, Any]) -> Table:
    """One run, a line per column, then what else its record has."""
    table = Table("column", "value", box=None, pad_edge=False, show_header=False)
    for name, value in record["row"].items():
        if value not in (None, ""):
            table.add_row(name, _value(value))
    others = record_lines(record)
    if others:
        table.add_section()
        table.add_row("", "")
    for name, text in others:
        table.add_row(name, text)
    return table


def failure_text(failure: Mapping[str, Any], lines: int = 40) -> str:
    """A failed attempt: its reason and the end of its message."""
    text = f"{failure.get('reason', 'unknown')}: {failure.get('message', '')}"
    return "\n".join(f"  {line}" for line in text.strip().split("\n")[-lines:])
