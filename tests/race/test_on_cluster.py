"""What the job of a race asks for; tests/slurm has it on a real cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.launch.slurm.settings import read_settings
from bench.race.on_cluster import RaceOnCluster


def race(folder: Path, name: str = "birds", **section: Any) -> RaceOnCluster:
    state = folder / "finetune" / f"{name}.json"
    return RaceOnCluster(name, state, folder, read_settings(section))


@pytest.mark.parametrize(
    ("section", "left_s", "minutes"),
    [
        ({}, 1800, 40),  # 30, a tenth, 5 and two for the signal
        ({}, 0, 7),
        ({}, -60, 7),
        ({"signal_delay_s": 60}, 1800, 39),
        ({"timeout_min": 20}, 1800, 20),  # the job goes back into the queue
        ({"timeout_min": 240}, 1800, 40),
        ({}, -5400, 7),  # nothing is left: never below the reserve
        ({"finetune": {"timeout_min": 25}, "timeout_min": 20}, 1800, 25),
    ],
)
def test_the_time_is_the_budget_and_a_reserve(
    tmp_path: Path, section: dict[str, Any], left_s: float, minutes: int
) -> None:
    assert race(tmp_path, **section).timed(left_s).timeout_min == minutes


@pytest.mark.parametrize(
    ("section", "gib", "options"),
    [
        ({}, 4, ["--device", "auto", "--workers", "1"]),
        ({"cpus_per_task": 8}, 32, ["--device", "auto", "--workers", "8"]),
        ({"cpus_per_task": 8, "threads": 2}, 16, ["--device", "auto", "--workers", "4"]),
        ({"cpus_per_task": 8, "memory_gib": 12}, 12, ["--device", "auto", "--workers", "8"]),
        ({"gpus": 2}, 8, ["--device", "cuda"]),
        ({"gres": "gpu:a100:2", "device": "cpu"}, 4, ["--device", "cpu", "--workers", "1"]),
    ],
)
def test_processes_are_those_of_the_job_and_each_has_memory(
    tmp_path: Path, section: dict[str, Any], gib: float, options: list[str]
) -> None:
    job = race(tmp_path, **section)
    assert job.timed(60).memory_gib == gib
    assert job.machine_options() == options


def test_a_race_is_known_by_its_place_in_the_results(tmp_path: Path) -> None:
    one, other = race(tmp_path), race(tmp_path, "bees")
    assert one.key == race(tmp_path / "." / "finetune" / "..").key != other.key
    assert one.log == tmp_path / "finetune" / "birds.log"
    assert one.look() is None
