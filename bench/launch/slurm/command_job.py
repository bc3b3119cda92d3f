"""A job that executes one command of bench, such as a race, on the node that it was given.

The command is a process of its own, with the same Python. It ends by itself, and may be repeated:
what it has finished is in the store. Before the job's time limit it is asked to stop and the job
goes back into the queue; after a pre-emption SLURM puts it there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bench.launch.slurm.events import Events

_LOOK_S = 0.2
STOPPED = 130
"""The status of a command that has stopped as it was asked to."""


class Stop(Protocol):
    """Whether the job was asked to end."""

    asked: bool


def run_command(payload: Mapping[str, Any], events: Events, stop: Stop) -> int:
    """Runs the command to its end, or until the job is asked to stop; its status.

    Args:
        payload: of the job: `arguments` of bench, and `log`, to which its output is added.
        events: of the job.
        stop: looked at again and again.
    """
    with Path(payload["log"]).open("ab") as log:
        command = [sys.executable, "-m", "bench", *payload["arguments"]]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_leave_to_the_job
        )
    asked = False
    while (status := child.poll()) is None:
        if stop.asked and not asked:
            asked = True
            child.terminate()
        time.sleep(_LOOK_S)
    if status == STOPPED:  # it had begun, so the next turn goes on from further ahead
        events({"event": "ended", "id": payload["name"], "status": "stopped"})
    return status if status >= 0 else 128 - status


def _leave_to_the_job() -> None:
    """SLURM signals all processes of a job; that the time limit is near is the job's affair."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
