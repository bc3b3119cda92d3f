"""Real faults on real daemons: no result lost, none doubled, none torn, no command that hangs.

`LONG` epochs are enough to hit a run in its middle; what is asserted is results, executions and the
final state, after the queue has become empty by itself: nobody helps but the grid's last job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

LONG = 30
Make = Callable[..., Any]


def ids_in_order(grid: Any) -> list[str]:
    """Run ids in the order of their first beginning."""
    begun = [event["id"] for event in grid.events() if event["event"] == "started"]
    return list(dict.fromkeys(begun))


def all_done(grid: Any, runs: int) -> None:
    """Every run has one whole record, and the last job has written the leaderboards."""
    assert grid.counts() == {"done": runs}
    assert len(grid.records()) == runs
    assert grid.torn() == []
    table = (grid.results / f"{grid.path.stem}.csv").read_text()
    assert table.count(",done,") == runs


def kill(grid: Any, job: str = "") -> None:
    pids = grid.pids(job)
    assert pids, "nothing to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def resumed(grid: Any, run_id: str) -> bool:
    """Whether the run's record says that it went on from a checkpoint."""
    return "resum" in str(grid.records()[run_id]["notes"]["training"]).lower()


def test_a_killed_run_is_run_again_and_the_other_kept(grid: Make) -> None:
    g = grid(0, 1, epochs=LONG, slurm={"runs_per_job": 1})
    g.submit()
    first = g.wait_for_event("epoch")
    kill(g, first["job"])
    g.wait()
    all_done(g, 2)
    assert sorted(g.executions().values()) == [1, 2]
    assert g.executions()[first["id"]] == 2


def test_a_kill_in_the_middle_of_a_pack_costs_the_run_in_hand(grid: Make) -> None:
    g = grid(0, 1, 2, epochs=LONG, slurm={"runs_per_job": 3})
    g.submit()
    second = g.wait_for_event("started", 2)
    kill(g)
    g.wait()
    all_done(g, 3)
    assert [g.executions()[run] for run in ids_in_order(g)] == [1, 2, 1]
    assert ids_in_order(g)[1] == second["id"]


def test_a_submission_cut_in_two_is_adopted(grid: Make, tmp_path: Path) -> None:
    g = grid(0, 1, 2, slurm={"runs_per_job": 1})
    shim = tmp_path / "bin" / "sbatch"
    shim.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    # Kills the submitting command when the first job has been taken and not yet been heard of.
    shim.write_text(f'#!/bin/sh\n{real} "$@"\nkill -9 $PPID\n')
    shim.chmod(0o755)
    done = g.bench("grid", "--slurm", env={"PATH": f"{shim.parent}:{os.environ['PATH']}"})
    assert done.returncode == -signal.SIGKILL
    assert len(g.cluster.jobs("all")) >= 1
    g.submit()
    g.wait()
    all_done(g, 3)
    assert set(g.executions().values()) == {1}


def test_an_operators_requeue_does_not_repeat_what_is_done(grid: Make) -> None:
    g = grid(0, 1, epochs=LONG, slurm={"runs_per_job": 2})
    g.submit()
    job = g.wait_for_event("started", 2)["job"]
    g.cluster.call("scontrol", "requeue", g.cluster.jobs()[job][0])
    g.wait()
    all_done(g, 2)
    first, second = ids_in_order(g)
    assert (g.executions()[first], g.executions()[second]) == (1, 2)


def test_the_signal_before_the_time_limit_checkpoints_and_requeues(grid: Make) -> None:
    g = grid(0, 1, 2, epochs=LONG, slurm={"runs_per_job": 3})
    g.submit()
    g.wait_for_event("started", 2)
    epoch = g.wait_for_event("epoch", 2)
    g.cluster.call("scancel", "--signal", "USR2", g.cluster.jobs()[epoch["job"]][0])
    g.wait()
    all_done(g, 3)
    first, second, third = ids_in_order(g)
    assert [g.executions()[run] for run in (first, second, third)] == [1, 2, 1]
    assert resumed(g, second)
    assert len({event["job"] for event in g.events() if event.get("id") == second}) == 1


def test_preemption_that_requeues_resumes_in_the_middle(grid: Make) -> None:
    g = grid(0, 1, epochs=LONG, slurm={"runs_per_job": 2, "partition": "low"})
    g.submit()
    g.wait_for_event("epoch")
    g.cluster.call("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 3")
    g.wait()
    all_done(g, 2)
    first, second = ids_in_order(g)
    assert (g.executions()[first], g.executions()[second]) == (2, 1)
    assert resumed(g, first)


def test_preemption_that_cancels_is_picked_up(grid: Make) -> None:
    g = grid(0, 1, epochs=LONG, slurm={"runs_per_job": 2, "partition": "lowcancel"})
    g.submit()
    g.wait_for_event("epoch")
    g.cluster.call("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 3")
    g.wait()
    g.submit()  # nothing to do when the last job was quick enough
    g.wait()
    all_done(g, 2)
    assert resumed(g, ids_in_order(g)[0])


def test_a_node_daemon_that_is_away_for_a_moment_costs_nothing(grid: Make) -> None:
    g = grid(0, 1, epochs=LONG, slurm={"runs_per_job": 2})
    g.submit()
    g.wait_for_event("epoch")
    for name in ("slurmd-n0", "slurmd-n1"):
        g.cluster.kill_daemon(name)
    time.sleep(1)
    g.cluster.up()
    g.wait()
    all_done(g, 2)
    assert set(g.executions().values()) == {1}


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without locks"])
def test_a_lost_node_that_goes_on_writes_no_second_result(
    grid: Make, wait_until: Make, locks: bool
) -> None:
    """SLURM starts the job again elsewhere while the old process still runs.

    Where locks reach over nodes the second waits for the first; where they do not, both run, and
    the first record wins.
    """
    g = grid(0, epochs=8 * LONG)
    g.submit()
    job = g.wait_for_event("epoch")["job"]
    node = g.cluster.jobs()[job][2]
    if not locks:
        (lock,) = g.results.glob("runs/*/.lock")
        lock.unlink()
    g.cluster.kill_daemon(f"slurmd-{node}")
    wait_until("a second start", lambda: len(g.pids(job)) > 1, 60)
    old = g.pids(job)[0]
    assert Path(f"/proc/{old}").exists()
    g.wait(150)
    g.cluster.up()
    g.wait()
    all_done(g, 1)
    assert set(g.executions().values()) == ({1} if locks else {2})


def test_a_controller_killed_right_after_submission_loses_no_run(grid: Make) -> None:
    g = grid(0, 1, 2, slurm={"runs_per_job": 1})
    submitted = g.bench("grid", "--slurm")
    g.cluster.kill_daemon("slurmctld")
    assert submitted.returncode == 0
    down = g.bench("grid", "--slurm")
    assert down.returncode == 2
    assert "nothing was submitted" in down.stderr
    assert g.status()["cluster"] == "down"
    g.cluster.up()
    g.wait()
    time.sleep(5)  # the grace time of what the controller has forgotten
    g.submit()
    g.wait()
    all_done(g, 3)


def test_out_of_memory_is_told_apart_and_retried_with_more(grid: Make) -> None:
    g = grid(0, slurm={"memory_gib": 0.2, "max_attempts": 4})
    g.submit()
    g.wait()
    all_done(g, 1)
    memory = [
        job["resources"]["memory_gib"]
        for entry in ledger(g)
        if entry["kind"] == "submit"
        for job in entry["jobs"]
        if job["role"] == "finetune"
    ]
    assert memory == [0.2 * 2**n for n in range(len(memory))]
    assert len(memory) > 1
    reasons = {d["reason"] for e in ledger(g) for j in e.get("jobs", ()) for d in deaths(j)}
    assert reasons == {"out of memory"}


def ledger(grid: Any) -> list[dict[str, Any]]:
    import json

    folder = grid.results / "slurm" / "ledger"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def deaths(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job.get("charged", ()))


def test_a_failing_parent_blocks_its_child_and_nothing_waits_for_ever(grid: Make) -> None:
    experiments = {"e": {"set": {"source": "other", "pattern": "tune"}, "axes": {"seed": [0]}}}
    g = grid(experiments=experiments, slurm={"max_attempts": 2})
    run = next(r for r in g.status()["runs"] if not r["experiments"])
    # The parent cannot publish its history: there is a folder of that name.
    name = next(iter(g.status()["runs"]))["name"]
    assert name
    g.bench("grid", "--dry-run")
    folder = g.results / "runs" / f"{full_name(g, run['id'])}"
    (folder / "history.csv").mkdir(parents=True)
    g.submit()
    g.wait()
    status = g.status()
    states = {r["id"]: r for r in status["runs"]}
    assert states[run["id"]]["state"] == "failed"
    assert states[run["id"]]["attempts"] == 2
    child = next(r for r in status["runs"] if r["experiments"])
    assert child["state"] == "blocked"
    assert run["id"][:12] in child["reason"]
    assert g.executions()[child["id"]] == 0
    table = (g.results / "tiny.csv").read_text()
    assert ",blocked," in table
    assert ",failed," in table
    # Mended, it goes on.
    (folder / "history.csv").rmdir()
    g.submit("--retry-failed")
    g.wait()
    all_done(g, 2)


def full_name(grid: Any, run_id: str) -> str:
    from bench.session import open_session

    session = open_session(grid.path, results=grid.results)
    return session.store.folder(run_id, session.plan.runs[run_id].spec).path.name


def test_a_job_that_can_never_start_is_found_and_said(grid: Make) -> None:
    g = grid(0, 1)
    text = g.submit("--slurm-set", "cpus_per_task=64", expect=1)
    assert "could never start" in text
    assert "PartitionConfig" in text
    g.wait()
    assert g.counts() == {"failed": 2}
    assert "cannot start" in g.status()["runs"][0]["reason"]
    g.submit()  # with what there is, it runs
    g.wait()
    all_done(g, 2)


def test_cancel_leaves_nothing_behind_and_resume_goes_on(grid: Make) -> None:
    g = grid(0, 1, epochs=8 * LONG, slurm={"runs_per_job": 2})
    g.submit()
    run = g.wait_for_event("epoch")["id"]
    done = g.bench("cancel")
    assert done.returncode == 0, done.stderr
    assert not g.cluster.jobs()
    assert not g.pids()
    assert g.counts() == {"cancelled": 2}
    time.sleep(2)
    assert not g.cluster.jobs()
    assert g.bench("resume").returncode == 0
    g.wait(150)
    all_done(g, 2)
    assert resumed(g, run)


def test_two_submissions_at_once_run_nothing_twice(grid: Make) -> None:
    g = grid(*range(6), slurm={"runs_per_job": 2})
    command = [*g_command(g), "--slurm"]
    environment = g.cluster.client()
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(command, env=environment, cwd=root) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    g.wait()
    all_done(g, 6)
    assert set(g.executions().values()) == {1}


def g_command(grid: Any) -> list[str]:
    import sys

    start = [sys.executable, "-c", "from bench.cli import main; main()", "grid"]
    return [*start, str(grid.path), "--results", str(grid.results)]


def fill(path: Path) -> None:
    """Writes until there is no space left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_tears_nothing_and_resumes(grid: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=700", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk is made by mounting one, which only root may")
    try:
        g = grid(0, 1, epochs=LONG, slurm={"runs_per_job": 2}, results=disk / "results")
        g.submit()
        g.wait_for_event("epoch")
        fill(disk / "ballast")
        g.wait(150)
        assert g.torn() == []
        assert g.status()["runs"]
        (disk / "ballast").unlink()
        g.submit("--retry-failed")
        g.wait()
        all_done(g, 2)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def test_a_fresh_cluster_over_old_results_confuses_nothing(
    other_cluster: Make, grid_on: Make, wait_until: Make
) -> None:
    old = other_cluster()
    g = grid_on(old)(0, 1)
    g.submit()
    g.wait()
    before = g.executions()
    assert set(before.values()) == {1}
    pending = grid_on(old)(2, name="later", slurm={"partition": "high", "nodelist": "n0"})
    old.call("scontrol", "update", "partition=high", "state=down")
    pending.submit()
    assert len(old.jobs()) == 2
    old.down()

    new = other_cluster()  # numbers begin with 1 again
    g = grid_on(new)(0, 1, 2, slurm={"grace_s": 1})
    g.submit()
    g.wait()
    if g.counts() != {"done": 3}:  # the old cluster's job was still waited for
        g.submit()
        g.wait()
    all_done(g, 3)
    assert set(g.executions().values()) == {1}


def test_the_time_limit_in_the_middle_of_a_pack(grid: Make) -> None:
    """SLURM looks at time limits every 30 s, so this takes its minutes."""
    slurm = {"runs_per_job": 3, "timeout_min": 1, "signal_delay_s": 20}
    g = grid(0, 1, 2, epochs=6 * LONG, slurm=slurm)
    g.submit()
    g.wait(400)
    all_done(g, 3)
    assert sum(g.executions().values()) <= 3 + 2 * len({e["file"] for e in g.events()})
