"""Two GPUs train one run as one does: the same weights, and no step waits for a GPU.

Run as a module, this file is one of the processes: `tests.fake_cuda.test_ranks RANK FOLDER`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.training.data_parallel import ALONE, Team, joined
from bench.training.loop import train
from bench.training.process import set_threads
from bench.training.steps import Stepper
from tests.fake_cuda.devices import Gpus, fake_gpus
from tests.training.test_parallel import Case

ROOT = Path(__file__).parents[2]
CASES = {
    "norm": Case({"accumulate": 2}, {"norm": True}),
    "frozen_norm": Case(net={"norm": True}, frozen_norm=True),
    "parts": Case({"accumulate": 2, "batch_norm_parts": 2}, {"norm": True}),
    "clipped": Case({"clip_norm": 0.5, "mixup": 0.5}),
}


def outcome_of(gpus: Gpus, name: str, team: Team, folder: Path, device: torch.device) -> list[int]:
    """Trains a case on a GPU, keeps its weights; the waits and copies of each step."""
    job = CASES[name].job(folder, team)
    object.__setattr__(job, "device", device)
    waits: list[int] = []
    usual = Stepper.take

    def take(*arguments: object) -> torch.Tensor:
        gpus.counts.clear()
        loss = usual(*arguments)  # type: ignore[arg-type]
        waits.append(sum(gpus.counts.waits.values()) + sum(gpus.counts.copies.values()))
        return loss

    Stepper.take = take  # type: ignore[method-assign,assignment]
    try:
        outcome = train(job)
    finally:
        Stepper.take = usual  # type: ignore[method-assign]
    save_file(outcome.state, folder / f"{name}-{team.size}-{team.rank}.safetensors")
    return waits


def one_of_two(rank: int, folder: Path) -> None:
    """What each of the processes does."""
    set_threads(1)
    device = torch.device("cuda", rank)
    with fake_gpus(2) as gpus, joined(rank, 2, device, folder / "meeting-point") as team:
        found = {name: outcome_of(gpus, name, team, folder, device) for name in CASES}
    (folder / f"waits-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
    sys.exit()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "tests.fake_cuda.test_ranks"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        for rank in range(2)
    ]
    for process in processes:
        _, words = process.communicate(timeout=300)
        assert process.returncode == 0, words
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_gpus_are_one(gpus: Gpus, both: Path, tmp_path: Path, name: str) -> None:
    outcome_of(gpus, name, ALONE, tmp_path, torch.device("cuda", 0))
    expected = load_file(tmp_path / f"{name}-1-0.safetensors")
    for rank in range(2):
        found = load_file(both / f"{name}-2-{rank}.safetensors")
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits(both: Path, name: str) -> None:
    for rank in range(2):
        waits = json.loads((both / f"waits-{rank}.json").read_text())[name]
        # DistributedDataParallel looks at the weights first, and sorts its buckets once.
        assert set(waits[3:]) == {0}, waits
