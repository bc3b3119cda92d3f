"""What a GPU can do to a run: too little memory, and errors that poison the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.core.errors import BenchError
from bench.results.failures import GPU_MEMORY, Failure, GpuFaultError, failure_of
from bench.results.store import GPU_FAULT
from bench.runs import execute as runs
from bench.runs.build import Context
from bench.runs.distributed_worker import is_torn
from bench.runs.execution import Execution
from bench.specs.data import DataSpec
from bench.specs.run import MethodSpec, ModelSpec, RunSpec, TrainSpec
from bench.specs.run import run_id as id_of
from bench.training.data_parallel import joined
from bench.training.domain_batches import DeviceRows
from bench.training.steps import IN_STEP
from tests.fake_cuda.devices import Gpus

DATA = DataSpec(dataset="digits", images_per_class=4, val_per_class=2, test_per_class=2)


def spec_of(model: str, layers: int, **train: object) -> RunSpec:
    recipe = TrainSpec(**{"epochs": 1, "batch_size": 20, "lr": 0.01, **train})
    return RunSpec(data=DATA, model=ModelSpec(name=model), pattern=f"R(1-{layers})", train=recipe)


def execute(folder: Path, *specs: RunSpec) -> tuple[list[dict], list[dict]]:
    """Runs of one batch; their records, and the events."""
    context, events = Context(results=str(folder), device="cuda"), []
    batch = [(id_of(spec, context.fingerprint), spec) for spec in specs]
    runs.execute_batch(batch, context, report=events.append, should_stop=lambda: False)
    folders = [runs.Store(folder).folder(*one) for one in batch]
    return [(one.record() or {}) | {"folder": one.path} for one in folders], events


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", GPU_MEMORY),
        ("CUDA error: out of memory\nCUDA kernel errors might be …", GPU_MEMORY),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", GPU_MEMORY),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", GPU_MEMORY),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", GPU_MEMORY),
        ("CUDA driver error: out of memory", GPU_MEMORY),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(h)`", GPU_MEMORY),
        (
            "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error, NCCL version 2.28.9\n"
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
            "Cuda failure 2 'out of memory'",
            GPU_MEMORY,
        ),
        ("NCCL error in: NCCLUtils.cpp:94, unhandled cuda error", GPU_FAULT),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(h)`", GPU_FAULT),
        ("CUDA error: an illegal memory access was encountered", GPU_FAULT),
        ("CUDA error: device-side assert triggered", GPU_FAULT),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", GPU_FAULT),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", GPU_FAULT),
        ("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough", "out of memory"),
        ("mat1 and mat2 shapes cannot be multiplied", "RuntimeError"),
    ],
)
def test_errors_of_gpus_are_recognised(text: str, reason: str) -> None:
    assert failure_of(RuntimeError(text)).reason == reason
    if text.startswith("CUDA error: "):
        assert failure_of(torch.AcceleratorError(text)).reason == reason


def test_host_memory_that_cannot_be_pinned_is_the_hosts(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reports it as it reports a full GPU."""

    def full(*shape: object, **more: object) -> torch.Tensor:
        if more.get("pin_memory"):
            raise torch.AcceleratorError("CUDA error: out of memory")
        return usual(*shape, **more)

    usual = torch.empty
    monkeypatch.setattr(torch, "empty", full)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    for resident in (True, False):
        with pytest.raises(MemoryError, match="the host has no") as caught:
            DeviceRows(images, torch.device("cuda"), resident).between(0, 2)
        assert failure_of(caught.value).reason == "out of memory"


def test_what_a_process_of_a_team_lacks_is_no_other_processs_end() -> None:
    ends = {"Connection closed by peer": True, "unhandled cuda error, NCCL version 2": True}
    ends["NCCL error in: x\nLast error:\nCuda failure 'out of memory'"] = False
    for text, torn in ends.items():
        error = RuntimeError(text)
        assert is_torn(error, failure_of(error)) == torn


def test_a_failure_knows_whether_a_training_step_raised_it() -> None:
    error = torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert not failure_of(error).in_step
    error.add_note(IN_STEP)
    assert Failure.from_json(failure_of(error).to_json()).in_step


def test_with_too_little_memory_the_same_steps_are_taken_in_smaller_passes(
    gpus: Gpus, tmp_path: Path
) -> None:
    spec = spec_of("test_convnext", 11)
    (whole,), _ = execute(tmp_path / "whole", spec)
    gpus.memory = int(0.8 * gpus.peak[0])
    (less,), events = execute(tmp_path / "less", spec)
    assert events[-1]["status"] == "done"
    (note,) = less["notes"]["training"]
    assert note.startswith("the GPU has too little memory: executed with the images in host")
    assert note.endswith("2 forward passes for each one")
    steps = [event["message"] for event in events if event["event"] == "note"]
    assert [text.partition("; ")[2] for text in steps] == [
        "tried again with the images in host memory",
        "tried again with the images in host memory and 2 forward passes for each one",
    ]
    a, b = (load_file(next(run["folder"].glob("model-*"))) for run in (whole, less))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


MANY = DATA.model_copy(update={"val_per_class": 60, "test_per_class": 2})


@pytest.mark.parametrize("method", ["plain", "svm", "probe", "extract"])
def test_with_too_little_memory_passes_without_gradients_have_fewer_images(
    gpus: Gpus, tmp_path: Path, method: str
) -> None:
    """Also those of a network with BatchNorm, and of methods without steps."""
    spec = spec_of("narrow8_32", 8).model_copy(update={"data": MANY})
    if method != "plain":
        options = {"extract": (("layers", "penultimate"), ("split", "all"))}.get(method, ())
        spec = spec.model_copy(update={"method": MethodSpec(name=method, options=options)})
    (whole,), _ = execute(tmp_path / "whole", spec)
    gpus.memory = int(0.6 * gpus.peak[0])
    (less,), events = execute(tmp_path / "less", spec)
    assert events[-1]["status"] == "done", events[-1]
    *_, note = less["notes"]["training"]
    assert "at most 128 images in a pass without gradients" in note
    assert "forward passes for each one" not in note
    if method != "extract":
        assert whole["row"]["top1_accuracy"] == less["row"]["top1_accuracy"]


def test_the_fewest_images_of_a_pass_end_the_attempts(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(run: Execution) -> str:
        images.append(run.context.forward_images)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    images: list[int] = []
    monkeypatch.setattr(runs, "_execute_once", short)
    _, events = execute(tmp_path, spec_of("narrow8_32", 8))
    assert images == [256, 256, 128, 64, 32, 16, 8]
    assert events[-1]["message"].startswith("CUDA out of memory")


def test_smaller_passes_would_change_batch_norm_and_are_refused(gpus: Gpus, tmp_path: Path) -> None:
    spec = spec_of("narrow8_32", 8)
    execute(tmp_path / "whole", spec)
    gpus.memory = int(0.8 * gpus.peak[0])
    _, events = execute(tmp_path / "less", spec)
    assert (events[-1]["status"], events[-1]["message"]) == (
        "failed",
        "the GPU has too little memory for this run, and smaller forward passes would change the "
        "statistics of its BatchNorm",
    )


def test_an_error_that_stays_ends_the_batch(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: object) -> str:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(runs, "_execute_once", broken)
    context, events = Context(results=str(tmp_path), device="cuda"), []
    specs = [spec_of("narrow8_32", 8, lr=lr) for lr in (0.1, 0.2)]
    batch = [(id_of(spec, context.fingerprint), spec) for spec in specs]
    with pytest.raises(GpuFaultError, match="illegal memory access"):
        runs.execute_batch(batch, context, report=events.append, should_stop=lambda: False)
    assert [event["event"] for event in events] == ["started", "ended"]
    assert runs.Store(tmp_path).folder(*batch[0]).failures()[0]["reason"] == GPU_FAULT


def test_other_errors_keep_their_reasons() -> None:
    assert failure_of(MemoryError()).reason == "out of memory"
    assert failure_of(BenchError("CUDA error")).reason == "BenchError"


def test_a_rank_that_fails_can_report_before_it_leaves_the_group(tmp_path: Path) -> None:
    """Leaving waits for the other ranks, with NCCL for up to an hour."""
    team = joined(0, 1, torch.device("cpu"), tmp_path / "meeting-point")
    with pytest.raises(ZeroDivisionError), team:
        _ = 1 / 0
    try:
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
