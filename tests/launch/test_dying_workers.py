"""Workers that a signal ends, before they begin or at a run: what is shown, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GRID = """\
defaults:
  target:
    dataset: digits
    classes: {recipe: random, n: 2}
    images_per_class: 4
    val_per_class: 2
    test_per_class: 4
  source: none
  pattern: scratch
  model: narrow8_32
  train: {lr: 0.02, epochs: 1, batch_size: 8}
experiments:
  one: {about: to die}
"""
IN_WORKERS = "import os, sys\nif sys.orig_argv[-1] == 'bench.launch.local.worker':\n"
AT_ONCE = IN_WORKERS + "    os.kill(os.getpid(), %d)\n"
AT_A_RUN = (
    IN_WORKERS
    + """\
    import glob, threading, time

    def die():
        own = f'"process": {os.getpid()}'
        while not any(own in open(path).read() for path in glob.glob("results/runs/*/.lock")):
            time.sleep(0.01)
        os.kill(os.getpid(), %d)

    threading.Thread(target=die, daemon=True).start()
"""
)


def grid_of_the_dying(folder: Path, code: str) -> str:
    """What `bench grid` prints when the given code runs first in each of its workers."""
    (folder / "sitecustomize.py").write_text(code)
    (folder / "grid.yaml").write_text(GRID)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "bench", "grid", "grid.yaml", "--workers", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == (2 if code.startswith(IN_WORKERS + "    os.kill") else 1)
    assert "Traceback" not in done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            9,
            "error: workers cannot start; the last one was killed by SIGKILL most often memory "
            "ran out: try fewer --workers, a smaller train.batch_size with train.accumulate, or "
            "smaller images",
        ),
        (
            4,
            "error: workers cannot start; the last one was killed by SIGILL a library crashed: "
            "try train.channels_last: false, --threads 1, or another release of torch",
        ),
    ],
)
def test_workers_that_cannot_start(tmp_path: Path, number: int, message: str) -> None:
    assert grid_of_the_dying(tmp_path, AT_ONCE % number).endswith(message)


def test_a_run_at_which_workers_die_keeps_what_to_set(tmp_path: Path) -> None:
    printed = grid_of_the_dying(tmp_path, AT_A_RUN % 11)
    assert "a worker was killed by SIGSEGV; trying its run again" in printed
    (failure,) = (tmp_path / "results" / "runs").glob("*/failed-0001.json")
    kept = json.loads(failure.read_text())
    assert kept["reason"] == "worker died"
    first, second = kept["message"].splitlines()[:2]
    assert first == "its worker was killed by SIGSEGV, 3 times"
    assert second.startswith("a library crashed: try train.channels_last: false")
    assert f": {first}; {second}" in printed
