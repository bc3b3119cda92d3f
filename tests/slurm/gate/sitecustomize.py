"""Stops a job's process at a chosen event, so that a fault hits a run in its middle for certain.

Python loads this module at its start when its folder is in PYTHONPATH; only jobs of the tests take
notice. In the folder BENCH_TEST_GATES the test leaves an empty file such as `epoch-2`: the first
process that says `epoch` of the second run that it began renames it to `epoch-2.held`, writes
there who it is, and goes on when that file is removed or a signal asks it to stop.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path

_JOB = "bench.launch.slurm.job"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != _JOB:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _gate(module)

        spec.loader.exec_module = exec_module
        return spec


def _gate(job):
    """Wraps the job's events and its signals."""
    folder = Path(os.environ["BENCH_TEST_GATES"])
    say, handle = job.Events.__call__, job._Stop._handle
    state = {"runs": 0, "signalled": False}

    def said(self, event):
        kind = event["event"]
        state["runs"] += kind == "started"
        here = folder / f"{kind}-{state['runs']}"
        held = here.with_suffix(".held")
        try:
            here.rename(held)
        except FileNotFoundError:
            return say(self, event)
        self.said_at = -1e9  # this one is not left out for want of time
        say(self, event)
        words = {**event, "pid": os.getpid(), "job": Path(self.file.name).parent.name}
        written = held.with_suffix(".new")
        written.write_text(json.dumps(words))
        written.replace(held)
        while held.exists() and not state["signalled"]:
            time.sleep(0.02)
        return None

    def handled(self, number, frame):
        handle(self, number, frame)
        state["signalled"] = True

    job.Events.__call__, job._Stop._handle = said, handled


if "BENCH_TEST_GATES" in os.environ and "submitit.core._submit" in sys.orig_argv:
    import importlib.util

    sys.meta_path.insert(0, _Finder())
