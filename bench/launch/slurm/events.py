"""What a job writes down as it goes, in its own folder, and how that is read again."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CANCEL = "cancel.json"
"""In a job's folder: a list of runs to leave alone, or `"all"`."""

_EPOCH_EVERY_S = 1.0


class Events:
    """One file of JSON lines that this process alone appends to."""

    def __init__(self, folder: Path) -> None:
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        name = f"{restart:04d}-{socket.gethostname()}-{os.getpid()}"
        self.begun = time.monotonic()
        self.file: IO[str] = (folder / f"events-{name}.jsonl").open("a", buffering=1)
        self.said_at = 0.0
        self._own_log(folder / f"log-{name}.txt")
        self({"event": "began", "host": socket.gethostname(), "restart": restart})

    def _own_log(self, path: Path) -> None:
        """Output goes to a file of this attempt: a requeued job would append to the old one's."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)

    def __call__(self, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if event["event"] == "epoch":
            if now - self.said_at < _EPOCH_EVERY_S:
                return
            self.said_at = now
        line = json.dumps({**event, "at_s": round(now - self.begun, 3)})
        self.file.write(line + "\n")
        if event["event"] in ("started", "ended", "blocked"):
            words = " ".join(str(event.get(key, "")) for key in ("event", "id", "status"))
            print(f"bench: {words.strip()}", file=sys.stderr, flush=True)


def read_events(folder: Path) -> list[list[dict[str, Any]]]:
    """The events of a job, a list for each attempt, in the order of the attempts.

    A last line that is torn is left out: its writer was killed.
    """
    attempts = []
    for path in sorted(folder.glob("events-*.jsonl")):
        events = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        attempts.append(events)
    return attempts
