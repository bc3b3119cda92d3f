"""The four papers as grids: how many runs each table and figure is, and that all can be read."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from analysis.papers.ambiguities import AMBIGUITIES
from bench.grid.expand import Grid, load_grid
from bench.grid.yaml import read_yaml
from bench.planning.workspace import open_session
from bench.results.leaderboard import describe
from bench.specs.run import RunSpec

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grids" / "papers"
NAMES = ("soft-fine-tuning", "selective-joint", "multifaceted", "best-practices")
PRESETS = [
    (name, preset)
    for name in NAMES
    for preset in read_yaml(FOLDER / f"{name}.yaml").value["presets"]
]


@cache
def grid(name: str, *overrides: str) -> Grid:
    return load_grid(FOLDER / f"{name}.yaml", overrides=overrides)


def counts(name: str, *overrides: str) -> dict[str, int]:
    return {e.name: len(e.runs) for e in grid(name, *overrides).experiments}


def runs(name: str, experiment: str, *overrides: str) -> tuple[RunSpec, ...]:
    return next(e.runs for e in grid(name, *overrides).experiments if e.name == experiment)


def parents(name: str, *experiments: str) -> set[RunSpec]:
    """The trainings on other data that the runs of some experiments start from."""
    found = set()
    for experiment in experiments:
        for run in runs(name, experiment):
            for parent in run.ancestors():
                if parent.data.identity() != run.data.identity():
                    found.add(parent)
    return found


# --- counts of the trainings that the papers describe ---


def test_sft_is_22_trainings_three_svms_and_the_pretrained_row() -> None:
    assert counts("soft-fine-tuning") == {
        "table-2": 10,
        "table-3": 3,
        "table-4": 2,  # nine views: soft, and plain beside it
        "table-5": 5,
        "table-6": 6,
    }
    everything = grid("soft-fine-tuning").runs
    svms = [run for run in everything if run.method.name == "svm"]
    assert len(everything) - len(svms) == 22
    assert [run.model.name for run in svms] == [
        "mobilenetv2_100",
        "resnet50",
        "inception_v4",
        "resnet50",  # Table 5's row of the network as it is
    ]
    assert {p.data.dataset for p in parents("soft-fine-tuning", "table-5")} == {"vggface2"}


def test_ge_has_each_row_of_its_five_tables() -> None:
    assert counts("selective-joint") == {
        "table-1": 5,
        "table-2": 9,  # plain fine-tuning with 10 and with 20 images in a pass
        "table-3": 10,
        "fusion": 2,
        "table-4": 4 * 2 * 5,
        "table-5": 4,
        "k0": 5 * 3,
    }
    (pool,) = (run for run in runs("selective-joint", "table-5") if run.borrow_pooled)
    assert [borrowed.data.dataset for borrowed in pool.borrow] == ["imagenet", "places-205"]
    seeds = {run.seeds for run in runs("selective-joint", "table-4")}
    assert len(seeds) == 5
    full = runs("selective-joint", "table-2")[0]
    assert full.method.name == "selective"
    assert dict(full.method.options)["rounds"] == 5


def test_validation_images_as_training_images_take_no_further_steps() -> None:
    """The rate falls with iterations, so that another number of them would be another schedule."""
    for run in runs("selective-joint", "table-3"):
        images = 2040 if dict(run.data.options).get("val_in_train") else 1020
        assert run.train.epochs * images == 1500 * 1020


def test_li_has_each_part_of_its_section_4() -> None:
    assert counts("multifaceted") == {
        "figure-4": 6 * 5,  # 0.02 too, at which the text has no convergence
        "table-2": 5 * (5 + 1 + 1 + 1),  # five sources, scratch, SF-FT, all 1000 classes
        "table-3": 4 + 2 + 10,  # tuned, scratch, SVMs
        "figure-10": 5 * 8,
        "figure-12": 105,
        "figure-13": 14 + 2,  # with none frozen for reference
        "figure-14": 42,
    }


def test_li_trains_each_source_once_for_all_that_start_from_it() -> None:
    assert len(parents("multifaceted", "figure-4")) == 5
    assert len(parents("multifaceted", "table-2")) == 5 * 5 + 1
    near_and_far = parents("multifaceted", "table-3")
    assert len(near_and_far) == 4  # of dogs and of instruments
    others = parents("multifaceted", "figure-10", "figure-12", "figure-13", "figure-14")
    assert len(others) == 2
    assert others < near_and_far


def test_half_of_lis_figure_14_are_runs_of_figure_12() -> None:
    shared = set(runs("multifaceted", "figure-14")) & set(runs("multifaceted", "figure-12"))
    assert len(shared) == 21


def test_chu_is_138_and_30_runs_from_two_sources() -> None:
    assert counts("best-practices") == {"figure-3": 138, "yosinski": 30}
    splits = {(r.data.dataset, r.data.images_per_class) for r in runs("best-practices", "figure-3")}
    assert len(splits) == 23
    assert len(parents("best-practices", "figure-3", "yosinski")) == 2


def test_chu_with_four_depths_is_the_40_of_its_text() -> None:
    assert counts("best-practices", "preset=depths-1-3-5-7") == {"figure-3": 138, "yosinski": 40}


def test_chu_three_times() -> None:
    wanted = {"figure-3": 3 * 138, "yosinski": 3 * 30}
    assert counts("best-practices", "preset=three-seeds") == wanted


def test_each_run_of_an_experiment_is_another() -> None:
    for name in NAMES:
        for experiment in grid(name).experiments:
            assert len(set(experiment.runs)) == len(experiment.runs), experiment.name


# --- what the files say ---


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_expands(name: str, preset: str) -> None:
    found = counts(name, f"preset={preset}")
    own = counts(name)
    assert set(found) <= set(own)
    if preset == "miniature":
        assert set(found) == set(own)
        assert sum(found.values()) < 410  # three draws of most
        data = {run.data.dataset for run in grid(name, "preset=miniature").runs}
        assert data <= {"wordnet-shapes", "digits"}


@pytest.mark.parametrize("name", NAMES)
def test_the_ambiguities_that_a_file_names_are_in_the_register(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    register = {a.id for a in AMBIGUITIES}
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    named = set(re.findall(r"\b(?:SFT|GE|LI|CHU)-A\d+|\bCROSS-\d+", comments))
    assert named
    assert named <= register
    own = {"soft-fine-tuning": "SFT", "selective-joint": "GE", "multifaceted": "LI"}
    assert any(i.startswith(f"{own.get(name, 'CHU')}-A") for i in named)


def test_the_grids_with_a_measured_table_ask_for_it() -> None:
    measured = {
        "best-practices": "distances",
        "multifaceted": "filters",
        "soft-fine-tuning": "distances",  # SFT Fig. 1
    }
    for name, kind in measured.items():
        for overrides in ((), ("preset=miniature",)):
            assert [m.name for m in grid(name, *overrides).measures] == [kind]
    pairs = {part.task for part in grid("best-practices").measures[0].parts}
    assert len(pairs) == 7  # CHU Table 2
    nets = {part.network for part in grid("multifaceted").measures[0].parts}
    assert nets == {"near", "far", "FT-near", "FT-far", "self"}  # LI Fig. 9


_DRY = """
import sys
from typer.testing import CliRunner
from bench.commands.app import app
from bench.planning.workspace import Session
Session.try_networks = lambda self: None  # in another process: tests/models/test_trial.py
ran = CliRunner().invoke(app, ["grid", {path!r}, "--dry-run", "--results", {results!r}])
assert ran.exit_code == 0, ran.output
print(ran.output)
heavy = {{"torch", "timm", "pandas", "nltk"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_needs_no_data_and_no_torch(name: str, tmp_path: Path) -> None:
    code = _DRY.format(path=str(FOLDER / f"{name}.yaml"), results=str(tmp_path / "results"))
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "", "COLUMNS": "160"},
    )
    assert ran.returncode == 0, ran.stderr
    for experiment, count in counts(name).items():
        assert re.search(rf"^{experiment} .* {count} +0 +{count} ", ran.stdout, re.M), ran.stdout
    assert "data not found" in ran.stdout


def test_ten_runs_of_ge_table_3_are_ten_conditions(tmp_path: Path) -> None:
    """A column list used to make eight of them."""
    path = ROOT / "grids/papers/selective-joint.yaml"
    session = open_session(path, results=tmp_path, data_root=None, allow_missing=True)
    rows = [r for r in describe(session.plan).values() if "table-3" in r["experiments"].split(";")]
    assert len(rows) == len({row["condition_id"] for row in rows}) == 10
    assert len({str({k: v for k, v in r.items() if not k.endswith("_id")}) for r in rows}) == 10
