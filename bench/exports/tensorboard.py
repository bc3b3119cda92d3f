"""Event files for TensorBoard: a scalar for each column of a run's history, at each epoch.

    tensorboard --logdir results/tensorboard

They are written while a run trains, and anew when it ends, so that they hold what its `history.csv`
holds. Nothing reads them here, and they are in no id: the folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import BenchError, StoreError
from bench.results.history import read_history
from bench.results.store import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = Mapping[str, float | int | None]
_STEP = "epoch"


def check_tensorboard() -> None:
    """Looks whether the package is installed.

    Raises:
        BenchError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise BenchError(
            "--tensorboard writes with the package tensorboard, which is not installed",
            hint='pip install -e ".[tensorboard]", or pip install tensorboard',
        )


def events_folder(run: RunFolder) -> Path:
    """Where the event files of a run lie: `RESULTS/tensorboard/RUN`."""
    return run.path.parent.parent / "tensorboard" / run.path.name


class LiveScalars:
    """The scalars of a run that is training, a row as soon as it is there."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.written = run, 0
        self.writer: SummaryWriter | None = None

    def add(self, history: Sequence[Row]) -> None:
        """Writes the rows that have come since; a disk that is full does not end a run for it."""
        with contextlib.suppress(OSError):
            if self.writer is None:
                self.writer = _anew(self.run)
            _add(self.writer, history[self.written :])
            self.writer.flush()
            self.written = len(history)


def write_scalars(run: RunFolder, history: Iterable[Row]) -> None:
    """Writes the scalars of a run that has ended, in place of those of its training."""
    with contextlib.suppress(OSError), contextlib.closing(_anew(run)) as writer:
        _add(writer, history)


def write_missing(runs: Iterable[RunFolder]) -> None:
    """Writes those of runs that ended before somebody wanted them, or without whom.

    A run whose history is damaged is left out: other commands name it.
    """
    for run in runs:
        with contextlib.suppress(StoreError, OSError):
            if run.record_path.is_file() and not _is_written(run):
                write_scalars(run, read_history(run))


def _is_written(run: RunFolder) -> bool:
    """Whether there are event files, and the run has not ended after they were written."""
    ended = run.record_path.stat().st_mtime
    return any(path.stat().st_mtime >= ended for path in events_folder(run).glob("events.*"))


def _anew(run: RunFolder) -> SummaryWriter:
    """A writer for a run whose earlier event files are removed: TensorBoard would join them."""
    from torch.utils.tensorboard import SummaryWriter

    folder = events_folder(run)
    for path in folder.glob("events.*"):
        path.unlink(missing_ok=True)
    return SummaryWriter(log_dir=str(folder))


def _add(writer: SummaryWriter, rows: Iterable[Row]) -> None:
    for row in rows:
        step = int(row[_STEP] or 0)
        for name, value in row.items():
            if name != _STEP and isinstance(value, int | float):
                writer.add_scalar(name, value, step)
