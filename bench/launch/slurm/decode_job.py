"""A job without a GPU that decodes images before the jobs that train on them start.

Which selections are worth one is seen at submission. The job shares its cores among processes, each
of which goes through all selections; they decode different parts of them (`bench.data.decoding`).
Jobs that train start when it has ended, in whatever way, and decode what is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import BenchError
from bench.core.paths import Places
from bench.core.text import counted
from bench.launch.slurm.command_job import STOPPED, Stop
from bench.launch.slurm.events import Events
from bench.specs.data import DataSpec
from bench.specs.planned import PlannedRun

DECODE: Final = "decode"
"""The role of such a job."""

_CORES = 2
"""Of each process: small photographs keep three busy, see `bench.data.files.files`."""

_MOST_PROCESSES = 4
"""Each holds the names and contents of all images of a selection."""

_LOOK_S = 0.2


@dataclass(frozen=True)
class Undecoded:
    """A selection that the cache does not have; `key` is that of its images, however selected."""

    key: str
    images: int
    data: DataSpec
    draw: int

    def to_json(self) -> dict[str, Any]:
        """As a payload holds it."""
        data = self.data.model_dump(mode="json")
        return {"key": self.key, "images": self.images, "data": data, "draw": self.draw}


class DecodingNeeds:
    """What runs need decoded; each selection is looked at once.

    Args:
        places: of the data.
        least: selections of fewer images are left to the jobs that train.
    """

    def __init__(self, places: Places, least: int) -> None:
        self._places, self._least = places, least
        self._known: dict[tuple[DataSpec, int], Undecoded | None] = {}

    def __call__(self, runs: Iterable[PlannedRun]) -> list[Undecoded]:
        """The selections of these runs that are not decoded, each once."""
        from bench.data import catalog

        if not catalog.decodes_once():
            return []
        found: dict[str, Undecoded] = {}
        for run in runs:
            facts, spec = run.facts, run.spec
            own = (spec.data, spec.seeds.draw, facts.train_images + facts.held_out_images)
            borrowed = [
                (one.data, one.draw, of.available_images + of.held_out_images)
                for one, of in zip(spec.borrow, facts.borrowed, strict=True)
            ]
            for data, draw, most in (own, *borrowed):
                needed = self._look(data, draw) if most >= self._least else None
                if needed is not None:
                    found[needed.key] = needed
        return list(found.values())

    def _look(self, data: DataSpec, draw: int) -> Undecoded | None:
        from bench.data import catalog
        from bench.data.cache import is_cached

        if (data, draw) not in self._known:
            resolved = catalog.resolve(data, draw, **self._places)
            there = is_cached(
                resolved.fingerprint,
                data.kept_size,
                cache_dir=self._places["cache_dir"],
                jpeg=data.stored_as == "jpeg",
            )
            count = len(resolved.images)
            key = f"{resolved.fingerprint}-{data.kept_size}-{data.stored_as}"
            is_needed = count >= self._least and not there
            self._known[data, draw] = Undecoded(key, count, data, draw) if is_needed else None
        return self._known[data, draw]


def decode_job(payload: Mapping[str, Any], folder: Path, events: Events, stop: Stop) -> int:
    """Decodes by several processes, until all is done or the job is asked to stop; the status.

    Args:
        payload: of the job: `selections`, `data_root` and `results`, read again by the processes.
        folder: of the job.
        events: of the job.
        stop: looked at again and again.
    """
    from bench.data.files.files import usable_cores

    cores = usable_cores()
    processes = min(_MOST_PROCESSES, max(1, cores // _CORES))
    environment = os.environ | {"SLURM_CPUS_PER_TASK": str(max(1, cores // processes))}
    command = [sys.executable, "-m", "bench.launch.slurm.decode_job", str(folder)]
    children = [
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=environment, preexec_fn=_leave_to_the_job
        )
        for _ in range(processes)
    ]
    while any(child.poll() is None for child in children):
        if stop.asked:
            for child in children:
                child.terminate()
        time.sleep(_LOOK_S)
    if stop.asked:  # the parts that are finished stay, so the next turn goes on from there
        events({"event": "ended", "id": payload["name"], "status": "stopped"})
        return STOPPED
    return max(abs(int(child.returncode)) for child in children)


def progress(payload: Mapping[str, Any]) -> str:
    """How many of a job's images are decoded, in words; they are written in parts.

    Args:
        payload: of the job.
    """
    from bench.data import decoding
    from bench.data.cache import is_cached

    cache = Path(payload["cache"])
    parts = [at for folder in decoding.unfinished(cache) for at in folder.glob("part-*.npy")]
    done = total = 0
    for one in payload["selections"]:
        fingerprint, size, stored_as = str(one["key"]).rsplit("-", 2)
        images, jpeg = int(one["images"]), stored_as == "jpeg"
        total += images
        if is_cached(fingerprint, int(size), cache_dir=cache, jpeg=jpeg):
            done += images
            continue
        rows = max(1, decoding.PART_BYTES // (3 * int(size) ** 2))
        begin = f"{decoding.PREFIX}{fingerprint}-{size}-"
        names = [at.parent.name for at in parts if at.parent.name.startswith(begin)]
        own = sum(name.startswith(f"{begin}jpeg") == jpeg for name in names)
        views = len(one["data"]["views"]) or 1  # each is a row
        done += min(images, rows * own // views)
    return f"{done:,} of {counted(total, 'image')} are decoded"


def _leave_to_the_job() -> None:
    """SLURM signals all processes of a job; that the time limit is near is the job's affair."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def decode(payload: Mapping[str, Any]) -> int:
    """Decodes the selections, together with other processes; 1 if one of them cannot be."""
    from bench.data import catalog
    from bench.data.opened import rely_on_tables

    rely_on_tables()
    root = payload["data_root"]
    places: Places = {
        "data_root": Path(root) if root else None,
        "cache_dir": Path(payload["cache"]),
    }
    status = 0
    for one in payload["selections"]:
        data = DataSpec.model_validate(one["data"])
        try:
            resolved = catalog.resolve(data, one["draw"], **places)
            catalog.load(resolved, data, **places)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    import json

    sys.exit(decode(json.loads((Path(sys.argv[1]) / "payload.json").read_text())))
