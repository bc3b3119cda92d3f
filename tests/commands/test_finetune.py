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


@pytest.mark.parametrize(
    ("path", "way"),
    [
        (
            "brids",
            "check the path: it is looked for in the present folder, then below --data-root FOLDER "
            "or the environment variable BENCH_DATA",
        ),
        ("/brids", "check the path"),
    ],
)
def test_who_gives_the_place_of_a_data_set_is_not_asked_for_it(
    here: Path, path: str, way: str
) -> None:
    message = error_of("data", "check", "folder", path)
    assert message.startswith(f"data set 'folder' was not found: {path} does not exist\n  expected")
    assert message.endswith(f"or a .tar or .tar.gz of it; {way}")
    assert "root: in the grid" in error_of("data", "check", "cub-200-2011")
