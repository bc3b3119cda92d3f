"""Submission of one job through submitit: the only module that imports it.

submitit writes the batch script, pickles the callable and calls sbatch. Its result files and its
idea of a job's state are not used: what is done is what the store has, what is queued is what
`bench.launch.slurm.client` reads.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.launch.slurm.client import ClusterError
from bench.launch.slurm.settings import Resources

_FULL = re.compile(
    r"Max\w*Submit\w*|MaxJobCount|job submit limit|temporarily unable to accept", re.I
)
_LIMIT = re.compile(r"\b(?:QOS|Assoc|Group|Grp)\w*(?:Limit|PerJob|PerUser|PerAccount|PerNode)\w*")
_DOWN = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection refused|connect failure|"
    r"Zero Bytes were transmitted|Transport endpoint|in standby mode|Communication connection",
    re.I,
)


class QueueFullError(BenchError):
    """The cluster takes no more jobs of this user for now; the rest follows later."""


class RefusedError(BenchError):
    """sbatch refused the job as it was asked for; asking again cannot succeed."""


def sbatch(
    job: Callable[[], None],
    folder: Path,
    name: str,
    resources: Resources,
    *,
    after: Sequence[str] = (),
    begin_s: float = 0.0,
    signal_delay_s: int,
) -> str:
    """Submits a job; gives SLURM's number, good for ordering only.

    Args:
        job: what it executes; pickled by reference.
        folder: of this job alone; payload and logs; private.
        name: `[a-z0-9-]`, unique: the job is known by it from now on.
        resources: everything decided.
        after: numbers of jobs that must have ended, in whatever way, before this one starts.
        begin_s: do not start earlier than so many seconds from now.
        signal_delay_s: SIGUSR2 is sent so long before the time limit.

    Raises:
        QueueFullError, RefusedError: by sbatch's own message, which is part of theirs.
        ClusterError: the controller does not answer; whether the job arrived is not known.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    with _outside_of_jobs():
        try:
            executor = SlurmExecutor(folder, max_num_timeout=10**6)
            executor.update_parameters(
                **_parameters(folder, name, resources, after, begin_s, signal_delay_s)
            )
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what its error has
                return str(executor.submit(job).job_id)
        except (FailedJobError, FailedSubmissionError) as error:
            raise _meaning(str(error)) from None
        except RuntimeError as error:
            raise ClusterError(str(error), hint="see docs/slurm.md") from None


def _parameters(
    folder: Path,
    name: str,
    resources: Resources,
    after: Sequence[str],
    begin_s: float,
    signal_delay_s: int,
) -> dict[str, Any]:
    limit = resources.timeout_min or 60
    cpus = resources.cpus_per_task or 1
    additional: dict[str, Any] = dict(resources.additional)
    # A parent that failed must not leave its child waiting for ever; a dead node requeues.
    additional |= {"requeue": True, "kill-on-invalid-dep": "yes"}
    if begin_s > 0:
        additional["begin"] = f"now+{round(begin_s)}"
    here = shlex.quote(str(folder))
    return {
        "job_name": name,
        "time": limit,
        "mem": f"{max(1, round(1024 * resources.memory_gib))}M" if resources.memory_gib else None,
        "cpus_per_task": cpus,
        "gpus_per_node": resources.gpus_per_node or None,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gres": resources.gres,
        "nodelist": resources.nodelist,
        "exclude": resources.exclude,
        "wckey": None,
        "signal_delay_s": max(5, min(signal_delay_s, limit * 60 // 3)),
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        # Newer SLURM does not hand --cpus-per-task on to srun.
        "srun_args": [f"--cpus-per-task={cpus}"],
        # submitit renames the pickle after sbatch; killed in between, the job helps itself.
        "setup": [
            f'ln -- {here}/*.pkl {here}/"${{SLURM_JOB_ID}}_submitted.pkl" 2>/dev/null || true'
        ],
        "additional_parameters": additional,
    }


def _meaning(text: str) -> BenchError:
    """sbatch's error, classified by what one can do about it."""
    lines = [line for line in text.splitlines() if line.strip().startswith("sbatch: ")]
    words = " ".join(lines or text.split())[:400].replace("sbatch: error: ", "")
    if _DOWN.search(text):
        return ClusterError(words, hint="try again when the controller answers")
    # SLURM says the same of all limits of a QOS; where it names the one, that one counts.
    named = _LIMIT.findall(text)
    if any("Submit" in name for name in named) or (not named and _FULL.search(text)):
        return QueueFullError(words)
    return RefusedError(
        f"the cluster refuses the job: {words}",
        hint="change the grid's slurm: section or the --slurm-… options; see docs/slurm.md",
    )


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of a surrounding job, which a new job would inherit and obey."""
    hidden = {
        key: os.environ.pop(key)
        for key in list(os.environ)
        if key.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and key != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
