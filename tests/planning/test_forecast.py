"""Forecasts: from measured steps, corrected by finished runs; a line through measured passes."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import bench.commands.grid as grid_command
from bench.commands._slurm import _print_precision
from bench.commands.app import app
from bench.core import processor
from bench.core.child_process import ask
from bench.grid.expand import load_grid
from bench.launch.devices import Machine, Placement
from bench.launch.local.run import gpus_of, run_here
from bench.launch.slurm.settings import SlurmSettings
from bench.planning import forecast
from bench.planning.forecast import Forecast, Gpus, StepTimes, measure
from bench.planning.plan import make_plan
from bench.planning.workspace import open_session
from bench.results.states import Reading
from bench.specs.planned import DataFacts, PlannedRun
from bench.specs.run import RunSpec

GRID = """\
defaults:
  target: {dataset: digits, classes: {recipe: categories, side: target, target_n: 4},
           images_per_class: 12, val_per_class: 5, test_per_class: 10}
  model: narrow8_32
  train: {batch_size: 16, evaluate_every: 5, AUGMENT}
sources: {other: {classes: {side: source, n: 5}}}
experiments:
  tuned: {axes: {train.epochs: [5, 50]}, set: {source: other, pattern: tune}}
  frozen: {set: {source: other, pattern: freeze, train.epochs: 5}}
  joint: {set: {source: other, pattern: tune, train.epochs: 5, borrow: parent, method: joint}}
"""
SHARED = """\
defaults:
  target: {dataset: digits, images_per_class: 3, val_per_class: 2, test_per_class: 3}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 1, batch_size: 15}
experiments:
  both: {axes: {train.lr: [0.01, 0.02]}}
"""
FACTS = DataFacts("images", ("a", "b", "c", "d"), "digits", 48, 60, validation_images=20)


def _runs(folder: Path, augment: str = "augment: none", grid: str = GRID) -> dict[str, PlannedRun]:
    """By experiment and number of epochs."""
    path = folder / "grid.yaml"
    path.write_text(grid.replace("AUGMENT", augment))

    def facts(spec: RunSpec) -> DataFacts:
        other = replace(FACTS, fingerprint="others", classes=("e", "f"), train_images=24)
        own = other if spec.parent is None else FACTS
        return replace(own, borrowed=tuple(other for _ in spec.borrow))

    plan = make_plan(load_grid(path), facts)
    return {
        f"{run.experiments[0] if run.experiments else 'source'} {run.spec.train.epochs}": run
        for run in plan.runs.values()
    }


def _times(device: str = "cpu", **more: object) -> StepTimes:
    """4 ms and 1 ms an image of a training pass; 0.2 ms an image of a forward pass."""
    points = [[8, 0.012], [32, 0.036]]
    given = {"train_s": points, "forward_s": [[100, 0.02]], **more}
    return StepTimes(device=device, setup_s=0.5, **given)  # type: ignore[arg-type]


def _forecast(runs: dict[str, PlannedRun], device: str = "cpu", **more: object) -> Forecast:
    own = processor.name() if device == "cpu of this machine" else device
    return Forecast({forecast._own(run).network: _times(own, **more) for run in runs.values()})


def test_a_tuned_run_is_its_passes_its_evaluations_and_its_making(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    found = _forecast(runs).seconds(runs["tuned 5"])
    passes = 5 * 3 * (0.004 + 16 * 0.001)  # 48 images in 3 passes of 16
    evaluated = (60 + 1 * 4 * 5) * 0.0002  # the test images, and once the 20 for validation
    assert found == pytest.approx(passes + evaluated + 0.5 + forecast._RUN_S)


def test_borrowed_images_stand_beside_the_own_in_each_pass(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    found = _forecast(runs)
    alone, beside = (found._work(runs[name]) or 0.0 for name in ("tuned 5", "joint 5"))
    assert beside - alone == pytest.approx(5 * 3 * 16 * 0.001)


def test_kept_activations_make_epochs_cheap_where_images_repeat(tmp_path: Path) -> None:
    cheap = [[8, 0.001], [32, 0.001]]
    repeated = _runs(tmp_path)
    found = _forecast(repeated, cached_s=cheap)._work(repeated["frozen 5"])
    once = (48 + 20 + 60) * 0.0002
    assert found == pytest.approx(5 * 3 * 0.001 + once)
    cropped = _runs(tmp_path, "augment: crop_flip")
    again = _forecast(cropped, cached_s=cheap)._work(cropped["frozen 5"])
    assert again == pytest.approx(5 * 3 * 0.02 + (60 + 20) * 0.0002)
    frozen = GRID.replace("pattern: freeze, ", "pattern: freeze, train.cached_views: VIEWS, ")
    for views, shown in ((3, 3), (9, 5)):
        fixed = _runs(tmp_path, "augment: crop_flip", frozen.replace("VIEWS", str(views)))
        found = _forecast(fixed, cached_s=cheap)._work(fixed["frozen 5"])
        assert found == pytest.approx(5 * 3 * 0.001 + (shown * 48 + 20 + 60) * 0.0002)


def test_it_is_unknown_without_the_images_or_the_measurement(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    missing = replace(runs["tuned 5"], facts=replace(FACTS, missing=True))
    assert _forecast(runs).seconds(missing) is None
    assert Forecast({}).seconds(runs["tuned 5"]) is None


def test_all_runs_are_shared_out_but_no_shorter_than_their_longest_chain(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    every = list(runs.values())
    found = _forecast(runs)
    cost = {name: found.seconds(run) or 0.0 for name, run in runs.items()}
    (source,) = (value for name, value in cost.items() if name.startswith("source"))
    start = forecast._WORKER_S
    assert found.of_all(every, 1) == pytest.approx(start + sum(cost.values()))
    assert found.of_all(every, 100) == pytest.approx(start + source + cost["tuned 50"])


def test_finished_runs_of_this_machine_correct_it(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    plain = _forecast(runs)
    work = plain._work(runs["tuned 5"]) or 0.0

    def record(**row: object) -> Reading:
        return Reading({"row": {"device": "cpu", "threads": 1, "seconds": 3 * work, **row}})

    def after(reading: Reading) -> float:
        found = plain.corrected([(runs["tuned 5"], reading)], threads=1)
        return (found.seconds(runs["tuned 50"]) or 0.0) - 0.5 - forecast._RUN_S

    longer = plain._work(runs["tuned 50"]) or 0.0
    assert after(record()) == pytest.approx(3 * longer)
    for elsewhere in ({"device": "gpu"}, {"threads": 2}, {"seconds": None}):
        assert after(record(**elsewhere)) == pytest.approx(longer)
    assert after(Reading(None)) == pytest.approx(longer)


def test_a_cluster_is_forecast_by_what_finished_runs_took_there(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    measured = _forecast(runs, "cpu of this machine")
    work = measured._work(runs["tuned 5"]) or 0.0
    row = {"device": "another", "threads": 8, "seconds": 3 * work}
    done = [(runs["tuned 5"], Reading({"row": row})), (runs["joint 5"], Reading(None))]

    def seconds(found: Forecast, name: str) -> float | None:
        cost = found.seconds(runs[name])
        return None if cost is None else cost - 0.5 - forecast._RUN_S

    for name in ("tuned 50", "frozen 5"):  # of the network that has run, and of its model
        longer = pytest.approx(3 * (measured._work(runs[name]) or 0.0))
        for on_gpus in (True, False):
            assert seconds(measured.elsewhere(done, on_gpus), name) == longer
        plain = pytest.approx(measured._work(runs[name]))
        assert seconds(measured.elsewhere([], on_gpus=False), name) == plain
        assert seconds(measured.elsewhere([], on_gpus=True), name) is None
    of_gpu = _forecast(runs, "a GPU of this machine")
    assert seconds(of_gpu.elsewhere([], on_gpus=True), "tuned 50") is not None
    assert seconds(of_gpu.elsewhere([], on_gpus=False), "tuned 50") is None


def test_a_step_is_measured_once_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(forecast, "_measured_here", {})
    runs = _runs(tmp_path)
    found = measure(runs.values(), device="cpu")
    file = tmp_path / "cache" / "finetuning-factors" / "speeds.json"
    assert len(json.loads(file.read_text())) == len(found.times) == 3  # source, tuned, frozen
    cost = {name: found.seconds(run) or 0.0 for name, run in runs.items()}
    assert all(cost.values())
    assert cost["tuned 5"] < cost["tuned 50"]
    assert (found._work(runs["frozen 5"]) or 0) < (found._work(runs["tuned 5"]) or 0)
    written = file.read_bytes()
    assert measure(runs.values(), device="cpu").times == found.times
    assert file.read_bytes() == written
    # Passes of 4 images are measured anew, as those of 16 and 32 say little about them.
    spec = runs["tuned 5"].spec
    train = spec.train.model_copy(update={"batch_size": 4})
    smaller = replace(runs["tuned 5"], spec=spec.model_copy(update={"train": train}))
    (few,) = measure([smaller], device="cpu").times.values()
    both = measure([runs["tuned 5"], smaller], device="cpu").times
    assert list(few.asked) == [4, 32]
    assert list(both.values()) == [few]
    file.write_text("torn")
    assert measure([runs["tuned 5"]], device="cpu").times.keys() <= found.times.keys()


def test_measured_passes_speak_of_those_near_them() -> None:
    times = _times(asked=[10, 60])
    assert times.holds_for([10, 60])
    assert times.holds_for([8, 75])
    assert not times.holds_for([7, 60])
    assert not times.holds_for([10, 76])
    assert not _times().holds_for([8])  # of an earlier version


def test_a_network_that_cannot_be_trained_is_unknown_and_no_error() -> None:
    network = {"model": {"name": "narrow8_32"}, "image_size": 3, "frozen": 0, "train": {}}
    good = network | {"image_size": 32}
    asked = [one | {"images": [4]} for one in (network, good)]
    request = {"threads": 1, "device": "cpu", "networks": asked}
    bad, other = ask("bench.planning.step_times", request)
    assert bad is None
    assert other["train_s"][0][0] == 4
    assert "emulated" not in other  # float32 never is


def _lines(folder: Path, *options: str) -> list[str]:
    """What `bench grid` prints of a dry run."""
    asked = ["grid", str(folder / "grid.yaml"), "--dry-run", "--results", str(folder / "results")]
    done = CliRunner().invoke(app, [*asked, *options], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


@pytest.mark.parametrize("options", [(), ("--budget", "1h"), ("--decide", "a question")])
def test_an_emulated_precision_is_printed_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    for way in ("_race", "_decide", "_print_plan"):
        monkeypatch.setattr(grid_command, way, lambda *_: print("what runs"))
    runs = _runs(tmp_path)
    assert _forecast(runs).emulated() == {}
    assert _forecast(runs, emulated=8.4).emulated() == {"narrow8_32": 8.4}

    grid = (tmp_path / "grid.yaml").read_text().replace("augment: none", "precision: bfloat16")
    (tmp_path / "grid.yaml").write_text(grid)
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    measured = asdict(_times(emulated=8.4, asked=[1, 100]))
    keys = {forecast._key(forecast._own(r).network, 1, "auto") for r in session.wanted}
    monkeypatch.setattr(forecast, "_measured_here", dict.fromkeys(keys, measured))
    lines = _lines(tmp_path, *options)
    said = (
        "precision: this device has no bfloat16; a step of narrow8_32 takes 8.4 times as long as "
        "in float32, as measured here; precision: auto avoids that"
    )
    assert lines[-2:] == [said, "what runs"]
    assert lines.count(said) == 1


@pytest.mark.parametrize("native", [True, False])
def test_an_emulated_precision_is_said_where_it_could_not_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    _runs(tmp_path, "precision: bfloat16")
    monkeypatch.setattr(grid_command, "_print_plan", lambda *_: None)
    monkeypatch.setattr(forecast, "_ask", lambda images, *_: [None] * len(images))
    monkeypatch.setattr(processor, "has_bfloat16", lambda: native)
    said = (
        "precision: this device has no bfloat16; a step of narrow8_32 takes several times as long "
        "as in float32; precision: auto avoids that"
    )
    assert (said in _lines(tmp_path, "--device", "cpu")) == (not native)


@pytest.mark.parametrize(
    ("precision", "settings", "race", "kinds"),
    [
        ("bfloat16", {}, False, ["fine-tuning", "source"]),
        ("bfloat16", {}, True, ["fine-tuning"]),
        ("bfloat16", {"gpus": 1}, False, []),
        ("bfloat16", {"gpus": 1, "device": "cpu"}, False, ["fine-tuning", "source"]),
        ("bfloat16", {"finetune": {"gpus": 1}}, False, ["source"]),
        ("auto", {}, False, []),
        ("float32", {}, False, []),
    ],
)
def test_a_submission_without_gpus_says_that_bfloat16_is_asked_for(
    tmp_path: Path, precision: str, settings: dict[str, object], race: bool, kinds: list[str]
) -> None:
    recipe = f"  pretrain: {{epochs: 1, batch_size: 16, precision: {precision}}}\nsources:"
    _runs(tmp_path, f"precision: {precision}", GRID.replace("sources:", recipe))
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    out = io.StringIO()
    found = SlurmSettings(**settings)  # type: ignore[arg-type]
    _print_precision(session, found, Console(file=out, width=300), race)
    lines = out.getvalue().splitlines()
    assert [line.split(", and ")[1].split(" jobs ask for no GPU")[0] for line in lines] == kinds
    assert all("; precision: auto takes what a node computes natively" in line for line in lines)


def _done(found: Forecast, run: PlannedRun, times: float, **record: object) -> Reading:
    """A run that took so many times as long as is forecast."""
    row = {"device": "gpu", "threads": 1, "seconds": times * (found._work(run) or 0.0)}
    return Reading({"row": row | record, "notes": {"workers_on_gpu": record.get("shared_by", 1)}})


def test_gpus_that_train_a_source_together_share_its_steps(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    (source,) = (run for name, run in runs.items() if name.startswith("source"))
    tuned = runs["tuned 50"]
    alone = _forecast(runs, "gpu")
    team = replace(alone, gpus=Gpus(cards=8, team=4))
    assert team._work(source) == pytest.approx((alone._work(source) or 0.0) / 4)
    assert team._work(tuned) == alone._work(tuned)
    # Two such sources have all eight GPUs, a third has to wait.
    start, cost = forecast._WORKER_S, team.seconds(source) or 0.0
    others = [replace(source, id=f"source {n}") for n in range(3)]
    assert team.of_all(others[:2], 8) == pytest.approx(start + cost)
    assert team.of_all(others, 8) == pytest.approx(start + cost * 3 * 4 / 8)


def test_a_finished_run_of_several_gpus_corrects_those_of_several(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    (source,) = (run for name, run in runs.items() if name.startswith("source"))
    team = replace(_forecast(runs, "gpu"), gpus=Gpus(cards=4, team=4))
    made = 0.5 + forecast._RUN_S

    def after(device: str) -> float:
        found = team.corrected([(source, _done(team, source, 3, device=device))], threads=1)
        assert found.seconds(runs["tuned 5"]) == team.seconds(runs["tuned 5"])
        return (found.seconds(source) or 0.0) - made

    work = pytest.approx(team._work(source))
    assert after("4 x gpu") == pytest.approx(3 * (team._work(source) or 0.0))
    for other in ("gpu", "2 x gpu", "4 x another"):
        assert after(other) == work


def test_a_cluster_keeps_runs_of_several_gpus_apart_from_runs_of_one(tmp_path: Path) -> None:
    """Of whichever has finished, and of the other only where none of its own has."""
    runs = _runs(tmp_path)
    (source,) = (run for name, run in runs.items() if name.startswith("source"))
    tuned = runs["tuned 50"]
    here = _forecast(runs, "cpu of this machine")
    gpus = Gpus(team=4)
    work, own = here._work(source) or 0.0, here._work(tuned) or 0.0
    of_team = source, _done(here, source, 0.5, device="4 x H100")  # twice its even share
    of_one = runs["tuned 5"], _done(here, runs["tuned 5"], 0.1, device="H100")

    def seconds(done: list[tuple[PlannedRun, Reading]]) -> list[float | None]:
        found = here.elsewhere(done, True, gpus)
        costs = [found.seconds(run) for run in (source, tuned)]
        return [None if cost is None else cost - 0.5 - forecast._RUN_S for cost in costs]

    assert seconds([]) == [None, None]
    assert seconds([of_team, of_one]) == pytest.approx([0.5 * work, 0.1 * own])
    assert seconds([of_team]) == pytest.approx([0.5 * work, 2 * own])
    assert seconds([of_one]) == pytest.approx([0.1 * work / 4, 0.1 * own])
    of_two = source, _done(here, source, 0.3, device="2 x H100")
    assert seconds([of_two, of_one])[0] == pytest.approx(0.6 * work / 4)


def test_workers_that_share_a_gpu_count_as_one_until_a_run_has_shared_it(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    tuned = [replace(runs["tuned 50"], id=str(number)) for number in range(80)]
    shared = replace(_forecast(runs, "gpu"), gpus=Gpus(cards=2, sharing=4))
    start, made = forecast._WORKER_S, 0.5 + forecast._RUN_S
    work = shared._work(tuned[0]) or 0.0
    alone = start + 80 * (work + made) / 2
    assert shared.of_all(tuned, 8) == pytest.approx(alone)
    lone = (tuned[0], _done(shared, tuned[0], 1))
    four = (tuned[0], _done(shared, tuned[0], 1.2, shared_by=4))
    assert shared.corrected([lone], 1).of_all(tuned, 8) == pytest.approx(alone)
    for done in ([four], [lone, lone, four]):  # only those that shared it as it is shared now
        found = shared.corrected(done, 1).of_all(tuned, 8)
        assert found == pytest.approx(start + 80 * (1.2 * work + made) / 8)


def test_a_record_says_how_many_workers_shared_its_gpu(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(SHARED)
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    where = Placement(2, ("3",))  # which the workers do not look at: they train on the CPU
    assert gpus_of(where) == Gpus(cards=1, sharing=2)
    run_here(session, Console(quiet=True), Machine("cpu"), where, retry_failed=False)
    readings = session.records.read().values()
    assert {r.record["notes"]["workers_on_gpu"] for r in readings if r.record} == {2}
    assert all(reading.record for reading in readings)


def test_what_was_measured_without_a_gpu_is_not_that_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, nodes = tmp_path / "nvidia", tmp_path / "dev"
    monkeypatch.setattr(forecast, "_DRIVER", driver)
    monkeypatch.setattr(forecast, "_DEVICES", nodes)
    seen = [forecast._key("network", 1, "auto")]
    on_cpu = forecast._key("network", 1, "cpu")

    def changed() -> bool:
        seen.append(forecast._key("network", 1, "auto"))
        assert forecast._key("network", 1, "cpu") == on_cpu
        assert forecast._key("network", 1, "auto") == seen[-1]
        return seen[-1] not in seen[:-1]

    assert not changed()
    nodes.mkdir()
    (nodes / "nvidia0").touch()
    assert changed(), "a GPU is let into a container"
    card = driver / "gpus" / "0000:01:00.0" / "information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA H100\nIRQ: 7\n")
    assert changed()
    card.write_text("Model: \t\t NVIDIA H100\nIRQ: 8\n")
    assert not changed()
    card.write_text("Model: \t\t NVIDIA A100\nIRQ: 8\n")
    assert changed(), "another GPU"
    (driver / "version").write_text("NVRM version: 570.1\nGCC version: 12\n")
    assert changed(), "another driver"
