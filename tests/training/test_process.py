"""A process that trains keeps its freed memory, where the C library can be told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.training.process import keep_memory

FAULTS = """
import resource, sys, torch
from bench.training.process import keep_memory
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def total():
    return sum(float(torch.ones(20_000_000)[::1_000_000].sum()) for _ in range(5))
def measured():
    for _ in range(3):  # the heap grows to what is needed
        total()
    before = faults()
    found = total()
    return faults() - before, found
left = measured()
if not keep_memory():
    sys.exit("no glibc")
print(*left, *measured())
"""


def faults() -> list[float]:
    """Pages newly mapped while 80 MB are taken and freed five times, and a sum over them.

    Both before and after `keep_memory`, in a process of its own.
    """
    command = [sys.executable, "-c", FAULTS]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no glibc" in answer.stderr:
        pytest.skip("the C library is not glibc")
    assert answer.returncode == 0, answer.stderr
    return [float(number) for number in answer.stdout.split()]


def test_freed_blocks_are_used_again():
    handed_back, total, kept, same = faults()
    assert total == same == 100.0
    assert kept < handed_back / 10


def test_another_c_library_is_no_error(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_memory() is False
