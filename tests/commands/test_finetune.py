"""What `bench finetune` is given: a path that leads nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError

KINDS = (
    "give a folder with a folder of images per class, an archive of it, or a CSV with the columns "
    "path and label"
)


def error_of(*arguments: str) -> str:
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, BenchError)
    return str(error)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    for name in ("my birds", "fish"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_path_that_leads_nowhere_is_named_as_it_was_given(here: Path) -> None:
    assert error_of("finetune", "my brids") == (
        f"there are no images: 'my brids' does not exist\n  {here} has my birds, fish; {KINDS}"
    )
    assert error_of("finetune", "no/birds") == (
        "there are no images: 'no/birds' does not exist\n"
        f"  {here}/no does not exist either; {KINDS}"
    )
    assert not (here / "results").exists()


def test_who_gives_the_place_of_a_data_set_is_not_asked_for_it(here: Path) -> None:
    assert error_of("data", "check", "folder", "brids") == (
        "data set 'folder' was not found: brids does not exist\n"
        "  check the path 'brids': one that does not begin with / is looked for in the present "
        "folder, then below --data-root FOLDER or the environment variable BENCH_DATA; bench data "
        "list folder shows how the files lie"
    )
    assert "root: in the grid" in error_of("data", "check", "cub-200-2011")
    (here / "notes.txt").write_text("no images")
    wrong = error_of("finetune", "notes.txt")
    assert wrong.startswith(
        f"data set 'folder' was not found: {here}/notes.txt is a file of another"
    )
    assert wrong.endswith("or a .tar or .tar.gz of it; check the path")
