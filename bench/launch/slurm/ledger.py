"""What was asked of the cluster, written down before it is asked: a ledger of numbered files.

An entry is one JSON file, created under the next free number (a hard link fails where the name
exists) and never changed; the state is the sum of the entries. Whoever read an older state cannot
add to it. Under a lock, so that two commands take turns; where the file system has no locks, the
numbers still keep them apart. Jobs are known by their names here, never by SLURM's numbers.

    results/slurm/ledger/000001.json    {"kind": "submit", "jobs": [{name, role, runs, …}]}
                         000002.json    {"kind": "settle", "jobs": [{name, state, charged}]}
    results/slurm/jobs/NAME/            payload, events and logs of one job
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import StoreError
from bench.core.files import publish_new
from bench.core.locks import holder, wait_exclusive
from bench.launch.slurm.permissions import make_private
from bench.specs.run import canonical_json

_KEPT_FOLDERS = 200
_LONG = 500


@dataclass(frozen=True)
class Job:
    """One job as it was intended; `grid` is the key of its command, `code` the code's digest."""

    name: str
    role: str
    runs: tuple[str, ...]
    grid: str
    resources: Mapping[str, Any]
    code: str = ""
    entry: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """As an entry holds it."""
        return {name: value for name, value in vars(self).items() if name != "entry"}


@dataclass(frozen=True)
class Command:
    """A user's command, as its last job repeats it: the grid's text and all options."""

    name: str
    file_name: str
    text: str
    only: tuple[str, ...]
    overrides: tuple[str, ...]
    data_root: str | None
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Identity of the command: what it would do, not when it was given."""
        return hashlib.sha256(canonical_json(vars(self)).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As a payload holds it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Command:
        """What `to_json` gave."""
        lists = {name: tuple(values[name]) for name in ("only", "overrides")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class FailedAttempt:
    """A job ended while it trained a run; `final`: the same attempt again cannot succeed."""

    run: str
    job: str
    reason: str
    message: str
    final: bool = False
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """What became of a job: SLURM's word, or lost, never arrived, cannot start, refused."""

    job: str
    state: str
    reason: str = ""
    charged: tuple[FailedAttempt, ...] = ()


@dataclass
class Ledger:
    """The sum of the entries.

    Attributes:
        not_counted: by run, exceptions and failed attempts before the user asked for it again.
        attempts_not_counted: of these the failed attempts (`forgiven` and `forgiven_deaths` in
            the files).
        earlier: runs of jobs that a sum has replaced.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)
    failed_attempts: dict[str, list[FailedAttempt]] = field(default_factory=dict)
    not_counted: dict[str, int] = field(default_factory=dict)
    attempts_not_counted: dict[str, int] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    commands: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    earlier: frozenset[str] = frozenset()
    first_number: int = 1
    next_number: int = 1

    @property
    def submitted(self) -> frozenset[str]:
        """Runs that were ever in a job."""
        return self.earlier.union(*(job.runs for job in self.jobs.values()))

    @property
    def open(self) -> list[Job]:
        """Jobs of which the end is not known, in the order of submission."""
        return [job for name, job in self.jobs.items() if name not in self.endings]

    def add(self, entry: Mapping[str, Any], path: Path | None = None) -> None:
        """Takes one entry in."""
        match entry["kind"]:
            case "submit":
                for job in entry["jobs"]:
                    self.jobs[job["name"]] = Job(**job | {"runs": tuple(job["runs"])}, entry=path)
            case "sum":
                if path is not None:
                    self.first_number = int(path.stem)
                self.jobs.clear()
                self.endings.clear()
                self.commands.clear()
                self.failed_attempts = {
                    r: [FailedAttempt(**d) for d in f] for r, f in entry["deaths"].items()
                }
                self.not_counted, self.cancelled = dict(entry["forgiven"]), set(entry["cancelled"])
                self.attempts_not_counted = dict(entry["forgiven_deaths"])
                self.earlier = frozenset(entry["submitted"])
            case "settle":
                for found in entry["jobs"]:
                    charged = tuple(FailedAttempt(**failed) for failed in found["charged"])
                    name = found["name"]
                    self.endings[name] = Ending(name, found["state"], found["reason"], charged)
                    for failed in charged:
                        self.failed_attempts.setdefault(failed.run, []).append(failed)
            case "cancel":
                self.cancelled |= set(entry["runs"])
            case "begin":  # a user's command: what it names is wanted again
                self.cancelled -= set(entry["runs"])
                self.not_counted |= entry["forgiven"]
                for run in entry["runs"]:  # what could not start may start now
                    self.attempts_not_counted[run] = len(self.failed_attempts.get(run, ()))
                self.commands[entry["grid"]] = entry["command"]
            case other:
                raise StoreError(
                    f"unknown kind of entry {other!r}",
                    place=str(path),
                    hint="it was written by a newer version; use that one",
                )


@dataclass(frozen=True)
class SubmissionStore:
    """The folder `slurm` of a results folder, open to its owner alone."""

    root: Path

    @property
    def ledger_folder(self) -> Path:
        """The numbered entries."""
        return self.root / "ledger"

    def job_folder(self, name: str) -> Path:
        """Payload, events and logs of one job."""
        return self.root / "jobs" / name

    @property
    def exists(self) -> bool:
        """Whether anything was ever submitted from this results folder."""
        return self.ledger_folder.is_dir()

    def prepare(self) -> None:
        """Creates the folder and checks that nobody else can write into it.

        Raises:
            StoreError: see `check_private`.
        """
        make_private(self.root)
        for part in (self.ledger_folder, self.root / "jobs"):
            part.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def lock(self, wait_s: float = 120.0) -> Iterator[None]:
        """One command at a time; the lock goes with its process, however that dies.

        Raises:
            StoreError: another command has held it for `wait_s` seconds.
        """
        path = self.root / ".lock"
        with contextlib.ExitStack() as stack:
            if not wait_exclusive(stack, path, wait_s):
                raise StoreError(
                    f"another bench command is at work on these results: {holder(path)}",
                    place=str(self.root),
                    hint="wait for it, or end it, then try again",
                )
            yield

    def read(self) -> Ledger:
        """The ledger as it stands.

        Raises:
            StoreError: if an entry is missing or torn.
        """
        ledger = Ledger()
        if not self.exists:
            return ledger
        for path in sorted(self.ledger_folder.iterdir()):
            if path.name.startswith(".") or path.suffix != ".json":
                continue
            try:
                ledger.add(json.loads(path.read_text()), path)
            except FileNotFoundError:  # shortened meanwhile; the sum follows
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"torn entry ({error})", place=str(path)) from None
            ledger.next_number = int(path.stem) + 1
        return ledger

    def write(self, ledger: Ledger, entry: Mapping[str, Any]) -> None:
        """Adds an entry to the folder and to `ledger`, which must be the newest state.

        Raises:
            StoreError: somebody else has added one since `ledger` was read; nothing was written.
            OSError: the folder cannot be written.
        """
        path = self.ledger_folder / f"{ledger.next_number:06d}.json"
        if not publish_new(path, json.dumps(dict(entry), indent=1, sort_keys=True) + "\n"):
            raise StoreError("another bench command was quicker", place=str(path), hint="try again")
        ledger.next_number += 1
        ledger.add(entry, path)

    def age_s(self, path: Path) -> float:
        """Seconds since `path` was written, by the file system's own clock."""
        probe = self.root / f".clock-{os.getpid()}"
        probe.touch()
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        finally:
            probe.unlink(missing_ok=True)

    def shorten(self, ledger: Ledger) -> None:
        """Replaces a long ledger by one entry that has its sum, when no job is open."""
        if ledger.open or ledger.next_number - ledger.first_number < _LONG:
            return
        for name in ledger.jobs:
            shutil.rmtree(self.job_folder(name), ignore_errors=True)
        entry = {
            "kind": "sum",
            "deaths": {
                run: [vars(d) for d in found] for run, found in ledger.failed_attempts.items()
            },
            "forgiven": ledger.not_counted,
            "forgiven_deaths": ledger.attempts_not_counted,
            "cancelled": sorted(ledger.cancelled),
            "submitted": sorted(ledger.submitted),
        }
        number = ledger.next_number
        ledger.jobs.clear()
        self.write(ledger, entry)
        for path in self.ledger_folder.glob("*.json"):
            if int(path.stem) < number:
                path.unlink(missing_ok=True)

    def tidy(self, ledger: Ledger, ended: Sequence[str]) -> None:
        """Removes the pickles of jobs that have just ended, and folders of those of long ago."""
        for name in ended:
            for path in self.job_folder(name).glob("*.pkl"):
                path.unlink(missing_ok=True)
        settled = [name for name in ledger.jobs if name in ledger.endings]
        for name in settled[:-_KEPT_FOLDERS]:
            if self.job_folder(name).is_dir():
                shutil.rmtree(self.job_folder(name), ignore_errors=True)


def settle_entry(endings: Sequence[Ending]) -> dict[str, Any]:
    """The entry on how jobs ended."""
    return {
        "kind": "settle",
        "jobs": [
            {
                "name": ending.job,
                "state": ending.state,
                "reason": ending.reason,
                "charged": [vars(failed) for failed in ending.charged],
            }
            for ending in endings
        ],
    }
