"""A run that differs from a finished one only in being tested takes that one's weights.

Where a choice is made before any test (`target.tested: false`), the run that was chosen is asked
for once more with its test images. Training it again would give the same weights. The record has
the device and the cost of the training; a note names the device of the test where it is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.text import counted
from bench.models import weights
from bench.results.history import read_history
from bench.results.store import RunFolder, Store
from bench.runs.execution import Execution
from bench.runs.record import Finished, machine_of
from bench.specs.run import run_id
from bench.training.job import Outcome


def trained_untested(run: Execution) -> Finished | None:
    """The run as the untested one left it; None where there is none, or it must be trained."""
    spec = run.spec
    plain = spec.method.name == "plain" and not spec.train.refit
    if not (spec.data.tested and plain) or run.team.size > 1:
        return None
    folder = _folder_of(run)
    record = folder.record()
    if record is None or folder.damage(record) or record["row"]["status"] != "done":
        return None
    row = record["row"]
    state = weights.read_state(folder.weights_path)
    model = run.network(run.parent_state())
    model.load_state_dict(state)
    outcome = Outcome(
        status="done",
        history=read_history(folder),
        best_epoch=int(row["best_epoch"]) - 1,
        state=state,
        steps=int(row["steps"]),
        images_seen=round(row["images_per_s"] * row["seconds"]),
        seconds=float(row["seconds"]),
        peak_memory_bytes=round(row["peak_memory_mib"] * 2**20),
        notes=(*record["notes"]["training"], _taken(run, folder, record)),
    )
    trainable = int(row["trainable_parameters"])
    notes = record["notes"]["method"]
    return Finished(
        spec, run.data, model, outcome, notes=notes, trainable=trainable, earlier=record
    )


def _taken(run: Execution, folder: RunFolder, record: Mapping[str, Any]) -> str:
    """Whose weights these are, and on what they are tested where that is another device."""
    here = machine_of(run.context)
    words = here | {"threads": counted(here["threads"], "thread")}
    unlike = [words[name] for name, value in here.items() if value != record["row"][name]]
    tested = f"; tested on {', '.join(unlike)}" if unlike else ""
    return f"weights of run {folder.run_id}, not trained again{tested}"


def _folder_of(run: Execution) -> RunFolder:
    """Where the untested run lies: its id covers the images of the runs that it starts from too."""
    data = run.spec.data.model_copy(update={"tested": False})
    untested = run.spec.model_copy(update={"data": data})
    store = Store(run.folder.path.parents[1])
    return store.folder(run_id(untested, run.context.fingerprint), untested)
