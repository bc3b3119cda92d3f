"""One run trained by several processes of this machine, started and watched from here.

The process that executes the run starts one for each GPU (`bench.runs.distributed_worker`), passes
on what rank 0 reports, asks it to stop, and ends all when one dies: a process that waits for a dead
one would wait long. The run is then begun again from its checkpoint, a few times.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.child_process import Child, Children
from bench.core.errors import BenchError
from bench.core.text import counted
from bench.methods import METHODS
from bench.specs.batches import smallest_batch
from bench.specs.planned import DataFacts
from bench.specs.run import RunSpec

if TYPE_CHECKING:
    from bench.runs.build import Context


_PROCESS = "bench.runs.distributed_worker"
_ATTEMPTS = 3
_LOOK_S = 0.1
_GRACE_S = 2.0
"""Between the first sign of trouble and the search for its cause: a death is seen by the others
first, whose connections break."""
_END_S = 30.0

Report = Callable[[dict[str, Any]], None]


def why_one_process(spec: RunSpec) -> str | None:
    """Why a run cannot be trained by several processes; None when it can.

    >>> from bench.specs.run import DataSpec, ModelSpec
    >>> data, model = DataSpec(dataset="digits"), ModelSpec(name="narrow8_32")
    >>> why_one_process(RunSpec(data=data, model=model, pattern="R(1-8)")) is None
    True
    """
    name = spec.method.name
    if METHODS[name].kind != "steps":
        return f"method {name!r} has no training steps to share"
    if spec.borrow or METHODS[name].borrows[0]:
        return f"method {name!r} trains on borrowed images beside its own"
    if spec.train.unfreeze_every is not None:
        return "with train.unfreeze_every layers join while it trains"
    return None


def check_gpus(
    runs: Iterable[tuple[RunSpec, DataFacts | None]], gpus: int, place: str = ""
) -> None:
    """Looks, before anything runs, whether every run can be trained on so many GPUs.

    Args:
        runs: each with the facts of its images, where they are known.
        gpus: that train one of them together.
        place: where they were asked for.

    Raises:
        BenchError: naming the first that cannot.
    """
    for spec, facts in runs if gpus > 1 else ():
        parts = spec.train.batch_norm_parts
        why, way = why_one_process(spec), "only methods with steps on one domain can"
        if why is None and parts not in (1, gpus):
            why, way = f"train.batch_norm_parts is {parts}", f"it trains on one GPU or on {parts}"
        least = None if why or facts is None else smallest_batch(spec, facts)
        if least is not None and least < gpus:
            why = f"its smallest batch has {counted(least, 'image')}"
            way = "raise train.batch_size"
        if why is not None:
            raise BenchError(
                f"a run cannot be trained on {gpus} GPUs: {why} (target {spec.data.dataset}, "
                f"pattern {spec.pattern})",
                place=place or None,
                hint=f"{way}; leave gpus out, or leave the run out with --only",
            )


def execute_ranks(
    key: str,
    spec: RunSpec,
    context: Context,
    report: Report,
    should_stop: Callable[[], bool],
) -> str:
    """Trains, evaluates and publishes a run by `context.gpus` processes; the run's status.

    Args:
        key: the run's id; the caller holds its claim.
        spec: the run.
        context: see `Context`.
        report: receives what rank 0 reports, and a `note` when the run is begun again.
        should_stop: asked ten times a second; true ends with a checkpoint and status `stopped`.

    Raises:
        BenchError: several processes cannot train the run.
        FailureError: a process failed, or died `_ATTEMPTS` times.
    """
    from bench.results.failures import Failure, FailureError

    check_gpus([(spec, None)], context.gpus)
    for attempt in range(1, _ATTEMPTS + 1):
        with _Ranks(key, spec, context, report) as ranks:
            try:
                return ranks.watch(should_stop)
            except _DeathError as death:
                how, hint = death.how, death.hint
        if should_stop():
            return "stopped"
        if attempt < _ATTEMPTS:
            text = f"{how}; the others were ended, and the run goes on from its checkpoint"
            report({"event": "note", "id": key, "message": text})
    raise FailureError(Failure("worker died", f"{how}, {_ATTEMPTS} times\n{hint}".strip(), how))


class _DeathError(Exception):
    """A process ended without a report."""

    def __init__(self, how: str, hint: str) -> None:
        super().__init__(how)
        self.how, self.hint = how, hint


@dataclass
class _Rank:
    """A process; `ended` is its last event."""

    number: int
    child: Child
    ended: dict[str, Any] = field(default_factory=dict)


class _Ranks:
    """The processes of one attempt; none is left when the context ends."""

    def __init__(self, key: str, spec: RunSpec, context: Context, report: Report) -> None:
        self.report, self.size, self.stop_sent = report, context.gpus, False
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ranks-"))
            self.children = stack.enter_context(Children(_PROCESS, grace_s=0, own_session=False))
            self.ranks = [_Rank(n, self.children.start()) for n in range(self.size)]
            task = {
                "id": key,
                "spec": spec.model_dump(mode="json"),
                "context": asdict(context),
                "meeting_point": str(Path(folder) / "meeting-point"),
            }
            for rank in self.ranks:
                rank.child.send({**task, "rank": rank.number})
            self.stack = stack.pop_all()

    def __enter__(self) -> _Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        with self.stack:
            for rank in self.ranks:
                rank.child.process.kill()
                rank.child.process.wait()
                for line in rank.child.error_lines():
                    print(f"[rank {rank.number}] {line.rstrip()}", file=sys.stderr)

    # --- while they run ---

    def watch(self, should_stop: Callable[[], bool]) -> str:
        """Until rank 0 has ended; its status.

        Raises:
            FailureError: one reports that it failed.
            _DeathError: one ended without a report.
        """
        while "status" not in self.ranks[0].ended:
            if not self.stop_sent and should_stop():
                self.stop_sent = True
                self.ranks[0].child.send({"stop": True})
            self._listen()
            if self._trouble():
                self._raise_its_cause()
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline and not all(r.child.is_dead for r in self.ranks):
            self._listen()
        return str(self.ranks[0].ended["status"])

    def _listen(self) -> None:
        for child, event in self.children.listen(_LOOK_S):
            rank = next(rank for rank in self.ranks if rank.child is child)
            if event["event"] in ("ended", "failed"):
                rank.ended = event
            elif rank.number == 0:
                self.report(event)

    def _trouble(self) -> bool:
        """Whether one has failed, or is gone before it reported its end."""
        return any(
            rank.ended.get("event") == "failed" or rank.child.is_dead
            for rank in self.ranks
            if "status" not in rank.ended
        )

    def _raise_its_cause(self) -> None:
        """Which of several ends was the first: a death, then an error that is nobody else's."""
        from bench.results.failures import Failure, FailureError

        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            self._listen()
        if "status" in self.ranks[0].ended:  # it had ended well, and its report came late
            return
        silent = [r for r in self.ranks if not r.ended and r.child.is_dead]
        failed = [r for r in self.ranks if r.ended.get("event") == "failed"]
        own = [r for r in failed if not r.ended["torn"]]
        if own:
            raise FailureError(Failure.from_json(own[0].ended))
        first = (silent or failed)[0]
        how = first.child.how if silent else str(first.ended["summary"])
        text = f"process {first.number + 1} of {self.size} {how}"
        raise _DeathError(text, first.child.hint)
