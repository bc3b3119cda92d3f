"""A race as one job of a SLURM cluster: the command of the race, on one node that SLURM gives.

The job asks for the time of the budget and a reserve. The budget begins when the job begins, not
with the wait in the queue. Put back into the queue, by pre-emption or at a time limit that is
shorter, it goes on with what the budget still has. The job is written down in the same ledger as
those of a grid, so `bench status` shows it, `bench cancel` ends it, and there is one at a time.

What it does not do: a race has the workers of one node, one for each GPU or CPU of its job. It is
not spread over several nodes, as its rungs wait for their slowest recipe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.text import counted, duration
from bench.launch.slurm import ledger as ledgers
from bench.launch.slurm.client import Queue, QueuedJob
from bench.launch.slurm.job import Job
from bench.launch.slurm.ledger import Ending, Ledger, SubmissionStore, settle_entry
from bench.launch.slurm.outcomes import JobClassifier, is_of_memory, last_log_lines
from bench.launch.slurm.permissions import code_digest
from bench.launch.slurm.settings import Resources, SlurmSettings
from bench.launch.slurm.submission import job_name, write_down
from bench.launch.slurm.submit import QueueFullError, RefusedError, sbatch

RACE = "race"
"""The role of such a job."""

_RESERVE_S = 300.0
_LATE = 0.1
"""Of the budget: how much later a race may end, as it stops and writes its model."""

_GIB_OF_A_WORKER = 4.0


@dataclass(frozen=True)
class JobOfRace:
    """The newest job of a race.

    Attributes:
        job: as it was asked for.
        queued: as SLURM lists it; None where it does not.
        ending: how it ended; None while it may run.
    """

    job: ledgers.Job
    queued: QueuedJob | None = None
    ending: Ending | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs or may yet run."""
        return self.ending is None

    def __str__(self) -> str:
        if self.ending is not None:
            return f"job {self.job.name} ended: {self.ending.state} {self.ending.reason}".strip()
        if self.queued is None:
            return f"job {self.job.name} is not in the queue yet"
        return self.queued.words


def key_of_race(state: Path, results: Path) -> str:
    """Identity of a race in the ledger of its results, by the file in which it keeps its state."""
    place = state.resolve().relative_to(results.resolve()).as_posix()
    return hashlib.sha256(f"{RACE} {place}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RaceOnCluster:
    """A race that runs as a job.

    Attributes:
        name: of its grid.
        state: the file in which the race keeps what it has decided; it is known by that.
        results: the results folder.
        settings: what the cluster is asked for.
        queue: the cluster.
    """

    name: str
    state: Path
    results: Path
    settings: SlurmSettings
    queue: Queue = field(default_factory=Queue)

    @property
    def submissions(self) -> SubmissionStore:
        """Where submissions are written down."""
        return SubmissionStore(self.results.resolve() / "slurm")

    @property
    def key(self) -> str:
        """Identity of the race in the ledger."""
        return key_of_race(self.state, self.results)

    @property
    def log(self) -> Path:
        """What the race prints, of all its jobs."""
        return self.state.resolve().with_suffix(".log")

    @property
    def resources(self) -> Resources:
        """What the job asks for, without its time."""
        found, common = self.settings.resources("finetune"), self.settings
        if common.memory_gib is None and common.finetune.memory_gib is None and found.memory_gib:
            memory = _GIB_OF_A_WORKER * self._workers(found)
            return found.model_copy(update={"memory_gib": max(memory, found.memory_gib)})
        return found

    def _workers(self, resources: Resources) -> int:
        cpus, settings = resources.cpus_per_task or 1, self.settings
        gpus = None if settings.device == "cpu" else resources.gpus_asked
        return gpus or max(1, cpus // settings.threads)

    def machine_options(self) -> list[str]:
        """The options of the command on the node: what the job has, not what the node has."""
        resources, device = self.resources, self.settings.device
        if resources.gpus_asked and device != "cpu":
            return ["--device", "cuda"]  # a GPU that is not seen is an error
        return ["--device", device, "--workers", str(self._workers(resources))]

    def remarks(self) -> list[str]:
        """What may not be meant: nothing is wrong with it, and it may cost the race its time."""
        resources, settings = self.resources, self.settings
        found = settings.remarks(["finetune"], self.queue.gpus(resources.partition))
        if self._workers(resources) == 1 and not resources.gpus_asked and not found:
            found.append(
                "the job asks for one CPU, on which one recipe trains at a time: --slurm-set "
                "cpus_per_task=8 asks for more, --slurm-set gpus=1 for a GPU"
            )
        return found

    def look(self) -> JobOfRace | None:
        """The newest job; None where there was none. Writes down how it ended.

        Raises:
            ClusterError: the cluster does not answer.
        """
        if not self.submissions.exists:
            return None
        with self.submissions.lock():
            ledger = self.submissions.read()
            return self._look(ledger)

    def _look(self, ledger: Ledger) -> JobOfRace | None:
        mine = [job for job in ledger.jobs.values() if (job.role, job.grid) == (RACE, self.key)]
        if not mine:
            return None
        job = mine[-1]
        if job.name in ledger.endings:
            return JobOfRace(job, ending=ledger.endings[job.name])
        jobs = self.queue.jobs()
        classifier = JobClassifier(
            self.submissions, jobs, self.queue.accounting, frozenset(), self.settings.grace_s
        )
        ending = classifier.classify(job)
        if ending is not None:
            if job.name in jobs and jobs[job.name].alive:  # it can never start
                self.queue.cancel([jobs[job.name].id])
            self.submissions.write(ledger, settle_entry([ending]))
            self.submissions.tidy(ledger, [job.name])
        return JobOfRace(job, jobs.get(job.name), ending)

    def submit(self, arguments: Sequence[str], left_s: float) -> JobOfRace:
        """Submits the race, unless there is a job of it: then that one.

        Args:
            arguments: of bench, the command of the race without `--slurm`.
            left_s: seconds that the budget still has.

        Raises:
            ClusterError: the cluster does not answer; nothing was submitted.
            RefusedError: sbatch refuses the job.
            StoreError: the folder is not safe.
        """
        self.submissions.prepare()
        with self.submissions.lock():
            ledger = self.submissions.read()
            before = self._look(ledger)
            if before is not None and before.is_alive:
                return before
            self.queue.jobs()  # does it answer?
            if self.key not in ledger.commands:
                entry: dict[str, Any] = {"kind": "begin", "runs": [], "forgiven": {}}
                entry |= {"grid": self.key, "command": {"name": self.name}}
                self.submissions.write(ledger, entry)
            name, resources = job_name(self.name, ledger, RACE), self.timed(left_s)
            asked = resources.model_dump(exclude_none=True)
            job = ledgers.Job(name, RACE, (), self.key, asked, code_digest())
            self.log.parent.mkdir(parents=True, exist_ok=True)
            payload = {
                "arguments": list(arguments),
                "log": str(self.log),
                "max_requeues": self.settings.max_requeues,
            }
            write_down(self.submissions, ledger, [job], [payload])
            try:
                folder = self.submissions.job_folder(name)
                number = sbatch(
                    Job(str(folder)),
                    folder,
                    name,
                    resources,
                    signal_delay_s=self.settings.signal_delay_s,
                )
            except (QueueFullError, RefusedError) as error:
                refused = Ending(name, "REFUSED", error.message)
                self.submissions.write(ledger, settle_entry([refused]))
                raise
            return JobOfRace(job, QueuedJob(number, name, "PENDING", "just submitted"))

    def timed(self, left_s: float) -> Resources:
        """With the time of the job: what the budget has, and a reserve, at most what is allowed."""
        left_s = max(0.0, left_s)
        reserve_s = _LATE * left_s + _RESERVE_S + self.settings.signal_delay_s
        minutes = math.ceil((left_s + reserve_s) / 60)
        given = self.settings.finetune.timeout_min or self.settings.timeout_min
        return self.resources.model_copy(update={"timeout_min": min(minutes, given or minutes)})

    def last_lines(self, number: int = 1) -> list[str]:
        """The last lines of the log; none where there is no log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line.strip() for line in lines if line.strip()][-number:]

    def why(self, found: JobOfRace) -> list[str]:
        """The last lines of the log and of SLURM's own, and what to do where memory was short."""
        own = last_log_lines(self.submissions.job_folder(found.job.name), lines=3)
        lines = [*self.last_lines(3), *own.splitlines()]
        if is_of_memory(own):
            gib = 2 * (Resources(**found.job.resources).memory_gib or _GIB_OF_A_WORKER)
            lines.append(f"it had too little memory: --slurm-set memory_gib={gib:g} asks for more")
        return lines

    @staticmethod
    def words(job: ledgers.Job) -> str:
        """What a job asks for, in words."""
        resources = Resources(**job.resources)
        minutes = resources.timeout_min or 0
        gpus = resources.gpus_asked
        parts = [
            "one node",
            counted(gpus, "GPU") if gpus else "no GPU",
            counted(resources.cpus_per_task or 1, "CPU"),
            f"{resources.memory_gib:g} GiB" if resources.memory_gib else "",
            f"at most {duration(60.0 * minutes)}",
        ]
        return ", ".join(part for part in parts if part)
