"""GPUs that are not there, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_cuda.devices import Gpus, fake_gpus


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    """One GPU, in this thread, while the test lasts."""
    with fake_gpus() as found:
        yield found
