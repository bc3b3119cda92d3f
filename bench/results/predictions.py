"""What each run predicted for each test or validation image, from the files that records name."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core.errors import StoreError
from bench.results.states import Reading, Records
from bench.results.store import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def correct_images(
    folder: RunFolder, accuracy: float, record: Mapping[str, Any] | None = None
) -> npt.NDArray[np.bool_] | None:
    """One truth value for each test image: whether the class named first is the right one.

    Args:
        accuracy: of the record; predictions that do not give it are not the run's.
        record: of the run, where it was read already.

    Returns:
        None where the file is gone, as it may be to save room.
    """
    scores = read_scores(folder, record)
    if scores is None:
        return None
    found: npt.NDArray[np.bool_] = scores[0].argmax(axis=1) == scores[1]
    return found if len(found) and abs(float(found.mean()) - accuracy) < 1e-6 else None


def read_scores(
    folder: RunFolder, record: Mapping[str, Any] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None:
    """Scores (images, classes), before the softmax, and labels of the test images.

    Args:
        record: of the run, where it was read already.

    Returns:
        None where the file is gone, as it may be to save room.
    """
    found = _read(folder, "predictions", record)
    return None if found is None else (found["logits"], found["labels"])


def right_on_validation(folder: RunFolder) -> dict[str, bool] | None:
    """Whether each validation image is named rightly, by its key, of a run that was not tested.

    Returns:
        None where the file is gone, or was not written: runs of earlier versions have none.
    """
    found = _read(folder, "validation", folder.record())
    if found is None:
        return None
    right = found["logits"].argmax(axis=1) == found["labels"]
    keys = [bytes(key).decode("utf-8", "replace") for key in found["images"]]
    return dict(zip(keys, right.tolist(), strict=True))


def _read(
    folder: RunFolder, role: str, record: Mapping[str, Any] | None
) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a file that a record names; None where there is no such file."""
    import numpy as np

    try:
        path = folder.file_named(record, role) if record else folder.published_file(role)
        content = path.read_bytes() if path else b""
    except (StoreError, OSError):
        return None
    if not content:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


def add_predictions(
    table: Sequence[dict[str, Any]], records: Records, readings: Mapping[str, Reading]
) -> None:
    """Adds `correct` to the rows whose condition was repeated on one task alone.

    The interval of their mean carries the test images' error; over several tasks it is in the
    spread of the tasks already.
    """
    tasks: dict[str, set[str]] = {}
    repeats: Counter[str] = Counter()
    for row in table:
        tasks.setdefault(row["condition_id"], set()).add(row["task_id"])
        repeats[row["condition_id"]] += 1
    for row in table:
        key = row["condition_id"]
        if len(tasks[key]) == 1 and repeats[key] > 1 and _has_predictions(row):
            folder = records.folder(records.plan.runs[row["run_id"]])
            record = readings[row["run_id"]].record
            row["correct"] = correct_images(folder, row["top1_accuracy"], record)


def _has_predictions(row: Mapping[str, Any]) -> bool:
    tested = row["top1_accuracy"] is not None
    return bool(row["status"] == "done" and row["role"] != "source" and tested)
