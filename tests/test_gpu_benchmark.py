"""The benchmark of GPUs without a GPU: batched networks, and the page."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_together import Small, apart, batched, measured

CPU = torch.device("cpu")


def test_batched_networks_take_the_steps_of_separate_ones() -> None:
    small = Small(batch=8, classes=5)
    models = small.models(3, CPU)
    images, labels = small.data(3, CPU)
    step, weights, buffers = batched(small, small.models(3, CPU))
    alone = apart(small, models)
    for _ in range(3):
        step(images, labels)
        alone(images, labels)
    for number, model in enumerate(models):
        for name, value in model.named_parameters():
            torch.testing.assert_close(weights[name][number], value, rtol=0, atol=1e-5)
        for name, state in model.named_buffers():
            torch.testing.assert_close(buffers[name][number], state, rtol=1e-5, atol=1e-5)
    assert not torch.equal(weights["fc8.fc.weight"][0], weights["fc8.fc.weight"][1])


def test_a_line_has_a_cell_for_each_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_together._REPEATS", 1)
    (line,) = measured(Small(batch=2), CPU, [2])
    assert len(line) == len(gpu.PARTS["together"].columns)
    assert line[:4] == ["narrow8_32", "32", "2", "2"]


def test_the_four_ways_run_on_a_processor() -> None:
    asked = gpu.Asked("narrow8_32", 32, 8, 16, "float32", CPU)
    lines = gpu.rows(asked)
    columns = gpu.PARTS["speed"].columns
    assert [line[columns.index("way")] for line in lines] == list(gpu.WAYS)
    for line in lines:
        assert len(line) == len(columns)
        assert int(line[columns.index("images/s")].replace(",", "")) > 0
    assert lines[0][columns.index("of the pure step")] == "100%"
    assert lines[-1][columns.index("times timm")] == "1.00"


def test_utilisation_is_what_is_printed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = tmp_path / "nvidia-smi"
    lines = ["#!/bin/sh", "echo $*", "echo 40", "echo 60", "echo '[N/A]'"]
    command.write_text("\n".join([*lines, "touch $0.done", "exec sleep 60", ""]))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    used: list[float] = []
    with gpu.sampled(used):
        for _ in range(3000):
            if (tmp_path / "nvidia-smi.done").exists():
                break
            time.sleep(0.01)
    assert used == [40.0, 60.0]
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with gpu.sampled(used):
        pass
    assert len(used) == 2


def test_the_page_shows_rows_that_were_not_measured_empty() -> None:
    line = ["resnet50", "224", "bfloat16", "resident", "900", "90%", "2.00", "95 %"]
    text = gpu.PARTS["speed"].text({"where": "Measured on a GPU.", "lines": [line]})
    rows = [row for row in text.splitlines() if row.startswith("| resnet50")]
    assert rows.count("| resnet50 | 224 | bfloat16 | resident | 900 | 90% | 2.00 | 95 % |") == 1
    assert "| resnet50 | 224 | bfloat16 | timm |  |  |  |  |" in rows
    assert len(rows) == len(gpu.WAYS)
    assert "Measured on a GPU." in text


def test_the_committed_page_is_that_of_what_was_measured() -> None:
    assert gpu.PAGE.read_text() == gpu.page(gpu.kept())


def test_a_part_that_is_measured_again_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "KEPT", tmp_path / "gpu.json")
    monkeypatch.setattr(gpu, "PAGE", tmp_path / "GPU.md")
    gpu.keep("grid", "On A.", [["a.yaml", "1", "2", "3", "1.5", "50 %"]])
    gpu.keep("together", "On B.", [])
    text = gpu.PAGE.read_text()
    assert "| a.yaml | 1 | 2 | 3 | 1.5 | 50 % |" in text
    assert "On A." in text
    assert "On B." in text
    assert "Not run yet" not in text
