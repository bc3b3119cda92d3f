"""What lies on the GPU: only what is needed, and nothing once a run has ended."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fake_cuda.devices import Gpus
from tests.fake_cuda.test_training import CELLS, execute, session_of


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed here is freed by the end of its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("cell", ["plain", "frozen", "averaged", "separate", "selective", "svm"])
@pytest.mark.usefixtures("no_collector")
def test_a_finished_run_leaves_nothing_on_the_gpu(gpus: Gpus, tmp_path: Path, cell: str) -> None:
    execute(session_of(tmp_path, tmp_path / "results", CELLS[cell]))
    assert torch.cuda.memory_allocated() == 0
