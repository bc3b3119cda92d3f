"""A worker process: reads batches from its input, runs them, writes one event a line.

The conversation is JSON lines. In: `{"batch": [{"id", "spec"}…], "context": {…}}` or
`{"stop": true}`. Out: the events of `bench.runs.execute`, and `{"event": "idle"}` after each
batch. The end of the input ends the process at once, so a worker never outlives its command.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, TextIO


def main() -> int:
    """The process's whole life; returns its exit status."""
    out = _private_stdout()
    work: queue.Queue[dict[str, Any]] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(work, stop), daemon=True).start()

    from bench.runs.build import Context
    from bench.runs.execute import execute_batch
    from bench.specs.run import RunSpec
    from bench.training.process import prepare

    def report(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    report({"event": "idle"})
    while not stop.is_set():
        task = work.get()
        if "stop" in task:
            break
        context = Context.from_json(task["context"])
        prepare(context.threads)
        runs = [(run["id"], RunSpec.model_validate(run["spec"])) for run in task["batch"]]
        execute_batch(runs, context, report=report, should_stop=stop.is_set)
        report({"event": "idle"})
    return 0


def _private_stdout() -> TextIO:
    """The pipe to the command, for events alone; everything printed goes to stderr instead."""
    handle = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(handle, "w", encoding="utf-8")


def _listen(work: queue.Queue[dict[str, Any]], stop: threading.Event) -> None:
    for line in sys.stdin:
        task = json.loads(line)
        if "stop" in task:
            stop.set()
        work.put(task)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
