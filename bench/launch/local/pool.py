"""A pool of worker processes on this machine.

Workers stay alive from batch to batch, so the libraries are imported once. Each has its own
threads; two workers of one thread do more than one of two on small networks. A worker that dies
is replaced and its run tried again; a worker dies with the command.
"""

from __future__ import annotations

import collections
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from bench.core.errors import BenchError
from bench.launch.devices import VISIBLE, least_used
from bench.planning.plan import Batch
from bench.results.store import Store
from bench.specs.planned import Plan, PlannedRun

Listener = Callable[[Mapping[str, Any]], None]


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    errors: IO[str]
    card: str | None = None
    batch: list[PlannedRun] = field(default_factory=list)
    running: str | None = None
    idle: bool = False
    begun: bool = False
    told: bool = False
    buffer: str = ""

    def send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its death is seen by the pool's next look

    def last_words(self, lines: int = 12) -> str:
        self.errors.seek(0)
        return "".join(self.errors.readlines()[-lines:]).strip()


@dataclass(frozen=True)
class PoolResult:
    """Whether everything was worked through, or a stop was asked for."""

    interrupted: bool


class Pool:
    """Runs batches on this machine.

    Args:
        plan: for parents and children.
        store: where results go.
        context: what a worker needs to know, as JSON values; see `bench.runs.execute.Context`.
        workers: number of processes.
        threads: CPU threads of each.
        listener: is told every event.
        environment: laid over that of the workers.
        cards: GPUs, of which each worker sees one; see `bench.launch.devices`.
        max_attempts: how often a run whose worker died is tried.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        context: Mapping[str, Any],
        *,
        workers: int,
        threads: int,
        listener: Listener,
        environment: Mapping[str, str] | None = None,
        cards: tuple[str, ...] = (),
        max_attempts: int = 3,
    ) -> None:
        self.plan, self.store, self.context = plan, store, context
        self.size, self.threads = workers, threads
        self.listener, self.max_attempts = listener, max_attempts
        self.environment, self.cards = dict(environment or {}), cards
        self.deaths: collections.Counter[str] = collections.Counter()
        self.waiting: list[Batch] = []
        self.later: list[tuple[float, list[PlannedRun]]] = []
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.stopping = False
        self.stillborn = 0
        self.usable: set[str] = set()
        self.unusable: set[str] = set()

    def run(
        self, batches: Iterable[Batch], usable: Iterable[str], unusable: Iterable[str]
    ) -> PoolResult:
        """Works through the batches.

        Args:
            batches: parents before children.
            usable: ids of parents that are done already.
            unusable: ids of runs that ended without weights; what starts from them is not run.
        """
        self.waiting, self.usable, self.unusable = list(batches), set(usable), set(unusable)
        try:
            while self._step():
                pass
        finally:
            self._end_workers()
        return PoolResult(self.stopping)

    def stop(self) -> None:
        """Asks every worker to write a checkpoint and end; `run` returns soon after.

        One that still imports its libraries has nothing in hand, and is not waited for.
        """
        # Only a flag: a signal may come in the middle of writing to a worker.
        self.stopping = True

    def _tell_to_stop(self) -> None:
        for worker in self.workers:
            if not worker.told:
                worker.told = True
                if worker.begun:
                    worker.send({"stop": True})
                else:
                    worker.process.kill()

    # --- one turn ---

    def _step(self) -> bool:
        self._bury_the_dead()
        if self.stopping:
            return self._drain()
        self._wake_later()
        for worker in self.workers:
            if worker.idle:
                self._give(worker)
        while len(self.workers) < min(self.size, len(self.workers) + self._ready_count()):
            self._start()
        if not any(w.batch or not w.idle for w in self.workers) and not self.later:
            return self._ready_count() > 0
        self._listen(0.2)
        return True

    def _drain(self) -> bool:
        self._tell_to_stop()
        self._listen(0.1)
        return any(worker.process.poll() is None for worker in self.workers)

    def _ready(self, batch: Batch) -> bool:
        return self.usable.issuperset(batch.needs)

    def _ready_count(self) -> int:
        return sum(self._ready(batch) for batch in self.waiting)

    def _wake_later(self) -> None:
        now = time.monotonic()
        due = [runs for at, runs in self.later if at <= now]
        self.later = [(at, runs) for at, runs in self.later if at > now]
        self.waiting[:0] = [Batch("again", tuple(runs)) for runs in due]

    def _give(self, worker: _Worker) -> None:
        batch = next((b for b in self.waiting if self._ready(b)), None)
        if batch is None:
            return
        self.waiting.remove(batch)
        worker.batch, worker.idle = list(batch.runs), False
        runs = [{"id": run.id, "spec": run.spec.model_dump(mode="json")} for run in batch.runs]
        context = dict(self.context)
        if batch.runs[0].role != "source":
            context["gpus"] = 1  # several are for what other runs start from
        worker.send({"batch": runs, "context": context})

    def _start(self) -> None:
        libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(libraries, str(self.threads)) | self.environment
        card = least_used(self.cards, (worker.card for worker in self.workers))
        if card is not None:
            environment[VISIBLE] = card
        errors = tempfile.TemporaryFile(  # noqa: SIM115
            "w+", prefix="bench-worker-", encoding="utf-8", errors="replace"
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.launch.local.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the command alone, which then asks politely
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        worker = _Worker(process, errors, card)
        self.workers.append(worker)
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)

    def _listen(self, timeout: float) -> None:
        for key, _ in self.selector.select(timeout) if self.workers else []:
            worker: _Worker = key.data
            chunk = os.read(key.fd, 1 << 16).decode(errors="replace")
            *lines, worker.buffer = (worker.buffer + chunk).split("\n")
            for line in lines:
                self._hear(worker, json.loads(line))
            if not chunk:
                worker.process.wait()

    def _hear(self, worker: _Worker, event: Mapping[str, Any]) -> None:
        kind, run_id = event["event"], event.get("id")
        worker.begun = True
        if kind == "idle":
            left = [run for run in worker.batch if run.id not in self.usable | self.unusable]
            worker.batch, worker.running, worker.idle = [], None, True
            if left and not self.stopping:
                self.later.append((time.monotonic() + 2.0, left))
        elif kind == "started":
            worker.running = run_id
        elif kind == "ended":
            worker.running = None
            if event["status"] in ("done", "already"):
                self.usable.add(str(run_id))
            elif event["status"] in ("failed", "diverged", "blocked"):
                self.unusable.add(str(run_id))
        self.listener(event)

    def _bury_the_dead(self) -> None:
        for worker in [w for w in self.workers if w.process.poll() is not None]:
            self._listen(0)
            assert worker.process.stdout is not None
            self.selector.unregister(worker.process.stdout)
            self.workers.remove(worker)
            if not self.stopping:
                self._retry(worker)
            worker.process.stdout.close()
            worker.errors.close()

    def _retry(self, worker: _Worker) -> None:
        left = [run for run in worker.batch if run.id not in self.usable | self.unusable]
        code = worker.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
        if not worker.batch:
            self.stillborn += not worker.idle
            if self.stillborn >= self.max_attempts:
                raise BenchError(
                    f"workers cannot start; the last one {how}", hint=worker.last_words()
                )
        culprit = worker.running or left[0].id if left else None
        if culprit is not None:
            self.deaths[culprit] += 1
            self.listener({"event": "worker_died", "id": culprit, "message": how})
            if self.deaths[culprit] >= self.max_attempts:
                left = [run for run in left if run.id != culprit]
                self._give_up(culprit, how, worker.last_words())
        if left:
            self.waiting.insert(0, Batch("again", tuple(left)))

    def _give_up(self, run_id: str, how: str, words: str) -> None:
        self.unusable.add(run_id)
        spec = self.plan.runs[run_id].spec
        failure = {"run_id": run_id, "reason": "worker died", "message": f"{how}\n{words}".strip()}
        self.store.folder(run_id, spec).add_failure(failure)
        self.listener({"event": "ended", "id": run_id, "status": "failed", "message": how})

    def _end_workers(self) -> None:
        for worker in self.workers:
            assert worker.process.stdin is not None
            worker.process.stdin.close()  # the end of its input ends a worker
        for worker in self.workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            assert worker.process.stdout is not None
            worker.process.stdout.close()
            worker.errors.close()
        self.workers.clear()
        self.selector.close()
