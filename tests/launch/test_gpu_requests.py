"""GPUs that jobs ask a cluster for: none trains on a CPU by an oversight."""

from __future__ import annotations

from typing import Any

import pytest

from bench.core.errors import GridError
from bench.launch.slurm.settings import read_settings


def gpus(section: dict[str, Any], kind: Any) -> int | None:
    return read_settings(section).resources(kind).gpus_asked


def test_fine_tunings_of_sources_with_gpus_have_one() -> None:
    assert gpus({"source": {"gpus": 4}}, "source") == 4
    assert gpus({"source": {"gpus": 4}}, "finetune") == 1
    assert gpus({"source": {"gres": "gpu:h100:2"}}, "finetune") == 1


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


def test_more_than_are_used_and_none_where_there_are_some_are_printed_first() -> None:
    settings = read_settings({"gpus_per_node": 4})
    assert settings.remarks(["source"], 4) == [
        "source jobs ask for 4 GPUs, and each run trains on 1: --slurm-set source.gpus=4 uses them "
        "all"
    ]
    (remark,) = read_settings({"partition": "gpu"}).remarks(["finetune"], 8)
    assert remark.startswith("fine-tuning jobs ask for no GPU and will train on CPUs, though nodes")
