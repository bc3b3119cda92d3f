"""Real faults on real daemons: no result lost, none doubled, none torn, no command that hangs.

A run is held in its middle (`Grid.hold`) until the fault is there, so every fault hits what it is
meant to hit, on a quiet machine and on a busy one. What is asserted is results, executions and the
final state, after the queue has become empty by itself: nobody helps but the grid's last job.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
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
    assert grid.unnamed() == []
    table = (grid.results / f"{grid.path.stem}.csv").read_text()
    assert table.count(",done,") == runs
    assert not grid.cluster.jobs()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def resumed(grid: Any, run_id: str) -> bool:
    """Whether the run's record says that it went on from a checkpoint."""
    return "resum" in str(grid.records()[run_id]["notes"]["training"]).lower()


def test_a_killed_run_is_run_again_and_the_other_kept(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 1})
    gate = g.hold("epoch")
    g.submit()
    held = gate.reached()
    kill(held["pid"])
    g.wait()
    all_done(g, 2)
    assert sorted(g.executions().values()) == [1, 2]
    assert g.executions()[held["id"]] == 2


def test_a_kill_in_the_middle_of_a_pack_costs_the_run_in_hand(grid: Make) -> None:
    g = grid(0, 1, 2, slurm={"runs_per_job": 3})
    gate = g.hold("epoch", run=2)
    g.submit()
    held = gate.reached()
    kill(held["pid"])
    g.wait()
    all_done(g, 3)
    assert [g.executions()[run] for run in ids_in_order(g)] == [1, 2, 1]
    assert ids_in_order(g)[1] == held["id"]


def test_a_submission_cut_in_two_is_adopted(grid: Make, tmp_path: Path) -> None:
    g = grid(0, 1, 2, slurm={"runs_per_job": 1})
    shim = tmp_path / "bin" / "sbatch"
    shim.parent.mkdir()
    real = shutil.which("sbatch")
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
    g = grid(0, 1, slurm={"runs_per_job": 2})
    gate = g.hold("epoch", run=2)
    g.submit()
    job = gate.reached()["job"]
    g.cluster.call("scontrol", "requeue", g.cluster.jobs()[job][0])
    g.wait()
    all_done(g, 2)
    first, second = ids_in_order(g)
    assert (g.executions()[first], g.executions()[second]) == (1, 2)


def test_the_signal_before_the_time_limit_checkpoints_and_requeues(grid: Make) -> None:
    g = grid(0, 1, 2, slurm={"runs_per_job": 3})
    gate = g.hold("epoch", run=2)
    g.submit()
    held = gate.reached()
    g.cluster.call("scancel", "--signal", "USR2", g.cluster.jobs()[held["job"]][0])
    g.wait()
    all_done(g, 3)
    assert [g.executions()[run] for run in ids_in_order(g)] == [1, 2, 1]
    assert resumed(g, held["id"])
    assert len({event["job"] for event in g.events() if event.get("id") == held["id"]}) == 1


def test_the_time_limit_in_the_middle_of_a_pack(grid: Make) -> None:
    """The real limit: SLURM looks at it every 30 s, so this takes its minute."""
    g = grid(0, 1, 2, slurm={"runs_per_job": 3, "timeout_min": 1, "signal_delay_s": 20})
    gate = g.hold("epoch", run=2)
    g.submit()
    held = gate.reached()
    g.wait(180)
    all_done(g, 3)
    assert [g.executions()[run] for run in ids_in_order(g)] == [1, 2, 1]
    assert resumed(g, held["id"])


def test_preemption_that_requeues_resumes_in_the_middle(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 2, "partition": "low"})
    gate = g.hold("epoch")
    g.submit()
    held = gate.reached()
    g.cluster.take_away()
    g.wait()
    all_done(g, 2)
    assert [g.executions()[run] for run in ids_in_order(g)] == [2, 1]
    assert resumed(g, held["id"])
    assert len({event["job"] for event in g.events() if event.get("id") == held["id"]}) == 1


def test_preemption_that_cancels_is_picked_up(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 2, "partition": "lowcancel"})
    gate = g.hold("epoch")
    g.submit()
    held = gate.reached()
    g.cluster.take_away()
    g.wait()
    if g.counts() != {"done": 2}:  # the last job was taken away too: the user goes on
        assert g.bench("resume").returncode == 0
        g.wait()
    all_done(g, 2)
    assert [g.executions()[run] for run in ids_in_order(g)] == [2, 1]
    assert resumed(g, held["id"])
    assert len({event["job"] for event in g.events() if event.get("id") == held["id"]}) == 2


def test_a_node_daemon_that_is_away_for_a_moment_costs_nothing(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 2})
    gate = g.hold("epoch")
    g.submit()
    gate.reached()
    for name in ("slurmd-n0", "slurmd-n1"):
        g.cluster.kill_daemon(name)
    g.cluster.up()
    gate.open()
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
    g = grid(0)
    gate = g.hold("epoch")
    g.submit()
    held = gate.reached()
    node = g.cluster.jobs()[held["job"]][2]
    if not locks:
        (lock,) = g.results.glob("runs/*/.lock")
        lock.unlink()
    g.cluster.kill_daemon(f"slurmd-{node}")
    wait_until("a second start", lambda: len(g.pids(held["job"])) > 1)
    assert Path(f"/proc/{held['pid']}").exists()
    if not locks:
        wait_until("the second's record", g.records)
    before = published(g)
    gate.open()
    wait_until("the end of the first", lambda: not Path(f"/proc/{held['pid']}").exists())
    g.wait()
    g.cluster.up()
    g.wait()
    all_done(g, 1)
    assert set(g.executions().values()) == ({1} if locks else {2})
    assert before == (published(g) if not locks else {})


def published(grid: Any) -> dict[str, tuple[int, int]]:
    """Inode and time of every record: both change when it is written again."""
    paths = grid.results.glob("runs/*/record.json")
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_a_controller_killed_right_after_submission_loses_no_run(
    grid: Make, wait_until: Make
) -> None:
    g = grid(0, 1, 2, slurm={"runs_per_job": 1})
    submitted = g.bench("grid", "--slurm")
    g.cluster.kill_daemon("slurmctld")
    assert submitted.returncode == 0
    down = g.bench("grid", "--slurm")
    assert down.returncode == 2
    assert "nothing was submitted" in down.stderr
    assert g.status()["cluster"] == "down"
    g.cluster.up()

    def finished() -> bool:
        """What the controller forgot is lost after the grace time; what it holds after a failed
        launch, though its run has ended, waits for somebody to look."""
        g.submit()
        return bool(g.counts() == {"done": 3}) and not g.cluster.jobs()

    wait_until("all runs and an empty queue", finished, 180, 1)
    g.submit()
    all_done(g, 3)
    assert max(g.executions().values()) <= 2  # a held job may have been released and run again


def test_out_of_memory_is_told_apart_and_retried_with_more(grid: Make) -> None:
    g = grid(0, slurm={"memory_gib": 0.2, "max_attempts": 4})
    g.submit()
    g.wait(180)
    all_done(g, 1)
    never_begun = {  # a node that is slow to answer: the same again, with no attempt counted
        job["name"] for e in ledger(g) for job in settled(e) if job["state"] == "LAUNCH_FAILED"
    }
    memory = [
        job["resources"]["memory_gib"]
        for entry in ledger(g)
        if entry["kind"] == "submit"
        for job in entry["jobs"]
        if job["role"] == "finetune" and job["name"] not in never_begun
    ]
    assert memory == [0.2 * 2**n for n in range(len(memory))]
    assert len(memory) > 1
    assert max(g.executions().values()) <= len(memory)
    reasons = {
        d["reason"] for e in ledger(g) for j in e.get("jobs", ()) for d in failed_attempts(j)
    }
    assert reasons == {"out of memory"}


def settled(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs of an entry that tells how jobs ended."""
    return list(entry["jobs"]) if entry["kind"] == "settle" else []


def ledger(grid: Any) -> list[dict[str, Any]]:
    folder = grid.results / "slurm" / "ledger"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def failed_attempts(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job.get("charged", ()))


CHILD = {"e": {"set": {"source": "other", "pattern": "tune"}, "axes": {"seed": [0]}}}


def parent_and_child(grid: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The views of the source and of the run that starts from it."""
    views = sorted(grid.status()["runs"], key=lambda view: bool(view["experiments"]))
    return views[0], views[1]


def source_folder(grid: Any) -> Path:
    """The folder of the one source, whether or not it has run."""
    from bench.planning.workspace import open_session

    session = open_session(grid.path, results=grid.results)
    (source,) = [run for run in session.plan.runs.values() if run.role == "source"]
    return Path(session.store.folder(source.id, source.spec).path)


def test_a_failing_parent_blocks_its_child_and_nothing_waits_for_ever(grid: Make) -> None:
    g = grid(experiments=CHILD, slurm={"max_attempts": 2})
    # The parent cannot publish its history: there is a folder of that name.
    obstacle = source_folder(g) / "history.csv"
    obstacle.mkdir(parents=True)
    g.submit()
    g.wait()
    parent, child = parent_and_child(g)
    assert (parent["state"], parent["attempts"]) == ("failed", 2)
    assert child["state"] == "blocked"
    assert parent["id"][:12] in child["reason"]
    assert g.executions() == {parent["id"]: 2}
    table = (g.results / "tiny.csv").read_text()
    assert ",blocked," in table
    assert ",failed," in table
    # Mended, it goes on.
    obstacle.rmdir()
    g.submit("--retry-failed")
    g.wait()
    all_done(g, 2)
    assert g.executions() == {parent["id"]: 3, child["id"]: 1}


def test_source_weights_that_are_gone_are_trained_again(grid: Make) -> None:
    g = grid(experiments=CHILD)
    g.submit("--only", "e")
    g.wait()
    all_done(g, 2)
    parent = parent_and_child(g)[0]
    before = published(g)
    (weights,) = source_folder(g).glob("model-*.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    assert "its result stands" in g.bench("status").stdout
    assert "0 runs submitted" in g.submit()
    h = grid(experiments={"e": CHILD["e"] | {"axes": {"seed": [0, 1]}}})
    assert "it is trained again" in h.submit()
    h.wait()
    all_done(h, 3)
    assert weights.read_bytes() == content
    assert before.items() <= published(h).items()
    assert h.executions()[parent["id"]] == 2


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
    assert set(g.executions().values()) == {1}


def test_cancel_leaves_nothing_behind_and_resume_goes_on(grid: Make) -> None:
    g = grid(0, 1, slurm={"runs_per_job": 2})
    gate = g.hold("epoch")
    g.submit()
    held = gate.reached()
    done = g.bench("cancel")
    assert done.returncode == 0, done.stderr
    assert not g.cluster.jobs()
    assert not g.pids()
    assert g.counts() == {"cancelled": 2}
    time.sleep(2)
    assert not g.cluster.jobs()  # nothing comes back
    assert g.bench("resume").returncode == 0
    g.wait()
    all_done(g, 2)
    assert [g.executions()[run] for run in ids_in_order(g)] == [2, 1]
    assert resumed(g, held["id"])


def command(grid: Any) -> list[str]:
    start = [sys.executable, "-c", "from bench.commands.app import main; main()", "grid"]
    return [*start, str(grid.path), "--results", str(grid.results), "--slurm"]


def test_two_submissions_at_once_run_nothing_twice(grid: Make) -> None:
    g = grid(*range(6), slurm={"runs_per_job": 2})
    both = [subprocess.Popen(command(g), env=g.environment(), cwd=ROOT) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    g.wait()
    all_done(g, 6)
    assert set(g.executions().values()) == {1}


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
        g = grid(0, 1, slurm={"runs_per_job": 2}, results=disk / "results")
        gate = g.hold("epoch")
        g.submit()
        gate.reached()
        fill(disk / "ballast")
        gate.open()
        g.wait()
        assert not g.records()
        assert g.torn() == []
        assert g.status()["runs"]  # looking needs no space
        (disk / "ballast").unlink()
        g.submit("--retry-failed")
        g.wait()
        all_done(g, 2)
        assert max(g.executions().values()) <= 3
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def test_a_fresh_cluster_over_old_results_confuses_nothing(
    other_cluster: Make, grid_on: Make, wait_until: Make
) -> None:
    old = other_cluster()
    g = grid_on(old)(0, 1)
    g.submit()
    g.wait()
    all_done(g, 2)
    before = published(g)
    pending = grid_on(old)(2, name="later", slurm={"partition": "high", "nodelist": "n0"})
    old.call("scontrol", "update", "partition=high", "state=down")
    pending.submit()
    assert len(old.jobs()) == 2
    old.down()

    new = other_cluster()  # numbers begin with 1 again
    g = grid_on(new)(0, 1, 2, slurm={"grace_s": 1})

    def finished() -> bool:  # the old cluster's job is waited for until its grace time is over
        g.submit()
        g.wait()
        return g.counts() == {"done": 3}

    wait_until("all runs", finished, every=1)
    all_done(g, 3)
    assert set(g.executions().values()) == {1}
    assert before.items() <= published(g).items()
