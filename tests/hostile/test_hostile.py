"""The harness of hostile inputs; `python -m tests.hostile` runs all of them, in some fifteen minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_limits_are_noticed(tmp_path: Path) -> None:
    """The harness sees a traceback, a death by signal and a missing way out."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.hostile.harness import Case, run\n"
        "import bench.commands.app as app\n"
        "ways = {'raise': lambda: 1 / 0, 'kill': lambda: os.kill(os.getpid(), signal.SIGSEGV),\n"
        "        'bare': lambda: (print('error: no'), sys.exit(2))}\n"
        "for name, way in ways.items():\n"
        "    app.main = way\n"
        "    print(run(Case(f'{name}-0', (), lambda folder: None), Path(sys.argv[1]) / name).faults)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    traceback, killed, bare = done.stdout.splitlines()
    assert "ZeroDivisionError" in traceback
    assert "killed by signal 11" in killed
    assert "no way out" in bare


def test_a_sample_is_handled() -> None:
    """One in 45 of the inputs, of every kind."""
    kinds = ("grid", "option", "image", "folder", "manifest", "archive", "weights", "leaderboard", "store")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", *kinds, "--every", "45", "--from", "40"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
