"""Each id of a committed leaderboard is found again by planning its grid, with its condition."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def _script() -> ModuleType:
    path = ROOT / "scripts" / "rewrite_leaderboards.py"
    spec = importlib.util.spec_from_file_location("rewrite_leaderboards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder, so that an archive that two grids name is opened once."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", list(SCRIPT.COMMITTED))
def test_a_committed_leaderboard_is_what_its_grid_plans(
    name: str, committed: Path, results: Path
) -> None:
    if "tiny-imagenet" in name and not (DATA / "tiny-imagenet-200.tar.gz").is_file():
        pytest.skip("needs Tiny ImageNet below ../shared/data")
    path = committed / Path(name).relative_to("results")
    board, aggregated = SCRIPT.rewritten(name, DATA, path, results)
    assert board == path.read_text()
    assert aggregated == path.with_name(f"{path.stem}-aggregated.csv").read_text()
    assert "condition_id" in board.splitlines()[0]


def test_a_leaderboard_that_lacks_a_run_is_refused(committed: Path, tmp_path: Path) -> None:
    lines = (committed / "borrowing.csv").read_text().splitlines(keepends=True)
    (tmp_path / "borrowing.csv").write_text("".join(lines[:-1]))
    with pytest.raises(SystemExit, match=r"0 runs are not planned .*, 1 are new"):
        SCRIPT.rewritten("results/borrowing.csv", None, tmp_path / "borrowing.csv", tmp_path)
