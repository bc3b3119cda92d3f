"""A private SLURM cluster for the tests, and a hand to work a grid on it.

Real daemons, started by scripts/slurm_up.sh in a temporary folder and ended with the tests. Without
the Debian packages slurm-wlm and munge these tests skip; for those with accounting also slurmdbd,
mariadb-server-core, mariadb-client-core and slurm-wlm-mysql-plugin are wanted.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PATIENCE = float(os.environ.get("BENCH_TEST_PATIENCE", "3"))
"""Factor on all waiting times: a shared machine may be slow; nothing waits longer than needed."""

BENCH = [sys.executable, "-c", "from bench.commands.app import main; main()"]

EXTRA_CONF = """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=6
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=lowcancel Nodes=ALL PriorityTier=1 PreemptMode=CANCEL MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
PartitionName=one Nodes=n0 PriorityTier=1 MaxTime=INFINITE State=UP
"""

TINY: dict[str, Any] = {
    "defaults": {
        "target": {
            "dataset": "wordnet-shapes",
            "classes": {"recipe": "half", "side": "b", "take": 5},
            "image_size": 32,
            "images_per_class": 4,
            "val_per_class": 2,
            "test_per_class": 4,
        },
        "model": "narrow8_32",
        "train": {"epochs": 2, "batch_size": 16, "evaluate_every": 1},
        "pretrain": {"epochs": 2, "batch_size": 16, "evaluate_every": 1},
    },
    "sources": {"other": {"classes": {"side": "a", "take": 5}, "images_per_class": 4}},
    "slurm": {
        "memory_gib": 1.5,
        "grace_s": 5,
        "lag_s": 1,
        "signal_delay_s": 15,
        "checkpoint_s": 1,
        "timeout_min": 20,
    },
}


def wait_until(what: str, true: Callable[[], Any], seconds: float = 60, every: float = 0.2) -> Any:
    """Gives the first true value back; fails when it does not come."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds * PATIENCE:.0f} s: {what}")
        time.sleep(every)


@dataclass
class Cluster:
    """A running private cluster."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def up(self) -> None:
        """Starts it, or what has died of it."""
        script = ROOT / "scripts" / "slurm_up.sh"
        done = subprocess.run(
            [script, self.folder], env=os.environ | self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        """Ends it and removes its folder."""
        subprocess.run([ROOT / "scripts" / "slurm_down.sh", self.folder, "--purge"], check=False)

    def call(self, *command: str, check: bool = True) -> str:
        """Runs a program as a client of this cluster."""
        done = subprocess.run(
            command, env=self.client(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def client(self) -> dict[str, str]:
        """The environment of a client."""
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def jobs(self, states: str = "PD,R,CG,S,CF") -> dict[str, tuple[str, str, str]]:
        """Name to (number, state, node) of jobs in these states."""
        text = self.call("squeue", "--noheader", f"--states={states}", "--format=%i|%T|%N|%j")
        rows = [line.split("|", 3) for line in text.splitlines()]
        return {name: (number, state, node) for number, state, node, name in rows}

    def kill_daemon(self, name: str) -> None:
        """SIGKILL to one of its daemons."""
        os.kill(int((self.folder / "run" / f"{name}.pid").read_text()), signal.SIGKILL)

    def take_away(self, seconds: float = 1) -> None:
        """A job of higher priority takes all nodes for a moment: real pre-emption."""
        command = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--no-requeue"]
        self.call(*command, "--output=/dev/null", f"--wrap=sleep {seconds}")

    def clear(self) -> None:
        """No jobs, all daemons up: as a test would like to find it."""
        self.up()
        numbers = [job[0] for job in self.jobs().values()]
        if numbers:
            self.call("scancel", "--signal=KILL", "--full", *numbers, check=False)
            self.call("scancel", *numbers, check=False)
        wait_until("an empty queue", lambda: not self.jobs())
        self.up()


def _start(folder: Path, extra: str = "", **environment: str) -> Cluster:
    needed = ("munged", "slurmctld", "slurmd", "sbatch")
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in needed if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    folder.chmod(0o711)  # munge wants everybody to reach its socket
    conf = folder / "extra.conf"
    conf.write_text(EXTRA_CONF + extra)
    settings = {"SLURM_CPUS": "4", "SLURM_MEMORY_MIB": "8000", "SLURM_EXTRA_CONF": str(conf)}
    cluster = Cluster(folder / "c", settings | environment)
    cluster.up()
    return cluster


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="bench-slurm-"))
    try:
        yield _start(folder, SLURM_NODES="2")
    finally:
        Cluster(folder / "c").down()  # also when only half of it has started
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with an empty queue before and after."""
    running_cluster.clear()
    yield running_cluster
    running_cluster.clear()


@pytest.fixture
def other_cluster() -> Iterator[Callable[..., Cluster]]:
    """Starts further clusters, ended with the test."""
    folders: list[Path] = []

    def start(**environment: str) -> Cluster:
        folders.append(Path(tempfile.mkdtemp(prefix="bench-slurm-")))
        return _start(folders[-1], **environment)

    try:
        yield start
    finally:
        for folder in folders:
            Cluster(folder / "c").down()
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Gate:
    """A place where one process of a job waits until it is let go; see gate/sitecustomize.py."""

    path: Path

    def reached(self, seconds: float = 90) -> dict[str, Any]:
        """Waits for a process to be held; the event that it said, its `pid` and its `job`."""
        held = self.path.with_suffix(".held")

        def found() -> Any:
            with contextlib.suppress(OSError, ValueError):
                return json.loads(held.read_text())

        return wait_until(f"a process at {self.path.name}", found, seconds, 0.05)

    def open(self) -> None:
        """Lets the process go."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".held").unlink(missing_ok=True)


@dataclass
class Grid:
    """A grid file and its results, worked through the command line."""

    cluster: Cluster
    path: Path
    results: Path

    def hold(self, event: str, run: int = 1) -> Gate:
        """Holds the first process that says `event` (started, epoch) of the `run`-th it began.

        A signal that asks the process to stop lets it go too.
        """
        gates = self.path.parent / "gates"
        gates.mkdir(exist_ok=True)
        gate = Gate(gates / f"{event}-{run}")
        gate.path.touch()
        return gate

    def bench(
        self, command: str, *options: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`bench COMMAND GRID --results RESULTS OPTIONS`."""
        return subprocess.run(
            [*BENCH, command, str(self.path), "--results", str(self.results), *options],
            env=self.environment() | dict(env or {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120 * PATIENCE,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Of a command on this grid; its jobs inherit it."""
        paths = [str(ROOT / "tests" / "slurm" / "gate"), os.environ.get("PYTHONPATH", "")]
        return self.cluster.client() | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "BENCH_TEST_GATES": str(self.path.parent / "gates"),
        }

    def submit(self, *options: str, expect: int | None = 0) -> str:
        """`bench grid --slurm`; its output."""
        done = self.bench("grid", "--slurm", *options)
        assert expect in (None, done.returncode), done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """`bench status --json`."""
        done = self.bench("status", "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def counts(self) -> dict[str, int]:
        """Runs by state, without the states of none."""
        return {state: n for state, n in self.status()["counts"].items() if n}

    def events(self) -> list[dict[str, Any]]:
        """All events of all jobs, each with its job's name and its file."""
        found = []
        for path in sorted((self.results / "slurm" / "jobs").glob("*/events-*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                found.append(event | {"job": path.parent.name, "file": path.name})
        return found

    def executions(self) -> collections.Counter[str]:
        """How often each run was begun and not found done, or in other hands, already."""
        begun: collections.Counter[str] = collections.Counter()
        for event in self.events():
            if event["event"] == "started":
                begun[event["id"]] += 1
            elif event["event"] == "ended" and event["status"] in ("already", "elsewhere"):
                begun[event["id"]] -= event["status"] == "already"
        return +begun

    def records(self) -> dict[str, dict[str, Any]]:
        """Published records by run id; every one must be whole."""
        paths = sorted((self.results / "runs").glob("*/record.json"))
        return {(record := json.loads(path.read_text()))["run_id"]: record for path in paths}

    def torn(self) -> list[Path]:
        """Temporary files left by killed writers do not count; torn results do."""
        from bench.core.files import file_digest
        from bench.results.store import Store

        bad = []
        for folder in Store(self.results).find("-"):
            record = folder.record()
            if record is not None:
                bad += [
                    folder.path / name
                    for name, digest in record["files"].items()
                    if file_digest(folder.path / name) != digest
                ]
        return bad

    def unnamed(self) -> list[Path]:
        """Weights and predictions that no record names."""
        from bench.results.store import Store

        return [
            path
            for folder in Store(self.results).find("-")
            if (record := folder.record()) is not None
            for pattern in ("*.safetensors", "*.npz")
            for path in folder.path.glob(pattern)
            if path.name not in record["files"]
        ]

    def wait_for_event(
        self, kind: str, count: int = 1, seconds: float = 60, job: str = ""
    ) -> dict[str, Any]:
        """The `count`-th event of a kind, of jobs whose names begin with `job`."""

        def found() -> list[dict[str, Any]]:
            events = [event for event in self.events() if event["event"] == kind]
            events = [event for event in events if event["job"].startswith(job)]
            return events if len(events) >= count else []

        return wait_until(f"{count} x {kind}", found, seconds, 0.05)[count - 1]

    def wait(self, seconds: float = 90) -> None:
        """Until the queue is empty; the last job has tried again what was to be."""
        wait_until("an empty queue", lambda: not self.cluster.jobs(), seconds)

    def pids(self, job: str = "") -> list[int]:
        """The Python processes of this grid's jobs (or of one)."""
        wanted = str(self.results / "slurm" / "jobs" / job)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if "submitit.core._submit" in words and "python" in words[0]:
                    found += [int(entry.name)] if any(w.startswith(wanted) for w in words) else []
        return found


@pytest.fixture
def grid(cluster: Cluster, tmp_path: Path) -> Callable[..., Grid]:
    """Makes a grid of independent runs: `grid(0, 1, slurm={…}, train={…}, epochs=9)`."""
    return grid_maker(cluster, tmp_path)


@pytest.fixture
def grid_on(tmp_path: Path) -> Callable[[Cluster], Callable[..., Grid]]:
    """The same on another cluster; grids of one test share their results folder."""
    return lambda cluster: grid_maker(cluster, tmp_path)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until


def grid_maker(cluster: Cluster, folder: Path) -> Callable[..., Grid]:
    folder.chmod(0o700)

    def make(
        *seeds: int,
        name: str = "tiny",
        experiments: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        slurm: Mapping[str, Any] | None = None,
        results: Path | None = None,
    ) -> Grid:
        content = json.loads(json.dumps(TINY))
        content["slurm"] |= slurm or {}
        if epochs is not None:
            content["defaults"]["train"]["epochs"] = epochs
        plain = {"set": {"source": "none", "pattern": "scratch"}, "axes": {"seed": list(seeds)}}
        content["experiments"] = experiments or {"e": plain}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return Grid(cluster, path, results or folder / "results")

    return make
