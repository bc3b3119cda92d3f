"""GPUs that jobs ask a cluster for: none trains on a CPU by an oversight."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.commands import grid
from bench.commands.app import app
from bench.core.errors import GridError
from bench.launch.slurm.settings import read_settings

GRID = """\
defaults:
  target: {dataset: digits, images_per_class: 5, val_per_class: 2, test_per_class: 5}
  model: narrow8_32
  pattern: scratch
  train: {lr: 0.02, epochs: 1, batch_size: 16}
experiments:
  all:
    axes: {seed: [0, 1]}
"""


def gpus(section: dict[str, Any], kind: Any) -> int | None:
    return read_settings(section).resources(kind).gpus_asked


def test_fine_tunings_of_sources_with_gpus_have_one() -> None:
    assert gpus({"source": {"gpus": 4}}, "source") == 4
    assert gpus({"source": {"gpus": 4}}, "finetune") == 1
    assert gpus({"source": {"gres": "gpu:h100:2"}}, "finetune") == 1


@pytest.mark.parametrize(
    ("section", "count"),
    [
        ({"additional": {"tres-per-task": "cpu=4,gres/gpu=2"}}, 2),
        ({"additional": {"tres-per-task": "gres/gpu:h100:2"}}, 2),
        ({"additional": {"tres-per-task": "gres/gpu"}}, 1),
        ({"additional": {"tres-per-task": "gres/shard:8"}}, 1),
        ({"additional": {"tres-per-task": "cpu:4,license/matlab:2"}}, None),
        ({"additional": {"gpus-per-socket": 2, "sockets-per-node": 1}}, 2),
        ({"gres": "shard:12"}, 1),
        ({"gres": "mps:50"}, 1),
        ({"gres": "license:2"}, None),
    ],
)
def test_other_ways_to_ask_for_gpus(section: dict[str, Any], count: int | None) -> None:
    """As of these, jobs are told to train on cuda and nothing else."""
    assert gpus(section, "finetune") == count


@pytest.mark.parametrize(
    "section",
    [
        {"finetune": {"partition": "cpu"}},
        {"finetune": {"gpus_per_node": 0}},
        {"device": "cpu"},
    ],
)
def test_fine_tunings_that_are_meant_for_cpus_have_none(section: dict[str, Any]) -> None:
    assert not gpus({"partition": "gpu", "source": {"gpus": 4}, **section}, "finetune")


def test_what_the_job_asks_for_itself_stays() -> None:
    section = {"source": {"gpus": 4}, "finetune": {"gpus_per_node": 2}}
    assert gpus(section, "finetune") == 2
    assert gpus({"source": {"gpus": 4}}, "leaderboard") == 0
    assert gpus({}, "finetune") is None


def test_fewer_than_a_run_is_trained_on_is_an_error() -> None:
    with pytest.raises(GridError) as caught:
        gpus({"gpus": 8, "gres": "gpu:h100:2"}, "source")
    assert caught.value.message == (
        "slurm: a run is trained on gpus: 8, but the job asks for 2 a node"
    )


@pytest.mark.parametrize(
    ("sinfo", "options", "shown"),
    [
        ("echo 'gpu*|gpu:h100:4'", [], "fine-tuning jobs ask for no GPU and will train on CPUs"),
        ("echo 'gpu*|gpu:h100:4'", ["--budget", "1h"], "fine-tuning jobs ask for no GPU"),
        ("exit 1", ["--slurm-set", "gpus_per_node=4"], "fine-tuning jobs ask for 4 GPUs"),
        ("exit 1", [], ""),
    ],
)
def test_a_dry_run_prints_what_a_submission_would(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sinfo: str,
    options: list[str],
    shown: str,
) -> None:
    """Also where there is no cluster."""
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\n{sinfo}\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(grid, "_run_here", lambda *_, **__: None)
    arguments = ["grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*arguments, "--slurm", "--dry-run", *options])
    assert done.exception is None, done.exception
    printed = " ".join(done.output.split())
    assert printed.startswith(shown)
    assert shown or not printed
    assert not (tmp_path / "results").exists()


def test_a_dry_run_for_a_cluster_says_whose_time_it_prints(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    arguments = ["grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "results")]
    local, cluster = (
        CliRunner().invoke(app, [*arguments, *more, "--dry-run"]) for more in ((), ("--slurm",))
    )
    said = "No job was submitted. A time is this machine's, not that of the jobs."
    assert (local.exit_code, cluster.exit_code) == (0, 0)
    assert said not in local.output
    assert " ".join(cluster.output.split()).endswith(said)


def test_more_than_are_used_and_none_where_there_are_some_are_printed_first() -> None:
    settings = read_settings({"gpus_per_node": 4})
    assert settings.remarks(["source"], 4) == [
        "source jobs ask for 4 GPUs, and each run trains on 1: --slurm-set source.gpus=4 uses them "
        "all"
    ]
    (remark,) = read_settings({"partition": "gpu"}).remarks(["finetune"], 8)
    assert remark.startswith("fine-tuning jobs ask for no GPU and will train on CPUs, though nodes")
