"""Finding the run that a user means, and reading the network that it left."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.core.errors import BenchError, StoreError, nearest
from bench.results.store import RunFolder, Store
from bench.specs.run import RunSpec

if TYPE_CHECKING:
    from torch import nn

Folder = Literal["any", "existing", "writable"]


_SHOWN = 20


def find_run(text: str, results: Path) -> RunFolder:
    """The one run that a user means.

    Args:
        text: the beginning of a run id, a part of a folder name, or the path of the folder or of
            a file in it, wherever that lies.
        results: where to look for it otherwise.

    Raises:
        BenchError: none matches, or several do; some of them are named.
    """
    text = text.strip()
    place = Path(text)
    folder = place.parent if place.is_file() else place
    if "/" in text and (folder / "record.json").is_file():
        path = folder.resolve()
        return RunFolder(path, path.name.rpartition("-")[2])
    check_results(results, "existing")
    hint = "give the beginning of a run id, see the run_id column of a leaderboard"
    if not text:
        raise BenchError("no run is named", place=str(results), hint=hint)
    found = Store(results).find(place.name if "/" in text else text)
    if not found:
        raise StoreError(f"no run matches {text!r}", place=str(results), hint=hint)
    if len(found) > 1:
        names = [f"{f.path.name}" for f in found[:_SHOWN]]
        names += [f"… and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise StoreError(f"{len(found)} runs match {text!r}", hint="\n  ".join(names))
    return found[0]


@dataclass(frozen=True, eq=False)
class Network:
    """What a run trained: the network in training mode, the run, and its classes in order."""

    model: nn.Module
    spec: RunSpec
    classes: tuple[str, ...]


_WITHOUT = ("extract", "svm", "probe")


def read_network(folder: RunFolder) -> Network:
    """The network that a run published.

    Raises:
        StoreError: the run is not done, its files are damaged, or it left no network.
    """
    from bench.models import layers, weights
    from bench.models.inputs import attach, statistics_of

    record = folder.record()
    if record is None:
        raise StoreError(
            "the run has no result yet", place=str(folder.path), hint="run its grid again"
        )
    spec = folder.spec()
    if folder.file_named(record, "model") is None or spec.method.name in _WITHOUT:
        raise StoreError(
            f"the run left no network of its own: method {spec.method.name}, "
            f"{record['row']['status']}",
            place=str(folder.path),
            hint="name a run that trains a network, such as the one it started from",
        )
    state = weights.read_state(folder.weights_path)
    classes = tuple(record["classes"])
    model = layers.create(spec.model, len(classes), seed=0, image_size=spec.data.image_size)
    attach(model, statistics_of(spec))
    if set(state) != set(model.state_dict()):
        raise StoreError(
            "the run's weights are not those of its network alone",
            place=str(folder.path),
            hint=f"method {spec.method.name} leaves more or less; name the run it started from",
        )
    model.load_state_dict(state)
    return Network(model, spec, classes)


def check_results(path: Path, folder: Folder = "any") -> None:
    """Refuses a results folder that cannot be one, before anything is read or run.

    Args:
        path: the folder.
        folder: `existing` for commands that only look: a folder of a mistyped name is not made;
            `writable` for those that write: it is made, and a file is written into it to see.

    Raises:
        StoreError: naming what is there instead.
    """
    hint = "give another folder with --results"
    if path.exists() and not path.is_dir():
        raise StoreError("this is a file; results need a folder", place=str(path), hint=hint)
    if folder == "existing" and not path.exists():
        beside = path.absolute().parent
        found = (
            [p.name for p in beside.iterdir() if (p / "runs").is_dir()] if beside.is_dir() else []
        )
        known = f"; results here: {nearest(path.name, found)}" if found else ""
        raise StoreError(
            "there is no such results folder",
            place=str(path),
            hint=f"run a grid first, or give the folder of its results with --results{known}",
        )
    if folder == "writable":
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise StoreError(
                f"results cannot be written here: {error.strerror}", place=str(path), hint=hint
            ) from None
