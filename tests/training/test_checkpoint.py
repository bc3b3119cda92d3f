"""Checkpoints: exact, atomic, and never used when torn, altered or another run's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.training import checkpoints as checkpoint

TENSORS = {
    "model/a": torch.randn(3, 4),
    "model/scalar": torch.tensor(5),
    "model/half": torch.randn(2).bfloat16(),
    "rng/cpu": torch.arange(16, dtype=torch.uint8),
    "best/layout": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "best/none": torch.zeros(0, 3),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def test_everything_comes_back_bit_for_bit(path: Path) -> None:
    meta = {"epoch": 3, "history": [{"val_loss": 0.1 + 0.2, "val_top1_accuracy": None}]}
    checkpoint.write(path, "run", TENSORS, meta)
    found = checkpoint.read(path, "run")
    assert isinstance(found, checkpoint.Checkpoint)
    assert found.meta == meta
    assert found.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)
    assert found.part("model").keys() == {"a", "scalar", "half"}


def test_tied_weights_can_be_written(path: Path) -> None:
    shared = torch.randn(4)
    checkpoint.write(path, "run", {"a": shared, "b": shared, "c": shared[1:]}, {})
    found = checkpoint.read(path, "run")
    assert isinstance(found, checkpoint.Checkpoint)
    assert torch.equal(found.tensors["c"], shared[1:])


@given(st.floats(allow_nan=False, width=64))
@settings(max_examples=30, deadline=None)
def test_floats_of_the_json_are_exact(value: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        checkpoint.write(path, "run", {"a": torch.zeros(1)}, {"x": value})
        found = checkpoint.read(path, "run")
        assert isinstance(found, checkpoint.Checkpoint)
        assert found.meta["x"] == value


def test_absent_is_none(path: Path) -> None:
    assert checkpoint.read(path, "run") is None


def test_another_runs_is_named(path: Path) -> None:
    checkpoint.write(path, "first", TENSORS, {})
    found = checkpoint.read(path, "second")
    assert isinstance(found, str)
    assert "first" in found
    assert "second" in found


def test_every_truncation_is_noticed(path: Path) -> None:
    checkpoint.write(path, "run", TENSORS, {"epoch": 1})
    data = path.read_bytes()
    for length in [*range(40), *range(40, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        assert isinstance(checkpoint.read(path, "run"), str), length


def test_every_changed_byte_is_noticed(path: Path) -> None:
    checkpoint.write(path, "run", TENSORS, {"epoch": 1})
    data = path.read_bytes()
    intact = checkpoint.read(path, "run")
    assert isinstance(intact, checkpoint.Checkpoint)
    for position in range(0, len(data), 7):
        altered = bytearray(data)
        altered[position] ^= 0x10
        path.write_bytes(bytes(altered))
        found = checkpoint.read(path, "run")
        if isinstance(found, checkpoint.Checkpoint):  # blanks that pad the header mean nothing
            assert found.meta == intact.meta
            assert all(torch.equal(v, intact.tensors[k]) for k, v in found.tensors.items())


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"{}", os.urandom(300), b"\xff" * 64])
def test_foreign_files_are_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert isinstance(checkpoint.read(path, "run"), str)


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(path, "run", TENSORS, {"epoch": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write(path, "run", TENSORS, {"epoch": 2})
    monkeypatch.undo()
    found = checkpoint.read(path, "run")
    assert isinstance(found, checkpoint.Checkpoint)
    assert found.meta == {"epoch": 1}
    assert list(path.parent.iterdir()) == [path]


def test_remove_takes_leftovers_of_killed_writers_along(path: Path) -> None:
    checkpoint.write(path, "run", TENSORS, {})
    (path.parent / f".{path.name}.abc.tmp").write_bytes(b"half")
    (path.parent / "other.tmp").write_bytes(b"not ours")
    checkpoint.remove(path)
    checkpoint.remove(path)
    assert [p.name for p in path.parent.iterdir()] == ["other.tmp"]
