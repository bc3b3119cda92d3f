"""What all tests share: where optional material lies, and one thread for everybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of large material that is not in the repository; skips where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("BENCH_TEST_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set BENCH_TEST_SHARED")
    return folder
