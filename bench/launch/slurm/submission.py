"""The submitting half of the step: from runs that are missing to jobs in the queue."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.core.files import publish_new
from bench.core.paths import Places
from bench.core.text import counted
from bench.launch.devices import Machine, context_of
from bench.launch.slurm.client import ClusterError, Limits, Queue, QueuedJob
from bench.launch.slurm.decode_job import DECODE, DecodingNeeds, Undecoded
from bench.launch.slurm.ledger import Command, Ending, Job, Ledger, SubmissionStore, settle_entry
from bench.launch.slurm.packing import Pack, pack
from bench.launch.slurm.permissions import code_digest
from bench.launch.slurm.settings import Resources, SlurmSettings
from bench.launch.slurm.states import Situation
from bench.planning.workspace import Session

_MOST_TURNS = 48
"""Last jobs in a row that submit nothing, about two days; then somebody has to look."""

_MOST_DEPENDENCIES = 200

_DECODES_AGAIN = frozenset(
    {"COMPLETED", "CANCELLED", "PREEMPTED", "NEVER_ARRIVED", "CODE_CHANGED", "QUEUE_FULL"}
)
"""Endings of decoding that are no failure of it: its images may have been deleted since."""


@dataclass(frozen=True)
class GridOnCluster:
    """An opened grid with what submitting its runs needs.

    Attributes:
        command: how the last job can repeat the submission.
        settings: resources and policy.
        job: gives what a job executes, for its folder (`bench.launch.slurm.job.Job`).
        queue: the cluster.
        own_job: the name of the job this runs in, which must not wait for itself.
    """

    session: Session
    command: Command
    settings: SlurmSettings
    job: Callable[[str], Callable[[], None]]
    queue: Queue = field(default_factory=Queue)
    own_job: str = ""

    @property
    def submissions(self) -> SubmissionStore:
        """Where submissions are written down."""
        return SubmissionStore(self.session.store.root.resolve() / "slurm")


@dataclass
class Outcome:
    """What a step did, and how things stand after it; `queue_full`: sbatch took no more jobs."""

    situation: Situation
    jobs: int = 0
    runs: int = 0
    deferred: int = 0
    queue_full: bool = False
    notes: list[str] = field(default_factory=list)


def job_name(readable: str, ledger: Ledger, part: str) -> str:
    """A name for a job: readable, at most 40 characters, and used once in the world."""
    plain = re.sub(r"[^a-z0-9]+", "-", readable.lower()).strip("-")[:18]
    return f"{plain or 'grid'}-{ledger.next_number:04d}-{part}-{secrets.token_hex(4)}"


def write_down(
    submissions: SubmissionStore,
    ledger: Ledger,
    jobs: Sequence[Job],
    payloads: Sequence[Mapping[str, Any]],
) -> None:
    """Writes jobs that are going to be submitted into their folders, then into the ledger."""
    for job, payload in zip(jobs, payloads, strict=True):
        folder = submissions.job_folder(job.name)
        folder.mkdir(mode=0o700)
        content = {**payload, "role": job.role, "name": job.name, "code": job.code}
        publish_new(folder / "payload.json", json.dumps(content))
    submissions.write(ledger, {"kind": "submit", "jobs": [job.to_json() for job in jobs]})


class Submission:
    """What is missing, packed, written down, and handed to sbatch.

    Args:
        grid: the grid whose runs are submitted.
        ledger: the newest state, under the lock.
        jobs: the queue.
        found: how things stand.
    """

    def __init__(
        self,
        grid: GridOnCluster,
        ledger: Ledger,
        jobs: Mapping[str, QueuedJob],
        found: Situation,
    ) -> None:
        self.grid, self.ledger, self.jobs, self.found = grid, ledger, jobs, found
        self.settings, self.submissions = grid.settings, grid.submissions
        self.holders = {run: job.name for job in ledger.open for run in job.runs}
        self.ids = {name: job.id for name, job in jobs.items() if job.alive}
        self.code = code_digest()
        session = grid.session
        places: Places = {"data_root": session.data_root, "cache_dir": session.store.cache}
        self.needs_decoding = DecodingNeeds(places, grid.settings.decode_from)
        self.decoders: dict[str, str] = {}  # jobs in the queue, by what they decode

    def run(self) -> Outcome:
        """Submits as much as the queue takes, and a last job.

        Raises:
            ClusterError, RefusedError: what was submitted before stays.
        """
        outcome = Outcome(self.found)
        missing = self.found.of("missing")
        session = self.grid.session
        done = [(session.plan.runs[key], one) for key, one in session.records.read().items()]
        packs = pack(missing, self.settings, done, self.ledger, session.store)
        room = self._room()
        chosen = self._choose(packs, room)
        undecoded = self._undecoded(chosen)
        if undecoded and room >= 2:
            chosen = chosen[: int(min(room - 1, len(chosen)))]
            self._decode(undecoded, outcome)
        if chosen:
            self._submit(chosen, outcome)
        outcome.deferred += sum(len(p.runs) for p in packs) - sum(len(p.runs) for p in chosen)
        if self.settings.last_job:
            self._last_job(outcome)
        return outcome

    def _choose(self, packs: Sequence[Pack], room: float) -> list[Pack]:
        """As many as the queue takes; a child only when what it needs is done or in the queue."""
        chosen: list[Pack] = []
        coming = set(self.holders)
        for piece in packs:
            ready = all(run in coming or self._done(run) for run in piece.needs)
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
        with contextlib.suppress(ClusterError):  # sbatch itself refuses what is too much
            limits = self.grid.queue.limits()
        bounds: list[float] = [float("inf")]
        if limits.most is not None:
            # Two at once and a running last job are the least with which the rest can follow.
            kept = 1 if self.settings.last_job and limits.most >= 3 else 0
            bounds.append(limits.most - mine - kept)
        if self.settings.max_jobs is not None:
            working = sum(job.role != "leaderboard" for job in self.ledger.open)
            bounds.append(self.settings.max_jobs - working)
        return max(0.0, min(bounds))

    # --- images ---

    def _undecoded(self, packs: Sequence[Pack]) -> list[Undecoded]:
        """Large selections of these that no job decodes or has failed to, as often as runs may."""
        needed = self.needs_decoding(run for piece in packs for run in piece.runs)
        failed: Counter[str] = Counter()
        for job in self.ledger.jobs.values() if needed else ():
            if job.role != DECODE:
                continue
            ending = self.ledger.endings.get(job.name)
            with contextlib.suppress(OSError, ValueError):  # its folder was removed long after
                path = self.submissions.job_folder(job.name) / "payload.json"
                keys = [str(one["key"]) for one in json.loads(path.read_text())["selections"]]
                if ending is None:
                    self.decoders |= dict.fromkeys(keys, job.name)
                elif ending.state not in _DECODES_AGAIN:
                    failed.update(keys)
        most = self.settings.max_attempts
        return [x for x in needed if x.key not in self.decoders and failed[x.key] < most]

    def _decode(self, undecoded: Sequence[Undecoded], outcome: Outcome) -> None:
        """A job without a GPU that decodes; the jobs that train can do so too if there is none."""
        session, name = (
            self.grid.session,
            job_name(self.grid.session.plan.name, self.ledger, DECODE),
        )
        resources = self.settings.resources(DECODE)
        payload = {
            "selections": [one.to_json() for one in undecoded],
            "data_root": str(session.data_root.resolve()) if session.data_root else None,
            "cache": str(session.store.cache.resolve()),
            "max_requeues": self.settings.max_requeues,
        }
        self._write_down([self._job(name, DECODE, resources)], [payload])
        from bench.launch.slurm.submit import QueueFullError, RefusedError

        images = counted(sum(one.images for one in undecoded), "image")
        of = ", ".join(dict.fromkeys(repr(one.data.dataset) for one in undecoded))
        try:
            self.ids[name] = self._sbatch(name, resources, ())
        except (QueueFullError, RefusedError) as error:
            state = "QUEUE_FULL" if isinstance(error, QueueFullError) else "REFUSED"
            ending = Ending(name, state, error.message)
            self.submissions.write(self.ledger, settle_entry([ending]))
            outcome.notes.append(
                f"{images} of {of} are decoded by the jobs that train; no job for that alone could "
                f"be submitted: {error.message}"
            )
            return
        self.decoders |= dict.fromkeys([one.key for one in undecoded], name)
        cpus = counted(resources.cpus_per_task or 1, "CPU")
        outcome.notes.append(
            f"job {name} decodes {images} of {of} first, on {cpus} and no GPU; the jobs that need "
            "them start when it has ended"
        )

    # --- runs ---

    def _submit(self, packs: Sequence[Pack], outcome: Outcome) -> None:
        """Intents first, then sbatch; what is not reached is taken back or found again by name."""
        names = [self._name(n) for n in range(len(packs))]
        jobs = [
            self._job(name, piece.kind, piece.resources, tuple(run.id for run in piece.runs))
            for name, piece in zip(names, packs, strict=True)
        ]
        self._write_down(jobs, [self._payload(piece) for piece in packs])
        for job in jobs:
            self.holders |= dict.fromkeys(job.runs, job.name)
        from bench.launch.slurm.submit import QueueFullError, RefusedError

        for n, (name, piece) in enumerate(zip(names, packs, strict=True)):
            try:
                self._sbatch_pack(name, piece)
            except (QueueFullError, RefusedError) as error:
                full = isinstance(error, QueueFullError) and not (n == 0 and self._alone())
                state = "QUEUE_FULL" if full else "REFUSED"
                rest = [Ending(later, state, error.message) for later in names[n:]]
                self.submissions.write(self.ledger, settle_entry(rest))
                outcome.deferred += sum(len(p.runs) for p in packs[n:])
                if not full:
                    raise RefusedError(
                        error.message,
                        hint=error.hint
                        or "no job of yours is in the queue, so waiting cannot help: change the "
                        "grid's slurm: section or the --slurm-… options",
                    ) from None
                outcome.queue_full = True
                outcome.notes.append(f"the queue is full, the rest follows: {error.message}")
                return
            outcome.jobs += 1
            outcome.runs += len(piece.runs)

    def _alone(self) -> bool:
        """Whether the user has no job in the queue but the one that submits."""
        others = any(j.alive and j.name != self.grid.own_job for j in self.jobs.values())
        return not (others or self.decoders)

    def _sbatch_pack(self, name: str, piece: Pack) -> None:
        holders = sorted({self.holders[run] for run in piece.needs if run in self.holders})
        needed = self.needs_decoding(piece.runs) if self.decoders else ()
        holders += sorted({self.decoders[one.key] for one in needed if one.key in self.decoders})
        after = [self.ids[holder] for holder in holders if holder in self.ids]
        self.ids[name] = self._sbatch(name, piece.resources, after)

    def _sbatch(
        self, name: str, resources: Resources, after: Sequence[str], begin_s: float = 0.0
    ) -> str:
        from bench.launch.slurm.submit import sbatch

        folder = self.submissions.job_folder(name)
        return sbatch(
            self.grid.job(str(folder)),
            folder,
            name,
            resources,
            after=after,
            begin_s=begin_s,
            signal_delay_s=self.settings.signal_delay_s,
        )

    def _name(self, n: int) -> str:
        return job_name(self.grid.session.plan.name, self.ledger, f"{n:03d}")

    def _job(self, name: str, role: str, resources: Resources, runs: tuple[str, ...] = ()) -> Job:
        asked = resources.model_dump(exclude_none=True)
        return Job(name, role, runs, self.grid.command.key, asked, self.code)

    def _write_down(self, jobs: Sequence[Job], payloads: Sequence[Mapping[str, Any]]) -> None:
        write_down(self.submissions, self.ledger, jobs, payloads)

    def _payload(self, piece: Pack) -> dict[str, Any]:
        settings = self.settings
        # A GPU that was asked for and is not seen is an error, not a training on a CPU.
        asks = settings.device == "auto" and piece.resources.gpus_asked
        device = "cuda" if asks else settings.device
        machine = Machine(device, settings.threads, piece.resources.gpus or 1)
        return {
            "runs": [
                {"id": run.id, "spec": run.spec.model_dump(mode="json"), "needs": list(run.needs)}
                for run in piece.runs
            ],
            "lag_s": settings.lag_s,
            "max_requeues": settings.max_requeues,
            "context": context_of(
                self.grid.session,
                machine,
                checkpoint_s=settings.checkpoint_s,
                tensorboard=settings.tensorboard,
            ),
        }

    # --- the last job ---

    def _last_job(self, outcome: Outcome) -> None:
        """One job that starts when all others have ended, in whatever way, unless there is one."""
        plan = self.grid.session.plan.runs
        mine = [job for job in self.ledger.open if any(run in plan for run in job.runs)]
        if not mine and not outcome.deferred:
            return
        key = self.grid.command.key
        waiting = [
            job.name
            for job in self.ledger.open
            if job.role == "leaderboard" and job.grid == key and job.name != self.grid.own_job
        ]
        if waiting:
            return
        turns = 0 if outcome.jobs else self._turns()
        if turns >= _MOST_TURNS:
            outcome.notes.append(
                f"no last job is submitted: the last {turns} could submit nothing; when the queue "
                "has room, run bench resume"
            )
            return
        name = self._name(999)
        resources: Resources = self.settings.resources("leaderboard")
        payload = {
            "command": self.grid.command.to_json(),
            "results": str(self.grid.session.store.root.resolve()),
        }
        self._write_down([self._job(name, "leaderboard", resources)], [payload])
        from bench.launch.slurm.submit import QueueFullError, RefusedError

        try:
            try:
                self._sbatch_last(name, resources, mine, turns)
            except QueueFullError:
                if not self._make_room(outcome):
                    raise
                self._sbatch_last(name, resources, mine, turns)
        except (QueueFullError, RefusedError, ClusterError) as error:
            self.submissions.write(
                self.ledger, settle_entry([Ending(name, "REFUSED", error.message)])
            )
            outcome.notes.append(
                "no last job could be submitted; when the queue is empty, run bench resume: "
                f"{error.message}"
            )

    def _turns(self) -> int:
        """How many last jobs have ended one after the other without a job of runs between them."""
        turns = 0
        for job in reversed(self.ledger.jobs.values()):
            ending = self.ledger.endings.get(job.name)
            if job.grid != self.grid.command.key:
                continue
            if job.role == "leaderboard":
                turns += 1
            elif ending is None or ending.state != "QUEUE_FULL":
                break
        return turns

    def _sbatch_last(
        self, name: str, resources: Resources, mine: Sequence[Job], turns: int
    ) -> None:
        """After all jobs that have a number; later, if there are some of which nothing is known.

        Where nothing could be submitted it begins later with every turn, up to an hour.
        """
        after = [self.ids[job.name] for job in mine if job.name in self.ids]
        begin_s = self.settings.grace_s if len(after) < len(mine) or not after else 0.0
        if turns:
            begin_s = max(begin_s, min(3600.0, self.settings.grace_s * 2.0**turns))
        self._sbatch(name, resources, after[-_MOST_DEPENDENCIES:], begin_s)

    def _make_room(self, outcome: Outcome) -> bool:
        """Takes back the newest job of this step for a last one, which then submits its runs."""
        if outcome.jobs < 2:
            return False
        newest = [job for job in self.ledger.open if job.role != "leaderboard"][-1]
        self.grid.queue.cancel([self.ids.pop(newest.name)])
        ending = Ending(newest.name, "QUEUE_FULL", "taken back for the last job")
        self.submissions.write(self.ledger, settle_entry([ending]))
        outcome.jobs -= 1
        outcome.runs -= len(newest.runs)
        outcome.deferred += len(newest.runs)
        return True
