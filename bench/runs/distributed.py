"""One run trained by several processes of this machine, started and watched from here.

Whoever has a run in hand starts a process for each GPU (`bench.runs.distributed_worker`), passes on
what rank 0 says, asks it to stop, and ends all when one dies: a process that waits for a dead one
would wait long. The run is then begun again from its checkpoint, a few times.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.core.errors import BenchError
from bench.methods import METHODS
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
_LAST_LINES = 12

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
    return None


def check_gpus(runs: Iterable[RunSpec], gpus: int, place: str = "") -> None:
    """Looks, before anything runs, whether every run can be trained on so many GPUs.

    Raises:
        BenchError: naming the first that cannot.
    """
    for spec in runs if gpus > 1 else ():
        why = why_one_process(spec)
        if why is not None:
            raise BenchError(
                f"a run cannot be trained on {gpus} GPUs: {why} (target {spec.data.dataset}, "
                f"pattern {spec.pattern})",
                place=place or None,
                hint="only methods with steps on one domain can; leave gpus out, or leave the run "
                "out with --only",
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
        report: is told what rank 0 reports, and `note` when the run is begun again.
        should_stop: asked ten times a second; true ends with a checkpoint and status `stopped`.

    Raises:
        BenchError: several processes cannot train the run.
        FailureError: a process failed, or died `_ATTEMPTS` times.
    """
    from bench.results.failures import Failure, FailureError

    check_gpus([spec], context.gpus)
    for attempt in range(1, _ATTEMPTS + 1):
        with _Ranks(key, spec, context, report) as ranks:
            try:
                return ranks.watch(should_stop)
            except _DeathError as death:
                how, words = death.how, ranks.last_words(death.rank)
        if should_stop():
            return "stopped"
        if attempt < _ATTEMPTS:
            text = f"{how}; the others were ended, and the run goes on from its checkpoint"
            report({"event": "note", "id": key, "message": text})
    raise FailureError(Failure("worker died", f"{how}, {_ATTEMPTS} times\n{words}".strip(), how))


class _DeathError(Exception):
    """A process ended without saying why."""

    def __init__(self, rank: int, how: str) -> None:
        super().__init__(how)
        self.rank, self.how = rank, how


@dataclass
class _Rank:
    """A process; `ended` is what it said at its end."""

    number: int
    process: subprocess.Popen[str]
    errors: IO[str]
    buffer: str = ""
    ended: dict[str, Any] = field(default_factory=dict)


class _Ranks:
    """The processes of one attempt; none is left when the context ends."""

    def __init__(self, key: str, spec: RunSpec, context: Context, report: Report) -> None:
        self.key, self.size, self.report = key, context.gpus, report
        self.stack = contextlib.ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ranks-"))
        self.selector = self.stack.enter_context(selectors.DefaultSelector())
        self.task = {
            "id": key,
            "spec": spec.model_dump(mode="json"),
            "context": context.to_json(),
            "meeting_point": str(Path(folder) / "meeting-point"),
        }
        self.ranks: list[_Rank] = []
        self.told = False

    def __enter__(self) -> _Ranks:
        try:
            for number in range(self.size):
                self.ranks.append(self._start(number))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self, number: int) -> _Rank:
        unnamed = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        errors = self.stack.enter_context(unnamed)
        process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        rank = _Rank(number, process, errors)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.selector.register(process.stdout, selectors.EVENT_READ, rank)
        _send(rank, {**self.task, "rank": number})
        return rank

    # --- while they run ---

    def watch(self, should_stop: Callable[[], bool]) -> str:
        """Until rank 0 has ended; its status.

        Raises:
            FailureError: one says that it failed.
            _DeathError: one ended without a word.
        """
        while "status" not in self.ranks[0].ended:
            if not self.told and should_stop():
                self.told = True
                _send(self.ranks[0], {"stop": True})
            self._listen(_LOOK_S)
            if self._trouble():
                self._raise_its_cause()
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline and any(r.process.poll() is None for r in self.ranks):
            self._listen(_LOOK_S)
        return str(self.ranks[0].ended["status"])

    def _listen(self, timeout: float) -> None:
        if not self.selector.get_map():
            time.sleep(timeout)
            return
        for key, _ in self.selector.select(timeout):
            rank: _Rank = key.data
            chunk = os.read(key.fd, 1 << 16).decode(errors="replace")
            *lines, rank.buffer = (rank.buffer + chunk).split("\n")
            for line in lines:
                self._hear(rank, json.loads(line))
            if not chunk:
                self.selector.unregister(key.fileobj)
                rank.process.wait()

    def _hear(self, rank: _Rank, event: dict[str, Any]) -> None:
        if event["event"] in ("ended", "failed"):
            rank.ended = event
        elif rank.number == 0:
            self.report(event)

    def _trouble(self) -> bool:
        """Whether one has failed, or is gone before it said that it ended."""
        return any(
            rank.ended.get("event") == "failed" or (rank.process.poll() is not None)
            for rank in self.ranks
            if "status" not in rank.ended
        )

    def _raise_its_cause(self) -> None:
        """Which of several ends was the first: a death, then an error that is nobody else's."""
        from bench.results.failures import Failure, FailureError

        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            self._listen(_LOOK_S)
        if "status" in self.ranks[0].ended:  # it had ended well, and was heard late
            return
        silent = [r for r in self.ranks if not r.ended and r.process.poll() is not None]
        failed = [r for r in self.ranks if r.ended.get("event") == "failed"]
        own = [r for r in failed if not r.ended["torn"]]
        if own:
            raise FailureError(Failure.from_json(own[0].ended))
        first = (silent or failed)[0]
        how = _how(first.process.returncode) if silent else str(first.ended["said"])
        raise _DeathError(first.number, f"process {first.number + 1} of {self.size} {how}")

    def last_words(self, number: int) -> str:
        """The last lines that a process wrote."""
        errors = self.ranks[number].errors
        errors.seek(0)
        return "".join(errors.readlines()[-_LAST_LINES:]).strip()

    # --- the end ---

    def _end(self) -> None:
        for rank in self.ranks:
            if rank.process.poll() is None:
                rank.process.kill()
            rank.process.wait()
            for pipe in (rank.process.stdin, rank.process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            rank.errors.seek(0)
            for line in rank.errors:
                print(f"[rank {rank.number}] {line.rstrip()}", file=sys.stderr)
        self.stack.close()


def _send(rank: _Rank, message: Mapping[str, Any]) -> None:
    assert rank.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its death is seen by the next look
        rank.process.stdin.write(json.dumps(message) + "\n")
        rank.process.stdin.flush()


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"
