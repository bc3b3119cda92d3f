"""A worker process: it is sent batches, runs them, and sends back one event after the other.

In: `{"batch": [{"id", "spec"}…], "context": {…}}`, `{"leave": true}`, which ends a batch after the
run that is under way, or `{"stop": true}`. Out: the events of `bench.runs.execute`, and
`{"event": "idle"}` after each batch. After an error of the GPU, which every later run of the
process would meet, it sends `{"event": "replace"}` and ends; where it does not see the GPU that it
was given, `{"event": "no_gpu", "message"}` before any run.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Mapping
from typing import Any

from bench.core.child_process import Starter


class _Messages:
    """What the command sends, also while a batch is run."""

    def __init__(self, starter: Starter) -> None:
        self._coming, self._come = starter.messages, collections.deque[Any]()

    def next(self) -> Any:
        """Waits for a message."""
        return self._come.popleft() if self._come else self._coming.get()

    @property
    def ask_to_leave(self) -> bool:
        """Whether the rest of the batch under way is not to be run."""
        while not self._coming.empty():
            self._come.append(self._coming.get())
        return any("leave" in message for message in self._come)


def main() -> None:
    """The process's whole life."""
    starter = Starter()  # first of all: from now on it ends with the command

    from bench.core.errors import BenchError
    from bench.data.opened import rely_on_tables
    from bench.results.failures import GpuFaultError
    from bench.runs.build import Context
    from bench.runs.distributed_worker import device_of
    from bench.runs.execute import execute_batch
    from bench.specs.run import RunSpec
    from bench.training.process import gpu_memory_mib, prepare

    def report(event: Mapping[str, Any]) -> None:
        ended = (event.get("event"), event.get("status")) == ("ended", "done")
        starter.send({**event, **(gpu_memory_mib() if ended else {})})

    def is_wanted(key: str) -> bool:
        return not messages.ask_to_leave

    messages = _Messages(starter)
    rely_on_tables()
    starter.send({"event": "idle"})
    while not starter.stop.is_set():
        task = messages.next()
        if "stop" in task:
            break
        if "leave" in task:  # of a batch that has ended
            continue
        context = Context(**task["context"])
        prepare(context.threads)
        try:
            device_of(context, rank=0)
        except BenchError as error:
            starter.send({"event": "no_gpu", "message": error.message})
            break
        runs = [(run["id"], RunSpec.model_validate(run["spec"])) for run in task["batch"]]
        try:
            stops = starter.stop.is_set
            execute_batch(runs, context, report=report, should_stop=stops, is_wanted=is_wanted)
        except GpuFaultError:
            starter.send({"event": "replace"})
            sys.stderr.flush()
            os._exit(1)
        starter.send({"event": "idle"})


if __name__ == "__main__":
    main()
