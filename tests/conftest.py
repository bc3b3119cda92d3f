"""What all tests share: committed leaderboards, optional material, one thread for everybody."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from bench.planning.workspace import Session

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Steps that forecasts measure are remembered from test to test, and not in the user's own folder.
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"bench-tests-{os.getuid()}")
os.environ["MATPLOTLIBRC"] = os.devnull  # figures are tested without the user's own settings
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


ROOT = Path(__file__).parents[1]
EVIDENCE = (
    "README.md",
    "claims.csv",
    "advice.csv",
    "designed.csv",
    "near-far.csv",
    "near-far-distances.csv",
    "layers.csv",
)
LEADERBOARDS = (
    "borrowing",
    "borrowing-tiny-imagenet",
    "tiny-imagenet",
    "papers/best-practices",
    "papers/multifaceted",
    "papers/selective-joint",
    "papers/soft-fine-tuning",
)
LONGEST = (
    "commands/test_grid.py",
    "test_calibration.py",
    "race/test_race.py",
    "commands/test_grid_own_images.py",
    "runs/test_distributed.py",
    "hostile/test_hostile.py",
    "launch/test_devices.py",
    "analysis/findings/test_findings.py",
    "models/test_trial.py",
    "commands/test_decide.py",
)
"""Files that take half a minute or so, longest first: begun last, one would end alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in the order in which they were found."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the committed leaderboards and findings alone. Tests only read it.

    In `results/` itself somebody may work: the demo adds a leaderboard, and a grid that is run
    again writes a committed one anew.
    """
    folder = tmp_path_factory.mktemp("committed")
    (folder / "papers").mkdir()
    (folder / "evidence").mkdir()
    for name in EVIDENCE:
        (folder / "evidence" / name).write_bytes(_as_committed(f"results/evidence/{name}"))
    for name in LEADERBOARDS:
        for file in (f"{name}.csv", f"{name}-aggregated.csv"):
            (folder / file).write_bytes(_as_committed(f"results/{file}"))
        if name.startswith("papers/"):
            beside = {
                "papers/best-practices": ["distances.csv"],
                "papers/multifaceted": ["sensitivities.csv"],
                "papers/soft-fine-tuning": ["distances.csv"],
            }
            for kind in ("findings.txt", *beside.get(name, [])):
                (folder / f"{name}-{kind}").write_bytes(_as_committed(f"results/{name}-{kind}"))
    return folder


@pytest.fixture(scope="session")
def run_here() -> Callable[[Path, Path], Session]:
    """Runs a grid in this process as a worker does, which saves starting two processes.

    The leaderboard is not written.
    """

    def run(grid: Path, results: Path) -> Session:
        from bench.launch.devices import Machine, context_of
        from bench.planning.workspace import open_session
        from bench.runs.build import Context
        from bench.runs.execute import execute_batch
        from bench.training.process import set_threads

        set_threads(1)
        session = open_session(grid, results=results)
        context = Context(**context_of(session, Machine("cpu")))
        for one in session.plan.runs.values():
            batch = [(one.id, one.spec)]
            execute_batch(batch, context, report=lambda _: None, should_stop=lambda: False)
        assert set(session.states().values()) <= {"done", "diverged"}
        return open_session(grid, results=results)

    return run


def _as_committed(path: str) -> bytes:
    """As it was last staged with `git add`; as it lies there in a copy that git does not know."""
    try:
        shown = subprocess.run(["git", "show", f":./{path}"], cwd=ROOT, capture_output=True)
    except FileNotFoundError:  # git is not installed
        return (ROOT / path).read_bytes()
    return shown.stdout if shown.returncode == 0 else (ROOT / path).read_bytes()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of large material that is not in the repository; skips where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("BENCH_TEST_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set BENCH_TEST_SHARED")
    return folder
