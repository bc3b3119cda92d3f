"""The commands on a real cluster: the same leaderboard as here, and what a user is told."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results.records import DETERMINISTIC_COLUMNS

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]
BOTH = {
    "e": {
        "set": {"source": "other"},
        "axes": {"pattern": ["tune", "freeze"], "seed": [0, 1]},
        "include": [{"source": "none", "pattern": "scratch"}],
    }
}


def deterministic(path: Path) -> list[tuple[str, ...]]:
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return [tuple(row[name] for name in DETERMINISTIC_COLUMNS) for row in rows]


def test_the_leaderboard_is_the_local_one_to_the_byte(grid: Make, tmp_path: Path) -> None:
    g = grid(experiments=BOTH, slurm={"runs_per_job": 2})
    text = g.submit()
    assert "7 runs submitted in" in text
    here = tmp_path / "here"
    command = [
        sys.executable,
        "-c",
        "from bench.commands.app import main; main()",
        "grid",
        str(g.path),
    ]
    command += ["--results", str(here), "--workers", "2", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    g.wait(150)
    assert deterministic(g.results / "tiny.csv") == deterministic(here / "tiny.csv")
    aggregated = "tiny-aggregated.csv"
    assert (g.results / aggregated).read_bytes() == (here / aggregated).read_bytes()
    assert set(g.executions().values()) == {1}
    # All is done: nothing is submitted again, and a local command finds nothing to do either.
    assert "0 runs submitted in 0 jobs" in g.submit()
    assert not g.cluster.jobs()
    # Pickles do not stay.
    assert not list((g.results / "slurm" / "jobs").glob("*/*.pkl"))


@pytest.mark.slow
def test_quickstart_is_the_same_on_the_cluster(cluster: Any, grid_on: Make, tmp_path: Path) -> None:
    g = grid_on(cluster)(0)
    g.path = ROOT / "grids" / "quickstart.yaml"
    g.submit("--slurm-set", "memory_gib=1.5", "--slurm-runs-per-job", "8")
    here = tmp_path / "here"
    command = [
        sys.executable,
        "-c",
        "from bench.commands.app import main; main()",
        "grid",
        str(g.path),
    ]
    command += ["--results", str(here)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    g.wait(1200)
    assert deterministic(g.results / "quickstart.csv") == deterministic(here / "quickstart.csv")


def test_status_tells_what_runs_and_logs_what_it_says(grid: Make) -> None:
    g = grid(0, 1, epochs=2000, slurm={"runs_per_job": 2})
    g.submit("--slurm-partition", "one")
    run = g.wait_for_event("epoch")["id"]
    status = g.status()
    states = {view["id"]: view for view in status["runs"]}
    assert status["cluster"] == "ok"
    assert states[run]["state"] == "running"
    assert states[run]["epochs"] == 2000
    assert states[run]["left_s"] >= 0
    (other,) = set(states) - {run}
    assert states[other]["state"] == "pending"
    assert "turn" in states[other]["reason"]
    page = g.bench("status").stdout
    assert "1 running, 1 pending" in page
    assert "epoch" in page
    # What a job writes cannot repaint a terminal.
    (log,) = (g.results / "slurm" / "jobs").glob("*/log-*.txt")
    with log.open("a") as file:
        file.write("\x1b[2J\x1b]0;gotcha\x07 here\n")
    shown = subprocess.run(
        [*BENCH, "logs", run[:10], "--results", str(g.results)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert f"started {run}" in shown.stdout
    assert "\\x1b[2J" in shown.stdout
    assert "\x1b" not in shown.stdout
    # Cancelling an experiment that is all there is.
    assert g.bench("cancel", "--only", "e").returncode == 0
    assert g.counts() == {"cancelled": 2}


BENCH = [sys.executable, "-c", "from bench.commands.app import main; main()"]


def test_cancelling_one_experiment_leaves_the_other(grid: Make) -> None:
    plain = {"source": "none", "pattern": "scratch"}
    experiments = {
        "keep": {"set": plain | {"train.epochs": 40}, "axes": {"seed": [0]}},
        "drop": {"set": plain | {"train.epochs": 2000}, "axes": {"seed": [0, 1]}},
    }
    g = grid(experiments=experiments, slurm={"runs_per_job": 3})
    assert "3 runs submitted in 1 jobs" in g.submit()
    g.wait_for_event("epoch")
    assert g.bench("cancel", "--only", "drop").returncode == 0
    g.wait()
    states = {view["experiments"][0]: view["state"] for view in g.status()["runs"]}
    assert states == {"keep": "done", "drop": "cancelled"}
    assert "0 runs submitted in 0 jobs" in g.submit("--only", "keep")
    assert not g.cluster.jobs()


def test_without_a_cluster_it_is_said_and_nothing_happens(grid: Make, tmp_path: Path) -> None:
    g = grid(0)
    bare = {"SLURM_CONF": str(tmp_path / "none.conf")}
    (tmp_path / "none.conf").write_text("ClusterName=x\nSlurmctldHost=localhost\nSlurmctldPort=9\n")
    begun = time.monotonic()
    done = g.bench("grid", "--slurm", env=bare)
    assert done.returncode == 2
    assert "nothing was submitted" in done.stderr
    assert time.monotonic() - begun < 120
    assert g.counts() == {"missing": 1}


def test_a_refused_job_is_told_in_the_clusters_words(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 1})
    done = g.bench("grid", "--slurm", "--slurm-partition", "nosuch")
    assert done.returncode == 2
    assert "invalid partition" in done.stderr.lower()
    assert not g.cluster.jobs()
    assert g.counts() == {"missing": 2}


def test_folders_that_others_may_write_are_refused(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 1})
    g.results.mkdir()
    g.results.chmod(0o777)
    done = g.bench("grid", "--slurm")
    assert done.returncode == 2
    assert "chmod go-w" in done.stderr
    assert not g.cluster.jobs()
    g.results.chmod(0o755)
    # Opened after the submission: the jobs refuse by themselves.
    g.cluster.call("scontrol", "update", "partition=main", "state=down")
    try:
        g.submit()
        (g.results / "slurm").chmod(0o777)
    finally:
        g.cluster.call("scontrol", "update", "partition=main", "state=up")
    g.wait()
    assert not g.records()
    (g.results / "slurm").chmod(0o700)
    errors = "".join(p.read_text() for p in (g.results / "slurm" / "jobs").glob("*/*_log.err"))
    assert "others may" in errors


def test_a_job_with_other_code_does_not_run_and_says_so(
    cluster: Any, grid_on: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "code"
    shutil.copytree(ROOT / "bench", copy / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(copy))
    g = grid_on(cluster)(0)
    g_root = copy  # so that the copy is what `bench` means

    def bench(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*BENCH, words[0], str(g.path), "--results", str(g.results), *words[1:]]
        return subprocess.run(
            command, cwd=g_root, env=cluster.client(), capture_output=True, text=True, check=False
        )

    cluster.call("scontrol", "update", "partition=main", "state=down")
    try:
        assert bench("grid", "--slurm").returncode == 0
        with (copy / "bench" / "spec.py").open("a") as file:
            file.write("\n# changed\n")
    finally:
        cluster.call("scontrol", "update", "partition=main", "state=up")
    g.wait()
    assert not g.records()
    page = bench("status").stdout
    assert re.search(r"submitted with code \w+, but here is \w+: not run", page)
    assert bench("resume").returncode == 0
    g.wait()
    assert len(g.records()) == 1


def test_no_more_in_the_queue_than_asked_for_and_the_rest_follows(grid: Make) -> None:
    g = grid(0, 1, 2, epochs=1, slurm={"runs_per_job": 1, "max_jobs": 2})
    text = g.submit()
    assert "2 runs submitted in 2 jobs; 1 follow" in text
    assert len(g.cluster.jobs()) <= 3
    g.wait(200)
    assert g.counts() == {"done": 3}
    assert set(g.executions().values()) == {1}


def test_with_accounting_limits_are_kept_and_the_forgotten_is_known(
    other_cluster: Make, grid_on: Make, wait_until: Make, tmp_path: Path
) -> None:
    if shutil.which("slurmdbd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("no slurmdbd: apt-get install slurmdbd mariadb-server-core …")
    conf = "MinJobAge=2\nAccountingStorageEnforce=associations,limits\n"
    cluster = other_cluster(SLURM_ACCOUNTING="1", extra=conf)
    import getpass

    me = getpass.getuser()
    if me != "root":
        cluster.call("sacctmgr", "-i", "add", "account", "a")
        cluster.call("sacctmgr", "-i", "add", "user", me, "account=a")
    cluster.call("sacctmgr", "-i", "modify", "user", me, "set", "MaxSubmitJobs=3")
    g = grid_on(cluster)(0, 1, 2, epochs=1, slurm={"runs_per_job": 1, "last_job": True})
    text = g.submit()
    assert "2 runs submitted in 2 jobs; 1 follow" in text
    g.wait(200)
    assert g.counts() == {"done": 3}
    assert set(g.executions().values()) == {1}
    # A killed job that the controller has forgotten is known from accounting alone.
    h = grid_on(cluster)(5, epochs=400, name="killed", slurm={"last_job": False, "grace_s": 600})
    h.submit()
    job = h.wait_for_event("epoch", job="killed")["job"]
    os.kill(h.pids(job)[0], 9)
    wait_until("forgotten by the controller", lambda: job not in cluster.jobs("all"))
    wait_until("written to accounting", lambda: h.status()["runs"][0]["attempts"] == 1, 60, 1.0)
    assert h.status()["runs"][0]["reason"].startswith("job failed")
    # Accounting that goes away is no obstacle: what the controller knows is enough.
    cluster.kill_daemon("slurmdbd")
    i = grid_on(cluster)(6, epochs=1, name="without")
    i.submit()
    i.wait()
    assert i.counts() == {"done": 1}
    assert i.torn() == []
    assert "0 runs submitted" in i.submit()
    assert i.executions()[i.status()["runs"][0]["id"]] == 1


@pytest.mark.slow
def test_overhead_of_180_packed_runs_is_under_a_second_each(grid: Make) -> None:
    """Queueing, start-up, ledger and bookkeeping: all that is not the runs' own seconds."""
    g = grid(*range(180), epochs=1, slurm={"runs_per_job": 30})
    begun = time.monotonic()
    g.submit()
    g.wait(1200)
    wall = time.monotonic() - begun
    records = g.records()
    assert len(records) == 180
    assert g.torn() == []
    ends = [e for e in g.events() if e["event"] in ("started", "ended")]
    inside = sum((1 if e["event"] == "ended" else -1) * e["at_s"] for e in ends)
    jobs = len({e["job"] for e in ends})  # all at once: the cluster says that it has the CPUs
    overhead = (wall - inside / jobs) / 180
    print(f"180 runs in {jobs} jobs: {wall:.1f} s, of which {inside / jobs:.1f} s in runs")
    print(f"overhead: {overhead:.3f} s per run")
    assert overhead < 1.0
