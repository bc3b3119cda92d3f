"""Every path below the results folder; writes that are whole or absent; reads that are verified.

A run is done when its `record.json` is there and verifies; nothing else means done. The first
record that is published wins (a hard link fails where a name exists), so a run that was executed
twice at once has one result. Weights and other files carry their hash in their names and the record
names them, so they cannot be those of another execution. Failures are numbered files beside it,
never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core.errors import StoreError
from bench.core.files import (
    csv_text,
    file_digest,
    publish_new,
    sweep_temporaries,
    sync_folder,
    write_atomic,
)
from bench.core.locks import exclusive, holder, is_held_here
from bench.core.paths import read_regular
from bench.results.records import sign, slug, verify
from bench.specs.run import RunSpec

GPU_FAULT = "GPU error"
"""The reason of a failure after which a process computes nothing on its GPU any more."""

_DIGITS = 16
_KEPT_NAME = re.compile(rf"[a-z0-9_]+-[0-9a-f]{{{_DIGITS}}}\.(safetensors|npz)")
_PROGRESS, _SHOW_EVERY_S = "progress.json", 1.0
_OLD_NAMES = frozenset({"model.safetensors", "predictions.npz"})
"""As schema 1 first named them; records that name them are read."""


_MOST_JSON = 64 << 20


def _read_json(path: Path) -> Any:
    """The content of a JSON file that may have been damaged.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file, too large, not UTF-8, or no JSON.
    """
    try:
        return json.loads(read_regular(path, _MOST_JSON))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None


@dataclass(frozen=True)
class Kept:
    """A file of a run as its record names it."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: epochs that have ended; 0 before the end of the first.
        epochs: of the whole training.
        best_val_top1_accuracy: so far; None where none was measured.
        left_s: seconds to the end by the time that epochs took; None where it is not known.
    """

    epoch: int
    epochs: int
    best_val_top1_accuracy: float | None = None
    left_s: float | None = None


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path
    run_id: str

    @cached_property
    def record_path(self) -> Path:
        """The file whose presence means done."""
        return self.path / "record.json"

    @property
    def weights_path(self) -> Path:
        """Weights of the epoch kept, as the record names them; see `published_file`."""
        return self.published_file("model")

    @property
    def predictions_path(self) -> Path:
        """Scores on the test set, from which every metric can be computed again."""
        return self.published_file("predictions")

    @property
    def checkpoint_path(self) -> Path:
        """State of an unfinished run."""
        return self.path / "checkpoint"

    @property
    def refit_checkpoint_path(self) -> Path:
        """State of its second training (`train.refit`); the first has then ended."""
        return self.path / "checkpoint-refit"

    def record(self) -> dict[str, Any] | None:
        """The verified record; None if the run is not done.

        Raises:
            StoreError: if there is a record that does not verify.
        """
        try:
            record = _read_json(self.record_path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(
                f"the record cannot be read: {error}",
                place=str(self.record_path),
                hint="delete the folder to have the run repeated",
            ) from None
        verify(record, self.run_id, str(self.record_path))
        return dict(record)

    def spec(self) -> RunSpec:
        """The spec of the run, which lies beside its record.

        Raises:
            StoreError: it is not there or is damaged.
        """
        path = self.path / "spec.json"
        try:
            return RunSpec.model_validate_json(read_regular(path, _MOST_JSON))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no spec of a run"
            raise StoreError(
                f"the run's spec cannot be read: {reason}",
                place=str(path),
                hint="delete the folder to have the run repeated",
            ) from None

    def publish(
        self, record: Mapping[str, Any], history: Sequence[Mapping[str, Any]], spec: RunSpec
    ) -> bool:
        """Writes spec and history, then the record; True if this was the first.

        The files that the record names by hash must be in place already.
        """
        write_atomic(self.path / "spec.json", spec.model_dump_json(indent=1) + "\n")
        write_atomic(self.path / "history.csv", csv_text(history))
        content = json.dumps(sign(record), indent=1, sort_keys=True) + "\n"
        return publish_new(self.record_path, content)

    # --- files beside the record ---

    def keep(self, name: str, content: bytes | Path) -> Kept:
        """Keeps a file under a name that has its hash in it: `model.npz` as `model-<hash>.npz`.

        Two executions of the run with unlike results write unlike names, whenever they end.

        Args:
            name: role and suffix, such as `model.safetensors`.
            content: the bytes, or a finished file in the run's folder, which is moved.
        """
        role, suffix = Path(name).stem, Path(name).suffix
        self.path.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            digest, size = hashlib.sha256(content).hexdigest(), len(content)
            path = self.path / f"{role}-{digest[:_DIGITS]}{suffix}"
            write_atomic(path, content)
        else:
            digest, size = file_digest(content), content.stat().st_size
            path = self.path / f"{role}-{digest[:_DIGITS]}{suffix}"
            with content.open("rb+") as file:
                os.fsync(file.fileno())
            content.replace(path)
            sync_folder(self.path)
        return Kept(path.name, digest, size)

    def file_named(self, record: Mapping[str, Any], role: str) -> Path | None:
        """The file that a record names for a role (`model`, `predictions`, …), if it names one."""
        pattern = re.compile(rf"{re.escape(role)}(-[0-9a-f]{{{_DIGITS}}})?\.[a-z0-9]+")
        names = [name for name in record.get("files", {}) if pattern.fullmatch(name)]
        return self.path / names[0] if names else None

    def published_file(self, role: str) -> Path:
        """The file of a role, by the published record.

        Raises:
            StoreError: there is no record, or it names no such file.
        """
        record = self.record()
        path = self.file_named(record, role) if record else None
        if path is None:
            what = f"its record names no {role} file" if record else "the run has no result"
            raise StoreError(what, place=str(self.path), hint="see bench show and bench status")
        return path

    def damage(self, record: Mapping[str, Any]) -> list[str]:
        """What is wrong with the files that a record names: missing, or cut; `[]` if nothing is.

        By names and sizes only, so that it may be asked of every run; who reads a file compares
        its hash too.
        """
        found = []
        sizes = record.get("sizes", {})
        for name in sorted(record.get("files", {})):
            try:
                size = (self.path / name).stat().st_size
            except OSError:
                found.append(f"{name} is missing")
                continue
            if size == 0 or size != sizes.get(name, size):
                found.append(f"{name} has {size} of {sizes.get(name, 'its')} bytes")
        return found

    def sweep(self) -> None:
        """Removes what other executions of the run have left and the record does not name."""
        sweep_temporaries(self.path)
        (self.path / _PROGRESS).unlink(missing_ok=True)
        record = self.record()
        if record is None:
            return
        for path in self.path.iterdir():
            ours = _KEPT_NAME.fullmatch(path.name) or path.name in _OLD_NAMES
            if ours and path.name not in record.get("files", {}) and path.is_file():
                path.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Takes the record back: its files are gone and the run is to be published again."""
        self.record_path.unlink(missing_ok=True)
        sync_folder(self.path)

    # --- failures ---

    def has_failed(self) -> bool:
        """Whether no command tries the run again by itself: once more after an error of the GPU."""
        reasons = [failure.get("reason") for failure in self.failures()]
        return bool(reasons) and reasons != [GPU_FAULT]

    def failures(self) -> list[dict[str, Any]]:
        """The failed attempts, oldest first; a torn file counts as a failure without a reason."""
        found = []
        for path in sorted(self.path.glob("failed-*.json")):
            try:
                failure = _read_json(path)
            except (OSError, ValueError) as error:
                failure = f"{path} cannot be read: {error}"
            if not isinstance(failure, dict):
                failure = {"reason": "unknown", "message": str(failure)}
            found.append(failure)
        return found

    def add_failure(self, failure: Mapping[str, Any]) -> str:
        """Keeps a failed attempt under the next free number; gives why it cannot be kept, if so.

        A disk that is too full for a result is often too full for the reason too.
        """
        content = json.dumps(dict(failure), indent=1, sort_keys=True) + "\n"
        number = len(self.failures()) + 1
        try:
            while not publish_new(self.path / f"failed-{number:04d}.json", content):
                number += 1
        except OSError as error:
            return f"this reason is not kept in {self.path}: {error.strerror or error}"
        return ""

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        """Holds the run for this process while inside; yields False if another process holds it.

        The lock goes with the process that holds it, however it dies; see `bench.core.locks`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path / ".lock") as mine:
            if mine:
                sweep_temporaries(self.path)
            yield mine

    # --- while it runs ---

    def show_progress(self, progress: Progress, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes how far the run is, and its history so far, at most once in `_SHOW_EVERY_S`.

        A disk that is full does not end a run for it.
        """
        path = self.path / "history.csv"
        with contextlib.suppress(OSError):
            if progress.epoch > 1 and 0 <= time.time() - path.stat().st_mtime < _SHOW_EVERY_S:
                return
        with contextlib.suppress(OSError):
            write_atomic(path, csv_text(history))
            write_atomic(self.path / _PROGRESS, json.dumps(asdict(progress)))

    def progress(self) -> Progress | None:
        """How far the run is; None unless a process of this machine is executing it.

        Before the end of the first epoch its number is 0.
        """
        if not is_held_here(self.path / ".lock"):
            return None
        try:
            begun = (self.path / ".lock").stat().st_mtime
            path = self.path / _PROGRESS
            if path.stat().st_mtime < begun:  # of an earlier execution
                return Progress(0, 0)
            return Progress(**_read_json(path))
        except (OSError, ValueError, TypeError):
            return Progress(0, 0)

    def holder(self) -> str:
        """Who holds the run, in words."""
        return holder(self.path / ".lock")


@dataclass(frozen=True)
class Store:
    """The results folder."""

    root: Path

    @property
    def cache(self) -> Path:
        """Decoded images and indices; may be deleted at any time."""
        return self.root / "cache"

    def cache_bytes(self) -> int:
        """What the cache takes on the disk."""
        total = 0
        for folder, _, names in os.walk(self.cache):
            for name in names:
                with contextlib.suppress(OSError):  # one that is gone by now
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
        return total

    @cached_property
    def runs(self) -> Path:
        """One folder per run."""
        return self.root / "runs"

    def sweep(self) -> None:
        """Removes what killed writers left beside leaderboards, in the cache and the ledger.

        What they left in the folder of a run goes when the run is tried again.
        """
        below = [path for path in self.cache.glob("*/") if path.is_dir()]
        for folder in (self.root, self.cache, *below, self.root / "slurm" / "ledger"):
            sweep_temporaries(folder)

    def folder(self, run_id: str, spec: RunSpec) -> RunFolder:
        """Where the run lives."""
        return RunFolder(self.runs / f"{slug(spec)}-{run_id}", run_id)

    def find(self, text: str) -> list[RunFolder]:
        """The runs whose id begins with `text`, or whose folder name contains it."""
        if not self.runs.is_dir():
            return []
        names = sorted(entry.name for entry in self.runs.iterdir() if entry.is_dir())
        folders = [RunFolder(self.runs / name, name.rpartition("-")[2]) for name in names]
        exact = [f for f in folders if f.run_id.startswith(text) or f.path.name == text]
        return exact or [f for f in folders if text in f.path.name]

    def names(self) -> set[str]:
        """The names of the folders of runs, with a result or without."""
        return set(os.listdir(self.runs)) if self.runs.is_dir() else set()  # noqa: PTH208

    def published(self) -> set[str]:
        """Ids of the runs that have a record, by one walk over the folder names."""
        if not self.runs.is_dir():
            return set()
        with os.scandir(self.runs) as entries:
            return {
                entry.name.rpartition("-")[2]
                for entry in entries
                if os.path.exists(os.path.join(entry.path, "record.json"))  # noqa: PTH110, PTH118
            }

    def leaderboard(self, name: str, suffix: str = "") -> Path:
        """The CSV of a grid."""
        return self.root / f"{name}{suffix}.csv"
