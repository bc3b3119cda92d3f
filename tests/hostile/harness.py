"""Runs one command of `bench` on one hostile input, in a child with limits, and judges the end.

An input is handled when the command ends within 20 s and 1 GiB in a result (status 0 or 1), or in an error
(status 2) that is no traceback, names its place, and has a line that says what to do.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 20
MEMORY_MIB = 1024
TOO_LONG = f"took more than {SECONDS} s"
TEXT_BYTES = 200_000
"""More than that on the screen is a fault of its own."""


@dataclass(frozen=True)
class Case:
    """One input.

    Args:
        name: kind and number, such as `grid-cut-017`.
        arguments: of `bench`, run in the folder that `build` filled.
        build: writes the input into an empty folder.
        error: whether it must end in an error (True), must not (False), or may do either (None).
        says: what the message must hold, such as the value and the place.
    """

    name: str
    arguments: Sequence[str]
    build: Callable[[Path], None]
    error: bool | None = None
    says: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The name without its number."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class Outcome:
    """How a case ended: exit status (negative: by that signal), what was printed, seconds, peak MiB."""

    case: Case
    status: int
    text: str
    seconds: float
    peak_mib: float
    faults: tuple[str, ...] = field(default=())

    @property
    def handled(self) -> bool:
        return not self.faults


def run(case: Case, folder: Path) -> Outcome:
    """Build and run a case in a forked child; the parent stays as it is.

    One that took too long without having had the processor for a quarter of the time is run again:
    on a busy machine that is no fault, and one that waits for something does so a second time.
    """
    outcome, processor_s = _once(case, folder)
    if outcome.faults == (TOO_LONG,) and processor_s < SECONDS / 4:
        subprocess.run(["rm", "-rf", folder], check=True)  # deeper than Python recurses
        outcome, _ = _once(case, folder)
    return outcome


def _once(case: Case, folder: Path) -> tuple[Outcome, float]:
    """The outcome, and seconds of the processor."""
    folder.mkdir(parents=True)
    case.build(folder)
    log = folder.parent / f"{folder.name}.log"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(case, folder, log)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - start
    code = os.waitstatus_to_exitcode(status)
    text = log.read_bytes().decode("utf8", "replace") if log.exists() else ""
    faults = tuple(_faults(case, code, text, seconds, usage.ru_maxrss / 1024))
    outcome = Outcome(case, code, text, seconds, usage.ru_maxrss / 1024, faults)
    return outcome, usage.ru_utime + usage.ru_stime


def _child(case: Case, folder: Path, log: Path) -> None:
    """Never returns: the command's exit status is the child's."""
    os.setsid()
    os.chdir(folder)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS + 1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEMORY_MIB * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, at in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(number, at)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), "utf8", write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), "utf8", write_through=True)
    code = 70
    try:
        from bench.commands.app import main

        sys.argv = ["bench", *case.arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _faults(case: Case, code: int, text: str, seconds: float, peak: float) -> list[str]:
    if code == -signal.SIGALRM or seconds > SECONDS:
        return [TOO_LONG]
    if code < 0:
        return [f"killed by signal {-code}"]
    faults = []
    if peak > MEMORY_MIB:
        faults.append(f"used {peak:.0f} MiB")
    if "Traceback (most recent call last)" in text:
        faults.append("traceback: " + text.strip().rsplit("\n", 1)[-1][:200])
        return faults
    if code not in (0, 1, 2):
        faults.append(f"status {code}")
    if len(text) > TEXT_BYTES:
        faults.append(f"printed {len(text)} bytes")
    if bad := sorted({c for c in text if ord(c) < 32 and c not in "\n\t" or ord(c) == 127}):
        faults.append(f"control characters on the screen: {bad!r}")
    if case.error is True and code == 0:
        faults.append("accepted")
    if case.error is False and code != 0:
        faults.append("refused: " + text.strip()[:300])
    if code == 2:
        faults += _of_message(text)
    faults += [
        f"does not say {part!r}: {text.strip()[:300]}" for part in case.says if part not in text
    ]
    return faults


def _of_message(text: str) -> list[str]:
    """An error has `error: `, and a second line or a list of alternatives as the way out."""
    if "Usage: bench" in text or "Invalid value" in text:  # the option parser's own words
        return []
    start = text.find("error: ")
    if start < 0:
        return ["no line that starts with 'error: ': " + text.strip()[:200]]
    message = text[start:].strip()
    faults = [] if "\n" in message else ["no way out: " + message[:300]]
    if max(len(line) for line in message.split("\n")) > 2_000:
        faults.append("a line of more than 2,000 characters")
    return faults
