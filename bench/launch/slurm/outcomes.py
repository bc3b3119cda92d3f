"""How a job ended, and which run is to blame: from SLURM's state, the job's events and its logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.launch.slurm.client import QueuedJob, never_starts
from bench.launch.slurm.events import CANCEL, read_events
from bench.launch.slurm.ledger import Ending, FailedAttempt, Job, SubmissionStore

_MEMORY = re.compile(
    r"oom[-_ ]?kill|(?<!CUDA )(?<!CUDA error: )out of memory|exceeded memory limit|\bMemoryError",
    re.I,
)
_NOT_HERE = re.compile(
    r"No module named '(bench[\w.]*)'|Can't get attribute '\w+' on <module '(bench\S*)'"
)
"""In the log of a job whose pickle names code that is not there any more."""
_REASONS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "LAUNCH_FAILED": "node failure",
    "LOST": "lost",
}
_NOBODYS_FAULT = frozenset({"COMPLETED", "PREEMPTED", "REVOKED", "NEVER_ARRIVED"})


def current_run(attempts: Sequence[Sequence[Mapping[str, Any]]]) -> str | None:
    """The run that the newest attempt has begun and not ended, by its events."""
    current = None
    for event in attempts[-1] if attempts else ():
        if event["event"] == "started":
            current = str(event["id"])
        elif event["event"] == "ended":
            current = None
    return current


def is_of_memory(log: str) -> bool:
    """Whether a log shows that a job had too little memory."""
    return _MEMORY.search(log) is not None


def last_log_lines(folder: Path, lines: int = 12) -> str:
    """The last lines of the newest attempt's log, and of SLURM's own."""
    logs = sorted(folder.glob("log-*.txt"))[-1:] + sorted(folder.glob("*_log.err"))[-1:]
    found: list[str] = []
    for path in logs:
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            continue
        kept = [line for line in text.splitlines() if line.strip() and "submitit" not in line]
        found += kept[-lines:]
    return "\n".join(found[-lines:])


@dataclass
class JobClassifier:
    """Decides which open jobs have ended.

    Attributes:
        queue: jobs that the controller lists, by name.
        accounting: asked at most once, for jobs that the controller does not list.
        published: ids of runs with a record.
        grace_s: how long a job that is listed nowhere is waited for.
    """

    submissions: SubmissionStore
    queue: Mapping[str, QueuedJob]
    accounting: Callable[[], Mapping[str, QueuedJob] | None]
    published: Set[str]
    grace_s: float

    def classify(self, job: Job) -> Ending | None:
        """The ending of a job; None while it runs, waits, or may yet turn up."""
        known = self.queue.get(job.name)
        if known is not None and known.alive:
            return self._of_living(job, known)
        if known is None:
            known = (self.accounting() or {}).get(job.name)
            if known is None or known.alive:
                return self._of_unknown(job)
        return self._of_dead(job, known.state, known.reason)

    def _of_living(self, job: Job, known: QueuedJob) -> Ending | None:
        if known.state != "PENDING":
            return None
        if known.launch_failed:
            return self._of_dead(job, "LAUNCH_FAILED", known.reason)
        why = never_starts(known.reason)
        if why is None:
            return None
        if known.reason == "DependencyNeverSatisfied":
            return Ending(job.name, "CANNOT_START", why)
        return Ending(job.name, "CANNOT_START", why, self._all(job, "cannot start", why))

    def _of_unknown(self, job: Job) -> Ending | None:
        folder = self.submissions.job_folder(job.name)
        attempts = read_events(folder)
        if any(event["event"] in ("finished", "refused") for event in _last(attempts)):
            return self._of_dead(job, "COMPLETED", "forgotten by the cluster")
        if job.runs and all(run in self.published for run in job.runs):
            return Ending(job.name, "COMPLETED", "forgotten by the cluster")
        signs = [*sorted(folder.glob("events-*.jsonl"))[-1:], job.entry]
        age = min(self.submissions.age_s(path) for path in signs if path is not None)
        if age < self.grace_s:
            return None
        arrived = bool(attempts) or any(folder.glob("*_submitted.pkl"))
        if not arrived:
            return Ending(job.name, "NEVER_ARRIVED", "its submission was cut off")
        return self._of_dead(job, "LOST", "neither the controller nor accounting lists it")

    def _of_dead(self, job: Job, state: str, reason: str) -> Ending:
        folder = self.submissions.job_folder(job.name)
        attempts = read_events(folder)
        for event in _last(attempts):
            if event["event"] == "refused":
                return Ending(job.name, "CODE_CHANGED", str(event["message"]))
            if event["event"] == "limit":
                message = f"no end in sight after {event['restarts']} returns to the queue"
                charged = self._all(job, "time limit", message, only=str(event["id"]))
                return Ending(job.name, "TIMEOUT", reason, charged)
        if state == "CANCELLED":
            return self._of_cancelled(job, reason)
        if state in _NOBODYS_FAULT or job.role == "leaderboard":
            return Ending(job.name, state, reason)
        log = last_log_lines(folder)
        if not attempts and (gone := _NOT_HERE.search(log)):
            text = f"submitted by another version of bench, whose {gone[1] or gone[2]} is not here"
            return Ending(job.name, "CODE_CHANGED", f"{text}; bench resume submits its runs again")
        why = _REASONS.get(state, "job failed")
        if state == "FAILED" and is_of_memory(log):
            why = "out of memory"
        message = f"{state} {reason}".strip() + (f"\n{log}" if log else "")
        blamed = current_run(attempts)
        if blamed is not None:
            charged = self._all(job, why, message, only=blamed)
        elif attempts and any(event["event"] == "ended" for event in _last(attempts)):
            charged = ()  # between two runs, or stopped as it was asked to
        elif state in ("LOST", "LAUNCH_FAILED", "NODE_FAIL", "BOOT_FAIL"):
            charged = ()  # the cluster's fault, before any run began
        else:
            charged = self._all(job, why, message, final=False)
        return Ending(job.name, state, reason, charged)

    def _of_cancelled(self, job: Job, reason: str) -> Ending:
        by_bench = (self.submissions.job_folder(job.name) / CANCEL).exists()
        if by_bench or reason == "DependencyNeverSatisfied" or job.role == "leaderboard":
            return Ending(job.name, "CANCELLED", reason)
        message = "by scancel, not by bench cancel; bench resume submits it again"
        return Ending(job.name, "CANCELLED", reason, self._all(job, "cancelled", message))

    def _all(
        self, job: Job, reason: str, message: str, *, only: str | None = None, final: bool = True
    ) -> tuple[FailedAttempt, ...]:
        """A failed attempt for each run that is not published, or for `only` that one."""
        return tuple(
            FailedAttempt(run, job.name, reason, message, final and only is None)
            for run in job.runs
            if run not in self.published and only in (None, run)
        )


def _last(attempts: Sequence[Sequence[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    return attempts[-1] if attempts else ()
