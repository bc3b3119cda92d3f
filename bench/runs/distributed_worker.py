"""One of the processes that train a run together; started by `bench.runs.distributed`.

In: `{"id", "spec", "context", "rank", "meeting_point"}`, later `{"stop": true}`. Out: the events of
`bench.runs.execute`, then `{"event": "ended", "status"}` or `{"event": "failed", …}`.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.child_process import Starter

if TYPE_CHECKING:
    import torch

    from bench.results.failures import Failure
    from bench.runs.build import Context


_TORN = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|store", re.I)
"""In torch's message when another process of the group is gone."""


def main() -> None:
    """The process's whole life.

    One that failed reports first and ends at once: leaving the group in order would wait for the
    others, who wait for this one.
    """
    starter = Starter()
    report = starter.send

    from bench.results.failures import failure_of

    try:
        report({"event": "ended", "status": _execute(starter)})
    except Exception as error:
        failure = failure_of(error)
        print(failure.message, file=sys.stderr)
        torn = is_torn(error, failure)
        report({"event": "failed", "torn": torn, **failure.to_json()})
        sys.stderr.flush()
        os._exit(1)


def is_torn(error: Exception, failure: Failure) -> bool:
    """Whether another process's end may have caused the error; too little memory is one's own."""
    from bench.results.failures import GPU_MEMORY

    own = failure.reason == GPU_MEMORY or not isinstance(error, RuntimeError)
    return not own and bool(_TORN.search(str(error)))


def _execute(starter: Starter) -> str:
    from bench.data.opened import rely_on_tables
    from bench.runs.build import Context
    from bench.runs.execute import execute_rank
    from bench.specs.run import RunSpec
    from bench.training.data_parallel import joined
    from bench.training.job import Interrupted
    from bench.training.process import prepare

    task: dict[str, Any] = starter.messages.get()
    context, rank = Context(**task["context"]), int(task["rank"])
    prepare(context.threads)
    rely_on_tables()
    device = device_of(context, rank)
    context = replace(context, device=str(device), share=False)
    with joined(rank, context.gpus, device, Path(task["meeting_point"])) as team:
        try:
            return execute_rank(
                task["id"],
                RunSpec.model_validate(task["spec"]),
                context,
                team=team,
                report=starter.send,
                should_stop=starter.stop.is_set,
            )
        except Interrupted:  # all ranks stop after the same step
            return "stopped"


def device_of(context: Context, rank: int) -> torch.device:
    """A GPU of the rank's own, or the CPU.

    Raises:
        BenchError: there are fewer GPUs than processes.
    """
    import torch

    from bench.core.errors import BenchError

    device = context.torch_device()
    if device.type != "cuda" or context.gpus == 1:
        return device
    if torch.cuda.device_count() < context.gpus:
        raise BenchError(
            f"gpus is {context.gpus}, but torch finds {torch.cuda.device_count()}",
            hint="ask for as many as there are, or see CUDA_VISIBLE_DEVICES",
        )
    return torch.device("cuda", rank)


if __name__ == "__main__":
    main()
