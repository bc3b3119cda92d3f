"""This user's jobs on the cluster, by name: one call of each program for all of them.

`squeue` first; accounting (`sacct`) for what the controller has forgotten, where there is any. A
controller that does not answer is an error of its own kind: nothing may be concluded from it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.core.errors import BenchError

ALIVE = frozenset(
    [
        "PENDING",
        "RUNNING",
        "CONFIGURING",
        "COMPLETING",
        "SUSPENDED",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESIZING",
        "SIGNALING",
        "STAGE_OUT",
        "STOPPED",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
    ]
)
"""States of jobs that run or may yet run."""

_NEVER = {
    "PartitionConfig": "no node of the partition has so many CPUs, GPUs or so much memory",
    "BadConstraints": "no node satisfies the constraint or the resources asked for",
    "DependencyNeverSatisfied": "what it waited for has ended otherwise",
    "PartitionNodeLimit": "the partition does not allow so many nodes, or so few",
    "PartitionTimeLimit": "the partition does not allow so much time",
    "AccountNotAllowed": "the partition does not take this account",
    "InvalidAccount": "there is no such account",
    "InvalidQOS": "there is no such quality of service",
    "QOSNotAllowed": "the account may not use this quality of service",
    "AssocMaxWallDurationPerJobLimit": "the account does not allow so much time",
    "QOSMaxWallDurationPerJobLimit": "the quality of service does not allow so much time",
    "AssocMaxCpuPerJobLimit": "the account does not allow so many CPUs",
    "QOSMaxCpuPerJobLimit": "the quality of service does not allow so many CPUs",
    "AssocMaxMemPerJob": "the account does not allow so much memory",
    "QOSMaxMemoryPerJob": "the quality of service does not allow so much memory",
    "QOSMaxGRESPerJob": "the quality of service does not allow so many GPUs",
}
LAUNCH_FAILED = "launch failed requeued held"


def never_starts(reason: str) -> str | None:
    """Why a pending job with this reason of SLURM's can never start; None if it may.

    >>> never_starts("PartitionConfig")
    'PartitionConfig: no node of the partition has so many CPUs, GPUs or so much memory'
    >>> never_starts("Resources") is None
    True
    """
    text = reason.strip("() ")
    if text in _NEVER:
        return f"{text}: {_NEVER[text]}"
    return None


class ClusterError(BenchError):
    """SLURM is not installed, or its controller does not answer; nothing was submitted."""


@dataclass(frozen=True)
class QueuedJob:
    """One job as SLURM lists it; `reason` is why it is pending, or how it ended."""

    id: str
    name: str
    state: str
    reason: str = ""
    node: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs or may yet run."""
        return self.state in ALIVE

    @property
    def words(self) -> str:
        """How it stands.

        >>> QueuedJob("7", "birds", "PENDING", "Resources").words
        'job 7 waits in the queue (Resources)'
        """
        if self.state == "PENDING":
            return f"job {self.id} waits in the queue ({self.reason})"
        return f"job {self.id} is {self.state.lower()} on {self.node}"

    @property
    def launch_failed(self) -> bool:
        """Put back and held because its node could not start it; it stays so until released."""
        return self.state == "PENDING" and self.reason.replace("_", " ") == LAUNCH_FAILED


@dataclass(frozen=True)
class Limits:
    """How many jobs one may have in the queue; None where the cluster sets no limit."""

    max_submit_jobs: int | None
    max_job_count: int | None

    @property
    def most(self) -> int | None:
        """The smaller of the two."""
        known = [n for n in (self.max_submit_jobs, self.max_job_count) if n is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class Queue:
    """The programs of the cluster that this machine is a client of (see SLURM_CONF)."""

    timeout_s: float = 60.0

    def jobs(self) -> Mapping[str, QueuedJob]:
        """This user's jobs by name, ended ones included as long as the controller lists them.

        Raises:
            ClusterError: squeue is missing or the controller does not answer.
        """
        command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}"]
        text = self._call([*command, "--format=%i|%T|%N|%r|%j"])
        found: dict[str, QueuedJob] = {}
        for line in text.splitlines():
            parts = line.split("|", 4)
            if len(parts) == 5:
                number, state, node, reason, name = parts
                job = QueuedJob(number, name, state, reason, node)
                if name not in found or job.alive or not found[name].alive:
                    found[name] = job
        return found

    def accounting(self) -> Mapping[str, QueuedJob] | None:
        """The same from accounting, of the last 30 days; None where there is no accounting."""
        command = ["sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-30days"]
        command += [f"--uid={os.getuid()}", "--format=JobID,State,NodeList,ExitCode,JobName"]
        try:
            text = self._call(command)
        except ClusterError:
            return None
        found: dict[str, QueuedJob] = {}
        for line in text.splitlines():
            parts = line.split("|", 4)
            if len(parts) == 5:
                number, state, node, code, name = parts
                word = (state.split() or ["UNKNOWN"])[0]  # "CANCELLED by 1000"
                found[name] = QueuedJob(number, name, word, f"exit code {code}", node)
        return found

    def limits(self) -> Limits:
        """MaxJobCount of the cluster, MaxSubmitJobs of the user's associations and QOS."""
        config = self._call(["scontrol", "show", "config"])
        count = re.search(r"^MaxJobCount\s*=\s*(\d+)", config, re.MULTILINE)
        submit = None
        if re.search(r"^AccountingStorageType\s*=\s*accounting_storage/slurmdbd", config, re.M):
            submit = self._max_submit_jobs()
        return Limits(submit, int(count[1]) if count else None)

    def _max_submit_jobs(self) -> int | None:
        import getpass

        base = ["sacctmgr", "--noheader", "--parsable2", "show"]
        try:
            text = self._call(
                [*base, "assoc", f"user={getpass.getuser()}", "format=MaxSubmitJobs,MaxJobs"]
            )
        except ClusterError:
            return None
        numbers = [line.split("|")[0] for line in text.splitlines()]
        return min((int(n) for n in numbers if n.isdigit()), default=None)

    def gpus(self, partition: str | None) -> int:
        """The most GPUs that a node of a partition has; 0 where it has none or cannot be asked.

        Args:
            partition: its name, or several separated by commas; None is the cluster's default one.
        """
        command = ["sinfo", "--noheader", "--format=%P|%G"]
        try:
            lines = self._call([*command, *([f"--partition={partition}"] if partition else [])])
        except ClusterError:
            return 0
        most = 0
        for line in lines.splitlines():
            name, _, gres = line.partition("|")
            if partition is None and not name.endswith("*"):
                continue
            for number in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres):
                most = max(most, int(number))
        return most

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancels jobs; those that have ended meanwhile are no error."""
        ids = list(ids)
        for start in range(0, len(ids), 500):
            self._call(["scancel", "--quiet", *ids[start : start + 500]], may_fail=True)

    def _call(self, command: Sequence[str], *, may_fail: bool = False) -> str:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise ClusterError(
                f"there is no program {command[0]} here",
                hint="--slurm works on a machine from which jobs are submitted; see docs/slurm.md",
            ) from None
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"{command[0]} did not answer within {self.timeout_s:.0f} s",
                hint="the controller is busy or down; nothing was submitted; try again later",
            ) from None
        if done.returncode and not may_fail:
            text = " ".join(done.stderr.split())[:300] or f"exit status {done.returncode}"
            raise ClusterError(
                f"{command[0]} failed: {text}",
                hint="nothing was submitted; try again when the cluster answers",
            )
        return done.stdout
