"""What became of each run of a plan, from one reading of its record: the one state machine.

    done, diverged   there is a record that verifies
    damaged          there is a record that cannot be read or was changed; others go on without it
    failed           there is none, and an attempt has failed
    missing          none of these; also a finished run whose files are gone and that others need
    blocked          missing, below a run that ended without weights

Records are published once and never changed, so a command reads each of them once, however often
it asks; the jobs of a cluster are laid over these states (`bench.launch.slurm.states`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.errors import StoreError
from bench.results.store import RunFolder, Store
from bench.specs.planned import Plan, PlannedRun

ENDED_WITHOUT_WEIGHTS = ("failed", "diverged", "damaged")


@dataclass(frozen=True)
class Reading:
    """What was read of a record.

    Attributes:
        record: `row`, `files`, `sizes`, `resolved` and the notes on data, on what was borrowed and
            on how many workers shared the GPU; None if damaged.
        damage: what is wrong with its files, by names and sizes, each time anew.
        error: why the record cannot be used.
    """

    record: Mapping[str, Any] | None
    damage: tuple[str, ...] = ()
    error: StoreError | None = None

    @property
    def state(self) -> str:
        """Done, diverged or damaged."""
        return "damaged" if self.record is None else str(self.record["row"]["status"])


class Records:
    """The records of a plan's runs, each read once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self._known: dict[str, tuple[tuple[int, int], Reading]] = {}
        """Each with the version of the file that it was read from."""
        self._folders: dict[str, RunFolder] = {}

    def folder(self, run: PlannedRun) -> RunFolder:
        """Where a run of the plan lives; its name is made once."""
        if run.id not in self._folders:
            self._folders[run.id] = self.store.folder(run.id, run.spec)
        return self._folders[run.id]

    def read(self) -> dict[str, Reading]:
        """Every record that there is now, by run id, in the order of the plan."""
        names = self.store.names()
        found: dict[str, Reading] = {}
        for run in self.plan.runs.values():
            folder = self.folder(run)
            if folder.path.name not in names:
                continue
            try:
                status = folder.record_path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                why = f"the record cannot be read: {error.strerror}"
                found[run.id] = Reading(None, error=StoreError(why, place=str(folder.record_path)))
                continue
            version = (status.st_ino, status.st_mtime_ns)
            known = self._known.get(run.id)
            if known is None or known[0] != version:
                known = self._known[run.id] = (version, self._reading(folder))
            record = known[1].record
            found[run.id] = (
                known[1] if record is None else Reading(record, tuple(folder.damage(record)))
            )
        return found

    def _reading(self, folder: RunFolder) -> Reading:
        try:
            record = folder.record()
        except StoreError as error:
            return Reading(None, error=error)
        if record is None:
            return Reading(None, error=StoreError("the record is gone", place=str(folder.path)))
        borrowed = [{"notes": part.get("notes", {})} for part in record.get("borrowed", ())]
        every = record.get("notes", {})
        notes = {"data": every.get("data", {}), "workers_on_gpu": every.get("workers_on_gpu", 1)}
        kept = {name: record.get(name, {}) for name in ("row", "files", "sizes", "resolved")}
        return Reading(kept | {"notes": notes, "borrowed": borrowed})

    def states(self) -> dict[str, str]:
        """The state of every run."""
        readings = self.read()
        states = {}
        for run in self.plan.runs.values():
            if run.id in readings:
                states[run.id] = readings[run.id].state
            else:
                failed = self.folder(run).has_failed()
                states[run.id] = "failed" if failed else "missing"
        for key in self.plan.to_repeat(states, damaged_files(readings)):
            states[key] = "missing"  # its result stands, but its files are wanted and gone
        return states | dict.fromkeys(blocked(self.plan, states), "blocked")


def damaged_files(readings: Mapping[str, Reading]) -> dict[str, tuple[str, ...]]:
    """What is wrong with the files of finished runs, by run id; runs without fault are left out."""
    return {key: reading.damage for key, reading in readings.items() if reading.damage}


def blocked(
    plan: Plan, states: Mapping[str, str], ended: Collection[str] = ENDED_WITHOUT_WEIGHTS
) -> dict[str, str]:
    """Missing runs below one that ended without weights, each with the id of that one."""
    bad = [key for key, state in states.items() if state in ended]
    below = plan.descendants(bad)
    return {key: by for key, by in below.items() if states.get(key) == "missing"}


def to_do(states: Mapping[str, str], retry_failed: bool) -> set[str]:
    """Ids of the runs that a command runs; diverged is a result, damaged is for the user."""
    again = ("missing", "failed", "blocked") if retry_failed else ("missing",)
    return {key for key, state in states.items() if state in again}
