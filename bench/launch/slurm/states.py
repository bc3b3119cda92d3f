"""How every run of a grid stands: the plan compared with the store, the ledger and the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.launch.slurm.client import QueuedJob
from bench.launch.slurm.events import read_events
from bench.launch.slurm.ledger import Ledger, SubmissionStore
from bench.launch.slurm.outcomes import current_run
from bench.results.states import ENDED_WITHOUT_WEIGHTS, Records, blocked, damaged_files
from bench.results.store import RunFolder, Store
from bench.specs.planned import Plan, PlannedRun

GIVEN_UP = "given_up"
"""Marks a failure that sums up failed attempts; it is not an attempt of its own."""

_SHOWN = 5

STATES = (
    *("done", "diverged", "running", "pending", "missing"),
    *("failed", "damaged", "blocked", "cancelled"),
)


@dataclass
class RunView:
    """One run: its state, and what matters to a user in that state."""

    run: PlannedRun
    state: str
    job: str = ""
    slurm_id: str = ""
    reason: str = ""
    attempts: int = 0
    epoch: int | None = None
    epochs: int | None = None
    left_s: float | None = None
    best_val_top1_accuracy: float | None = None
    parent_job: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `bench status --json` prints it."""
        values = {k: v for k, v in vars(self).items() if k not in ("run", "parent_job")}
        return {"id": self.run.id, "experiments": list(self.run.experiments)} | values


@dataclass(frozen=True)
class Situation:
    """All runs of a plan by id. `cluster` is ok, down (why is in `trouble`) or unused.

    `race` is about a job that races the grid, in words; empty where there is none in the queue.
    `decoding` has a line for each job in the queue that decodes the grid's images.
    """

    runs: Mapping[str, RunView]
    cluster: str = "unused"
    trouble: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    race: str = ""
    decoding: Sequence[str] = field(default_factory=tuple)

    @property
    def counts(self) -> Counter[str]:
        """Runs by state."""
        return Counter(view.state for view in self.runs.values())

    def of(self, *states: str) -> list[RunView]:
        """The runs in any of these states, in the order of the plan."""
        return [view for view in self.runs.values() if view.state in states]

    @property
    def in_queue(self) -> bool:
        """Whether a job holds any run of the plan, or races it."""
        return bool(self.race or self.of("running", "pending"))


def attempts_of(run_id: str, failures: Sequence[Mapping[str, Any]], ledger: Ledger) -> int:
    """Failed attempts that count: exceptions and jobs that ended with the run unfinished, less
    those before the user asked for the run again.
    """
    raised = sum(1 for failure in failures if not failure.get(GIVEN_UP))
    died = sum(1 for failed in ledger.failed_attempts.get(run_id, ()) if not failed.final)
    return raised + died - ledger.not_counted.get(run_id, 0)


def look(
    records: Records,
    submissions: SubmissionStore,
    ledger: Ledger,
    queue: Mapping[str, QueuedJob],
    max_attempts: int,
) -> Situation:
    """The state of every run; reads, changes nothing.

    A finished run whose files are damaged is missing when an unfinished one starts from it, and
    noted in any case.

    Args:
        records: of the plan.
        queue: jobs by name; empty where the cluster is down or was never used.
        max_attempts: a run that failed so often is not tried again.
    """
    holders = {run: job for job in ledger.open for run in job.runs}
    submitted = ledger.submitted
    plan, store = records.plan, records.store
    readings = records.read()
    damage = damaged_files(readings)
    finished = {key: reading.state for key, reading in readings.items()}
    views = {
        key: RunView(plan.runs[key], "damaged", reason=str(reading.error))
        for key, reading in readings.items()
        if reading.record is None
    }
    events: dict[str, list[list[dict[str, Any]]]] = {}
    states = dict.fromkeys(plan.runs, "missing") | finished
    again = plan.to_repeat(states, damage)
    for run in plan.runs.values():
        if run.id in finished and run.id not in again:
            views.setdefault(run.id, RunView(run, finished[run.id]))
            continue
        folder = store.folder(run.id, run.spec)
        failures = folder.failures()
        view = views[run.id] = RunView(run, "missing")
        view.attempts = attempts_of(run.id, failures, ledger)
        failed_attempts = ledger.failed_attempts.get(run.id, [])
        if failures or failed_attempts:
            newest: Mapping[str, Any] = failures[-1] if failures else vars(failed_attempts[-1])
            view.reason = f"{newest.get('reason')}: {newest.get('message')}"
        job = holders.get(run.id)
        if job is not None:
            if job.name not in events:
                events[job.name] = read_events(submissions.job_folder(job.name))
            _of_job(view, job.name, queue.get(job.name), events[job.name])
        elif run.id in ledger.cancelled:
            view.state = "cancelled"
        elif not _is_running_here(view, folder):
            # What failed on this machine has failed; on the cluster it is tried again.
            most = max_attempts if run.id in submitted else 1
            final = any(failed.final for failed in _standing(run, ledger))
            view.state = "failed" if final or view.attempts >= most else "missing"
    _block(plan, views)
    return Situation(views, notes=_of_damage(store, plan, damage, again))


def _is_running_here(view: RunView, folder: RunFolder) -> bool:
    """Whether a process of this machine executes the run; the view then has how far it is."""
    progress = folder.progress()
    if progress is None:
        return False
    view.state, view.reason = "running", f"this machine, {folder.holder()}"
    view.epoch, view.epochs = progress.epoch or None, progress.epochs or None
    view.left_s, view.best_val_top1_accuracy = progress.left_s, progress.best_val_top1_accuracy
    return True


def _of_damage(
    store: Store, plan: Plan, damage: Mapping[str, Sequence[str]], again: Sequence[str]
) -> tuple[str, ...]:
    """Notes on finished runs whose files are not as their records say."""
    notes = []
    for key, wrong in list(damage.items())[:_SHOWN]:
        name = store.folder(key, plan.runs[key].spec).path.name
        then = (
            "it is trained again for the runs that start from it"
            if key in again
            else "its result stands; it is trained again when a new run starts from it"
            if any(key in run.needs for run in plan.runs.values())
            else "its result stands; delete its folder to have it trained again"
        )
        notes.append(f"{name} is done, but {', '.join(wrong)}: {then}")
    if len(damage) > _SHOWN:
        notes.append(f"… and {len(damage) - _SHOWN} more finished runs with damaged files")
    return tuple(notes)


def _standing(run: PlannedRun, ledger: Ledger) -> list[Any]:
    """Failed attempts since the user last asked for the run."""
    failed_attempts = ledger.failed_attempts.get(run.id, [])
    return failed_attempts[ledger.attempts_not_counted.get(run.id, 0) :]


def _of_job(
    view: RunView,
    name: str,
    known: QueuedJob | None,
    attempts: Sequence[Sequence[Mapping[str, Any]]],
) -> None:
    view.job, view.state = name, "pending"
    if known is None:
        view.reason = "submitted, not in the queue yet, or lost"
        return
    view.slurm_id = known.id
    if known.state == "PENDING":
        view.reason = known.reason
        return
    if current_run(attempts) != view.run.id:
        view.reason = f"in a job that is {known.state.lower()}, waiting for its turn"
        return
    view.state, view.reason = "running", known.node
    begun = 0.0
    for event in attempts[-1]:
        if event.get("id") != view.run.id:
            continue
        if event["event"] == "started":
            begun = float(event.get("at_s", 0.0))
        elif event["event"] == "epoch":
            view.epoch, view.epochs = int(event["epoch"]), int(event["epochs"])
            spent = float(event.get("at_s", 0.0)) - begun
            view.left_s = spent * (view.epochs - view.epoch) / max(view.epoch, 1)


def _block(plan: Plan, views: Mapping[str, RunView]) -> None:
    """A run below one that ended without weights is blocked, with the id of that one."""
    ended = (*ENDED_WITHOUT_WEIGHTS, "cancelled")
    states = {key: view.state for key, view in views.items()}
    for key, by in blocked(plan, states, ended).items():
        views[key].state = "blocked"
        views[key].reason = f"by {by[:12]}, {views[by].state}"
