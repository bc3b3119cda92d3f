"""The parts of the launcher that need no cluster: settings, ledger, safety, verdicts, words."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.commands._slurm import slurm_overrides
from bench.core.errors import GridError, StoreError
from bench.core.text import printable
from bench.grid.yaml import parse_yaml
from bench.launch.slurm import permissions
from bench.launch.slurm.client import ClusterError, Queue, QueuedJob, never_starts
from bench.launch.slurm.events import CANCEL, read_events
from bench.launch.slurm.job import _in_vain
from bench.launch.slurm.ledger import (
    Ending,
    FailedAttempt,
    Job,
    Ledger,
    SubmissionStore,
    settle_entry,
)
from bench.launch.slurm.outcomes import JobClassifier, current_run
from bench.launch.slurm.permissions import check_private, code_digest, make_private
from bench.launch.slurm.settings import Resources, SlurmSettings, read_settings
from bench.launch.slurm.submit import (
    QueueFullError,
    RefusedError,
    _meaning,
    _parameters,
    sbatch,
)

# --- settings ---


def test_the_kind_goes_before_the_common_and_the_common_before_the_default() -> None:
    section = {"partition": "gpu", "memory_gib": 8, "source": {"timeout_min": 600, "qos": "long"}}
    settings = read_settings(section, [("finetune.memory_gib", 2)])
    source, finetune = settings.resources("source"), settings.resources("finetune")
    assert (source.partition, source.memory_gib, source.timeout_min, source.qos) == (
        "gpu",
        8.0,
        600,
        "long",
    )
    assert (finetune.memory_gib, finetune.timeout_min, finetune.qos) == (2.0, 60, None)


def test_the_last_job_asks_for_little() -> None:
    settings = read_settings({"gpus_per_node": 8, "gres": "gpu:a100:8", "cpus_per_task": 64})
    last = settings.resources("leaderboard")
    assert (last.gpus_per_node, last.gres, last.cpus_per_task) == (0, None, 1)


def test_cpus_are_no_fewer_than_threads() -> None:
    assert read_settings({"threads": 4}).resources("finetune").cpus_per_task == 4


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"partion": "gpu"}, ["'partion'", "known: partition"]),
        ({"source": {"timout_min": 1}}, ["source.timout_min", "known: timeout_min"]),
        ({"timeout_min": "two hours"}, ["slurm.timeout_min", "'two hours'"]),
        ({"memory_gib": -1}, ["slurm.memory_gib", "-1"]),
        ({"partition": "a\n#SBATCH --uid=0"}, ["one line"]),
        ({"additional": {"array": "0-9"}}, ["--array", "bench itself"]),
        ({"additional": {"Bad Name": 1}}, ["Bad Name"]),
        ({"additional": {"comment": "a\nb"}}, ["one line"]),
    ],
)
def test_a_wrong_section_is_said_with_its_key(section: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(GridError) as caught:
        read_settings(section, place="grids/a.yaml")
    for word in [*words, "grids/a.yaml"]:
        assert word in str(caught.value)


def test_an_override_that_is_no_assignment_is_refused() -> None:
    with pytest.raises(GridError, match="KEY=VALUE"):
        slurm_overrides(["partition"])


def test_scaling_keeps_what_is_open_open() -> None:
    assert Resources(memory_gib=1.5).scaled(2, 3) == Resources(memory_gib=3.0)


# --- ledger ---


def job(name: str, *runs: str, role: str = "finetune") -> Job:
    return Job(name, role, runs, "key", {"memory_gib": 1.0}, "code")


def submit(*jobs: Job) -> dict[str, Any]:
    return {"kind": "submit", "jobs": [job.to_json() for job in jobs]}


@pytest.fixture
def submissions(tmp_path: Path) -> SubmissionStore:
    tmp_path.chmod(0o700)
    submissions = SubmissionStore(tmp_path / "slurm")
    submissions.prepare()
    return submissions


def test_the_ledger_is_the_sum_of_its_entries(submissions: SubmissionStore) -> None:
    ledger = submissions.read()
    submissions.write(ledger, submit(job("a", "r1", "r2"), job("b", "r3")))
    submissions.write(ledger, settle_entry([Ending("a", "COMPLETED")]))
    submissions.write(ledger, {"kind": "cancel", "runs": ["r3"]})
    read = submissions.read()
    assert read == ledger
    assert [j.name for j in read.open] == ["b"]
    assert read.cancelled == {"r3"}
    assert read.next_number == 4


def test_a_long_ledger_is_replaced_by_its_sum(
    submissions: SubmissionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.launch.slurm.ledger._LONG", 3)
    ledger = submissions.read()
    submissions.write(ledger, submit(job("a", "r1", "r2")))
    submissions.shorten(ledger)
    assert len(list(submissions.ledger_folder.iterdir())) == 1  # a job is open
    failed = FailedAttempt("r1", "a", "time limit", "TIMEOUT")
    submissions.write(ledger, settle_entry([Ending("a", "TIMEOUT", "", (failed,))]))
    submissions.write(ledger, {"kind": "cancel", "runs": ["r2"]})
    submissions.shorten(ledger)
    assert [path.name for path in submissions.ledger_folder.iterdir()] == ["000004.json"]
    read = submissions.read()
    assert (read.failed_attempts, read.cancelled, read.submitted) == (
        {"r1": [failed]},
        {"r2"},
        {"r1", "r2"},
    )
    assert read.next_number == 5
    submissions.write(read, submit(job("b", "r1")))
    assert [j.name for j in submissions.read().open] == ["b"]


def test_of_two_writers_on_the_same_state_one_wins(submissions: SubmissionStore) -> None:
    first, second = submissions.read(), submissions.read()
    submissions.write(first, submit(job("a", "r1")))
    with pytest.raises(StoreError, match="quicker"):
        submissions.write(second, submit(job("b", "r1")))
    assert [j.name for j in submissions.read().open] == ["a"]


def test_a_torn_entry_is_no_empty_entry(submissions: SubmissionStore) -> None:
    (submissions.ledger_folder / "000001.json").write_text('{"kind": "sub')
    with pytest.raises(StoreError, match="torn"):
        submissions.read()


def test_the_lock_keeps_others_out_and_dies_with_its_holder(submissions: SubmissionStore) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from bench.launch.slurm.ledger import SubmissionStore\n"
        "with SubmissionStore(Path(sys.argv[1])).lock():\n"
        "    print('mine', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(submissions.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(StoreError, match="at work"), submissions.lock(wait_s=0.3):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    with submissions.lock(wait_s=5):
        pass


# --- safety ---


def test_a_folder_that_others_may_write_is_refused_with_the_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    private = make_private(tmp_path / "a" / "slurm")
    assert private.stat().st_mode & 0o777 == 0o700
    check_private(private)
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(StoreError, match="chmod go-w"):
        check_private(private)
    (tmp_path / "a").chmod(0o755)
    private.chmod(0o755)
    with pytest.raises(StoreError, match="chmod 700"):
        check_private(private)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "theirs" / "slurm"
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(StoreError, match="not to you"):
        check_private(folder)
    os.chown(folder, 0, 0)
    os.chown(folder.parent, 65534, 65534)
    with pytest.raises(StoreError, match="exchange"):
        check_private(folder)


def test_the_code_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not code")
    assert code_digest(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    second = code_digest(tmp_path)
    (tmp_path / "b.py").write_text("x = 2\n")
    assert len({first, second, code_digest(tmp_path)}) == 3


@given(st.text())
def test_printed_text_cannot_repaint_a_terminal(text: str) -> None:
    assert all(char.isprintable() or char in "\n\t" for char in printable(text))


# --- queue ---


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    for name, body in programs.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_jobs_are_read_by_name_and_the_living_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "7|RUNNING|n1|None|mine-1\\n6|FAILED|n0|NonZeroExitCode|mine-1\\n8|PENDING||A|b|c\\n"
    fake(tmp_path, monkeypatch, squeue=f"printf '{lines}'")
    jobs = Queue().jobs()
    assert jobs["mine-1"] == QueuedJob("7", "mine-1", "RUNNING", "None", "n1")
    assert jobs["b|c"].reason == "A"  # a name may hold anything


def test_a_controller_that_fails_or_hangs_is_an_error_not_an_empty_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, squeue="echo 'slurm_load_jobs error: no' >&2; exit 1")
    with pytest.raises(ClusterError, match="slurm_load_jobs"):
        Queue().jobs()
    fake(tmp_path, monkeypatch, squeue="exec sleep 30")
    with pytest.raises(ClusterError, match="did not answer"):
        Queue(timeout_s=0.3).jobs()


def test_no_accounting_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert Queue().accounting() is None
    fake(tmp_path, monkeypatch, sacct="echo '5|CANCELLED by 0|n0|0:0|mine'")
    assert Queue().accounting() == {
        "mine": QueuedJob("5", "mine", "CANCELLED", "exit code 0:0", "n0")
    }


def test_waiting_is_not_the_same_as_waiting_for_ever() -> None:
    assert never_starts("PartitionConfig")
    assert never_starts("(BadConstraints)")
    for reason in ("Priority", "Resources", "Dependency", "JobHeldUser", "ReqNodeNotAvail", "None"):
        assert never_starts(reason) is None
    held = QueuedJob("1", "a", "PENDING", "launch failed requeued held")
    assert held.launch_failed
    assert held.alive


# --- how jobs ended ---


def write_events(folder: Path, attempt: int, *events: Mapping[str, Any], torn: str = "") -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / f"events-{attempt:04d}-n0-1.jsonl").write_text(text + torn)


def began(run: str) -> dict[str, str]:
    return {"event": "started", "id": run}


def ended(run: str, status: str = "done") -> dict[str, str]:
    return {"event": "ended", "id": run, "status": status}


def classifier(
    submissions: SubmissionStore, *published: str, grace_s: float = 1e9, **queue: QueuedJob
) -> JobClassifier:
    return JobClassifier(submissions, queue, lambda: None, set(published), grace_s)


def entered(submissions: SubmissionStore, *jobs: Job) -> Ledger:
    ledger = submissions.read()
    submissions.write(ledger, submit(*jobs))
    return ledger


def dead(state: str, reason: str = "") -> QueuedJob:
    return QueuedJob("1", "a", state, reason, "n0")


def test_the_run_in_hand_is_to_blame_and_no_other(submissions: SubmissionStore) -> None:
    (a,) = entered(submissions, job("a", "r1", "r2", "r3")).open
    write_events(submissions.job_folder("a"), 0, began("r1"), ended("r1"), began("r2"), torn='{"ev')
    assert current_run(read_events(submissions.job_folder("a"))) == "r2"
    found = classifier(submissions, "r1", a=dead("FAILED")).classify(a)
    assert found is not None
    assert [(d.run, d.reason, d.final) for d in found.charged] == [("r2", "job failed", False)]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("OUT_OF_MEMORY", "out of memory"),
        ("TIMEOUT", "time limit"),
        ("NODE_FAIL", "node failure"),
        ("FAILED", "job failed"),
    ],
)
def test_reasons_are_told_apart(submissions: SubmissionStore, state: str, reason: str) -> None:
    (a,) = entered(submissions, job("a", "r1")).open
    write_events(submissions.job_folder("a"), 0, began("r1"))
    found = classifier(submissions, a=dead(state)).classify(a)
    assert found is not None
    assert [d.reason for d in found.charged] == [reason]


def test_memory_is_seen_in_the_words_where_the_state_does_not_say_so(
    submissions: SubmissionStore,
) -> None:
    (a,) = entered(submissions, job("a", "r1")).open
    write_events(submissions.job_folder("a"), 0, began("r1"))
    words = "slurmstepd: error: Step 1.0 exceeded memory limit (289 > 268), being killed\n"
    (submissions.job_folder("a") / "1_0_log.err").write_text(words)
    found = classifier(submissions, a=dead("FAILED")).classify(a)
    assert found is not None
    assert [d.reason for d in found.charged] == ["out of memory"]


OLD_JOB = """
import sys, types
from submitit.core.utils import DelayedSubmission
name = "bench.launch.job"
module = types.ModuleType(name)
exec("class Job:\\n def __init__(self, folder): self.folder = folder", vars(module))
sys.modules[name] = module
if sys.argv[2] == "class":  # the module is still there, the class is not
    module.Job.__module__, module.Job.__qualname__ = "bench.launch.slurm.job", "Work"
    import bench.launch.slurm.job
    bench.launch.slurm.job.Work = module.Job
import pickle
with open(sys.argv[1], "wb") as file:
    pickle.dump(DelayedSubmission(module.Job("somewhere")), file)
"""
"""Pickles what versions before that of the rooms have left in the queue, by their class path."""


@pytest.mark.parametrize("gone", ["module", "class"])
def test_a_job_of_earlier_code_that_cannot_load_says_so_and_blames_no_run(
    submissions: SubmissionStore, gone: str
) -> None:
    (a,) = entered(submissions, job("a", "r1")).open
    folder = submissions.job_folder("a")
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", OLD_JOB, str(folder / "7_submitted.pkl"), gone], check=True
    )
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "here"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    executed = subprocess.run(
        [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
        env={**os.environ, **slurm, "SUBMITIT_EXECUTOR": "slurm"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert executed.returncode == 1
    missing = {"module": "bench.launch.job", "class": "bench.launch.slurm.job"}[gone]
    assert missing in executed.stderr.splitlines()[-1]
    (folder / "7_0_log.err").write_text(executed.stderr)
    found = classifier(submissions, a=dead("FAILED", "NonZeroExitCode")).classify(a)
    assert found is not None
    assert (found.state, found.charged) == ("CODE_CHANGED", ())
    assert f"another version of bench, whose {missing} is not here" in found.reason


def test_a_time_limit_that_allows_no_step_is_not_tried_for_ever(
    submissions: SubmissionStore,
) -> None:
    (a,) = entered(submissions, job("a", "r1", "r2")).open
    folder = submissions.job_folder("a")
    write_events(folder, 0, began("r1"), ended("r1"), began("r2"), ended("r2", "stopped"))
    write_events(folder, 1, {"event": "began"})
    write_events(folder, 2, {"event": "began"}, began("r2"))
    assert not _in_vain(read_events(folder))
    write_events(folder, 3, {"event": "began"}, {"event": "limit", "id": "r2", "restarts": 3})
    assert _in_vain(read_events(folder))
    found = classifier(submissions, "r1", a=dead("FAILED")).classify(a)
    assert found is not None
    assert [(d.run, d.reason) for d in found.charged] == [("r2", "time limit")]


def test_nobody_is_to_blame_for_preemption_or_what_was_asked_for(
    submissions: SubmissionStore,
) -> None:
    (a,) = entered(submissions, job("a", "r1")).open
    write_events(submissions.job_folder("a"), 0, began("r1"), ended("r1", "stopped"))
    for state in ("PREEMPTED", "FAILED", "COMPLETED"):
        found = classifier(submissions, a=dead(state)).classify(a)
        assert found is not None
        assert found.charged == ()
    (submissions.job_folder("a") / CANCEL).write_text('"all"')
    found = classifier(submissions, a=dead("CANCELLED")).classify(a)
    assert found is not None
    assert found.charged == ()


def test_scancel_by_hand_is_respected(submissions: SubmissionStore) -> None:
    (a,) = entered(submissions, job("a", "r1", "r2")).open
    found = classifier(submissions, "r1", a=dead("CANCELLED")).classify(a)
    assert found is not None
    assert [(d.run, d.final) for d in found.charged] == [("r2", True)]


def test_a_job_that_nobody_knows_is_waited_for_and_then_lost(submissions: SubmissionStore) -> None:
    (a,) = entered(submissions, job("a", "r1")).open
    submissions.job_folder("a").mkdir()
    assert classifier(submissions).classify(a) is None
    found = classifier(submissions, grace_s=0).classify(a)
    assert found == Ending("a", "NEVER_ARRIVED", "its submission was cut off")
    (submissions.job_folder("a") / "12_submitted.pkl").write_bytes(b"")
    found = classifier(submissions, grace_s=0).classify(a)
    assert found is not None
    assert (found.state, found.charged) == ("LOST", ())
    found = classifier(submissions, "r1").classify(a)  # done is what the store says
    assert found is not None
    assert found.state == "COMPLETED"


def test_accounting_is_asked_for_what_the_controller_forgot(submissions: SubmissionStore) -> None:
    (a,) = entered(submissions, job("a", "r1")).open
    write_events(submissions.job_folder("a"), 0, began("r1"))
    found = JobClassifier(submissions, {}, lambda: {"a": dead("TIMEOUT")}, set(), 1e9).classify(a)
    assert found is not None
    assert [d.reason for d in found.charged] == ["time limit"]


def test_a_job_before_its_first_run_blames_all_so_that_it_ends(
    submissions: SubmissionStore,
) -> None:
    (a,) = entered(submissions, job("a", "r1", "r2")).open
    submissions.job_folder("a").mkdir()
    found = classifier(submissions, a=dead("FAILED", "NonZeroExitCode")).classify(a)
    assert found is not None
    assert [(d.run, d.final) for d in found.charged] == [("r1", False), ("r2", False)]


@pytest.mark.parametrize(
    ("written", "minutes"),
    # sbatch(1): minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
    # days-hours:minutes:seconds; seconds are rounded up to the next minute
    [("90", 90), ("10:30", 11), ("2:00:00", 120), ("1-12", 2160), ("1-12:30", 2190),
     ("0-1:0:1", 61)],
)  # fmt: skip
def test_times_are_those_of_sbatch(written: str, minutes: int) -> None:
    section = parse_yaml(f"timeout_min: {written}\nsource: {{timeout_min: {written}}}", "a").value
    settings = read_settings(section)
    assert settings.resources("finetune").timeout_min == minutes
    assert settings.resources("source").timeout_min == minutes
    assert read_settings({}, [("timeout_min", written)]).timeout_min == minutes


@pytest.mark.parametrize("written", ["2 h", "1:99", "-5", "1:2:3:4", "0", "12:00:60", "", "١"])
def test_what_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(GridError, match=r"a.yaml: slurm.timeout_min: ") as caught:
        read_settings({"timeout_min": written}, place="a.yaml")
    assert "\n  see docs/slurm.md" in str(caught.value)


# --- memory, GPUs, limits ---


def asked(section: dict[str, object], kind: str = "finetune") -> dict[str, object]:
    resources = read_settings(section).resources(kind)  # type: ignore[arg-type]
    found: dict[str, object] = _parameters(Path("/x"), "a", resources, (), 0, 60)
    return found


def test_no_memory_is_asked_for_where_the_grid_says_so() -> None:
    assert asked({})["mem"] == "4096M"
    assert asked({"memory_gib": None})["mem"] is None
    assert asked({"finetune": {"memory_gib": None}, "memory_gib": 8})["mem"] is None
    assert asked({"source": {"memory_gib": None}, "memory_gib": 8})["mem"] == "8192M"
    other = asked({"additional": {"mem-per-cpu": "3G"}})
    assert (other["mem"], other["additional_parameters"]["mem-per-cpu"]) == (None, "3G")  # type: ignore[index]
    for section in (
        {"memory_gib": 8, "additional": {"mem-per-gpu": "3G"}},
        {"additional": {"mem-per-gpu": "3G", "mem-per-cpu": "3G"}},
    ):
        with pytest.raises(GridError, match="exclude each other"):
            asked(section)


@pytest.mark.parametrize(
    ("section", "gpus"),
    [
        ({}, None),
        ({"gpus": 1}, 1),
        ({"gpus": 4}, 4),
        ({"gpus": 2, "gres": "gpu:h100:4"}, 4),
        ({"gres": "gpu:2"}, 2),
        ({"gres": "gpu:h100:2(S:0-1),license:3"}, 2),
        ({"gres": "gpu"}, 1),
        ({"additional": {"gpus": "a100:3"}}, 3),
        ({"gpus_per_node": 0}, 0),
    ],
)
def test_gpus_are_counted_however_they_are_asked_for(section, gpus) -> None:
    assert read_settings(section).resources("finetune").gpus_asked == gpus


@pytest.mark.parametrize(
    "more", [{"gres": "gpu:h100:2"}, {"gpus_per_node": 4}, {"additional": {"gpus-per-node": 2}}]
)
def test_fewer_gpus_than_a_run_trains_on_are_refused(more) -> None:
    with pytest.raises(GridError, match=r"gpus: 8, but the job asks for \d a node"):
        read_settings({"gpus": 8, **more}).resources("finetune")


def test_what_may_not_be_meant_is_printed() -> None:
    def lines(section: dict[str, object], gpus: int) -> list[str]:
        return read_settings(section).remarks(("source", "finetune"), gpus)

    assert lines({}, 0) == []
    assert lines({"gpus": 1}, 8) == []
    assert lines({"device": "cpu"}, 8) == []
    assert lines({"source": {"gpus": 4}}, 4) == []  # fine-tunings ask for as many
    none = lines({}, 4)
    assert [text.split(" ask")[0] for text in none] == ["source jobs", "fine-tuning jobs"]
    assert all("ask for no GPU and will train on CPUs" in text for text in none)
    assert "each run trains on 1" in lines({"gpus_per_node": 4}, 4)[0]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("sbatch: error: QOSMaxWallDurationPerJobLimit", RefusedError),
        ("sbatch: error: QOSMaxCpuPerJobLimit", RefusedError),
        ("sbatch: error: AssocGrpSubmitJobsLimit", QueueFullError),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", QueueFullError),
        ("", QueueFullError),
    ],
)
def test_a_limit_that_waiting_does_not_lift_is_no_full_queue(words, kind) -> None:
    text = (
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job "
        "submit limit, user's size and/or time limits)"
    )
    assert type(_meaning(f"{words}\n{text}")) is kind


def test_what_sbatch_prints_is_in_the_error_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = "sbatch: error: invalid partition specified: gpus"
    fake(tmp_path, monkeypatch, sbatch=f"echo '{words}' >&2; exit 1", srun="exit 0")
    with pytest.raises(RefusedError) as refused:
        sbatch(print, tmp_path / "job", "bench-1", Resources(), signal_delay_s=60)
    assert refused.value.message == (
        "the cluster refuses the job: invalid partition specified: gpus"
    )
    assert capfd.readouterr() == ("", "")


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as the kernel keeps it: tag, permissions, number."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("writer", "mask", "words"),
    [((2, 7, 65534), 7, "user 65534"), ((8, 6, 100), 7, "group 100"), ((2, 7, 65534), 5, None)],
)
def test_who_may_write_by_an_access_control_list_is_seen(
    tmp_path: Path, writer: tuple[int, int, int], mask: int, words: str | None
) -> None:
    parent = tmp_path / "shared"
    parent.mkdir(mode=0o700)
    folder = parent / "own"
    folder.mkdir(mode=0o700)
    entries = [(1, 7, NOBODY), writer, (4, 0, NOBODY), (16, mask, NOBODY), (32, 0, NOBODY)]
    entries.sort(key=lambda entry: entry[0])
    try:
        os.setxattr(parent, "system.posix_acl_access", _acl(*entries))
    except OSError as error:
        pytest.skip(f"no access control lists on this file system: {error}")
    if words is None:
        check_private(folder)
        return
    with pytest.raises(StoreError, match=rf"lets {words} write here") as caught:
        check_private(folder)
    assert caught.value.place == str(parent)
    assert "setfacl -b" in (caught.value.hint or "")


@pytest.mark.parametrize("section", [{}, {"memory_gib": None}, {"gpus": 2, "memory_gib": 8}])
def test_settings_that_were_written_down_ask_for_the_same(section: dict[str, object]) -> None:
    """The last job submits by settings that went through JSON."""
    settings = read_settings(section)
    again = SlurmSettings.model_validate(json.loads(settings.model_dump_json()))
    for kind in ("source", "finetune", "leaderboard", "decode"):
        assert again.resources(kind) == settings.resources(kind)  # type: ignore[arg-type]


def _nfs4_acl(*entries: tuple[int, int, int, str]) -> bytes:
    """As XDR (RFC 4506) has it: whole numbers of four bytes, texts filled up to a multiple."""
    parts = [struct.pack(">I", len(entries))]
    for kind, flags, mask, name in entries:
        who = name.encode()
        parts.append(struct.pack(">IIII", kind, flags, mask, len(who)) + who)
        parts.append(b"\0" * (-len(who) % 4))
    return b"".join(parts)


OWNER = (0, 0, 0x1601FF, "OWNER@")
NFS4 = {
    "as a server makes it of mode 755": (
        (OWNER, (0, 0x40, 0x1200A9, "GROUP@"), (0, 0, 0x1200A9, "EVERYONE@")),
        [],
    ),
    "of mode 775, which the mode shows": ((OWNER, (0, 0x40, 0x1201E7, "GROUP@")), []),
    "a reader": ((OWNER, (0, 0, 0x1200A9, "eve@example.org")), []),
    "a writer": ((OWNER, (0, 0, 0x1201E7, "eve@example.org")), ["user eve@example.org"]),
    "a writing group": ((OWNER, (0, 0x40, 0x1201E7, "lab@example.org")), ["group lab@example.org"]),
    "who may change the list": ((OWNER, (0, 0, 0x40000, "1234")), ["user 1234"]),
    "all may delete": ((OWNER, (0, 0, 0x40, "EVERYONE@")), ["user EVERYONE@"]),
    "root": ((OWNER, (0, 0, 0x1601FF, "root@example.org"), (0, 0, 0x1601FF, "0")), []),
    "oneself": ((OWNER, (0, 0, 0x1601FF, str(os.geteuid()))), []),
    "for what is created below": ((OWNER, (0, 0xB, 0x1201E7, "eve@example.org")), []),
    "denied and watched": ((OWNER, (1, 0, 0x1201E7, "eve"), (2, 0, 0x1201E7, "eve")), []),
}


@pytest.mark.parametrize(("entries", "writers"), NFS4.values(), ids=NFS4.keys())
def test_an_nfs4_list_names_who_may_change_a_folder(
    entries: tuple[tuple[int, int, int, str], ...], writers: list[str]
) -> None:
    raw = _nfs4_acl(*entries)
    assert permissions._nfs4_writers(raw) == writers
    for torn in (b"", raw[:3], raw[:-4], raw + b"\0\0\0\0", b"\xff" * 8):
        with pytest.raises((ValueError, struct.error)):
            permissions._nfs4_writers(torn)


def test_an_nfs4_list_as_its_bytes_are() -> None:
    """Two entries, written out: A::OWNER@:rwaDxtTnNcCoy and A::bob@x:w."""
    raw = bytes.fromhex(
        "00000002"
        "00000000 00000000 001601ff 00000006 4f574e455240 0000"
        "00000000 00000000 00000002 00000005 626f624078 000000"
    )
    assert permissions._nfs4_writers(raw) == ["user bob@x"]


def test_a_folder_that_an_nfs4_list_opens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system here has such lists, so the call that reads one is replaced."""
    lists: dict[Path, bytes] = {}

    def getxattr(path: Path, name: str) -> bytes:
        if name != "system.nfs4_acl" or path not in lists:
            raise OSError(95, "Operation not supported")
        return lists[path]

    folder = make_private(tmp_path / "lab" / "slurm")
    monkeypatch.setattr(os, "getxattr", getxattr)
    lists[folder] = lists[folder.parent] = _nfs4_acl(OWNER, (0, 0, 0x1200A9, "eve@example.org"))
    check_private(folder)
    lists[folder.parent] = _nfs4_acl(OWNER, (0, 0, 0x1201E7, "eve@example.org"))
    with pytest.raises(StoreError) as caught:
        check_private(folder)
    assert str(caught.value) == (
        f"{folder.parent}: its NFSv4 access control list lets user eve@example.org change what "
        "lies here, and so exchange what jobs execute\n"
        f"  nfs4_setfacl -e {folder.parent} edits the list, or keep results elsewhere: "
        "--results FOLDER"
    )
    lists[folder.parent] = b"\0\0\0\1"
    with pytest.raises(StoreError, match="NFSv4 access control list cannot be read, so it is not"):
        check_private(folder)
