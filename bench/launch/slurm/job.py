"""What a job executes: the runs of its payload that are not published yet; or a race's command, or
the decoding of images.

The pickle that submitit carries holds the name of a folder; everything else is read here, from
JSON. The job checks that its code is that of the submission, that the folder is private and that
parents are published, then calls `bench.runs.execute.execute_batch`. Signals:

    SIGUSR2   the time limit is near: checkpoint, and back into the queue
    SIGTERM   pre-emption, requeue or cancellation: checkpoint, and end; SLURM decides what follows
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench.core.errors import BenchError
from bench.launch.slurm.events import CANCEL, Events, read_events
from bench.launch.slurm.permissions import check_private, code_digest
from bench.results.store import RunFolder, Store
from bench.specs.run import RunSpec

_LOOK_EVERY_S = 2.0
_ELSEWHERE_S = 3.0
_FRUITLESS = 3


class Job:
    """The callable that submitit pickles: by reference, with a folder's name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Runs the job; ends the process with a status other than 0 when something is left."""
        status = _run(Path(self.folder))
        if status:
            sys.exit(status)

    def checkpoint(self) -> Any:
        """For a signal that comes before the job's own handlers are there: as it was, once more."""
        from submitit.helpers import DelayedSubmission

        return None if (Path(self.folder) / CANCEL).exists() else DelayedSubmission(self)


def _run(folder: Path) -> int:
    stop = _Stop()
    for leftover in folder.glob("*_result.pkl.save_tmp"):  # of a kill during submitit's last write
        leftover.unlink(missing_ok=True)
    check_private(folder)
    payload = json.loads((folder / "payload.json").read_text())
    events = Events(folder)
    found = code_digest()
    if payload["code"] != found:
        text = f"submitted with code {payload['code'][:12]}, but here is {found[:12]}: not run"
        events({"event": "refused", "message": text})
        print(f"bench: {text}; submit again with bench resume", file=sys.stderr)
        return 3
    if payload["role"] == "leaderboard":
        from bench.launch.slurm.final_job import last_job

        last_job(payload, folder, Job)
        return 0
    next_run = None
    if payload["role"] == "race":
        from bench.launch.slurm.command_job import run_command

        status = run_command(payload, events, stop)
    elif payload["role"] == "decode":
        from bench.launch.slurm.decode_job import decode_job

        status = decode_job(payload, folder, events, stop)
    else:
        from bench.data.opened import rely_on_tables

        rely_on_tables()
        work = _Work(folder, payload, events, stop)
        status, next_run = work.run(), work.next_run
    if status == 0:
        events({"event": "finished"})
    elif stop.requeue and not (folder / CANCEL).exists():
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if restarts < payload["max_requeues"] and not _in_vain(read_events(folder)):
            return _requeue()
        events({"event": "limit", "id": next_run, "restarts": restarts})
    return status


def _in_vain(attempts: Sequence[Sequence[Mapping[str, Any]]]) -> bool:
    """Whether the last attempts ended before any run did a step: the time is too short for that."""
    last = attempts[-_FRUITLESS:]
    fruitless = [not any(event["event"] == "ended" for event in events) for events in last]
    return len(fruitless) == _FRUITLESS and all(fruitless)


def _requeue() -> int:
    command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        print(f"bench: requeue failed: {done.stderr.strip()}", file=sys.stderr)
        return 5
    # SLURM ends this process now; leaving first would look like an end of one's own.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
    time.sleep(60)
    return 5


class _Stop:
    """Signals, turned into a flag that training asks for after each step."""

    def __init__(self) -> None:
        self.asked, self.requeue = False, False
        signal.signal(signal.SIGUSR2, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.requeue = number == signal.SIGUSR2  # a later SIGTERM has the last word


class _Work:
    """Works through the runs of a payload."""

    def __init__(
        self, folder: Path, payload: Mapping[str, Any], events: Events, stop: _Stop
    ) -> None:
        self.folder, self.payload, self.events, self.stop = folder, payload, events, stop
        self.store = Store(Path(payload["context"]["results"]))
        self.runs = [(run["id"], RunSpec.model_validate(run["spec"])) for run in payload["runs"]]
        self.needs: dict[str, list[str]] = {run["id"]: run["needs"] for run in payload["runs"]}
        self.finished: set[str] = set()
        self.elsewhere: set[str] = set()
        self.current_run: str | None = None
        self.unwanted: frozenset[str] = frozenset()
        self.looked_at = 0.0

    def run(self) -> int:
        """0 if everything is published, blocked or failed with its reason kept."""
        self._skip_blocked()
        while not self.stop.asked:
            todo = [run for run in self.runs if self._wanted(run[0])]
            if not todo:
                return 0
            self.elsewhere.clear()
            self._execute(todo)
            if self.elsewhere and not self.stop.asked:
                # Another process executes it, such as this job's earlier attempt on a lost node.
                time.sleep(_ELSEWHERE_S)
        return 5

    @property
    def next_run(self) -> str | None:
        """The first run that is not finished."""
        return next((key for key, _ in self.runs if key not in self.finished), None)

    def _execute(self, todo: Sequence[tuple[str, RunSpec]]) -> None:
        threads = self.payload["context"]["threads"]
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        from bench.results.failures import GpuFaultError
        from bench.runs.build import Context
        from bench.runs.execute import execute_batch
        from bench.training.process import prepare

        prepare(threads)
        context = Context(**self.payload["context"])
        try:
            execute_batch(
                todo,
                context,
                report=self._on_event,
                should_stop=self._should_stop,
                is_wanted=self._wanted,
            )
        except GpuFaultError as error:  # the other runs need a process whose GPU works
            print(f"bench: the GPU failed, so this job ends: {error}", file=sys.stderr)
            self.stop.asked = True

    def _on_event(self, event: dict[str, Any]) -> None:
        kind, run_id = event["event"], str(event.get("id"))
        if kind == "started":
            self.current_run = run_id
        elif kind == "ended":
            self.current_run = None
            status = event["status"]
            if status == "elsewhere":
                self.elsewhere.add(run_id)
            elif status != "stopped":
                self.finished.add(run_id)
        self.events(event)

    def _should_stop(self) -> bool:
        self._look()
        return self.stop.asked or self.current_run in self.unwanted

    def _wanted(self, run_id: str) -> bool:
        self._look()
        return run_id not in self.finished and run_id not in self.unwanted

    def _look(self) -> None:
        """Reads what `bench cancel` left, every now and then."""
        if time.monotonic() - self.looked_at < _LOOK_EVERY_S:
            return
        self.looked_at = time.monotonic()
        try:
            found = json.loads((self.folder / CANCEL).read_text())
        except (OSError, ValueError):
            return
        ids = [key for key, _ in self.runs] if found == "all" else found
        self.unwanted = frozenset(ids)

    def _skip_blocked(self) -> None:
        """Runs whose parent has no result cannot start; the parent's job ended, so they are not
        left pending but reported as blocked."""
        published = self.store.published()
        usable: dict[str, bool] = {}
        for key, spec in self.runs:
            if key in published:
                continue
            for run_id, needed in zip(self.needs[key], spec.needs, strict=True):
                if run_id not in usable:
                    usable[run_id] = self._wait_for(self.store.folder(run_id, needed))
                if not usable[run_id]:
                    self.finished.add(key)
                    self.events({"event": "blocked", "id": key, "by": run_id})
                    break

    def _wait_for(self, parent: RunFolder) -> bool:
        """Whether the parent is done; a shared file system may show its record late."""
        deadline = time.monotonic() + self.payload["lag_s"]
        while not self.stop.asked:
            if parent.path.is_dir():
                list(parent.path.iterdir())  # makes a network file system look again
            try:
                record = parent.record()
            except BenchError:
                return False
            if record is not None:
                return str(record["row"]["status"]) == "done"
            if parent.failures() or time.monotonic() >= deadline:
                return False
            time.sleep(0.5)
        return False
