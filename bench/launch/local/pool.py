"""A pool of worker processes on this machine.

Workers stay alive from batch to batch, so the libraries are imported once. Each has its own
threads; two workers of one thread do more than one of two on small networks. A worker that dies
is replaced and its run tried again; a worker dies with the command.

A run that an error of the GPU ended is tried once more, on another GPU where there is one. A GPU
that fails two runs one after the other, or that its worker does not see, is given no more; other
workers on it leave their batches after the run that they are in.
"""

from __future__ import annotations

import collections
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.core.child_process import Child, Children, cure_of
from bench.core.errors import BenchError
from bench.core.text import counted
from bench.launch.devices import VISIBLE, Placement
from bench.launch.sharing import SeenMemory
from bench.planning.plan import Batch
from bench.results.store import Store
from bench.specs.planned import Plan, PlannedRun

_MOST_ATTEMPTS = 3
"""At a run whose worker died."""

_MOST_FAULTS = 2
"""Runs that a GPU may fail one after the other."""

_GRACE_S = 8.0
"""For a step and a checkpoint, once the time is over."""

Listener = Callable[[Mapping[str, Any]], None]


@dataclass(eq=False)
class _Worker:
    child: Child
    cards: tuple[str, ...] = ()
    batch: list[PlannedRun] = field(default_factory=list)
    given: float = 0.0
    running: str | None = None
    started: set[str] = field(default_factory=set)
    idle: bool = False
    begun: bool = False
    stop_sent: bool = False
    to_replace: bool = False


class Pool:
    """Runs batches on this machine.

    Args:
        plan: for parents and children.
        store: where results go.
        context: of the workers, see `bench.launch.devices.context_of`.
        where: the number of processes, and the GPUs, of which each sees one or a team of them; with
            `where.most` the number grows with what runs are seen to leave of their GPUs' memory.
        listener: receives every event.
        environment: laid over that of the workers.
        is_over: asked in each turn; once true, workers write their checkpoints and end, those
            that take longer than `_GRACE_S` by force.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        context: Mapping[str, Any],
        where: Placement,
        listener: Listener,
        environment: Mapping[str, str] | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.plan, self.store, self.context, self.where = plan, store, context, where
        self.listener, self.environment = listener, dict(environment or {})
        self.deaths: collections.Counter[str] = collections.Counter()
        self.waiting: list[Batch] = []
        self.delayed: list[tuple[float, list[PlannedRun]]] = []
        self.workers: list[_Worker] = []
        self.children = Children("bench.launch.local.worker")
        self.stopping = False
        self.is_over = is_over
        self.over_at: float | None = None
        self.failed_starts = 0
        self.memory = SeenMemory()
        self.cards = list(where.cards)
        """Those that are given runs."""
        self.faults: dict[str, set[str]] = {card: set() for card in where.cards}
        """The runs that each GPU has failed since it last trained one to its end."""
        self.failed_at: dict[str, float] = {}
        """When each GPU has failed a run last."""
        self.failed_on: dict[str, tuple[str, ...]] = {}
        """The GPUs of each run that is tried once more."""
        self.lost = ""
        self.usable: set[str] = set()
        self.unusable: set[str] = set()

    def run(self, batches: Iterable[Batch], usable: Iterable[str], unusable: Iterable[str]) -> None:
        """Works through the batches.

        Args:
            batches: parents before children.
            usable: ids of parents that are done already.
            unusable: ids of runs that ended without weights; what starts from them is not run.
        """
        self.waiting, self.usable, self.unusable = list(batches), set(usable), set(unusable)
        with self.children:
            while self._step():
                pass
        self.workers.clear()

    def stop(self) -> None:
        """Asks every worker to write a checkpoint and end; `run` returns soon after.

        One that still imports its libraries runs nothing yet, and is not waited for.
        """
        # Only a flag: a signal may come in the middle of writing to a worker.
        self.stopping = True

    def _send_stop(self) -> None:
        for worker in self.workers:
            if not worker.stop_sent:
                worker.stop_sent = True
                if worker.begun:
                    worker.child.send({"stop": True})
                else:
                    worker.child.process.kill()

    # --- one turn ---

    def _step(self) -> bool:
        self._remove_dead()
        if not self.stopping and self.is_over():
            self.stopping, self.over_at = True, time.monotonic()
        if self.stopping:
            return self._drain()
        self._repeat_due()
        for worker in self.workers:
            if worker.idle and not worker.stop_sent:
                self._give(worker)
        while len(self.workers) < min(self._most(), len(self.workers) + self._ready_count()):
            cards = self._free_cards(self.workers)
            if cards is None:
                break
            self._start(cards)
        self._make_way()
        working = any(w.batch or not w.idle for w in self.workers) or self.delayed
        if not working:
            if not self._ready_count():
                return False
            self._check_cards()
            for worker in self.workers:  # none suits what is left
                self._end(worker)
        self._listen(0.2)
        return True

    def _drain(self) -> bool:
        self._send_stop()
        self._listen(0.1)
        if self.over_at is not None and time.monotonic() - self.over_at > _GRACE_S:
            return False
        return not all(worker.child.is_dead for worker in self.workers)

    def _ready(self, batch: Batch) -> bool:
        return self.usable.issuperset(batch.needs)

    def _all_ready(self) -> list[Batch]:
        return [batch for batch in self.waiting if self._ready(batch)]

    def _ready_count(self) -> int:
        return len(self._all_ready())

    # --- GPUs ---

    def _most(self) -> int:
        """How many workers there may be now."""
        usual = self.where.workers
        if self.where.cards:
            usual = min(usual, math.ceil(usual / len(self.where.cards)) * len(self.cards))
        if self.where.most is None:
            return usual
        left = [run for batch in self.waiting for run in batch.runs]
        left += [run for worker in self.workers for run in worker.batch]
        left += [run for _, runs in self.delayed for run in runs]
        fit = self.memory.workers_per_gpu(left) * len(self.cards)
        return max(usual, min(self.where.most, fit))

    def _needed(self, batch: Batch) -> int:
        """The number of GPUs that train each run of a batch."""
        return self.where.team if batch.runs[0].role == "source" else 1

    def _suits(self, worker: _Worker, batch: Batch) -> bool:
        kind = self.where.team == 1 or len(worker.cards) == self._needed(batch)
        return kind and self._avoided(batch).isdisjoint(worker.cards)

    def _avoided(self, batch: Batch) -> set[str]:
        """The GPUs that have failed the run, where there are enough others."""
        failed = set(self.failed_on.get(batch.runs[0].id, ()))
        return failed if len(set(self.cards) - failed) >= self._needed(batch) else set()

    def _free_cards(self, beside: Sequence[_Worker]) -> tuple[str, ...] | None:
        """GPUs for a worker beside others, the least used first; None where it must wait."""
        if not self.where.cards:
            return ()
        taken = collections.Counter(card for worker in beside for card in worker.cards)
        share = 1 if self.where.team > 1 else math.ceil(self._most() / len(self.cards))
        room = sorted((c for c in self.cards if taken[c] < share), key=taken.__getitem__)
        for batch in self._all_ready():
            avoided, needed = self._avoided(batch), self._needed(batch)
            free = [card for card in room if card not in avoided]
            if needed <= len(free):
                return tuple(free[:needed])
        return None

    def _make_way(self) -> None:
        """Ends idle workers, such as a team, that suit nothing, if others can then be started."""
        idle = [worker for worker in self.workers if worker.idle and self.where.cards]
        if not idle or any(worker.stop_sent for worker in self.workers):
            return
        ready = self._all_ready()
        starting = sum(not (worker.idle or worker.batch) for worker in self.workers)
        if len(ready) <= starting:
            return
        idle = [one for one in idle if not any(self._suits(one, batch) for batch in ready)]
        for count in range(1, len(idle) + 1):
            left = [worker for worker in self.workers if worker not in idle[:count]]
            if len(left) < self._most() and self._free_cards(left) is not None:
                for worker in idle[:count]:
                    self._end(worker)
                return

    def _end(self, worker: _Worker) -> None:
        """Ends a worker that is idle."""
        if not worker.stop_sent:
            worker.stop_sent = True
            worker.child.send({"stop": True})

    def _fails(self, worker: _Worker, run_id: str) -> None:
        """Counts a run that an error of the worker's GPUs has ended.

        One error ends all processes that share a GPU: runs that were under way at the last one do
        not count again.
        """
        for card in worker.cards:
            if worker.given > self.failed_at.get(card, -math.inf):
                self.faults[card].add(run_id)
                self.failed_at[card] = time.monotonic()
        if any(len(self.faults[card]) >= _MOST_FAULTS for card in worker.cards):
            self._lose(worker, f"{_names(worker)} failed {_MOST_FAULTS} runs one after the other")

    def _lose(self, worker: _Worker, why: str) -> None:
        """Gives no more runs to the GPUs of a worker."""
        self.lost = why
        if not worker.cards:
            raise self._nowhere()
        if not set(worker.cards).isdisjoint(self.cards):
            self.cards = [card for card in self.cards if card not in worker.cards]
            text = f"{why}; nothing more is given to it"
            self.listener({"event": "gpu_lost", "message": text})
            for other in self.workers:
                if not set(worker.cards).isdisjoint(other.cards):
                    other.child.send({"leave": True})

    def _check_cards(self) -> None:
        """Refuses to wait for GPUs that are lost."""
        least = min(self._needed(batch) for batch in self._all_ready())
        if self.where.cards and least > len(self.cards):
            raise self._nowhere()

    def _nowhere(self) -> BenchError:
        left = sum(len(batch.runs) for batch in self.waiting)
        left += sum(len(worker.batch) for worker in self.workers)
        return BenchError(
            f"{self.lost}; no GPU is left for {counted(left, 'run')} to do",
            hint="what is finished is kept, and the same command goes on: with --retry-failed, and "
            "CUDA_VISIBLE_DEVICES naming GPUs that work (nvidia-smi lists them) or --device cpu",
        )

    def _repeat_due(self) -> None:
        now = time.monotonic()
        due = [runs for at, runs in self.delayed if at <= now]
        self.delayed = [(at, runs) for at, runs in self.delayed if at > now]
        self.waiting[:0] = [Batch("again", tuple(runs)) for runs in due]

    def _give(self, worker: _Worker) -> None:
        if not set(worker.cards) <= set(self.cards):
            self._end(worker)
            return
        batch = next((b for b in self._all_ready() if self._suits(worker, b)), None)
        if batch is None:
            return
        self.waiting.remove(batch)
        worker.batch, worker.idle = list(batch.runs), False
        worker.given, worker.started = time.monotonic(), set()
        runs = [{"id": run.id, "spec": run.spec.model_dump(mode="json")} for run in batch.runs]
        context = dict(self.context)
        if batch.runs[0].role != "source":
            context["gpus"] = 1  # several are for what other runs start from
        if worker.cards:
            context["workers_on_gpu"] = sum(w.cards == worker.cards for w in self.workers)
            if context["device"] == "auto":
                context["device"] = "cuda"  # a GPU that is not seen is an error, and not the CPU
        worker.child.send({"batch": runs, "context": context})

    def _start(self, cards: tuple[str, ...]) -> None:
        libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = (
            os.environ | dict.fromkeys(libraries, str(self.context["threads"])) | self.environment
        )
        if cards:
            environment[VISIBLE] = ",".join(cards)
        self.workers.append(_Worker(self.children.start(environment), cards))

    def _listen(self, timeout_s: float) -> None:
        for child, event in self.children.listen(timeout_s):
            self._on_event(next(w for w in self.workers if w.child is child), event)

    def _on_event(self, worker: _Worker, event: Mapping[str, Any]) -> None:
        kind, run_id = event["event"], event.get("id")
        worker.begun = True
        if kind == "idle":
            left = [run for run in worker.batch if run.id not in self.usable | self.unusable]
            worker.batch, worker.running, worker.idle = [], None, True
            if not set(worker.cards) <= set(self.cards):
                self._put_back(left)
            elif left and not self.stopping:
                self.delayed.append((time.monotonic() + 2.0, left))
        elif kind == "replace":
            worker.to_replace = True
            if worker.running:  # one of several that are trained together, which have not ended
                event = self._after_fault_of_several(worker, worker.running)
        elif kind == "no_gpu":
            worker.to_replace = True
            self._lose(worker, f"{_names(worker)} cannot be used: {event['message']}")
        elif kind == "started":
            worker.running = run_id
            worker.started.add(str(run_id))
        elif kind == "ended":
            worker.running = None
            worker.started.discard(str(run_id))
            self.memory.add(self.plan.runs[str(run_id)], event)
            if event["status"] in ("done", "diverged"):
                self.faults.update((card, set()) for card in worker.cards)
            if event.get("gpu_fault"):
                event = self._after_fault(worker, event)
            elif event["status"] in ("done", "already"):
                self.usable.add(str(run_id))
            elif event["status"] in ("failed", "diverged", "blocked"):
                self.unusable.add(str(run_id))
        self.listener(event)

    def _after_fault(self, worker: _Worker, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """Has a run that its GPU failed tried once more, or fails it; what is to be shown."""
        run_id = str(event["id"])
        again = run_id not in self.failed_on and not self.stopping
        self.failed_on[run_id] = worker.cards
        self._fails(worker, run_id)
        if again:
            text = f"tried once more after an error of {_names(worker)}: {event['message']}"
            return {"event": "note", "id": run_id, "message": text}
        self.unusable.add(run_id)
        return event

    def _after_fault_of_several(self, worker: _Worker, run_id: str) -> Mapping[str, Any]:
        """Has runs that were trained together tried once more, each by itself."""
        self._fails(worker, run_id)
        if run_id not in self.failed_on:  # else its worker's death counts against it
            worker.running = None
            self.failed_on |= dict.fromkeys(worker.started, worker.cards)
        text = f"an error of {_names(worker)} ended it; tried once more by itself"
        return {"event": "note", "id": run_id, "message": text}

    def _remove_dead(self) -> None:
        for worker in [w for w in self.workers if w.child.is_dead]:
            for event in worker.child.read():
                self._on_event(worker, event)
            self.workers.remove(worker)
            if not self.stopping:
                self._retry(worker)
            self.children.end(worker.child)

    def _retry(self, worker: _Worker) -> None:
        left = [run for run in worker.batch if run.id not in self.usable | self.unusable]
        child = worker.child
        if not worker.batch:
            self.failed_starts += not worker.idle
            if self.failed_starts >= _MOST_ATTEMPTS:
                text = f"workers cannot start; the last one {child.how}"
                raise BenchError(text, hint=child.hint or None)
        next_run = left[0].id if left and not worker.to_replace else None
        blamed = (worker.running or next_run) if left else None
        if blamed is not None:
            self.deaths[blamed] += 1
            self.listener({"event": "worker_died", "id": blamed, "message": child.how})
            if self.deaths[blamed] >= _MOST_ATTEMPTS:
                left = [run for run in left if run.id != blamed]
                self._give_up(blamed, child)
        self._put_back(left)

    def _put_back(self, left: list[PlannedRun]) -> None:
        """Runs that a worker leaves are the next that others are given."""
        alone = [(run,) for run in left if run.id in self.failed_on]
        others = tuple(run for run in left if run.id not in self.failed_on)
        self.waiting[:0] = [Batch("again", runs) for runs in (*alone, others) if runs]

    def _give_up(self, run_id: str, child: Child) -> None:
        self.unusable.add(run_id)
        spec = self.plan.runs[run_id].spec
        how = f"its worker {child.how}, {_MOST_ATTEMPTS} times"
        failure = {"run_id": run_id, "reason": "worker died", "message": f"{how}\n{child.hint}"}
        unkept = self.store.folder(run_id, spec).add_failure(failure)
        text = "; ".join(filter(None, [how, cure_of(child.how), unkept]))
        self.listener({"event": "ended", "id": run_id, "status": "failed", "message": text})


def _names(worker: _Worker) -> str:
    """The GPUs of a worker, in words."""
    several = "GPUs" if len(worker.cards) > 1 else "GPU"
    return f"{several} {', '.join(worker.cards)}" if worker.cards else "the GPU"
