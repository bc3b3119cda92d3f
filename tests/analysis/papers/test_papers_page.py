"""What `docs/papers.md` states and a program can check: runs, files, options, columns, ids."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from analysis.findings.evaluate import CLAIMS
from analysis.papers.ambiguities import AMBIGUITIES
from bench.commands.app import app
from bench.data.transforms.views import is_extra_column
from bench.grid.expand import Grid, load_grid
from bench.grid.yaml import read_yaml
from bench.methods import METHODS
from bench.results.records import COLUMNS
from bench.specs.data import Borrowed, DataSpec
from bench.specs.run import RunSpec, TrainSpec

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
SECTIONS = {
    "SFT": "soft-fine-tuning",
    "GE": "selective-joint",
    "LI": "multifaceted",
    "CHU": "best-practices",
}


@cache
def grid(name: str) -> Grid:
    return load_grid(ROOT / "grids" / "papers" / f"{name}.yaml")


def section(paper: str) -> str:
    return re.split(r"^## ", PAGE.split(f"\n## {paper}: ")[1], flags=re.M)[0]


def presets(name: str) -> set[str]:
    return set(read_yaml(ROOT / "grids" / "papers" / f"{name}.yaml").value["presets"])


SPANS = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))


@pytest.mark.parametrize("paper", list(SECTIONS))
def test_numbers_of_runs_are_those_of_the_grid(paper: str) -> None:
    stated = re.findall(r"`([\w-]+)`, (\d+) runs", section(paper))
    counts = {one.name: len(one.runs) for one in grid(SECTIONS[paper]).experiments}
    assert stated
    assert {name: int(n) for name, n in stated}.items() <= counts.items()
    for n, name in re.findall(r"= (\d+) runs \| `([\w-]+)`", section(paper)):
        assert int(n) == counts[name]


def test_lis_runs_and_pretrainings() -> None:
    runs: set[RunSpec] = set(grid("multifaceted").runs)
    sources = {p for run in runs for p in run.ancestors()} - runs
    other = {p for run in runs for p in run.ancestors() if p.data.identity() != run.data.identity()}
    assert f"some {round(len(runs | sources), -2)} runs of CaffeNet" in section("LI")
    assert f"of which {len(other)} are pre-trainings" in section("LI")


def test_files_and_folders_exist() -> None:
    named = [
        text for text in SPANS if re.fullmatch(r"(bench|analysis|grids|results)/[\w./-]+", text)
    ]
    named += re.findall(r"\]\((\.\./[\w./-]+)\)", PAGE)
    assert len(named) > 25
    for text in named:
        path = (ROOT / "docs" / text) if text.startswith("..") else ROOT / text
        assert path.exists(), text


def test_ids_are_those_of_the_registers() -> None:
    ambiguities = set(re.findall(r"\b(?:SFT|GE|LI|CHU)-A\d+|CROSS-\d+", PAGE))
    assert ambiguities <= {one.id for one in AMBIGUITIES}
    claims = set(re.findall(r"\b(?:SFT|GE|LI|CHU)-C\d+", PAGE))
    assert claims <= {claim.id for claim in CLAIMS}


@pytest.mark.parametrize("paper", list(SECTIONS))
def test_every_claim_has_runs_in_the_rehearsal_of_its_paper(paper: str, committed: Path) -> None:
    text = (committed / "papers" / f"{SECTIONS[paper]}-findings.txt").read_text()
    (line,) = re.findall(r"claims have no runs here: (.*)", text)
    assert [name for name in line.split(", ") if name.startswith(f"{paper}-")] == []


def commands(command: Any) -> dict[str, Any]:
    """The commands of a group; typer brings a click of its own."""
    return dict(getattr(command, "commands", {}))


@pytest.mark.parametrize("text", [t for t in SPANS if t.startswith("bench ")])
def test_commands_and_their_options_exist(text: str) -> None:
    words = text.split()[1:]
    command = commands(typer.main.get_command(app))[words[0]]
    if commands(command):
        command = commands(command)[words[1]]
    options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options, text


OPTIONS = {name: set(m.load(m.options).model_fields) for name, m in METHODS.items()}


def test_options_of_methods_exist() -> None:
    for text in SPANS:
        named = re.fullmatch(r"method: (\w+)|method: \{name: (\w+)(.*)\}", text)
        if named:
            method = named[1] or named[2]
            assert method in METHODS, text
            assert set(re.findall(r"(\w+):", named[3] or "")) <= OPTIONS[method], text
        if text.startswith("method."):
            assert text.removeprefix("method.") in set().union(*OPTIONS.values()), text


def test_options_of_training_and_of_selections_exist() -> None:
    for text in SPANS:
        if text.startswith("train."):
            assert text.removeprefix("train.") in TrainSpec.model_fields, text
        if text.startswith("target."):
            assert re.split(r"[:.=]", text)[1] in DataSpec.model_fields, text
        if named := re.fullmatch(r"borrow: \{(\w+): .*\}", text):
            assert named[1] in {*Borrowed.model_fields, "pool"}, text


def test_presets_and_single_words_are_known() -> None:
    """A word with an underscore or a hyphen is a column, an option, an experiment, a preset, …"""
    known = {c.name for c in COLUMNS} | set().union(*OPTIONS.values())
    known |= {*TrainSpec.model_fields, *DataSpec.model_fields, *METHODS}
    for name in SECTIONS.values():
        known |= presets(name) | {one.name for one in grid(name).experiments}
        known |= {f"box_{view}" for run in grid(name).runs for view in run.data.views}
    known |= {
        *("living_thing", "cloth_covering"),  # of WordNet
        *("near_far", "caffenet_ungrouped"),  # a recipe, a network
        *("tv_in1k", "iter_size"),  # of timm, of Caffe
        "average_precision",  # of the record
    }
    words = {text for text in SPANS if re.fullmatch(r"[a-z0-9]+([_-][a-z0-9]+)+", text)}
    words -= {"1e-2", *filter(is_extra_column, words)}  # columns of a file of boxes
    assert words <= known, words - known
