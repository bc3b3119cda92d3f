"""The one step of launching: submit what is neither published nor in the hands of a live job.

It may be killed anywhere and repeated anywhere. Everything that a job is to do is written down
before sbatch is called, under a name that is used once; what then became of the submission is found
by that name. `bench grid --slurm`, `resume`, `status` and `cancel` are views of this step, and the
last job of a grid repeats it on the cluster until nothing is left to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench import leaderboard
from bench.errors import StoreError
from bench.launch.job import CANCEL
from bench.launch.packing import Pack, pack
from bench.launch.queue import ClusterError, Limits, Queue, QueuedJob
from bench.launch.resources import Resources, SlurmSettings
from bench.launch.safety import check_private, code_digest
from bench.launch.settle import Judge
from bench.launch.situation import GIVEN_UP, Situation, look
from bench.launch.submissions import Desk, Ending, Job, Ledger, settle_entry
from bench.session import Session
from bench.spec import canonical_json
from bench.store import publish_new, write_atomic

__all__ = ["Command", "Outcome", "Reconciler"]

_MOST_DEPENDENCIES = 200


@dataclass(frozen=True)
class Command:
    """A user's command, as its last job repeats it: the grid's text and all options."""

    name: str
    file_name: str
    text: str
    only: tuple[str, ...]
    overrides: tuple[str, ...]
    data_root: str | None
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Identity of the command: what it would do, not when it was given."""
        return hashlib.sha256(canonical_json(vars(self)).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As a payload holds it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Command:
        """What `to_json` gave."""
        lists = {name: tuple(values[name]) for name in ("only", "overrides")}
        return cls(**{**values, **lists})


@dataclass
class Outcome:
    """What a step did, and how things stand after it."""

    situation: Situation
    jobs: int = 0
    runs: int = 0
    deferred: int = 0
    notes: list[str] = field(default_factory=list)


class Reconciler:
    """The step, for one opened grid.

    Args:
        session: the grid, its plan and its store.
        command: how the last job can repeat this.
        settings: resources and policy.
        queue: the cluster.
        own_job: the name of the job this runs in, which must not wait for itself.
    """

    def __init__(
        self,
        session: Session,
        command: Command,
        settings: SlurmSettings,
        queue: Queue | None = None,
        own_job: str = "",
    ) -> None:
        self.session, self.plan, self.store = session, session.plan, session.store
        self.command, self.settings, self.queue = command, settings, queue or Queue()
        self.own_job = own_job
        self.desk = Desk(session.store.root.resolve() / "slurm")

    # --- the views ---

    def view(self) -> Outcome:
        """Settles what has ended; submits nothing. Works, with less to say, without a cluster."""
        if not self.desk.exists:
            return Outcome(self._look(Ledger(), {}))
        ledger = self.desk.read()
        try:
            jobs = self.queue.jobs() if ledger.open else {}
        except ClusterError as error:
            found = replace(self._look(ledger, {}), cluster="down", trouble=str(error))
            return Outcome(found)
        notes: list[str] = []
        try:
            with self.desk.lock(wait_s=5.0):
                ledger = self.desk.read()
                notes = self._settle(ledger, jobs)
                self._give_up(self._look(ledger, jobs))
        except (OSError, StoreError) as error:
            notes.append(f"how jobs ended could not be written down: {error}")
        return Outcome(replace(self._look(ledger, jobs), cluster="ok"), notes=notes)

    def submit(self, *, begin: bool, retry_failed: bool = False) -> Outcome:
        """The whole step.

        Args:
            begin: a user asks for it, so what was cancelled or could not start is wanted again.
            retry_failed: what was given up is tried `max_attempts` times more.

        Raises:
            ClusterError: the cluster does not answer; nothing was submitted.
            RefusedError: sbatch refuses; what was submitted before stays.
            StoreError: the folder is not safe, or another command was quicker.
        """
        self.desk.prepare()
        with self.desk.lock():
            ledger = self.desk.read()
            jobs = self.queue.jobs()
            notes = self._settle(ledger, jobs)
            if begin:
                self._replace_old_code(ledger, jobs)
                self._begin(ledger, jobs, retry_failed)
            found = self._look(ledger, jobs)
            self._give_up(found)
            outcome = _Submission(self, ledger, jobs, found).run()
            outcome.notes[:0] = notes
            outcome.situation = replace(self._look(ledger, _with_new(jobs, ledger)), cluster="ok")
            if not outcome.situation.in_queue and not outcome.deferred:
                leaderboard.write(self.plan, self.store)
            return outcome

    def cancel(self, only: Sequence[str] = (), wait_s: float = 60.0) -> Outcome:
        """Takes runs off the cluster and waits until their jobs have ended.

        A job that also holds runs of others goes on with those.

        Args:
            only: experiments; empty is the whole grid. Sources that others need stay.
            wait_s: the jobs are told to end, and then ended, by SLURM; that takes its KillWait.
        """
        if not self.desk.exists:
            return self.view()
        check_private(self.desk.root)
        with self.desk.lock():
            ledger = self.desk.read()
            jobs = self.queue.jobs()
            notes = self._settle(ledger, jobs)
            unwanted = self._unwanted(self._look(ledger, jobs), only)
            self.desk.write(ledger, {"kind": "cancel", "runs": sorted(unwanted)})
            ended = self._mark_jobs(ledger, unwanted, everything=not only)
            self.queue.cancel(jobs[name].id for name in ended if name in jobs)
            deadline = time.monotonic() + wait_s
            while time.monotonic() < deadline:
                jobs = self.queue.jobs()
                if not any(name in jobs and jobs[name].alive for name in ended):
                    break
                time.sleep(0.5)
            notes += self._settle(ledger, jobs)
            leaderboard.write(self.plan, self.store)
            notes.append(f"{len(unwanted)} runs cancelled, {len(ended)} jobs ended")
            return Outcome(replace(self._look(ledger, jobs), cluster="ok"), notes=notes)

    # --- parts ---

    def _look(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> Situation:
        most = self.settings.max_attempts
        return look(self.plan, self.store, self.desk, ledger, jobs, most)

    def _unwanted(self, found: Situation, only: Sequence[str]) -> set[str]:
        """The unfinished runs to cancel; sources go when nothing that is left needs them."""
        left = {view.run.id for view in found.of("running", "pending", "missing", "blocked")}
        if not only:
            return left
        kept = {
            run.id
            for run in self.plan.runs.values()
            if run.experiments and not set(run.experiments) <= set(only)
        }
        for run in reversed(list(self.plan.runs.values())):  # children come after their parents
            if run.id in kept and run.parent_id is not None:
                kept.add(run.parent_id)
        return left - kept

    def _mark_jobs(self, ledger: Ledger, unwanted: set[str], *, everything: bool) -> list[str]:
        """Leaves word in the jobs' folders; the names of those that have nothing else to do."""
        published = self.store.published()
        whole: list[str] = []
        for job in ledger.open:
            mine = [run for run in job.runs if run in unwanted]
            others = [run for run in job.runs if run not in published and run not in unwanted]
            last = job.role == "leaderboard" and self._of_this_grid(job, ledger) and everything
            if last or (mine and not others):
                whole.append(job.name)
                self._mark(job, "all")
            elif mine:
                self._mark(job, mine)
        return whole

    def _of_this_grid(self, job: Job, ledger: Ledger) -> bool:
        return ledger.commands.get(job.grid, {}).get("name") == self.plan.name

    def _mark(self, job: Job, runs: str | Sequence[str]) -> None:
        path = self.desk.job_folder(job.name) / CANCEL
        if path.parent.is_dir():
            write_atomic(path, json.dumps(runs))

    def _settle(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> list[str]:
        """Writes down which jobs have ended and who is to blame; cancels those that never start."""
        asked: list[Mapping[str, QueuedJob] | None] = []

        def accounting() -> Mapping[str, QueuedJob] | None:
            if not asked:
                asked.append(self.queue.accounting())
            return asked[0]

        judge = Judge(self.desk, jobs, accounting, self.store.published(), self.settings.grace_s)
        endings = [
            ending
            for job in ledger.open
            if job.name != self.own_job and (ending := judge.verdict(job)) is not None
        ]
        stuck = [e.job for e in endings if e.job in jobs and jobs[e.job].alive]
        if stuck:
            self.queue.cancel(jobs[name].id for name in stuck)
        if endings:
            self.desk.write(ledger, settle_entry(endings))
            self.desk.tidy(ledger, [ending.job for ending in endings])
        return [_said(e) for e in endings if e.state in ("CANNOT_START", "CODE_CHANGED")]

    def _replace_old_code(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> None:
        """Jobs that still wait and carry other code would refuse to run: they are taken back."""
        code = code_digest()
        old = [
            job.name
            for job in ledger.open
            if job.code != code and job.name in jobs and jobs[job.name].state == "PENDING"
        ]
        if old:
            for name in old:
                self._mark(ledger.jobs[name], "all")
            self.queue.cancel(jobs[name].id for name in old)
            entry = [Ending(name, "CODE_CHANGED", "submitted with other code") for name in old]
            self.desk.write(ledger, settle_entry(entry))

    def _begin(self, ledger: Ledger, jobs: Mapping[str, QueuedJob], retry_failed: bool) -> None:
        """Writes the user's wish down, if it changes anything."""
        found = self._look(ledger, jobs)
        again = [v.run.id for v in found.runs.values() if v.state in ("failed", "cancelled")]
        forgiven = {}
        if retry_failed:
            forgiven = {
                v.run.id: ledger.forgiven.get(v.run.id, 0) + v.attempts for v in found.of("failed")
            }
        if again or self.command.key not in ledger.commands:
            entry = {"kind": "begin", "runs": again, "forgiven": forgiven}
            self.desk.write(
                ledger, entry | {"grid": self.command.key, "command": self.command.to_json()}
            )

    def _give_up(self, found: Situation) -> None:
        """A run that is not tried again keeps the reason beside it, where leaderboards find it."""
        for view in found.of("failed"):
            folder = self.store.folder(view.run.id, view.run.spec)
            failures = folder.failures()
            reason, _, message = view.reason.partition(": ")
            if not failures or f"{failures[-1].get('message')}" != message:
                folder.add_failure(
                    {
                        "run_id": view.run.id,
                        "reason": reason,
                        "message": message,
                        GIVEN_UP: True,
                        "attempts": view.attempts,
                    }
                )


def _with_new(jobs: Mapping[str, QueuedJob], ledger: Ledger) -> dict[str, QueuedJob]:
    """The queue as it must be after a submission, without asking again."""
    unseen = {j.name: QueuedJob("", j.name, "PENDING", "just submitted") for j in ledger.open}
    return {**unseen, **jobs}


def _said(ending: Ending) -> str:
    if ending.state == "CANNOT_START":
        return f"job {ending.job} could never start and was cancelled: {ending.reason}"
    return f"job {ending.job} did not run: {ending.reason}"


class _Submission:
    """The second half of the step: from what is missing to jobs in the queue."""

    def __init__(
        self,
        owner: Reconciler,
        ledger: Ledger,
        jobs: Mapping[str, QueuedJob],
        found: Situation,
    ) -> None:
        self.owner, self.ledger, self.jobs, self.found = owner, ledger, jobs, found
        self.settings, self.desk = owner.settings, owner.desk
        self.holders = {run: job.name for job in ledger.open for run in job.runs}
        self.ids = {name: job.id for name, job in jobs.items() if job.alive}
        self.code = code_digest()

    def run(self) -> Outcome:
        outcome = Outcome(self.found)
        missing = self.found.of("missing")
        rates = self.owner.session.rates() if missing else {}
        packs = pack(missing, self.settings, rates, self.ledger, self.owner.store)
        chosen = self._choose(packs)
        if chosen:
            self._submit(chosen, outcome)
        outcome.deferred += sum(len(p.runs) for p in packs) - sum(len(p.runs) for p in chosen)
        if self.settings.last_job:
            self._last_job(outcome)
        return outcome

    def _choose(self, packs: Sequence[Pack]) -> list[Pack]:
        """As many as the queue takes; a child only when its parent is done or in the queue."""
        room = self._room()
        chosen: list[Pack] = []
        coming = set(self.holders)
        for piece in packs:
            parent = piece.parent_id
            ready = parent is None or parent in coming or self._done(parent)
            if ready and len(chosen) < room:
                chosen.append(piece)
                coming |= {run.id for run in piece.runs}
        return chosen

    def _done(self, run_id: str) -> bool:
        return self.found.runs[run_id].state == "done"

    def _room(self) -> float:
        """How many more jobs the queue takes; one place is kept for the last job."""
        mine = sum(job.alive for job in self.jobs.values())
        limits = Limits(None, None)
        with contextlib.suppress(ClusterError):  # sbatch itself will say when it is enough
            limits = self.owner.queue.limits()
        bounds = [n - mine for n in (limits.most,) if n is not None]
        if self.settings.max_jobs is not None:
            bounds.append(self.settings.max_jobs - len(self.ledger.open))
        kept = 1 if self.settings.last_job else 0
        return max(0, min(bounds) - kept) if bounds else float("inf")

    # --- runs ---

    def _submit(self, packs: Sequence[Pack], outcome: Outcome) -> None:
        """Intents first, then sbatch; what is not reached is taken back or found again by name."""
        names = [self._name(n) for n in range(len(packs))]
        for name, piece in zip(names, packs, strict=True):
            self._write_payload(name, piece)
        jobs = [
            Job(
                name,
                piece.kind,
                tuple(run.id for run in piece.runs),
                self.owner.command.key,
                piece.resources.model_dump(exclude_none=True),
                self.code,
            )
            for name, piece in zip(names, packs, strict=True)
        ]
        self.desk.write(self.ledger, {"kind": "submit", "jobs": [job.to_json() for job in jobs]})
        for job in jobs:
            self.holders |= dict.fromkeys(job.runs, job.name)
        from bench.launch.slurm import QueueFullError, RefusedError

        for n, (name, piece) in enumerate(zip(names, packs, strict=True)):
            try:
                self._sbatch(name, piece)
            except (QueueFullError, RefusedError) as error:
                state = "QUEUE_FULL" if isinstance(error, QueueFullError) else "REFUSED"
                rest = [Ending(later, state, error.message) for later in names[n:]]
                self.desk.write(self.ledger, settle_entry(rest))
                outcome.deferred += sum(len(p.runs) for p in packs[n:])
                if state == "REFUSED":
                    raise
                outcome.notes.append(f"the queue is full, the rest follows: {error.message}")
                return
            outcome.jobs += 1
            outcome.runs += len(piece.runs)

    def _sbatch(self, name: str, piece: Pack) -> None:
        from bench.launch.slurm import sbatch

        parent = piece.parent_id
        holder = self.holders.get(parent) if parent else None
        self.ids[name] = sbatch(
            self.desk.job_folder(name),
            name,
            piece.resources,
            after=[self.ids[holder]] if holder in self.ids else [],
            signal_delay_s=self.settings.signal_delay_s,
        )

    def _name(self, n: int) -> str:
        """Readable, at most 40 characters, and used once in the world."""
        readable = re.sub(r"[^a-z0-9]+", "-", self.owner.plan.name.lower()).strip("-")[:18]
        return f"{readable or 'grid'}-{self.ledger.next_number:04d}-{n:03d}-{secrets.token_hex(4)}"

    def _write_payload(self, name: str, piece: Pack) -> None:
        settings, session = self.settings, self.owner.session
        root = session.data_root
        runs = [
            {"id": run.id, "spec": run.spec.model_dump(mode="json"), "parent_id": run.parent_id}
            for run in piece.runs
        ]
        self._payload(
            name,
            {
                "role": piece.kind,
                "runs": runs,
                "lag_s": settings.lag_s,
                "max_requeues": settings.max_requeues,
                "context": {
                    "results": str(session.store.root.resolve()),
                    "data_root": str(root.resolve()) if root else None,
                    "device": settings.device,
                    "threads": settings.threads,
                    "checkpoint_s": settings.checkpoint_s,
                },
            },
        )

    def _payload(self, name: str, values: Mapping[str, Any]) -> None:
        folder = self.desk.job_folder(name)
        folder.mkdir(mode=0o700)
        publish_new(
            folder / "payload.json", json.dumps({**values, "name": name, "code": self.code})
        )

    # --- the last job ---

    def _last_job(self, outcome: Outcome) -> None:
        """One job that starts when all others have ended, in whatever way, unless there is one."""
        plan = self.owner.plan.runs
        mine = [job for job in self.ledger.open if any(run in plan for run in job.runs)]
        if not mine and not outcome.deferred:
            return
        key = self.owner.command.key
        waiting = [
            job.name
            for job in self.ledger.open
            if job.role == "leaderboard" and job.grid == key and job.name != self.owner.own_job
        ]
        if waiting:
            return
        after = [self.ids[job.name] for job in mine if job.name in self.ids]
        unknown = any(job.name not in self.ids for job in mine)
        name = self._name(999)
        resources: Resources = self.settings.resources("leaderboard")
        command = self.owner.command.to_json()
        results = str(self.owner.store.root.resolve())
        self._payload(name, {"role": "leaderboard", "command": command, "results": results})
        job = Job(name, "leaderboard", (), key, resources.model_dump(exclude_none=True), self.code)
        self.desk.write(self.ledger, {"kind": "submit", "jobs": [job.to_json()]})
        from bench.launch.slurm import QueueFullError, RefusedError, sbatch

        try:
            sbatch(
                self.desk.job_folder(name),
                name,
                resources,
                after=after[-_MOST_DEPENDENCIES:],
                begin_s=self.settings.grace_s if unknown or not after else 0.0,
                signal_delay_s=self.settings.signal_delay_s,
            )
        except (QueueFullError, RefusedError, ClusterError) as error:
            self.desk.write(self.ledger, settle_entry([Ending(name, "REFUSED", error.message)]))
            outcome.notes.append(
                f"no last job could be submitted, so run bench resume when the queue is empty: "
                f"{error.message}"
            )
