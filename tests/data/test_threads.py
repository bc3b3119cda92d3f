"""How many threads read images: as many as there are cores for this process."""

from __future__ import annotations

import os
import threading

import pytest

from bench.data.files.files import ahead, decoding_threads, usable_cores


@pytest.mark.parametrize(
    ("bound", "job", "expected"),
    [
        (12, {}, 12),
        (64, {"SLURM_CPUS_PER_TASK": "10", "SLURM_CPUS_ON_NODE": "64"}, 10),
        (64, {"SLURM_CPUS_ON_NODE": "12"}, 12),
        (2, {"SLURM_CPUS_PER_TASK": "8"}, 2),
        (3, {"SLURM_CPUS_PER_TASK": "8(x2)"}, 3),
    ],
)
def test_there_is_a_thread_for_each_core_that_the_process_may_use(
    bound: int, job: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(bound)), raising=False)
    assert usable_cores() == expected
    meeting = threading.Barrier(expected)

    def work(item: int) -> int:
        meeting.wait(timeout=60)  # goes on when so many threads are there
        return item * item

    assert list(ahead(work, range(expected))) == [item * item for item in range(expected)]


def test_a_node_of_many_cores_is_not_filled_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers read at once there, and what threads wait for is Python's lock."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(128)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    threads = set(ahead(lambda item: threading.get_ident(), range(4000)))
    assert (usable_cores(), decoding_threads()) == (128, 16)
    assert len(threads) <= 16
