"""Images that are decoded by a job without a GPU, before the jobs that train on them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.data import decoding
from bench.data.decoding import Parts, Rows
from bench.launch.slurm import decode_job
from bench.launch.slurm.command_job import STOPPED
from bench.launch.slurm.decode_job import DecodingNeeds, Undecoded
from bench.launch.slurm.settings import read_settings
from bench.specs.data import DataSpec

Make = Callable[..., Any]
SMALL = {"cpus_per_task": 2, "memory_gib": 1.5}


def test_it_asks_for_no_gpu_whatever_runs_ask_for() -> None:
    section: dict[str, Any] = {
        "partition": "gpu",
        "gres": "gpu:h100:2",
        "cpus_per_task": 4,
        "timeout_min": 9,
        "additional": {
            "gpus-per-task": 1,
            "mem-per-gpu": "8G",
            "tres-per-task": "gres/gpu=1",
            "reservation": "course",
        },
        "decode": {"partition": "cpu", "cpus_per_task": 32},
    }
    found = read_settings(section).resources("decode")
    assert found.gpus_asked == 0
    assert (found.partition, found.cpus_per_task, found.memory_gib) == ("cpu", 32, 8.0)
    assert (found.timeout_min, found.additional) == (240, {"reservation": "course"})


class Stop:
    """A job that is asked to stop, or is not."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked


def test_a_job_that_is_stopped_says_so_and_the_next_turn_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataSpec(dataset="digits", images_per_class=5, test_per_class=20)
    cache = tmp_path / "cache"
    selections = [Undecoded("key", 350, data, 0).to_json()]
    payload = {"name": "job", "selections": selections, "data_root": None, "cache": str(cache)}
    (tmp_path / "payload.json").write_text(json.dumps(payload))
    monkeypatch.setattr("bench.data.files.files.usable_cores", lambda: 4)
    events: list[Any] = []
    turns = [
        decode_job.decode_job(payload, tmp_path, events.append, Stop(asked))  # type: ignore[arg-type]
        for asked in (True, False)
    ]
    assert turns == [STOPPED, 0]
    assert events == [{"event": "ended", "id": "job", "status": "stopped"}]
    (entry,) = cache.iterdir()
    assert (entry / "manifest.json").exists()


def test_what_cannot_be_decoded_leaves_the_rest_decoded(tmp_path: Path) -> None:
    good = DataSpec(dataset="digits", images_per_class=5, test_per_class=20)
    bad = good.model_copy(update={"dataset": "folder", "root": str(tmp_path / "none")})
    selections = [Undecoded("k", 350, data, 0).to_json() for data in (bad, good)]
    payload = {"selections": selections, "data_root": None, "cache": str(tmp_path / "cache")}
    assert decode_job.decode(payload) == 1
    assert len(list((tmp_path / "cache").glob("*/manifest.json"))) == 1


def test_parts_count_before_the_whole_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataSpec(dataset="digits", images_per_class=5, test_per_class=20)
    ready = DecodingNeeds({"data_root": None, "cache_dir": tmp_path}, 1)._look(data, 0)
    assert ready is not None
    begun = [Undecoded(f"abc-8-{how}", 10, data, 0) for how in ("raw", "jpeg")]
    selections = [one.to_json() for one in (ready, *begun)]
    payload = {"selections": selections, "data_root": None, "cache": str(tmp_path)}
    total = ready.images + 20
    assert decode_job.progress(payload) == f"0 of {total} images are decoded"
    assert decode_job.decode(payload | {"selections": selections[:1]}) == 0
    assert decode_job.progress(payload) == f"{ready.images} of {total} images are decoded"
    monkeypatch.setattr(decoding, "PART_BYTES", 4 * 8 * 8 * 3)

    def stored(rows: Rows) -> list[bytes]:
        if rows[-1] == 9:
            raise OSError("the job is killed")
        return [b"0" * 8 * 8 * 3 for _ in rows]

    for rows, jpeg in enumerate((False, True), start=1):
        parts = Parts(tmp_path, f"abc-8-{'jpeg95-' * jpeg}digest", 10, 8, jpeg=jpeg)
        with pytest.raises(OSError, match="killed"):
            parts.fill(stored, lambda: 10 * 8 * 8 * 3, lambda: False)
        done = ready.images + 8 * rows
        assert decode_job.progress(payload) == f"{done} of {total} images are decoded"
    two_views = begun[0].data.model_copy(update={"views": ("box", "whole")})
    selections = [Undecoded("abc-8-raw", 10, two_views, 0).to_json()]
    words = decode_job.progress(payload | {"selections": selections})
    assert words == "4 of 10 images are decoded"  # eight rows of its part


slurm = pytest.mark.slurm


def jobs_of(g: Any, role: str) -> list[dict[str, Any]]:
    """Payloads of the jobs of a role, in the order of their names."""
    paths = sorted((g.results / "slurm" / "jobs").glob("*/payload.json"))
    return [one for path in paths if (one := json.loads(path.read_text()))["role"] == role]


def entries(results: Path) -> list[Path]:
    return [path for path in (results / "cache").glob("*-32") if not path.name.startswith(".")]


@pytest.fixture
def busy(cluster: Any) -> Iterator[Callable[[], None]]:
    """All nodes are taken by another job, until this is called."""
    command = ["sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive"]
    number = cluster.call(*command, "--output=/dev/null", "--wrap=sleep 900").strip()

    def end() -> None:
        cluster.call("scancel", number, check=False)

    yield end
    end()


@slurm
def test_large_selections_are_decoded_first_and_once(grid: Make) -> None:
    decode = SMALL | {"cpus_per_task": 4}  # two processes
    g = grid(0, 1, slurm={"decode": decode, "decode_from": 10, "runs_per_job": 1})
    text = g.submit()
    (job,) = jobs_of(g, "decode")
    assert (
        f"job {job['name']} decodes 100 images of 'wordnet-shapes' first, on 4 CPUs and no GPU; "
        "the jobs that need them start when it has ended"
    ) in " ".join(text.split())
    g.wait()
    assert g.counts() == {"done": 2}
    decoded = max((path / "manifest.json").stat().st_mtime for path in entries(g.results))
    starts = [path.stat().st_mtime for path in (g.results / "runs").glob("*/spec.json")]
    assert (len(entries(g.results)), len(starts)) == (2, 2)  # a selection for each seed
    assert min(starts) > decoded
    assert "decodes" not in g.submit("--set", "train.epochs=3")  # other runs of the same images
    g.wait()
    assert g.counts() == {"done": 2}
    assert len(jobs_of(g, "decode")) == 1


@slurm
def test_jobs_that_train_decode_for_themselves_where_that_failed(
    grid: Make, busy: Callable[[], None]
) -> None:
    g = grid(0, slurm={"decode": SMALL, "decode_from": 10})
    g.submit()
    (job,) = jobs_of(g, "decode")
    g.cluster.call("scancel", g.cluster.jobs()[job["name"]][0])
    busy()
    g.wait()
    assert g.counts() == {"done": 1}
    assert len(entries(g.results)) == 1


@slurm
def test_small_selections_have_no_job_and_a_refused_one_stops_nothing(grid: Make) -> None:
    g = grid(0, slurm={"decode": SMALL})
    assert "decodes" not in g.submit()
    g.wait()
    assert jobs_of(g, "decode") == []
    h = grid(1, slurm={"decode": {"partition": "nowhere"}, "decode_from": 10}, name="other")
    (entry,) = entries(g.results)
    entry.rename(entry.with_name(".aside"))
    assert "are decoded by the jobs that train; no job for that alone" in " ".join(
        h.submit().split()
    )
    h.wait()
    assert h.counts() == {"done": 1}


@slurm
def test_bench_cancel_ends_it_and_resume_submits_it_again(
    grid: Make, busy: Callable[[], None]
) -> None:
    g = grid(0, slurm={"decode": SMALL, "decode_from": 10})
    g.submit()
    (line,) = g.status()["decoding"]
    assert re.fullmatch(
        r"the decoding of images: job \d+ waits in the queue \(\w+\); 0 of 50 images are decoded",
        line,
    )
    assert line in " ".join(g.bench("status").stdout.split())
    done = g.bench("cancel")
    assert done.returncode == 0, done.stderr
    (job,) = jobs_of(g, "decode")
    assert not any(job["name"] == name for name in g.cluster.jobs())
    assert g.status()["decoding"] == []
    busy()
    assert "decodes 50 images" in g.bench("resume").stdout
    g.wait()
    assert g.counts() == {"done": 1}
    assert len(jobs_of(g, "decode")) == 2
