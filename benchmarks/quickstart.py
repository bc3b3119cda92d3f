"""The quickstart grid as a whole against scripts: `python -m benchmarks.run quickstart`, long.

Ours is `bench grid` in an empty results folder: images are drawn, sources trained once, extractions
made and leaderboards written. The peers train the same runs from folders of JPEG files that are
there already: one process, run after run, sources trained once; and a process for each run that
trains its source too, of which every eighth is timed. About a quarter of an hour on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bench.planning.workspace import open_session
from bench.runs.build import Context, Loader
from bench.specs.planned import PlannedRun
from bench.specs.run import RunSpec
from benchmarks.compare import Case, Pair
from benchmarks.limit import FLOAT32
from benchmarks.plain import train_plain, write_folder
from benchmarks.sharing import NAMES

GRID = Path(__file__).parents[1] / "grids" / "quickstart.yaml"
_EVERY = 8


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-quickstart-")


@cache
def _runs() -> tuple[PlannedRun, ...]:
    """The trainings that answer the grid's questions."""
    session = open_session(GRID, results=Path(_home().name) / "data", overrides=FLOAT32)
    return tuple(run for run in session.plan.runs.values() if run.role == "finetune")


@cache
def _load() -> Loader:
    return Loader(Context(results=str(Path(_home().name) / "data")))


def _job(spec: RunSpec) -> dict[str, Any]:
    """One training as `benchmarks.plain` takes it; its images are written where they are not."""
    text = f"{spec.data.model_dump_json()} {spec.seeds.draw}"
    folders = _folders()
    if text not in folders:
        folder = Path(_home().name) / f"images{len(folders)}"
        loaded = _load()(spec).loaded
        for name, rows in (("train", loaded.train), ("val", loaded.val), ("test", loaded.test)):
            if len(rows):
                write_folder(folder / name, loaded.images[rows], loaded.labels[rows])
        folders[text] = folder
    recipe = spec.train
    return {
        "folder": str(folders[text]),
        "network": spec.model.name,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "lr": recipe.lr,
        "evaluate_every": recipe.evaluate_every,
        "frozen": [NAMES[number - 1] for number in spec.layers.layers("F")],
    }


@cache
def _folders() -> dict[str, Path]:
    return {}


def _chain(run: PlannedRun) -> list[dict[str, Any]]:
    return [_job(spec) for spec in reversed([run.spec, *run.spec.ancestors()])]


def _ours() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-quickstart-") as results:
        command = [sys.executable, "-m", "bench", "grid", str(GRID), "--results", results]
        command += [word for setting in FLOAT32 for word in ("--set", setting)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _one_by_one() -> None:
    sources: dict[str, Any] = {}
    for run in _runs():
        state = None
        *before, own = _chain(run)
        for job in before:
            text = json.dumps(job)
            if text not in sources:
                sources[text] = _train(job, state)
            state = sources[text]
        _train(own, state)


def _train(job: dict[str, Any], start: Any) -> Any:
    given = dict(job)
    folder, network = Path(given.pop("folder")), given.pop("network")
    return train_plain(folder, network, start=start, **given)


def _scripts() -> None:
    for number, run in enumerate(_runs()[::_EVERY]):
        path = Path(_home().name) / f"job{number}.json"
        path.write_text(json.dumps(_chain(run)))
        subprocess.run([sys.executable, "-m", "benchmarks.plain", str(path)], check=True)


def _pair(peer: Callable[[], None], every: int = 1) -> Callable[[], Pair]:
    def prepare() -> Pair:
        for run in _runs():  # images are written, and not counted
            _chain(run)
        return Pair(_ours, peer, None, len(_runs()) / len(_runs()[::every]))

    return prepare


CASES = (
    Case(
        "the quickstart grid as a whole",
        "plain loop, run after run, sources trained once",
        5,
        _pair(_one_by_one),
        repeats=1,
        warm=False,
        note="once; ours draws its images and makes extractions too",
    ),
    Case(
        "the quickstart grid as a whole, sources trained by each",
        f"a script for each run that trains its source too, every {_EVERY}th timed",
        20,
        _pair(_scripts, _EVERY),
        repeats=1,
        warm=False,
        note="once; ours draws its images and makes extractions too",
    ),
)
