"""Processes that this one starts and talks with, in lines of JSON, and how they see their starter.

A child is a module that is run by `python -m`: what needs torch, or may die, happens there. Here
`Children` starts several and listens to all, and `ask` has one question answered. There `Starter`
is the other end: what libraries print goes to stderr, which this end keeps for its messages, and
the end of the input ends a child at once, so none outlives who started it. Signals that a cluster
sends to every process of a job are the starter's affair: it asks its children to stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from bench.core.errors import BenchError

_LAST_LINES = 12
_LOOK_S = 0.2


class ChildDiedError(Exception):
    """A child ended, or took too long, before it answered.

    Attributes:
        how: `was killed by SIGKILL`, `ended with status 1`.
        hint: what to try after such an end, and the last lines that it wrote to stderr.
    """

    def __init__(self, how: str, hint: str) -> None:
        super().__init__(f"{how}\n{hint}".strip())
        self.how, self.hint = how, hint


class Child:
    """A process and the lines that it writes; see `Children.start`."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[str]) -> None:
        self.process, self._errors, self._torn = process, errors, b""
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        os.set_blocking(self._out.fileno(), False)

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended; messages may be left to `read`."""
        return self.process.poll() is not None

    @property
    def how(self) -> str:
        """The way in which the process ended."""
        return how_ended(self.process.wait())

    def send(self, message: Any) -> None:
        """Writes a message; that a child is dead is seen by the next look, not here."""
        with contextlib.suppress(BrokenPipeError):
            self._in.write(json.dumps(message).encode() + b"\n")
            self._in.flush()

    def read(self) -> Iterator[Any]:
        """Gives the messages that have come, without waiting for more."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._out.fileno(), 1 << 16):
                *lines, self._torn = (self._torn + chunk).split(b"\n")
                for line in lines:
                    try:
                        message = json.loads(line)
                    except ValueError:
                        continue  # printed before the child's `Starter` took the pipe for itself
                    yield message

    def error_lines(self) -> list[str]:
        """Gives all lines of stderr."""
        self._errors.seek(0)
        return self._errors.readlines()

    def last_lines(self) -> str:
        """Gives the last lines of stderr."""
        return "".join(self.error_lines()[-_LAST_LINES:]).strip()

    @property
    def hint(self) -> str:
        """What to try after the way in which the process ended, and the last lines of stderr."""
        return "\n".join(filter(None, [cure_of(self.how), self.last_lines()]))

    def close(self, grace_s: float) -> None:
        """Ends the process by the end of its input, or by force after `grace_s` seconds."""
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        try:
            self.process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._out.close()
        self._errors.close()


def how_ended(code: int) -> str:
    """The end of a process in words, from its status as `subprocess` gives it.

    >>> how_ended(-9), how_ended(2)
    ('was killed by SIGKILL', 'ended with status 2')
    """
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


_CURES = {
    "SIGKILL": "most often memory ran out: try fewer --workers, a smaller train.batch_size with "
    "train.accumulate, or smaller images",
    "SIGBUS": "most often the disk is full or memory ran out: free some, or try fewer --workers",
    "SIGXCPU": "its time on the processor is limited (ulimit -t)",
    "SIGXFSZ": "a file grew beyond the limit of this account (ulimit -f)",
}
_FAULT = (
    "a library crashed: try train.channels_last: false, --threads 1, or another release of torch"
)


def cure_of(how: str) -> str:
    """What to try after an end that `how_ended` describes; empty where only the output says it.

    >>> cure_of("was killed by SIGSEGV")[:17], cure_of("ended with status 1")
    ('a library crashed', '')
    """
    if "was killed by" not in how:
        return ""
    name = how.rpartition(" ")[2]
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return "somebody, or the system, ended it"
    return _CURES.get(name, _FAULT)


class Children:
    """Processes that are listened to together; none is left when the context ends.

    Args:
        module: what each runs.
        grace_s: for their ends, see `Child.close`.
        own_session: Ctrl-C, and signals to a job, do not reach the children.
    """

    def __init__(self, module: str, grace_s: float = 5.0, own_session: bool = True) -> None:
        self._module, self._grace_s, self._own_session = module, grace_s, own_session
        self._selector = selectors.DefaultSelector()
        self._all: list[Child] = []

    def start(self, environment: Mapping[str, str] | None = None) -> Child:
        """Starts another child; the default environment is this process's own."""
        try:
            errors = tempfile.TemporaryFile(  # noqa: SIM115
                "w+", prefix="bench-child-", encoding="utf-8", errors="replace"
            )
            process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=None if environment is None else dict(environment),
                start_new_session=self._own_session,
            )
        except OSError as error:
            raise BenchError(
                f"no process can be started: {error.strerror or error}",
                hint="set fewer --workers, free space in the folder for temporary files (TMPDIR), "
                "or raise the limits that ulimit -a shows (processes, memory, open files)",
            ) from None
        child = Child(process, errors)
        self._all.append(child)
        self._selector.register(child._out, selectors.EVENT_READ, child)
        return child

    def listen(self, timeout_s: float) -> Iterator[tuple[Child, Any]]:
        """Gives the messages of all children, waiting at most `timeout_s` for the first."""
        for key, _ in self._selector.select(timeout_s):
            child: Child = key.data
            dead = child.is_dead  # before the last look
            for message in child.read():
                yield child, message
            if dead:  # its output is readable for ever
                self._forget(child)

    def end(self, child: Child) -> None:
        """Ends one child."""
        self._forget(child)
        child.close(self._grace_s)
        self._all.remove(child)

    def _forget(self, child: Child) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(child._out)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._all:
            with contextlib.suppress(BrokenPipeError):
                child._in.close()  # all at once, so that they end together
        for child in list(self._all):
            self.end(child)
        self._selector.close()


def ask(
    module: str,
    request: Any,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Has a child answer one request, see `answer_one`.

    Raises:
        ChildDiedError: there is no answer.
    """
    begun = time.monotonic()
    with Children(module) as children:
        child = children.start(environment)
        child.send(request)
        while True:
            dead = child.is_dead  # before the last look
            for _, answer in children.listen(_LOOK_S):
                return answer
            if dead:
                raise ChildDiedError(child.how, child.hint)
            if timeout_s is not None and time.monotonic() - begun > timeout_s:
                raise ChildDiedError(f"gave no answer in {timeout_s:g} s", child.last_lines())


# --- in a child ---


class Starter:
    """The process that started this one: its messages come in, and answers go out.

    Attributes:
        messages: what has come; the first `{"stop": true}` sets `stop` too.
        stop: whether to stop.
    """

    def __init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        private = os.dup(1)
        os.dup2(2, 1)  # what libraries print is no part of the conversation
        sys.stdout = sys.stderr
        self._out = os.fdopen(private, "w", encoding="utf-8")
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if isinstance(message, dict) and "stop" in message:
                self.stop.set()
            self.messages.put(message)
        os._exit(1)

    def send(self, message: Any) -> None:
        """Writes a message."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def answer_one(answer: Callable[[Any], Any]) -> None:
    """Answers the one request of `ask`."""
    starter = Starter()
    starter.send(answer(starter.messages.get()))
