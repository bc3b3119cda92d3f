"""What `bench grid --slurm`, `status`, `logs`, `cancel` and `resume` do, and what they print."""

from __future__ import annotations

import itertools
import json
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.commands._options import marked
from bench.commands._summary import leaderboard_lines
from bench.commands._tables import RunState, status_table
from bench.core.errors import BenchError, GridError, StoreError, nearest, refuse_repeated
from bench.core.text import counted, duration
from bench.grid.expand import check_experiments
from bench.grid.yaml import scalar
from bench.launch.devices import Machine, Placement
from bench.launch.slurm import ledger as ledgers
from bench.launch.slurm.job import Job
from bench.launch.slurm.ledger import Command, Ledger, SubmissionStore
from bench.launch.slurm.packing import seconds_of_jobs
from bench.launch.slurm.reconcile import Reconciler
from bench.launch.slurm.settings import Kind, SlurmSettings, read_settings
from bench.launch.slurm.states import STATES, RunView, Situation
from bench.launch.slurm.submission import GridOnCluster, Outcome
from bench.launch.slurm.wave import run_wave
from bench.planning.workspace import Session
from bench.race.budget import Budget, parse_budget
from bench.race.of_grid import GridRace, race_state
from bench.race.on_cluster import RACE, RaceOnCluster, key_of_race
from bench.results.leaderboard import read_rows
from bench.results.lookup import find_run
from bench.results.store import Store
from bench.runs.distributed import check_gpus
from bench.specs.planned import PlannedRun

_SHOWN = 12
_GLANCE_S = 2.0


def slurm_overrides(texts: Sequence[str] | None, **common: Any) -> list[tuple[str, Any]]:
    """`--slurm-set` texts and the options with names of their own, as (key, value).

    >>> slurm_overrides(["source.timeout_min=600"], partition="gpu", qos=None)
    [('source.timeout_min', 600), ('partition', 'gpu')]

    Raises:
        GridError: a text is not KEY=VALUE.
    """
    refuse_repeated(texts or (), "--slurm-set")
    found: list[tuple[str, Any]] = []
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            known = nearest(key, SlurmSettings.model_fields, 12)
            raise GridError(f"--slurm-set {text!r}: expected KEY=VALUE", hint=f"keys: {known}")
        found.append((key.strip(), scalar(value)))
    return found + [(key, value) for key, value in common.items() if value is not None]


def reconciler(
    session: Session,
    overrides: Sequence[tuple[str, Any]] = (),
    set_: Sequence[str] = (),
) -> Reconciler:
    """The step for a session, with the settings of its grid and of the command line."""
    grid = session.grid
    settings = read_settings(grid.slurm, overrides, place=str(grid.path))
    command = Command(
        name=grid.name,
        file_name=grid.path.name,
        text=grid.path.read_text(encoding="utf-8"),
        only=session.only,
        overrides=tuple(set_),
        data_root=str(session.data_root.resolve()) if session.data_root else None,
        settings=settings.model_dump(mode="json"),
    )
    return Reconciler(GridOnCluster(session, command, settings, Job))


def submit_grid(
    session: Session,
    console: Console,
    overrides: Sequence[tuple[str, Any]] = (),
    *,
    set_: Sequence[str] = (),
    retry_failed: bool = False,
) -> int:
    """`bench grid --slurm` and `bench resume`; gives the exit status.

    Submits what is missing, looks once more for jobs that can never start, and returns: nothing has
    to stay alive. 0 if everything is done or on its way, 1 if something failed or cannot start.
    """
    step = reconciler(session, overrides, set_)
    _check_gpus(step, session)
    _print_remarks(step, session, console)
    outcome = step.submit(begin=True, retry_failed=retry_failed)
    _print_outcome(console, outcome)
    while outcome.jobs:
        time.sleep(_GLANCE_S)
        seen = step.view()
        outcome.jobs = len(seen.notes)  # what was cancelled may set free what cannot start either
        for note in seen.notes:
            console.print(note, style="red", highlight=False)
        outcome.situation = seen.situation
    counts = outcome.situation.counts
    if outcome.situation.in_queue:
        console.print(f"to follow it: {session.command('status', '--watch')}", highlight=False)
    elif counts["done"] + counts["diverged"] == sum(counts.values()):
        console.print(f"leaderboard: {session.leaderboard()}")
    return 1 if counts["failed"] or counts["damaged"] or counts["blocked"] else 0


def _check_gpus(step: Reconciler, session: Session) -> None:
    for kind in ("source", "finetune"):
        mine = [run for run in session.wanted if (run.role == "source") == (kind == "source")]
        check_gpus(
            ((run.spec, run.facts) for run in mine),
            step.settings.resources(kind).gpus or 1,
            str(session.grid.path),
        )


# --- looks as waves of jobs ---


@dataclass
class Waves:
    """Where the looks of a grid are run: a wave of jobs each, which the command waits for.

    Attributes:
        overrides, set_: see `reconciler`.
        retry_failed: whether failed runs are run again.
        console: where it is shown.
    """

    overrides: Sequence[tuple[str, Any]]
    set_: Sequence[str]
    retry_failed: bool
    console: Console
    begun: bool = False
    stopped: ClassVar[str] = "stopped before the look; its jobs stay in the queue"

    def seconds(self, session: Session, todo: Sequence[PlannedRun]) -> float:
        """Of these runs from their first job's start to the last one's end, by the forecast."""
        settings = read_settings(session.grid.slurm, self.overrides, place=str(session.grid.path))
        readings = session.records.read()
        done = [(session.plan.runs[key], reading) for key, reading in readings.items()]
        return seconds_of_jobs(todo, settings, done)

    def run(self, session: Session) -> list[tuple[str, str]]:
        """Submits the wanted runs, waits for their ends; those that failed, each with the reason.

        Raises:
            BenchError: the cluster refuses them, or some were cancelled.
        """
        # The waiting command does what a last job does, which would go on with the whole grid.
        step = reconciler(session, [*self.overrides, ("last_job", False)], self.set_)
        if not self.begun:
            _check_gpus(step, session)
            _print_remarks(step, session, self.console)
        self.begun = True
        found = run_wave(
            step, partial(_print_outcome, self.console, brief=True), retry_failed=self.retry_failed
        )
        if cancelled := found.of("cancelled"):
            raise BenchError(
                f"{counted(len(cancelled), 'run of this look was', 'runs of this look were')} "
                "cancelled, so it is not taken",
                place=str(session.grid.path),
                hint="the same command submits them again",
            )
        return [(view.run.id, view.reason) for view in found.of("failed", "damaged")]


# --- a race as one job ---


def budget_to_resume(session: Session) -> str | None:
    """The time of the race that `bench resume` goes on with; None where the runs are submitted.

    That of the newest job's command, if it raced this grid; else of the grid's `race:` section.

    Raises:
        BenchError: the newest job was of a look, or of `bench finetune`, or there is none of a grid
            that is run look by look; or a race's command is not known any more.
    """
    submissions = SubmissionStore(session.store.root.resolve() / "slurm")
    ledger = submissions.read()
    own = [
        job
        for job in reversed(ledger.jobs.values())
        if ledger.commands.get(job.grid, {}).get("name") == session.plan.name
    ]
    if not own or _may_be_of_wave(own[0], ledger):
        _refuse_looks(session)
    for job in own:
        if job.role != RACE:
            break
        arguments = _arguments(submissions.job_folder(job.name))
        if "--budget" not in arguments:
            raise BenchError(
                f"job {job.name} of this grid was a race, and its command is not written down any "
                "more",
                place=str(session.grid.path),
                hint=f"{session.command('grid', '--slurm', '--budget', 'TIME')} goes on with the "
                "race, and with --budget none it submits the whole grid; a race of bench finetune "
                "goes on by the command that submitted it",
            )
        if job.grid == key_of_race(race_state(session), session.store.root):
            return arguments[arguments.index("--budget") + 1]
        if arguments[:1] == ["finetune"]:
            raise BenchError(
                "this grid is a race of bench finetune, and bench resume would submit its runs as "
                "they are",
                place=str(session.grid.path),
                hint=f"bench {shlex.join(itertools.takewhile(_is_asked, arguments))} --slurm goes "
                "on with the race, or has its answer",
            )
    race = session.grid.race
    return race.budget if race else None


def _may_be_of_wave(job: ledgers.Job, ledger: Ledger) -> bool:
    """Whether a job was submitted without a last job, as those of a look are."""
    settings = ledger.commands[job.grid].get("settings", {})
    return job.role != RACE and not settings.get("last_job", True)


def _refuse_looks(session: Session) -> None:
    from analysis.findings.looks import looks_file

    looks = looks_file(session.leaderboard())
    if looks.is_file():
        raise BenchError(
            "this grid is run look by look, and bench resume would run all of its tasks",
            place=str(looks),
            hint=f"{session.command('grid', '--slurm', '--decide', 'CLAIM')} goes on with the "
            f"looks; {session.command('grid', '--slurm')} runs the whole grid without further ones",
        )


def _arguments(folder: Path) -> list[str]:
    """The command of a race's job; empty where it is not written down any more."""
    try:
        return [str(a) for a in json.loads((folder / "payload.json").read_text())["arguments"]]
    except (OSError, ValueError, KeyError):
        return []


def _is_asked(argument: str) -> bool:
    return argument != "--device"  # from there on it is what the job has


def race_grid(
    session: Session, budget: str, console: Console, overrides: Sequence[tuple[str, Any]] = ()
) -> int:
    """`bench grid --slurm` with a budget: the race as one job, or its result; the exit status."""
    settings = read_settings(session.grid.slurm, overrides, place=str(session.grid.path))
    machine, spent = Machine(settings.device, settings.threads), Budget(parse_budget(budget))
    race = GridRace(session, spent, machine, Placement(1), console)
    winner = race.finished()
    if winner is not None:
        lines = [f"chosen: {winner.words}: {race.tested(winner)}", f"the race: {race.table}"]
        lines += leaderboard_lines(session)
        lines.append(f"{duration(spent.earlier_s)} of {duration(spent.total_s)}")
        console.print("\n".join(lines), highlight=False)
        return 0
    job = RaceOnCluster(session.plan.name, race.state, session.store.root, settings)
    arguments = ["grid", str(session.grid.path.resolve()), *session.given, "--budget", budget]
    arguments += ["--accept-problems", "--threads", str(settings.threads)]
    arguments += ["--tensorboard"] if settings.tensorboard else []
    _print_precision(session, settings, console, race=True)
    return submit_race(job, arguments, spent, console, session.command("status", "--watch"))


def submit_race(
    job: RaceOnCluster, arguments: Sequence[str], budget: Budget, console: Console, watch: str
) -> int:
    """Submits the job of a race, unless there is one; how it stands; the exit status.

    Args:
        arguments: of bench, the race's command without what the job has.
        budget: with what earlier commands have spent.
        watch: the command that shows its runs.
    """

    def show(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False)

    found = job.look()
    if found is not None and found.ending is None:
        show(f"the race is on its way already: {found}; {job.words(found.job)}")
        for line in job.last_lines():
            show(f"  {line}")
    else:
        if found is not None:
            show(f"the race did not come to its end; {found}", "yellow")
            for line in job.why(found):
                show(f"  {line}")
        left_s = budget.total_s - budget.earlier_s
        if left_s <= 0:
            spent, total = duration(budget.earlier_s), duration(budget.total_s)
            show(f"{spent} of {total} are spent: a longer --budget goes on", "yellow")
            return 1
        for line in job.remarks():
            show(line)
        found = job.submit([*arguments, *job.machine_options()], left_s)
        show(f"the race is submitted: {found}; {job.words(found.job)}")
        time.sleep(_GLANCE_S)
        seen = job.look()
        if seen is not None and seen.ending and seen.ending.state == "CANNOT_START":
            show(f"it can never start and was cancelled: {seen.ending.reason}", "red")
            return 1
    show(f"log: {job.log}")
    show(f"to follow it: tail -F {shlex.quote(str(job.log))}; once it has begun, {watch}")
    show("its answer: the same command again, when it has ended")
    return 0


def show_remarks(
    session: Session, console: Console, overrides: Sequence[tuple[str, Any]], *, race: bool
) -> None:
    """What a submission would print of its settings, for a dry run; there may be no cluster."""
    if not race:
        _print_remarks(reconciler(session, overrides), session, console)
        return
    settings = read_settings(session.grid.slurm, overrides, place=str(session.grid.path))
    job = RaceOnCluster(session.plan.name, race_state(session), session.store.root, settings)
    for line in job.remarks():
        console.print(line, highlight=False)


def _print_remarks(step: Reconciler, session: Session, console: Console) -> None:
    """What the settings may not mean, before anything is submitted."""
    roles = {"source" if run.role == "source" else "finetune" for run in session.wanted}
    kinds: list[Kind] = [kind for kind in ("source", "finetune") if kind in roles]
    partitions = {kind: step.settings.resources(kind).partition for kind in kinds}
    for kind in kinds:
        for line in step.settings.remarks([kind], step.queue.gpus(partitions[kind])):
            console.print(line, highlight=False)
    _print_precision(session, step.settings, console)


def _print_precision(
    session: Session, settings: SlurmSettings, console: Console, race: bool = False
) -> None:
    """Says that bfloat16 is asked for where jobs ask for no GPU: what nodes compute natively is
    not known here. The job of a race is a fine-tuning's."""
    without: set[Kind] = set()
    for run in session.wanted:
        kind: Kind = "source" if run.role == "source" and not race else "finetune"
        on_gpus = settings.device != "cpu" and settings.resources(kind).gpus_asked
        if run.spec.train.precision == "bfloat16" and not on_gpus:
            without.add(kind)
    for kind in sorted(without):
        jobs = "source" if kind == "source" else "fine-tuning"
        console.print(
            f"precision: bfloat16 is asked for, and {jobs} jobs ask for no GPU: on processors "
            "without bfloat16 a step takes several times as long as in float32; precision: auto "
            "takes what a node computes natively",
            highlight=False,
        )


def _print_outcome(console: Console, outcome: Outcome, brief: bool = False) -> None:
    """Shows what was submitted and how things stand; with `brief` no submission of nothing."""
    text = f"{outcome.runs} runs submitted in {outcome.jobs} jobs"
    if outcome.deferred:
        text += f"; {outcome.deferred} follow when the queue has room or their source is done"
    submitted = [] if brief and not outcome.jobs else [text]
    console.print("; ".join([*submitted, _counted(outcome.situation)]), highlight=False)
    if outcome.situation.trouble:
        console.print(f"the cluster does not answer: {outcome.situation.trouble}", highlight=False)
    for note in (*outcome.notes, *outcome.situation.notes):
        console.print(note, highlight=False)


def _counted(found: Situation) -> str:
    return ", ".join(f"{found.counts[s]} {s}" for s in STATES if found.counts[s]) or "no runs"


# --- status ---


def show_status(
    session: Session,
    console: Console,
    *,
    watch: bool = False,
    as_json: bool = False,
    every_s: float = 10.0,
) -> int:
    """`bench status`: counts, and a table of what is not done; gives the exit status.

    With `watch`, again and again until nothing is in the queue; with `as_json`, one JSON document.
    """
    step = reconciler(session)
    while True:
        outcome = step.view()
        if as_json:
            console.out(json.dumps(status_json(session, outcome), indent=1), highlight=False)
        else:
            if watch and console.is_terminal:
                console.clear()
            console.print(status_page(session, outcome))
        if not watch or not outcome.situation.in_queue:
            return 1 if outcome.situation.of("failed", "damaged") else 0
        time.sleep(every_s)


def status_json(session: Session, outcome: Outcome) -> dict[str, Any]:
    """Everything that the table shows, and the runs that are done."""
    found = outcome.situation
    return {
        "grid": session.plan.name,
        "results": str(session.store.root),
        "leaderboard": str(session.leaderboard()),
        "cluster": found.cluster,
        "trouble": found.trouble,
        "counts": {state: found.counts[state] for state in STATES},
        "notes": [*outcome.notes, *found.notes],
        "race": found.race,
        "decoding": list(found.decoding),
        "runs": [{"name": _name(session, view), **view.to_json()} for view in found.runs.values()],
    }


def status_page(session: Session, outcome: Outcome) -> Group:
    """Counts by experiment, then the runs that run, wait, failed or are blocked."""
    found = outcome.situation
    states = {key: view.state for key, view in found.runs.items()}
    known = _as_known(states)
    counted = [RunState(run.experiments, run.role, known[run.id]) for run in session.wanted]
    counts = status_table([e.name for e in session.experiments], counted)
    parts: list[Any] = [counts, _counted(found)]
    if found.cluster == "down":
        parts.append(marked(found.trouble, "red"))
    if found.race:
        parts.append(found.race)
    parts += found.decoding
    table = Table("run", "state", "job", "detail", box=None, pad_edge=False)
    for state in ("running", "failed", "pending", "blocked", "cancelled", "missing"):
        views = found.of(state)
        for view in views[:_SHOWN]:
            job = view.slurm_id or view.job
            table.add_row(_name(session, view), state, job, _about(view))
        if len(views) > _SHOWN:
            table.add_row(f"… {len(views) - _SHOWN} more", state, "", "bench status --json: all")
    if table.row_count:
        parts += ["", table]
    for view in found.of("damaged"):  # a line of its own: the path must be whole
        parts.append(marked("damaged", "red", f" {_one_line(view.reason)}"))
    notes = [*outcome.notes, *found.notes]
    parts += [marked(note, "yellow") for note in notes]
    return Group(*parts)


def show_written_status(
    session: Session, console: Console, note: Text, *, as_json: bool = False
) -> None:
    """`bench status` where the grid's images are not there: the states of its leaderboard.

    Runs that have got a record since are counted by it.
    """
    names = {experiment.name for experiment in session.experiments}
    rows = []
    for row in read_rows(session.leaderboard()):
        own = [name for name in str(row["experiments"] or "").split(";") if name]
        if not own or names & set(own):
            rows.append(row | {"experiments": own, "status": _since(row, session.store)})
    counts = Counter(row["status"] for row in rows)
    if as_json:
        runs = [
            {"id": row["run_id"], "experiments": row["experiments"], "state": row["status"]}
            | {"reason": row.get("reason") or ""}
            for row in rows
        ]
        whole = {
            "grid": session.plan.name,
            "results": str(session.store.root),
            "leaderboard": str(session.leaderboard()),
            "counts": {state: counts[state] for state in STATES},
            "notes": [note.plain],
            "runs": runs,
        }
        console.out(json.dumps(whole, indent=1), highlight=False)
        return
    states = [RunState(r["experiments"], str(r.get("role")), r["status"]) for r in rows]
    console.print(status_table([e.name for e in session.experiments], states))
    console.print(", ".join(f"{n} {state}" for state, n in counts.items()), highlight=False)
    for row in [row for row in rows if row["status"] not in ("done", "diverged")][:_SHOWN]:
        console.print(f"{row['run_id'][:12]}  {row['status']}  {row.get('reason') or ''}")
    console.print(note, highlight=False)


def _since(row: Mapping[str, Any], store: Store) -> str:
    """The state of a leaderboard's run, by the record that it may have got since."""
    state = str(row["status"])
    if state in ("done", "diverged"):
        return state
    for folder in store.find(str(row["run_id"])):
        try:
            record = folder.record()
        except StoreError:
            return "damaged"
        state = state if record is None else str(record["row"]["status"])
    return state


def _as_known(states: Mapping[str, str]) -> dict[str, str]:
    """The states of the table of counts: what is in the queue or cancelled has no result yet."""
    known = ("done", "diverged", "failed", "damaged", "blocked")
    return {key: state if state in known else "missing" for key, state in states.items()}


def _about(view: RunView) -> str:
    if view.state == "running":
        if view.epoch is None:
            return f"on {view.reason}, before its first epoch's end"
        left = f", {duration(view.left_s)} left" if view.left_s is not None else ""
        best = view.best_val_top1_accuracy
        shown = f", best so far {100 * best:.1f} % of validation images" if best is not None else ""
        return f"on {view.reason}, epoch {view.epoch} of {view.epochs}{left}{shown}"
    lines = [line for line in view.reason.splitlines() if line.strip()]
    if view.state == "failed":
        tried = f"after {view.attempts} attempts: " if view.attempts > 1 else ""
        return tried + "\n".join([*lines[:1], *lines[1:][-3:]])[:600]
    text = " ".join(lines)[:200]
    if view.attempts:
        return f"attempt {view.attempts + 1}; {text}"
    return text


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _name(session: Session, view: RunView) -> str:
    name = session.store.folder(view.run.id, view.run.spec).path.name
    return name[: -len(view.run.id)] + view.run.id[:8]


# --- cancel, logs ---


def cancel_grid(session: Session, console: Console, only: Sequence[str] = ()) -> int:
    """`bench cancel`: ends the jobs of a grid, or of some of its experiments."""
    check_experiments(only, session.grid)
    outcome = reconciler(session).cancel(only)
    for note in outcome.notes:
        console.print(note, highlight=False)
    console.print(_counted(outcome.situation), highlight=False)
    return 0


def logs_text(run: str, results: Path, lines: int = 200) -> str:
    """`bench logs RUN`: the run's part of the log of its newest job, and why it failed last.

    Raises:
        BenchError: no run, or several, match; or it has left nothing.
    """
    submissions = SubmissionStore(results.resolve() / "slurm")
    ledger = submissions.read()
    ids = {job_run for job in ledger.jobs.values() for job_run in job.runs}
    waiting = [key for key in ids if run and key.startswith(run)]  # some have no folder yet
    run_id = waiting[0] if len(waiting) == 1 else find_run(run, results).run_id
    parts = [*_of_jobs(submissions, ledger, run_id, lines), *_of_failure(run_id, results, lines)]
    if not parts:
        raise BenchError(
            "this run has left no log: no job of a cluster ran it, and it has not failed here",
            place=run_id,
            hint=f"bench show {run_id[:12]} has its result",
        )
    return "\n".join(parts)


def _of_failure(run_id: str, results: Path, lines: int) -> list[str]:
    """The newest failure that lies beside a run, its traceback included."""
    for folder in Store(results).find(run_id):
        failures = sorted(folder.path.glob("failed-*.json"))
        if failures:
            message = str(folder.failures()[-1].get("message", ""))
            return [f"{failures[-1]}:", *message.splitlines()[-lines:]]
    return []


def _of_jobs(submissions: SubmissionStore, ledger: Ledger, run_id: str, lines: int) -> list[str]:
    """The run's part of the log of its newest job that has one; else what srun wrote."""
    for job in reversed([job for job in ledger.jobs.values() if run_id in job.runs]):
        folder = submissions.job_folder(job.name)
        for path in sorted(folder.glob("log-*.txt"), reverse=True):
            part = _part(path.read_text(errors="replace").splitlines(), run_id)
            if part:
                return [f"{path}:", *part[-lines:]]
        errors = [line for p in folder.glob("*_log.err") for line in p.read_text().splitlines()]
        if errors:
            return [f"{folder}:", *errors[-lines:]]
    return []


def _part(lines: Sequence[str], run_id: str) -> list[str]:
    """The lines between a run's beginning and its end."""
    kept: list[str] = []
    inside = False
    for line in lines:
        if line == f"bench: started {run_id}":
            inside = True
        if inside or line.startswith((f"bench: ended {run_id}", f"bench: blocked {run_id}")):
            kept.append(line)
        if line.startswith(f"bench: ended {run_id}"):
            inside = False
    return kept
